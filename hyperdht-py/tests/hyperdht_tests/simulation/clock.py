"""Time that only moves when somebody has something to do."""

from collections.abc import Callable
from heapq import heappop, heappush
from random import Random

MAX_STEPS_OF_A_MOMENT = 1_000_000


class Clock:
    """Callbacks in the order of their time; those of one moment in the order they were added. Also the source of chance."""

    def __init__(self, seed: int, *, now: float = 0.0) -> None:
        self.now = now
        self.random = Random(seed)
        self.steps = 0
        """Callbacks called so far."""
        self._seed = seed
        self._heap: list[tuple[float, int, Callable[..., None], tuple[object, ...]]] = []
        self._count = 0
        self._moment_began = 0

    def random_for(self, name: str) -> Random:
        """Chance of its own for one participant, so that another one's habits do not change its numbers."""
        return Random(f"{self._seed}/{name}")

    def call_at(self, when: float, callback: Callable[..., None], *arguments: object) -> None:
        """Call `callback(*arguments)` at `when`, or right after this if that has passed."""
        self._count += 1
        heappush(self._heap, (max(when, self.now), self._count, callback, arguments))

    def run(self, seconds: float) -> None:
        """Let that much time pass."""
        self._run_to(self.now + seconds, lambda: False)

    def run_until(self, condition: Callable[[], bool], *, seconds: float) -> bool:
        """Let time pass until `condition()` holds, for at most `seconds`. Returns whether it came to hold."""
        return self._run_to(self.now + seconds, condition)

    def _run_to(self, end: float, condition: Callable[[], bool]) -> bool:
        heap = self._heap
        while not condition():
            if not heap or heap[0][0] > end:
                self.now, self._moment_began = end, self.steps
                return condition()
            when, _, callback, arguments = heappop(heap)
            self.steps += 1
            if when > self.now:
                self.now, self._moment_began = when, self.steps
            elif self.steps - self._moment_began > MAX_STEPS_OF_A_MOMENT:
                raise AssertionError(f"time stands still at {when}: a timer is always due, or packets take no time")
            callback(*arguments)
        return True
