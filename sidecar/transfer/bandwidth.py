"""Bandwidth caps. Sans-I/O: a bucket says how long to wait, the caller waits."""

from __future__ import annotations

from sidecar.transfer.chunks import CHUNK_BYTES

BURST_S = 0.25
"""Seconds of the rate that may go at once."""


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
        if self._filled_at is not None:
            self._tokens = min(self._burst(), self._tokens + (now - self._filled_at) * self.rate)
        self._filled_at = now
        self._tokens -= count
        return max(0.0, -self._tokens / self.rate)

    def chunks_at_once(self, most: int) -> int:
        """A batch that does not take much longer than the burst, so that a low cap stays smooth."""
        return most if self.rate is None else max(1, min(most, int(self._burst() / CHUNK_BYTES)))

    def _burst(self) -> float:
        return 0.0 if self.rate is None else self.rate * BURST_S
