"""Bounds on what strangers can put into a catalogue, each with what would happen without it."""

from __future__ import annotations

MAX_RAW_BYTES = 65_536
"""Signed bytes of one entry. A model card fits; a room full of larger ones would not fit in memory."""
MAX_ENTRIES_PER_PUBLISHER = 1_000
"""Per room. One member could otherwise fill the room alone and push everybody else's entries out."""
MAX_ENTRIES_PER_ROOM = 50_000
"""Withdrawals included. About 150 MB in memory; keys are free, so the limit per publisher alone bounds nothing."""
MAX_REMEMBERED_ADAPTERS = 200_000
"""Names whose highest version is kept for ever (T15). When full, new names are refused: forgetting old ones instead
is what somebody who wants to replay them would flood us for."""
CLOCK_SKEW_S = 2 * 3600.0
"""How far past `expires` an entry still counts: laptops and virtual machines are often an hour off."""

CATALOGUE_MESSAGES_PER_S = 50.0
"""From one peer: each may cost a signature check and a database row."""
CATALOGUE_BURST = 500.0
"""What a peer that keeps to its own pace can have piled up in ten seconds of stalled network."""
SENDING_PER_S = 40.0
SENDING_BURST = 100.0
"""Our own pace, under what others accept so that rounding and jitter never make us the offender."""


_ROUNDING = 1e-3
"""Whoever waits until `ready_at` must be served then, whatever binary fractions made of the moment."""


class TokenBucket:
    """Allows `rate` per second on average and `burst` at once. The owner tells the time."""

    __slots__ = ("_at", "_tokens", "burst", "rate")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self.rate = rate
        self.burst = burst
        self._tokens = burst
        self._at = now

    def take(self, now: float, amount: float = 1.0) -> bool:
        """Use `amount` tokens if they are there. More than `burst` at once is asked for as `burst`."""
        self._refill(now)
        amount = min(amount, self.burst)
        if self._tokens < amount - _ROUNDING:
            return False
        self._tokens = max(0.0, self._tokens - amount)
        return True

    def ready_at(self, amount: float = 1.0) -> float:
        """When `take` of that amount will succeed, if nothing is taken before."""
        missing = min(amount, self.burst) - self._tokens
        return self._at + max(0.0, missing) / self.rate

    def _refill(self, now: float) -> None:
        # A clock that goes back refills nothing and is followed from there.
        self._tokens = min(self.burst, self._tokens + max(0.0, now - self._at) * self.rate)
        self._at = now
