"""Many deadlines behind one timer."""

from collections.abc import Callable
from dataclasses import dataclass
from heapq import heapify, heappop, heappush

TimerCallback = Callable[[float], None]

MIN_CANCELLED_TO_SWEEP = 64


@dataclass(slots=True, eq=False)
class Timer:
    """One deadline. `cancel` may be called at any time, also after it fired."""

    when: float
    callback: TimerCallback | None

    def cancel(self) -> None:
        """The callback will not be called."""
        self.callback = None


class Timers:
    """Callbacks by time, for a machine that is asked when it wants to be woken. Callbacks get `now`."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Timer]] = []
        self._count = 0

    def call_at(self, when: float, callback: TimerCallback) -> Timer:
        """Call `callback(now)` once `when` has come."""
        self._sweep()
        self._count += 1
        timer = Timer(when, callback)
        heappush(self._heap, (when, self._count, timer))
        return timer

    def next_timer(self) -> float | None:
        """When to call `handle_timer`; None while nothing is due ever."""
        while self._heap and self._heap[0][2].callback is None:
            heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def handle_timer(self, *, now: float) -> None:
        """Call what is due. What these callbacks add for the same moment waits for the next call."""
        due: list[Timer] = []
        while self._heap and self._heap[0][0] <= now:
            due.append(heappop(self._heap)[2])
        for timer in due:
            if timer.callback is not None:
                callback, timer.callback = timer.callback, None
                callback(now)

    def _sweep(self) -> None:
        """Timers that are always cancelled before their time must not pile up until then."""
        if len(self._heap) < MIN_CANCELLED_TO_SWEEP or self._count % MIN_CANCELLED_TO_SWEEP:
            return
        alive = [entry for entry in self._heap if entry[2].callback is not None]
        if len(alive) < len(self._heap) // 2:
            self._heap = alive
            heapify(self._heap)
