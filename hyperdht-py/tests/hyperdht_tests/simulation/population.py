"""Many DHT nodes on one simulated network, and what their lookups find and cost."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import TYPE_CHECKING, NamedTuple

from hyperdht.addresses import Address
from hyperdht.crypto import KeyPair
from hyperdht.dht.operations import announce, lookup
from hyperdht.dht.peers_found import PeersFound
from hyperdht.dht.storage import Storage
from hyperdht.rpc import Command, node_id
from hyperdht.rpc.messages import Reply
from hyperdht.rpc.node import RpcNode
from hyperdht.rpc.routing_table import BUCKET_SIZE

from .liars import Liar, Lie
from .network import Host, Network
from .node import SimulatedNode
from .realm import Line

if TYPE_CHECKING:
    from hyperdht.rpc.running_query import QueryOutcome

HOME = Line(latency_s=0.02, jitter_s=0.01)
LOOKUP_LIMIT_S = 60.0
BOOTSTRAP_NODES = 3
FIRST_TICK = 60


@dataclass(slots=True, eq=False)
class Member:
    """One persistent node of a population."""

    shell: SimulatedNode
    rpc: RpcNode
    address: Address
    key: int
    """Its id as a number."""
    storage: Storage
    alive: bool = True
    liar: Liar | None = None


@dataclass(frozen=True, slots=True)
class Lookup:
    """How one lookup went."""

    recall: float
    """Share of the 20 living nodes truly closest to the target that it found."""
    closest_found: bool
    hops: int
    """How many nodes, one after the other, led to the closest one."""
    seconds: float
    packets: int
    """Sent and received by the node that looked up."""
    bytes: int
    timeouts: int
    finished: bool


class Summary(NamedTuple):
    """Many lookups in a row of a table."""

    lookups: int
    success: float
    """Share that found the closest living node."""
    recall: float
    hops: float
    hops_max: int
    seconds: float
    seconds_max: float
    packets: float
    kilobytes: float


class Population:
    """Persistent nodes on open addresses, each in a /24 of its own.

    `grow` adds nodes that bootstrap like real ones. `fill` gives all their tables at once what years of talking would.
    """

    def __init__(self, seed: int, *, line: Line = HOME) -> None:
        self.network = Network(seed, line=line)
        self.clock = self.network.clock
        self.random = self.clock.random_for("population")
        self.members: list[Member] = []
        self._liars: list[Address] = []

    @property
    def bootstrap(self) -> tuple[Address, ...]:
        return tuple(member.address for member in self.members[:BOOTSTRAP_NODES])

    @property
    def living(self) -> list[Member]:
        return [member for member in self.members if member.alive]

    def add(self, *, host: Host | None = None, port: int = 0) -> Member:
        """One more node that is known to nobody yet, by default on a host of its own."""
        shell = SimulatedNode(host or self.network.host(), server_port=port)
        is_bootstrap = len(self.members) < BOOTSTRAP_NODES
        rpc = RpcNode(
            randomness=self.clock.random_for(f"node {len(self.members)}"),
            now=self.clock.now,
            bootstrap=self.bootstrap,
            ephemeral=False,
            firewalled=False,
            port=shell.port,
            known_address=shell.address if is_bootstrap else None,
        )
        shell.machine = rpc
        storage = Storage(rpc, unix_ms=lambda: int(self.clock.now * 1000), now=self.clock.now)
        rpc.on_request = storage.handle
        member = Member(shell, rpc, shell.address, int.from_bytes(node_id(shell.address), "big"), storage)
        self.members.append(member)
        return member

    def add_liar(self, lie: Lie, *, host: Host | None = None, port: int = 0) -> Member:
        """A node of an attacker that has joined, or is about to. All of them know each other."""
        member = self.add(host=host, port=port)
        self._liars.append(member.address)
        random = self.clock.random_for(f"liar {member.address}")
        member.liar = Liar(member.rpc, lambda: member.address, lie, self._liars, random)
        member.shell.machine = member.liar
        return member

    def grow(self, count: int, *, per_second: float = 20.0) -> list[Member]:
        """Add nodes one after the other, and wait until the last one has bootstrapped."""
        added = []
        for _ in range(count):
            member = self.add()
            added.append(member)
            member.rpc.start(self.clock.now)
            member.shell.wake()
            self.clock.run(1 / per_second)
        waiting = list(added)

        def settled() -> bool:
            while waiting and waiting[-1].rpc.bootstrapped:
                waiting.pop()
            return not waiting

        if not self.clock.run_until(settled, seconds=120):
            raise AssertionError(f"{len(waiting)} nodes did not bootstrap")
        return added

    @property
    def honest(self) -> list[Member]:
        """Those of the living that are."""
        return [member for member in self.members if member.alive and member.liar is None]

    def fill(self, count: int, *, lies: Lie | None = None, liars: int = 0) -> None:
        """Add nodes that know up to 20 random others for each length of prefix, and start them. Some may be an attacker's."""
        members = [self.add() for _ in range(count - liars)]
        members += [self.add_liar(lies) for _ in range(liars) if lies is not None]
        for member in members:
            member.rpc.table.move_to(node_id(member.address))
            member.rpc.endpoint.ephemeral = False
        by_key = sorted(self.living, key=lambda member: member.key)
        keys = [member.key for member in by_key]
        for member in members:
            for first, end in prefix_ranges(member.key, keys):
                for position in self.random.sample(range(first, end), min(BUCKET_SIZE, end - first)):
                    other = by_key[position]
                    member.rpc.table.hear_from(other.rpc.id, other.address, tick=FIRST_TICK)
            member.rpc.start(self.clock.now)
            member.shell.wake()

    def kill(self, share: float) -> list[Member]:
        """That share of the living, but no bootstrap node, vanishes without a word."""
        candidates = [member for member in self.members[BOOTSTRAP_NODES:] if member.alive]
        dead = self.random.sample(candidates, round(share * len(self.living)))
        for member in dead:
            member.alive = False
            member.shell.stop()
        return dead

    def truth(self, target: bytes, *, without: Member, among: Sequence[Member] | None = None) -> list[Member]:
        """The 20 living nodes closest to the target."""
        key = int.from_bytes(target, "big")
        others = (member for member in among or self.members if member.alive and member is not without)
        return sorted(others, key=lambda member: member.key ^ key)[:BUCKET_SIZE]

    def lookup(self, member: Member, target: bytes, *, among: Sequence[Member] | None = None) -> Lookup:
        """One node looks for the 20 nodes closest to a target; judged by those of `among`, by default all living."""
        truth = [other.address for other in self.truth(target, without=member, among=among)]
        depths: dict[Address, int] = {}
        outcomes: list[QueryOutcome] = []

        def heard(address: Address, reply: Reply, _: float) -> None:
            depth = depths.setdefault(address, 1)
            for recommended in reply.closer_nodes:
                depths.setdefault(recommended, depth + 1)

        host, start = member.shell.host, self.clock.now
        before = host.counters
        running = member.rpc.query(
            target, Command.FIND_NODE, internal=True, now=start, on_reply=heard, then=outcomes.append
        )
        member.shell.wake()
        finished = self.clock.run_until(lambda: bool(outcomes), seconds=LOOKUP_LIMIT_S)
        after = host.counters
        running.cancel()
        best = [reply.address for reply in running.query.best_replies]
        return Lookup(
            recall=len(set(best) & set(truth)) / len(truth),
            closest_found=truth[0] in best,
            hops=depths.get(truth[0], 0),
            seconds=self.clock.now - start,
            packets=after.sent - before.sent + after.received - before.received,
            bytes=after.sent_bytes - before.sent_bytes + after.received_bytes - before.received_bytes,
            timeouts=outcomes[0].failures if outcomes else 0,
            finished=finished,
        )

    def announce(self, member: Member, topic: bytes, key_pair: KeyPair) -> int:
        """Announce, and wait until that is done. Returns how many nodes said that they took it."""
        outcomes: list[QueryOutcome] = []
        announce(member.rpc, topic, key_pair, now=self.clock.now, then=outcomes.append)
        member.shell.wake()
        self.clock.run_until(lambda: bool(outcomes), seconds=LOOKUP_LIMIT_S)
        return len(outcomes[0].committed) if outcomes else 0

    def find(self, member: Member, topic: bytes) -> set[bytes]:
        """Look a topic up. Returns the public keys of the peers it was told."""
        outcomes: list[QueryOutcome] = []
        found: set[bytes] = set()

        def heard(peers: PeersFound, _: float) -> None:
            found.update(peer.public_key for peer in peers.peers)

        lookup(member.rpc, topic, now=self.clock.now, on_peers=heard, then=outcomes.append)
        member.shell.wake()
        assert self.clock.run_until(lambda: bool(outcomes), seconds=LOOKUP_LIMIT_S), "a lookup takes for ever"
        return found

    def lookups(
        self, count: int, *, by: Sequence[Member] | None = None, among: Sequence[Member] | None = None
    ) -> Summary:
        """That many lookups of random targets by random living nodes, one after the other."""
        askers = [member for member in by or self.members if member.alive]
        done = []
        for _ in range(count):
            done.append(self.lookup(self.random.choice(askers), self.random.randbytes(32), among=among))
            self.clock.run(0.5)
        return summary_of(done)


