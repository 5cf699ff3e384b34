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
from sidecar.transfer.source_state import UNIT_CHUNKS


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


def test_one_complete_source_is_asked_in_file_order_in_whole_units() -> None:
    plan = scheduler(200, b"a")
    assert [(r.first, r.count) for r in requests(plan)] == [(0, 48), (48, 48)]
    assert requests(plan) == []


def test_two_sources_share_the_front() -> None:
    asked = requests(scheduler(192, b"a", b"b"))
    assert sorted(r.first for r in asked) == [0, 48, 96, 144]
    assert {r.source for r in asked} == {b"a", b"b"}


def test_held_chunks_are_not_asked_for() -> None:
    have = ChunkSet(40)
    have.add_range(4, 30)
    plan = Scheduler(40, have)
    plan.add_source(b"a", ChunkSet.full(40), now=0.0)
    assert [(r.first, r.count) for r in requests(plan)] == [(0, 4), (34, 6)]


def test_rarest_unit_first_and_ties_start_where_told() -> None:
    plan = Scheduler(288, ChunkSet(288), first_unit=3)
    plan.add_source(b"all", ChunkSet.full(288), now=0.0)
    holdings = ChunkSet(288)
    holdings.add_range(3 * UNIT_CHUNKS, 2 * UNIT_CHUNKS)  # units 3 and 4
    plan.add_source(b"part", holdings, now=0.0)
    from_all = [r.first // UNIT_CHUNKS for r in requests(plan) if r.source == b"all"]
    assert from_all[0] == 5  # after the common 3 and 4, in the rotated order
    assert from_all[:2] == [5, 0]


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
    assert plan.in_flight <= 256
    assert all(len(source.tickets) <= 64 for source in plan.sources.values())


def test_t06_three_wrong_chunks_and_the_source_is_banned() -> None:
    plan = scheduler(64, b"liar", b"honest")
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
    assert plan.arrived(b"a", request.ticket, 1, 3, now=0.0) is Arrival.CHECK
    assert plan.in_flight == 2 * UNIT_CHUNKS
    assert plan.arrived(b"a", request.ticket, 3, 2, now=0.0) is Arrival.UNREQUESTED, "3 came before"
    assert plan.arrived(b"a", request.ticket, UNIT_CHUNKS - 1, 2, now=0.0) is Arrival.UNREQUESTED, "past the end"
    plan.verified([1, 2, 3])
    assert plan.have.count == 3


def test_same_chunk_twice_is_a_strike() -> None:
    plan = scheduler(128, b"a")
    request = requests(plan)[0]
    assert plan.arrived(b"a", request.ticket, 0, now=0.0) is Arrival.CHECK
    assert plan.arrived(b"a", request.ticket, 0, now=0.0) is Arrival.UNREQUESTED


def test_stalled_source_loses_its_requests_and_is_tried_again_with_one_chunk() -> None:
    plan = scheduler(32, b"a", stall_s=10.0)
    first = requests(plan)
    assert plan.next_timer() == 10.0
    plan.handle_timer(now=10.0)
    assert plan.next_event() == SourceStalled(b"a")
    assert {c.ticket for c in plan.commands(now=10.0)} == {r.ticket for r in first}
    plan.handle_timer(now=15.0)
    (probe,) = requests(plan, now=15.0)
    assert (probe.first, probe.count) == (0, 1)
    deliver(plan, probe, 15.1)
    assert sum(r.count for r in requests(plan, now=15.1)) == 31


def test_late_chunk_of_a_cancelled_request_is_used() -> None:
    plan = scheduler(32, b"a", b"b", stall_s=10.0)
    (slow,) = [r for r in requests(plan) if r.source == b"a"]
    plan.handle_timer(now=10.0)
    assert plan.arrived(b"a", slow.ticket, slow.first, now=10.1) is Arrival.CHECK
    plan.verified([slow.first])
    assert plan.have.has(slow.first)
    assert all(slow.first not in range(r.first, r.first + r.count) for r in requests(plan, now=10.1))


def test_end_game_duplicates_to_the_idle_and_cancels_the_loser() -> None:
    plan = scheduler(2 * UNIT_CHUNKS, b"slow", b"fast")
    by_source = {r.source: r for r in requests(plan)}
    deliver(plan, by_source[b"fast"], 0.2)
    (extra,) = requests(plan, now=0.2)
    assert (extra.source, extra.first, extra.count) == (b"fast", by_source[b"slow"].first, UNIT_CHUNKS)
    assert requests(plan, now=0.3) == [], "two copies are enough"
    deliver(plan, extra, 0.4)
    assert plan.complete
    assert plan.commands(now=0.4) == [Cancel(b"slow", by_source[b"slow"].ticket)]


@pytest.mark.parametrize("gone", [True, False])
def test_refusal(gone: bool) -> None:
    plan = scheduler(16, b"a")
    (request,) = requests(plan)
    plan.refused(b"a", request.ticket, gone=gone, now=1.0)
    assert requests(plan, now=1.0) == []
    assert plan.can_continue() is not gone
    plan.handle_timer(now=100.0)
    assert len(requests(plan, now=100.0)) == (0 if gone else 1)


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
    plan = Scheduler(total, ChunkSet(total), limits=SchedulerLimits(total_in_flight=24), first_unit=2)
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
