from __future__ import annotations

import os
import random
import signal
import sqlite3
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from sidecar.catalogue.catalogue import Catalogue, Status
from sidecar.catalogue.journal import FILE_NAME, Journal
from sidecar.catalogue.restore import restore_catalogue
from sidecar.catalogue.rows import HeldRow, InstallRow, MemberRow, PublisherRow, RoomRow, ShareRow, Standing, Way
from sidecar.catalogue.schema import SCRIPTS
from sidecar.errors import ConfigError, RoomError
from tests.sidecar.catalogue.made import ALICE, BOB, NOW, entry, withdrawal

ROOM, OTHER, EPOCH = b"r" * 16, b"o" * 16, b"e" * 16
TEAM = RoomRow(ROOM, "team", "private", b"k" * 32, EPOCH, 0, 1.0)
LAN = RoomRow(OTHER, "local", "local", b"l" * 32, b"f" * 16, 0, 2.0)
KILLS = 12


def opened(folder: Path) -> Journal:
    return Journal.open(folder, now=lambda: NOW)


def with_rooms(folder: Path) -> tuple[Journal, Catalogue]:
    journal = opened(folder)
    journal.save_room(TEAM)
    journal.save_room(LAN)
    return journal, restore_catalogue(journal)[0]


def test_entries_survive_a_restart(tmp_path: Path) -> None:
    journal, catalogue = with_rooms(tmp_path)
    journal.record([catalogue.put(ROOM, entry(name=name), now=NOW) for name in "abc"])
    journal.record([catalogue.put(ROOM, entry(name="d"), now=NOW, held=True)], held=True)
    journal.record([catalogue.put(OTHER, entry(name="a"), now=NOW)])
    before = catalogue.changes_since(ROOM, EPOCH, 0, 99)
    journal.close()
    again, unreadable = restore_catalogue(opened(tmp_path))
    assert unreadable == 0
    assert again.changes_since(ROOM, EPOCH, 0, 99) == before
    assert again.position(ROOM) == catalogue.position(ROOM) == (EPOCH, 4)
    assert [e.name for e in again.entries(OTHER)] == ["a"]


def test_t15_replay_of_each_statement_after_a_restart_is_refused(tmp_path: Path) -> None:
    old, new, other = entry(version=1), entry(version=2), entry(name="taken-back", version=1)
    gone = withdrawal(name="taken-back", version=2)
    journal, catalogue = with_rooms(tmp_path)
    for statement in (old, new, other, gone):
        journal.record([catalogue.put(ROOM, statement, now=NOW)])
    journal.close()
    journal = opened(tmp_path)
    again, _ = restore_catalogue(journal)
    for room in (ROOM, OTHER):
        assert again.put(room, old, now=NOW).status is Status.OLDER
        assert again.put(room, other, now=NOW).status is Status.OLDER
        assert again.put(room, entry(version=2, description="forged twin"), now=NOW).status is Status.CONFLICT
    assert again.put(ROOM, new, now=NOW).status is Status.KNOWN
    assert again.put(ROOM, gone, now=NOW).status is Status.KNOWN
    assert again.entries(ROOM) == [new]


def test_t15_versions_outlive_their_room(tmp_path: Path) -> None:
    journal, catalogue = with_rooms(tmp_path)
    journal.record([catalogue.put(ROOM, entry(version=7), now=NOW)])
    journal.remove_room(ROOM)
    journal.close()
    journal = opened(tmp_path)
    assert [room.label for room in journal.rooms()] == ["local"]
    assert list(journal.statements(ROOM)) == []
    again, _ = restore_catalogue(journal)
    assert again.put(OTHER, entry(version=6), now=NOW).status is Status.OLDER


def test_superseded_and_expired_statements_leave_no_bytes_behind(tmp_path: Path) -> None:
    journal, catalogue = with_rooms(tmp_path)
    for version in range(1, 5):
        journal.record([catalogue.put(ROOM, entry(version=version), now=NOW)])
    limited = entry(name="limited", expires="2026-12-01T00:00:00Z")
    journal.record([catalogue.put(ROOM, limited, now=NOW)])
    journal.remove_statements(e.id for e in catalogue.prune_expired(NOW * 2))
    journal.close()
    with sqlite3.connect(tmp_path / FILE_NAME) as raw:
        assert raw.execute("SELECT count(*) FROM statements").fetchone() == (1,)
    raw.close()


