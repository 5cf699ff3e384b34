"""Iterative queries: one step at a time, then in a network of hundreds of nodes."""

from collections.abc import Iterable
from random import Random

import pytest

from hyperdht.addresses import Address
from hyperdht.rpc.best_replies import BestReply
from hyperdht.rpc.messages import Reply, node_id
from hyperdht.rpc.query import (
    MAX_CANDIDATES,
    Commit,
    DownHintWanted,
    Query,
    QueryEvent,
    QueryFinished,
    QueryReplied,
    is_worth_asking,
)

from .rpc_network import HERE, Network, network_of

TARGET = bytes(32)
OWN_ID = b"\xff" * 32


def distance(address: Address) -> int:
    return int.from_bytes(node_id(address), "big")


NODES = sorted((Address("10.0.0.1", port) for port in range(1, 201)), key=distance)
"""Closest to `TARGET` first."""


def query(table: Iterable[Address] = (), **options: object) -> Query:
    return Query(TARGET, own_id=OWN_ID, table=list(table), **options)  # type: ignore[arg-type]


def ask(machine: Query, *, in_flight: int | None = None) -> list[Address]:
    """Everyone the query wants to ask now."""
    asked: list[Address] = []
    while (address := machine.next_request(in_flight=in_flight or 0)) is not None:
        asked.append(address)
    return asked


def reply_from(address: Address, *closer: Address, error: int = 0, with_id: bool = True) -> Reply:
    return Reply(1, HERE, id=node_id(address) if with_id else None, closer_nodes=closer, error=error)


def answer(machine: Query, address: Address, *closer: Address, error: int = 0, with_id: bool = True) -> None:
    machine.receive_reply(address, reply_from(address, *closer, error=error, with_id=with_id), sender=address)


def events(machine: Query) -> list[QueryEvent]:
    found: list[QueryEvent] = []
    while (event := machine.next_event()) is not None:
        found.append(event)
    return found


def best(machine: Query) -> list[Address]:
    return [reply.address for reply in machine.best_replies]


def test_without_anybody_to_ask_it_is_over_at_once() -> None:
    machine = query()
    assert ask(machine) == []
    assert events(machine) == [QueryFinished(0, 0)]
    assert machine.finished


def test_ten_at_a_time_and_the_last_learned_first() -> None:
    machine = query(NODES[100:120])
    first = ask(machine)
    assert first == NODES[119:109:-1]
    answer(machine, first[0], NODES[50], NODES[3])
    assert ask(machine) == [NODES[3]]


def test_best_replies_are_the_twenty_closest_in_order() -> None:
    machine = query(NODES[100:120])
    while asked := ask(machine):
        for address in asked:
            answer(machine, address, *NODES[:15], *NODES[90:95])
    assert best(machine) == NODES[:15] + NODES[90:95]
    assert events(machine)[-1] == QueryFinished(10 + 20, 0)  # the other ten became too far to be asked


def test_a_reply_without_id_counts_but_is_no_place_to_write() -> None:
    machine = query([NODES[0]])
    assert ask(machine) == [NODES[0]]
    answer(machine, NODES[0], with_id=False)
    assert events(machine) == [QueryReplied(NODES[0], reply_from(NODES[0], with_id=False)), QueryFinished(1, 0)]
    assert machine.best_replies == []


def test_an_error_contributes_its_closer_nodes_and_no_data() -> None:
    machine = query([NODES[5]])
    ask(machine)
    answer(machine, NODES[5], NODES[4], error=1)
    assert events(machine) == []
    assert ask(machine) == [NODES[4]]
    assert machine.best_replies == []


def test_a_list_of_closer_nodes_is_read_up_to_the_first_that_is_not_closer() -> None:
    machine = query(NODES[10:30])
    asked = ask(machine)
    held = asked[0]
    while asked:
        for address in asked:
            if address != held:
                answer(machine, address, NODES[9])
        asked = ask(machine)
    assert best(machine) == NODES[9:29]
    answer(machine, held, NODES[5], NODES[50], NODES[4])
    assert ask(machine) == [NODES[5]]
    assert best(machine) == NODES[9:29]


