"""The largest value of a sliding window, in constant space."""


class WindowedMax:
    """Keeps the three best candidates of different age, as Linux's lib/minmax.c does. For a minimum negate the values."""

    def __init__(self, window: float) -> None:
        """
        Args:
            window: In the unit of the times given to `update`: seconds, or rounds.
        """
        self._window = window
        self._best: list[tuple[float, float]] = []

    @property
    def value(self) -> float | None:
        """The largest value; None before the first."""
        return self._best[0][1] if self._best else None

    def update(self, time: float, value: float) -> float:
        """Add a value and return the largest."""
        if not self._best or value >= self._best[0][1] or time - self._best[2][0] > self._window:
            self._best = [(time, value)] * 3
            return value
        if value >= self._best[1][1]:
            self._best[1:] = [(time, value)] * 2
        elif value >= self._best[2][1]:
            self._best[2] = (time, value)
        self._age(time, value)
        return self._best[0][1]

    def _age(self, time: float, value: float) -> None:
        first, second, third = self._best
        age = time - first[0]
        if age > self._window:
            self._best = [second, third, (time, value)]
            if time - second[0] > self._window:
                self._best = [third, (time, value), (time, value)]
        elif second[0] == first[0] and age > self._window / 4:
            self._best[1:] = [(time, value)] * 2
        elif third[0] == second[0] and age > self._window / 2:
            self._best[2] = (time, value)