def test_holding_survives_a_restart(tmp_path: Path) -> None:
    journal, catalogue = with_rooms(tmp_path)
    signed = entry()
    journal.record([catalogue.put(ROOM, signed, now=NOW)])
    changes = catalogue.set_held(signed.entry.blob.digest, True)
    journal.set_held([(place.room_id, place.sequence, e.id) for place, e in changes], True)
    again, _ = restore_catalogue(journal)
    assert again.changes_since(ROOM, EPOCH, 0, 9) == catalogue.changes_since(ROOM, EPOCH, 0, 9)
    assert journal.rooms()[0].sequence == 2


def test_rooms_keep_their_place_when_changed(tmp_path: Path) -> None:
    journal, catalogue = with_rooms(tmp_path)
    journal.record([catalogue.put(ROOM, entry(), now=NOW)])
    journal.save_room(RoomRow(ROOM, "renamed", "private", b"k" * 32, EPOCH, 0, 1.0))
    assert journal.rooms()[0] == RoomRow(ROOM, "renamed", "private", b"k" * 32, EPOCH, 1, 1.0)
    with pytest.raises(RoomError, match="renamed"):
        journal.save_room(RoomRow(b"x" * 16, "renamed", "private", b"k" * 32, EPOCH, 0, 1.0))
    assert len(journal.rooms()) == 2


def test_shares_installs_blobs_and_publishers(tmp_path: Path) -> None:
    journal, _ = with_rooms(tmp_path)
    share = ShareRow("sql", "sha256:" + "1" * 64, 10, "sql:latest", False, b"i" * 32, (OTHER, ROOM))
    install = InstallRow("sql:v1", share.digest, "sha256:" + "2" * 64, "pull", b"i" * 32, b"p" * 32, 1, "sha256:m", 5.0)
    held = HeldRow(share.digest, "/data/blob", 10, b"h" * 32)
    publisher = PublisherRow(b"p" * 32, 5.0, Standing.BLOCKED, "alice")
    for _ in range(2):  # each save replaces
        journal.save_share(share)
        journal.save_install(install)
        journal.save_held(held)
        journal.save_publisher(publisher)
    journal.close()
    journal = opened(tmp_path)
    assert journal.shares() == [share]
    assert journal.installs() == [install]
    assert journal.held() == [(held.digest, held.path, held.size)]
    assert journal.held_blob(held.digest) == held
    assert journal.held_blob("sha256:none") is None
    assert journal.publishers() == [publisher]
    journal.remove_room(OTHER)
    assert journal.shares()[0].rooms == (ROOM,)
    journal.remove_share("sql")
    journal.remove_install("sql:v1")
    journal.remove_held(held.digest)
    assert (journal.shares(), journal.installs(), journal.held()) == ([], [], [])


def test_members_survive_a_restart_and_go_with_their_room(tmp_path: Path) -> None:
    journal, _ = with_rooms(tmp_path)
    kept = MemberRow(ROOM, b"1" * 32, 1.0, 2.0, Way.DIRECT)
    other = MemberRow(OTHER, b"1" * 32, 1.0, 2.0, Way.LAN, 3)
    journal.save_members([kept, other, MemberRow(ROOM, b"2" * 32, 1.0, 2.0, Way.RELAYED)])
    changed = replace(kept, last_seen=9.0)
    journal.save_members([changed, MemberRow(b"?" * 16, b"1" * 32, 1.0, 2.0, Way.LAN)], [(ROOM, b"2" * 32)])
    journal.close()
    journal = opened(tmp_path)
    assert journal.members() == [other, changed]
    journal.remove_room(ROOM)
    assert journal.members() == [other]
    journal.replace_room(OTHER, RoomRow(b"n" * 16, "new", "private", b"n" * 32, EPOCH, 0, 3.0))
    assert journal.members() == []


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    journal, catalogue = with_rooms(tmp_path)
    good = catalogue.put(ROOM, entry(name="good"), now=NOW)
    catalogue.open_room(b"unknown room....", epoch=EPOCH)
    bad = catalogue.put(b"unknown room....", entry(name="bad"), now=NOW)
    with pytest.raises(sqlite3.IntegrityError):
        journal.record([good, bad])
    assert list(journal.statements(ROOM)) == []
    assert list(journal.versions()) == []
    journal.record([good])
    assert len(list(journal.statements(ROOM))) == 1


