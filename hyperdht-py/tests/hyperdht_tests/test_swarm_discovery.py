"""One topic: sessions and their union, when it is walked, what is handed on, and leaving."""

import itertools

import pytest

from hyperdht.errors import LocalProtocolError
from hyperdht.swarm import (
    Discovery,
    DiscoveryState,
    Refresh,
    RefreshMode,
    RefreshUnwanted,
    RefreshWanted,
    Session,
    UnannounceWanted,
)
from hyperdht.swarm.discovery import (
    FAILED_REFRESH_JITTER_S,
    FAILED_REFRESH_S,
    LATE_S,
    MAX_PEERS_PER_REFRESH,
    REFRESH_JITTER_S,
    REFRESH_S,
    SECOND_LOOK_JITTER_S,
    SECOND_LOOK_S,
)

from .swarm_machines import NODES, TOPIC, Driver, numbers, record


def join(
    driver: Driver, *, server: bool = False, client: bool = False, limit: int | None = None, now: float = 0.0
) -> Session:
    return driver.swarm.join(TOPIC, server=server, client=client, limit=limit, now=now)


def discovery_of(driver: Driver) -> Discovery:
    discovery = driver.swarm.topics.get(TOPIC)
    assert discovery is not None
    return discovery


def settle(driver: Driver, now: float = 0.0) -> RefreshMode:
    """End the walk that was asked for; what it was to do."""
    (refresh,) = driver.refreshes()
    driver.swarm.refreshed(refresh, NODES, now)
    return refresh.mode


def test_joining_walks_at_once() -> None:
    driver = Driver()
    join(driver, client=True)
    (refresh,) = driver.refreshes()
    assert (refresh.topic, refresh.mode, refresh.clear, refresh.closest_nodes) == (TOPIC, RefreshMode.LOOKUP, False, ())
    assert not discovery_of(driver).settled
    driver.swarm.refreshed(refresh, NODES, 1.0)
    assert discovery_of(driver).settled
    assert discovery_of(driver).succeeded


def test_the_first_announce_clears_and_the_next_ones_start_where_the_last_ended() -> None:
    driver = Driver()
    session = join(driver, server=True)
    (first,) = driver.refreshes()
    assert (first.mode, first.clear, first.closest_nodes) == (RefreshMode.ANNOUNCE, True, ())
    driver.swarm.refreshed(first, NODES, 1.0)
    session.discovery.refresh(2.0)
    (second,) = driver.refreshes()
    assert (second.mode, second.clear, second.closest_nodes) == (RefreshMode.ANNOUNCE, False, NODES)


def test_an_announce_that_failed_clears_again() -> None:
    driver = Driver()
    join(driver, server=True)
    (first,) = driver.refreshes()
    driver.swarm.refresh_failed(first, 0.0)
    assert not discovery_of(driver).succeeded
    driver.swarm.handle_timer(now=FAILED_REFRESH_S + FAILED_REFRESH_JITTER_S)
    (second,) = driver.refreshes()
    assert second.clear


@pytest.mark.parametrize("seed", range(20))
def test_walked_again_after_ten_to_twelve_minutes(seed: int) -> None:
    driver = Driver(seed=seed)
    join(driver, server=True)
    settle(driver, now=100.0)
    when = driver.swarm.next_timer()
    assert when is not None
    assert REFRESH_S <= when - 100.0 <= REFRESH_S + REFRESH_JITTER_S
    driver.swarm.handle_timer(now=when - 0.001)
    assert not driver.refreshes()
    driver.swarm.handle_timer(now=when)
    assert settle(driver) is RefreshMode.ANNOUNCE


def test_after_the_first_announce_it_looks_once_more_for_who_announced_at_the_same_time() -> None:
    driver = Driver()
    join(driver, server=True, client=True)
    settle(driver, now=100.0)
    when = driver.swarm.next_timer()
    assert when is not None
    assert SECOND_LOOK_S <= when - 100.0 <= SECOND_LOOK_S + SECOND_LOOK_JITTER_S
    driver.swarm.handle_timer(now=when)
    assert settle(driver, now=when) is RefreshMode.ANNOUNCE
    again = driver.swarm.next_timer()
    assert again is not None
    assert again - when >= REFRESH_S


def test_failed_walks_are_repeated_sooner() -> None:
    driver = Driver()
    join(driver, client=True)
    (refresh,) = driver.refreshes()
    driver.swarm.refresh_failed(refresh, 100.0)
    when = driver.swarm.next_timer()
    assert when is not None
    assert FAILED_REFRESH_S <= when - 100.0 <= FAILED_REFRESH_S + FAILED_REFRESH_JITTER_S


def test_a_late_timer_spreads_out_first() -> None:
    driver = Driver()
    join(driver, client=True)
    settle(driver)
    when = driver.swarm.next_timer()
    assert when is not None
    woken = when + LATE_S + 1.0
    driver.swarm.handle_timer(now=woken)
    assert not driver.refreshes()
    again = driver.swarm.next_timer()
    assert again is not None
    assert woken <= again <= woken + REFRESH_JITTER_S
    driver.swarm.handle_timer(now=again + LATE_S)
    assert settle(driver) is RefreshMode.LOOKUP


