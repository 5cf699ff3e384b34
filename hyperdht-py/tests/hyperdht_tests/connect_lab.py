"""Whole DHT nodes on a simulated network: they announce, find each other, shake hands and punch, as in earnest."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from hyperdht.addresses import Address
from hyperdht.crypto import KeyPair
from hyperdht.dht.connect import Connect
from hyperdht.dht.context import StreamPacketHook
from hyperdht.dht.link import Link, RelayWanted
from hyperdht.dht.node import DhtNode
from hyperdht.dht.router import Router
from hyperdht.dht.server import Server
from hyperdht.dht.storage import Storage
from hyperdht.errors import ConnectError
from hyperdht.rpc import RequestReceived, RpcNode

from .simulation import Host, NatKind, SimulatedNode
from .simulation.population import Population
from .simulation.realm import Line

MAIN_SOCKETS = 2
LINE = Line(latency_s=0.01)
SERVER_KEYS = KeyPair.from_seed(b"\x51" * 32)
CLIENT_KEYS = KeyPair.from_seed(b"\x52" * 32)


class CountedStreams:
    """The shell's streams, and which of them are reserved."""

    def __init__(self, shell: SimulatedNode) -> None:
        self.reserved: set[int] = set()
        self._streams = shell.streams

    def reserve(self, hook: StreamPacketHook) -> int:
        stream_id = self._streams.reserve(hook)
        self.reserved.add(stream_id)
        return stream_id

    def release(self, stream_id: int) -> None:
        self.reserved.remove(stream_id)
        self._streams.release(stream_id)


@dataclass(eq=False)
class Relay:
    """A persistent node on an open address. It stores and forwards."""

    shell: SimulatedNode
    rpc: RpcNode
    storage: Storage
    router: Router

    @property
    def address(self) -> Address:
        return self.shell.address

    def receive_request(self, received: RequestReceived, now: float) -> None:
        if not self.router.receive(received, now):
            self.storage.handle(received, now)


@dataclass(eq=False)
class Peer:
    """A node that connects or listens, and what came of it."""

    shell: SimulatedNode
    node: DhtNode
    streams: CountedStreams
    links: list[Link] = field(default_factory=list)
    errors: list[ConnectError] = field(default_factory=list)
    relays: list[RelayWanted] = field(default_factory=list)

    @property
    def address(self) -> Address:
        return self.shell.address

    @property
    def rpc(self) -> RpcNode:
        return self.node.rpc

    @property
    def extra_sockets(self) -> int:
        return self.shell.open_sockets - MAIN_SOCKETS

    def link(self, link: Link, now: float) -> None:
        """The stream would begin; its first packet is all that matters here."""
        self.links.append(link)
        self.shell.send_stream_packet(link.remote_stream_id, to=link.address, socket=link.socket)

    def fail(self, error: ConnectError, now: float) -> None:
        self.errors.append(error)

    def relay(self, wanted: RelayWanted, now: float) -> None:
        self.relays.append(wanted)


class ConnectLab:
    """Open DHT nodes that store and forward, and peers of any kind."""

    def __init__(self, *, seed: int = 1, nodes: int = 12, line: Line = LINE) -> None:
        self.population = Population(seed, line=line)
        self.network = self.population.network
        self.clock = self.population.clock
        self.line = line
        self.nodes = [self._relay(member.shell, member.rpc) for member in self.population.grow(nodes)]
        self._peers = 0

    @property
    def now(self) -> float:
        return self.clock.now

    def _relay(self, shell: SimulatedNode, rpc: RpcNode) -> Relay:
        storage = Storage(rpc, unix_ms=self._unix_ms, now=self.now)
        relay = Relay(shell, rpc, storage, Router(rpc, storage, now=self.now))
        rpc.on_request = relay.receive_request
        return relay

    def add(self, kind: NatKind | Host = NatKind.CONSISTENT) -> Peer:
        """A peer that has bootstrapped. An open one knows that it can be reached, the others that they cannot."""
        host = self.network.host(kind, line=self.line) if isinstance(kind, NatKind) else kind
        shell = SimulatedNode(host)
        streams = CountedStreams(shell)
        self._peers += 1
        node = DhtNode(
            shell,
            streams,
            randomness=self.clock.random_for(f"peer {self._peers}"),
            local_addresses=shell.local_addresses,
            unix_ms=self._unix_ms,
            now=self.now,
            bootstrap=self.population.bootstrap,
            ephemeral=True,
            firewalled=kind is not NatKind.OPEN,
        )
        shell.machine = node
        node.start(self.now)
        shell.wake()
        assert self.clock.run_until(lambda: node.rpc.bootstrapped, seconds=30)
        assert (node.rpc.remote_address() == shell.address) is (kind is NatKind.OPEN)
        return Peer(shell, node, streams)

    def listen(self, peer: Peer, key_pair: KeyPair = SERVER_KEYS, **options: Any) -> Server:
        """A server that can be found."""
        announced: list[float] = []
        server, _ = peer.node.listen(
            key_pair, now=self.now, on_link=peer.link, on_announced=announced.append, **options
        )
        peer.shell.wake()
        assert self.clock.run_until(lambda: bool(announced), seconds=30)
        return server

    def stop(self, peer: Peer, server: Server) -> list[float]:
        """Stop listening. The list fills when that is done."""
        stopped: list[float] = []
        peer.node.stop(server, self.now, stopped.append)
        peer.shell.wake()
        return stopped

    def connect(self, peer: Peer, public_key: bytes = SERVER_KEYS.public_key, **options: Any) -> Connect:
        """Start to connect."""
        key_pair = options.pop("key_pair", CLIENT_KEYS)
        attempt = peer.node.connect(
            public_key, key_pair, now=self.now, on_link=peer.link, on_failed=peer.fail, **options
        )
        peer.shell.wake()
        return attempt

    def run(self, *, until: Callable[[], object] | None = None, seconds: float = 60.0) -> float:
        """Let time pass; to a condition, which must come to hold. Returns how long it took."""
        start = self.now
        if until is None:
            self.clock.run(seconds)
        else:
            assert self.clock.run_until(lambda: bool(until()), seconds=seconds), "it did not come to that"
        return self.now - start

    def node_at(self, address: Address) -> Relay:
        """One of the DHT nodes."""
        return next(node for node in self.nodes if node.address == address)

    def _unix_ms(self) -> int:
        return round(self.now * 1000)


def joined(client: Peer, server: Peer) -> bool:
    """Whether the two are linked, and agree about it."""
    if not client.links or not server.links:
        return False
    ours, theirs = client.links[-1], server.links[-1]
    return ours.keys.hash == theirs.keys.hash and (ours.remote_stream_id, theirs.remote_stream_id) == (
        theirs.stream_id,
        ours.stream_id,
    )