@pytest.mark.skipif(os.name != "posix", reason="file modes mean nothing here")
def test_t11_file_with_room_keys_is_private(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        with_rooms(tmp_path)
    finally:
        os.umask(old)
    for path in tmp_path.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path.name
    (tmp_path / FILE_NAME).chmod(0o644)
    opened(tmp_path)
    assert stat.S_IMODE((tmp_path / FILE_NAME).stat().st_mode) == 0o600


@pytest.mark.parametrize("damage", ["garbage", "cut", "middle"])
def test_damaged_file_is_moved_aside_and_begun_anew(tmp_path: Path, damage: str) -> None:
    journal, catalogue = with_rooms(tmp_path)
    journal.record([catalogue.put(ROOM, entry(name=f"n{n}", card="x" * 5_000), now=NOW) for n in range(50)])
    journal.close()
    path = tmp_path / FILE_NAME
    content = bytearray(path.read_bytes())
    if damage == "garbage":
        content[:] = b"this is not a database" * 500
    elif damage == "cut":
        del content[len(content) // 2 :]
    else:
        content[20_000:60_000] = os.urandom(40_000)
    path.write_bytes(content)
    journal = opened(tmp_path)
    assert journal.notice is not None
    assert str(tmp_path / f"{FILE_NAME}.damaged-{int(NOW)}") in journal.notice
    assert (tmp_path / f"{FILE_NAME}.damaged-{int(NOW)}").read_bytes() == content
    assert journal.rooms() == []
    journal.save_room(TEAM)
    journal.close()
    assert opened(tmp_path).notice is None


def test_newer_file_is_refused_and_kept(tmp_path: Path) -> None:
    opened(tmp_path).close()
    with sqlite3.connect(tmp_path / FILE_NAME) as raw:
        raw.execute(f"PRAGMA user_version = {len(SCRIPTS) + 1}")
    raw.close()
    with pytest.raises(ConfigError, match="newer version"):
        opened(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]


def test_unreadable_folder_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be opened"):
        opened(tmp_path / "missing")


def test_every_script_of_the_schema_runs_from_every_older_one(tmp_path: Path) -> None:
    for done in range(len(SCRIPTS) + 1):
        folder = tmp_path / str(done)
        folder.mkdir()
        with sqlite3.connect(folder / FILE_NAME) as raw:
            for script in SCRIPTS[:done]:
                raw.executescript(script)
            raw.execute(f"PRAGMA user_version = {done}")
        raw.close()
        journal = opened(folder)
        journal.save_room(TEAM)
        assert journal.rooms() == [TEAM]


def test_kill_9_in_the_middle_of_writes_loses_nothing_committed(tmp_path: Path) -> None:
    chance = random.Random(9)
    for _ in range(KILLS):
        command = [sys.executable, "-m", "tests.sidecar.catalogue.journal_writer", str(tmp_path)]
        writer = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[3])
        assert writer.stdout is not None
        committed = 0
        for _ in range(chance.randint(1, 12)):
            committed = int(writer.stdout.readline())
        writer.send_signal(signal.SIGKILL if os.name == "posix" else signal.SIGTERM)
        rest = writer.stdout.read().split()
        writer.stdout.close()
        writer.wait()
        committed = max([committed, *map(int, rest[:-1])])
        journal = opened(tmp_path)
        assert journal.notice is None
        versions = {row.version for row in journal.versions()}
        assert len(versions) == 1, "a batch is there whole or not at all"
        assert versions.pop() >= committed
        catalogue, unreadable = restore_catalogue(journal)
        assert unreadable == 0
        entries = catalogue.entries(b"r" * 16)
        assert {e.publisher for e in entries} == {ALICE.public_key}
        assert len(entries) == 20
        # Only of what was told: a kill between the two writes of a version leaves its blob out for good.
        assert not committed or journal.held_blob(f"sha256:{committed:064x}") is not None
        journal.close()


def test_publisher_labels_are_unique_per_key(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    journal.save_publisher(PublisherRow(ALICE.public_key, 1.0))
    journal.save_publisher(PublisherRow(BOB.public_key, 1.0))
    assert len(journal.publishers()) == 2
