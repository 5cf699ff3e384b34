from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.catalogue.limits import TokenBucket


def test_t20_burst_then_rate() -> None:
    bucket = TokenBucket(rate=50.0, burst=3.0, now=100.0)
    assert [bucket.take(100.0) for _ in range(4)] == [True, True, True, False]
    assert not bucket.take(100.01)
    assert bucket.take(100.02)
    assert bucket.ready_at() == pytest.approx(100.04)


def test_more_than_the_burst_waits_for_a_full_bucket() -> None:
    bucket = TokenBucket(rate=1.0, burst=3.0, now=0.0)
    assert bucket.take(0.0, 10.0)
    assert not bucket.take(2.9, 10.0)
    assert bucket.ready_at(10.0) == 3.0
    assert bucket.take(3.0, 10.0)


@given(st.lists(st.floats(0, 100), max_size=60))
def test_t20_never_more_than_burst_and_rate_allow_whatever_the_clock_does(times: list[float]) -> None:
    bucket = TokenBucket(rate=2.0, burst=5.0, now=0.0)
    taken = sum(bucket.take(now) for now in times)
    forwards = sum(max(0.0, after - before) for before, after in zip([0.0, *times], times, strict=False))
    assert taken <= 5.0 + 2.0 * forwards + 0.1


@given(st.floats(0.1, 100), st.floats(1, 500), st.floats(0, 1e9))
def test_whoever_waits_until_ready_is_served(rate: float, burst: float, now: float) -> None:
    bucket = TokenBucket(rate, burst, now)
    assert bucket.take(now, burst)
    assert bucket.take(max(now, bucket.ready_at()))
