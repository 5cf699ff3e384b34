"""The catalogue of one room: records in the order they changed, so that "since when" is a walk from the end."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .entry import SignedEntry

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .withdrawal import Statement


@dataclass(frozen=True, slots=True)
class Record:
    """One statement as it stands in a room."""

    statement: Statement
    sequence: int
    """Our number for its last change."""
    held: bool
    """Whether we hold all its blobs; never for a withdrawal."""


@dataclass(frozen=True, slots=True)
class Changes:
    """A page of changes for a peer."""

    epoch: bytes
    sequence: int
    """The position after this page."""
    more: bool
    records: tuple[Record, ...]


class RoomCatalogue:
    """Records of one room by adapter, oldest change first."""

    def __init__(self, room_id: bytes, epoch: bytes, sequence: int) -> None:
        self.room_id = room_id
        self.epoch = epoch
        self.sequence = sequence
        self._records: dict[tuple[bytes, str], Record] = {}  # insertion order is sequence order
        self._by_short_id: dict[bytes, Record] = {}
        self._per_publisher: Counter[bytes] = Counter()
        self._per_blob: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._records)

    def find(self, key: tuple[bytes, str]) -> Record | None:
        """The record of an adapter, by publisher and folded name."""
        return self._records.get(key)

    def by_short_id(self, short_id: bytes) -> Record | None:
        """The record of a statement, by its 16-byte id."""
        return self._by_short_id.get(short_id)

    def count_of(self, publisher: bytes) -> int:
        """How many records a publisher has here."""
        return self._per_publisher[publisher]

    def offers_blob(self, digest: str) -> bool:
        """Whether an entry here offers the blob `sha256:<hex>`. Asked for every request of a peer."""
        return digest in self._per_blob

    def records(self) -> tuple[Record, ...]:
        """All records, oldest change first."""
        return tuple(self._records.values())

    def place(self, record: Record) -> None:
        """Put a record at the end, in place of its adapter's earlier one."""
        statement = record.statement
        self._remove((statement.publisher, statement.name.lower()))
        self._records[statement.publisher, statement.name.lower()] = record
        self._by_short_id[statement.short_id] = record
        self._per_publisher[statement.publisher] += 1
        if isinstance(statement, SignedEntry):
            self._per_blob.update(blob.digest for blob in statement.entry.blobs)
        self.sequence = max(self.sequence, record.sequence)

    def changes_since(self, epoch: bytes, sequence: int, limit: int) -> Changes:
        """The oldest `limit` records after that position."""
        after = sequence if epoch == self.epoch else 0
        newer = list(self._newest_first(after))
        newer.reverse()
        page = tuple(newer[:limit])
        more = len(newer) > limit
        return Changes(self.epoch, page[-1].sequence if more else self.sequence, more, page)

    def prune_expired(self, now: float) -> list[SignedEntry]:
        """Remove and return the entries that ended."""
        ended = [
            record.statement
            for record in self._records.values()
            if isinstance(record.statement, SignedEntry) and record.statement.entry.is_expired(now)
        ]
        for entry in ended:
            self._remove((entry.publisher, entry.name.lower()))
        return ended

    def _newest_first(self, after: int) -> Iterable[Record]:
        for record in reversed(self._records.values()):
            if record.sequence <= after:
                return
            yield record

    def _remove(self, key: tuple[bytes, str]) -> None:
        record = self._records.pop(key, None)
        if record is None:
            return
        publisher = record.statement.publisher
        del self._by_short_id[record.statement.short_id]
        if isinstance(record.statement, SignedEntry):
            for blob in record.statement.entry.blobs:
                self._per_blob[blob.digest] -= 1
                if not self._per_blob[blob.digest]:
                    del self._per_blob[blob.digest]
        self._per_publisher[publisher] -= 1
        if not self._per_publisher[publisher]:
            del self._per_publisher[publisher]
