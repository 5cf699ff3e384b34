"""From callbacks to what tasks wait for."""

from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Generic, TypeVar

import anyio

T = TypeVar("T")


class Pending(Generic[T]):
    """A value that a callback will bring, for one waiting task. Later values are ignored."""

    def __init__(self) -> None:
        self._event = anyio.Event()
        self._values: list[T] = []

    def set(self, value: T) -> None:
        """The value is there."""
        if not self._values:
            self._values.append(value)
            self._event.set()

    async def wait(self) -> T:
        """The value, once it is there."""
        await self._event.wait()
        return self._values[0]


class Results(Generic[T]):
    """Values that callbacks bring one by one, for one task that iterates. Who fills it bounds how many there are."""

    def __init__(self) -> None:
        self._values: deque[T] = deque()
        self._news = anyio.Event()
        self._ended = False

    def put(self, value: T) -> None:
        """One more."""
        self._values.append(value)
        self._news.set()

    def end(self) -> None:
        """That was the last."""
        self._ended = True
        self._news.set()

    async def iterate(self, cancel: Callable[[], object]) -> AsyncIterator[T]:
        """All values; `cancel` is called if the iteration is left before the end."""
        try:
            while True:
                while self._values:
                    yield self._values.popleft()
                if self._ended:
                    return
                self._news = anyio.Event()
                await self._news.wait()
        finally:
            if not self._ended:
                cancel()
