"""The connections of a swarm, for the program to take one by one."""

from collections.abc import Callable

import anyio
from anyio.lowlevel import checkpoint

from ..swarm import Connection
from .peer_stream import PeerStream


class SwarmConnections:
    """Iterate over it to take connections as they open: each goes to one taker, and the iteration ends with the swarm.

    What is over before it is taken is not handed over. While many wait (`Limits.max_waiting`), no more are made.
    """

    def __init__(self, taken: Callable[[Connection], None]) -> None:
        """Made by `Hyperswarm`."""
        self._taken = taken
        self._waiting: dict[Connection, PeerStream] = {}  # in the order they opened
        self._open: dict[Connection, PeerStream] = {}
        self._news = anyio.Event()
        self._ended = False

    def __len__(self) -> int:
        """How many are open, taken or not."""
        return len(self._open)

    @property
    def open(self) -> tuple[PeerStream, ...]:
        """All that are open, taken or not."""
        return tuple(self._open.values())

    def __aiter__(self) -> "SwarmConnections":
        return self

    async def __anext__(self) -> PeerStream:
        await checkpoint()
        while not self._waiting:
            if self._ended:
                raise StopAsyncIteration
            news = self._news
            await news.wait()
        connection = next(iter(self._waiting))
        stream = self._waiting.pop(connection)
        self._taken(connection)
        return stream

    def opened(self, connection: Connection, stream: PeerStream) -> None:
        """For `Hyperswarm`."""
        self._waiting[connection] = self._open[connection] = stream
        self._tell()

    def lost(self, connection: Connection) -> None:
        """For `Hyperswarm`."""
        self._waiting.pop(connection, None)
        self._open.pop(connection, None)

    def end(self) -> None:
        """For `Hyperswarm`."""
        self._ended = True
        self._waiting.clear()
        self._tell()

    def _tell(self) -> None:
        self._news.set()
        self._news = anyio.Event()
