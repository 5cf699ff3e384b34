"""Who is dialled next: the highest priority first, anybody within it.

Chance within a priority is what keeps a flooder that was found first from being served first (T17).
Source: shuffled-priority-queue 2.1.0, as hyperswarm uses it.
"""

from collections.abc import Iterator
from itertools import chain

from ..rpc.randomness import Randomness
from .peer_info import PeerInfo, Priority

EVICTION_TRIES = 8  # explicit peers are few; should the draw meet only them, the newcomer stays out


class DialQueue:
    """Peers that wait for a free slot. Sets their `queued`."""

    def __init__(self, randomness: Randomness) -> None:
        self._randomness = randomness
        self._lines: dict[Priority, list[PeerInfo]] = {priority: [] for priority in Priority}

    def __len__(self) -> int:
        return sum(map(len, self._lines.values()))

    def __iter__(self) -> Iterator[PeerInfo]:
        return chain.from_iterable(self._lines.values())

    def add(self, peer: PeerInfo) -> None:
        """Queue a peer under its priority, which must not change until it is taken out."""
        assert not peer.queued
        peer.queued = True
        self._lines[peer.priority].append(peer)

    def take(self) -> PeerInfo:
        """Remove and return the next one."""
        line = next(line for priority in reversed(Priority) if (line := self._lines[priority]))
        return self._remove_at(line, self._randomness.randrange(0, len(line)))

    def remove(self, peer: PeerInfo) -> None:
        """Take this one out, if it is queued."""
        if peer.queued:
            line = self._lines[peer.priority]
            self._remove_at(line, line.index(peer))

    def evict(self) -> PeerInfo | None:
        """Remove somebody of the lowest priority to make room, nobody who was asked for by key."""
        for line in self._lines.values():
            for _ in range(min(len(line), EVICTION_TRIES)):
                index = self._randomness.randrange(0, len(line))
                if not line[index].explicit:
                    return self._remove_at(line, index)
        return None

    def clear(self) -> None:
        """Remove everybody."""
        for line in self._lines.values():
            while line:
                self._remove_at(line, -1)

    def _remove_at(self, line: list[PeerInfo], index: int) -> PeerInfo:
        line[index], line[-1] = line[-1], line[index]
        peer = line.pop()
        peer.queued = False
        return peer
