"""Which connections there are: dials and their limits, retries, duplicates, bans, flushing, suspension."""

import itertools
import random
from collections import Counter
from typing import Any

import pytest

from hyperdht.swarm import (
    CloseReason,
    CloseWanted,
    Connection,
    ConnectionLost,
    ConnectionOpened,
    ConnectionState,
    DialWanted,
    Flush,
    FlushEnded,
    KeepAliveWanted,
    Limits,
    PeerBanned,
    Refresh,
    RefreshWanted,
    SwarmState,
    Updated,
)
from hyperdht.swarm.connection_set import SILENT_S, keep_new
from hyperdht.swarm.peer_book import MAX_FIREWALL_BANS
from hyperdht.swarm.peer_book import MAX_PEERS as PEERS_REMEMBERED
from hyperdht.swarm.slots import MAX_PARALLEL, MAX_PEERS, max_peers_factor

from .dht_vectors import dht
from .swarm_machines import NODES, OTHER_TOPIC, OWN, TOPIC, Driver, always, key, never, numbers, record

LOW, HIGH = 5, OWN + 5  # keys below and above our own


def accept(driver: Driver, number: int, *, now: float = 0.0) -> Connection:
    """That peer connects to us, and the program takes the connection."""
    assert driver.swarm.admits(key(number), None)
    connection = driver.swarm.incoming(key(number), never, now)
    assert driver.opened() == [connection]
    driver.swarm.taken(connection, now)
    return connection


# ---- dials


def test_as_many_dials_at_a_time_as_allowed() -> None:
    driver = Driver()
    driver.find(*map(record, range(1, 10)))
    dials = driver.dials()
    assert len(dials) == MAX_PARALLEL
    driver.swarm.dial_opened(dials[0], never, 0.0)
    driver.swarm.closed(dials[1], 0.0)
    assert len(driver.dials()) == 2
    assert driver.opened() == [dials[0]]
    assert driver.take(Updated)


def test_a_dial_carries_what_the_record_said() -> None:
    driver = Driver()
    dial = driver.dial_one(1)
    assert dial.is_initiator
    assert dial.peer.topics == {TOPIC}
    driver.swarm.dial_opened(dial, never, 3.0)
    assert dial.peer.client
    assert dial.peer.proven
    assert dial.state is ConnectionState.OPEN


def test_no_more_dials_once_there_are_enough_connections() -> None:
    driver = Driver(limits=Limits(max_peers=4))
    driver.find(*map(record, range(1, 10)))
    while dials := driver.dials():
        for dial in dials:
            driver.swarm.dial_opened(dial, never, 0.0)
            driver.swarm.taken(dial, 0.0)
    assert len(driver.swarm.connections) == 4
    first = next(iter(driver.swarm.connections))
    driver.swarm.closed(first, 0.0)
    assert len(driver.dials()) == 1


def test_connections_from_outside_count_too() -> None:
    driver = Driver(limits=Limits(max_peers=2))
    accept(driver, 1)
    accept(driver, 2)
    accept(driver, 3)  # dialling stops, accepting does not
    driver.find(record(4))
    assert not driver.dials()


@pytest.mark.parametrize(("explicit", "factor"), [(0, 1), (1, 2), (2, 3), (3, 3), (4, 4), (50, 4)])
def test_named_peers_leave_fewer_slots_for_found_ones(explicit: int, factor: int) -> None:
    assert max_peers_factor(explicit) == factor


def test_client_connections_have_their_own_limit() -> None:
    driver = Driver(limits=Limits(max_client_connections=2))
    accept(driver, 9)
    driver.find(*map(record, range(1, 5)))
    assert len(driver.dials()) == 2


def test_our_own_record_is_ignored() -> None:
    driver = Driver()
    driver.find(record(OWN))
    driver.swarm.join_peer(key(OWN), 0.0)
    assert not driver.dials()
    assert len(driver.swarm.peers) == 0
    assert not driver.swarm.admits(key(OWN), None)


def test_no_second_dial_to_a_connected_peer() -> None:
    driver = Driver()
    accept(driver, 1)
    driver.find(record(1))
    assert not driver.dials()
    assert next(iter(driver.swarm.peers)).topics == {TOPIC}


# ---- retries


