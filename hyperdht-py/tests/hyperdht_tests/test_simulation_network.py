"""The simulated network itself: each kind of box maps, filters and forgets as its kind does; chance is seeded."""

import pytest

from hyperdht.addresses import Address

from .simulation import Host, Line, NatKind, Network
from .simulation.nat import Behaviour, Filtering
from .simulation.network import BACKBONE_HOPS, FORWARDED_PORT

Heard = list[tuple[bytes, Address]]
TRANSLATING = [
    NatKind.CONSISTENT,
    NatKind.FULLCONE,
    NatKind.FORWARDED,
    NatKind.RANDOM,
    NatKind.SYMMETRIC,
    NatKind.DOUBLE,
]
FILTERING = [NatKind.BLOCKED, *(kind for kind in TRANSLATING if kind is not NatKind.FULLCONE)]


def listen(host: Host, port: int = 0) -> tuple[int, Heard]:
    heard: Heard = []
    return host.bind(lambda data, sender, _: heard.append((data, sender)), port), heard


def senders(heard: Heard) -> list[Address]:
    return [sender for _, sender in heard]


class World:
    """One host of a kind with a socket, and public hosts that hear it; `hear` lets them answer."""

    def __init__(self, kind: NatKind, *, public: int = 3) -> None:
        self.network = Network(1)
        self.inside = self.network.host(kind)
        self.port, self.heard = listen(self.inside)
        self.hosts = [self.network.host() for _ in range(public)]
        self.listeners = [listen(host, 5000) for host in self.hosts]

    def call(self, number: int) -> Address:
        """The host inside sends to a public one; where it seems to come from."""
        self.inside.send(b"call", Address(self.hosts[number].address, 5000), port=self.port)
        self.network.clock.run(0.1)
        return self.listeners[number][1].pop()[1]

    def answer(self, number: int, to: Address, *, port: int = 5000) -> bool:
        """A public host sends; whether that arrived inside."""
        before = len(self.heard)
        if port != 5000:
            self.hosts[number].bind(lambda *_: None, port)
        self.hosts[number].send(b"answer", to, port=port)
        self.network.clock.run(0.1)
        return len(self.heard) > before


def test_open_hosts_reach_each_other_after_both_lines() -> None:
    world = World(NatKind.OPEN, public=1)
    assert world.call(0) == Address(world.inside.address, world.port)
    world.hosts[0].send(b"x", Address(world.inside.address, world.port), port=5000)
    start = world.network.clock.now
    assert world.network.clock.run_until(lambda: len(world.heard) == 1, seconds=1)
    assert world.network.clock.now - start == pytest.approx(0.02)


@pytest.mark.parametrize("kind", NatKind)
def test_answers_come_back(kind: NatKind) -> None:
    world = World(kind)
    for number in range(3):
        assert world.answer(number, world.call(number))
    assert senders(world.heard) == [Address(host.address, 5000) for host in world.hosts]


@pytest.mark.parametrize("kind", TRANSLATING)
def test_others_see_the_box(kind: NatKind) -> None:
    world = World(kind)
    seen = world.call(0)
    assert seen.host != world.inside.address
    assert seen.host == world.inside.public_host == world.call(1).host


@pytest.mark.parametrize("kind", NatKind)
def test_one_mapping_for_all_or_one_for_each(kind: NatKind) -> None:
    world = World(kind)
    seen = [world.call(number) for number in range(3)]
    assert seen == [world.call(number) for number in range(3)]
    if kind is NatKind.RANDOM:
        assert len(set(seen)) == 3
        assert abs(seen[1].port - seen[0].port) > 1
    elif kind is NatKind.SYMMETRIC:
        assert [address.port - seen[0].port for address in seen] == [0, 1, 2]
    else:
        assert {address.port for address in seen} == {world.port}


@pytest.mark.parametrize("kind", FILTERING)
def test_strangers_stay_out(kind: NatKind) -> None:
    world = World(kind)
    seen = world.call(0)
    assert not world.answer(1, seen)
    assert not world.answer(0, seen, port=5001)
    assert world.answer(0, seen)


def test_a_full_cone_lets_strangers_in_while_it_is_mapped() -> None:
    world = World(NatKind.FULLCONE)
    assert not world.answer(1, Address(world.inside.public_host, world.port))
    seen = world.call(0)
    assert world.answer(1, seen)
    assert world.answer(0, seen, port=5001)


