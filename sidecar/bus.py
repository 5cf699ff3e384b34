"""The event bus: everybody who wants to know what happened, in order, without being able to slow anybody down."""

from __future__ import annotations

import contextlib
from collections import deque
from dataclasses import fields, replace
from typing import TYPE_CHECKING

import anyio

from ollama_bridge.room_names import hidden

from .control_types import NumberedEvent

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from .events import Event

REMEMBERED = 1000
"""Events a client that was cut off can still catch up on; about one busy minute."""
BACKLOG = 4096
"""Events a slow reader may lag behind before it loses some; it sees the gap in the numbers."""


class EventBus:
    """Numbers events and hands them to subscribers in this event loop."""

    def __init__(self) -> None:
        self._number = 0
        self._recent: deque[NumberedEvent] = deque(maxlen=REMEMBERED)
        self._readers: set[_Reader] = set()
        self._listeners: list[Callable[[Event], None]] = []

    def listen(self, listener: Callable[[Event], None]) -> Callable[[], None]:
        """Call `listener` with every event from now on; returns what ends that."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener) if listener in self._listeners else None

    def emit(self, event: Event) -> None:
        """Tell everybody. Never blocks and never fails."""
        event = _without_secrets(event)
        self._number += 1
        numbered = NumberedEvent(self._number, event)
        self._recent.append(numbered)
        for reader in self._readers:
            reader.put(numbered)
        for listener in list(self._listeners):
            listener(event)

    @contextlib.asynccontextmanager
    async def subscribe(self, since: int | None = None) -> AsyncIterator[AsyncIterator[NumberedEvent]]:
        """All events after number `since` that are remembered, then new ones. None: only new ones.

        A number this run has not reached counts as 0.
        """
        reader = _Reader()
        if since is not None:
            if since > self._number:
                since = 0  # of an earlier run of the daemon: everything of this one is news
            for numbered in self._recent:
                if numbered.number > since:
                    reader.put(numbered)
        self._readers.add(reader)
        try:
            yield reader
        finally:
            self._readers.discard(reader)


def _without_secrets(event: Event) -> Event:
    """Here and not where events are made: any of them may carry a model's name, and that the registry's secret (T24)."""
    texts = {slot.name: value for slot in fields(event) if isinstance(value := getattr(event, slot.name), str)}
    changed = {slot: shown for slot, value in texts.items() if (shown := hidden(value)) != value}
    return replace(event, **changed) if changed else event


class _Reader:
    """One subscriber's queue; drops its oldest events when the reader is far behind."""

    def __init__(self) -> None:
        self._queue: deque[NumberedEvent] = deque(maxlen=BACKLOG)
        self._arrived = anyio.Event()

    def put(self, numbered: NumberedEvent) -> None:
        self._queue.append(numbered)
        self._arrived.set()

    def __aiter__(self) -> AsyncIterator[NumberedEvent]:
        return self

    async def __anext__(self) -> NumberedEvent:
        while not self._queue:
            self._arrived = anyio.Event()
            await self._arrived.wait()
        return self._queue.popleft()
