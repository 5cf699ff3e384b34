"""A registered blob, and reading chunks of it so that nothing but what was shared can come out (T8)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from sidecar.transfer.chunks import CHUNK_BYTES, ChunkSet, ChunkTable, chunk_length
from sidecar.transfer.files import read_at

if TYPE_CHECKING:
    from collections.abc import Callable

    from ollama_bridge.digests import Digest


class ChunksRefused(Exception):
    """These chunks cannot be served: not held, or the file is no longer what was shared."""


@dataclass(frozen=True, slots=True)
class ProvidedBlob:
    """A blob peers may have."""

    digest: Digest
    size: int
    table: ChunkTable
    opener: Callable[[], BinaryIO]
    """Opens the file for unbuffered reading; refuses links and everything that is not a regular file."""
    have: ChunkSet | None
    """Chunks of a blob that is still being fetched, growing; None for a whole one."""

    def holdings(self) -> ChunkSet:
        """What may be asked for now."""
        return ChunkSet.full(self.table.count) if self.have is None else self.have.copy()


class FileChanged(Exception):
    """A chunk is not what it was when the blob was shared."""


def read_verified(blob: ProvidedBlob, first: int, count: int) -> memoryview:
    """Read chunks in a row and compare each with the table. Blocking: call it in a worker thread.

    Raises:
        FileChanged: The file is not, or no longer, what was shared.
        OSError: It cannot be opened or read.
    """
    length = min(count * CHUNK_BYTES, blob.size - first * CHUNK_BYTES)
    with blob.opener() as file:
        data = memoryview(read_at(file.fileno(), length, first * CHUNK_BYTES))
    for index in range(first, first + count):
        start = (index - first) * CHUNK_BYTES
        chunk = data[start : start + chunk_length(index, blob.size)]
        if hashlib.sha256(chunk).digest() != blob.table.hash_of(index):
            raise FileChanged(f"chunk {index} changed since it was shared")
    return data
