"""A peer in memory that holds one blob, with switches for everything a peer can do wrong."""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import anyio

from sidecar.transfer.chunks import CHUNK_BYTES, ChunkSet, ChunkTable, hash_chunks
from sidecar.transfer.fetch_types import BlobSpec
from sidecar.transfer.source import ReceivedChunks, SourceLost, SourceRefused
from sidecar.transfer.source_state import UNIT_CHUNKS

if TYPE_CHECKING:
    from pathlib import Path

    from ollama_bridge.digests import Digest


@dataclass(frozen=True)
class Blob:
    data: bytes
    digest: Digest
    table: ChunkTable

    @property
    def spec(self) -> BlobSpec:
        return BlobSpec(self.digest, len(self.data), self.table.root_hex)

    def chunk(self, index: int) -> bytes:
        return self.data[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES]

    def write(self, path: Path) -> Path:
        path.write_bytes(self.data)
        return path


def make_blob(size: int, seed: int = 1) -> Blob:
    import io

    data = random.Random(seed).randbytes(size)
    digest, table = hash_chunks(io.BytesIO(data), size)
    return Blob(data, digest, table)


@dataclass
class Faults:
    wrong_chunks: bool = False
    short_chunks: bool = False
    other_indexes: bool = False
    unknown_requests: bool = False
    table: bytes | None = None
    holdings_total: int | None = None
    silent_after: int | None = None
    """Chunks after which nothing comes any more."""
    lost_after: int | None = None
    """Chunks after which the connection ends."""
    busy: bool = False
    gone: bool = False
    silent_table: bool = False


@dataclass
class MemorySource:
    key: bytes
    blob: Blob
    faults: Faults = field(default_factory=Faults)
    have: ChunkSet | None = None
    asked: list[int] = field(default_factory=list)
    cancelled: list[int] = field(default_factory=list)
    sent: int = 0
    delay: float = 0.0
    """Seconds per answer."""
    room_id: bytes = b"room"
    is_lan: bool = False

    def __post_init__(self) -> None:
        self._requests: deque[tuple[int, int, int]] = deque()
        self._asked = anyio.Event()
        self._ids = iter(range(1, 1 << 30))

    async def holdings(self, digest: Digest, count: int) -> ChunkSet:
        await anyio.lowlevel.checkpoint()
        if self.faults.holdings_total is not None:
            return ChunkSet.full(self.faults.holdings_total)
        return ChunkSet.full(count) if self.have is None else self.have.copy()

    async def chunk_table(self, digest: Digest, count: int) -> bytes:
        await anyio.lowlevel.checkpoint()
        if self.faults.silent_table:
            await anyio.sleep_forever()
        return self.blob.table.hashes if self.faults.table is None else self.faults.table

    def request(self, digest: Digest, first: int, count: int) -> int:
        assert 1 <= count <= UNIT_CHUNKS
        request_id = next(self._ids)
        self.asked += range(first, first + count)
        self._requests.append((request_id, first, count))
        self._asked.set()
        return request_id

    def cancel(self, request_id: int) -> None:
        self.cancelled.append(request_id)
        self._requests = deque(request for request in self._requests if request[0] != request_id)

    async def next_chunks(self) -> list[ReceivedChunks]:
        await anyio.sleep(self.delay)
        while not self._requests:
            self._asked = anyio.Event()
            await self._asked.wait()
        faults = self.faults
        request_id, first, count = self._requests.popleft()
        if faults.busy or faults.gone:
            raise SourceRefused(request_id, gone=faults.gone)
        if faults.silent_after is not None and self.sent + count > faults.silent_after:
            await anyio.sleep_forever()
        if faults.lost_after is not None and self.sent + count > faults.lost_after:
            raise SourceLost
        self.sent += count
        chunks = []
        for index in range(first, first + count):
            data = self.blob.chunk(index)
            if faults.wrong_chunks:
                data = bytes([data[0] ^ 1]) + data[1:]
            if faults.short_chunks:
                data = data[:-1]
            wrong_index = index + 1 if faults.other_indexes else index
            chunks.append(
                ReceivedChunks(request_id + 10_000 if faults.unknown_requests else request_id, wrong_index, data)
            )
        return chunks
