"""Probes and sockets: the strategies step by step, and the puncher that runs them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

import pytest

from hyperdht.addresses import Address
from hyperdht.dht.constants import Firewall
from hyperdht.dht.context import Context
from hyperdht.dht.holepunch_messages import KEPT_ADDRESSES, HolepunchPayload
from hyperdht.dht.punch_strategies import (
    FIRST_PORT,
    LAST_PORT,
    LOW_TTL,
    BirthdayProbes,
    ConsistentProbes,
    RandomPortProbes,
    Target,
    choose_ports,
)
from hyperdht.dht.puncher import MAX_ECHOES, MAX_ECHOES_TO_STRANGERS, MAX_REOPENS, Puncher
from hyperdht.dht.random_punches import INTERVAL_S, RandomPunchLimiter
from hyperdht.rpc import RpcNode, node_id
from hyperdht.rpc.messages import Reply, decode_request, encode_reply

from .dht_network import NoStreams

RELAY = Address("11.9.0.1", 49737)
REMOTE = Address("11.7.0.1", 5000)
OTHER = Address("11.7.0.1", 5001)
STRANGER = Address("11.8.0.1", 5000)
US = Address("11.6.0.1", 4000)
NODES = [Address(f"11.5.{i}.1", 49737) for i in range(16)]


@dataclass
class Probes:
    """What a strategy sends."""

    sent: list[tuple[int, Address, int | None]] = field(default_factory=list)

    def send(self, socket: int, address: Address, ttl: int | None) -> None:
        self.sent.append((socket, address, ttl))


def test_consistent_probes_are_quick_at_first_and_then_one_a_second() -> None:
    probes = Probes()
    strategy = ConsistentProbes(7, lambda: [Target(REMOTE, True)], probes.send)
    pauses = []
    while (pause := strategy.step()) is not None:
        pauses.append(pause)
    assert probes.sent == [(7, REMOTE, None)] * len(pauses)
    assert pauses[:3] == [0.1, 0.2, 0.7]
    assert set(pauses[3:]) == {1.0}
    assert sum(pauses) == pytest.approx(10.0)


def test_t19_unproven_addresses_get_few_probes_and_those_without_port_none() -> None:
    probes = Probes()
    targets = [Target(REMOTE, True), Target(STRANGER, False), Target(Address(REMOTE.host, 0), True)]
    strategy = ConsistentProbes(7, lambda: targets, probes.send)
    while strategy.step() is not None:
        pass
    sent = [address for _, address, _ in probes.sent]
    assert (sent.count(REMOTE), sent.count(STRANGER), len(sent)) == (12, 3, 15)


def test_random_ports_are_tried_once_each_and_close_ones_first() -> None:
    probes = Probes()
    strategy = RandomPortProbes(7, REMOTE.host, 30_000, probes.send, Random(1))
    pauses = []
    while (pause := strategy.step()) is not None:
        pauses.append(pause)
    ports = [address.port for _, address, _ in probes.sent]
    assert len(ports) == len(set(ports)) == RandomPortProbes.PROBES
    assert sum(29_980 <= port <= 30_020 for port in ports[:80]) >= 38
    assert {(socket, address.host, ttl) for socket, address, ttl in probes.sent} == {(7, REMOTE.host, None)}
    assert sum(pauses) == pytest.approx(RandomPortProbes.PROBES * 0.01 + RandomPortProbes.LAST_CHANCE_S, abs=0.02)


@pytest.mark.parametrize("near", [0, 80, FIRST_PORT, 40_000, LAST_PORT])
def test_t19_ports_of_services_are_never_tried(near: int) -> None:
    ports = choose_ports(near, 1750, 512, Random(near))
    assert len(set(ports)) == 1750
    assert min(ports) >= FIRST_PORT
    assert max(ports) <= LAST_PORT


@dataclass
class Birthday:
    """Birthday probes with sockets that are mere numbers."""

    available: int = 1000
    sockets: list[int] = field(default_factory=lambda: [2])
    probes: Probes = field(default_factory=Probes)

    def __post_init__(self) -> None:
        self.strategy = BirthdayProbes(self.sockets, self.open, REMOTE, self.probes.send)

    def open(self) -> bool:
        if len(self.sockets) > self.available:
            return False
        self.sockets.append(self.sockets[-1] + 1)
        return True

    def run(self, steps: int) -> float:
        return sum(self.strategy.step() or 0.0 for _ in range(steps))


def test_birthday_probes_open_sockets_a_few_at_a_time_and_knock_at_once() -> None:
    birthday = Birthday()
    birthday.run(1)
    assert birthday.probes.sent[0] == (2, REMOTE, None)
    assert birthday.probes.sent[1:] == [(socket, REMOTE, LOW_TTL) for socket in birthday.sockets[1:]]
    assert len(birthday.sockets) == 1 + BirthdayProbes.OPENED_AT_ONCE
    duration = birthday.run(7)
    assert len(birthday.sockets) == BirthdayProbes.SOCKETS
    assert duration == pytest.approx(0.06 + 0.1)


def test_the_first_lap_of_birthday_probes_dies_on_the_way_but_for_one_socket() -> None:
    birthday = Birthday()
    birthday.run(8)
    birthday.probes.sent.clear()
    birthday.run(256)
    arriving = [socket for socket, _, ttl in birthday.probes.sent if ttl is None]
    assert arriving == [2] * 5
    assert [socket for socket, _, ttl in birthday.probes.sent if ttl == LOW_TTL] == birthday.sockets
    birthday.probes.sent.clear()
    birthday.run(256)
    assert birthday.probes.sent == [(socket, REMOTE, None) for socket in birthday.sockets]


def test_birthday_probes_do_with_the_sockets_there_are_and_end() -> None:
    birthday = Birthday(available=9)
    birthday.run(1)
    birthday.probes.sent.clear()
    steps = 0
    while birthday.strategy.step() is not None:
        steps += 1
    assert len(birthday.sockets) == 10
    assert steps == BirthdayProbes.PROBES


def test_one_random_punch_at_a_time_and_a_pause_after_it() -> None:
    limiter = RandomPunchLimiter()
    assert limiter.take(0.0)
    assert not limiter.take(100.0)
    limiter.give_back(100.0, used=False)
    assert limiter.take(100.0)
    limiter.give_back(110.0, used=True)
    assert not limiter.take(110.0 + INTERVAL_S - 0.01)
    assert limiter.take(110.0 + INTERVAL_S)


@dataclass
class FakeSockets:
    """Sockets that are mere numbers, `available` of them at once."""

    available: int = 1000
    used: set[int] = field(default_factory=set)
    next: int = 2

    def open(self) -> int:
        if len(self.used) >= self.available:
            raise OSError("no more sockets")
        self.used.add(self.next)
        self.next += 1
        return self.next - 1

    def close(self, socket: int) -> None:
        self.used.remove(socket)

    def port(self, socket: int) -> int:
        return 4000 + socket


class Bench:
    """A puncher whose node gets its pings answered by hand."""

    def __init__(
        self,
        *,
        initiator: bool = True,
        firewalled: bool = True,
        nodes: Sequence[Address] = NODES,
        available: int = 1000,
        remote: int = Firewall.UNKNOWN,
    ) -> None:
        random = Random(1)
        self.rpc = RpcNode(randomness=random, now=0.0, ephemeral=True, firewalled=firewalled, port=lambda s: 4000 + s)
        for node in nodes:
            self.rpc.table.hear_from(node_id(node), node, tick=1)
        self.sockets = FakeSockets(available)
        context = Context(self.rpc, self.sockets, NoStreams(), random, tuple)
        self.now = 0.0
        self.pinged: list[tuple[Address, int, int]] = []
        self.probes: list[tuple[int, Address, int | None]] = []
        self.connected: list[tuple[int, Address, float]] = []
        self.exhausted: list[float] = []
        self.usable: list[tuple[bool, float]] = []
        self.puncher = Puncher(
            context,
            remote_firewall=remote,
            now=0.0,
            on_connected=self._connected if initiator else None,
            on_exhausted=self.exhausted.append,
        )
        self.flush()

    def flush(self) -> None:
        for data, to, socket, ttl in self.rpc.datagrams_to_send():
            if data == b"\0":
                self.probes.append((socket, to, ttl))
            else:
                self.pinged.append((to, socket, decode_request(data, sender=US).tid))

    def answer(self, *observed: Address) -> None:
        """The nodes asked so far say how they see us, in the order of asking."""
        pinged, self.pinged = self.pinged, []
        for (node, socket, tid), address in zip(pinged, observed, strict=False):
            self.rpc.receive(encode_reply(Reply(tid, address)), sender=node, socket=socket, now=self.now)
        self.flush()

    def classify(self, *, random: bool = False) -> None:
        self.answer(*(Address(US.host, US.port + i * random) for i in range(4)))

    def meet(self, firewall: int, *addresses: Address, verified: bool = True, named_by: Address = RELAY) -> None:
        payload = HolepunchPayload(firewall=firewall, punching=True, addresses=addresses)
        host = addresses[0].host if verified and addresses else None
        self.puncher.update_remote(payload, verified_host=host, named_by=named_by)

    def analyze(self, *, allow_reopen: bool = False) -> None:
        self.puncher.analyze(self.now, lambda usable, now: self.usable.append((usable, now)), allow_reopen=allow_reopen)
        self.flush()

    def run(self, seconds: float) -> None:
        until = self.now + seconds
        while (when := self.rpc.next_timer()) <= until:
            self.now = when
            self.rpc.handle_timer(now=when)
            self.flush()
        self.now = until

    def _connected(self, socket: int, address: Address, now: float) -> None:
        self.connected.append((socket, address, now))


def test_four_nodes_are_asked_from_the_new_socket_but_not_the_newest() -> None:
    bench = Bench()
    assert [node for node, _, _ in bench.pinged] == NODES[-6:-10:-1]
    assert {socket for _, socket, _ in bench.pinged} == {bench.puncher.socket}
    few = Bench(nodes=NODES[:5])
    assert len(few.pinged) == 4


def test_nodes_on_hosts_of_their_own_are_asked_first() -> None:
    one_host = [Address("11.5.99.1", 50_000 + i) for i in range(10)]
    bench = Bench(nodes=[*NODES[:3], *one_host, *NODES[3:8]])
    asked = [node for node, _, _ in bench.pinged]
    assert sum(node.host == "11.5.99.1" for node in asked) == 1


def test_the_nat_is_classified_and_those_who_wait_are_told() -> None:
    bench = Bench()
    bench.analyze()
    bench.answer(US, US)
    assert bench.usable == []
    bench.pinged.clear()
    bench.run(1.0)  # two nodes did not answer, so two others are asked
    assert len(bench.pinged) == 2
    bench.answer(US)
    assert bench.usable == [(True, 1.0)]
    assert (bench.puncher.firewall, bench.puncher.addresses) == (Firewall.CONSISTENT, (US,))
    bench.analyze()
    assert len(bench.usable) == 2


def test_an_answer_from_elsewhere_does_not_count() -> None:
    bench = Bench()
    for node, socket, tid in bench.pinged:
        bench.rpc.receive(encode_reply(Reply(tid, STRANGER)), sender=STRANGER, socket=socket, now=0.0)
        bench.rpc.receive(encode_reply(Reply(tid, STRANGER)), sender=node, socket=0, now=0.0)
    assert bench.puncher.firewall == Firewall.UNKNOWN


def test_without_nodes_nothing_is_known() -> None:
    bench = Bench(nodes=())
    bench.analyze()
    assert bench.usable == [(False, 0.0)]


def test_two_random_sides_try_other_sockets_and_then_give_up() -> None:
    bench = Bench(remote=Firewall.RANDOM)
    bench.analyze(allow_reopen=True)
    for _ in range(MAX_REOPENS + 1):
        assert bench.usable == []
        bench.classify(random=True)
    assert bench.usable == [(False, 0.0)]
    assert len(bench.sockets.used) == 1
    assert bench.puncher.socket == 2 + MAX_REOPENS


def test_another_socket_may_do_better() -> None:
    bench = Bench(remote=Firewall.RANDOM)
    bench.analyze(allow_reopen=True)
    bench.classify(random=True)
    bench.classify()
    assert bench.usable == [(True, 0.0)]
    assert bench.sockets.used == {bench.puncher.socket} == {3}


def test_without_leave_or_a_free_socket_the_old_one_stays() -> None:
    for bench in (Bench(remote=Firewall.RANDOM), Bench(remote=Firewall.RANDOM, available=1)):
        bench.analyze(allow_reopen=bench.sockets.available == 1)
        bench.classify(random=True)
        assert bench.usable == [(False, 0.0)]
        assert bench.sockets.used == {2}


@pytest.mark.parametrize(
    ("random", "remote", "verified", "starts"),
    [
        (False, Firewall.CONSISTENT, True, True),
        (False, Firewall.OPEN, True, True),
        (False, Firewall.CONSISTENT, False, True),
        (False, Firewall.RANDOM, True, True),
        (False, Firewall.RANDOM, False, False),
        (True, Firewall.CONSISTENT, True, True),
        (True, Firewall.OPEN, True, True),
        (True, Firewall.CONSISTENT, False, False),
        (True, Firewall.RANDOM, True, False),
        (False, Firewall.UNKNOWN, True, False),
        (False, 9, True, True),  # unknown kinds count as random
        (True, 9, True, False),
    ],
)
def test_who_can_punch_with_whom(random: bool, remote: int, verified: bool, starts: bool) -> None:
    bench = Bench()
    bench.classify(random=random)
    bench.meet(remote, REMOTE, verified=verified)
    assert bench.puncher.punch(0.0, near_port=5000) is starts
    assert bench.puncher.punching is starts
    bench.flush()
    bench.run(3.0)
    assert bool(bench.probes) is starts


def test_without_an_address_or_a_classification_nobody_punches() -> None:
    unclassified, nameless = Bench(), Bench()
    unclassified.meet(Firewall.CONSISTENT, REMOTE)
    nameless.classify()
    nameless.meet(Firewall.CONSISTENT)
    for bench in (unclassified, nameless):
        assert not bench.puncher.punch(0.0, near_port=5000)


def test_a_consistent_punch_ends_after_ten_seconds() -> None:
    bench = Bench()
    bench.classify()
    bench.meet(Firewall.CONSISTENT, REMOTE)
    assert bench.puncher.punch(0.0, near_port=5000)
    assert bench.puncher.punch(0.0, near_port=5000)
    bench.run(9.9)
    assert (len(bench.probes), bench.exhausted) == (12, [])
    bench.run(0.2)
    assert bench.exhausted == [pytest.approx(10.0)]


def test_proof_of_a_host_lasts_as_long_as_it_is_named() -> None:
    bench = Bench()
    bench.meet(Firewall.CONSISTENT, REMOTE)
    bench.meet(Firewall.CONSISTENT, OTHER, STRANGER, verified=False)
    assert list(bench.puncher.targets) == [Target(OTHER, True), Target(STRANGER, False)]
    bench.meet(Firewall.CONSISTENT, STRANGER, verified=False)
    bench.meet(Firewall.CONSISTENT, OTHER, verified=False)
    assert list(bench.puncher.targets) == [Target(OTHER, False)]


def test_t19_only_public_addresses_are_probed() -> None:
    named = ["10.0.0.1", "192.168.1.1", "127.0.0.1", "224.0.0.1", "255.255.255.255", "0.0.0.0", "169.254.1.1"]
    bench = Bench()
    bench.meet(Firewall.CONSISTENT, *(Address(host, 5000) for host in named), Address("11.7.0.2", 53))
    assert bench.puncher.targets == ()
    bench.meet(Firewall.CONSISTENT, Address("192.168.1.1", 5000), named_by=Address("192.168.1.9", 49737))
    assert len(bench.puncher.targets) == 1


def test_t18_targets_are_limited() -> None:
    bench = Bench()
    bench.meet(Firewall.CONSISTENT, *(Address(f"11.7.{i}.1", 5000) for i in range(40)))
    assert len(bench.puncher.targets) == KEPT_ADDRESSES


def test_the_first_probe_of_the_other_side_connects_and_frees_all_other_sockets() -> None:
    bench = Bench()
    bench.classify(random=True)
    bench.meet(Firewall.CONSISTENT, REMOTE)
    bench.puncher.punch(0.0, near_port=5000)
    bench.run(0.5)
    assert len(bench.sockets.used) == BirthdayProbes.SOCKETS
    assert not bench.puncher.receive_probe(0, REMOTE, 0.5)
    assert not bench.puncher.receive_probe(9999, REMOTE, 0.5)
    assert bench.puncher.receive_probe(77, OTHER, 0.5)
    assert bench.connected == [(77, OTHER, 0.5)]
    assert bench.sockets.used == {77}
    assert not bench.puncher.receive_probe(77, OTHER, 0.6)
    bench.probes.clear()
    bench.run(60)
    assert (bench.probes, bench.exhausted) == ([], [])


def test_forged_probes_do_not_connect() -> None:
    bench = Bench()
    bench.puncher.expect(REMOTE.host)
    for sender in (STRANGER, Address("192.168.0.7", 5000)):
        assert bench.puncher.receive_probe(bench.puncher.socket, sender, 0.0)
    assert (bench.connected, bench.puncher.dropped) == ([], 2)
    bench.flush()
    assert bench.probes == []
    bench.puncher.same_network = True
    bench.puncher.receive_probe(bench.puncher.socket, Address("192.168.0.7", 5000), 0.0)
    assert len(bench.connected) == 1


def test_t18_the_other_role_echoes_probes_within_limits() -> None:
    bench = Bench(initiator=False)
    bench.puncher.expect(REMOTE.host)
    for sender in (STRANGER, REMOTE):
        for _ in range(3000):
            assert bench.puncher.receive_probe(bench.puncher.socket, sender, 0.0)
    bench.flush()
    echoes = [to for _, to, _ in bench.probes]
    assert echoes.count(STRANGER) == MAX_ECHOES_TO_STRANGERS
    assert echoes.count(REMOTE) == MAX_ECHOES - MAX_ECHOES_TO_STRANGERS
    assert bench.puncher.dropped == 6000 - MAX_ECHOES
    assert bench.connected == []


@pytest.mark.parametrize("after_s", [0.0, 0.005, 0.3, 12.0])
def test_closing_at_any_time_frees_every_socket_and_stops_everything(after_s: float) -> None:
    bench = Bench()
    bench.classify(random=True)
    bench.meet(Firewall.CONSISTENT, REMOTE)
    bench.puncher.punch(0.0, near_port=5000)
    bench.run(after_s)
    bench.puncher.close()
    bench.puncher.close()
    bench.probes.clear()
    bench.run(60)
    assert bench.sockets.used == set()
    assert (bench.probes, bench.exhausted, bench.puncher.sockets) == ([], [], ())
    assert not bench.puncher.punch(bench.now, near_port=5000)


def test_closing_while_the_nat_is_being_classified_tells_nobody() -> None:
    bench = Bench()
    bench.analyze(allow_reopen=True)
    bench.puncher.close(keep=bench.puncher.socket)
    bench.classify()
    bench.run(5)
    assert bench.usable == []
    assert len(bench.sockets.used) == 1


def test_fewer_sockets_than_wished_for_still_punch() -> None:
    bench = Bench(available=20)
    bench.classify(random=True)
    bench.meet(Firewall.CONSISTENT, REMOTE)
    assert bench.puncher.punch(0.0, near_port=5000)
    bench.run(1)
    assert len(bench.puncher.sockets) == 20
    bench.puncher.close()
    assert bench.sockets.used == set()


def test_no_socket_at_all_is_an_error() -> None:
    with pytest.raises(OSError, match="no more sockets"):
        Bench(available=0)
