"""Whom a newcomer asks for what several members offer."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import anyio
import pytest

from sidecar.rooms import wants
from sidecar.rooms.wants import Wants

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sidecar.rooms.link import RoomLink

pytestmark = pytest.mark.anyio

ROOM = b"r" * 16
IDS = [bytes([number]) * 16 for number in range(4)]


@dataclass(eq=False)
class Member:
    """A link, as far as it matters here."""

    offers: dict[bytes, bool]
    wanted: list[bytes] = field(default_factory=list)
    room_id: bytes = ROOM

    @property
    def session(self) -> Any:
        return self

    def want(self, short_ids: list[bytes]) -> None:
        self.wanted += short_ids

    def flush(self) -> None:
        pass


@dataclass(eq=False)
class Room:
    """Members who offer all of `IDS`, and what is in our catalogue."""

    members: list[Member]
    present: set[bytes] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.wants = Wants(
            links=lambda room_id: links(*self.members), missing=lambda room_id, each: each not in self.present
        )

    def all_offer(self) -> None:
        for link in links(*self.members):
            self.wants.ask(link, IDS)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.wants.run)
            yield
            tasks.cancel_scope.cancel()


def links(*members: Member) -> list[RoomLink]:
    return cast("list[RoomLink]", list(members))


def link(member: Member) -> RoomLink:
    return cast("RoomLink", member)


def room_of(count: int) -> Room:
    return Room([Member(dict.fromkeys(IDS, False)) for _ in range(count)])


async def test_what_all_offer_is_asked_of_one() -> None:
    room = room_of(3)
    room.all_offer()
    assert [member.wanted for member in room.members] == [IDS, [], []]


async def test_t20_who_offers_and_does_not_send_costs_one_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wants, "PATIENCE_S", 0.05)
    room = room_of(3)
    silent, *others = room.members
    async with room.running():
        room.all_offer()
        room.wants.arrived(link(silent), IDS[:1])
        room.present.add(IDS[1])
        with anyio.fail_after(5):
            while not others[1].wanted:  # noqa: ASYNC110
                await anyio.sleep(0.01)
    assert [member.wanted for member in others] == [IDS[2:], IDS[2:]], "not what came, whatever became of it"


async def test_t20_who_trickles_is_not_waited_for_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wants, "PATIENCE_S", 0.05)
    monkeypatch.setattr(wants, "LONGEST_PATIENCE_S", 0.3)
    room = room_of(2)
    trickling, other = room.members
    begun = anyio.current_time()
    async with room.running():
        room.all_offer()
        with anyio.fail_after(5):
            while not other.wanted:
                room.wants.arrived(link(trickling), IDS[:1])
                await anyio.sleep(0.01)
    assert anyio.current_time() - begun >= 0.3
    assert other.wanted == IDS[1:]


async def test_others_are_asked_at_once_when_the_one_refuses_or_goes() -> None:
    room = room_of(2)
    first, second = room.members
    room.all_offer()
    room.wants.refused(link(first), IDS[0])
    assert second.wanted == IDS[:1]
    room.members.remove(first)
    room.wants.lost(link(first))
    assert second.wanted == IDS


async def test_a_refusal_by_somebody_else_changes_nothing() -> None:
    room = room_of(2)
    room.all_offer()
    room.wants.refused(link(room.members[1]), IDS[0])
    assert [member.wanted for member in room.members] == [IDS, []]


async def test_t20_offers_without_end_are_asked_for_but_not_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wants, "MAX_ASKED", 3)
    first, second = Member(dict.fromkeys(IDS, True)), Member(dict.fromkeys(IDS, True))
    room = Room([first, second])
    room.all_offer()
    assert first.wanted == IDS
    assert second.wanted == IDS[3:], "beyond what is remembered each of those who offer is asked"
    assert len(room.wants._asked) == 3
