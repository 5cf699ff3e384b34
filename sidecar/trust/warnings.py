"""What a user should know about an offer before taking it: whose name it bears, and whose it resembles."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.catalogue.rows import Standing

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sidecar.catalogue.entry import SignedEntry

    from .pins import Pins


def key_changed(signed: SignedEntry, room_ids: Iterable[bytes], pins: Pins, standing: Standing) -> str | None:
    """The alarm of T14: a name that belongs to one key is offered under another, whom the user does not trust."""
    holder = pins.holder(room_ids, signed.name)
    if holder is None or holder == signed.publisher or standing is Standing.TRUSTED:
        return None
    return (
        f"{signed.name} was installed from publisher {holder.hex()[:12]} before; this one is signed by another key, "
        f"{signed.publisher.hex()[:12]}."
    )


def looks_alike(signed: SignedEntry, room_ids: Iterable[bytes], pins: Pins, standing: Standing) -> str | None:
    """The warning of T10: a stranger's name that can be taken for one the user knows."""
    row = pins.lookalike(room_ids, signed.name, signed.publisher)
    if row is None or standing is Standing.TRUSTED:
        return None
    return f"{signed.name} looks like {row.name} of publisher {row.key.hex()[:12]}, and is by somebody else."


def warnings_about(
    signed: SignedEntry, room_ids: Iterable[bytes], pins: Pins, standing: Standing, *, own: bool
) -> tuple[str, ...]:
    """Everything to warn of."""
    if own:
        return ()
    rooms = tuple(room_ids)
    found = (check(signed, rooms, pins, standing) for check in (key_changed, looks_alike))
    return tuple(text for text in found if text is not None)