def test_each_node_is_asked_once_and_we_never() -> None:
    machine = Query(TARGET, own_id=node_id(NODES[0]), table=NODES[5:7])
    seen = ask(machine)
    for address in seen:
        answer(machine, address, *NODES[:7])
    while asked := ask(machine):
        seen += asked
        for address in asked:
            answer(machine, address, *NODES[:7])
    assert sorted(seen, key=distance) == NODES[1:7]


def test_a_silent_node_is_reported_to_everyone_who_names_it() -> None:
    machine = query(NODES[10:13])
    for address in ask(machine)[:2]:
        answer(machine, address, NODES[0], NODES[0])
    assert ask(machine) == [NODES[0]]
    events(machine)
    machine.handle_slow(NODES[0])
    machine.handle_timeout(NODES[0])
    assert events(machine) == [DownHintWanted(NODES[12], NODES[0]), DownHintWanted(NODES[11], NODES[0])]
    answer(machine, NODES[10], NODES[0])
    assert DownHintWanted(NODES[10], NODES[0]) in events(machine)
    assert machine.finished


def test_slow_nodes_are_not_waited_for_once_there_are_twenty_replies() -> None:
    machine = query(NODES[:20])
    asked = ask(machine)
    slow = asked[0]
    machine.handle_slow(slow)
    while asked:
        assert not machine.finished
        for address in asked:
            if address != slow:
                answer(machine, address, NODES[20])
        asked = ask(machine)
    assert machine.finished
    answer(machine, slow)  # too late
    assert best(machine) == [node for node in NODES[:21] if node != slow]


def test_slow_nodes_make_room_for_others() -> None:
    machine = query(NODES[:20])
    asked = ask(machine)
    assert len(asked) == 10
    machine.handle_slow(asked[0])
    machine.handle_slow(asked[0])
    assert len(ask(machine)) == 1


@pytest.mark.parametrize(("in_flight", "at_once"), [(0, 10), (2, 10), (3, 2), (50, 2)])
def test_background_queries_leave_room(in_flight: int, at_once: int) -> None:
    assert len(ask(query(NODES[:20], background=True), in_flight=in_flight)) == at_once


def test_twenty_seeds_replace_the_table_and_are_given_time() -> None:
    machine = query(NODES[100:120], seeds=NODES[:20])
    first = ask(machine)
    assert set(first) < set(NODES[:20])
    for address in first[:7]:
        answer(machine, address)
    assert ask(machine) == []
    answer(machine, first[7])
    assert len(ask(machine)) == 1
    for address in first[8:]:
        answer(machine, address)
    assert len(ask(machine)) == 9


def test_when_the_seeds_are_gone_the_table_is_asked() -> None:
    machine = query(NODES[100:120], seeds=NODES[:20])
    for _ in range(20):
        for address in ask(machine):
            if address not in NODES[:20]:
                answer(machine, address)
            else:
                machine.handle_timeout(address)
    assert best(machine) == NODES[100:120]
    assert events(machine)[-1] == QueryFinished(20, 20)


def test_few_seeds_are_topped_up_from_the_table_then_from_the_bootstrap_nodes() -> None:
    bootstrap = Address("10.9.9.9", 9)
    full = ask(query(NODES[:20], seeds=NODES[50:55], bootstrap=[bootstrap]))
    assert full == NODES[14:4:-1]  # five of the table were too many
    assert ask(query(NODES[:5], seeds=NODES[50:55], bootstrap=[bootstrap]))[0] == bootstrap


def test_only_closest_nodes_asks_the_seeds_alone() -> None:
    machine = query(NODES[20:30], seeds=NODES[10:12], bootstrap=NODES[30:31], only_closest_nodes=True)
    for address in ask(machine):
        answer(machine, address, *NODES[:5])
    assert machine.finished
    assert best(machine) == NODES[10:12]


def test_answers_nobody_asked_for_are_ignored() -> None:
    machine = query(NODES[10:12])
    answer(machine, NODES[10], NODES[0])
    machine.handle_timeout(NODES[11])
    machine.handle_slow(NODES[5])
    assert events(machine) == []
    assert ask(machine) == [NODES[11], NODES[10]]


def test_liars_who_name_each_other_are_not_followed_for_ever() -> None:
    random = Random(1)
    machine = query([Address("9.9.9.9", 9)])
    count = 0
    while asked := ask(machine):
        for address in asked:
            count += 1
            made_up = [Address(f"9.{random.randrange(256)}.{random.randrange(256)}.9", 9009) for _ in range(300)]
            machine.receive_reply(address, Reply(1, HERE, closer_nodes=tuple(made_up)), sender=address)
        events(machine)
    assert machine.finished
    assert 500 < count <= MAX_CANDIDATES