def test_a_box_may_filter_by_host_alone() -> None:
    network = Network(1)
    inside = network.site(NatKind.CONSISTENT, behaviour=Behaviour(filtering=Filtering.HOST)).host()
    port, heard = listen(inside)
    known, stranger = network.host(), network.host()
    inside.send(b"x", Address(known.address, 1), port=port)
    network.clock.run(0.1)
    for host in (known, stranger):
        other, _ = listen(host)
        host.send(b"x", Address(inside.public_host, port), port=other)
    network.clock.run(0.1)
    assert [sender.host for sender in senders(heard)] == [known.address]


def test_a_forwarded_port_is_open_to_all_and_only_that() -> None:
    world = World(NatKind.FORWARDED)
    forwarded, heard = listen(world.inside, FORWARDED_PORT)
    for port in (FORWARDED_PORT, world.port):
        world.answer(1, Address(world.inside.public_host, port))
    assert len(heard) == 1
    assert world.heard == []
    world.inside.send(b"x", Address(world.hosts[0].address, 5000), port=forwarded)
    world.network.clock.run(0.1)
    assert senders(world.listeners[0][1]) == [Address(world.inside.public_host, FORWARDED_PORT)]


def test_a_forwarded_port_is_also_the_one_its_host_sends_from() -> None:
    network = Network(1)
    site = network.site(NatKind.RANDOM)
    inside, outside = site.host(), network.host()
    port, _ = listen(inside)
    _, heard = listen(outside, 5000)
    site.box.forward(8000, Address(inside.address, port))
    inside.send(b"x", Address(outside.address, 5000), port=port)
    network.clock.run(0.1)
    assert senders(heard) == [Address(site.box.host, 8000)]


@pytest.mark.parametrize("kind", FILTERING)
def test_what_is_not_used_for_30_s_is_closed(kind: NatKind) -> None:
    world = World(kind)
    seen = world.call(0)
    world.network.clock.run(29)
    assert world.answer(0, seen), "an answer keeps it open too"
    world.network.clock.run(29)
    assert world.answer(0, seen)
    world.network.clock.run(31)
    assert not world.answer(0, seen)
    assert world.answer(0, world.call(0))


def test_a_mapping_in_use_forgets_whom_it_has_not_seen_for_long() -> None:
    world = World(NatKind.CONSISTENT)
    seen = world.call(0)
    for _ in range(4):
        world.network.clock.run(10)
        world.call(1)
    assert not world.answer(0, seen)
    assert world.answer(1, seen)


def test_a_random_mapping_has_another_port_after_it_was_forgotten() -> None:
    world = World(NatKind.RANDOM)
    seen = world.call(0)
    box = world.inside.box
    assert box is not None
    box.forget()
    assert not world.answer(0, seen)
    assert world.call(0) != seen


def test_two_hosts_that_prefer_the_same_port_get_two() -> None:
    network = Network(1)
    site = network.site(NatKind.CONSISTENT)
    public = network.host()
    _, heard = listen(public, 5000)
    for host in (site.host(), site.host()):
        listen(host, 7000)
        host.send(b"x", Address(public.address, 5000), port=7000)
    network.clock.run(0.1)
    ports = [sender.port for sender in senders(heard)]
    assert len(set(ports)) == 2
    assert 7000 in ports


@pytest.mark.parametrize("isolated", [False, True])
@pytest.mark.parametrize("hairpin", [False, True])
def test_two_hosts_behind_one_box(isolated: bool, hairpin: bool) -> None:
    network = Network(1)
    site = network.site(NatKind.CONSISTENT, isolated=isolated, hairpin=hairpin)
    left, right = site.host(), site.host()
    left_port, _ = listen(left)
    right_port, heard = listen(right)
    left.send(b"by the LAN", Address(right.address, right_port), port=left_port)
    network.clock.run(0.1)
    for host, port, other in ((right, right_port, left_port), (left, left_port, right_port)):
        host.send(b"by the box", Address(site.box.host, other), port=port)
        network.clock.run(0.1)
    assert ((b"by the LAN", Address(left.address, left_port)) in heard) is not isolated
    assert ((b"by the box", Address(site.box.host, left_port)) in heard) is hairpin


