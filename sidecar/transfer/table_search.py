"""Get the chunk table of a blob from the first source that tells the truth about it."""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import TYPE_CHECKING

import anyio

from sidecar.transfer.chunks import HASH_BYTES, ChunkTable
from sidecar.transfer.source import SourceLost, SourceRefused

if TYPE_CHECKING:
    from sidecar.transfer.fetch_types import BlobSpec, FetchLimits
    from sidecar.transfer.source import ChunkSource

ASKED_AT_ONCE = 4
ASKED_PER_S = 8.0
"""Sources asked for the table at once, and then one after the other while none told the truth: a room may hold 60 silent
peers and one honest, and a table can be 64 MiB, so not everybody is asked."""
MEMORY_BYTES = 128 * 1024 * 1024
"""Tables that may be on the way together; peers could send all but the last page of each. A table takes 64 MiB at most."""
LEAST_BYTES_PER_S = 32 * 1024
"""Slowest line on which a large table is waited for to its end."""


class TableSearch:
    """Shared by the tasks of all sources of one fetch.

    Args:
        spec: What the table is checked against.
        limits: Patience.
        table: When it is known already.
    """

    def __init__(self, spec: BlobSpec, limits: FetchLimits, table: ChunkTable | None) -> None:
        self.table = table
        self.lies: Counter[bytes] = Counter()
        """Wrong tables by key of the source."""
        self._spec, self._limits = spec, limits
        self._size = HASH_BYTES * spec.count
        self._tables = anyio.Semaphore(max(2, MEMORY_BYTES // self._size))
        self._next_turn: float | None = None
        self._asking: set[anyio.CancelScope] = set()

    async def learn(self, source: ChunkSource) -> None:
        """Return when the table is known, from this source or another.

        Raises:
            SourceLost: The source is gone, or lied so often that it is not asked any more.
        """
        while self.table is None:
            with anyio.CancelScope() as scope:
                self._asking.add(scope)
                async with self._tables:
                    await anyio.sleep(self._turn())
                    await self._ask(source)
            self._asking.discard(scope)
            if self.lies[source.key] >= self._limits.scheduler.strikes:
                raise SourceLost
            if self.table is None:
                await anyio.sleep(self._limits.retry_s)  # so that others get a turn before a liar gets another

    def _turn(self) -> float:
        """Seconds until it is the turn of the next source."""
        now = anyio.current_time()
        if self._next_turn is None:
            self._next_turn = now - (ASKED_AT_ONCE - 1) / ASKED_PER_S
        turn = max(self._next_turn, now - (ASKED_AT_ONCE - 1) / ASKED_PER_S)
        self._next_turn = turn + 1 / ASKED_PER_S
        return max(0.0, turn - now)

    async def _ask(self, source: ChunkSource) -> None:
        data = b""
        with anyio.move_on_after(self._limits.answer_s + self._size / LEAST_BYTES_PER_S):
            try:
                data = await source.chunk_table(self._spec.digest, self._spec.count)
            except SourceRefused:
                return
        right_length = len(data) == self._size
        if right_length and hashlib.sha256(data).hexdigest() == self._spec.chunks_root:
            self.table = ChunkTable(bytes(data))
            for scope in self._asking:
                scope.cancel()  # the others need not answer any more
        elif data:
            self.lies[source.key] += 1