def test_a_walk_that_does_the_same_is_shared() -> None:
    driver = Driver()
    first = join(driver, server=True, client=True)
    second = join(driver, server=True, client=True)
    assert first.discovery is second.discovery
    assert settle(driver) is RefreshMode.ANNOUNCE
    assert not driver.take(RefreshUnwanted)


def test_sessions_share_the_union_of_their_wishes() -> None:
    driver = Driver()
    looks = join(driver, client=True)
    (lookup,) = driver.refreshes()
    announces = join(driver, server=True)
    assert [event.refresh for event in driver.take(RefreshUnwanted)] == [lookup]
    assert settle(driver) is RefreshMode.ANNOUNCE
    driver.swarm.refreshed(lookup, (), 0.0)  # the walk that was stopped says nothing any more
    assert discovery_of(driver).closest_nodes == NODES
    driver.swarm.leave_session(announces, 0.0)
    assert settle(driver) is RefreshMode.LOOKUP_AND_UNANNOUNCE
    looks.discovery.refresh(0.0)
    assert settle(driver) is RefreshMode.LOOKUP
    driver.swarm.leave_session(looks, 0.0)
    assert driver.swarm.topics.get(TOPIC) is None
    assert not driver.take(UnannounceWanted)


def test_a_session_may_change_its_mind() -> None:
    driver = Driver()
    session = join(driver, server=True, client=True)
    settle(driver)
    session.discovery.change_session(session, server=False, client=True, limit=None, now=0.0)
    assert settle(driver) is RefreshMode.LOOKUP_AND_UNANNOUNCE
    driver.swarm.leave_session(session, 0.0)
    with pytest.raises(LocalProtocolError):
        session.discovery.change_session(session, server=True, client=True, limit=None, now=0.0)


def test_peers_are_handed_on_only_while_somebody_looks() -> None:
    driver = Driver()
    join(driver, server=True)
    (refresh,) = driver.refreshes()
    driver.swarm.found(refresh, [record(1)], 0.0)
    assert not driver.dials()


def test_each_peer_is_handed_on_once_per_walk() -> None:
    driver = Driver()
    join(driver, client=True)
    (refresh,) = driver.refreshes()
    driver.swarm.found(refresh, [record(1), record(1)], 0.0)
    (dial,) = driver.dials()
    driver.swarm.closed(dial, 0.0)
    driver.swarm.found(refresh, [record(1)], 0.0)
    assert not driver.dials(), "a second node's record does not jump the retry timer"


def test_limit_counts_who_is_not_connected() -> None:
    driver = Driver()
    driver.open_one(1)
    session = join(driver, client=True, limit=2)
    driver.swarm.leave_session(next(each for each in session.discovery.sessions if each is not session), 0.0)
    session.discovery.refresh(0.0)
    (refresh,) = driver.refreshes()
    driver.swarm.found(refresh, [record(1), record(2)], 0.0)
    driver.swarm.found(refresh, [record(2), record(3), record(4)], 0.0)
    assert numbers(driver.dials()) == {2, 3}


def test_the_widest_limit_of_those_who_look_counts() -> None:
    driver = Driver()
    join(driver, client=True, limit=1)
    join(driver, client=True, limit=2)
    join(driver, server=True)
    refresh = driver.refreshes()[-1]
    driver.swarm.found(refresh, map(record, range(1, 4)), 0.0)
    assert len(driver.dials()) == 2


def test_t17_one_walk_hands_on_so_many_and_no_more() -> None:
    driver = Driver()
    join(driver, client=True)
    (refresh,) = driver.refreshes()
    for start in range(1, 3000, 20):
        driver.swarm.found(refresh, map(record, range(start, start + 20)), 0.0)
    assert len(driver.swarm.peers) == MAX_PEERS_PER_REFRESH


def test_leaving_takes_the_announce_back_where_it_is() -> None:
    driver = Driver()
    join(driver, server=True)
    settle(driver)
    left = driver.swarm.leave(TOPIC)
    (wanted,) = driver.take(UnannounceWanted)
    assert wanted.discovery is left
    assert left is not None
    assert left.only_closest_nodes
    assert left.closest_nodes == NODES
    assert not left.settled
    driver.swarm.unannounced(left, 0.0)
    assert left.state is DiscoveryState.GONE
    assert left.settled
    assert driver.swarm.leave(TOPIC) is None


def test_leaving_in_the_middle_of_an_announce_takes_a_walk() -> None:
    driver = Driver()
    join(driver, server=True)
    (refresh,) = driver.refreshes()
    left = driver.swarm.leave(TOPIC)
    assert [event.refresh for event in driver.take(RefreshUnwanted)] == [refresh]
    assert left is not None
    assert not left.only_closest_nodes


def test_leaving_in_the_middle_of_a_later_announce_takes_a_walk_too() -> None:
    driver = Driver()
    session = join(driver, server=True)
    settle(driver)
    session.discovery.refresh(1.0)
    left = driver.swarm.leave(TOPIC)
    assert left is not None
    assert not left.only_closest_nodes
    assert left.closest_nodes == NODES