def test_retry_times_of_a_peer_that_never_answers() -> None:
    driver = Driver()
    dial, now, delays = driver.dial_one(1), 0.0, []
    driver.swarm.closed(dial, now)
    for _ in range(3):
        when, dial = driver.run_until_dial(before=now + 60.0)
        delays.append(when - now)
        now = when
        driver.swarm.closed(dial, now)
    medium, *long = delays
    assert 0.66 * 5.0 <= medium <= 1.33 * 6.5
    assert all(0.66 * 15.0 <= delay <= 1.33 * 17.5 for delay in long)
    with pytest.raises(AssertionError):
        driver.run_until_dial(before=now + 500.0)
    assert len(driver.swarm.peers) == 0, "given up and forgotten"


def test_a_lost_connection_is_dialled_again_within_two_and_a_half_seconds() -> None:
    driver = Driver()
    connection = driver.open_one(1, now=0.0)
    driver.swarm.closed(connection, 20.0)
    assert driver.lost() == [connection]
    when, dial = driver.run_until_dial(before=30.0)
    assert 0.66 <= when - 20.0 <= 2.66
    assert dial.peer is connection.peer


def test_connections_that_end_at_once_are_tried_less_and_less() -> None:
    driver = Driver()
    now, delays = 0.0, []
    driver.swarm.closed(driver.open_one(1), now)
    for _ in range(2):
        when, dial = driver.run_until_dial(before=now + 60.0)
        delays.append(when - now)
        now = when
        driver.swarm.dial_opened(dial, never, now)
        driver.swarm.closed(dial, now)
    assert delays[0] < 2.7 < 3.3 < delays[1]


def test_connections_of_others_are_not_dialled_again() -> None:
    driver = Driver()
    connection = accept(driver, 1)
    driver.swarm.closed(connection, 100.0)
    assert driver.swarm.next_timer() is None
    assert len(driver.swarm.peers) == 0


def test_no_retry_once_the_topic_is_left() -> None:
    driver = Driver()
    connection = driver.open_one(1)
    driver.swarm.leave(TOPIC)
    assert driver.swarm.connections.get(key(1)) is connection
    driver.swarm.closed(connection, 100.0)
    assert driver.swarm.next_timer() is None


def test_leaving_drops_who_waits_for_that_topic_only() -> None:
    driver = Driver(limits=Limits(max_parallel=1))
    driver.find(*map(record, range(1, 5)))
    driver.find(record(4), topic=OTHER_TOPIC)
    (dial,) = driver.dials()
    driver.swarm.leave(TOPIC)
    driver.swarm.closed(dial, 0.0)
    reached = numbers([dial])
    while dials := driver.dials():
        reached |= numbers(dials)
        driver.swarm.closed(dials[0], 0.0)
    assert 4 in reached
    assert len(reached) <= 2


def test_no_retry_where_the_program_wants_none() -> None:
    driver = Driver()
    connection = driver.open_one(1)
    connection.peer.reconnect(False)
    driver.swarm.closed(connection, 100.0)
    assert driver.swarm.peers.get(key(1)) is None


def test_found_again_while_waiting_is_dialled_now_and_once() -> None:
    driver = Driver()
    driver.swarm.closed(driver.dial_one(1), 0.0)
    again = driver.dial_one(1, now=1.0)
    driver.swarm.dial_opened(again, never, 1.0)
    driver.swarm.handle_timer(now=60.0)
    assert not driver.dials()


def test_a_relay_is_asked_for_after_failures_it_helps_against() -> None:
    driver = Driver()
    dial = driver.dial_one(1)
    assert not dial.peer.force_relaying
    driver.swarm.closed(dial, 0.0, relay_might_help=True)
    _, again = driver.run_until_dial(before=10.0)
    assert again.peer.force_relaying


# ---- peers asked for by key


def test_named_peers_are_dialled_without_a_topic_and_beyond_the_limit() -> None:
    driver = Driver(limits=Limits(max_peers=1))
    accept(driver, 9)
    driver.swarm.join_peer(key(1), 0.0)
    (dial,) = driver.dials()
    driver.swarm.closed(dial, 0.0)
    when, dial = driver.run_until_dial(before=60.0)
    driver.swarm.dial_opened(dial, never, when)
    driver.swarm.leave_peer(key(1))
    driver.swarm.closed(dial, when + 100.0)
    assert driver.swarm.next_timer() is None


