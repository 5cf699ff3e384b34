"""Rooms over a DHT: machines that share no network meet by the code of a room alone."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio
import anyio.abc
import pytest

from hyperdht import testnet
from sidecar.errors import ConsentNeeded
from tests.journeys.inside import Node, Team, team, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def over_dht(folder: Path, files: Path) -> AsyncIterator[tuple[Team, Callable[..., Any]]]:
    """A team whose members know a DHT and none of each other's addresses."""
    async with testnet(4) as bootstrap, team(folder, files) as members:

        async def join(name: str, **settings: Any) -> Node:
            node = await members.join(name, no_dht=False, bootstrap=tuple(bootstrap), peers=(), **settings)
            return node

        yield members, join


def connected(node: Node) -> int:
    return len(node.parts.network.connections)


async def test_members_of_a_private_room_meet_and_one_gets_what_the_other_shares(tmp_path: Path, files: Path) -> None:
    async with over_dht(tmp_path, files) as (members, join):
        left = await join("left")
        right = await join("right")
        await until(lambda: connected(left) == connected(right) == 1)
        assert not next(iter(left.parts.network.connections.values())).is_lan
        await members.publish(left)
        await right.row("sql-lora", sources=1)
        done = await right.got("sql-lora")
        assert done.result is not None


async def test_a_member_that_restarts_is_found_again(tmp_path: Path, files: Path) -> None:
    async with over_dht(tmp_path, files) as (_, join):
        left = await join("left")
        right = await join("right")
        await until(lambda: connected(left) == connected(right) == 1)
        await next(iter(left.parts.network.connections.values())).close("a line that breaks")
        await until(lambda: connected(left) == connected(right) == 1)


async def test_who_leaves_the_room_is_not_in_the_topic_any_more(tmp_path: Path, files: Path) -> None:
    async with over_dht(tmp_path, files) as (_, join):
        left = await join("left")
        await join("right")
        await until(lambda: connected(left) == 1)
        await left.control.leave_room("team")
        await until(lambda: connected(left) == 0)


async def test_t21_nothing_is_sent_to_the_dht_before_a_room_on_the_internet_is_joined(
    tmp_path: Path, files: Path
) -> None:
    """The bootstrap node is a socket that counts what comes."""
    async with (
        await anyio.create_udp_socket(local_host="127.0.0.1", local_port=0) as counting,
        team(tmp_path, files) as all_,
    ):
        port = counting.extra(anyio.abc.SocketAttribute.local_port)
        node = await all_.join("alone", join=False, no_dht=False, bootstrap=(f"127.0.0.1:{port}",))
        await node.control.join_room("local", label=None, consent=False)
        with pytest.raises(ConsentNeeded, match="IP address"):
            await node.control.join_room("general", label=None, consent=False)
        with anyio.move_on_after(0.5) as silence:
            await counting.receive()
        assert silence.cancelled_caught
        await node.control.join_room("general", label=None, consent=True)
        with anyio.fail_after(5):
            await counting.receive()


async def test_with_no_dht_a_private_room_sends_nothing(tmp_path: Path, files: Path) -> None:
    async with (
        await anyio.create_udp_socket(local_host="127.0.0.1", local_port=0) as counting,
        team(tmp_path, files) as all_,
    ):
        port = counting.extra(anyio.abc.SocketAttribute.local_port)
        await all_.join("alone", no_dht=True, bootstrap=(f"127.0.0.1:{port}",))
        with anyio.move_on_after(0.5) as silence:
            await counting.receive()
        assert silence.cancelled_caught


async def test_doctor_says_how_others_reach_this_machine(tmp_path: Path, files: Path) -> None:
    async with over_dht(tmp_path, files) as (_, join):
        node = await join("alone")

        async def internet() -> bool:
            return any(line.name == "internet" and line.level == "ok" for line in await node.control.doctor())

        await until(internet)
