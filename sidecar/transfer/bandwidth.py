"""Bandwidth caps. Sans-I/O: a bucket says how long to wait, the caller waits."""

from __future__ import annotations

from collections import OrderedDict

from sidecar.transfer.chunks import CHUNK_BYTES

BURST_S = 0.25
"""Seconds of the rate that may go at once."""
MAX_KEPT = 1024
"""Caps of single peers that are remembered: more than can be connected, so that coming back forgives no debt soon."""


class TokenBucket:
    """A rate in bytes per second; None means no limit. The rate may be changed at any time."""

    def __init__(self, rate: float | None = None) -> None:
        self.rate = rate
        self._tokens = self._burst()
        self._filled_at: float | None = None

    def reserve(self, count: int, *, now: float) -> float:
        """Take `count` bytes and return the seconds to wait before using them, in the order of the calls."""
        if self.rate is None:
            return 0.0
        self._fill(self.rate, now)
        self._tokens -= count
        return max(0.0, -self._tokens / self.rate)

    def wait(self, count: int, *, now: float) -> float:
        """Seconds until `count` bytes may be used at once; more than the burst as soon as all of that may."""
        if self.rate is None:
            return 0.0
        self._fill(self.rate, now)
        return max(0.0, (min(count, self._burst()) - self._tokens) / self.rate)

    def chunks_at_once(self, most: int) -> int:
        """A batch that does not take much longer than the burst, so that a low cap stays smooth."""
        return most if self.rate is None else max(1, min(most, int(self._burst() / CHUNK_BYTES)))

    def _fill(self, rate: float, now: float) -> None:
        if self._filled_at is not None:
            self._tokens = min(self._burst(), self._tokens + (now - self._filled_at) * rate)
        self._filled_at = now

    def _burst(self) -> float:
        return 0.0 if self.rate is None else self.rate * BURST_S


class EachCapped:
    """The same cap for each of many: peers by key, or rooms by id. One peer in two rooms is one peer.

    Args:
        rate: Bytes per second; None or 0 is no limit.
    """

    def __init__(self, rate: float | None = None) -> None:
        self.rate = rate or None
        self._buckets: OrderedDict[bytes, TokenBucket] = OrderedDict()

    def of(self, key: bytes) -> TokenBucket | None:
        """The cap of one of them; None when there is none."""
        if self.rate is None:
            return None
        bucket = self._buckets.setdefault(key, TokenBucket(self.rate))
        self._buckets.move_to_end(key)
        if len(self._buckets) > MAX_KEPT:
            self._buckets.popitem(last=False)
        return bucket