def test_named_peers_are_never_given_up() -> None:
    driver = Driver()
    driver.swarm.join_peer(key(1), 0.0)
    (dial,) = driver.dials()
    now, delays = 0.0, []
    driver.swarm.closed(dial, now)
    for _ in range(8):
        when, dial = driver.run_until_dial(before=now + 2000.0)
        delays.append(when - now)
        now = when
        driver.swarm.closed(dial, now)
    assert all(0.66 * 600.0 <= delay <= 1.33 * 720.5 for delay in delays[4:])


def named_peer_dialled_in_vain(driver: Driver, attempts: int) -> float:
    """Dial peer 1 until it has so many attempts, the last of them outside the queue. Returns the time of the last failure."""
    driver.swarm.join_peer(key(1), 0.0)
    (dial,) = driver.dials()
    now = 0.0
    driver.swarm.closed(dial, now)
    while dial.peer.attempts < attempts - 1:
        now, dial = driver.run_until_dial(before=now + 60.0)
        driver.swarm.closed(dial, now)
    now += attempts
    driver.swarm.ban(key(99))
    driver.swarm.incoming(key(99), never, now)  # anything that happens makes the swarm look whom it may dial
    (dial,) = driver.dials()
    driver.swarm.closed(dial, now)
    assert dial.peer.attempts == attempts
    return now


def test_a_named_peer_dialled_in_vain_five_times_waits_for_its_timer() -> None:
    driver = Driver()
    now = named_peer_dialled_in_vain(driver, 5)
    driver.swarm.incoming(key(99), never, now + 100.0)
    assert not driver.dials()
    when, _ = driver.run_until_dial(before=now + 1000.0)
    assert when - now > 300.0


def test_a_named_peer_is_dialled_when_the_connection_it_made_is_over() -> None:
    """Also after it was dialled in vain so often that only a timer would try it again."""
    driver = Driver()
    now = named_peer_dialled_in_vain(driver, 5)
    connection = accept(driver, 1, now=now)
    driver.swarm.handle_timer(now=now + 3000.0)  # the timer finds it connected
    driver.swarm.closed(connection, now + 5000.0)
    driver.run_until_dial(before=now + 7000.0)


def test_resumed_at_once_a_named_peer_is_dialled_at_once() -> None:
    driver = Driver()
    driver.swarm.join_peer(key(1), 0.0)
    (dial,) = driver.dials()
    driver.swarm.suspend()
    driver.swarm.closed(dial, 1.0)
    driver.swarm.resume(1.0)
    assert numbers(driver.dials()) == {1}


def test_found_again_the_count_of_a_peer_that_fails_starts_anew() -> None:
    driver = Driver()
    dial = driver.dial_one(1)
    driver.swarm.closed(dial, 0.0)
    when, dial = driver.run_until_dial(before=20.0)
    driver.swarm.closed(dial, when)
    assert dial.peer.attempts == 2
    again = driver.dial_one(1, now=when)
    driver.swarm.closed(again, when)
    assert again.peer.attempts == 1


def test_a_dial_that_a_better_connection_replaced_counts_as_any_other() -> None:
    driver = Driver()
    dial = driver.dial_one(HIGH, now=0.0)
    driver.swarm.dial_opened(dial, never, 0.0)
    new = driver.swarm.incoming(key(HIGH), never, 1.0)
    driver.swarm.closed(dial, 1.0)
    assert new.peer.attempts == 1
    driver.swarm.closed(new, 100.0)
    again = driver.dial_one(HIGH, now=100.0)  # found again: it dialled us last, so the count starts anew
    driver.swarm.closed(again, 100.0)
    assert again.peer.attempts == 1


def test_a_named_peer_waits_a_second_per_attempt() -> None:
    driver = Driver()
    driver.swarm.join_peer(key(1), 0.0)
    (dial,) = driver.dials()
    driver.swarm.closed(dial, 10.0)
    driver.find(record(2), now=10.9)
    assert numbers(driver.dials()) == {2}
    driver.find(record(3), now=11.0)
    assert numbers(driver.dials()) == {1, 3}


