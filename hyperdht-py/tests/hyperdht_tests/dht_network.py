"""A DHT in memory: nodes that really exchange packets and store, with a clock that jumps from one event to the next."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from random import Random
from typing import NamedTuple

from hyperdht.addresses import Address
from hyperdht.crypto import KeyPair
from hyperdht.dht.context import Context, StreamPacketHook
from hyperdht.dht.storage import DEFAULT_LIMITS, Storage, StorageLimits
from hyperdht.errors import DecodeError
from hyperdht.rpc import CLIENT_SOCKET, SERVER_SOCKET, Request, RpcNode, decode_request, node_id

LATENCY_S = 0.02
START_S = 1000.0  # nothing may depend on the clock starting at 0
UNIX_START_MS = 1_700_000_000_000


class NoSockets:
    """For machines that only need the two main sockets."""

    def open(self) -> int:
        raise OSError("no more sockets")

    def close(self, socket: int) -> None:
        raise KeyError(socket)

    def port(self, socket: int) -> int:
        raise KeyError(socket)


class NoStreams:
    """For machines that open no streams."""

    def reserve(self, hook: StreamPacketHook) -> int:
        raise OSError("no streams")

    def release(self, stream_id: int) -> None:
        raise KeyError(stream_id)


@dataclass
class Peer:
    """A node, where it is, and what it keeps."""

    server: Address
    client: Address
    rpc: RpcNode
    storage: Storage
    context: Context

    def address(self, socket: int) -> Address:
        return self.server if socket == SERVER_SOCKET else self.client


class Sent(NamedTuple):
    """A request that was on the wire."""

    now: float
    sender: Address
    to: Address
    request: Request


@dataclass
class DhtNetwork:
    """Persistent nodes that know each other, and clients. Every datagram takes 20 ms, or is lost."""

    random: Random
    now: float = START_S
    loss: float = 0.0
    dead: set[Address] = field(default_factory=set)
    """Server addresses of those that neither send nor receive."""
    sent: list[Sent] = field(default_factory=list)
    """External commands only."""
    nodes: list[Peer] = field(default_factory=list)
    """The persistent ones."""
    peers: dict[Address, Peer] = field(default_factory=dict)
    """Everybody, by both addresses."""
    _on_the_way: list[tuple[float, int, Address, Address, bytes]] = field(default_factory=list)
    _count: int = 0

    def add_node(self, host: str, *, limits: StorageLimits = DEFAULT_LIMITS) -> Peer:
        """A persistent node that everybody who came before knows, and that knows everybody."""
        peer = self._add(host, ephemeral=False, bootstrap=(), limits=limits)
        peer.rpc.table.move_to(node_id(peer.server))
        peer.rpc.endpoint.ephemeral = peer.rpc.endpoint.firewalled = False
        for other in self.nodes:
            other.rpc.table.hear_from(node_id(peer.server), peer.server, tick=1)
            peer.rpc.table.hear_from(node_id(other.server), other.server, tick=1)
        self.nodes.append(peer)
        return peer

    def add_client(self, host: str) -> Peer:
        """An ephemeral, firewalled node that knows only where to ask first."""
        peer = self._add(host, ephemeral=True, bootstrap=(self.nodes[0].server,), limits=DEFAULT_LIMITS)
        peer.rpc.endpoint.ephemeral = peer.rpc.endpoint.firewalled = True
        return peer

    def _add(self, host: str, *, ephemeral: bool, bootstrap: Sequence[Address], limits: StorageLimits) -> Peer:
        server, client = Address(host, 49737), Address(host, 50000)
        rpc = RpcNode(
            randomness=self.random,
            now=self.now,
            bootstrap=bootstrap,
            ephemeral=ephemeral,
            firewalled=ephemeral,
            port=lambda socket: (client, server)[socket].port,
        )
        storage = Storage(rpc, unix_ms=self.unix_ms, now=self.now, limits=limits)
        rpc.on_request = storage.handle
        context = Context(rpc, NoSockets(), NoStreams(), self.random, lambda: (server,))
        peer = Peer(server, client, rpc, storage, context)
        self.peers[server] = self.peers[client] = peer
        return peer

    def unix_ms(self) -> int:
        return UNIX_START_MS + round((self.now - START_S) * 1000)

    def closest(self, target: bytes) -> list[Peer]:
        """The persistent nodes that live, closest to the target first."""
        key = int.from_bytes(target, "big")
        living = [peer for peer in self.nodes if peer.server not in self.dead]
        return sorted(living, key=lambda peer: int.from_bytes(node_id(peer.server), "big") ^ key)

    def commands(self, command: int) -> list[Sent]:
        """The requests with that command so far, retransmissions included."""
        return [sent for sent in self.sent if sent.request.command == command]

    def run(self, seconds: float) -> None:
        """Let so much time pass."""
        until = self.now + seconds
        self._run(lambda: False, until)
        self.now = until

    def run_until(self, done: Callable[[], object], *, limit_s: float = 60.0) -> None:
        """Go on until `done` says so; that it never does is a failure."""
        self._run(done, self.now + limit_s)
        assert done(), f"not done after {limit_s} s"

    def skip(self, seconds: float) -> None:
        """So much time passes without anybody doing anything, as if all machines had slept."""
        self.now += seconds

    def _run(self, done: Callable[[], object], until: float) -> None:
        everyone = [peer for address, peer in self.peers.items() if address == peer.server]
        for peer in everyone:
            self._flush(peer)
        while not done():
            peer = min(everyone, key=lambda peer: peer.rpc.next_timer())
            timer = max(peer.rpc.next_timer(), self.now)
            if self._on_the_way and self._on_the_way[0][0] <= timer:
                if self._on_the_way[0][0] > until:
                    return
                self._deliver()
            elif timer > until:
                return
            else:
                self.now = timer
                peer.rpc.handle_timer(now=timer)
                self._flush(peer)

    def _deliver(self) -> None:
        arrival, _, sender, to, data = heappop(self._on_the_way)
        self.now = max(self.now, arrival)
        peer = self.peers.get(to)
        if peer is not None and peer.server not in self.dead:
            socket = SERVER_SOCKET if to == peer.server else CLIENT_SOCKET
            peer.rpc.receive(data, sender=sender, socket=socket, now=self.now)
            self._flush(peer)

    def _flush(self, peer: Peer) -> None:
        for data, to, socket, _ in peer.rpc.datagrams_to_send():
            sender = peer.address(socket)
            self._note(data, sender, to)
            if peer.server not in self.dead and self.random.random() >= self.loss:
                self._count += 1
                heappush(self._on_the_way, (self.now + LATENCY_S, self._count, sender, to, data))

    def _note(self, data: bytes, sender: Address, to: Address) -> None:
        try:
            request = decode_request(data, sender=sender)
        except DecodeError:
            return
        if not request.internal:
            self.sent.append(Sent(self.now, sender, to, request))


def network_of(count: int, *, seed: int = 1, limits: StorageLimits = DEFAULT_LIMITS) -> DhtNetwork:
    """That many persistent nodes, each in a subnet of its own."""
    network = DhtNetwork(Random(seed))
    for i in range(count):
        network.add_node(f"10.{1 + i // 250}.{i % 250}.1", limits=limits)
    return network


def key_pair(number: int) -> KeyPair:
    return KeyPair.from_seed(number.to_bytes(32, "big"))
