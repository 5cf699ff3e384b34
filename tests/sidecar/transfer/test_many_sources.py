"""Fetches from many sources in virtual time: how long they take beside what is possible, and who pays for it."""

from __future__ import annotations

import random

import pytest

from sidecar.transfer.chunks import CHUNK_BYTES
from tests.sidecar.transfer.virtual import MB, Clock, Fetcher, Provider, fetch

MIB = (1 << 20) // CHUNK_BYTES
"""Chunks."""


def providers(clock: Clock, rates: list[float], round_trip: float = 0.02) -> list[Provider]:
    return [Provider(clock, bytes([number]), rate * MB, round_trip) for number, rate in enumerate(rates)]


def seconds(chunks: int, rates: list[float]) -> float:
    """The shortest time in which these could bring that many chunks."""
    return chunks * CHUNK_BYTES / (sum(rates) * MB)


@pytest.mark.parametrize(
    ("rates", "round_trip"),
    [
        ([20], 0.001),
        ([20, 20], 0.02),
        ([20, 20, 20, 20], 0.001),
        ([20, 20, 20, 20], 0.1),
        ([5] * 16, 0.02),
        ([20] * 8, 0.1),
        ([0.5, 1, 2, 4, 8, 16], 0.05),
        ([0.05, 0.1, 5, 40], 0.02),
        ([0.02, 20], 0.02),
        ([100, 100], 0.001),
    ],
    ids=str,
)
def test_time_is_within_a_tenth_of_what_all_sources_together_can_do(rates: list[float], round_trip: float) -> None:
    clock, total = Clock(), (1024 if sum(rates) > 100 else 256) * MIB
    done = fetch(clock, total, *providers(clock, rates, round_trip))
    assert done.finished_at is not None
    assert done.finished_at <= 1.1 * seconds(total, rates)
    assert done.received_chunks <= total + 32, "the end game sends little twice"


@pytest.mark.parametrize("rates", [[20, 20], [20, 20, 20, 20], [20, 1]], ids=str)
@pytest.mark.parametrize("total", [256 * MIB])
def test_a_source_that_stalls_half_way_costs_its_part_and_less_than_a_second(rates: list[float], total: int) -> None:
    clock = Clock()
    half = seconds(total // 2, rates)
    sources = providers(clock, rates)
    sources[0].silent = [(half, 1e9)]
    done = fetch(clock, total, *sources)
    assert done.finished_at is not None
    assert done.finished_at <= half + seconds(total // 2, rates[1:]) + 1.0
    assert done.finished_at >= half + seconds(total // 2, rates[1:]) - 1.0, "or it did not stall"


@pytest.mark.parametrize("silent_s", [2.0, 5.0, 15.0, 60.0])
def test_a_source_that_comes_back_is_used_at_once(silent_s: float) -> None:
    clock, total = Clock(), 256 * MIB
    sources = providers(clock, [20, 1])
    sources[0].silent = [(3.0, 3.0 + silent_s)]
    done = fetch(clock, total, *sources)
    ideal = silent_s + (total * CHUNK_BYTES - silent_s * MB) / (21 * MB)
    assert done.finished_at is not None
    assert done.finished_at <= ideal + 0.5


def test_a_source_that_joins_half_way_is_used_at_once() -> None:
    clock, total = Clock(), 256 * MIB
    first, late = providers(clock, [10, 30])
    fetcher = Fetcher(clock, b"fetcher", total)
    fetcher.meet(first)
    clock.after(5.0, lambda: fetcher.meet(late))
    clock.run(lambda: fetcher.finished_at is not None)
    assert fetcher.finished_at is not None
    assert fetcher.came[late.key][0] < 5.1
    assert fetcher.finished_at <= 5.0 + seconds(total, [40]) * (1 - 50 * MB / (total * CHUNK_BYTES)) + 0.5


def test_t06_a_liar_among_four_is_banned_and_costs_its_part() -> None:
    clock, total, rates = Clock(), 256 * MIB, [20.0, 20.0, 20.0, 20.0]
    sources = providers(clock, rates)
    sources[0].lies = True
    done = fetch(clock, total, *sources)
    assert done.finished_at is not None
    assert done.banned == [sources[0].key]
    assert done.finished_at <= 1.1 * seconds(total, rates[1:])
    assert sources[0].sent <= 30, "three chunks, and what was on its way"


def test_t06_a_room_full_of_liars_deniers_and_silent_ones_and_one_honest_source() -> None:
    clock, total = Clock(), 64 * MIB
    sources = providers(clock, [20.0] * 61)
    for number, source in enumerate(sources[:-1]):
        source.lies = number % 3 == 0
        source.denies = number % 3 == 1
        source.silent = [(0.0, 1e9)] if number % 3 == 2 else []
    done = fetch(clock, total, *sources)
    assert done.finished_at is not None
    assert done.finished_at <= seconds(total, [20]) + 3.0
    assert set(done.banned) >= {source.key for source in sources if source.lies}


def test_a_swarm_takes_little_more_than_one_copy_from_the_publisher() -> None:
    """Eight fetch at the same time from one who has all of it, and from each other what they have so far."""
    clock, total, luck = Clock(), 256 * MIB, random.Random(7)
    publisher = Provider(clock, b"publisher", 20 * MB)
    getters = [Fetcher(clock, bytes([number]), total, seed=luck.getrandbits(32)) for number in range(8)]
    sides = [Provider(clock, each.key, 20 * MB, holds=each.scheduler.have.has) for each in getters]
    for getter in getters:
        getter.meet(publisher)
        for side in sides:
            if side.key != getter.key:
                getter.meet(side)
    clock.run(lambda: all(each.finished_at is not None for each in getters))
    assert publisher.sent <= 1.5 * total
    assert max(each.finished_at or 0 for each in getters) <= 1.5 * seconds(total, [20])
    assert all(each.received_chunks <= 1.03 * total for each in getters)