def test_leaving_a_named_peer_before_its_dial() -> None:
    driver = Driver(limits=Limits(max_parallel=1))
    driver.swarm.join_peer(key(1), 0.0)
    (dial,) = driver.dials()
    driver.swarm.join_peer(key(2), 0.0)
    driver.swarm.leave_peer(key(2))
    driver.swarm.leave_peer(key(3))
    driver.swarm.closed(dial, 0.0)
    assert not driver.dials()
    assert [peer.public_key for peer in driver.swarm.peers] == [key(1)]


# ---- firewall and bans


def test_what_the_firewall_rejects_is_banned_whoever_connects() -> None:
    asked: list[tuple[bytes, object]] = []

    def firewall(public_key: bytes, payload: object) -> bool:
        asked.append((public_key, payload))
        return public_key in (key(1), key(2))

    driver = Driver(firewall=firewall)
    driver.find(record(1), record(3))
    assert not driver.swarm.admits(key(2), "payload")
    assert numbers(driver.dials()) == {3}
    assert sorted(asked, key=lambda each: each[0]) == [(key(1), None), (key(2), "payload"), (key(3), None)]
    assert {event.peer.public_key for event in driver.take(PeerBanned)} == {key(1), key(2)}
    asked.clear()
    assert not driver.swarm.admits(key(2), None)
    assert not asked, "once is enough"


def test_ban_ends_the_connection_and_lasts() -> None:
    driver = Driver()
    connection = driver.open_one(1)
    driver.swarm.ban(key(1))
    assert driver.closes() == [CloseWanted(connection, CloseReason.BANNED)]
    assert [event.peer for event in driver.take(PeerBanned)] == [connection.peer]
    driver.swarm.closed(connection, 100.0)
    assert driver.swarm.next_timer() != 100.0
    assert not driver.swarm.admits(key(1), None)
    refused = driver.swarm.incoming(key(1), never, 100.0)  # its handshake was answered before the ban
    assert driver.closes() == [CloseWanted(refused, CloseReason.BANNED)]
    driver.find(record(1), now=200.0)
    assert not driver.dials()
    driver.swarm.ban(key(1), banned=False)
    driver.find(record(1), now=300.0)
    assert len(driver.dials()) == 1


def test_ban_takes_a_peer_out_of_the_queue() -> None:
    driver = Driver(limits=Limits(max_parallel=1))
    driver.find(record(1), record(2))
    (dial,) = driver.dials()
    (other,) = {1, 2} - numbers([dial])
    driver.swarm.ban(key(other))
    driver.swarm.ban(key(OWN))
    driver.swarm.closed(dial, 0.0)
    assert not driver.dials()


def test_ban_of_a_peer_that_waits_for_another_try() -> None:
    driver = Driver()
    dial = driver.dial_one(1)
    driver.swarm.closed(dial, 0.0)
    assert dial.peer.waiting
    driver.swarm.ban(key(1))
    assert not dial.peer.waiting
    assert driver.swarm.peers.get(key(1)) is dial.peer
    with pytest.raises(AssertionError):
        driver.run_until_dial(before=100.0)


def test_t18_keys_that_the_firewall_refuses_are_not_remembered_for_ever() -> None:
    driver = Driver(firewall=lambda public_key, payload: True)
    for number in range(1, MAX_FIREWALL_BANS + 100):
        assert not driver.swarm.admits(key(number), None)
    assert len(driver.swarm.peers) == MAX_FIREWALL_BANS


# ---- duplicates


@pytest.mark.parametrize("recorded", dht()["swarm_duplicates"], ids=lambda each: f"{each['self']}-{each['remote']}")
def test_recorded_duplicates(recorded: dict[str, Any]) -> None:
    own, remote = (key(2), key(1)) if recorded["selfKeyIsGreater"] else (key(1), key(2))
    initiator = recorded["newConnectionIsInitiator"]
    fresh = keep_new(own, remote, new_is_initiator=initiator, existing_outdated=False)
    assert fresh == recorded["keepNewWhenExistingIsFresh"]
    assert keep_new(own, remote, new_is_initiator=initiator, existing_outdated=True)


