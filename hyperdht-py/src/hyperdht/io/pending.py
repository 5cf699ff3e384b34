"""From callbacks to what tasks wait for."""

from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Generic, TypeVar

import anyio

T = TypeVar("T")


class Waiting:
    """What the tasks of one node wait for. Nothing will come of it once the node is closed, so they are told then."""

    def __init__(self) -> None:
        self._events: dict[object, anyio.Event] = {}
        self._closed = False

    def close(self) -> None:
        """Wake everybody, now and from now on."""
        self._closed = True
        for event in self._events.values():
            event.set()

    def check(self) -> None:
        """
        Raises:
            ClosedResourceError: The node is closed.
        """
        if self._closed:
            raise anyio.ClosedResourceError("the node is closed")

    async def wait(self, event: anyio.Event) -> None:
        """Wait for `event`, or for the end of the node: look what happened, then `check`."""
        if self._closed:
            event.set()
        task = object()
        self._events[task] = event
        try:
            await event.wait()
        finally:
            del self._events[task]


class Pending(Generic[T]):
    """A value that a callback will bring, for one waiting task. Later values are ignored."""

    def __init__(self, waiting: Waiting | None = None) -> None:
        """
        Args:
            waiting: The node's; without it the value must be sure to come.
        Raises:
            ClosedResourceError: The node is closed.
        """
        self._waiting = waiting or Waiting()
        self._waiting.check()
        self._event = anyio.Event()
        self._values: list[T] = []

    def set(self, value: T) -> None:
        """The value is there."""
        if not self._values:
            self._values.append(value)
            self._event.set()

    async def wait(self) -> T:
        """The value, once it is there.

        Raises:
            ClosedResourceError: The node was closed before.
        """
        await self._waiting.wait(self._event)
        if not self._values:
            self._waiting.check()
        return self._values[0]


class Results(Generic[T]):
    """Values that callbacks bring one by one, for one task that iterates. Who fills it bounds how many there are."""

    def __init__(self, waiting: Waiting | None = None) -> None:
        """See `Pending`."""
        self._waiting = waiting or Waiting()
        self._waiting.check()
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
        """All values; `cancel` is called if the iteration is left before the end.

        Raises:
            ClosedResourceError: The node was closed before the end.
        """
        try:
            while True:
                while self._values:
                    yield self._values.popleft()
                if self._ended:
                    return
                self._waiting.check()
                self._news = anyio.Event()
                await self._waiting.wait(self._news)
        finally:
            if not self._ended:
                cancel()
