"""The connections of a swarm while they last: dialling them, watching for their end, ending them."""

import logging
from functools import partial
from typing import TYPE_CHECKING

import anyio

from ..errors import HolepunchError, RequestTimeout
from ..swarm import CloseReason, Connection, ConnectionState, PeerInfo
from .peer_stream import PeerStream
from .swarm_presence import NETWORK_ERRORS

if TYPE_CHECKING:
    from .swarm import Hyperswarm

log = logging.getLogger(__name__)

DIAL_TIMEOUT_S = 60.0  # every step of a dial has its own limit; this one is for relays that keep it busy
# As hyperswarm: with these a direct way is not to be expected the next time either.
RELAY_HELPS_AGAINST = frozenset(
    ("HOLEPUNCH_ABORTED", "HOLEPUNCH_DOUBLE_RANDOMIZED_NATS", "CANNOT_HOLEPUNCH", "REMOTE_NOT_HOLEPUNCHABLE")
)


class SwarmLinks:
    """One per swarm."""

    def __init__(self, swarm: "Hyperswarm") -> None:
        self._swarm = swarm
        self._streams: dict[Connection, PeerStream] = {}
        self._dials: dict[Connection, anyio.CancelScope] = {}

    @property
    def none(self) -> bool:
        """Whether nothing is open or being dialled."""
        return not self._streams and not self._dials

    def stream(self, connection: Connection) -> PeerStream | None:
        """The stream of a connection that has one still."""
        return self._streams.get(connection)

    def close(self, connection: Connection, reason: CloseReason) -> None:
        """Do what `CloseWanted` asks for."""
        log.debug("closing a connection with %s: %s", connection.peer.public_key.hex()[:8], reason.value)
        if connection in self._dials:
            self._dials[connection].cancel()
        elif connection in self._streams:
            self._swarm.tasks.start_soon(anyio.aclose_forcefully, self._streams[connection])

    async def dial(self, connection: Connection) -> None:
        """Do what `DialWanted` asks for."""
        stream, relay_might_help, peer = None, False, connection.peer
        if connection.state is not ConnectionState.CLOSING:  # it may be unwanted before its task has started
            with anyio.CancelScope() as self._dials[connection]:
                relay = self._swarm.relay_for(peer.force_relaying, public_key=peer.public_key)
                topics = frozenset(peer.topics)
                try:
                    stream = await self._connect(peer, relay)
                    self._swarm.dials.succeed(peer.public_key, topics, relay=relay, now=self._swarm.now())
                except NETWORK_ERRORS as error:
                    log.debug("cannot connect to %s: %s", peer.public_key.hex()[:8], error)
                    self._swarm.dials.fail(peer.public_key, topics, error, relay=relay, now=self._swarm.now())
                    relay_might_help = self._swarm.uses_relays and would_relay_help(error)
            del self._dials[connection]
        if stream is not None and connection.state is ConnectionState.CLOSING:
            await anyio.aclose_forcefully(stream)
            stream = None
        if stream is None:
            self._swarm.machine.closed(connection, self._swarm.now(), relay_might_help=relay_might_help)
        else:
            self._swarm.machine.dial_opened(connection, stream.talked, self._swarm.now())
            self.watch(connection, stream)
        self._swarm.pump()

    async def _connect(self, peer: PeerInfo, relay: bytes | None) -> PeerStream:
        with anyio.move_on_after(DIAL_TIMEOUT_S):
            return await self._swarm.dht.connect(
                peer.public_key,
                key_pair=self._swarm.key_pair,
                relay_addresses=peer.relay_addresses,
                relay_through=relay,
            )
        raise RequestTimeout(f"no way to the peer was found in {DIAL_TIMEOUT_S:.0f} s")

    def watch(self, connection: Connection, stream: PeerStream) -> None:
        """Take note of a connection the machine has just been told of, and of its end."""
        self._streams[connection] = stream
        self._swarm.pump()
        stream.on_over(partial(self._stream_over, connection))

    def _stream_over(self, connection: Connection) -> None:
        del self._streams[connection]
        self._swarm.machine.closed(connection, self._swarm.now())
        self._swarm.pump()


def would_relay_help(error: Exception) -> bool:
    """Whether a dial that failed so may succeed through a blind relay."""
    return isinstance(error, HolepunchError) and error.code in RELAY_HELPS_AGAINST
