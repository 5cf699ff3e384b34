"""How many requests may be on their way. Source: dht-rpc 6.27.0 `lib/io.js` `CongestionWindow`."""

STEP_S = 0.75
SLOTS = 4
MAX_PER_SLOT = 80
MAX_IN_ALL = 160


class CongestionWindow:
    """Counts what was sent in the last three seconds, less what came back."""

    __slots__ = ("_current", "_slots", "_sum")

    def __init__(self) -> None:
        self._slots = [0] * SLOTS
        self._current = 0
        self._sum = 0

    @property
    def is_full(self) -> bool:
        return self._slots[self._current] >= MAX_PER_SLOT or self._sum >= MAX_IN_ALL

    def sent(self) -> None:
        """A request left, for the first time or again."""
        self._slots[self._current] += 1
        self._sum += 1

    def settled(self) -> None:
        """A request was answered or given up."""
        if self._slots[self._current] > 0:
            self._slots[self._current] -= 1
            self._sum -= 1

    def step(self) -> None:
        """Another 750 ms have passed."""
        self._current = (self._current + 1) % SLOTS
        self._sum -= self._slots[self._current]
        self._slots[self._current] = 0
