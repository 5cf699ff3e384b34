"""What the planner is told, and what it answers: plain values, without a clock and without I/O."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ollama_bridge.names import ModelName
    from sidecar.catalogue.entry import SignedEntry
    from sidecar.catalogue.rows import InstallRow, RuleRow, SyncedRow
    from sidecar.local_models import LocalModel
    from sidecar.trust.policy import Decision

Version = tuple[bytes, str, int]
"""Publisher, folded name, version: what auto-sync installs once."""


def version_of(entry: SignedEntry) -> Version:
    """The key of an entry's version."""
    return entry.publisher, entry.name.lower(), entry.version


@dataclass(frozen=True, slots=True)
class OfferFact:
    """An entry of a room that has a fetch rule."""

    room_id: bytes
    entry: SignedEntry
    is_trusted: bool
    """Whether the user trusts its publisher."""
    decision: Decision
    """What the room's policy says of it."""
    sources: int
    """Connected peers that hold it, at least in part."""
    is_here: bool = False
    """Whether its file need not be fetched."""


@dataclass(frozen=True, slots=True)
class AdapterFact:
    """An adapter model of the store, or a whole one where a rule is about those."""

    model: LocalModel
    settled_in: frozenset[bytes] = frozenset()
    """Rooms where it is offered already, or was taken back by name."""


@dataclass(frozen=True, slots=True)
class Delay:
    """Something that failed and is tried again."""

    until: float
    cause: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Everything a plan depends on."""

    now: float
    rules: tuple[RuleRow, ...]
    labels: Mapping[bytes, str]
    """Label of each room we are in."""
    offers: tuple[OfferFact, ...] = ()
    adapters: tuple[AdapterFact, ...] = ()
    synced: tuple[SyncedRow, ...] = ()
    installs: tuple[InstallRow, ...] = ()
    models: Mapping[str, str] = field(default_factory=dict)
    """Manifest digest (`sha256:<hex>`) of every model in Ollama, by full folded name."""
    bases: Mapping[str, str] = field(default_factory=dict)
    """Digest of each local base model, by full folded name."""
    quota_bytes: int
    running: Mapping[Version, tuple[str, int]] = field(default_factory=dict)
    """Installs under way: their rule and size."""
    delays: Mapping[bytes, Delay] = field(default_factory=dict)
    """By entry id."""
    opens_at: float | None = None
    """When the schedule lets fetches begin; None: now."""
    obstacle: str = ""
    """Why nothing can be installed now at all, such as an Ollama that does not answer."""


@dataclass(frozen=True, slots=True)
class Evict:
    """Take a version out of Ollama to make room."""

    row: SyncedRow
    moving_name: ModelName | None
    """The moving name goes too, if it means this version."""


@dataclass(frozen=True, slots=True)
class Install:
    """Fetch a version and install it under a name of its own."""

    rule: RuleRow
    offer: OfferFact
    model: ModelName
    evict: tuple[Evict, ...]
    reason: str

    @property
    def fetch_bytes(self) -> int:
        """Bytes that have to come from peers."""
        return 0 if self.offer.is_here else self.offer.entry.entry.size


@dataclass(frozen=True, slots=True)
class Name:
    """Let the moving name mean another installed version."""

    row: SyncedRow
    source: ModelName
    target: ModelName
    reason: str


@dataclass(frozen=True, slots=True)
class Share:
    """Offer an adapter of the store to a room."""

    rule: RuleRow
    model: LocalModel
    reason: str


@dataclass(frozen=True, slots=True)
class Wait:
    """What a rule is about and is not done now, and why not."""

    rule: str
    room_id: bytes
    what: str
    reason: str
    size: int = 0
    model: str | None = None
    until: float | None = None
    passing: bool = False
    """Whether it may change without anything happening that we are told of, such as a peer that holds it arriving."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done now."""

    installs: tuple[Install, ...] = ()
    names: tuple[Name, ...] = ()
    shares: tuple[Share, ...] = ()
    waits: tuple[Wait, ...] = ()
    gone: tuple[SyncedRow, ...] = ()
    """Versions that the user removed from Ollama; to be noted, so that they do not come back."""
    used_bytes: int = 0
    """What auto-sync keeps in Ollama now."""

    @property
    def does_something(self) -> bool:
        """Whether there is more to do than to wait."""
        return bool(self.installs or self.names or self.shares)
