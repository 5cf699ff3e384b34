"""The other members of the room that `bench/room.py` measures, all in one process, each on an address of its own.

They know only the measured sidecar and not one another: they announce the room and look for nobody. What the measured
one does with them is what it does in any room; what they would do among themselves is not its cost.

Told in one line of JSON on standard input what to be; tells on standard output, a line of JSON each, where the DHT is
and when everybody is there; ends with its standard input.
"""

from __future__ import annotations

import json
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import anyio
import anyio.abc
from anyio import to_thread

from hyperdht import HyperDHT, Hyperswarm, KeyPair
from hyperdht.io.testnet import bootstrapper
from sidecar.rooms.internet import KEEP_ALIVE_S
from sidecar.rooms.key import RoomKey
from sidecar.rooms.lan import MAX_FRAME_BYTES, LanNetwork
from sidecar.rooms.mdns import LanPeer, MdnsDiscovery
from tests.journeys.crowd import Member, made_entries, member

if TYPE_CHECKING:
    from hyperdht import SecretStream
    from hyperdht.io.udx_stream import UdxByteStream

KNOWN_NODES = 3


class Crowd:
    """All of them."""

    def __init__(self, wanted: dict[str, Any], tasks: anyio.abc.TaskGroup, stack: AsyncExitStack) -> None:
        self._room = RoomKey(bytes.fromhex(wanted["room"]))
        self._hosts: list[str] = wanted["members"]
        self._nodes: list[str] = wanted["nodes"]
        self._count: int = wanted["entries"]
        self._folder = Path(wanted["folder"])
        self._only: str = wanted["daemon"]
        self._tasks = tasks
        self._stack = stack

    async def start(self) -> None:
        bootstrap = await self._dht()
        tell(bootstrap=bootstrap)
        pairs = [KeyPair.generate() for _ in self._hosts]
        entries = made_entries(self._count, pairs)
        swarms = []
        for host, pair in zip(self._hosts, pairs, strict=True):
            made = await self._stack.enter_async_context(
                member(self._folder / host, self._room, entries, key_pair=pair)
            )
            if bootstrap:
                swarms.append(await self._on_the_internet(made, host, bootstrap))
            else:
                await self._on_the_local_network(made, host)
        for swarm in swarms:
            await swarm.flush()
        tell(ready=True)

    async def _dht(self) -> list[str]:
        addresses: list[str] = []
        for host in self._nodes:
            node = await self._stack.enter_async_context(bootstrapper(host, bootstrap=addresses[:1]))
            await node.fully_bootstrapped()
            addresses.append(f"{host}:{node.port}")
        return addresses[:KNOWN_NODES]

    async def _on_the_internet(self, made: Member, host: str, bootstrap: list[str]) -> Hyperswarm:
        node = await self._stack.enter_async_context(
            HyperDHT(
                bootstrap=bootstrap,
                key_pair=made.key_pair,
                host=host,
                max_message_bytes=MAX_FRAME_BYTES,
                keep_alive_s=KEEP_ALIVE_S,
            )
        )
        swarm = await self._stack.enter_async_context(Hyperswarm(dht=node, key_pair=made.key_pair))

        async def run(stream: SecretStream) -> None:
            address = cast("UdxByteStream", stream.raw_stream).remote_address
            await made.network.run_connection(stream, f"{address.host}:{address.port}", is_lan=False)

        async def take() -> None:
            async for stream in swarm.connections:
                self._tasks.start_soon(run, stream)

        await swarm.join(self._room.topic, server=True, client=False)
        self._tasks.start_soon(take)
        return swarm

    async def _on_the_local_network(self, made: Member, host: str) -> None:
        lan = LanNetwork(made.key_pair, made.network.run_connection, connected=made.network.is_connected)
        _, port = await lan.listen(host, 0)

        def found(peer: LanPeer) -> None:
            if self._only in peer.addresses:
                lan.mdns_found(peer)

        self._tasks.start_soon(lan.run, ())
        await self._stack.enter_async_context(
            MdnsDiscovery(
                port=port,
                addresses=[host],
                tags=lambda nonce: [self._room.mdns_tag(nonce).hex()],
                found=found,
                interfaces=[host],
            )
        )


def tell(**what: object) -> None:
    print(json.dumps(what), flush=True)


async def main() -> None:
    wanted = json.loads(sys.stdin.readline())
    async with anyio.create_task_group() as tasks, AsyncExitStack() as stack:
        await Crowd(wanted, tasks, stack).start()
        await to_thread.run_sync(sys.stdin.read)
        tasks.cancel_scope.cancel()


if __name__ == "__main__":
    anyio.run(main)