def test_the_peer_with_the_greater_key_dials_and_its_dial_wins() -> None:
    driver = Driver()
    dial = driver.dial_one(HIGH)
    new = driver.swarm.incoming(key(HIGH), never, 0.0)
    assert driver.closes() == [CloseWanted(dial, CloseReason.DUPLICATE)]
    assert not driver.opened(), "only once the old one is over"
    driver.swarm.closed(dial, 0.0)
    assert driver.opened() == [new]
    assert driver.swarm.connections.get(key(HIGH)) is new
    assert driver.swarm.next_timer() == driver.swarm.next_timer()
    assert not new.peer.waiting
    assert not new.peer.client


def test_our_dial_wins_over_the_peer_with_the_smaller_key() -> None:
    driver = Driver()
    dial = driver.dial_one(LOW)
    new = driver.swarm.incoming(key(LOW), never, 0.0)
    assert driver.closes() == [CloseWanted(new, CloseReason.DUPLICATE)]
    assert not driver.take(KeepAliveWanted), "there is nothing to keep alive in a dial"
    driver.swarm.closed(new, 0.0)
    driver.swarm.dial_opened(dial, never, 0.0)
    assert driver.opened() == [dial]


def test_an_open_connection_that_stays_is_made_to_prove_itself() -> None:
    driver = Driver()
    connection = driver.open_one(LOW)
    new = driver.swarm.incoming(key(LOW), never, 0.0)
    assert driver.closes() == [CloseWanted(new, CloseReason.DUPLICATE)]
    assert [event.connection for event in driver.take(KeepAliveWanted)] == [connection]


def test_a_connection_on_which_the_peer_was_never_heard_goes() -> None:
    """It was dialled to where the peer cannot be reached; that both dialled at once would show sooner."""
    driver = Driver()
    mute = driver.open_one(LOW)
    early = driver.swarm.incoming(key(LOW), always, SILENT_S - 0.1)
    assert driver.closes() == [CloseWanted(early, CloseReason.DUPLICATE)]
    driver.swarm.closed(early, SILENT_S)
    driver.swarm.incoming(key(LOW), always, SILENT_S + 0.1)
    assert driver.closes() == [CloseWanted(mute, CloseReason.DUPLICATE)]


@pytest.mark.parametrize("number", [LOW, HIGH])
def test_a_stale_connection_goes_whatever_the_keys(number: int) -> None:
    driver = Driver()
    stale = driver.open_one(number, talked=always)
    new = driver.swarm.incoming(key(number), never, 1.0)
    assert driver.closes() == [CloseWanted(stale, CloseReason.DUPLICATE)]
    driver.swarm.closed(stale, 1.0)
    assert driver.lost() == [stale]
    assert driver.opened() == [new]


def test_a_successor_that_ends_first_is_forgotten() -> None:
    driver = Driver()
    stale = driver.open_one(LOW, talked=always)
    new = driver.swarm.incoming(key(LOW), never, 1.0)
    driver.swarm.closed(new, 1.0)
    driver.swarm.closed(stale, 1.0)
    assert not driver.opened()
    assert len(driver.swarm.connections) == 0
    assert driver.run_until_dial(before=30.0)


def test_a_third_connection_competes_with_the_successor() -> None:
    driver = Driver()
    dial = driver.dial_one(HIGH)
    second = driver.swarm.incoming(key(HIGH), never, 0.0)
    third = driver.swarm.incoming(key(HIGH), never, 0.0)
    assert driver.closes() == [CloseWanted(dial, CloseReason.DUPLICATE), CloseWanted(second, CloseReason.DUPLICATE)]
    driver.swarm.closed(second, 0.0)
    driver.swarm.closed(dial, 0.0)
    assert driver.opened() == [third]