@pytest.mark.parametrize(
    ("host", "recommender", "believed"),
    [
        ("8.8.8.8", "9.9.9.9", True),
        ("192.168.1.1", "9.9.9.9", False),
        ("127.0.0.1", "9.9.9.9", False),
        ("100.64.0.1", "9.9.9.9", False),
        ("169.254.169.254", "9.9.9.9", False),
        ("192.168.1.1", "192.168.1.2", True),
        ("127.0.0.1", "127.0.0.1", True),
        ("8.8.8.8", "192.168.1.2", True),
        ("224.0.0.1", "192.168.1.2", False),
        ("255.255.255.255", "192.168.1.2", False),
        ("0.0.0.0", "192.168.1.2", False),
    ],
)
def test_a_public_node_cannot_send_us_into_our_own_network(host: str, recommender: str, believed: bool) -> None:
    assert is_worth_asking(Address(host, 1024), recommender=Address(recommender, 1)) is believed
    assert not is_worth_asking(Address(host, 0), recommender=Address(recommender, 1))


def test_t19_nobody_can_send_us_to_name_servers() -> None:
    assert not is_worth_asking(Address("8.8.8.8", 53), recommender=Address("9.9.9.9", 4000))
    assert not is_worth_asking(Address("8.8.8.8", 1023), recommender=Address("192.168.1.2", 4000))


def test_commit_succeeds_if_anybody_answers() -> None:
    replies = [
        BestReply(0, node_id(node), node, Reply(1, HERE, token=bytes([i]) * 32)) for i, node in enumerate(NODES[:3])
    ]
    commit = Commit(replies)
    assert commit.requests == tuple((node, bytes([i]) * 32) for i, node in enumerate(NODES[:3]))
    commit.handle_timeout(NODES[0])
    assert not commit.finished
    assert not commit.succeeded
    commit.receive_reply(NODES[1], Reply(2, HERE, error=16))
    commit.receive_reply(NODES[1], Reply(2, HERE))
    commit.handle_timeout(NODES[2])
    assert commit.finished
    assert commit.succeeded
    assert commit.replies == [(NODES[1], Reply(2, HERE, error=16))]


def test_commit_after_a_query_that_found_nobody_fails() -> None:
    assert Commit([]).finished
    assert not Commit([]).succeeded


@pytest.fixture(scope="module")
def network() -> Network:
    return network_of(400, Random(3))


@pytest.mark.parametrize(("dead_share", "at_least"), [(0.0, 0.99), (0.1, 0.98), (0.3, 0.95)])
def test_queries_find_the_closest_nodes_of_a_network(network: Network, dead_share: float, at_least: float) -> None:
    random = Random(4)
    everybody = sorted(network.tables)
    network.dead = set(random.sample(everybody, int(dead_share * len(everybody))))
    network.asked, runs, found = 0, 40, 0
    for _ in range(runs):
        target = random.randbytes(32)
        bootstrap = random.sample(sorted(network.tables.keys() - network.dead), 3)
        machine = Query(target, own_id=random.randbytes(32), table=(), bootstrap=bootstrap)
        network.run(machine)
        found += len(set(best(machine)) & set(network.truth(target)))
    assert found / (20 * runs) >= at_least
    assert network.asked / runs < 100
    assert {hint.suspect for hint in network.hints} <= network.dead
    assert bool(network.hints) == bool(network.dead)
    network.hints.clear()


def test_only_twenty_closer_nodes_of_a_reply_are_taken() -> None:
    machine = query([NODES[150]])
    ask(machine)
    answer(machine, NODES[150], *NODES[:30])
    seen = 0
    while asked := ask(machine):
        seen += len(asked)
        for address in asked:
            machine.handle_timeout(address)
    assert seen == 20


def test_a_node_answering_for_several_addresses_is_one_best_reply() -> None:
    machine = query(NODES[10:13])
    for address in ask(machine):
        machine.receive_reply(address, reply_from(NODES[3]), sender=NODES[3])
    assert best(machine) == [NODES[3]]
