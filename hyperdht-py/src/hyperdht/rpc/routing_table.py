"""The nodes we know, by the length of the id prefix they share with us.

A tick is the unit of time here: the owner counts them, one each 5 s. Source: dht-rpc 6.27.0 `index.js` and
kademlia-routing-table 1.0.6.
"""

from bisect import insort
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

from ..addresses import Address
from .hosts import HostKind, host_kind

BUCKETS = 256
BUCKET_SIZE = (
    20  # Kademlia's k. With 256 buckets it also bounds the table: 5,120 nodes, of which about 20*log2(n) ever fill
)
RECENT_TICKS = 12  # one minute
OLD_TICKS = 360  # half an hour
MAX_PER_SUBNET = 2  # of a bucket, so a tenth: one /24 has 16 million ports to choose ids from (T17)
MAX_PROBES = 3  # without it a flood of newcomers makes us ping every node we know, for the attacker


@dataclass(slots=True, eq=False)
class Node:
    """One node of the table. The fields after `address` are tick numbers, except the last."""

    id: bytes
    address: Address
    added: int
    pinged: int
    """When we last asked it something, or last heard from it."""
    seen: int
    """When we last heard from it."""
    sampled: int = 0
    """When it last told us our own address for NAT sampling; 0 means never."""
    down_hints: int = 0
    """How often others told us that it is down, since we heard from it."""


@dataclass(frozen=True, slots=True)
class Probe:
    """A full bucket: ping `resident`, then tell the table the outcome with `settle`."""

    resident: Node
    newcomer: Node
    seen_before: int


@dataclass(frozen=True, slots=True)
class Heard:
    """What a message from a node with a valid id led to."""

    node: Node | None
    """The node, if it is in the table."""
    is_new: bool = False
    probe: Probe | None = None
    """Set when the newcomer has to wait for a probe."""


