"""Sending signs of life on idle connections, so that NAT mappings stay open and a dead peer is noticed.

One task per node instead of a timer per connection: a thousand idle connections cost one look at each per second.
"""

from typing import Protocol

import anyio
from anyio.abc import TaskGroup

INTERVAL_S = 5.0  # as hyperdht: mappings of UDP live 30 s and more, and a dead peer is noticed within 20 s
LOOKS_PER_INTERVAL = 5


class Connection(Protocol):
    """What is kept alive."""

    async def keep_alive(self, interval_s: float) -> None: ...

    def needs_keep_alive(self, interval_s: float) -> bool: ...


class KeepAlive:
    """The connections of one node."""

    def __init__(self, interval_s: float = INTERVAL_S) -> None:
        self._interval_s = interval_s
        self._connections: set[Connection] = set()
        self._added = anyio.Event()

    def add(self, connection: Connection) -> None:
        """Keep a connection alive until `discard`."""
        self._connections.add(connection)
        self._added.set()

    def discard(self, connection: Connection) -> None:
        """The connection is closed."""
        self._connections.discard(connection)

    def beat_all(self, tasks: TaskGroup) -> None:
        """Send on every connection now: after a change of the network, those that died are to be noticed at once."""
        for connection in self._connections:
            tasks.start_soon(connection.keep_alive, 0.0)

    async def run(self, tasks: TaskGroup) -> None:
        """For ever. A connection whose peer takes nothing must not hold up the others, so each beat is a task."""
        while True:
            if not self._connections:
                self._added = anyio.Event()
                await self._added.wait()
            await anyio.sleep(self._interval_s / LOOKS_PER_INTERVAL)
            for connection in self._connections:
                if connection.needs_keep_alive(self._interval_s):
                    tasks.start_soon(connection.keep_alive, self._interval_s)