@pytest.mark.parametrize("kind", [kind for kind in FILTERING if kind not in (NatKind.RANDOM, NatKind.SYMMETRIC)])
def test_a_small_ttl_opens_the_own_box_and_dies_on_the_backbone(kind: NatKind) -> None:
    world = World(kind)
    outer = Address(world.inside.public_host, world.port)
    assert not world.answer(0, outer)
    world.inside.send(b"\0", Address(world.hosts[0].address, 5000), port=world.port, ttl=5)
    world.network.clock.run(0.1)
    assert world.listeners[0][1] == []
    assert world.network.public.traffic.expired == 1
    assert world.answer(0, outer)


def test_a_ttl_of_two_does_not_pass_the_second_box() -> None:
    world = World(NatKind.DOUBLE)
    world.inside.send(b"\0", Address(world.hosts[0].address, 5000), port=world.port, ttl=2)
    world.network.clock.run(0.1)
    assert not world.answer(0, Address(world.inside.public_host, world.port))


@pytest.mark.parametrize(("left", "arrives"), [(1, False), (2, True)])
def test_boxes_of_the_receiver_take_from_the_ttl_too(left: int, arrives: bool) -> None:
    world = World(NatKind.CONSISTENT)
    world.hosts[0].send(b"x", world.call(0), port=5000, ttl=BACKBONE_HOPS + left)
    world.network.clock.run(0.1)
    assert bool(world.heard) is arrives


def test_private_addresses_lead_nowhere_from_elsewhere() -> None:
    world = World(NatKind.CONSISTENT)
    assert not world.answer(0, Address(world.inside.address, world.port))
    assert world.network.public.traffic.unroutable == 1


def stream_of(line: Line, count: int = 2000, *, seed: int = 1, size: int = 1) -> tuple[Network, list[int]]:
    """What arrives of that many packets, one each ms."""
    network = Network(seed, line=line)
    left, right = network.host(), network.host(line=Line(latency_s=0))
    arrived: list[int] = []
    right.bind(lambda data, *_: arrived.append(int.from_bytes(data[:4], "big")), 1)
    port, _ = listen(left)
    for number in range(count):
        left.send(number.to_bytes(4, "big").ljust(size, b"\0"), Address(right.address, 1), port=port)
        network.clock.run(0.001)
    network.clock.run(5)
    return network, arrived


def test_loss_reordering_and_duplication_follow_their_rates() -> None:
    network, arrived = stream_of(Line(loss=0.1))
    assert 1700 < len(arrived) < 1900
    assert arrived == sorted(arrived)
    assert network.public.traffic.lost == 2000 - len(arrived)
    _, arrived = stream_of(Line(duplication=0.1))
    assert 2100 < len(arrived) < 2300
    _, arrived = stream_of(Line(jitter_s=0.01))
    assert len(arrived) == 2000
    assert arrived != sorted(arrived) == list(range(2000))


def test_a_narrow_line_delays_and_then_drops() -> None:
    line = Line(bytes_s=500_000, queue_s=0.1)
    network, arrived = stream_of(line, size=1000)
    seconds = 2.1
    assert len(arrived) * 1000 == pytest.approx(seconds * 500_000, rel=0.05)
    assert network.public.traffic.lost == 2000 - len(arrived)


def test_the_same_seed_gives_the_same_run() -> None:
    line = Line(loss=0.1, jitter_s=0.01, duplication=0.1)
    assert stream_of(line, seed=7)[1] == stream_of(line, seed=7)[1] != stream_of(line, seed=8)[1]


def test_a_host_that_was_unplugged_is_silent_until_it_is_back() -> None:
    world = World(NatKind.OPEN)
    address = world.call(0)
    world.inside.unplug()
    world.inside.send(b"x", Address(world.hosts[1].address, 5000), port=world.port)
    assert not world.answer(0, address)
    assert world.listeners[1][1] == []
    world.inside.plug_in()
    assert world.answer(0, address)


def test_a_closed_or_taken_port_is_an_error() -> None:
    host = Network(1).host()
    port, _ = listen(host)
    with pytest.raises(OSError, match="taken"):
        listen(host, port)
    host.close(port)
    with pytest.raises(OSError, match="closed"):
        host.send(b"x", Address(host.address, 1), port=port)


def test_time_that_stands_still_is_noticed() -> None:
    clock = Network(1).clock

    def again() -> None:
        clock.call_at(clock.now, again)

    again()
    with pytest.raises(AssertionError, match="time stands still"):
        clock.run(1)
