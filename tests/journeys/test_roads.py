"""One peer by two roads is one peer, and one road takes over when the other one is gone."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio
import anyio.abc

from hyperdht import testnet
from sidecar.events import PeerConnected
from tests.journeys.inside import IN_PROCESS, Node, team, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = IN_PROCESS


class Cable:
    """A TCP port in front of another one, which can be cut: connections end, and new ones are refused."""

    def __init__(self, tasks: anyio.abc.TaskGroup, target: str) -> None:
        self._tasks = tasks
        self._target = target
        self._port = 0
        self._scope = anyio.CancelScope()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._port}"

    async def plug_in(self) -> None:
        await self._tasks.start(self._run)

    def cut(self) -> None:
        self._scope.cancel()

    async def _run(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        with anyio.CancelScope() as self._scope:
            listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=self._port, reuse_port=True)
            async with listener:
                self._port = listener.extra(anyio.abc.SocketAttribute.local_port)
                task_status.started()
                await listener.serve(self._carry)

    async def _carry(self, near: anyio.abc.SocketStream) -> None:
        host, _, port = self._target.partition(":")
        async with near, await anyio.connect_tcp(host, int(port)) as far, anyio.create_task_group() as tasks:
            tasks.start_soon(_pour, near, far, tasks.cancel_scope)
            tasks.start_soon(_pour, far, near, tasks.cancel_scope)


async def _pour(source: anyio.abc.SocketStream, sink: anyio.abc.SocketStream, over: anyio.CancelScope) -> None:
    try:
        async for data in source:
            await sink.send(data)
    except anyio.BrokenResourceError:
        pass
    over.cancel()


@asynccontextmanager
async def two_roads(folder: Path, files: Path) -> AsyncIterator[tuple[Node, Node, Cable]]:
    """Two members that know each other's place in the DHT and in the local network."""
    async with testnet(4) as bootstrap, anyio.create_task_group() as tasks, team(folder, files) as members:
        left = await members.join("left", no_dht=False, bootstrap=tuple(bootstrap))
        cable = Cable(tasks, left.address)
        await cable.plug_in()
        right = await members.join("right", no_dht=False, bootstrap=tuple(bootstrap), peers=(cable.address,))
        yield left, right, cable
        cable.cut()


def road(node: Node) -> str | None:
    """How a node reaches the only member it is connected with."""
    proved = [each for each in node.parts.network.connections.values() if each.proved]
    assert len(proved) <= 1, "one peer counts twice"
    return proved[0].road if proved else None


async def test_when_the_local_network_is_gone_the_internet_takes_over_and_the_other_way_round(
    tmp_path: Path, files: Path
) -> None:
    async with two_roads(tmp_path, files) as (left, right, cable):
        for _ in range(2):
            await until(lambda: road(left) == road(right) == "lan", 30)
            cable.cut()
            await until(lambda: road(left) == road(right) == "direct", 30)
            await cable.plug_in()
        await until(lambda: road(left) == road(right) == "lan", 30)
        connected = await right.happened(PeerConnected, lambda event: event.peer == left.key.hex())
        assert connected.room == next(iter(right.parts.network.rooms)).hex()


async def test_a_member_lost_on_both_roads_is_met_again_on_either(tmp_path: Path, files: Path) -> None:
    async with two_roads(tmp_path, files) as (left, right, cable):
        await until(lambda: road(left) == road(right) == "lan", 30)
        cable.cut()
        await until(lambda: road(left) == road(right) == "direct", 30)
        for connection in list(left.parts.network.connections.values()):
            await connection.close("a line that breaks")
        await until(lambda: road(left) == road(right) == "direct", 30)