@pytest.mark.parametrize("first_dials_reach", list(itertools.permutations(range(2))))
@pytest.mark.parametrize("greater_is_left", [True, False])
def test_both_join_at_once_and_end_with_the_same_connection(
    greater_is_left: bool, first_dials_reach: tuple[int, int]
) -> None:
    """Both dial before either connection arrives: in either key order, both keep the same one."""
    own = (OWN, LOW) if greater_is_left else (LOW, OWN)
    sides = (Driver(own[0]), Driver(own[1]))
    dials = (sides[0].dial_one(own[1]), sides[1].dial_one(own[0]))
    arrived: dict[int, Connection] = {}
    for side in first_dials_reach:  # the server side opens first, as in the DHT
        arrived[side] = sides[1 - side].swarm.incoming(key(own[side]), never, 0.0)
    for side in (0, 1):
        for event in sides[side].closes():
            other = sides[1 - side]
            pairs = {dials[side]: arrived[side], arrived[1 - side]: dials[1 - side]}
            sides[side].swarm.closed(event.connection, 0.0)
            other.swarm.closed(pairs[event.connection], 0.0)
    for side in (0, 1):
        if sides[side].swarm.connections.get(key(own[1 - side])) is dials[side]:
            sides[side].swarm.dial_opened(dials[side], never, 0.0)
    (left,), (right,) = sides[0].swarm.connections, sides[1].swarm.connections
    assert left.state is right.state is ConnectionState.OPEN
    greater = 0 if greater_is_left else 1
    assert (left, right)[greater] is dials[greater]
    assert (left, right)[1 - greater] is arrived[greater]
    assert sides[0].opened() == [left]
    assert sides[1].opened() == [right]


# ---- how much a program that is slow, and strangers, can make us hold


def test_a_program_that_takes_nothing_stops_dials_and_acceptance() -> None:
    driver = Driver(limits=Limits(max_waiting=4))
    driver.find(*map(record, range(1, 20)))
    while dials := driver.dials():
        for dial in dials:
            driver.swarm.dial_opened(dial, never, 0.0)
    opened = driver.opened()
    assert len(opened) == 4
    assert not driver.swarm.admits(key(50), None)
    surplus = driver.swarm.incoming(key(50), never, 0.0)
    assert driver.closes() == [CloseWanted(surplus, CloseReason.SURPLUS)]
    driver.swarm.taken(opened[0], 0.0)
    driver.swarm.taken(opened[0], 0.0)
    assert len(driver.dials()) == 1
    driver.swarm.closed(opened[1], 0.0)
    assert driver.swarm.slots.waiting == 2
    assert len(driver.dials()) == 1


def test_t18_strangers_connections_are_capped() -> None:
    driver = Driver(limits=Limits(max_server_connections=10))
    for number in range(1, 11):
        accept(driver, number)
    assert not driver.swarm.admits(key(11), None)
    assert driver.swarm.admits(key(10), None), "one that comes back replaces its old connection"
    refused = driver.swarm.incoming(key(11), never, 0.0)
    assert driver.closes() == [CloseWanted(refused, CloseReason.SURPLUS)]
    assert driver.swarm.peers.get(key(11)) is None
    assert not driver.take(PeerBanned)


def test_t17_a_flooded_topic_does_not_grow_and_lets_others_through() -> None:
    driver = Driver()
    for number in range(1, 30):
        flood = map(record, range(10_000 * number, 10_000 * number + 500))
        driver.find(*flood, record(number), now=float(number))
    assert len(driver.swarm.peers) == PEERS_REMEMBERED
    assert any(peer.public_key <= key(30) for peer in driver.swarm.peers), "honest ones keep a share"


# ---- flush


def flushed(driver: Driver, flush: Flush) -> bool | None:
    assert [event.flush for event in driver.take(FlushEnded)] == ([] if flush.complete is None else [flush])
    return flush.complete


def test_flush_waits_for_every_dial_that_was_due() -> None:
    driver = Driver()
    driver.find(*map(record, range(1, 6)))
    dials = driver.dials()
    flush = driver.swarm.flush()
    while dials:
        assert flushed(driver, flush) is None
        dial = dials.pop(0)
        if len(dials) % 2:
            driver.swarm.dial_opened(dial, never, 0.0)
        else:
            driver.swarm.closed(dial, 0.0)
        dials += driver.dials()
    assert flushed(driver, flush) is True


def test_flush_does_not_wait_for_what_comes_later() -> None:
    driver = Driver()
    dial = driver.dial_one(1)
    flush = driver.swarm.flush()
    driver.find(record(2))
    driver.swarm.dial_opened(dial, never, 0.0)
    assert flushed(driver, flush) is True


