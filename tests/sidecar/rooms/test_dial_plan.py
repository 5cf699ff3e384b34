from __future__ import annotations

import math
import random

import pytest

from sidecar.rooms import dial_plan
from sidecar.rooms.dial_plan import DialPlan

ROOM, OTHER = b"r" * 16, b"o" * 16


def key(number: int) -> bytes:
    return number.to_bytes(32, "big")


class Planned:
    """A plan, whether there are places, and who is blocked."""

    def __init__(self, seed: int = 1) -> None:
        self.places = True
        self.blocked: set[bytes] = set()
        self.plan = DialPlan(
            randomness=random.Random(seed),
            may_dial=lambda: self.places,
            is_welcome=lambda key: key not in self.blocked,
        )


@pytest.fixture
def planned() -> Planned:
    return Planned()


def test_remembered_members_are_dialled_a_few_at_a_time_in_random_order(planned: Planned) -> None:
    for number in range(10):
        planned.plan.remember(ROOM, key(number), 0.0)
    first = planned.plan.take(dial_plan.SOON_S)
    assert len(first) == dial_plan.MAX_DIALS
    assert planned.plan.take(dial_plan.SOON_S) == []
    planned.plan.connected(first[0])
    (next_one,) = planned.plan.take(dial_plan.SOON_S)
    assert next_one not in first
    other = Planned(seed=2)
    for number in range(10):
        other.plan.remember(ROOM, key(number), 0.0)
    assert other.plan.take(dial_plan.SOON_S) != first


def test_not_all_who_are_told_of_a_newcomer_dial_it_at_once() -> None:
    due = []
    for seed in range(100):
        planned = Planned(seed)
        planned.plan.hint(ROOM, key(1), 0.0)
        due.append(planned.plan.next_timer())
    assert sum(when < dial_plan.SOON_S / 10 for when in due) < 25
    assert max(due) <= dial_plan.SOON_S


def test_without_places_nobody_is_dialled(planned: Planned) -> None:
    planned.plan.remember(ROOM, key(1), 0.0)
    planned.places = False
    assert planned.plan.take(99.0) == []
    assert planned.plan.next_timer() == math.inf
    planned.places = True
    assert planned.plan.take(99.0) == [key(1)]


def test_who_is_blocked_is_not_dialled(planned: Planned) -> None:
    planned.plan.remember(ROOM, key(1), 0.0)
    planned.blocked.add(key(1))
    assert planned.plan.take(99.0) == []
    assert planned.plan.next_timer() == math.inf


def test_failures_wait_longer_and_longer_and_a_connection_forgives_them(planned: Planned) -> None:
    plan, now, waits = planned.plan, 10.0, []
    plan.remember(ROOM, key(1), 0.0)
    for _ in range(12):
        assert plan.take(now) == [key(1)]
        plan.failed(key(1), now)
        waits.append(plan.next_timer() - now)
        now = plan.next_timer()
    assert waits[0] <= dial_plan.BACKOFF_S
    assert waits[3] > waits[0]
    assert dial_plan.LONGEST_BACKOFF_S / 2 <= waits[-1] <= dial_plan.LONGEST_BACKOFF_S
    plan.connected(key(1))
    assert plan.next_timer() == math.inf
    plan.lost(key(1), now)
    assert dial_plan.AGAIN_S <= plan.next_timer() - now <= 2 * dial_plan.AGAIN_S


def test_with_a_network_again_nobody_waits_for_what_failed_without(planned: Planned) -> None:
    plan, now = planned.plan, 10.0
    for number in range(3):
        plan.remember(ROOM, key(number), 0.0, failures=9)
    plan.take(now)
    plan.failed(key(0), now)
    plan.connected(key(1))
    assert plan.next_timer() == now + dial_plan.DIAL_S, "one is being dialled, one waits for an hour"
    plan.hasten(now)
    assert plan.next_timer() <= now + dial_plan.SOON_S
    assert plan.take(now + dial_plan.SOON_S) == [key(0)]
    plan.hasten(now)
    assert plan.take(1e12) == []


def test_failures_of_before_a_restart_count_when_it_fails_again(planned: Planned) -> None:
    planned.plan.remember(ROOM, key(1), 0.0, failures=4)
    assert planned.plan.take(99.0) == [key(1)]
    planned.plan.failed(key(1), 99.0)
    assert planned.plan.next_timer() - 99.0 > dial_plan.BACKOFF_S


def test_a_dial_that_takes_too_long_is_overdue(planned: Planned) -> None:
    planned.plan.remember(ROOM, key(1), 0.0)
    planned.plan.take(5.0)
    assert planned.plan.next_timer() == 5.0 + dial_plan.DIAL_S
    assert planned.plan.overdue(5.0 + dial_plan.DIAL_S) == [key(1)]


def test_t18_hints_that_lead_nowhere_are_forgotten_and_a_flood_of_them_is_not_kept(planned: Planned) -> None:
    plan = planned.plan
    taken = sum(plan.hint(ROOM, key(number), 0.0) for number in range(1000))
    assert taken == dial_plan.MAX_HINTED_PER_ROOM
    assert plan.hint(OTHER, key(5000), 0.0), "another room has a limit of its own"
    now, dialled = 0.0, 0
    while (now := plan.next_timer()) < math.inf:
        for each in plan.take(now):
            dialled += 1
            plan.failed(each, now)
    assert dialled == dial_plan.HINT_TRIES * (dial_plan.MAX_HINTED_PER_ROOM + 1)
    assert plan.hint(ROOM, key(2000), now), "there is room again"


def test_a_flood_of_hints_does_not_keep_remembered_members_waiting() -> None:
    planned = Planned()
    for number in range(1000):
        planned.plan.hint(ROOM, key(number), 0.0)
    planned.plan.remember(ROOM, key(9999), 0.0)
    assert key(9999) in planned.plan.take(dial_plan.SOON_S)


def test_who_is_known_from_a_room_we_left_is_not_dialled(planned: Planned) -> None:
    plan = planned.plan
    plan.remember(ROOM, key(1), 0.0)
    plan.remember(OTHER, key(1), 0.0)
    plan.remember(ROOM, key(2), 0.0)
    plan.take(99.0)
    plan.leave(ROOM)
    assert set(plan.dialling) == {key(1)}
    plan.failed(key(2), 99.0)
    plan.forget(OTHER, key(1))
    assert plan.next_timer() == math.inf


def test_hints_of_those_connected_already_change_nothing(planned: Planned) -> None:
    planned.plan.connected(key(1))
    assert planned.plan.hint(ROOM, key(1), 0.0)
    assert planned.plan.next_timer() == math.inf


def test_dials_of_a_swarm_that_ended_are_tried_again(planned: Planned) -> None:
    planned.plan.remember(ROOM, key(1), 0.0)
    assert planned.plan.take(5.0) == [key(1)]
    planned.plan.give_back(6.0)
    assert planned.plan.take(6.0) == [key(1)]
