"""A DHT in memory, without packets: nodes with routing tables that answer FIND_NODE, and rounds in place of time."""

from dataclasses import dataclass, field
from random import Random

from hyperdht.addresses import Address
from hyperdht.rpc.messages import Reply, node_id
from hyperdht.rpc.query import DownHintWanted, Query, QueryFinished
from hyperdht.rpc.routing_table import RoutingTable

HERE = Address("10.0.0.1", 1)


@dataclass
class Network:
    """Nodes by address, each of which has met all others in an order of its own."""

    tables: dict[Address, RoutingTable]
    dead: set[Address] = field(default_factory=set)
    asked: int = 0
    hints: list[DownHintWanted] = field(default_factory=list)

    def answer(self, address: Address, target: bytes) -> Reply | None:
        self.asked += 1
        if address in self.dead or address not in self.tables:
            return None
        nodes = self.tables[address].closest(target)
        return Reply(0, HERE, id=node_id(address), token=b"t" * 32, closer_nodes=tuple(node.address for node in nodes))

    def run(self, query: Query) -> QueryFinished:
        """Answer in the order of asking until the query is done; a dead node is noticed a round later."""
        while True:
            asked: list[Address] = []
            while (address := query.next_request()) is not None:
                asked.append(address)
            for address in asked:
                reply = self.answer(address, query.target)
                if reply is None:
                    query.handle_slow(address)
                    query.handle_timeout(address)
                else:
                    query.receive_reply(address, reply, sender=address)
            while (event := query.next_event()) is not None:
                if isinstance(event, QueryFinished):
                    return event
                if isinstance(event, DownHintWanted):
                    self.hints.append(event)
            assert asked, "the query waits for nothing"

    def truth(self, target: bytes) -> list[Address]:
        """The 20 living nodes closest to the target."""

        def distance(address: Address) -> int:
            return int.from_bytes(node_id(address), "big") ^ int.from_bytes(target, "big")

        return sorted(self.tables.keys() - self.dead, key=distance)[:20]


def network_of(count: int, random: Random) -> Network:
    addresses = [Address(f"10.1.{i // 250}.{i % 250 + 1}", 1000 + i) for i in range(count)]
    ids = {address: node_id(address) for address in addresses}
    tables = {}
    for address in addresses:
        table = RoutingTable(ids[address])
        for other in random.sample(addresses, count):
            table.hear_from(ids[other], other, tick=1)
        tables[address] = table
    return Network(tables)