def test_flush_with_nothing_due_returns_at_once() -> None:
    driver = Driver()
    assert driver.swarm.flush().complete is True
    driver.swarm.closed(driver.dial_one(1), 0.0)  # waits for its retry, which is not due
    assert driver.swarm.flush().complete is True


def test_flush_ends_when_the_limits_are_reached() -> None:
    driver = Driver(limits=Limits(max_peers=2))
    driver.find(*map(record, range(1, 9)))
    flush = driver.swarm.flush()
    for dial in driver.dials():
        driver.swarm.dial_opened(dial, never, 0.0)
    assert flushed(driver, flush) is True
    assert driver.swarm.flush().complete is True


def test_flush_ends_although_the_program_takes_nothing() -> None:
    driver = Driver(limits=Limits(max_waiting=3))
    driver.find(*map(record, range(1, 9)))
    flush = driver.swarm.flush()
    for dial in driver.dials():
        driver.swarm.dial_opened(dial, never, 0.0)
    assert flushed(driver, flush) is True


def test_flush_does_not_wait_for_peers_that_lost_their_place() -> None:
    driver = Driver(limits=Limits(max_parallel=1))

    def flood(walks: range) -> None:
        for walk in walks:
            driver.find(*map(record, range(1000 * walk + 1, 1000 * walk + 501)))

    flood(range(4))
    flush = driver.swarm.flush()
    flood(range(4, 8))
    dials = driver.dials()
    while dials:
        driver.swarm.closed(dials[0], 0.0)
        dials = driver.dials()
    assert flushed(driver, flush) is True


@pytest.mark.parametrize("how", ["ban", "leave", "firewall"])
def test_flush_does_not_wait_for_dials_that_will_not_happen(how: str) -> None:
    rejected: set[bytes] = set()
    driver = Driver(firewall=lambda public_key, payload: public_key in rejected, limits=Limits(max_parallel=1))
    driver.find(record(1), record(2))
    (dial,) = driver.dials()
    (other,) = {1, 2} - numbers([dial])
    flush = driver.swarm.flush()
    if how == "ban":
        driver.swarm.ban(key(other))
    elif how == "leave":
        driver.swarm.leave(TOPIC)
    else:
        rejected.add(key(other))
    assert flushed(driver, flush) is None
    driver.swarm.dial_opened(dial, never, 0.0)
    assert flushed(driver, flush) is True


@pytest.mark.parametrize("how", ["suspend", "destroy"])
def test_flush_is_incomplete_when_the_swarm_stops(how: str) -> None:
    driver = Driver()
    driver.dial_one(1)
    flush = driver.swarm.flush()
    getattr(driver.swarm, how)()
    assert flushed(driver, flush) is False
    assert driver.swarm.flush().complete is (how == "suspend")


# ---- the whole


def test_a_changed_network_is_tried_on_all_connections() -> None:
    driver = Driver()
    connection = driver.open_one(1)
    driver.swarm.network_changed(1.0)
    assert [event.connection for event in driver.take(KeepAliveWanted)] == [connection]


def test_suspended_nothing_is_connected_and_resumed_it_is_again() -> None:
    driver = Driver(limits=Limits(max_parallel=2))
    driver.swarm.join_peer(key(1), 0.0)
    opened = driver.dials()[0]
    driver.swarm.dial_opened(opened, never, 0.0)
    driver.find(record(2), record(3), record(4))
    dialling = driver.dials()
    driver.swarm.suspend()
    assert {event.connection for event in driver.closes()} == {opened, *dialling}
    for connection in (opened, *dialling):
        driver.swarm.closed(connection, 1.0)
    assert not driver.dials()
    assert driver.swarm.next_timer() is None
    assert [peer.public_key for peer in driver.swarm.peers] == [key(1)]
    assert not driver.swarm.admits(key(5), None)
    refused = driver.swarm.incoming(key(5), never, 1.0)
    assert driver.closes() == [CloseWanted(refused, CloseReason.SUSPENDED)]
    driver.swarm.resume(10.0)
    assert numbers(driver.dials()) == {1}


def test_suspending_ends_a_successor_too() -> None:
    driver = Driver()
    stale = driver.open_one(LOW, talked=always)
    new = driver.swarm.incoming(key(LOW), never, 0.0)
    driver.swarm.suspend()
    assert {event.connection for event in driver.closes()} == {stale, new}
    driver.swarm.closed(stale, 0.0)
    assert not driver.opened()