def test_leaving_a_topic_only_looked_up_is_silent() -> None:
    driver = Driver()
    join(driver, client=True)
    left = driver.swarm.leave(TOPIC)
    assert left is not None
    assert left.state is DiscoveryState.GONE
    assert not driver.take(UnannounceWanted)


def test_joining_again_waits_until_the_old_announce_is_gone() -> None:
    driver = Driver()
    old_session = join(driver, server=True)
    settle(driver)
    old = driver.swarm.leave(TOPIC)
    assert old is not None
    assert old_session.left
    join(driver, server=True)
    assert not driver.refreshes()
    assert not discovery_of(driver).settled
    driver.swarm.leave_session(old_session, 0.0)
    assert TOPIC in driver.swarm.topics, "the session of the old one has no say any more"
    driver.swarm.unannounced(old, 0.0)
    assert settle(driver) is RefreshMode.ANNOUNCE


def test_suspended_topics_are_unannounced_and_come_back() -> None:
    driver = Driver()
    join(driver, server=True, client=True)
    settle(driver)
    driver.swarm.suspend()
    (wanted,) = driver.take(UnannounceWanted)
    assert discovery_of(driver).state is DiscoveryState.SUSPENDED
    assert driver.swarm.next_timer() is None
    driver.swarm.unannounced(wanted.discovery, 0.0)
    assert not driver.refreshes()
    driver.swarm.resume(5.0)
    (refresh,) = driver.refreshes()
    assert (refresh.mode, refresh.clear) == (RefreshMode.ANNOUNCE, True)


def test_resuming_waits_for_the_unannounce() -> None:
    driver = Driver()
    join(driver, server=True)
    settle(driver)
    driver.swarm.suspend()
    (wanted,) = driver.take(UnannounceWanted)
    driver.swarm.resume(1.0)
    assert not driver.refreshes()
    driver.swarm.unannounced(wanted.discovery, 2.0)
    assert settle(driver) is RefreshMode.ANNOUNCE


def test_joining_while_suspended_waits() -> None:
    driver = Driver()
    driver.swarm.suspend()
    join(driver, client=True)
    assert not driver.refreshes()
    driver.swarm.resume(1.0)
    assert settle(driver) is RefreshMode.LOOKUP


def test_a_changed_network_refreshes_all_topics() -> None:
    driver = Driver()
    join(driver, server=True)
    settle(driver)
    driver.swarm.network_changed(10.0)
    assert settle(driver) is RefreshMode.ANNOUNCE
    driver.swarm.suspend()
    driver.swarm.network_changed(20.0)
    assert not driver.refreshes()


@pytest.mark.parametrize("topic", [b"", b"short", bytes(33)])
def test_topics_have_32_bytes(topic: bytes) -> None:
    driver = Driver()
    with pytest.raises(LocalProtocolError, match="32 bytes"):
        driver.swarm.join(topic, server=True, client=True, limit=None, now=0.0)


def test_senseless_sessions() -> None:
    driver = Driver()
    with pytest.raises(LocalProtocolError):
        join(driver)
    with pytest.raises(LocalProtocolError):
        join(driver, client=True, limit=0)
    assert TOPIC not in driver.swarm.topics
    driver.swarm.destroy()
    with pytest.raises(LocalProtocolError):
        join(driver, client=True)


def test_every_input_in_every_state_is_survived() -> None:
    """Walks through sequences of inputs; what must hold throughout is that no walk and no unannounce overlap."""
    inputs = ("join", "leave", "suspend", "resume", "refreshed", "failed", "unannounced", "network", "timer")
    for sequence in itertools.product(inputs, repeat=4):
        driver, now = Driver(), 0.0
        join(driver, server=True, client=True)
        walk: Refresh | None = None
        unannounce: Discovery | None = None
        for step in sequence:
            now += 1000.0
            if step == "join":
                join(driver, server=True, client=True, now=now)
            elif step == "leave":
                driver.swarm.leave(TOPIC)
            elif step == "suspend":
                driver.swarm.suspend()
            elif step == "resume":
                driver.swarm.resume(now)
            elif step in ("refreshed", "failed") and walk is not None:
                if step == "refreshed":
                    driver.swarm.refreshed(walk, NODES, now)
                else:
                    driver.swarm.refresh_failed(walk, now)
                walk = None
            elif step == "unannounced" and unannounce is not None:
                driver.swarm.unannounced(unannounce, now)
                unannounce = None
            elif step == "network":
                driver.swarm.network_changed(now)
            elif step == "timer":
                driver.swarm.handle_timer(now=now)
            while (event := driver.swarm.next_event()) is not None:
                if isinstance(event, RefreshUnwanted):
                    assert event.refresh is walk, sequence
                    walk = None
                elif isinstance(event, UnannounceWanted):
                    assert (walk, unannounce) == (None, None), sequence
                    unannounce = event.discovery
                elif isinstance(event, RefreshWanted):
                    assert (walk, unannounce) == (None, None), sequence
                    walk = event.refresh
