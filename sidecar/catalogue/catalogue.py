"""All entries known in our rooms, in memory: which version counts, what changed since when, what a REF means.

No I/O and no clock. Statements come in verified (`trust.signatures`); the owner writes each changed outcome to the
journal before it tells anybody. Rules and reasons: docs/protocol/entry.md and room.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from sidecar.errors import NotFound

from .entry import SignedEntry
from .envelope import StatementKind
from .limits import MAX_ENTRIES_PER_PUBLISHER, MAX_ENTRIES_PER_ROOM, MAX_REMEMBERED_ADAPTERS
from .refs import RefIndex
from .room_catalogue import Changes, Record, RoomCatalogue

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .withdrawal import Statement


class Status(Enum):
    """What became of a statement."""

    ADDED = "added"
    """New in this room: an adapter, or a newer version of one."""
    WITHDRAWN = "withdrawn"
    """A withdrawal took effect."""
    KNOWN = "known"
    """The room has exactly this statement already."""
    OLDER = "older"
    """A higher version was seen, maybe long ago (T15)."""
    CONFLICT = "conflict"
    """The same version was seen with other content; the first one stays."""
    EXPIRED = "expired"
    FULL = "full"
    """A limit; `reason` says which."""


@dataclass(frozen=True, slots=True)
class Placement:
    """A room in which the statement now stands, under that sequence."""

    room_id: bytes
    sequence: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What `put` did."""

    status: Status
    statement: Statement
    placements: tuple[Placement, ...] = ()
    reason: str = ""

    @property
    def changed(self) -> bool:
        """Whether there is something to write to the journal and to tell the room."""
        return bool(self.placements)


@dataclass(frozen=True, slots=True)
class HighWater:
    """The highest version ever seen of one adapter, and which statement it was."""

    version: int
    id: bytes


AdapterKey = tuple[bytes, str]
"""Publisher key and folded name: the identity of an adapter (T10)."""


def adapter_key(publisher: bytes, name: str) -> AdapterKey:
    """Names that differ only in case are one, as they would be one model in Ollama."""
    return publisher, name.lower()