def prefix_ranges(key: int, keys: Sequence[int]) -> list[tuple[int, int]]:
    """For each length of prefix shared with `key` where there is somebody: the range of such keys in the sorted `keys`."""
    ranges = []
    for shared in range(256):
        size = 1 << (255 - shared)  # how many keys share exactly that many bits
        start = (key ^ size) & ~(size - 1)
        first, end = bisect_left(keys, start), bisect_left(keys, start + size)
        if end > first:
            ranges.append((first, end))
        nearby = key & ~(size - 1)
        if bisect_left(keys, nearby + size) - bisect_left(keys, nearby) <= 1:
            break  # only ourselves are left
    return ranges


def summary_of(done: Sequence[Lookup]) -> Summary:
    return Summary(
        lookups=len(done),
        success=fmean(lookup.closest_found and lookup.finished for lookup in done),
        recall=fmean(lookup.recall for lookup in done),
        hops=fmean(lookup.hops for lookup in done if lookup.closest_found),
        hops_max=max(lookup.hops for lookup in done),
        seconds=median(lookup.seconds for lookup in done),
        seconds_max=max(lookup.seconds for lookup in done),
        packets=fmean(lookup.packets for lookup in done),
        kilobytes=fmean(lookup.bytes for lookup in done) / 1000,
    )
