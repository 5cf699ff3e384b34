"""Sending signs of life on idle connections, so that NAT mappings stay open and a dead peer is noticed.

One task per node instead of a timer per connection. Each connection is looked at once in an interval, and those of a node
take turns over it, so that a thousand of them are not a burst of a thousand packets.
"""

import random
from typing import Protocol

import anyio

# As hyperdht. Looking once in an interval, a connection is silent for two of them at most: mappings of UDP live 30 s and
# more, and a dead peer is noticed within 25 s.
INTERVAL_S = 5.0
TURNS = 5


class Connection(Protocol):
    """What is kept alive."""

    @property
    def traffic(self) -> int | None:
        """Grows with whatever goes either way; None before anything of ours did."""
        ...

    def beat(self) -> None:
        """Send a sign of life, without waiting."""
        ...


class KeepAlive:
    """The connections of one node.

    What a peer sends is acknowledged, so it shows the peer that we live and keeps our NAT open as well as something of
    ours would: of two idle sides, the one that looks first sends, and the other one sees that and is silent. The first
    sign of life comes from both, because swarms ask whether messages went both ways.
    """

    def __init__(self, interval_s: float = INTERVAL_S, *, randomness: random.Random) -> None:
        self._interval_s = interval_s
        self._randomness = randomness
        self._turns: list[dict[Connection, int | None]] = [{} for _ in range(TURNS)]
        """The traffic at the last look."""
        self._added = anyio.Event()

    def __len__(self) -> int:
        return sum(map(len, self._turns))

    def add(self, connection: Connection) -> None:
        """Keep a connection alive until `discard`."""
        min(self._turns, key=len)[connection] = None
        self._added.set()

    def discard(self, connection: Connection) -> None:
        """The connection is closed."""
        for turn in self._turns:
            turn.pop(connection, None)

    def beat_all(self) -> None:
        """Send on every connection now: after a change of the network, those that died are to be noticed at once."""
        for turn in self._turns:
            for connection in tuple(turn):
                connection.beat()

    async def run(self) -> None:
        """For ever."""
        while True:
            if not len(self):
                self._added = anyio.Event()
                await self._added.wait()
                # Both ends of a connection learn of it half a round trip apart, and would look at it as far apart for ever,
                # each a moment before it hears the other.
                await anyio.sleep(self._interval_s * self._randomness.random())
            for turn in self._turns:
                await anyio.sleep(self._interval_s / TURNS)
                for connection, before in tuple(turn.items()):
                    traffic = connection.traffic
                    if traffic is None or traffic == before:
                        connection.beat()
                        traffic = connection.traffic
                    turn[connection] = traffic
