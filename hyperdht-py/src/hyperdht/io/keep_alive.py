"""Sending signs of life on idle connections, so that NAT mappings stay open and a dead peer is noticed.

One task per node instead of a timer per connection: it sleeps until the first of them has been silent for the interval.
"""

import heapq
from itertools import count
from typing import Protocol

import anyio

# As hyperdht: mappings of UDP live 30 s and more, and a dead peer is noticed within 20 s. Programs rely on hearing from a peer
# that often: Hypercore gives a connection up after 7 s of silence, and acknowledgements are not heard above UDX.
INTERVAL_S = 5.0
AT_ONCE_S = 0.05  # those that are due within it go together, which spares wakes


class Connection(Protocol):
    """What is kept alive."""

    @property
    def last_sent(self) -> float:
        """When something was sent last, on the clock of the event loop."""
        ...

    def beat(self) -> None:
        """Send a sign of life, without waiting."""
        ...


class KeepAlive:
    """The connections of one node."""

    def __init__(self, interval_s: float = INTERVAL_S) -> None:
        self._interval_s = interval_s
        self._connections: set[Connection] = set()
        self._looks: list[tuple[float, int, Connection]] = []
        """A heap. One that was discarded stays in it until its time."""
        self._number = count()
        self._added = anyio.Event()

    def __len__(self) -> int:
        return len(self._connections)

    def add(self, connection: Connection) -> None:
        """Keep a connection alive until `discard`."""
        self._connections.add(connection)
        self._look_at(connection.last_sent + self._interval_s, connection)
        self._added.set()

    def discard(self, connection: Connection) -> None:
        """The connection is closed."""
        self._connections.discard(connection)

    def beat_all(self) -> None:
        """Send on every connection now: after a change of the network, those that died are to be noticed at once."""
        for connection in tuple(self._connections):
            connection.beat()

    async def run(self) -> None:
        """For ever."""
        while True:
            if not self._looks:
                self._added = anyio.Event()
                await self._added.wait()
            await anyio.sleep_until(self._looks[0][0])
            now = anyio.current_time()
            while self._looks and self._looks[0][0] <= now + AT_ONCE_S:
                _, _, connection = heapq.heappop(self._looks)
                if connection in self._connections:
                    self._look(connection, now)

    def _look(self, connection: Connection, now: float) -> None:
        due = connection.last_sent + self._interval_s
        if due <= now + AT_ONCE_S:
            connection.beat()
            due = now + self._interval_s
        self._look_at(due, connection)

    def _look_at(self, when: float, connection: Connection) -> None:
        heapq.heappush(self._looks, (when, next(self._number), connection))
