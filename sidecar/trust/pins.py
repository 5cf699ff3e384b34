"""Which publisher an adapter's name in a room belongs to, pinned at first use, and names that look like it (T10, T14)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Protocol

from sidecar.catalogue.rows import PinRow

if TYPE_CHECKING:
    from collections.abc import Iterable

_SEPARATORS = re.compile(r"[-_.]+")
_LOOKS = (("rn", "m"), ("vv", "w"), ("cl", "d"))
_DIGITS = str.maketrans("01i528", "ollszb")


class PinStore(Protocol):
    """Where pins are kept; the journal is one."""

    def pins(self) -> list[PinRow]: ...

    def save_pin(self, row: PinRow) -> None: ...


class Pins:
    """All pins, saved before they count. A name belongs to whom it was first installed from, until that is undone."""

    def __init__(self, store: PinStore) -> None:
        self._store = store
        self._rows: dict[tuple[bytes, str], PinRow] = {}
        self._by_look: dict[tuple[bytes, str], list[PinRow]] = {}
        self.load()

    def load(self) -> None:
        """Read what is kept, anew."""
        self._rows.clear()
        self._by_look.clear()
        for row in self._store.pins():
            self._add(row)

    def pin(self, room_ids: Iterable[bytes], name: str, key: bytes, now: float) -> None:
        """Tie a name in some rooms to a publisher, where nobody has it yet."""
        for room_id in room_ids:
            if (room_id, name.lower()) not in self._rows:
                row = PinRow(room_id, name.lower(), key, now)
                self._store.save_pin(row)
                self._add(row)

    def holder(self, room_ids: Iterable[bytes], name: str) -> bytes | None:
        """The publisher a name belongs to in the first of the rooms that knows it."""
        found = (self._rows.get((room_id, name.lower())) for room_id in room_ids)
        return next((row.key for row in found if row is not None), None)

    def lookalike(self, room_ids: Iterable[bytes], name: str, key: bytes) -> PinRow | None:
        """A pinned name of another publisher that a reader could take this one for."""
        for room_id in room_ids:
            for row in self._by_look.get((room_id, look(name)), ()):
                if row.key != key and row.name != name.lower():
                    return row
        return None

    def _add(self, row: PinRow) -> None:
        self._rows[row.room_id, row.name] = row
        self._by_look.setdefault((row.room_id, look(row.name)), []).append(row)


def look(name: str) -> str:
    """What is left of a name when letters that look alike are one, and separators are not looked at."""
    text = _SEPARATORS.sub("", name.lower())
    for pair, letter in _LOOKS:
        text = text.replace(pair, letter)
    return text.translate(_DIGITS)
