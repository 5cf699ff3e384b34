"""What a swarm tells the program beside its connections."""

from collections import deque
from collections.abc import AsyncIterator

import anyio

from ..swarm import PeerBanned, Updated

MAX_UNREAD_EVENTS = 256


class SwarmEvents:
    """Made by `Hyperswarm.events`. Of a program that does not keep up, the oldest events are dropped."""

    def __init__(self) -> None:
        self._events: deque[PeerBanned | Updated] = deque(maxlen=MAX_UNREAD_EVENTS)
        self._news = anyio.Event()
        self._ended = False

    def put(self, event: PeerBanned | Updated) -> None:
        """For `Hyperswarm`."""
        if isinstance(event, Updated) and self._events and isinstance(self._events[-1], Updated):
            return
        self._events.append(event)
        self._news.set()

    def end(self) -> None:
        """For `Hyperswarm`."""
        self._ended = True
        self._news.set()

    async def __aiter__(self) -> AsyncIterator[PeerBanned | Updated]:
        while True:
            while self._events:
                yield self._events.popleft()
            if self._ended:
                return
            self._news = anyio.Event()
            await self._news.wait()
