"""Who is dialled when: priorities, attempts, retry periods, the dial queue, and the caps on what is remembered."""

import random
from collections import Counter

import pytest

from hyperdht.addresses import Address
from hyperdht.rpc.timers import Timers
from hyperdht.swarm.dial_queue import DialQueue
from hyperdht.swarm.peer_book import MAX_FIREWALL_BANS, MAX_HINTS_PER_SUBNET, PeerBook, subnet
from hyperdht.swarm.peer_info import GOOD_CONNECTION_S, PeerInfo, Priority
from hyperdht.swarm.retry import EARLIEST, LATEST, MAX_JITTER_S, Period, RetryTimers, period_of

from .swarm_machines import key


def peer_after(attempts: int, *, proven: bool = False, explicit: bool = False, number: int = 1) -> PeerInfo:
    peer = PeerInfo(key(number))
    peer.attempts, peer.proven, peer.explicit = attempts, proven, explicit
    return peer


@pytest.mark.parametrize(
    ("attempts", "priority"),
    [(0, Priority.NORMAL), (1, Priority.VERY_HIGH), (2, Priority.HIGH), (3, Priority.LOW), (4, None), (9, None)],
)
def test_priority_follows_attempts(attempts: int, priority: Priority | None) -> None:
    peer = peer_after(attempts)
    assert peer.update_priority() == (priority is not None)
    if priority is not None:
        assert peer.priority is priority


def test_explicit_peers_are_put_back_and_stay_in_line() -> None:
    peer = peer_after(7, explicit=True)
    assert peer.update_priority()
    assert (peer.attempts, peer.priority) == (3, Priority.LOW)


def test_banned_and_queued_peers_are_not_queued() -> None:
    banned, queued = peer_after(0), peer_after(0)
    banned.banned = queued.queued = True
    assert not banned.update_priority()
    assert not queued.update_priority()


@pytest.mark.parametrize(("lasted", "attempts"), [(GOOD_CONNECTION_S, 1), (GOOD_CONNECTION_S - 0.001, 4)])
def test_a_connection_that_held_starts_the_count_anew(lasted: float, attempts: int) -> None:
    peer = peer_after(3)
    peer.connected(100.0)
    peer.disconnected(100.0 + lasted)
    assert peer.attempts == attempts
    assert peer.proven
    assert peer.disconnected_at == 100.0 + lasted


def test_a_dial_that_fails_after_a_good_connection_counts() -> None:
    peer = peer_after(0)
    peer.connected(0.0)
    peer.disconnected(GOOD_CONNECTION_S)
    peer.disconnected(2 * GOOD_CONNECTION_S)
    assert peer.attempts == 2


@pytest.mark.parametrize(
    ("priority", "client", "reset"),
    [(Priority.LOW, True, True), (Priority.NORMAL, True, False), (Priority.VERY_HIGH, False, True)],
)
def test_found_again(priority: Priority, client: bool, reset: bool) -> None:
    peer = peer_after(2, proven=True)
    peer.priority, peer.client = priority, client
    peer.found_again()
    assert (peer.attempts == 0) == reset
    assert peer.proven != reset


@pytest.mark.parametrize(
    ("attempts", "proven", "explicit", "period"),
    [
        (0, True, False, Period.SHORT),
        (1, True, False, Period.SHORT),
        (2, True, False, Period.MEDIUM),
        (3, True, False, Period.LONG),
        (4, True, False, None),
        (0, False, False, Period.SHORT),
        (1, False, False, Period.MEDIUM),
        (2, False, False, Period.LONG),
        (3, False, False, Period.LONG),
        (4, False, False, None),
        (4, False, True, Period.VERY_LONG),
    ],
)
def test_retry_period(attempts: int, proven: bool, explicit: bool, period: Period | None) -> None:
    assert period_of(peer_after(attempts, proven=proven, explicit=explicit)) is period


def test_no_retry_of_banned_peers_and_where_the_program_wants_none() -> None:
    banned, unwanted = peer_after(1), peer_after(1)
    banned.banned = True
    unwanted.reconnect(False)
    assert period_of(banned) is period_of(unwanted) is None


@pytest.mark.parametrize("period", list(Period))
@pytest.mark.parametrize("seed", range(20))
def test_retry_time(period: Period, seed: int) -> None:
    attempts, proven = {
        Period.SHORT: (1, True),
        Period.MEDIUM: (2, True),
        Period.LONG: (3, True),
        Period.VERY_LONG: (4, False),
    }[period]
    timers, due = Timers(), []
    retries = RetryTimers(timers, random.Random(seed), lambda peer, now: due.append((peer, now)))
    peer = peer_after(attempts, proven=proven, explicit=True)
    assert retries.add(peer, 1000.0)
    when = timers.next_timer()
    assert when is not None
    low, high = period.value
    assert low * EARLIEST <= when - 1000.0 <= (high + MAX_JITTER_S) * LATEST
    timers.handle_timer(now=when)
    assert due == [(peer, when)]
    assert len(retries) == 0


