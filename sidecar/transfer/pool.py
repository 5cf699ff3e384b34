"""The sources of one fetch, as rooms find and lose them while it runs."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sidecar.transfer.source import ChunkSource


@dataclass(frozen=True, slots=True)
class SourceJoined:
    """A peer that holds the blob, or parts of it, can be asked."""

    source: ChunkSource


@dataclass(frozen=True, slots=True)
class SourceLeft:
    """A peer can no longer be asked."""

    key: bytes


@dataclass(frozen=True, slots=True)
class HoldingsChanged:
    """A peer said that it now holds other chunks."""

    key: bytes


PoolChange = SourceJoined | SourceLeft | HoldingsChanged


class SourcePool:
    """Told by rooms, read by one fetch. All calls from the event loop's thread.

    Args:
        sources: Known from the start.
    """

    def __init__(self, sources: Iterable[ChunkSource] = ()) -> None:
        self._changes: deque[PoolChange] = deque(SourceJoined(source) for source in sources)
        self._changed = anyio.Event()

    def add(self, source: ChunkSource) -> None:
        """A peer that holds (parts of) the blob is connected. The same key again replaces the connection."""
        self._tell(SourceJoined(source))

    def remove(self, key: bytes) -> None:
        """A peer is gone."""
        self._tell(SourceLeft(key))

    def refresh(self, key: bytes) -> None:
        """A peer's holdings changed: the fetch asks `holdings` again."""
        self._tell(HoldingsChanged(key))

    async def next_change(self) -> PoolChange:
        """Wait for the next change."""
        while not self._changes:
            self._changed = anyio.Event()
            await self._changed.wait()
        return self._changes.popleft()

    def _tell(self, change: PoolChange) -> None:
        self._changes.append(change)
        self._changed.set()
