"""What may be shared and what may be installed. Pure functions of facts: no clock, no I/O."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from sidecar.catalogue.rows import NOBODY, Standing

if TYPE_CHECKING:
    from sidecar.catalogue.entry import SignedEntry


class Enforcement(Enum):
    """How much trust in a publisher an install needs."""

    OFF = "off"
    WARN = "warn"
    """Unknown publishers install, with a warning."""
    ENFORCE = "enforce"
    """Only publishers the user trusts."""


class Level(Enum):
    """How a decision is shown."""

    OK = "ok"
    WARN = "warn"
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether something may be done, and the sentence that says why."""

    ok: bool
    reason: str
    level: Level


@dataclass(frozen=True, slots=True)
class ShareFacts:
    """What is known of a local adapter somebody or a rule wants to share."""

    name: str
    digest: str
    """`sha256:<hex>` of the adapter blob."""
    received_from: bytes | None
    """Publisher of the entry it was installed from, None if it did not come through us, `NOBODY` if it came unsigned."""
    asked: bool
    """Whether the user named it, rather than a standing rule that matched it."""


def may_share(facts: ShareFacts, own_key: bytes) -> Decision:
    """Whether we may offer a local adapter under our own signature.

    What was installed from a peer is not ours to sign: it would show up a second time under our name, and its publisher
    could neither update nor withdraw it. It is forwarded under its publisher's entry anyway.
    """
    if facts.received_from == NOBODY:
        if not facts.asked:
            return _refuse(
                f"{facts.name} came from somebody who did not sign it, so only you can say that it is yours."
            )
    elif facts.received_from is not None and facts.received_from != own_key:
        publisher = facts.received_from.hex()[:12]
        return _refuse(f"{facts.name} was installed from publisher {publisher}, whose entry the room has already.")
    return _allow(f"{facts.name} was {'named' if facts.asked else 'matched'} for sharing.")


def may_install(
    signed: SignedEntry, standing: Standing, *, own: bool, enforcement: Enforcement, now: float
) -> Decision:
    """Whether a verified entry may be fetched and installed.

    Args:
        standing: What the user decided about the publisher.
        own: Whether the publisher is this machine.
        now: Unix time.
    """
    publisher = signed.publisher.hex()[:12]
    if standing is Standing.BLOCKED:
        return _refuse(f"Publisher {publisher} is blocked.")
    if signed.entry.is_expired(now):
        return _refuse(f"The publisher offered {signed.name} until {signed.entry.expires}.")
    if own or standing is Standing.TRUSTED:
        return _allow(f"Publisher {publisher} is trusted.")
    if enforcement is Enforcement.ENFORCE:
        return _refuse(f"Publisher {publisher} is not trusted, and only trusted publishers may be installed.")
    if enforcement is Enforcement.WARN:
        return Decision(
            True, f"Publisher {publisher} is not known: a signature says who, not whether it is safe.", Level.WARN
        )
    return _allow("Any publisher may be installed.")


def _allow(reason: str) -> Decision:
    return Decision(True, reason, Level.OK)


def _refuse(reason: str) -> Decision:
    return Decision(False, reason, Level.REFUSE)
