"""When to dial a peer again.

The reference collects peers on four interval timers, which makes the delay 0.66 to 1.33 times the period, depending on where in
the interval a peer comes. Here each peer's delay is drawn from that range, so that no two come at once.

Source: hyperswarm 4.17.2 `lib/retry-timer.js`, `lib/bulk-timer.js`; docs/protocol/hyperswarm.md.
"""

from collections.abc import Callable
from enum import Enum

from ..rpc.randomness import Randomness
from ..rpc.timers import Timer, Timers
from .peer_info import LAST_ATTEMPT, PeerInfo

MAX_JITTER_S = 0.5
EARLIEST, LATEST = 0.66, 1.33  # of the period


class Period(Enum):
    """How long to wait, in seconds: a range from which a swarm draws its own period when it starts."""

    SHORT = (1.0, 1.5)
    MEDIUM = (5.0, 6.0)
    LONG = (15.0, 17.0)
    VERY_LONG = (600.0, 720.0)


def period_of(peer: PeerInfo) -> Period | None:
    """The period of a peer whose dial failed or whose connection is over; None to leave it alone."""
    if peer.banned or not peer.reconnecting:
        return None
    if peer.attempts > LAST_ATTEMPT:
        return Period.VERY_LONG if peer.explicit else None
    if peer.attempts == 0:
        return Period.SHORT
    by_attempts = (
        (Period.SHORT, Period.MEDIUM, Period.LONG) if peer.proven else (Period.MEDIUM, Period.LONG, Period.LONG)
    )
    return by_attempts[peer.attempts - 1]


class RetryTimers:
    """The peers that wait. Their number is bounded by that of the peers remembered."""

    def __init__(self, timers: Timers, randomness: Randomness, due: Callable[[PeerInfo, float], None]) -> None:
        """`due(peer, now)` is called when a peer's time has come."""
        self._timers = timers
        self._randomness = randomness
        self._due = due
        self._periods = {period: self._between(*period.value) + self._between(0, MAX_JITTER_S) for period in Period}
        self._waiting: dict[bytes, Timer] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, peer: PeerInfo, now: float) -> bool:
        """Wait for the peer's time. Returns False when it should not be tried again."""
        period = period_of(peer)
        if period is None:
            return False
        self.discard(peer)
        delay = self._periods[period] * self._between(EARLIEST, LATEST)
        self._waiting[peer.public_key] = self._timers.call_at(now + delay, lambda now: self._fire(peer, now))
        return True

    def discard(self, peer: PeerInfo) -> None:
        """Wait for this one no longer."""
        timer = self._waiting.pop(peer.public_key, None)
        if timer is not None:
            timer.cancel()

    def clear(self) -> None:
        """Wait for nobody any more."""
        for timer in self._waiting.values():
            timer.cancel()
        self._waiting.clear()

    def _fire(self, peer: PeerInfo, now: float) -> None:
        del self._waiting[peer.public_key]
        self._due(peer, now)

    def _between(self, low: float, high: float) -> float:
        return low + (high - low) * self._randomness.random()