def test_a_peer_waits_once() -> None:
    timers, due = Timers(), []
    retries = RetryTimers(timers, random.Random(1), lambda peer, now: due.append(peer))
    peer = peer_after(1)
    retries.add(peer, 0.0)
    retries.add(peer, 0.0)
    timers.handle_timer(now=1000.0)
    assert due == [peer]
    retries.add(peer, 1000.0)
    retries.discard(peer)
    retries.add(peer_after(1, number=2), 1000.0)
    retries.clear()
    timers.handle_timer(now=2000.0)
    assert due == [peer]


def test_queue_takes_the_highest_priority_first_and_anybody_within_it() -> None:
    firsts = set()
    for seed in range(40):
        queue = DialQueue(random.Random(seed))
        for number, attempts in enumerate((3, 0, 0, 0, 2, 1)):
            peer = peer_after(attempts, number=number)
            peer.update_priority()
            queue.add(peer)
        taken = [queue.take() for _ in range(6)]
        assert [peer.attempts for peer in taken] == [1, 2, 0, 0, 0, 3]
        assert not any(peer.queued for peer in taken)
        assert len(queue) == 0
        firsts.add(taken[2].public_key)
    assert len(firsts) == 3


def test_queue_removes_who_is_asked_for() -> None:
    queue = DialQueue(random.Random(1))
    first, second, absent = (peer_after(0, number=number) for number in range(3))
    queue.add(first)
    queue.add(second)
    queue.remove(first)
    queue.remove(absent)
    assert list(queue) == [second]


def test_t17_a_full_book_gives_newcomers_a_share() -> None:
    queue = DialQueue(random.Random(1))
    book = PeerBook(key(0), queue, max_peers=100)
    for number in range(1, 101):  # the flooder came first
        peer, evicted = book.discovered(key(number), ())
        assert peer is not None
        assert evicted is None
        queue.add(peer)
    for number in range(1001, 1101):
        peer, evicted = book.discovered(key(number), ())
        assert peer is not None
        assert evicted is not None
        assert book.get(evicted.public_key) is None
        queue.add(peer)
    assert len(book) == len(queue) == 100
    newcomers = sum(peer.public_key >= key(1001) for peer in book)
    assert 40 < newcomers < 90


def test_t17_nobody_is_evicted_who_was_asked_for_or_is_not_queued() -> None:
    queue = DialQueue(random.Random(1))
    book = PeerBook(key(0), queue, max_peers=2)
    explicit = book.known(key(1))
    assert explicit is not None
    explicit.explicit = True
    queue.add(explicit)
    connected, _ = book.discovered(key(2), ())
    assert connected is not None
    assert book.discovered(key(3), ()) == (None, None)
    assert [peer.public_key for peer in book] == [key(1), key(2)]


def test_t17_relay_hints_of_one_network_are_few() -> None:
    book = PeerBook(key(0), DialQueue(random.Random(1)))
    victim = [Address(f"203.0.113.{host}", 49737) for host in range(250)]
    for number in range(1, 200):
        book.discovered(key(number), [victim[number]])
    other, _ = book.discovered(key(500), [victim[0], Address("198.51.100.1", 49737)])
    assert other is not None
    assert other.relay_addresses == (Address("198.51.100.1", 49737),)
    hints = Counter(subnet(address.host) for peer in book for address in peer.relay_addresses)
    assert hints[subnet("203.0.113.0")] == MAX_HINTS_PER_SUBNET
    for peer in book:
        book.forget(peer)
    assert len(book) == 0
    again, _ = book.discovered(key(1), victim[:5])
    assert again is not None
    assert again.relay_addresses == tuple(victim[:3]), "forgotten peers free their share; three are enough for one peer"


def test_newer_relay_hints_replace_older_ones() -> None:
    book = PeerBook(key(0), DialQueue(random.Random(1)))
    book.discovered(key(1), [Address("10.1.0.1", 1)])
    peer, _ = book.discovered(key(1), [Address("10.2.0.1", 1)])
    assert peer is not None
    assert peer.relay_addresses == (Address("10.2.0.1", 1),)
    assert book.known(key(1)) is peer
    assert peer.relay_addresses, "a connection from the peer says nothing about relays"


def test_subnets() -> None:
    assert subnet("192.0.2.1") == subnet("192.0.2.254") != subnet("192.0.3.1")
    assert subnet("2001:db8:1::1") == subnet("2001:db8:1:ffff::1") != subnet("2001:db8:2::1")


def test_t18_bans_of_the_firewall_are_capped_and_those_of_the_program_are_not() -> None:
    book = PeerBook(key(0), DialQueue(random.Random(1)))
    by_program = book.known(key(1))
    assert by_program is not None
    book.ban(by_program, by_firewall=True)
    book.ban(by_program, by_firewall=False)
    released = []
    for number in range(2, MAX_FIREWALL_BANS + 12):
        peer = book.known(key(number))
        assert peer is not None
        oldest = book.ban(peer, by_firewall=True)
        if oldest is not None:
            released.append(oldest.public_key)
    assert released == [key(number) for number in range(2, 12)]
    assert by_program.banned
    assert book.known(key(0)) is None, "our own key"
    assert book.discovered(key(0), ()) == (None, None)
