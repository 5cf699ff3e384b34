"""What a node does every 5 s to keep its table alive and to notice what happens to it. Source: dht-rpc 6.27.0 `index.js`."""

from collections.abc import Callable
from itertools import islice

from .caller import Caller
from .health import Health, HealthMonitor
from .membership import Membership
from .randomness import Randomness
from .routing_table import BUCKET_SIZE, OLD_TICKS, RECENT_TICKS
from .timers import Timer

TICK_S = 5.0
SLEPT_AFTER_S = 3 * TICK_S
PING_TICKS = 8
REFRESH_TICKS = 60  # 5 minutes without any query
SMALL_TABLE_REFRESH_TICKS = 64
WAKEUP_TICKS = 2 * OLD_TICKS  # by so many everything gets older, so that all nodes are asked again
PINGS = 5
PINGS_WHEN_BUSY = 3
PINGS_WHEN_RECENT = 2
BUSY_ABOVE_REQUESTS = 2
MAX_DOWN_HINTS_PER_TICK = 50  # to send; receivers stop acting on them at the same number


def first_tick(randomness: Randomness) -> int:
    """Nodes that start together shall not do everything together."""
    return randomness.randrange(51, 101)


class Background:
    """The tick of one node."""

    def __init__(
        self,
        caller: Caller,
        membership: Membership,
        *,
        randomness: Randomness,
        refresh: Callable[[float], None],
        on_health_change: Callable[[float], None],
    ) -> None:
        self._caller = caller
        self._endpoint = caller.endpoint
        self._membership = membership
        self._refresh = refresh
        self._on_health_change = on_health_change
        self._monitor = HealthMonitor()
        self._ticks_until_refresh = randomness.randrange(REFRESH_TICKS // 2 + 1, REFRESH_TICKS + 1)
        self._down_hints_left = MAX_DOWN_HINTS_PER_TICK
        self._counted = (0, 0)
        self._ticked = 0.0
        self._timer = Timer(0.0, None)

    @property
    def health(self) -> Health:
        return self._monitor.health

    def start(self, now: float) -> None:
        """Tick from now on."""
        self.stop()
        self._ticked = now
        self._timer = self._caller.timers.call_at(now + TICK_S, self._tick)

    def stop(self) -> None:
        """Stop ticking."""
        self._timer.cancel()

    def postpone_refresh(self) -> None:
        """A query starts: it refreshes the table by the way."""
        self._ticks_until_refresh = REFRESH_TICKS

    def take_down_hint(self) -> bool:
        """Whether one more DOWN_HINT may be sent in this tick."""
        self._down_hints_left -= 1
        return self._down_hints_left >= 0

    def handle_wakeup(self, now: float) -> None:
        """The machine slept, or its network changed: believe nothing, ask everybody again soon."""
        tick = self._endpoint.tick + WAKEUP_TICKS
        self._endpoint.start_tick(tick - tick % PING_TICKS + PING_TICKS - 2)  # pings follow in two ticks
        self._ticks_until_refresh = 1
        self._membership.handle_wakeup()
        before = self.health
        self._monitor.reset()
        if self.health is not before:
            self._on_health_change(now)

    def _tick(self, now: float) -> None:
        slept = now - self._ticked > SLEPT_AFTER_S
        self.start(now)
        if slept:
            self.handle_wakeup(now)
        else:
            self._endpoint.start_tick(self._endpoint.tick + 1)
        self._down_hints_left = MAX_DOWN_HINTS_PER_TICK
        if self._membership.bootstrapped:
            self._maintain(now)

    def _maintain(self, now: float) -> None:
        self._membership.handle_tick(now)
        if self._endpoint.tick % PING_TICKS == 0:
            self._ping_some(now)
        self._ticks_until_refresh -= 1
        is_small = len(self._endpoint.table) < BUCKET_SIZE
        if self._ticks_until_refresh <= 0 or (is_small and self._endpoint.tick % SMALL_TABLE_REFRESH_TICKS == 0):
            self._refresh(now)
        self._update_health(now)

    def _ping_some(self, now: float) -> None:
        tick = self._endpoint.tick
        nodes = list(islice(self._endpoint.table.longest_unseen(), PINGS))
        if not nodes:
            self._refresh(now)
            return
        count = PINGS_WHEN_BUSY if self._endpoint.in_flight > BUSY_ABOVE_REQUESTS else PINGS
        if tick - nodes[0].pinged < RECENT_TICKS:
            count = PINGS_WHEN_RECENT
        for node in nodes[:count]:
            if node.pinged != tick:
                self._endpoint.check(node, now=now)

    def _update_health(self, now: float) -> None:
        replies, timeouts = self._endpoint.replies, self._endpoint.timeouts
        before = self.health
        self._monitor.update(replies=replies - self._counted[0], timeouts=timeouts - self._counted[1])
        self._counted = replies, timeouts
        if self.health is not before:
            self._on_health_change(now)
