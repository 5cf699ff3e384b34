"""Whole nodes of the DHT with real UDX streams on simulated hosts: who can connect to whom."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from hyperdht.addresses import Address
from hyperdht.crypto import KeyPair
from hyperdht.dht.announcer import Announcer
from hyperdht.dht.link import Link, Path
from hyperdht.dht.node import DhtNode
from hyperdht.dht.server import Server
from hyperdht.errors import ConnectError
from hyperdht.rpc.requests import Datagram
from hyperdht.udx import UdxEndpoint
from hyperdht.udx.endpoint import EndpointStream

from .nat import NatKind
from .network import FORWARDED_PORT, Host, Network
from .node import SERVER_SOCKET, SimulatedNode

GREETING = b"hello"
BACKBONE_NODES = 8


class PeerMachine:
    """A node and its streams as one machine, and its sockets: a socket is closed when the last stream has left it."""

    def __init__(
        self,
        shell: SimulatedNode,
        *,
        bootstrap: Sequence[Address],
        ephemeral: bool | None,
        firewalled: bool | None,
        known_address: Address | None,
    ) -> None:
        self._shell = shell
        self._closing: set[int] = set()
        clock = shell.clock
        randomness = clock.random_for(f"peer {shell.host.public_host} {shell.address}")
        self.streams = UdxEndpoint(randomness.randbytes)
        self.streams.on_socket_unused = self._close_unused
        self.dht = DhtNode(
            self,
            self.streams,
            randomness=randomness,
            local_addresses=shell.local_addresses,
            unix_ms=lambda: int(clock.now * 1000),
            now=clock.now,
            bootstrap=bootstrap,
            ephemeral=ephemeral,
            firewalled=firewalled,
            known_address=known_address,
        )

    def open(self) -> int:
        return self._shell.open()

    def port(self, socket: int) -> int:
        return self._shell.port(socket)

    def close(self, socket: int) -> None:
        self._closing.add(socket)
        if not self.streams.streams_on(socket):
            self._close_unused(socket)

    def _close_unused(self, socket: int) -> None:
        if socket in self._closing:
            self._closing.remove(socket)
            self._shell.close(socket)

    def receive(self, datagram: bytes, *, sender: Address, socket: int, now: float) -> None:
        for stray in self.streams.receive(datagram, len(datagram), sender, socket, now=now):
            self.dht.receive(stray, sender=sender, socket=socket, now=now)

    def datagrams_to_send(self) -> list[Datagram]:
        out = self.dht.datagrams_to_send()
        for data, size, address, socket in self.streams.datagrams_to_send(now=self._shell.now):
            out += (Datagram(data[at : at + size], address, socket) for at in range(0, len(data), size))
        return out

    def next_timer(self) -> float | None:
        timers = [when for when in (self.dht.next_timer(), self.streams.next_timer()) if when is not None]
        return min(timers, default=None)

    def handle_timer(self, *, now: float) -> None:
        self.dht.handle_timer(now=now)
        self.streams.handle_timer(now=now)


@dataclass(slots=True)
class Attempt:
    """A connection from the client's view, or from the server's."""

    begun: float
    link: Link | None = None
    error: ConnectError | None = None
    stream: EndpointStream | None = None
    received: bytearray = field(default_factory=bytearray)
    greeted_at: float | None = None
    """When the first bytes of the other side arrived."""

    @property
    def is_over(self) -> bool:
        return self.error is not None or self.greeted_at is not None

    @property
    def seconds(self) -> float:
        assert self.greeted_at is not None
        return self.greeted_at - self.begun

    @property
    def path(self) -> Path | None:
        return None if self.link is None else self.link.path


@dataclass(slots=True)
class Serving:
    """A server, and who came."""

    server: Server
    announcer: Announcer
    announced: bool = False
    connections: list[Attempt] = field(default_factory=list)


class SimulatedPeer:
    """A node on a host; both ends of a connection say hello over the UDX stream."""

    def __init__(
        self,
        host: Host,
        *,
        bootstrap: Sequence[Address] = (),
        ephemeral: bool | None = None,
        firewalled: bool | None = None,
        first: bool = False,
        port: int = FORWARDED_PORT,
    ) -> None:
        """
        Args:
            first: The first node of a network, which nobody can tell its address.
        """
        self.shell = SimulatedNode(host, server_port=port, demultiplex=False)
        self.machine = PeerMachine(
            self.shell,
            bootstrap=bootstrap,
            ephemeral=ephemeral,
            firewalled=firewalled,
            known_address=self.shell.address if first else None,
        )
        self.dht = self.machine.dht
        self.shell.machine = self.machine
        self.dht.start(self.shell.now)
        self.shell.wake()

    @property
    def sockets(self) -> int:
        """Open ones beside the client and the server socket."""
        return self.shell.open_sockets - SERVER_SOCKET - 1

    def listen(self, key_pair: KeyPair) -> Serving:
        """Serve, and greet everybody who connects."""

        def accept(link: Link, now: float) -> None:
            attempt = Attempt(now)
            serving.connections.append(attempt)
            self._bind(link, attempt)

        def announced(_: float) -> None:
            serving.announced = True

        server, announcer = self.dht.listen(key_pair, now=self.shell.now, on_link=accept, on_announced=announced)
        serving = Serving(server, announcer)
        self.shell.wake()
        return serving

    def connect(self, public_key: bytes, key_pair: KeyPair) -> Attempt:
        """Connect, and greet."""
        attempt = Attempt(self.shell.now)

        def failed(error: ConnectError, _: float) -> None:
            attempt.error = error

        self.dht.connect(
            public_key,
            key_pair,
            now=self.shell.now,
            on_link=lambda link, _: self._bind(link, attempt),
            on_failed=failed,
        )
        self.shell.wake()
        return attempt

    def send(self, attempt: Attempt, data: bytes) -> None:
        """Send more."""
        assert attempt.stream is not None
        attempt.stream.write(data)
        self.shell.wake()

    def _bind(self, link: Link, attempt: Attempt) -> None:
        attempt.link = link
        now = self.shell.now
        stream = self.machine.streams.connect(link.stream_id, link.socket, link.address, link.remote_stream_id, now=now)
        if link.socket > SERVER_SOCKET:
            self.machine.close(link.socket)

        def look(_: object) -> None:
            attempt.received += stream.read()
            if attempt.greeted_at is None and attempt.received:
                attempt.greeted_at = self.shell.now

        attempt.stream = stream
        stream.on_event(look)
        stream.write(GREETING)


class PeerNetwork:
    """A network with persistent nodes on open addresses, through which others find each other."""

    def __init__(self, seed: int) -> None:
        self.network = Network(seed)
        self.clock = self.network.clock
        self.backbone: list[SimulatedPeer] = []
        for number in range(BACKBONE_NODES):
            node = SimulatedPeer(
                self.network.host(), bootstrap=self.bootstrap, ephemeral=False, firewalled=False, first=number == 0
            )
            self.backbone.append(node)
            self.clock.run(0.5)
        self.clock.run(5)
        assert not any(node.dht.rpc.ephemeral for node in self.backbone)

    @property
    def bootstrap(self) -> tuple[Address, ...]:
        return tuple(node.shell.address for node in self.backbone[:3])

    def peer(self, place: NatKind | Host) -> SimulatedPeer:
        """A node that just started, behind a box of its own or on a given host."""
        host = self.network.host(place) if isinstance(place, NatKind) else place
        return SimulatedPeer(host, bootstrap=self.bootstrap)
