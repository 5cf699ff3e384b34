"""Members of a room on the internet find each other although its topic does not help."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from hyperdht import testnet
from sidecar.catalogue.rows import Way
from tests.journeys.inside import IN_PROCESS, Node, Team, running, team, until
from tests.journeys.withheld import Surrounded

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

pytestmark = IN_PROCESS
FOREVER = 1e12
"""By then everything is due that ever will be."""


@pytest.fixture
def topics(monkeypatch: pytest.MonkeyPatch) -> Surrounded:
    return Surrounded().install(monkeypatch)


@asynccontextmanager
async def over_dht(folder: Path, files: Path) -> AsyncIterator[tuple[Team, Callable[..., Any]]]:
    """A team whose members know a DHT and none of each other's addresses."""
    async with testnet(4) as bootstrap, team(folder, files) as members:

        async def join(name: str, **settings: Any) -> Node:
            return await members.join(name, no_dht=False, bootstrap=tuple(bootstrap), peers=(), **settings)

        yield members, join


def members_of(node: Node) -> set[bytes]:
    return {key for key, connection in node.parts.network.connections.items() if connection.proved}


async def test_t17_a_room_whose_topic_is_surrounded_is_found_through_remembered_members(
    tmp_path: Path, files: Path, topics: Surrounded
) -> None:
    """Met once, the topic's nodes then tell of strangers only; after a restart the download still finishes."""
    async with testnet(4) as bootstrap, team(tmp_path, files) as members:
        settings: dict[str, Any] = {"no_dht": False, "bootstrap": tuple(bootstrap), "peers": ()}
        publisher = await members.join("publisher", **settings)
        ollama = await members.ollama("reader")
        async with running(tmp_path / "reader", ollama, **settings) as reader:
            await members.enter(reader)
            await until(lambda: members_of(reader) == {publisher.key})
            room_id = next(iter(reader.parts.network.rooms))

            async def remembered() -> bool:
                rows = await reader.parts.journal.run(lambda journal: journal.members())
                return [(row.room_id, row.key, row.way) for row in rows] == [(room_id, publisher.key, Way.DIRECT)]

            await until(remembered)
        await until(lambda: not members_of(publisher))
        topics.hides = lambda who, whom: True
        async with running(tmp_path / "reader", ollama, **settings) as reader:
            await members.publish(publisher)
            await reader.row("sql-lora", sources=1)
            done = await reader.got("sql-lora")
            assert done.result is not None
            assert topics.hidden, "the topic did not lie"


async def test_members_tell_of_members_whom_the_topic_withholds(
    tmp_path: Path, files: Path, topics: Surrounded
) -> None:
    """Everybody finds only the first one in the topic, and in the end everybody is connected with everybody."""
    async with over_dht(tmp_path, files) as (_, join):
        first = await join("first")
        topics.hides = lambda who, whom: first.key not in (who, whom)
        others = [await join(name) for name in ("second", "third", "fourth")]
        everybody = {node.key for node in (first, *others)}
        for node in (first, *others):
            await until(lambda node=node: members_of(node) == everybody - {node.key})  # type: ignore[misc]
        assert topics.hidden


async def test_t21_members_of_one_room_are_not_told_to_another(tmp_path: Path, files: Path, topics: Surrounded) -> None:
    """One is in two rooms; who is in either learns nothing of who is in the other."""
    async with over_dht(tmp_path, files) as (_, join):
        between = await join("between")
        other = await between.control.create_room("other")
        topics.hides = lambda who, whom: between.key not in (who, whom)
        of_team = await join("of-team")
        of_other = await join("of-other", join=False)
        await of_other.control.join_room(other.code, label="other", consent=False)
        await until(lambda: members_of(between) == {of_team.key, of_other.key})
        introductions = between.parts.network.acquaintances.introductions
        await until(lambda: all(introductions.presence_of(each.key) for each in (of_team, of_other)))
        for node in (of_team, of_other):
            acquaintances = node.parts.network.acquaintances
            await until(lambda known=acquaintances.introductions: known.presence_of(between.key) is not None)  # type: ignore[misc]
            assert acquaintances.plan.take(FOREVER) == []
            assert members_of(node) == {between.key}


async def test_a_member_that_is_blocked_is_not_dialled_again(tmp_path: Path, files: Path, topics: Surrounded) -> None:
    async with over_dht(tmp_path, files) as (_, join):
        left, right = await join("left"), await join("right")
        await until(lambda: members_of(left) == {right.key})
        topics.hides = lambda who, whom: True
        await left.control.block(right.key.hex())
        await until(lambda: not members_of(left))
        plan = left.parts.network.acquaintances.plan
        assert plan.take(FOREVER) == []


async def test_a_room_that_was_left_leaves_no_members_behind(tmp_path: Path, files: Path) -> None:
    async with over_dht(tmp_path, files) as (_, join):
        left, right = await join("left"), await join("right")
        await until(lambda: members_of(left) == {right.key})
        await left.control.leave_room("team")
        assert await left.parts.journal.run(lambda journal: journal.members()) == []
        assert left.parts.network.acquaintances.plan.take(FOREVER) == []
