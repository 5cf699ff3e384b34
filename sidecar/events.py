"""What happened, as programs see it: one frozen dataclass per event, never a secret in one.

`name` is the stable name of design section 9 (also the server-sent event's `event:` field); `to_json` is its body.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class Event:
    """Base of all events."""

    name: ClassVar[str] = "event"

    def to_json(self) -> dict[str, object]:
        """The event as a JSON object, its name under `event`."""
        return {"event": self.name} | {field.name: getattr(self, field.name) for field in fields(self)}


@dataclass(frozen=True, slots=True)
class PeerConnected(Event):
    """A peer proved membership of a room."""

    name: ClassVar[str] = "peer:connected"
    peer: str
    room: str
    address: str


@dataclass(frozen=True, slots=True)
class PeerDisconnected(Event):
    """A peer left a room, or its connection ended."""

    name: ClassVar[str] = "peer:disconnected"
    peer: str
    room: str
    reason: str


@dataclass(frozen=True, slots=True)
class PeersUpdated(Event):
    """The number of peers in a room changed."""

    name: ClassVar[str] = "peers:updated"
    room: str
    peers: int


@dataclass(frozen=True, slots=True)
class RoomJoined(Event):
    """We are in a room now."""

    name: ClassVar[str] = "room:joined"
    room: str
    label: str


@dataclass(frozen=True, slots=True)
class RoomLeft(Event):
    """We left a room."""

    name: ClassVar[str] = "room:left"
    room: str
    label: str


@dataclass(frozen=True, slots=True)
class AdaptersAvailable(Event):
    """The list of adapters a room offers changed."""

    name: ClassVar[str] = "adapters:available"
    room: str
    adapters: int


@dataclass(frozen=True, slots=True)
class TransferProgress(Event):
    """Verified bytes of a running transfer."""

    name: ClassVar[str] = "transfer:progress"
    transfer: str
    ref: str
    stage: str
    """Step the transfer is in: `fetch`, `verify`, `fit`, `install`."""
    done_bytes: int
    total_bytes: int
    bytes_per_s: float
    sources: int


@dataclass(frozen=True, slots=True)
class TransferComplete(Event):
    """A blob is on disk and its SHA-256 is the digest of the entry."""

    name: ClassVar[str] = "transfer:complete"
    transfer: str
    ref: str
    digest: str
    size: int
    seconds: float


@dataclass(frozen=True, slots=True)
class TransferFailed(Event):
    """A transfer ended without its blob."""

    name: ClassVar[str] = "transfer:error"
    transfer: str
    ref: str
    code: str
    cause: str
    next_step: str


@dataclass(frozen=True, slots=True)
class AdapterAppeared(Event):
    """An adapter model appeared in the local Ollama store."""

    name: ClassVar[str] = "adapter:appeared"
    model: str
    digest: str
    size: int


@dataclass(frozen=True, slots=True)
class AdapterRemoved(Event):
    """An adapter model left the local Ollama store."""

    name: ClassVar[str] = "adapter:removed"
    model: str
    digest: str


@dataclass(frozen=True, slots=True)
class EntryAdded(Event):
    """A room's catalogue gained an entry, or a newer version of one."""

    name: ClassVar[str] = "entry:added"
    room: str
    ref: str
    adapter: str
    version: int
    publisher: str
    digest: str
    size: int


@dataclass(frozen=True, slots=True)
class EntryWithdrawn(Event):
    """A publisher took an entry back."""

    name: ClassVar[str] = "entry:withdrawn"
    room: str
    adapter: str
    version: int
    publisher: str


@dataclass(frozen=True, slots=True)
class InstallStarted(Event):
    """A verified adapter is being handed to Ollama."""

    name: ClassVar[str] = "install:started"
    transfer: str
    ref: str
    base: str
    route: str


@dataclass(frozen=True, slots=True)
class InstallComplete(Event):
    """Ollama has the model, and its manifest is base plus exactly our adapter."""

    name: ClassVar[str] = "install:complete"
    transfer: str
    ref: str
    installed_as: str
    route: str
    digest: str


@dataclass(frozen=True, slots=True)
class InstallFailed(Event):
    """The install was refused or rolled back; the store is as it was."""

    name: ClassVar[str] = "install:error"
    transfer: str
    ref: str
    code: str
    cause: str
    next_step: str


@dataclass(frozen=True, slots=True)
class BlockListChanged(Event):
    """A member published a block list, or a newer one. It counts only for those who follow it."""

    name: ClassVar[str] = "blocks:changed"
    room: str
    publisher: str
    version: int
    keys: int


@dataclass(frozen=True, slots=True)
class TrustAlarm(Event):
    """A room offers a name that the user knows under another key, or one that looks like it."""

    name: ClassVar[str] = "trust:alarm"
    room: str
    ref: str
    adapter: str
    publisher: str
    cause: str


@dataclass(frozen=True, slots=True)
class InstallWithdrawn(Event):
    """The publisher took back an adapter that is installed here; it stays until the user uninstalls it."""

    name: ClassVar[str] = "install:withdrawn"
    room: str
    installed_as: str
    adapter: str
    version: int
    publisher: str


@dataclass(frozen=True, slots=True)
class ShareRefused(Event):
    """A local adapter was not offered, and why."""

    name: ClassVar[str] = "share:refused"
    model: str
    cause: str


@dataclass(frozen=True, slots=True)
class RegistryRefused(Event):
    """An `ollama pull` from a room, or an `ollama push` into one, was refused before anything was transferred."""

    name: ClassVar[str] = "registry:refused"
    model: str
    code: str
    cause: str
    next_step: str


@dataclass(frozen=True, slots=True)
class SyncPlanned(Event):
    """Auto-sync begins something, or what it waits with changed."""

    name: ClassVar[str] = "sync:planned"
    installs: int
    shares: int
    evictions: int
    waiting: int
    fetch_bytes: int


@dataclass(frozen=True, slots=True)
class OllamaLost(Event):
    """Ollama no longer answers."""

    name: ClassVar[str] = "ollama:lost"
    url: str
    cause: str


@dataclass(frozen=True, slots=True)
class OllamaRestored(Event):
    """Ollama answers again."""

    name: ClassVar[str] = "ollama:restored"
    url: str
    version: str
