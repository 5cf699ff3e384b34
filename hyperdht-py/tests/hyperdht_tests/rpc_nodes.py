"""Whole RPC nodes in memory: hosts with a client and a server port, firewalls, latency, loss, and a clock of our own."""

from collections.abc import Callable
from dataclasses import dataclass, field
from heapq import heappop, heappush
from math import inf
from random import Random

from hyperdht.addresses import Address
from hyperdht.rpc import CLIENT_SOCKET, SERVER_SOCKET, RpcNode, node_id
from hyperdht.rpc.requests import Datagram

PORTS = {CLIENT_SOCKET: 40000, SERVER_SOCKET: 49737}
FIRST = Address("10.1.0.1", PORTS[SERVER_SOCKET])
SOCKETS = {port: socket for socket, port in PORTS.items()}


@dataclass(eq=False)
class Host:
    """One machine with one node."""

    name: str
    node: RpcNode
    firewalled: bool
    alive: bool = True
    wakes_at: float = inf
    sent: int = 0
    wakeups: int = 0
    opened: set[tuple[int, Address]] = field(default_factory=set)
    """What a firewall lets in: answers to what left, by socket and remote address."""

    @property
    def server_address(self) -> Address:
        return Address(self.name, PORTS[SERVER_SOCKET])

    def lets_in(self, socket: int, sender: Address) -> bool:
        return self.alive and (not self.firewalled or (socket, sender) in self.opened)


class NodeNetwork:
    """Hosts by name. Every datagram takes `latency_s` or is lost."""

    def __init__(self, random: Random, *, latency_s: float = 0.02, loss: float = 0.0) -> None:
        self.now = 0.0
        self.random = random
        self.hosts: dict[str, Host] = {}
        self.cut_off: set[str] = set()
        """Names of hosts whose cable is out."""
        self._latency_s = latency_s
        self._loss = loss
        self._happenings: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0

    def add(self, name: str, *, behind_firewall: bool = False, **options: object) -> RpcNode:
        """A host whose node starts now; the options are those of `RpcNode`."""
        random = Random(self.random.random())
        node = RpcNode(randomness=random, now=self.now, port=PORTS.__getitem__, **options)  # type: ignore[arg-type]
        self.hosts[name] = host = Host(name, node, behind_firewall)
        node.start(self.now)
        self._touch(host)
        return node

    def do(self, node: RpcNode) -> None:
        """Something was asked of the node: let it send and set its timer."""
        self._touch(next(host for host in self.hosts.values() if host.node is node))

    def run(self, seconds: float) -> None:
        self.run_until(lambda: False, limit_s=seconds)

    def run_until(self, done: Callable[[], bool], *, limit_s: float) -> None:
        """Let time pass until something is so, or to the limit."""
        end = self.now + limit_s
        while not done():
            if not self._happenings or self._happenings[0][0] > end:
                self.now = end
                return
            self.now, _, happen = heappop(self._happenings)
            happen()

    def living(self) -> list[RpcNode]:
        return [host.node for host in self.hosts.values() if host.alive]

    def closest(self, target: bytes, *, besides: RpcNode) -> set[bytes]:
        """The true ids of the 20 living persistent nodes closest to a target."""
        ids = [
            node_id(host.server_address)
            for host in self.hosts.values()
            if host.alive and not host.node.ephemeral and host.node is not besides
        ]
        return set(sorted(ids, key=lambda key: int.from_bytes(key, "big") ^ int.from_bytes(target, "big"))[:20])

    def _at(self, when: float, happen: Callable[[], None]) -> None:
        self._count += 1
        heappush(self._happenings, (when, self._count, happen))

    def _touch(self, host: Host) -> None:
        for datagram in host.node.datagrams_to_send():
            self._send(host, datagram)
        timer = max(host.node.next_timer(), self.now)
        if timer < host.wakes_at:
            host.wakes_at = timer
            self._at(timer, lambda: self._wake(host, timer))

    def _wake(self, host: Host, timer: float) -> None:
        if not host.alive or host.wakes_at != timer:
            return
        host.wakes_at = inf
        if host.node.next_timer() <= self.now:
            host.wakeups += 1
            host.node.handle_timer(now=self.now)
        self._touch(host)

    def _send(self, host: Host, datagram: Datagram) -> None:
        host.sent += 1
        host.opened.add((datagram.socket, datagram.to))
        is_lost = self.random.random() < self._loss or self.cut_off & {host.name, datagram.to.host}
        if not is_lost:
            source = Address(host.name, PORTS[datagram.socket])
            self._at(self.now + self._latency_s, lambda: self._deliver(datagram, source))

    def _deliver(self, datagram: Datagram, source: Address) -> None:
        host = self.hosts.get(datagram.to.host)
        socket = SOCKETS.get(datagram.to.port)
        if host is not None and socket is not None and host.lets_in(socket, source):
            host.node.receive(datagram.data, sender=source, socket=socket, now=self.now)
            self._touch(host)


def seed_network(random: Random, count: int, **options: float) -> NodeNetwork:
    """The first node of a network, which knows its address, and `count` others that were told to be persistent."""
    network = NodeNetwork(random, **options)
    network.add(FIRST.host, ephemeral=False, firewalled=False, known_address=FIRST)
    for number in range(count):
        network.run(0.1)
        name = f"10.1.{1 + number // 250}.{number % 250 + 1}"
        network.add(name, ephemeral=False, firewalled=False, bootstrap=[FIRST])
    return network
