"""What must survive a restart: one SQLite file in the data folder (ADR 0004).

Blocking; called from one worker thread at a time. Every method is one transaction: after it returned, neither kill -9
nor a power cut undoes it; before, nothing of it is there. `synchronous=FULL` is chosen over NORMAL because a version of
ours that peers have seen must not be handed out again after a power cut, they would refuse it (T15); writes are few.
"""

from __future__ import annotations

import os
import sqlite3
from typing import TYPE_CHECKING

from sidecar.errors import RoomError

from .catalogue import Outcome, adapter_key
from .database import open_database, transaction
from .envelope import KEY_BYTES, StatementKind
from .rows import (
    FollowedListRow,
    HeldRow,
    InstallRow,
    MemberRow,
    OrchMindRoomRow,
    OrchMindShareRow,
    PinRow,
    PublisherRow,
    RoomRow,
    RuleRow,
    ShareRow,
    Standing,
    StatementRow,
    SyncedRow,
    SyncState,
    VersionRow,
    Way,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

FILE_NAME = "journal.sqlite"

_DROP_ORPHANS = "DELETE FROM statements WHERE NOT EXISTS (SELECT 1 FROM placements WHERE placements.id = statements.id)"


class Journal:
    """The open journal of one data folder."""

    def __init__(self, connection: sqlite3.Connection, notice: str | None) -> None:
        self._db = connection
        self.notice = notice
        """What the user should be told about opening it, such as that a damaged file was moved aside."""

    @classmethod
    def open(cls, data_dir: Path, *, now: Callable[[], float], check_modes: bool = os.name == "posix") -> Journal:
        """Open the journal of a data folder, making it or bringing it up to date.

        A damaged file is moved aside as `journal.sqlite.damaged-TIME` and a new one begun: entries come back from peers,
        rooms must be joined again, and what the highest versions were is lost, which `notice` says.

        Args:
            now: Unix time, for the name of a file moved aside.
            check_modes: Whether file modes mean anything here.
        Raises:
            ConfigError: The file cannot be opened, or a newer version of ollaswarm made it.
        """
        connection, notice = open_database(data_dir / FILE_NAME, check_modes=check_modes, now=int(now()))
        return cls(connection, notice)

    def close(self) -> None:
        """Close the file; the write-ahead log is folded in."""
        self._db.close()

    # Rooms

    def rooms(self) -> list[RoomRow]:
        """The rooms we are in, in the order they were joined."""
        query = (
            "SELECT room_id, label, kind, key, epoch, sequence, joined_at, policy FROM rooms ORDER BY joined_at, label"
        )
        return [RoomRow(*row) for row in self._db.execute(query)]

    def save_room(self, row: RoomRow) -> None:
        """Add or change a room. Its epoch and sequence are set when it is added, then move with its entries only.

        Raises:
            RoomError: Another room has that label.
        """
        values = (row.room_id, row.label, row.kind, row.key, row.epoch, row.sequence, row.joined_at, False, row.policy)
        try:
            with transaction(self._db):
                self._db.execute(
                    "INSERT INTO rooms VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (room_id) DO UPDATE SET "
                    "label = excluded.label, joined_at = excluded.joined_at, policy = excluded.policy",
                    values,
                )
        except sqlite3.IntegrityError as error:
            raise RoomError(f"Another room is called {row.label!r}.", "Choose another label with --label.") from error

    def remove_room(self, room_id: bytes) -> None:
        """Forget a room, its key and its entries. Highest versions and installs stay."""
        with transaction(self._db):
            self._db.execute("DELETE FROM rooms WHERE room_id = ?", (room_id,))
            self._db.execute(_DROP_ORPHANS)

    def replace_room(self, room_id: bytes, row: RoomRow, *, without: Iterable[bytes] = ()) -> None:
        """Let a room go on under another key: entries, shares, rules and pins move to it, the old key is forgotten.

        Args:
            row: The new room; its sequence goes on from the old one's.
            without: Publishers whose entries stay behind.
        """
        with transaction(self._db):
            (sequence,) = self._db.execute("SELECT sequence FROM rooms WHERE room_id = ?", (room_id,)).fetchone()
            self._db.execute("UPDATE rooms SET label = ? WHERE room_id = ?", (row.room_id.hex(), room_id))
            values = (row.room_id, row.label, row.kind, row.key, row.epoch, sequence, row.joined_at, False, row.policy)
            self._db.execute("INSERT INTO rooms VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", values)
            left = [(room_id, publisher) for publisher in without]
            self._db.executemany("DELETE FROM placements WHERE room_id = ? AND publisher = ?", left)
            for table in ("placements", "share_rooms", "sync_rules", "synced", "pins"):
                self._db.execute(f"UPDATE {table} SET room_id = ? WHERE room_id = ?", (row.room_id, room_id))  # noqa: S608
            self._db.execute("DELETE FROM rooms WHERE room_id = ?", (room_id,))
            self._db.execute(_DROP_ORPHANS)

    # Entries, withdrawals, versions

    def record(self, outcomes: Iterable[Outcome], *, held: bool = False) -> None:
        """Write what `Catalogue.put` did: statements, their places, the highest versions. One transaction for all.

        Args:
            held: What was passed to `put`.
        """
        with transaction(self._db):
            for outcome in outcomes:
                self._record(outcome, held)

    def set_held(self, placements: Iterable[tuple[bytes, int, bytes]], held: bool) -> None:
        """Write what `Catalogue.set_held` did: (room id, new sequence, statement id) each."""
        with transaction(self._db):
            for room_id, sequence, statement_id in placements:
                self._db.execute(
                    "UPDATE placements SET held = ?, sequence = ? WHERE room_id = ? AND id = ?",
                    (held, sequence, room_id, statement_id),
                )
                self._advance(room_id, sequence)

    def remove_statements(self, statement_ids: Iterable[bytes]) -> None:
        """Forget entries that expired. Highest versions stay."""
        with transaction(self._db):
            self._db.executemany("DELETE FROM placements WHERE id = ?", [(each,) for each in statement_ids])
            self._db.execute(_DROP_ORPHANS)

    def statements(self, room_id: bytes) -> Iterator[StatementRow]:
        """What stands in a room, in order of sequence."""
        query = (
            "SELECT room_id, sequence, held, kind, raw, statements.publisher, signature FROM placements "
            "JOIN statements USING (id) WHERE room_id = ? ORDER BY sequence"
        )
        for row in self._db.execute(query, (room_id,)):
            yield StatementRow(row[0], row[1], bool(row[2]), StatementKind(row[3]), *row[4:])

    def versions(self) -> Iterator[VersionRow]:
        """The highest version of every adapter ever seen."""
        for row in self._db.execute("SELECT publisher, name, version, id FROM versions"):
            yield VersionRow(*row)

    def remember_version(self, publisher: bytes, name: str, version: int, statement_id: bytes) -> None:
        """Note a version that was seen outside of rooms."""
        with transaction(self._db):
            self._raise_version(publisher, name.lower(), version, statement_id)

    # Our shares

    def shares(self) -> list[ShareRow]:
        """What we offer, by name."""
        rooms: dict[str, list[bytes]] = {}
        for name, room_id in self._db.execute("SELECT name, room_id FROM share_rooms ORDER BY name, room_id"):
            rooms.setdefault(name, []).append(room_id)
        query = "SELECT name, digest, size, source, is_path, entry_id FROM shares ORDER BY name"
        return [
            ShareRow(name, digest, size, source, bool(is_path), entry_id, tuple(rooms.get(name, ())))
            for name, digest, size, source, is_path, entry_id in self._db.execute(query)
        ]

    def save_share(self, row: ShareRow) -> None:
        """Add or replace a share and its rooms."""
        values = (row.name, row.digest, row.size, row.source, row.is_path, row.entry_id)
        with transaction(self._db):
            self._db.execute("DELETE FROM shares WHERE name = ?", (row.name,))
            self._db.execute("INSERT INTO shares VALUES (?, ?, ?, ?, ?, ?)", values)
            self._db.executemany("INSERT INTO share_rooms VALUES (?, ?)", [(row.name, room) for room in row.rooms])

    def remove_share(self, name: str) -> None:
        """No longer offer an adapter."""
        with transaction(self._db):
            self._db.execute("DELETE FROM shares WHERE name = ?", (name,))

    # Installs

    def installs(self) -> list[InstallRow]:
        """What we installed, by name."""
        return [InstallRow(*row) for row in self._db.execute("SELECT * FROM installs ORDER BY name")]

    def save_install(self, row: InstallRow) -> None:
        """Add or replace an install."""
        values = (row.name, row.digest, row.base_digest, row.route, row.entry_id, row.publisher, row.version)
        with transaction(self._db):
            self._db.execute(
                "INSERT OR REPLACE INTO installs VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (*values, row.manifest_digest, row.installed_at, row.adapter),
            )

    def remove_install(self, name: str) -> None:
        """Forget an install."""
        with transaction(self._db):
            self._db.execute("DELETE FROM installs WHERE name = ?", (name,))

    # Auto-sync

    def rules(self) -> list[RuleRow]:
        """The rules of auto-sync, in the order they were made."""
        rows = self._db.execute("SELECT * FROM sync_rules ORDER BY created_at, id")
        return [RuleRow(*values) for values in ((*row[:-1], bool(row[-1])) for row in rows)]

    def save_rule(self, row: RuleRow) -> None:
        """Add a rule; its room is joined."""
        values = (row.id, row.direction, row.room_id, row.publisher, row.name, row.base, row.max_bytes, row.tag)
        with transaction(self._db):
            self._db.execute(
                "INSERT INTO sync_rules VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (*values, row.per_hour, row.created_at, row.models),
            )

    def remove_rule(self, rule_id: str) -> None:
        """Forget a rule. What it installed stays."""
        with transaction(self._db):
            self._db.execute("DELETE FROM sync_rules WHERE id = ?", (rule_id,))

    def synced(self) -> list[SyncedRow]:
        """Every version auto-sync ever installed."""
        query = "SELECT * FROM synced ORDER BY publisher, name, version"
        rows = self._db.execute(query)
        return [SyncedRow(*values) for values in ((*row[:9], SyncState(row[9])) for row in rows)]

    def save_synced(self, rows: Iterable[SyncedRow]) -> None:
        """Add or change versions that auto-sync installed."""
        values = [(*[getattr(row, name) for name in SyncedRow.__slots__[:-1]], row.state.value) for row in rows]
        with transaction(self._db):
            self._db.executemany("INSERT OR REPLACE INTO synced VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", values)

    # Rooms of Orch-Mind's

    def orch_mind_rooms(self) -> list[OrchMindRoomRow]:
        """Those we are in, in the order they were joined."""
        query = "SELECT topic, label, joined_at FROM orch_mind_rooms ORDER BY joined_at, label"
        return [OrchMindRoomRow(*row) for row in self._db.execute(query)]

    def save_orch_mind_room(self, row: OrchMindRoomRow) -> None:
        """Add a room. Raises RoomError if another one has its label."""
        try:
            with transaction(self._db):
                self._db.execute("INSERT INTO orch_mind_rooms VALUES (?, ?, ?)", (row.topic, row.label, row.joined_at))
        except sqlite3.IntegrityError as error:
            raise RoomError(f"Another room is called {row.label!r}.", "Choose another label with --label.") from error

    def remove_orch_mind_room(self, topic: bytes) -> None:
        """Forget a room and what we offered there."""
        with transaction(self._db):
            self._db.execute("DELETE FROM orch_mind_rooms WHERE topic = ?", (topic,))

    def orch_mind_shares(self) -> list[OrchMindShareRow]:
        """What we offer in them, by name."""
        query = "SELECT topic, name, source, base FROM orch_mind_shares ORDER BY name, topic"
        return [OrchMindShareRow(*row) for row in self._db.execute(query)]

    def save_orch_mind_share(self, row: OrchMindShareRow) -> None:
        """Add or replace an offer in a room we are in."""
        values = (row.topic, row.name, row.source, row.base)
        with transaction(self._db):
            self._db.execute("INSERT OR REPLACE INTO orch_mind_shares VALUES (?, ?, ?, ?)", values)

    def remove_orch_mind_share(self, topic: bytes, name: str) -> None:
        """No longer offer it there."""
        with transaction(self._db):
            self._db.execute("DELETE FROM orch_mind_shares WHERE topic = ? AND name = ?", (topic, name))

    # Blobs we can provide

    def held(self) -> list[tuple[str, str, int]]:
        """Digest, path and size of every blob we can provide. Tables are large and read one by one."""
        return list(self._db.execute("SELECT digest, path, size FROM held ORDER BY digest"))

    def held_blob(self, digest: str) -> HeldRow | None:
        """One blob with its chunk table."""
        row = self._db.execute("SELECT digest, path, size, hashes FROM held WHERE digest = ?", (digest,)).fetchone()
        return None if row is None else HeldRow(*row)

    def save_held(self, row: HeldRow) -> None:
        """Add or replace a blob."""
        with transaction(self._db):
            self._db.execute(
                "INSERT OR REPLACE INTO held VALUES (?, ?, ?, ?)", (row.digest, row.path, row.size, row.table)
            )

    def remove_held(self, digest: str) -> None:
        """Forget a blob."""
        with transaction(self._db):
            self._db.execute("DELETE FROM held WHERE digest = ?", (digest,))

    # Publishers

    def publishers(self) -> list[PublisherRow]:
        """Every publisher seen or decided about."""
        query = "SELECT key, first_seen, standing, label FROM publishers"
        return [PublisherRow(row[0], row[1], Standing(row[2]), row[3]) for row in self._db.execute(query)]

    def save_publisher(self, row: PublisherRow) -> None:
        """Add or replace a publisher."""
        with transaction(self._db):
            self._db.execute(
                "INSERT OR REPLACE INTO publishers VALUES (?, ?, ?, ?)",
                (row.key, row.first_seen, row.standing.value, row.label),
            )

    def followed_lists(self) -> list[FollowedListRow]:
        """The block lists the user subscribed to."""
        rows = self._db.execute("SELECT key, version, blocked FROM block_lists ORDER BY key")
        return [
            FollowedListRow(key, version, frozenset(keys[at : at + KEY_BYTES] for at in range(0, len(keys), KEY_BYTES)))
            for key, version, keys in rows
        ]

    def save_followed_list(self, row: FollowedListRow) -> None:
        """Subscribe to a list, or note what it says now."""
        with transaction(self._db):
            values = (row.key, row.version, b"".join(sorted(row.blocked)))
            self._db.execute("INSERT OR REPLACE INTO block_lists VALUES (?, ?, ?)", values)

    def remove_followed_list(self, key: bytes) -> None:
        """Unsubscribe."""
        with transaction(self._db):
            self._db.execute("DELETE FROM block_lists WHERE key = ?", (key,))

    def pins(self) -> list[PinRow]:
        """Which publisher each pinned name belongs to."""
        return [PinRow(*row) for row in self._db.execute("SELECT room_id, name, key, pinned_at FROM pins")]

    def save_pin(self, row: PinRow) -> None:
        """Pin a name that nobody has."""
        with transaction(self._db):
            self._db.execute("INSERT INTO pins VALUES (?, ?, ?, ?)", (row.room_id, row.name, row.key, row.pinned_at))

    # Members of rooms on the internet

    def members(self) -> list[MemberRow]:
        """Who is remembered in which room."""
        query = "SELECT room_id, key, first_seen, last_seen, way, failures FROM members ORDER BY room_id, key"
        return [
            MemberRow(room_id, key, first_seen, last_seen, Way(way), failures)
            for room_id, key, first_seen, last_seen, way, failures in self._db.execute(query)
        ]

    def save_members(self, rows: Iterable[MemberRow], forgotten: Iterable[tuple[bytes, bytes]] = ()) -> None:
        """Add or change members, and forget others (room id and key). Those of a room that was left are not added."""
        values = [(r.room_id, r.key, r.first_seen, r.last_seen, r.way.value, r.failures, r.room_id) for r in rows]
        with transaction(self._db):
            self._db.executemany("DELETE FROM members WHERE room_id = ? AND key = ?", list(forgotten))
            self._db.executemany(
                "INSERT OR REPLACE INTO members SELECT ?, ?, ?, ?, ?, ? "
                "WHERE EXISTS (SELECT 1 FROM rooms WHERE room_id = ?)",
                values,
            )

    def _record(self, outcome: Outcome, held: bool) -> None:
        if not outcome.changed:
            return
        statement = outcome.statement
        publisher, name = adapter_key(statement.publisher, statement.name)
        self._db.execute(
            "INSERT OR IGNORE INTO statements VALUES (?, ?, ?, ?, ?)",
            (statement.id, statement.kind, statement.raw, publisher, statement.signature),
        )
        for place in outcome.placements:
            where = (place.room_id, publisher, name)
            replaced = self._db.execute(
                "SELECT id FROM placements WHERE room_id = ? AND publisher = ? AND name = ?", where
            ).fetchone()
            self._db.execute(
                "INSERT OR REPLACE INTO placements VALUES (?, ?, ?, ?, ?, ?)",
                (*where, statement.id, place.sequence, held and statement.kind is StatementKind.ENTRY),
            )
            self._advance(place.room_id, place.sequence)
            if replaced is not None:
                self._db.execute(f"{_DROP_ORPHANS} AND id = ?", replaced)
        self._raise_version(publisher, name, statement.version, statement.id)

    def _raise_version(self, publisher: bytes, name: str, version: int, statement_id: bytes) -> None:
        self._db.execute(
            "INSERT INTO versions VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET version = excluded.version, "
            "id = excluded.id WHERE excluded.version > versions.version",
            (publisher, name, version, statement_id),
        )

    def _advance(self, room_id: bytes, sequence: int) -> None:
        self._db.execute(
            "UPDATE rooms SET sequence = max(sequence, ?) WHERE room_id = ?",
            (sequence, room_id),
        )
