"""The scheduler as conversations: who is asked for what, and what happens when they do not deliver."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.transfer.chunks import CHUNK_BYTES, ChunkSet
from sidecar.transfer.scheduler import Scheduler
from sidecar.transfer.scheduler_events import (
    Arrival,
    Cancel,
    Request,
    SchedulerLimits,
    SourceBanned,
    SourceStalled,
)
from sidecar.transfer.source_state import FIRST_WINDOW, UNIT_CHUNKS


def partial_set(total: int, *indexes: int) -> ChunkSet:
    chunks = ChunkSet(total)
    for index in indexes:
        chunks.add(index)
    return chunks


def scheduler(total: int, *sources: bytes, **limits: float) -> Scheduler:
    plan = Scheduler(total, ChunkSet(total), limits=SchedulerLimits(**limits))  # type: ignore[arg-type]
    for key in sources:
        plan.add_source(key, ChunkSet.full(total), now=0.0)
    return plan


def requests(plan: Scheduler, now: float = 0.0) -> list[Request]:
    return [command for command in plan.commands(now=now) if isinstance(command, Request)]


def deliver(plan: Scheduler, request: Request, now: float, count: int | None = None) -> None:
    for index in range(request.first, request.first + (count or request.count)):
        if plan.arrived(request.source, request.ticket, index, now=now) is Arrival.CHECK:
            plan.verified([index])


def measured(plan: Scheduler, key: bytes, mb_s: float, round_trip: float = 0.02) -> None:
    """As if it had been asked before."""
    plan.sources[key].speed, plan.sources[key].round_trip = mb_s * 1e6, round_trip


def test_one_complete_source_is_asked_in_file_order_in_two_requests() -> None:
    plan = scheduler(200, b"a")
    assert [(r.first, r.count) for r in requests(plan)] == [(0, FIRST_WINDOW // 2), (3, 3)]
    assert requests(plan) == []


def test_a_source_of_known_speed_is_asked_in_whole_units() -> None:
    plan = scheduler(400, b"a")
    measured(plan, b"a", 40)
    assert [(r.first, r.count) for r in requests(plan)] == [(0, 48), (48, 48), (96, 48)]


def test_until_its_speed_is_known_each_chunk_that_came_is_two_more_it_may_owe() -> None:
    plan = scheduler(2000, b"a")
    queue = requests(plan)
    for _ in range(40):
        deliver(plan, queue.pop(0), 0.01)
        queue += requests(plan, 0.01)
    assert plan.sources[b"a"].speed is None, "it all came at once"
    assert sum(r.count for r in queue) > 200


def test_two_sources_share_the_front() -> None:
    asked = requests(scheduler(192, b"a", b"b"))
    assert sorted(r.first for r in asked) == [0, 3, 6, 9]
    assert {r.source for r in asked} == {b"a", b"b"}


def test_held_chunks_are_not_asked_for() -> None:
    have = ChunkSet(40)
    have.add_range(4, 30)
    plan = Scheduler(40, have)
    plan.add_source(b"a", ChunkSet.full(40), now=0.0)
    measured(plan, b"a", 40)
    assert [(r.first, r.count) for r in requests(plan)] == [(0, 4), (34, 6)]


def test_rarest_unit_first() -> None:
    plan = Scheduler(6 * UNIT_CHUNKS, ChunkSet(6 * UNIT_CHUNKS))
    plan.add_source(b"all", ChunkSet.full(6 * UNIT_CHUNKS), now=0.0)
    holdings = ChunkSet(6 * UNIT_CHUNKS)
    holdings.add_range(0, 5 * UNIT_CHUNKS)
    plan.add_source(b"part", holdings, now=0.0)
    asked = {r.source: r.first // UNIT_CHUNKS for r in reversed(requests(plan))}
    assert asked[b"all"] == 5, "which nobody else holds"
    assert asked[b"part"] != 5


def test_equally_rare_units_come_in_an_order_of_our_own() -> None:
    total = 40 * UNIT_CHUNKS
    orders = []
    for seed in range(8):
        plan = Scheduler(total, ChunkSet(total), seed=seed)
        plan.add_source(b"all", ChunkSet.full(total), now=0.0)
        plan.add_source(b"begins too", ChunkSet(total), now=0.0)
        measured(plan, b"all", 100)
        orders.append([r.first // UNIT_CHUNKS for r in requests(plan)])
    assert len({order[0] for order in orders}) >= 6
    assert len(set().union(*orders)) > 20, "whoever fetches with us has what we lack"


def test_the_order_is_not_counted_anew_for_every_message() -> None:
    """64 peers that hold parts of 100 GB tell ten times a second what they hold now."""
    total = 100 * 16_000
    plan = Scheduler(total, ChunkSet(total))
    for number in range(64):
        plan.add_source(bytes([number]), partial_set(total, number), now=0.0)
    looks = 0

    class Counted(ChunkSet):
        def window(self, start: int, width: int) -> int:
            nonlocal looks
            looks += 1
            return super().window(start, width)

    for step in range(100):
        held = Counted(total)
        held.add(step)
        plan._order.holders_changed()
        plan._order.rank([held] * 64, now=step * 0.1)
    assert looks <= 25_000 * 10 + 64 * total // UNIT_CHUNKS


def test_a_source_is_only_asked_for_what_it_holds() -> None:
    plan = Scheduler(64, ChunkSet(64))
    plan.add_source(b"part", partial_set(64, 5, 6, 20), now=0.0)
    assert [(r.first, r.count) for r in requests(plan)] == [(5, 2), (20, 1)]
    plan.update_holdings(b"part", partial_set(64, 5, 6, 20, 63))
    assert [(r.first, r.count) for r in requests(plan, now=5.0)] == [(63, 1)]


def test_window_follows_speed() -> None:
    plan = scheduler(10_000, b"a")
    slow = scheduler(10_000, b"a")
    for name, step, target in (("fast", 0.002, plan), ("slow", 5.0, slow)):
        queue, now = requests(target), 0.0
        for _ in range(200):
            now += step
            deliver(target, queue.pop(0), now)
            queue += requests(target, now)
            if not queue:
                break
        speed = UNIT_CHUNKS * CHUNK_BYTES / step
        expected = speed * 0.25 / CHUNK_BYTES
        owed = target.sources[b"a"].in_flight
        if name == "fast":
            assert owed > 200  # 500 MB/s: up to the cap of 256
        else:
            assert owed <= max(2 * expected, 2 * UNIT_CHUNKS), "a slow source must not owe minutes of data"


@pytest.mark.parametrize("sources", [1, 3, 20, 64])
def test_t06_memory_is_bounded_over_all_sources(sources: int) -> None:
    plan = scheduler(100_000, *(bytes([index]) for index in range(sources)))
    for step in range(30):
        for request in requests(plan, now=step * 0.01):
            for index in range(request.first, request.first + request.count):
                plan.arrived(request.source, request.ticket, index, now=step * 0.01)  # never verified: a slow disk
    assert plan.in_flight <= 512
    assert all(len(source.tickets) <= 64 for source in plan.sources.values())


def test_t06_three_wrong_chunks_and_the_source_is_banned() -> None:
    plan = scheduler(64, b"liar", b"honest")
    measured(plan, b"liar", 4)
    lies = [r for r in requests(plan) if r.source == b"liar"]
    for index in range(lies[0].first, lies[0].first + 3):
        assert plan.arrived(b"liar", lies[0].ticket, index, now=0.1) is Arrival.CHECK
        plan.wrong(b"liar", index)
    assert plan.next_event() == SourceBanned(b"liar")
    assert plan.next_event() is None
    commands = plan.commands(now=0.2)
    assert {c.ticket for c in commands if isinstance(c, Cancel)} == {r.ticket for r in lies}
    plan.add_source(b"liar", ChunkSet.full(64), now=0.3)
    assert b"liar" not in plan.sources, "coming back changes nothing"


@pytest.mark.parametrize(("ticket_offset", "index"), [(0, 99), (1000, 0)])
def test_t06_unrequested_chunk_is_a_strike(ticket_offset: int, index: int) -> None:
    plan = scheduler(128, b"a")
    ticket = requests(plan)[0].ticket + ticket_offset
    for _ in range(3):
        assert plan.arrived(b"a", ticket, index, now=0.0) is Arrival.UNREQUESTED
    assert plan.next_event() == SourceBanned(b"a")


def test_chunks_that_come_together_are_all_owed_or_the_source_is_struck() -> None:
    plan = scheduler(128, b"a")
    request = requests(plan)[0]
    assert plan.arrived(b"a", request.ticket, 0, 2, now=0.0) is Arrival.CHECK
    assert plan.in_flight == FIRST_WINDOW
    assert plan.arrived(b"a", request.ticket, 1, 2, now=0.0) is Arrival.UNREQUESTED, "1 came before"
    assert plan.arrived(b"a", request.ticket, request.count - 1, 2, now=0.0) is Arrival.UNREQUESTED, "past the end"
    plan.verified([0, 1])
    assert plan.have.count == 2


def test_same_chunk_twice_is_a_strike() -> None:
    plan = scheduler(128, b"a")
    request = requests(plan)[0]
    assert plan.arrived(b"a", request.ticket, 0, now=0.0) is Arrival.CHECK
    assert plan.arrived(b"a", request.ticket, 0, now=0.0) is Arrival.UNREQUESTED


def test_stalled_source_loses_its_requests_and_owes_one_chunk_as_a_probe() -> None:
    plan = scheduler(6, b"a", stall_s=10.0)
    first = requests(plan)
    assert plan.next_timer() == 10.0
    plan.handle_timer(now=10.0)
    assert plan.next_event() == SourceStalled(b"a")
    commands = plan.commands(now=10.0)
    assert {c.ticket for c in commands if isinstance(c, Cancel)} == {r.ticket for r in first}
    (probe,) = [c for c in commands if isinstance(c, Request)]
    assert (probe.first, probe.count) == (0, 1)
    assert plan.in_flight == 0, "nobody waits for it"
    assert plan.next_timer() is None
    assert requests(plan, now=500.0) == []
    assert plan.can_continue()
    deliver(plan, probe, 500.1)
    assert sum(r.count for r in requests(plan, now=500.1)) == 5, "used again at once"


def test_the_probe_is_for_something_we_lack() -> None:
    plan = scheduler(2, b"silent", stall_s=10.0)
    requests(plan)
    plan.add_source(b"other", partial_set(2, 0), now=0.0)
    (raced,) = requests(plan, now=5.0)
    deliver(plan, raced, 5.1)
    plan.handle_timer(now=10.0)
    (probe,) = [c for c in plan.commands(now=10.0) if isinstance(c, Request)]
    assert probe.first == 1


def test_what_a_stalled_source_owed_is_asked_of_others_at_once() -> None:
    plan = scheduler(400, b"a", b"b", stall_s=10.0)
    owed = {i for r in requests(plan) if r.source == b"a" for i in range(r.first, r.first + r.count)}
    plan.sources[b"b"].hear(9.0)
    plan.handle_timer(now=10.0)
    measured(plan, b"b", 100)
    again = {i for r in requests(plan, now=10.0) if r.source == b"b" for i in range(r.first, r.first + r.count)}
    assert owed <= again


@pytest.mark.parametrize(("mb_s", "patience"), [(20, 3.0), (1, 9.0), (0.02, 10.0)])
def test_the_faster_a_source_was_the_sooner_it_has_stalled(mb_s: float, patience: float) -> None:
    plan = scheduler(5000, b"a")
    measured(plan, b"a", mb_s, round_trip=2.0 if mb_s == 1 else 0.02)
    requests(plan)
    timer = plan.next_timer()
    assert timer is not None
    assert timer == pytest.approx(patience, abs=1.2)


def test_data_that_waits_for_our_own_cap_is_no_silence() -> None:
    plan = scheduler(100, b"a", stall_s=10.0)
    (first, *_) = requests(plan)
    plan.arrived(b"a", first.ticket, 0, 3, now=1.0)
    plan.wait(b"a", until=60.0)
    plan.handle_timer(now=59.0)
    assert plan.next_event() is None
    assert plan.next_timer() == 70.0


def test_late_chunk_of_a_cancelled_request_is_used() -> None:
    plan = scheduler(6, b"a", stall_s=10.0)
    (slow, *_) = requests(plan)
    plan.handle_timer(now=10.0)
    assert plan.arrived(b"a", slow.ticket, slow.first, now=10.1) is Arrival.CHECK
    plan.verified([slow.first])
    assert plan.have.has(slow.first)
    asked = requests(plan, now=10.1)
    assert asked, "it is back"
    assert all(slow.first not in range(r.first, r.first + r.count) for r in asked[1:])


def test_end_game_the_idle_take_the_last_of_what_slower_ones_owe_and_the_losers_are_cancelled() -> None:
    plan = scheduler(2 * UNIT_CHUNKS, b"slow", b"fast")
    measured(plan, b"fast", 40)
    measured(plan, b"slow", 12.6)  # a unit is a quarter of a second of it
    by_source: dict[bytes, list[Request]] = {b"slow": [], b"fast": []}
    for request in requests(plan):
        by_source[request.source].append(request)
    for request in by_source[b"fast"]:
        deliver(plan, request, 0.05)
    (extra,) = requests(plan, now=0.05)
    (owed,) = by_source[b"slow"]
    assert extra.source == b"fast"
    assert extra.first + extra.count == owed.first + owed.count, "the last of them"
    assert UNIT_CHUNKS // 2 < extra.count < UNIT_CHUNKS, "as many as it can bring before the other gets there"
    assert requests(plan, now=0.05) == [], "nobody is idle"
    deliver(plan, extra, 0.1)
    deliver(plan, owed, 0.1, count=owed.count - extra.count)
    assert plan.complete
    assert plan.commands(now=0.1) == [Cancel(b"slow", owed.ticket)]


def test_end_game_asks_for_nothing_that_is_here_and_for_three_copies_at_most() -> None:
    plan = scheduler(8, b"a")
    measured(plan, b"a", 40)
    (owed,) = asked = requests(plan)
    for number in range(10):
        plan.add_source(bytes([number]), ChunkSet.full(8), now=0.0)
    for step in range(1, 90):
        asked += requests(plan, now=step * 0.1)
    copies = [sum(r.first <= index < r.first + r.count for r in asked) for index in range(8)]
    assert max(copies) == 3
    deliver(plan, owed, 9.0, count=7)
    assert all(r.first == 7 for r in requests(plan, now=9.1))


def test_the_rest_is_dealt_out_among_all_before_anybody_has_to_race_for_it() -> None:
    plan = scheduler(4 * 20, b"a", b"b", b"c", b"d")
    for key in plan.sources:
        measured(plan, key, 100)
    asked = requests(plan)
    assert {r.source for r in asked} == set(plan.sources)
    assert max(r.count for r in asked) == 20


def test_end_game_does_not_begin_for_the_sake_of_milliseconds() -> None:
    plan = scheduler(2 * UNIT_CHUNKS, b"a", b"b")
    for key in (b"a", b"b"):
        measured(plan, key, 200, round_trip=0.0002)
    asked = requests(plan)
    deliver(plan, asked[0], 0.01)
    assert requests(plan, now=0.01) == []


@pytest.mark.parametrize("gone", [True, False])
def test_refusal(gone: bool) -> None:
    plan = scheduler(3, b"a")
    (request,) = requests(plan)
    plan.refused(b"a", request.ticket, gone=gone, now=1.0)
    assert requests(plan, now=1.0) == []
    assert plan.denied(b"a") is gone
    plan.handle_timer(now=100.0)
    assert len(requests(plan, now=100.0)) == (0 if gone else 1)


def test_t06_who_holds_nothing_of_what_it_says_is_banned_after_saying_it_often() -> None:
    plan = scheduler(400, b"a")
    asked = 0
    while (event := plan.next_event()) is None:
        for request in requests(plan, now=asked):
            plan.refused(b"a", request.ticket, gone=True, now=asked)
            asked += 1
        plan.update_holdings(b"a", ChunkSet.full(400))
    assert event == SourceBanned(b"a")
    assert asked <= 2 * 8
    assert not plan.any_lied, "which is no wrong data"


def test_a_source_that_lost_the_file_once_is_used_when_it_has_it_again() -> None:
    plan = scheduler(100, b"a")
    for request in requests(plan):
        plan.refused(b"a", request.ticket, gone=True, now=0.0)
    plan.update_holdings(b"a", ChunkSet(100))
    assert not plan.can_continue()
    plan.update_holdings(b"a", ChunkSet.full(100))
    assert requests(plan)


def test_damaged_chunks_are_asked_again() -> None:
    have = ChunkSet.full(32)
    plan = Scheduler(32, have)
    plan.add_source(b"a", ChunkSet.full(32), now=0.0)
    assert requests(plan) == []
    plan.lost([7])
    assert [(r.first, r.count) for r in requests(plan)] == [(7, 1)]


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_finishes_iff_an_honest_holder_of_each_chunk_remains(data: st.DataObject) -> None:
    """Any interleaving of deliveries, lies, stalls, refusals and losses."""
    total = data.draw(st.integers(1, 70), label="total")
    plan = Scheduler(total, ChunkSet(total), limits=SchedulerLimits(total_in_flight=24), seed=2)
    kinds = data.draw(st.lists(st.sampled_from(["honest", "liar", "silent", "leaver"]), min_size=1, max_size=5))
    held: dict[bytes, ChunkSet] = {}
    for number, kind in enumerate(kinds):
        key = f"{kind}-{number}".encode()
        held[key] = ChunkSet(total)
        for first, length in data.draw(
            st.lists(st.tuples(st.integers(0, total - 1), st.integers(1, total)), max_size=3)
        ):
            held[key].add_range(first, min(length, total - first))
        plan.add_source(key, held[key], now=0.0)
    honest = [chunks for key, chunks in held.items() if key.startswith(b"honest")]
    possible = all(any(chunks.has(index) for chunks in honest) for index in range(total))
    rng = data.draw(st.randoms(use_true_random=False))
    queue: list[tuple[Request, int]] = []
    now, steps = 0.0, 0
    while not plan.complete and steps < 3000:
        steps += 1
        for command in plan.commands(now=now):
            if isinstance(command, Request):
                indexes = range(command.first, command.first + command.count)
                assert all(held[command.source].has(index) for index in indexes), "asked for what it does not hold"
                assert not any(plan.have.has(index) for index in indexes), "asked for what we hold"
                queue += [(command, index) for index in indexes]
            else:
                queue = [item for item in queue if item[0].ticket != command.ticket]
        assert plan.in_flight <= 24 + len(plan.sources)
        answerable = [item for item in queue if not item[0].source.startswith(b"silent")]
        if answerable and rng.random() < 0.9:
            item = rng.choice(answerable[:40])
            queue.remove(item)
            request, index = item
            if request.source.startswith(b"leaver") and rng.random() < 0.2:
                plan.remove_source(request.source)
                queue = [other for other in queue if other[0].source != request.source]
            elif plan.arrived(request.source, request.ticket, index, now=now) is Arrival.CHECK:
                if request.source.startswith(b"liar"):
                    plan.wrong(request.source, index)
                else:
                    plan.verified([index])
            now += 0.01
        else:
            now += 2.5
            plan.handle_timer(now=now)
        if not possible and not answerable and now > 400:
            break
    if possible:
        assert plan.complete
    for key in plan.sources:
        assert not (key.startswith(b"liar") and plan.banned(key))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 300), st.integers(1, 4), st.randoms(use_true_random=False))
def test_nothing_is_requested_twice_before_the_end_game(total: int, sources: int, rng: object) -> None:
    plan = scheduler(total, *(bytes([index]) for index in range(sources)))
    asked: set[int] = set()
    queue: list[Request] = []
    now = 0.0
    while not plan.complete:
        for request in requests(plan, now=now):
            indexes = set(range(request.first, request.first + request.count))
            if len(asked) < total:
                assert not indexes & asked
            asked |= indexes
            queue.append(request)
        now += 0.01
        deliver(plan, queue.pop(rng.randrange(len(queue))), now)  # type: ignore[attr-defined]
