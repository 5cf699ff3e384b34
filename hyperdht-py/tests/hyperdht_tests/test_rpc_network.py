"""Endpoints and queries together: real packets, a clock of our own, loss, and nodes that are gone."""

from heapq import heappop, heappush
from random import Random

import pytest

from hyperdht.addresses import Address
from hyperdht.rpc import (
    QUERY_RETRIES,
    SERVER_SOCKET,
    Command,
    Endpoint,
    Query,
    ReplyReceived,
    RequestSlow,
    RequestTimedOut,
    RoutingTable,
    Tokens,
    node_id,
)

LATENCY_S = 0.02


class PacketNetwork:
    """Persistent nodes on open addresses; every datagram takes 20 ms or is lost."""

    def __init__(self, count: int, random: Random, *, loss: float) -> None:
        self.now = 0.0
        self.loss = loss
        self.random = random
        self.nodes = {Address(f"10.1.0.{i + 1}", 1000 + i): self.new_node(i) for i in range(count)}
        self.dead: set[Address] = set()
        self._on_the_way: list[tuple[float, int, Address, Address, bytes]] = []
        self._count = 0

    def new_node(self, number: int) -> Endpoint:
        table = RoutingTable(node_id(Address(f"10.1.0.{number + 1}", 1000 + number)))
        tokens = Tokens(self.random.randbytes(32), self.random.randbytes(32))
        node = Endpoint(table, tokens, first_tid=self.random.randrange(65536), tick=60, now=0.0)
        node.firewalled = node.ephemeral = False
        return node

    def flush(self, source: Address) -> None:
        for data, to, _, _ in self.nodes[source].datagrams_to_send():
            if self.random.random() >= self.loss:
                self._count += 1
                heappush(self._on_the_way, (self.now + LATENCY_S, self._count, source, to, data))

    def step(self) -> None:
        """Deliver the next datagram, or move on to the next timer."""
        source, timer = min(((a, n.next_timer()) for a, n in self.nodes.items()), key=lambda pair: pair[1])
        if self._on_the_way and self._on_the_way[0][0] <= timer:
            self.now, _, sender, to, data = heappop(self._on_the_way)
            if to in self.nodes and to not in self.dead:
                self.nodes[to].receive(data, sender=sender, socket=SERVER_SOCKET, now=self.now)
                self.flush(to)
            return
        self.now = timer
        self.nodes[source].handle_timer(now=timer)
        self.flush(source)

    def run(self, own: Address, target: bytes, bootstrap: list[Address]) -> Query:
        """A FIND_NODE query by one node, to its end."""
        node = self.nodes[own]
        known = [known.address for known in node.table.closest(target)]
        query = Query(target, own_id=node.table.own_id, table=known, bootstrap=bootstrap)
        asked: dict[int, Address] = {}
        while not query.finished:
            while (to := query.next_request(in_flight=node.in_flight)) is not None:
                handle = node.request(
                    to, Command.FIND_NODE, internal=True, target=target, retries=QUERY_RETRIES, now=self.now
                )
                asked[handle] = to
            self.flush(own)
            self.step()
            while (event := node.next_event()) is not None:
                if isinstance(event, ReplyReceived) and event.handle in asked:
                    query.receive_reply(asked[event.handle], event.reply, sender=event.sender)
                elif isinstance(event, RequestSlow) and event.handle in asked:
                    query.handle_slow(asked[event.handle])
                elif isinstance(event, RequestTimedOut) and event.handle in asked:
                    query.handle_timeout(asked[event.handle])
        return query


@pytest.mark.parametrize("loss", [0.0, 0.05])
def test_nodes_find_each_other_from_one_address(loss: float) -> None:
    network = PacketNetwork(60, Random(5), loss=loss)
    everybody = list(network.nodes)
    for address in everybody[1:]:
        network.run(address, node_id(address), everybody[:1])
    network.dead = set(everybody[50:])
    found = 0
    for _ in range(10):
        target = network.random.randbytes(32)
        query = network.run(everybody[7], target, everybody[:1])
        living = {node_id(address): address for address in everybody[:50] if address != everybody[7]}
        closest = sorted(living, key=lambda key: int.from_bytes(key, "big") ^ int.from_bytes(target, "big"))[:20]
        found += len({best.node_id for best in query.best_replies} & set(closest))
    assert found >= 0.95 * 200
    host, port = everybody[7]
    assert (network.nodes[everybody[7]].nat.host, network.nodes[everybody[7]].nat.port) == (host, port)