def test_destroyed_it_does_nothing_any_more() -> None:
    driver = Driver()
    connection = driver.open_one(1)
    driver.find(record(2), record(3), now=1.0)
    driver.swarm.destroy()
    driver.swarm.destroy()
    driver.swarm.close_connections(CloseReason.DESTROYED)
    for event in driver.closes():
        driver.swarm.closed(event.connection, 2.0)
    assert driver.lost() == [connection]
    assert driver.swarm.next_timer() is None
    driver.dials()
    driver.swarm.join_peer(key(4), 2.0)
    driver.swarm.resume(2.0)
    assert not driver.dials()
    assert driver.swarm.state is SwarmState.DESTROYED
    assert not driver.swarm.admits(key(4), None)


@pytest.mark.parametrize("seed", range(30))
def test_the_counts_hold_whatever_happens(seed: int) -> None:
    """A random walk through all inputs; the slots are always what the connections say, and opened ones are lost once."""
    driver = Driver(seed=seed, limits=Limits(max_peers=6, max_waiting=5, max_server_connections=5))
    swarm, now, chance = driver.swarm, 0.0, random.Random(seed)
    walk: Refresh | None = None
    dialling: list[Connection] = []
    open_: list[Connection] = []
    balance: Counter[Connection] = Counter()
    for _ in range(600):
        now += chance.random() * 3
        number = chance.choice((chance.randrange(1, 12), OWN + chance.randrange(1, 12)))
        step = chance.randrange(12)
        if step == 0 and walk is not None:
            swarm.found(walk, [record(number)], now)
            swarm.refreshed(walk, NODES, now)
            walk = None
        elif step == 0:
            swarm.join(TOPIC, server=False, client=True, limit=None, now=now)
        elif step == 1:
            swarm.incoming(key(number), chance.choice((always, never)), now)
        elif step in (2, 3, 4) and dialling:
            dial = dialling.pop(chance.randrange(len(dialling)))
            if chance.random() < 0.6:
                swarm.dial_opened(dial, chance.choice((always, never)), now)
            else:
                swarm.closed(dial, now)
        elif step == 5 and open_:
            swarm.closed(open_.pop(chance.randrange(len(open_))), now)
        elif step == 6 and open_:
            swarm.taken(chance.choice(open_), now)
        elif step == 7:
            swarm.ban(key(number), banned=chance.random() < 0.3)
        elif step == 8:
            if chance.random() < 0.5:
                swarm.join_peer(key(number), now)
            else:
                swarm.leave_peer(key(number))
        elif step == 9 and chance.random() < 0.2:
            swarm.suspend()
            swarm.leave(TOPIC)
            swarm.resume(now)
        elif step == 10:
            swarm.flush()
        elif (when := swarm.next_timer()) is not None:
            now = max(now, when)
            swarm.handle_timer(now=now)
        while (event := swarm.next_event()) is not None:
            if isinstance(event, RefreshWanted):
                walk = event.refresh
            elif isinstance(event, DialWanted):
                dialling.append(event.connection)
            elif isinstance(event, ConnectionOpened):
                balance[event.connection] += 1
                open_.append(event.connection)
            elif isinstance(event, ConnectionLost):
                balance[event.connection] -= 1
            elif isinstance(event, CloseWanted):
                for held in (dialling, open_):
                    if event.connection in held:
                        held.remove(event.connection)
                swarm.closed(event.connection, now)
        assert set(balance.values()) <= {0, 1}
        present = list(swarm.connections)
        slots = swarm.slots
        assert slots.dialling == sum(each.is_initiator and not each.opened for each in present) <= MAX_PARALLEL
        assert slots.client == sum(each.is_initiator for each in present)
        assert slots.server == sum(not each.is_initiator for each in present) <= 5 + 1
        assert slots.waiting == sum(each.opened and not each.taken for each in present)
        assert len({each.peer.public_key for each in present}) == len(present)


def test_defaults_are_the_reference_s() -> None:
    assert (Limits().max_peers, Limits().max_parallel) == (MAX_PEERS, MAX_PARALLEL) == (64, 3)
