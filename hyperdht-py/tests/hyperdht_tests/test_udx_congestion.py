"""BBR on a simulated bottleneck, and the pacer, with a time that is stepped by hand."""

import pytest

from hyperdht.udx.congestion import INITIAL_CWND, MIN_CWND, Bbr, Mode, Pacer, RateSample

PAYLOAD = 1152


def drive(bbr: Bbr, *, packets_per_second: float, rtt: float, seconds: float, start: float = 0.0) -> list[Mode]:
    """A bottleneck with a deep queue, one round per step: it delivers what was sent, at most at its own rate."""
    now, delivered, modes = start, 0, []
    while now < start + seconds:
        in_flight = min(bbr.cwnd, max(int(bbr.pacing_rate / PAYLOAD * rtt), 1))
        took = max(rtt, in_flight / packets_per_second)
        now += took
        prior, delivered = delivered, delivered + in_flight
        sample = RateSample(
            delivered=delivered, prior_delivered=prior, interval=took, acked=in_flight, lost=0,
            in_flight=0, prior_in_flight=in_flight, rtt=took, app_limited=False,
        )  # fmt: skip
        bbr.acknowledged(sample, now)
        modes.append(bbr.mode)
    return modes


def sample(*, acked: int, in_flight: int, lost: int = 0, delivered: int = 100) -> RateSample:
    return RateSample(delivered, delivered - acked, 0.1, acked, lost, in_flight, in_flight + acked, 0.1, False)


def test_it_finds_bandwidth_and_round_trip_time_and_stays_there() -> None:
    bbr = Bbr(PAYLOAD)
    assert bbr.cwnd == INITIAL_CWND
    modes = drive(bbr, packets_per_second=20_000, rtt=0.05, seconds=8)
    assert modes[0] is Mode.STARTUP
    assert modes[-1] is Mode.PROBE_BW
    assert bbr.min_rtt == pytest.approx(0.05)
    assert bbr.bandwidth == pytest.approx(20_000, rel=0.02)
    assert bbr.pacing_rate == pytest.approx(20_000 * PAYLOAD, rel=0.3)
    assert 1000 <= bbr.cwnd <= 4200


def test_it_looks_for_a_smaller_round_trip_time_every_ten_seconds() -> None:
    bbr = Bbr(PAYLOAD)
    modes = drive(bbr, packets_per_second=20_000, rtt=0.05, seconds=5)
    now = 5.2
    for step in range(240):  # the path became longer, so the old minimum is never confirmed
        now += 0.1
        bbr.acknowledged(
            RateSample(10**6 + step * 50, 10**6 + step * 50 - 50, 0.1, 50, 0, 3, 53, 0.1, False),
            now,
        )
        modes.append(bbr.mode)
    assert Mode.PROBE_RTT in modes
    assert modes[-1] is not Mode.PROBE_RTT
    assert bbr.min_rtt == pytest.approx(0.1)


def test_in_the_first_round_of_recovery_no_more_is_sent_than_arrives() -> None:
    bbr = Bbr(PAYLOAD)
    drive(bbr, packets_per_second=20_000, rtt=0.05, seconds=5)
    before = bbr.cwnd
    first = sample(acked=3, in_flight=500, lost=5, delivered=10**6)
    bbr.entered_recovery(first)
    bbr.acknowledged(first, 5.1)
    assert bbr.cwnd == 503
    bbr.left_recovery()
    assert bbr.cwnd == before


def test_after_a_timeout_one_packet_is_tried() -> None:
    bbr = Bbr(PAYLOAD)
    bbr.timed_out(0)
    assert bbr.cwnd == 1
    bbr.acknowledged(sample(acked=1, in_flight=0), 1.0)
    assert bbr.cwnd == MIN_CWND
    bbr.left_recovery()
    assert bbr.cwnd == INITIAL_CWND


def test_pacing_lets_a_burst_go_and_then_the_rate() -> None:
    pacer = Pacer()
    assert pacer.available(1e6, 0.0) == 25_000
    pacer.spend(26_000)
    assert pacer.available(1e6, 0.0) <= 0
    assert pacer.ready_at(1e6, 0.0, 1000) == pytest.approx(0.002)
    assert pacer.available(1e6, 0.002) == 1000
    assert pacer.available(1e6, 100.0) == 25_000


def test_a_fast_stream_may_catch_up_some_milliseconds() -> None:
    pacer = Pacer()
    pacer.available(1e9, 0.0)
    assert pacer.available(1e9, 1.0) == 4_000_000
