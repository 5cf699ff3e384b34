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

TABLES_AT_ONCE = 4
"""Sources asked for the table at the same time: several, because some may be silent; few, because it can be 64 MiB."""


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
        self._turns = anyio.Semaphore(TABLES_AT_ONCE)

    async def learn(self, source: ChunkSource) -> None:
        """Return when the table is known, from this source or another.

        Raises:
            SourceLost: The source is gone, or lied so often that it is not asked any more.
        """
        while not self._known():
            async with self._turns:
                if self._known() or await self._ask(source):
                    return
            if self.lies[source.key] >= self._limits.scheduler.strikes:
                raise SourceLost
            await anyio.sleep(self._limits.retry_s)  # so that others get a turn before a liar gets another

    def _known(self) -> bool:
        return self.table is not None

    async def _ask(self, source: ChunkSource) -> bool:
        data = b""
        with anyio.move_on_after(self._limits.answer_s):
            try:
                data = await source.chunk_table(self._spec.digest, self._spec.count)
            except SourceRefused:
                return False
        right_length = len(data) == HASH_BYTES * self._spec.count
        if right_length and hashlib.sha256(data).hexdigest() == self._spec.chunks_root:
            self.table = ChunkTable(bytes(data))
            return True
        if data:
            self.lies[source.key] += 1
        return False
