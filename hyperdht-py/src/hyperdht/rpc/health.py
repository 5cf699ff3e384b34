"""Whether the network works, going by how many of our requests are answered. Source: dht-rpc 6.27.0 `lib/health.js`."""

from collections import deque
from enum import Enum, auto

WINDOW_TICKS = 4
OFFLINE_TICKS = 2
MIN_OUTCOMES = 4  # ticks with fewer say nothing
MAX_TIMEOUT_SHARE = 0.5


class Health(Enum):
    """The state of the network as we see it."""

    ONLINE = auto()
    DEGRADED = auto()
    """Most requests time out."""
    OFFLINE = auto()
    """Nothing is answered."""


class HealthMonitor:
    """Fed once a tick with the outcomes of that tick."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Begin again, for instance after sleep."""
        self.health = Health.ONLINE
        self._window: deque[Health | None] = deque(maxlen=WINDOW_TICKS)  # None for a tick that says nothing
        self._ticks = 0
        self._offline_in_a_row = 0

    def update(self, *, replies: int, timeouts: int) -> None:
        """A tick ended, in which so many requests were answered and given up."""
        self._ticks += 1
        tick = _judge(replies, timeouts) if self._ticks >= WINDOW_TICKS else None  # the first requests are no sample
        self._window.append(tick)
        if tick is None:
            return
        self._offline_in_a_row = self._offline_in_a_row + 1 if tick is Health.OFFLINE else 0
        if tick is Health.OFFLINE:
            if self._offline_in_a_row >= OFFLINE_TICKS:
                self.health = Health.OFFLINE
        elif self.health is Health.OFFLINE or self._window.count(Health.ONLINE) == WINDOW_TICKS:
            self.health = Health.ONLINE
        elif self._window.count(Health.DEGRADED) == WINDOW_TICKS:
            self.health = Health.DEGRADED


def _judge(replies: int, timeouts: int) -> Health | None:
    if replies + timeouts < MIN_OUTCOMES:
        return None
    if not replies:
        return Health.OFFLINE
    return Health.DEGRADED if timeouts > MAX_TIMEOUT_SHARE * (replies + timeouts) else Health.ONLINE
