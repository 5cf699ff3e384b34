"""A whole node of the DHT without I/O: composes the parts, and tells them apart what arrives.

Like every machine it is driven by its owner: datagrams in, datagrams out, one timer. The streams it makes ways for are the
owner's.
"""

from collections.abc import Callable, Sequence
from typing import Any

from ..addresses import Address
from ..buffers import BytesLike
from ..crypto import KeyPair
from ..errors import ConnectError
from ..rpc import Datagram, Randomness, RequestReceived, RpcNode
from .announcer import Announcer
from .connect import Connect
from .context import Context, Sockets, Streams
from .link import Link, RelayWanted
from .random_punches import RandomPunchLimiter
from .route_cache import RouteCache
from .router import Router
from .server import HandshakeRequest, Server
from .server_session import ServerOptions
from .storage import Storage

_DEFAULT_OPTIONS = ServerOptions()


class DhtNode:
    """See above. Socket 0 is the client socket, 1 the server socket; both must be open."""

    def __init__(
        self,
        sockets: Sockets,
        streams: Streams,
        *,
        randomness: Randomness,
        local_addresses: Callable[[], tuple[Address, ...]],
        unix_ms: Callable[[], int],
        now: float,
        bootstrap: Sequence[Address] = (),
        ephemeral: bool | None = None,
        firewalled: bool | None = None,
        known_address: Address | None = None,
        tells_local_addresses: Callable[[], bool] = lambda: True,
    ) -> None:
        """
        Args:
            local_addresses, tells_local_addresses: See `Context`.
            unix_ms: The time of day.
            bootstrap, ephemeral, firewalled, known_address: See `RpcNode`.
        """
        self.rpc = RpcNode(
            randomness=randomness,
            now=now,
            bootstrap=bootstrap,
            ephemeral=ephemeral,
            firewalled=firewalled,
            port=sockets.port,
            known_address=known_address,
        )
        self.rpc.on_request = self._receive_request
        self.context = Context(self.rpc, sockets, streams, randomness, local_addresses, tells_local_addresses)
        self.storage = Storage(self.rpc, unix_ms=unix_ms, now=now)
        self.router = Router(self.rpc, self.storage, now=now)
        self.routes = RouteCache()
        self.punches = RandomPunchLimiter()
        self._connects: set[Connect] = set()
        self._servers: set[Server] = set()

    def connect(
        self,
        public_key: bytes,
        key_pair: KeyPair,
        *,
        now: float,
        on_link: Callable[[Link, float], None],
        on_failed: Callable[[ConnectError, float], None],
        on_relay: Callable[[RelayWanted, float], None] | None = None,
        **options: Any,
    ) -> Connect:
        """Start an attempt to reach a peer; the options are those of `Connect`."""
        self._connects = {attempt for attempt in self._connects if not attempt.over}
        attempt = Connect(
            self.context,
            self.router,
            public_key,
            key_pair,
            routes=self.routes,
            limiter=self.punches,
            now=now,
            on_link=on_link,
            on_failed=on_failed,
            on_relay=on_relay,
            **options,
        )
        self._connects.add(attempt)
        return attempt

    def listen(
        self,
        key_pair: KeyPair,
        *,
        now: float,
        on_link: Callable[[Link, float], None],
        on_handshake: Callable[[HandshakeRequest, float], None] | None = None,
        on_announced: Callable[[float], None] | None = None,
        options: ServerOptions = _DEFAULT_OPTIONS,
    ) -> tuple[Server, Announcer]:
        """Take connections for a key pair from now on. End it with `stop`.

        Args:
            on_announced: Called when peers can find the server, or when announcing failed for now.

        Raises:
            LocalProtocolError: A server of this node has that key pair already.
        """
        announcer = Announcer(self.context, key_pair)
        server = Server(
            self.context,
            self.router,
            self.storage,
            announcer,
            key_pair,
            routes=self.routes,
            limiter=self.punches,
            now=now,
            on_link=on_link,
            on_handshake=on_handshake,
            options=options,
        )
        server.start(now, on_announced)
        self._servers.add(server)
        return server, announcer

    def stop(self, server: Server, now: float, then: Callable[[float], None]) -> None:
        """Stop a server; see `Server.stop`."""
        self._servers.discard(server)
        server.stop(now, then)

    def start(self, now: float) -> None:
        """Join the network."""
        self.rpc.start(now)

    def receive(self, datagram: BytesLike, *, sender: Address, socket: int, now: float) -> None:
        """A datagram that is no stream packet arrived. One byte is a probe, everything else must be dht-rpc."""
        if len(datagram) == 1:
            self._receive_probe(socket, sender, now)
        else:
            self.rpc.receive(datagram, sender=sender, socket=socket, now=now)

    def datagrams_to_send(self) -> list[Datagram]:
        """What is to be sent now, each once."""
        return self.rpc.datagrams_to_send()

    def next_timer(self) -> float | None:
        """When to call `handle_timer`."""
        return self.rpc.next_timer()

    def handle_timer(self, *, now: float) -> None:
        """The time of `next_timer` has come."""
        self.rpc.handle_timer(now=now)

    def _receive_request(self, received: RequestReceived, now: float) -> None:
        if not self.router.receive(received, now):
            self.storage.handle(received, now)

    def _receive_probe(self, socket: int, sender: Address, now: float) -> None:
        punching: tuple[Connect | Server, ...] = (*self._connects, *self._servers)
        any(one.receive_probe(socket, sender, now) for one in punching)
