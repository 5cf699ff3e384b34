"""Attacks on a whole simulated network (T17, T18, T19): nodes that lie, sit where the attacker wants them, flood topics, or
flood a server with handshakes."""

import pytest

from hyperdht.rpc.query import MAX_CANDIDATES
from hyperdht.rpc.requests import QUERY_RETRIES

from .simulation import NatKind
from .simulation.liars import Lie, key_pair_of, ports_near
from .simulation.peer import Attempt, PeerNetwork
from .simulation.population import Member, Population

NODES = 44
PORTS = range(1024, 8192)  # of 65,536; finding the best takes time


def found_share(population: Population, trials: int) -> float:
    """How often what an honest node announces is then found by another."""
    found = 0
    for number in range(trials):
        topic, key_pair = population.random.randbytes(32), key_pair_of(number)
        announcer, seeker = population.random.sample(population.honest, 2)
        population.announce(announcer, topic, key_pair)
        population.clock.run(1)
        found += key_pair.public_key in population.find(seeker, topic)
    return found / trials


def besiege(population: Population, topic: bytes, *, hosts: int, nodes_each: int) -> list[Member]:
    """An attacker takes the places closest to a topic that the ports of some addresses offer."""
    liars = []
    for _ in range(hosts):
        host = population.network.host()
        for port in ports_near(topic, host.address, nodes_each, ports=PORTS):
            liars.append(population.add_liar(Lie.EACH_OTHER, host=host, port=port))
            liars[-1].rpc.start(population.clock.now)
            liars[-1].shell.wake()
    population.clock.run(60)
    return liars


@pytest.mark.parametrize(
    ("lie", "share"),
    [(Lie.SILENCE, 0.5), (Lie.GARBAGE, 0.3), (Lie.PRIVATE, 0.5), (Lie.INVENTED, 0.1), (Lie.EACH_OTHER, 0.5)],
)
def test_t17_records_are_found_although_many_nodes_lie(lie: Lie, share: float) -> None:
    population = Population(1)
    population.fill(NODES, lies=lie, liars=round(share * NODES))
    population.clock.run(20)
    assert found_share(population, 4) == 1.0
    assert sum(member.liar.lies for member in population.members if member.liar) > NODES, "nobody asked the liars"


def test_t19_nobody_sends_to_private_or_impossible_addresses_because_a_liar_named_them() -> None:
    population = Population(2)
    population.fill(NODES, lies=Lie.PRIVATE, liars=NODES // 2)
    population.clock.run(60)
    found_share(population, 3)
    assert population.network.public.traffic.unroutable == 0


def test_t19_invented_nodes_cost_those_they_name_a_bounded_number_of_packets() -> None:
    population = Population(3)
    population.fill(NODES, lies=Lie.INVENTED, liars=NODES // 10)
    population.clock.run(60)
    traffic = population.network.public.traffic
    before = traffic.unroutable
    population.find(population.honest[0], population.random.randbytes(32))
    assert 0 < traffic.unroutable - before <= MAX_CANDIDATES * (QUERY_RETRIES + 1)


def test_t17_an_attacker_who_surrounds_a_topic_does_not_hide_what_was_announced_before() -> None:
    population = Population(4)
    population.fill(NODES)
    population.clock.run(20)
    topic, key_pair = population.random.randbytes(32), key_pair_of(1)
    population.announce(population.honest[0], topic, key_pair)
    liars = besiege(population, topic, hosts=2, nodes_each=10)
    assert set(population.truth(topic, without=population.honest[0])) == set(liars)
    found = [key_pair.public_key in population.find(member, topic) for member in population.honest[1:9]]
    assert sum(found) >= 7
    assert all(liar.liar is not None and liar.liar.lies for liar in liars)


def test_t17_an_attacker_with_few_networks_does_not_swallow_what_is_announced_later() -> None:
    population = Population(4)
    population.fill(NODES)
    population.clock.run(20)
    topic, key_pair = population.random.randbytes(32), key_pair_of(1)
    besiege(population, topic, hosts=2, nodes_each=15)
    population.announce(population.honest[0], topic, key_pair)
    found = [key_pair.public_key in population.find(member, topic) for member in population.honest[1:9]]
    assert all(found)


def test_t17_a_flood_of_records_from_one_address_leaves_room_for_others() -> None:
    population = Population(5)
    population.fill(NODES)
    population.clock.run(20)
    topic, honest = population.random.randbytes(32), key_pair_of(0)
    flooder = population.add()
    for number in range(1, 51):
        assert population.announce(flooder, topic, key_pair_of(number)) == 20
        if number == 25:
            population.announce(population.honest[0], topic, honest)
    for member in population.honest[1:6]:
        assert honest.public_key in population.find(member, topic)


def test_t18_a_host_that_floods_a_server_with_handshakes_keeps_nobody_out() -> None:
    """Its clients prove their keys and then say that they do not punch, so each would hold a socket for 10 s."""
    network = PeerNetwork(6)
    server, honest, flooder = (network.peer(NatKind.CONSISTENT) for _ in range(3))
    network.clock.run(3)
    serving = server.listen(key_pair_of(0))
    assert network.clock.run_until(lambda: serving.announced, seconds=20)
    attempts: list[Attempt] = []
    sockets = 0
    for number in range(200):
        flooder.dht.connect(
            key_pair_of(0).public_key,
            key_pair_of(1000 + number),
            now=network.clock.now,
            relay_addresses=serving.server.relay_addresses,
            holepunch=lambda *_: False,
            on_link=lambda *_: None,
            on_failed=lambda *_: None,
        )
        flooder.shell.wake()
        network.clock.run(0.02)
        sockets = max(sockets, server.sockets)
        if number % 50 == 25:
            attempts.append(honest.connect(key_pair_of(0).public_key, key_pair_of(1 + number)))
    network.clock.run(20)
    assert serving.server.refused > 0
    assert sockets <= 64 + len(attempts) + 1
    assert all(attempt.greeted_at is not None for attempt in attempts)
    assert server.sockets <= len(attempts)
