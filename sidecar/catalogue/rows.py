"""What the journal keeps, one frozen row type per table."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .envelope import StatementKind


@dataclass(frozen=True, slots=True)
class RoomRow:
    """A room we are in. `key` is the room's secret; the code it came from is not kept."""

    room_id: bytes
    label: str
    kind: str
    """`general`, `local` or `private`."""
    key: bytes = field(repr=False)
    epoch: bytes
    """16 random bytes under which we number our changes in this room."""
    sequence: int
    """The last number used."""
    joined_at: float
    policy: str = "warn"
    """How much trust in a publisher an install from here needs: a value of `trust.policy.Enforcement`."""


@dataclass(frozen=True, slots=True)
class PinRow:
    """The publisher an adapter's name in a room belongs to."""

    room_id: bytes
    name: str
    """Folded."""
    key: bytes
    pinned_at: float


@dataclass(frozen=True, slots=True)
class StatementRow:
    """A verified entry or withdrawal as it stands in one room."""

    room_id: bytes
    sequence: int
    held: bool
    kind: StatementKind
    raw: bytes = field(repr=False)
    publisher: bytes
    signature: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class VersionRow:
    """The highest version ever seen of an adapter (T15)."""

    publisher: bytes
    name: str
    """Folded."""
    version: int
    id: bytes


@dataclass(frozen=True, slots=True)
class ShareRow:
    """An adapter of ours that we offer."""

    name: str
    digest: str
    """`sha256:<hex>` of the adapter blob."""
    size: int
    source: str
    """Model name in the store, or absolute path of a file."""
    is_path: bool
    entry_id: bytes
    """The entry that offers it, 32 bytes."""
    rooms: tuple[bytes, ...]
    """Ids of the rooms it was shared to by name or rule."""


NOBODY = b""
"""In place of a publisher's key: nobody signed it."""


@dataclass(frozen=True, slots=True)
class InstallRow:
    """A model in Ollama that we installed, and from what."""

    name: str
    digest: str
    """Adapter blob, or the weights of a whole model."""
    base_digest: str
    """Of the base's weights; a whole model is its own base."""
    route: str
    """`pull` or `create`."""
    entry_id: bytes
    """Where nobody signed it, the SHA-256 of the file it was made of."""
    publisher: bytes
    """Or `NOBODY`."""
    version: int
    manifest_digest: str
    """What Ollama had under the name when we were done: if it differs now, the user changed it."""
    installed_at: float
    adapter: str = ""
    """Name in the entry; empty in notes of versions that did not keep it."""

    @property
    def is_model(self) -> bool:
        """Whether it is a whole model."""
        return self.digest == self.base_digest


@dataclass(frozen=True, slots=True)
class RuleRow:
    """A rule of auto-sync; what its fields mean together is in `sync.rules`."""

    id: str
    """8 hex digits."""
    direction: str
    """`fetch` or `share`."""
    room_id: bytes
    publisher: bytes | None = None
    name: str | None = None
    """Shell pattern."""
    base: str | None = None
    """Name of a local base model."""
    max_bytes: int | None = None
    tag: str | None = None
    per_hour: int | None = None
    created_at: float = 0.0
    models: bool = False
    """Whole models too, with the settings they bring."""


class SyncState(Enum):
    """What became of a version that auto-sync installed."""

    INSTALLED = "installed"
    EVICTED = "evicted"
    """Removed by us to make room."""
    REMOVED = "removed"
    """Removed by the user."""
    SET_ASIDE = "set-aside"
    """Still there, but the user went back to an older one."""


@dataclass(frozen=True, slots=True)
class SyncedRow:
    """One version of an adapter that auto-sync installed, now or once. Kept for ever: what was removed stays removed."""

    publisher: bytes
    name: str
    """Adapter, folded."""
    version: int
    model: str
    """Model name of this version in Ollama, with its tag."""
    room_id: bytes
    rule: str
    size: int
    installed_at: float
    used_at: float
    """When Ollama was last seen to have it loaded, else when it was installed."""
    state: SyncState = SyncState.INSTALLED


@dataclass(frozen=True, slots=True)
class HeldRow:
    """A whole verified blob that we can provide."""

    digest: str
    path: str
    size: int
    table: bytes = field(repr=False)
    """Concatenated SHA-256 of its chunks."""


@dataclass(frozen=True, slots=True)
class OrchMindRoomRow:
    """A room of Orch-Mind's that we are in."""

    topic: bytes
    """All there is to such a room; the code it came from is not kept."""
    label: str
    joined_at: float


@dataclass(frozen=True, slots=True)
class OrchMindShareRow:
    """A PEFT folder that we offer in a room of Orch-Mind's."""

    topic: bytes
    name: str
    source: str
    """Absolute path of the folder."""
    base: str
    """Name of the base in Ollama."""


class Way(Enum):
    """How a peer was reached."""

    LAN = "lan"
    """TCP in the local network, or an address given by hand."""
    DIRECT = "direct"
    """Over the internet, found by its key."""
    RELAYED = "relayed"
    """The same, through another member that relays, though perhaps only at first."""


@dataclass(frozen=True, slots=True)
class MemberRow:
    """A peer that proved membership of a room on the internet, to be dialled again by its key."""

    room_id: bytes
    key: bytes
    first_seen: float
    last_seen: float
    """When it was last seen to be connected."""
    way: Way
    failures: int = 0
    """Dials by key that failed since it was last connected."""


class Standing(Enum):
    """What the user decided about a publisher."""

    UNKNOWN = "unknown"
    TRUSTED = "trusted"
    BLOCKED = "blocked"


@dataclass(frozen=True, slots=True)
class FollowedListRow:
    """A block list the user subscribed to, as it was last seen."""

    key: bytes
    """Of its publisher."""
    version: int = 0
    blocked: frozenset[bytes] = frozenset()


@dataclass(frozen=True, slots=True)
class PublisherRow:
    """A publisher's key and what we know of it."""

    key: bytes
    first_seen: float
    standing: Standing = Standing.UNKNOWN
    label: str | None = None
    """The name pinned to this key."""