class RoutingTable:
    """256 buckets of 20 nodes, each sorted by id; buckets are never split."""

    def __init__(self, own_id: bytes, *, max_per_subnet: int = MAX_PER_SUBNET) -> None:
        """
        Args:
            max_per_subnet: So many nodes of one public /24 a bucket takes. Private networks and loopback are exempt: a
                testnet or a LAN is one such subnet as a whole, and nobody from outside can put nodes there.
        """
        self._own_id = own_id
        self._max_per_subnet = max_per_subnet
        self.accepts_probes = False
        """Set by the owner once it has bootstrapped: before that a full bucket just stays as it is."""
        self._buckets: list[list[Node]] = [[] for _ in range(BUCKETS)]
        self._nodes: dict[bytes, Node] = {}  # in the order they were last heard from, longest ago first
        self._probes = 0

    @property
    def own_id(self) -> bytes:
        return self._own_id

    def __len__(self) -> int:
        return len(self._nodes)

    def __contains__(self, node_id: bytes) -> bool:
        return node_id in self._nodes

    def get(self, node_id: bytes) -> Node | None:
        return self._nodes.get(node_id)

    def longest_unseen(self) -> Iterator[Node]:
        """All nodes, those heard from longest ago first. Do not change the table while iterating."""
        return iter(self._nodes.values())

    def most_recently_seen(self) -> Iterator[Node]:
        """All nodes, those heard from last first. Do not change the table while iterating."""
        return reversed(self._nodes.values())

    def bucket_of(self, node_id: bytes) -> int:
        """The number of leading bits that `node_id` shares with our own; 255 for our own id."""
        difference = int.from_bytes(node_id, "big") ^ int.from_bytes(self._own_id, "big")
        return min(BUCKETS - difference.bit_length(), BUCKETS - 1)

    def add(self, node: Node) -> bool:
        """Take in a node, unless it is known, is ourselves or its bucket is full. Returns whether it is new."""
        bucket = self._buckets[self.bucket_of(node.id)]
        if node.id in self._nodes or node.id == self._own_id or self._rivals(node, bucket):
            return False
        insort(bucket, node, key=lambda known: known.id)
        self._nodes[node.id] = node
        return True

    def move_to(self, own_id: bytes) -> None:
        """Sort all nodes anew around another id of ours. Where a bucket gets too full the longest unseen ones go."""
        nodes = list(self.most_recently_seen())
        self._own_id = own_id
        self._buckets = [[] for _ in range(BUCKETS)]
        self._nodes = {}
        for node in nodes:
            self.add(node)
        self._nodes = dict(reversed(self._nodes.items()))

    def remove(self, node_id: bytes) -> bool:
        """Forget a node. Returns whether it was there."""
        if self._nodes.pop(node_id, None) is None:
            return False
        bucket = self._buckets[self.bucket_of(node_id)]
        bucket[:] = [node for node in bucket if node.id != node_id]
        return True

    def closest(self, target: bytes, count: int = BUCKET_SIZE) -> list[Node]:
        """Up to `count` nodes near `target`, in the reference's order: by bucket, and within a bucket by id.

        The target's own bucket comes first, then those nearer the start of the key space, then the rest.
        """
        found: list[Node] = []
        first = self.bucket_of(target)
        for index in chain(range(first, -1, -1), range(first + 1, BUCKETS)):
            found += self._buckets[index][: count - len(found)]
            if len(found) == count:
                break
        return found

    def hear_from(self, node_id: bytes, address: Address, *, tick: int) -> Heard:
        """A node with a valid id sent a request or a reply."""
        known = self._nodes.get(node_id)
        if known is not None:
            known.pinged = known.seen = tick
            known.down_hints = 0
            self._nodes[node_id] = self._nodes.pop(node_id)  # now the last one heard from
            return Heard(known)
        newcomer = Node(node_id, address, added=tick, pinged=tick, seen=tick)
        if node_id == self._own_id:
            return Heard(None)
        if self.add(newcomer):
            return Heard(newcomer, is_new=True)
        return Heard(None, probe=self._probe_for(newcomer, tick))

    def wants_sample(self, node: Node, *, tick: int) -> bool:
        """Whether the node's view of our address should be sampled: once, and again after half an hour.

        Counts as sampled when it says yes.
        """
        if node.sampled and tick - node.sampled < OLD_TICKS:
            return False
        node.sampled = tick
        return True

    def abandon(self, probe: Probe) -> None:
        """End a probe that has no outcome. The resident stays."""
        self._probes -= 1

    def settle(self, probe: Probe, *, answered: bool) -> Node | None:
        """End a probe. Returns the newcomer when it took the resident's place."""
        self._probes -= 1
        if answered and probe.resident.seen > probe.seen_before:
            return None
        if self._nodes.get(probe.resident.id) is probe.resident:
            self.remove(probe.resident.id)
        return probe.newcomer if self.add(probe.newcomer) else None

    def _probe_for(self, newcomer: Node, tick: int) -> Probe | None:
        if not self.accepts_probes or self._probes >= MAX_PROBES:
            return None
        rivals = self._rivals(newcomer, self._buckets[self.bucket_of(newcomer.id)])
        candidates = [node for node in rivals if node.pinged != tick]
        if not candidates:
            return None
        resident = min(candidates, key=lambda node: (node.pinged, node.added))
        if tick - resident.pinged < RECENT_TICKS and tick - resident.added > OLD_TICKS:
            return None  # alive a minute ago and known for long: such nodes tend to stay
        resident.pinged = tick
        self._probes += 1
        return Probe(resident, newcomer, seen_before=resident.seen)

    def _rivals(self, newcomer: Node, bucket: list[Node]) -> list[Node]:
        """The nodes one of which has to go before the newcomer may come; none if there is room."""
        subnet = newcomer.address.host.rpartition(".")[0]
        neighbours = [node for node in bucket if node.address.host.rpartition(".")[0] == subnet]
        if len(neighbours) >= self._max_per_subnet and host_kind(newcomer.address.host) is HostKind.PUBLIC:
            return neighbours
        return bucket if len(bucket) >= BUCKET_SIZE else []
