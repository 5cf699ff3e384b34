"""When each of many streams wants to be woken, behind one timer."""

from heapq import heappop, heappush
from typing import Generic, TypeVar

K = TypeVar("K")


class Deadlines(Generic[K]):
    """At most one deadline per key.

    A stream moves its deadline with every acknowledgement, nearly always to a later time. So an entry is not replaced then:
    it fires early, its owner looks again, and a busy stream costs one entry per timeout instead of one per packet.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, K]] = []
        self._at: dict[K, float] = {}
        self._count = 0

    def set(self, key: K, at: float | None) -> None:
        """Wake `key` at `at` or earlier; None for never."""
        if at is None:
            self._at.pop(key, None)
            return
        known = self._at.get(key)
        if known is None or at < known:
            self._at[key] = at
            self._count += 1
            heappush(self._heap, (at, self._count, key))

    def next(self) -> float | None:
        """When `due` has something to give, at the earliest."""
        while self._heap:
            at, _, key = self._heap[0]
            if self._at.get(key) == at:
                return at
            heappop(self._heap)  # moved to an earlier time, or not wanted any more
        return None

    def due(self, now: float) -> list[K]:
        """The keys whose time has come. They are forgotten until `set` again."""
        keys: list[K] = []
        while (at := self.next()) is not None and at <= now:
            key = heappop(self._heap)[2]
            del self._at[key]
            keys.append(key)
        return keys
