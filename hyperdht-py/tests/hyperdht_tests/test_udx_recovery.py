"""Round-trip times, RACK and the windowed maximum, with a time that is stepped by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperdht.udx.recovery import Rack, RecoveryState, RttEstimator
from hyperdht.udx.windowed import WindowedMax


def test_the_first_sample_and_the_next() -> None:
    rtt = RttEstimator()
    assert rtt.rto == 1.0
    assert rtt.probe_delay(1) == 1.0
    rtt.sample(0.4, 0.0)
    assert (rtt.srtt, rtt.rttvar) == (0.4, 0.2)
    assert rtt.rto == pytest.approx(1.2)
    rtt.sample(0.8, 1.0)
    assert rtt.rttvar == pytest.approx((3 * 0.2 + 0.4) / 4)
    assert rtt.srtt == pytest.approx((7 * 0.4 + 0.8) / 8)
    assert rtt.min_rtt == 0.4


def test_the_timeout_stays_within_one_and_thirty_seconds() -> None:
    rtt = RttEstimator()
    rtt.sample(0.001, 0.0)
    assert rtt.rto == 1.0
    slow = RttEstimator()
    slow.sample(500.0, 0.0)
    assert (slow.srtt, slow.rto) == (30.0, 30.0)


def test_a_stalled_process_does_not_spoil_the_estimate() -> None:
    rtt = RttEstimator()
    rtt.sample(0.1, 0.0)
    rtt.sample(20.0, 21.0)
    assert rtt.srtt is not None
    assert rtt.srtt == pytest.approx((7 * 0.1 + 0.35) / 8)


def test_a_probe_waits_two_round_trips_and_a_little_for_a_lone_packet() -> None:
    rtt = RttEstimator()
    rtt.sample(0.05, 0.0)
    assert rtt.probe_delay(1) == pytest.approx(0.102)
    assert rtt.probe_delay(2) == pytest.approx(0.1)


def test_the_smallest_round_trip_is_forgotten_after_its_window() -> None:
    rtt = RttEstimator()
    rtt.sample(0.01, 0.0)
    for second in range(1, 700):
        rtt.sample(0.05, float(second))
    assert rtt.min_rtt == 0.05


def rack_after(*arrivals: tuple[float, int]) -> tuple[Rack, RttEstimator]:
    rack, rtt = Rack(), RttEstimator()
    rtt.sample(0.1, 0.0)
    for sent_at, seq in arrivals:
        rack.delivered(sent_at, seq, retransmitted=False, first=seq, now=sent_at + 0.1, min_rtt=0.1)
    return rack, rtt


def test_only_what_was_sent_before_an_arrival_is_overtaken() -> None:
    rack, _ = rack_after((1.0, 5))
    assert rack.overtaken(0.5, 9)
    assert rack.overtaken(1.0, 4)
    assert not rack.overtaken(1.0, 6)
    assert rack.rtt == pytest.approx(0.1)


def test_three_packets_beyond_a_gap_need_no_window_unless_the_path_reorders() -> None:
    rack, rtt = rack_after((1.0, 5))
    assert rack.reordering_window(rtt, RecoveryState.OPEN, 2) == pytest.approx(0.025)
    assert rack.reordering_window(rtt, RecoveryState.OPEN, 3) == 0.0
    assert rack.reordering_window(rtt, RecoveryState.LOSS, 0) == 0.0
    rack, rtt = rack_after((1.0, 5), (1.0, 3))
    assert rack.reordering_seen
    assert rack.reordering_window(rtt, RecoveryState.LOSS, 9) == pytest.approx(0.025)


def test_an_answer_too_quick_for_a_retransmission_says_nothing() -> None:
    rack, _ = rack_after((1.0, 5))
    rack.delivered(2.0, 3, retransmitted=True, first=3, now=2.01, min_rtt=0.1)
    assert not rack.reordering_seen
    assert not rack.overtaken(1.5, 9)


@given(st.lists(st.tuples(st.floats(0, 3), st.floats(0, 100)), min_size=1, max_size=100))
def test_the_windowed_maximum_is_never_below_the_newest_nor_above_all(steps: list[tuple[float, float]]) -> None:
    window, now, seen = WindowedMax(10.0), 0.0, []
    for step, value in steps:
        now += step
        seen.append((now, value))
        best = window.update(now, value)
        assert best == window.value
        assert value <= best <= max(v for _, v in seen)
        assert any(v == best and now - at <= 20.0 for at, v in seen)
