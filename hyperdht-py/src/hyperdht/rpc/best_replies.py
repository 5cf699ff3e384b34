"""The best replies of a query: close to its target, and not all of one network."""

from collections import defaultdict
from dataclasses import dataclass
from math import inf

from ..addresses import Address
from .hosts import HostKind, host_kind
from .messages import Reply
from .routing_table import BUCKET_SIZE, MAX_PER_SUBNET


@dataclass(frozen=True, slots=True)
class BestReply:
    """A reply without error from a node with a valid id."""

    distance: int
    """XOR of the node's id and the target."""
    node_id: bytes
    address: Address
    """Where it came from; a write goes there and carries `reply.token`."""
    reply: Reply


class BestReplies:
    """Up to 20 replies, closest first. Of one public /24 two count in full; more stay only while there is room.

    One address has 65,000 ports to choose a node's place with, so whoever has it could be all 20 nodes closest to any
    target, and swallow what is announced there (T17).
    """

    def __init__(self) -> None:
        self.replies: list[BestReply] = []
        self._entry: float = inf
        """Below this distance a node comes in whose subnet has less than its share."""
        self._crowded_entry: float = inf
        """And below this one another of a subnet that has more."""
        self._shares: dict[str, int] = {}
        """By subnet: the distance of the last one that counts in full."""

    def __len__(self) -> int:
        return len(self.replies)

    def is_crowded(self, distance: int, host: str) -> bool:
        """Whether a node at that distance is beyond the share of its subnet."""
        share = self._shares.get(_subnet(host)) if self._shares else None
        return share is not None and distance > share

    def wants(self, distance: int, host: str) -> bool:
        """Whether a reply from there would be one of the best."""
        return distance < (self._crowded_entry if self.is_crowded(distance, host) else self._entry)

    def add(self, best: BestReply) -> None:
        """Take in a reply, unless it is not wanted or that node's is here already."""
        if not self.wants(best.distance, best.address.host) or any(r.distance == best.distance for r in self.replies):
            return
        self.replies.append(best)
        self.replies.sort(key=lambda reply: reply.distance)
        counts: defaultdict[str, int] = defaultdict(int)
        self._shares.clear()
        full: list[BestReply] = []
        crowded: list[BestReply] = []
        for reply in self.replies:
            subnet = _subnet(reply.address.host)
            counts[subnet] += 1
            if subnet and counts[subnet] == MAX_PER_SUBNET:
                self._shares[subnet] = reply.distance
            (crowded if subnet and counts[subnet] > MAX_PER_SUBNET else full).append(reply)
        del full[BUCKET_SIZE:]
        del crowded[BUCKET_SIZE - len(full) :]
        self.replies = sorted(full + crowded, key=lambda reply: reply.distance)
        if len(self.replies) == BUCKET_SIZE:
            self._entry = inf if crowded else full[-1].distance
            self._crowded_entry = crowded[-1].distance if crowded else -inf


def _subnet(host: str) -> str:
    """The /24 of a public host; nothing for others, whose networks are small or our own."""
    return host.rpartition(".")[0] if host_kind(host) is HostKind.PUBLIC else ""
