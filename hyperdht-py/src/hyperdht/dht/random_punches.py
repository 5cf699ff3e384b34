"""How often a node may punch with a random NAT on either side."""

MAX_AT_ONCE = 1
INTERVAL_S = 20.0


class RandomPunchLimiter:
    """One per node. Such a punch takes up to 256 sockets here, or up to 1,750 ports of the NAT in front of us, so a flood
    of willing peers would use up either: one at a time, and a pause after each. Source: hyperdht 6.34.0, its defaults.
    """

    def __init__(self) -> None:
        self._running = 0
        self._next_at = float("-inf")

    def take(self, now: float) -> bool:
        """Whether a random punch may start now. Who got a yes gives it back."""
        if self._running >= MAX_AT_ONCE or now < self._next_at:
            return False
        self._running += 1
        return True

    def give_back(self, now: float, *, used: bool) -> None:
        """A punch that may have started is over. If it really was `used`, the pause begins."""
        self._running -= 1
        if used:
            self._next_at = now + INTERVAL_S
