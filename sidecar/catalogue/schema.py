"""The journal's tables, and how an older file becomes a newer one.

`user_version` counts the scripts that ran. A script is never changed once released; a change of the tables is one more
script at the end. Each runs in a transaction with its new number, so a crash in between leaves the old file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import sqlite3

_FIRST = """
CREATE TABLE rooms (
    room_id BLOB PRIMARY KEY, label TEXT NOT NULL UNIQUE, kind TEXT NOT NULL, key BLOB NOT NULL, epoch BLOB NOT NULL,
    sequence INTEGER NOT NULL, joined_at REAL NOT NULL, share_all INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE statements (
    id BLOB PRIMARY KEY, kind INTEGER NOT NULL, raw BLOB NOT NULL, publisher BLOB NOT NULL, signature BLOB NOT NULL
);
CREATE TABLE placements (
    room_id BLOB NOT NULL REFERENCES rooms ON DELETE CASCADE, publisher BLOB NOT NULL, name TEXT NOT NULL,
    id BLOB NOT NULL REFERENCES statements, sequence INTEGER NOT NULL, held INTEGER NOT NULL,
    PRIMARY KEY (room_id, publisher, name)
) WITHOUT ROWID;
CREATE INDEX placements_by_statement ON placements (id);
CREATE TABLE versions (
    publisher BLOB NOT NULL, name TEXT NOT NULL, version INTEGER NOT NULL, id BLOB NOT NULL,
    PRIMARY KEY (publisher, name)
) WITHOUT ROWID;
CREATE TABLE shares (
    name TEXT PRIMARY KEY, digest TEXT NOT NULL, size INTEGER NOT NULL, source TEXT NOT NULL, is_path INTEGER NOT NULL,
    entry_id BLOB NOT NULL
) WITHOUT ROWID;
CREATE TABLE share_rooms (
    name TEXT NOT NULL REFERENCES shares ON DELETE CASCADE, room_id BLOB NOT NULL REFERENCES rooms ON DELETE CASCADE,
    PRIMARY KEY (name, room_id)
) WITHOUT ROWID;
CREATE TABLE installs (
    name TEXT PRIMARY KEY, digest TEXT NOT NULL, base_digest TEXT NOT NULL, route TEXT NOT NULL, entry_id BLOB NOT NULL,
    publisher BLOB NOT NULL, version INTEGER NOT NULL, manifest_digest TEXT NOT NULL, installed_at REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE held (digest TEXT PRIMARY KEY, path TEXT NOT NULL, size INTEGER NOT NULL, hashes BLOB NOT NULL);
CREATE TABLE publishers (
    key BLOB PRIMARY KEY, first_seen REAL NOT NULL, standing TEXT NOT NULL, label TEXT UNIQUE
) WITHOUT ROWID;
"""

# `rooms.share_all` was the first rule of auto-sync; it is read here for the last time.
_SYNC = """
CREATE TABLE sync_rules (
    id TEXT PRIMARY KEY, direction TEXT NOT NULL, room_id BLOB NOT NULL REFERENCES rooms ON DELETE CASCADE,
    publisher BLOB, name TEXT, base TEXT, max_bytes INTEGER, tag TEXT, per_hour INTEGER, created_at REAL NOT NULL
) WITHOUT ROWID;
INSERT INTO sync_rules (id, direction, room_id, created_at)
    SELECT lower(hex(randomblob(4))), 'share', room_id, joined_at FROM rooms WHERE share_all;
CREATE TABLE synced (
    publisher BLOB NOT NULL, name TEXT NOT NULL, version INTEGER NOT NULL, model TEXT NOT NULL, room_id BLOB NOT NULL,
    rule TEXT NOT NULL, size INTEGER NOT NULL, installed_at REAL NOT NULL, used_at REAL NOT NULL, state TEXT NOT NULL,
    PRIMARY KEY (publisher, name, version)
) WITHOUT ROWID;
ALTER TABLE installs ADD COLUMN adapter TEXT NOT NULL DEFAULT '';
"""

_ORCH_MIND = """
CREATE TABLE orch_mind_rooms (topic BLOB PRIMARY KEY, label TEXT NOT NULL UNIQUE, joined_at REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE orch_mind_shares (
    topic BLOB NOT NULL REFERENCES orch_mind_rooms ON DELETE CASCADE, name TEXT NOT NULL, source TEXT NOT NULL,
    base TEXT NOT NULL, PRIMARY KEY (topic, name)
) WITHOUT ROWID;
"""

# Pins outlive their room, as versions do: whoever leaves and comes back is not told anew whose name is whose.
_TRUST = """
CREATE TABLE pins (
    room_id BLOB NOT NULL, name TEXT NOT NULL, key BLOB NOT NULL, pinned_at REAL NOT NULL, PRIMARY KEY (room_id, name)
) WITHOUT ROWID;
ALTER TABLE rooms ADD COLUMN policy TEXT NOT NULL DEFAULT 'warn';
"""

_BLOCK_LISTS = """
CREATE TABLE block_lists (key BLOB PRIMARY KEY, version INTEGER NOT NULL, blocked BLOB NOT NULL) WITHOUT ROWID;
"""

# Members go with their room: a code that was given up must not keep a list of who used it.
_MEMBERS = """
CREATE TABLE members (
    room_id BLOB NOT NULL REFERENCES rooms ON DELETE CASCADE, key BLOB NOT NULL, first_seen REAL NOT NULL,
    last_seen REAL NOT NULL, way TEXT NOT NULL, failures INTEGER NOT NULL, PRIMARY KEY (room_id, key)
) WITHOUT ROWID;
"""

_MODEL_RULES = "ALTER TABLE sync_rules ADD COLUMN models INTEGER NOT NULL DEFAULT 0;"

SCRIPTS = (_FIRST, _SYNC, _ORCH_MIND, _TRUST, _BLOCK_LISTS, _MEMBERS, _MODEL_RULES)


def migrate(connection: sqlite3.Connection) -> bool:
    """Bring the tables up to date; False if a newer version of ollaswarm made the file."""
    (done,) = connection.execute("PRAGMA user_version").fetchone()
    if done > len(SCRIPTS):
        return False
    for number, script in enumerate(SCRIPTS[done:], done + 1):
        connection.executescript(f"BEGIN IMMEDIATE; {script} PRAGMA user_version = {number}; COMMIT;")
    return True