class Catalogue:
    """The catalogues of all rooms, and the versions remembered for ever."""

    def __init__(
        self,
        *,
        max_per_publisher: int = MAX_ENTRIES_PER_PUBLISHER,
        max_per_room: int = MAX_ENTRIES_PER_ROOM,
        max_remembered: int = MAX_REMEMBERED_ADAPTERS,
    ) -> None:
        self._rooms: dict[bytes, RoomCatalogue] = {}
        self._highest: dict[AdapterKey, HighWater] = {}
        self._max_per_publisher = max_per_publisher
        self._max_per_room = max_per_room
        self._max_remembered = max_remembered

    def open_room(self, room_id: bytes, *, epoch: bytes, sequence: int = 0) -> None:
        """Begin the catalogue of a room we joined; `sequence` is the last one used under `epoch`."""
        self._rooms[room_id] = RoomCatalogue(room_id, epoch, sequence)

    def close_room(self, room_id: bytes) -> None:
        """Forget the entries of a room we left. Highest versions stay."""
        self._rooms.pop(room_id, None)

    def restore_version(self, publisher: bytes, name: str, highest: HighWater) -> None:
        """Take over a remembered version from the journal."""
        self._highest[adapter_key(publisher, name)] = highest

    def restore(self, room_id: bytes, statement: Statement, *, sequence: int, held: bool) -> None:
        """Take over a statement from the journal; call in order of sequence."""
        self._rooms[room_id].place(Record(statement, sequence, held))

    def put(self, room_id: bytes, statement: Statement, *, now: float, held: bool = False) -> Outcome:
        """Take in a verified statement that arrived in a room, or is our own.

        A withdrawal takes effect in every room that has the adapter: it is the publisher who took it back, not the room.

        Args:
            now: Unix time, for expiry only.
            held: Whether we hold all its blobs.
        """
        key = adapter_key(statement.publisher, statement.name)
        refusal = self._refusal(room_id, key, statement, now)
        if refusal is not None:
            return refusal
        self._highest[key] = HighWater(statement.version, statement.id)
        if statement.kind is not StatementKind.WITHDRAWAL:
            return Outcome(Status.ADDED, statement, (self._place(room_id, statement, held),))
        rooms = {room_id} | {room.room_id for room in self._rooms.values() if room.find(key) is not None}
        placements = tuple(self._place(each, statement, False) for each in sorted(rooms))
        return Outcome(Status.WITHDRAWN, statement, placements)

    def see(self, statement: Statement, *, now: float) -> Outcome:
        """Take note of a verified statement that came by no room, such as in a file: only its version is remembered.

        Nothing is placed, so nobody is told; a refusal has a `reason`.
        """
        key = adapter_key(statement.publisher, statement.name)
        refusal = self._stale(key, statement, now) or self._memory_full(key, statement)
        if refusal is not None:
            return refusal
        self._highest[key] = HighWater(statement.version, statement.id)
        return Outcome(Status.KNOWN, statement)

    def set_held(self, digest: str, held: bool) -> tuple[tuple[Placement, SignedEntry], ...]:
        """Note that we now hold, or no longer hold, a blob (`sha256:<hex>`); returns the entries whose offer changed.

        A model is held once its weights are, its texts came before them; it no longer is when any part is gone.
        """
        changed: list[tuple[Placement, SignedEntry]] = []
        for room in self._rooms.values():
            for record in room.records():
                entry = record.statement
                if isinstance(entry, SignedEntry) and record.held != held and _is_about(entry, digest, held):
                    changed.append((self._place(room.room_id, entry, held), entry))
        return tuple(changed)

    def prune_expired(self, now: float) -> tuple[SignedEntry, ...]:
        """Drop entries that ended. Peers drop theirs by the same rule, so nobody is told."""
        return tuple(entry for room in self._rooms.values() for entry in room.prune_expired(now))

    def rooms(self) -> tuple[bytes, ...]:
        """Ids of the rooms that are open."""
        return tuple(self._rooms)

    def entries(self, room_id: bytes) -> list[SignedEntry]:
        """What a room offers, oldest change first."""
        return [
            record.statement for record in self._room(room_id).records() if isinstance(record.statement, SignedEntry)
        ]

    def count(self, room_id: bytes) -> int:
        """Entries and withdrawals a room has."""
        return len(self._room(room_id))

    def get(self, room_id: bytes, short_id: bytes) -> Statement | None:
        """The statement of a room by its 16-byte id on the wire."""
        record = self._room(room_id).by_short_id(short_id)
        return None if record is None else record.statement

    def find(self, room_id: bytes, publisher: bytes, name: str) -> Statement | None:
        """What stands in a room about an adapter: its newest entry there, or the withdrawal of it."""
        record = self._room(room_id).find(adapter_key(publisher, name))
        return None if record is None else record.statement

    def offers_blob(self, room_id: bytes, digest: str) -> bool:
        """Whether an entry of a room offers the blob `sha256:<hex>`, so that members may have it."""
        return self._room(room_id).offers_blob(digest)

    def position(self, room_id: bytes) -> tuple[bytes, int]:
        """Our epoch and last sequence in a room."""
        room = self._room(room_id)
        return room.epoch, room.sequence

    def changes_since(self, room_id: bytes, epoch: bytes, sequence: int, limit: int) -> Changes:
        """The oldest `limit` changes after a position a peer gave; all from the start if the epoch is not ours."""
        return self._room(room_id).changes_since(epoch, sequence, limit)

    def highest(self, publisher: bytes, name: str) -> int:
        """The highest version ever seen of an adapter, 0 if none. The next one of ours is at least one more."""
        highest = self._highest.get(adapter_key(publisher, name))
        return 0 if highest is None else highest.version

    def rooms_of(self, entry: SignedEntry) -> tuple[bytes, ...]:
        """Ids of the rooms that offer exactly this entry."""
        return tuple(room.room_id for room in self._rooms.values() if room.by_short_id(entry.short_id) is not None)

    def refs(self, room_ids: Iterable[bytes] | None = None) -> RefIndex:
        """The REFs of some rooms, or of all, as things stand now. Costs a walk over their entries."""
        rooms = self._rooms if room_ids is None else room_ids
        return RefIndex(entry for room_id in rooms for entry in self.entries(room_id))

    def model_with(self, digest: str) -> SignedEntry | None:
        """An offer of the whole model with these weights (`sha256:<hex>`), in any room. Looks at every entry."""
        for room_id in self._rooms:
            for entry in self.entries(room_id):
                if entry.entry.is_model and entry.entry.blob.digest == digest:
                    return entry
        return None

    def resolve(self, ref: str, room_ids: Iterable[bytes] | None = None) -> SignedEntry:
        """The entry a REF means; as `RefIndex.resolve`."""
        return self.refs(room_ids).resolve(ref)

    def _room(self, room_id: bytes) -> RoomCatalogue:
        try:
            return self._rooms[room_id]
        except KeyError:
            raise NotFound(f"We are not in the room {room_id.hex()}.") from None

    def _refusal(self, room_id: bytes, key: AdapterKey, statement: Statement, now: float) -> Outcome | None:
        room = self._room(room_id)
        present = room.find(key)
        if present is not None and present.statement.id == statement.id:
            return Outcome(Status.KNOWN, statement)
        if (stale := self._stale(key, statement, now)) is not None:
            return stale
        if present is None and (reason := self._limit_reached(room, statement.publisher)):
            return Outcome(Status.FULL, statement, reason=reason)
        return self._memory_full(key, statement)

    def _stale(self, key: AdapterKey, statement: Statement, now: float) -> Outcome | None:
        """Why a statement no longer counts, wherever it came from (T15)."""
        highest = self._highest.get(key)
        if highest is not None and statement.version < highest.version:
            reason = (
                f"Version {statement.version} of {statement.name} is older than version {highest.version}, seen before."
            )
            return Outcome(Status.OLDER, statement, reason=reason)
        if highest is not None and statement.version == highest.version and statement.id != highest.id:
            reason = f"Version {statement.version} of {statement.name} was seen before with other content."
            return Outcome(Status.CONFLICT, statement, reason=reason)
        if isinstance(statement, SignedEntry) and statement.entry.is_expired(now):
            return Outcome(
                Status.EXPIRED, statement, reason=f"The offer of {statement.name} ended {statement.entry.expires}."
            )
        return None

    def _memory_full(self, key: AdapterKey, statement: Statement) -> Outcome | None:
        if key not in self._highest and len(self._highest) >= self._max_remembered:
            reason = f"{self._max_remembered} adapters are remembered already; leave a room that is full of junk."
            return Outcome(Status.FULL, statement, reason=reason)
        return None

    def _limit_reached(self, room: RoomCatalogue, publisher: bytes) -> str:
        if room.count_of(publisher) >= self._max_per_publisher:
            return f"The publisher has {self._max_per_publisher} entries in this room already."
        if len(room) >= self._max_per_room:
            return f"The room has {self._max_per_room} entries already."
        return ""

    def _place(self, room_id: bytes, statement: Statement, held: bool) -> Placement:
        room = self._rooms[room_id]
        sequence = room.sequence + 1
        room.place(Record(statement, sequence, held))
        return Placement(room_id, sequence)


def _is_about(entry: SignedEntry, digest: str, held: bool) -> bool:
    return entry.entry.blob.digest == digest or (not held and any(blob.digest == digest for blob in entry.entry.blobs))
