from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import pytest

from sidecar.catalogue.journal import Journal
from sidecar.catalogue.journal_thread import JournalThread
from sidecar.catalogue.rows import MemberRow, RoomRow, Way
from sidecar.rooms.members import MAX_MEMBERS_PER_ROOM, Members
from tests.journeys.inside import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.anyio
ROOM = b"r" * 16


def key(number: int) -> bytes:
    return number.to_bytes(32, "big")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    opened = Journal.open(tmp_path, now=lambda: 1.0)
    opened.save_room(RoomRow(ROOM, "team", "private", b"k" * 32, b"e" * 16, 0, 1.0))
    yield opened
    opened.close()


async def saved(members: Members, journal: Journal) -> list[MemberRow]:
    """What the journal has once `run` had its turn."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(members.run)
        await until(lambda: not members.unsaved)
        tasks.cancel_scope.cancel()
    return journal.members()


async def test_members_are_kept_with_what_became_of_them(journal: Journal) -> None:
    clock = Clock()
    members = Members(JournalThread(journal), wall_clock=clock)
    assert members.proved(ROOM, key(1), Way.LAN) is None
    members.proved(ROOM, key(2), Way.RELAYED)
    clock.now = 5.0
    members.lost(ROOM, key(1))
    members.failed(key(2))
    members.failed(key(3))
    expected = [MemberRow(ROOM, key(1), 0.0, 5.0, Way.LAN), MemberRow(ROOM, key(2), 0.0, 0.0, Way.RELAYED, 1)]
    assert await saved(members, journal) == expected
    again = Members(JournalThread(journal), wall_clock=clock)
    await again.restore()
    assert list(again.of(ROOM)) == expected
    clock.now = 9.0
    again.proved(ROOM, key(2), Way.DIRECT)
    assert again.of(ROOM)[1] == MemberRow(ROOM, key(2), 0.0, 9.0, Way.DIRECT)


async def test_t17_a_flood_of_members_does_not_displace_those_connected(journal: Journal) -> None:
    clock = Clock()
    members = Members(JournalThread(journal), wall_clock=clock)
    members.proved(ROOM, key(1), Way.DIRECT)
    members.proved(ROOM, key(2), Way.DIRECT)
    for number in range(100, 100 + 10 * MAX_MEMBERS_PER_ROOM):
        clock.now += 1
        members.proved(ROOM, key(number), Way.DIRECT)
        members.lost(ROOM, key(number))
    rows = await saved(members, journal)
    assert len(rows) == MAX_MEMBERS_PER_ROOM
    assert {key(1), key(2)} < {row.key for row in rows}


async def test_those_that_cannot_be_reached_go_first_then_the_oldest(journal: Journal) -> None:
    clock = Clock()
    members = Members(JournalThread(journal), wall_clock=clock)
    for number in range(MAX_MEMBERS_PER_ROOM):
        clock.now += 1
        members.proved(ROOM, key(number), Way.DIRECT)
        members.lost(ROOM, key(number))
    members.failed(key(9))
    assert members.proved(ROOM, key(1000), Way.DIRECT) == key(9)
    assert members.proved(ROOM, key(1001), Way.DIRECT) == key(0)
    assert members.rooms_of(key(9)) == set()


async def test_when_all_are_connected_a_newcomer_is_carried_but_not_remembered(journal: Journal) -> None:
    members = Members(JournalThread(journal), wall_clock=Clock())
    for number in range(MAX_MEMBERS_PER_ROOM):
        members.proved(ROOM, key(number), Way.DIRECT)
    assert members.proved(ROOM, key(1000), Way.DIRECT) == key(1000)
    assert members.rooms_of(key(1000)) == {ROOM}, "it is a member as long as it is connected"
    members.lost(ROOM, key(1000))
    assert members.rooms_of(key(1000)) == set()


async def test_a_room_that_was_left_is_forgotten_whatever_was_about_to_be_written(journal: Journal) -> None:
    members = Members(JournalThread(journal), wall_clock=Clock())
    members.proved(ROOM, key(1), Way.DIRECT)
    members.left(ROOM)
    journal.remove_room(ROOM)
    assert await saved(members, journal) == []
    assert members.rooms_of(key(1)) == set()
