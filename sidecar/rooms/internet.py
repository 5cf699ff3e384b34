"""Rooms on the internet: a Hyperswarm in the topics of the general room and of private ones.

What runs over its connections is `network.py`'s business, as with those of the local network. While no room wants it there is
no swarm, and not one packet leaves for the DHT.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import anyio
import anyio.abc

from hyperdht import HyperDHT, Hyperswarm
from hyperdht.dht.constants import Firewall
from hyperdht.errors import HyperDHTError
from hyperdht.io.interfaces import EVERY_INTERFACE

from .lan import MAX_FRAME_BYTES
from .member_dialing import MemberDialing
from .member_relay import MemberRelay

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from hyperdht import KeyPair, SecretStream
    from hyperdht.addresses import Address
    from hyperdht.io.udx_stream import UdxByteStream

    from .acquaintances import Acquaintances
    from .network import JoinedRoom

log = logging.getLogger(__name__)

CLOSE_TIMEOUT_S = 2.5
"""To take announces back; the daemon as a whole ends within five seconds."""
KEEP_ALIVE_S = 10.0
"""Between signs of life of an idle connection, half as often as Hyperswarm's: ten idle peers cost 63 MB a day with its 5 s.
Mappings of UDP live 30 s and more, and a member that vanished is noticed within 30 s."""
RETRY_S = 10.0
"""After the sockets could not be opened, for instance because the machine has no network yet."""


@dataclass(frozen=True, slots=True)
class InternetInfo:
    """How the swarm is doing, for `doctor` and `status`."""

    enabled: bool
    """Whether the settings allow it."""
    running: bool
    """Whether a room wants it and its sockets are open."""
    online: bool = False
    """Whether nodes of the DHT answer."""
    topics: int = 0
    announced: int = 0
    """Topics in which the last walk went well."""
    connections: int = 0
    nat_address: Address | None = None
    """As others see us; port 0 when each sees another one."""
    reachable: bool = False
    """Whether strangers can connect without hole punching."""
    relaying: bool = False
    """Whether members are told that we relay for them."""
    relayed_pairs: int = 0
    """Their connections that go through here."""
    refused_relays: int = 0
    """Strangers that wanted to be carried."""
    problem: str = ""


class InternetRooms:
    """See the module docstring. One per daemon."""

    def __init__(
        self,
        key_pair: KeyPair,
        on_connection: Callable[[SecretStream, str], Awaitable[bool]],
        *,
        rooms: Callable[[], Iterable[JoinedRoom]],
        acquaintances: Acquaintances,
        bootstrap: Sequence[str] | None,
        max_peers: int,
        relay_key_pair: KeyPair | None,
        enabled: bool = True,
        host: str = EVERY_INTERFACE,
    ) -> None:
        """
        Args:
            key_pair: Our identity, which peers see.
            on_connection: Runs one connection (stream, "host:port") to its end.
            rooms: All rooms we are in.
            acquaintances: Members to dial by key, and to introduce ourselves to.
            bootstrap: Nodes to start from; None is the public network.
            relay_key_pair: For relaying between members that cannot reach each other; None to refuse to.
            enabled: False keeps everything silent.
            host: Where sockets are bound.
        """
        self._key_pair = key_pair
        self._on_connection = on_connection
        self._rooms = rooms
        self._acquaintances = acquaintances
        self._bootstrap = bootstrap
        self._max_peers = max_peers
        self._relay_key_pair = relay_key_pair
        self._enabled = enabled
        self._host = host
        self._changed = anyio.Event()
        self._node: HyperDHT | None = None
        self._swarm: Hyperswarm | None = None
        self._relay: MemberRelay | None = None
        self._problem = ""

    async def run(self) -> None:
        """Be in the topics of our rooms until cancelled."""
        while True:
            if not self._enabled or not self._topics():
                await self._change()
                continue
            try:
                await self._run_swarm()
            except* (HyperDHTError, OSError) as group:
                self._problem = str(group.exceptions[0])
                log.warning("rooms on the internet do not work: %s", self._problem)
            finally:
                self._swarm = self._node = self._relay = None
                self._acquaintances.present(None)
            with anyio.move_on_after(RETRY_S if self._problem else 0):
                await self._change()

    def rooms_changed(self) -> None:
        """A room was joined or left."""
        self._changed.set()

    @property
    def swarm(self) -> Hyperswarm | None:
        """The swarm while there is one, for whoever explains connections."""
        return self._swarm

    @property
    def firewall(self) -> Firewall:
        """Which kind of NAT is before us, as far as is known."""
        return Firewall.UNKNOWN if self._node is None else self._node.firewall

    @property
    def joining(self) -> bool:
        """Whether the DHT was asked and the first walk is still under way."""
        return self._node is not None and not self._node.bootstrapped

    def info(self) -> InternetInfo:
        """How it stands."""
        node, swarm, relay = self._node, self._swarm, self._relay
        if node is None or swarm is None or relay is None:
            return InternetInfo(self._enabled, running=False, problem=self._problem)
        states = [status for topic in swarm.topics if (status := swarm.status(topic)) is not None]
        return InternetInfo(
            enabled=True,
            running=True,
            online=node.bootstrapped and node.online and node.nat_address is not None,
            topics=len(states),
            announced=sum(status.succeeded for status in states),
            connections=len(swarm.connections),
            nat_address=node.nat_address,
            reachable=node.remote_address is not None,
            relaying=relay.running,
            relayed_pairs=relay.pairs,
            refused_relays=relay.refused,
        )

    def _topics(self) -> set[bytes]:
        return {room.key.topic for room in self._rooms() if room.is_internet}

    def _is_private(self) -> bool:
        """Whether only members of rooms whose codes cannot be guessed look for us.

        Else strangers connect, who are not to know the addresses of our own network (T21). Members in it find us by mDNS.
        """
        return all(room.is_private for room in self._rooms() if room.is_internet)

    async def _change(self) -> None:
        await self._changed.wait()
        self._changed = anyio.Event()

    async def _run_swarm(self) -> None:
        async with (
            HyperDHT(
                bootstrap=self._bootstrap,
                key_pair=self._key_pair,
                host=self._host,
                max_message_bytes=MAX_FRAME_BYTES,
                keep_alive_s=KEEP_ALIVE_S,
                tells_local_addresses=self._is_private,
            ) as node,
            Hyperswarm(
                dht=node,
                key_pair=self._key_pair,
                max_peers=self._max_peers,
                relay_for_peer=self._acquaintances.relay_for,
                close_timeout_s=CLOSE_TIMEOUT_S,
            ) as swarm,
            anyio.create_task_group() as tasks,
        ):
            self._node, self._swarm, self._problem = node, swarm, ""
            self._relay = MemberRelay(node, self._relay_key_pair, self._acquaintances)
            tasks.start_soon(self._take_connections, swarm, tasks)
            tasks.start_soon(self._relay.run)
            tasks.start_soon(MemberDialing(node, swarm, self._acquaintances).run)
            while topics := self._topics():
                for topic in topics.difference(swarm.topics):
                    await swarm.join(topic)
                for topic in set(swarm.topics) - topics:
                    tasks.start_soon(swarm.leave, topic)
                await self._change()
            tasks.cancel_scope.cancel()

    async def _take_connections(self, swarm: Hyperswarm, tasks: anyio.abc.TaskGroup) -> None:
        async for stream in swarm.connections:
            tasks.start_soon(self._run_connection, stream)

    async def _run_connection(self, stream: SecretStream) -> None:
        host, port = cast("UdxByteStream", stream.raw_stream).remote_address
        await self._on_connection(stream, f"{host}:{port}")
