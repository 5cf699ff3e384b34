"""Being found under topics and by key, and finding others: what a swarm has its node do."""

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import anyio
from anyio.abc import TaskStatus

from ..addresses import Address
from ..dht.peers_found import PeersFound
from ..errors import HyperDHTError
from ..swarm import Discovery, Refresh, RefreshMode
from .swarm_node import SwarmServer

if TYPE_CHECKING:
    from .swarm import Hyperswarm

log = logging.getLogger(__name__)

UNANNOUNCE_TIMEOUT_S = 15.0
NETWORK_ERRORS = (
    HyperDHTError,
    OSError,
    anyio.EndOfStream,
    anyio.BrokenResourceError,
    anyio.ClosedResourceError,
)


class Presence:
    """One per swarm."""

    def __init__(self, swarm: "Hyperswarm") -> None:
        self._swarm = swarm
        self._walks: dict[Refresh, anyio.CancelScope] = {}
        self._announced_relays: dict[bytes, frozenset[Address]] = {}
        self._server: SwarmServer | None = None
        self._lock = anyio.Lock()
        self._listens = False

    async def refresh(self, refresh: Refresh) -> None:
        """Do what `RefreshWanted` asks for."""
        discovery = self._swarm.machine.topics.get(refresh.topic)
        if discovery is None or discovery.current is not refresh:
            return  # unwanted before its task has started
        with anyio.CancelScope() as self._walks[refresh]:
            try:
                closest_nodes = await self._walk(refresh)
            except NETWORK_ERRORS as error:
                log.debug("a walk for topic %s failed: %s", refresh.topic.hex()[:8], error)
                self._swarm.machine.refresh_failed(refresh, self._swarm.now())
            else:
                self._swarm.machine.refreshed(refresh, closest_nodes, self._swarm.now())
        del self._walks[refresh]
        self._swarm.pump()

    def stop(self, refresh: Refresh) -> None:
        """Do what `RefreshUnwanted` asks for."""
        if refresh in self._walks:
            self._walks[refresh].cancel()

    async def _walk(self, refresh: Refresh) -> Sequence[Address]:
        def found(peers: PeersFound, now: float) -> None:
            self._swarm.machine.found(refresh, peers.peers, self._swarm.now())
            self._swarm.pump()

        topic, seeds = refresh.topic, refresh.closest_nodes
        if refresh.mode is RefreshMode.LOOKUP:
            return await self._swarm.dht.search(topic, seeds=seeds, on_peers=found)
        if refresh.mode is RefreshMode.LOOKUP_AND_UNANNOUNCE:
            return await self._swarm.dht.unannounce(
                topic, key_pair=self._swarm.key_pair, seeds=seeds, only_closest_nodes=False, on_peers=found
            )
        relays = (await self.listening()).relay_addresses
        # Nodes keep a record as it came first, so other relays have to be cleared in, too.
        clear = refresh.clear or self._announced_relays.get(topic) != frozenset(relays)
        closest_nodes = await self._swarm.dht.announce(
            topic, key_pair=self._swarm.key_pair, relay_addresses=relays, clear=clear, seeds=seeds, on_peers=found
        )
        self._announced_relays[topic] = frozenset(relays)
        return closest_nodes

    async def unannounce(self, discovery: Discovery) -> None:
        """Do what `UnannounceWanted` asks for."""
        self._announced_relays.pop(discovery.topic, None)
        try:
            with anyio.move_on_after(UNANNOUNCE_TIMEOUT_S):
                await self._swarm.dht.unannounce(
                    discovery.topic,
                    key_pair=self._swarm.key_pair,
                    seeds=discovery.closest_nodes,
                    only_closest_nodes=discovery.only_closest_nodes,
                )
        except NETWORK_ERRORS as error:
            log.debug("cannot take back the announce of topic %s: %s", discovery.topic.hex()[:8], error)
        finally:
            self._swarm.machine.unannounced(discovery, self._swarm.now())
            self._swarm.pump()

    async def listening(self) -> SwarmServer:
        """Our server, which is started by whoever needs it first."""
        async with self._lock:
            server = self._server
            if server is None:
                server = self._server = cast("SwarmServer", await self._swarm.tasks.start(self._serve))
            self._listens = True
            return server

    async def listen_again(self) -> None:
        """Listen if we did before `withdraw`."""
        if not self._listens:
            return
        try:
            await self.listening()
        except NETWORK_ERRORS as error:
            log.debug("cannot listen yet: %s", error)  # the walks of the topics try again

    async def _serve(self, *, task_status: TaskStatus[SwarmServer]) -> None:
        async with self._swarm.dht.listen(
            key_pair=self._swarm.key_pair,
            firewall=self._swarm.refuses,
            relay_through=lambda: self._swarm.relay_for(False),
        ) as server:
            task_status.started(server)
            async for stream in server:
                self._swarm.take_incoming(stream)

    async def withdraw(self) -> None:
        """Wait until all announces that are being taken back are, and stop listening."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._swarm.until, lambda: self._swarm.machine.topics.quiet)
            server, self._server = self._server, None
            if server is not None:
                tasks.start_soon(server.aclose)
