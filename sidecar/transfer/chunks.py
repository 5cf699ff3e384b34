"""A blob cut into chunks: their hashes, and sets of them. No I/O but reading the file it is handed."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from ollama_bridge.digests import Digest
from sidecar.errors import BlobMismatch, TransferCancelled

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CHUNK_BYTES = 65_536
HASH_BYTES = 32
MAX_TABLE_BYTES = 64 * 1024 * 1024
"""A table is held in memory whole; a larger claimed size would let one signed entry take all of it (T6)."""
MAX_CHUNKS = MAX_TABLE_BYTES // HASH_BYTES
MAX_BLOB_BYTES = MAX_CHUNKS * CHUNK_BYTES  # 128 GiB

_READ_BYTES = 1024 * 1024


def chunk_count(size: int) -> int:
    """How many chunks a blob of `size` bytes has."""
    return -(-size // CHUNK_BYTES)


def chunk_length(index: int, size: int) -> int:
    """Bytes in chunk `index` of a blob of `size` bytes; only the last may be shorter than `CHUNK_BYTES`."""
    return min(CHUNK_BYTES, size - index * CHUNK_BYTES)


@dataclass(frozen=True, slots=True)
class ChunkTable:
    """The SHA-256 of each chunk of one blob, in order, concatenated.

    Raises:
        ValueError: The length is not a multiple of 32 or above `MAX_TABLE_BYTES`.
    """

    hashes: bytes

    def __post_init__(self) -> None:
        if len(self.hashes) % HASH_BYTES or len(self.hashes) > MAX_TABLE_BYTES:
            raise ValueError(f"a chunk table cannot be {len(self.hashes)} bytes long")

    @property
    def count(self) -> int:
        """Number of chunks."""
        return len(self.hashes) // HASH_BYTES

    @property
    def root_hex(self) -> str:
        """SHA-256 of the concatenated hashes: the `chunks` field of a signed entry."""
        return hashlib.sha256(self.hashes).hexdigest()

    def hash_of(self, index: int) -> bytes:
        """The SHA-256 of chunk `index`."""
        return self.hashes[index * HASH_BYTES : (index + 1) * HASH_BYTES]


def hash_chunks(
    file: BinaryIO,
    size: int,
    progress: Callable[[int], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> tuple[Digest, ChunkTable]:
    """Read a blob once and return its digest and its chunk table. Blocking: call it in a worker thread.

    Args:
        file: Positioned at its start.
        size: Bytes expected, at most `MAX_BLOB_BYTES`.
        progress: Told the bytes read so far, once per MiB.
        cancelled: Asked once per MiB.
    Raises:
        BlobMismatch: The file is not exactly `size` bytes long, so it changed since it was measured.
        TransferCancelled: `cancelled` said so.
    """
    if size > MAX_BLOB_BYTES:
        raise BlobMismatch(f"The file has {size} bytes, more than the {MAX_BLOB_BYTES} that can be shared.", "")
    whole, hashes, done = hashlib.sha256(), bytearray(), 0
    buffer = memoryview(bytearray(_READ_BYTES))
    while block := _read_block(file, buffer):
        for start in range(0, len(block), CHUNK_BYTES):
            chunk = block[start : start + CHUNK_BYTES]
            hashes += hashlib.sha256(chunk).digest()
            whole.update(chunk)
        done += len(block)
        if done > size:
            break
        if progress is not None:
            progress(done)
        if cancelled is not None and cancelled():
            raise TransferCancelled("Reading the file was cancelled.")
    if done != size:
        raise BlobMismatch(
            f"The file changed while it was read: {size} bytes expected, {'more' if done > size else done} found.",
            "Wait until it is written completely, then share it again.",
        )
    return Digest(whole.hexdigest()), ChunkTable(bytes(hashes))


def _read_block(file: BinaryIO, buffer: memoryview) -> memoryview:
    """Fill `buffer` as far as the file goes: a short read in the middle must not shift the chunk borders."""
    filled = 0
    while filled < len(buffer):
        got = file.readinto(buffer[filled:])  # type: ignore[attr-defined]  # BinaryIO lacks readinto in typeshed
        if not got:
            break
        filled += got
    return buffer[:filled]


class ChunkSet:
    """Which chunks of a blob somebody holds: one bit per chunk.

    As bytes, chunk `i` is bit `i % 8` (value `1 << i % 8`) of byte `i // 8`, and bits after the last chunk are zero.
    """

    __slots__ = ("_bits", "_count", "total")

    def __init__(self, total: int) -> None:
        self.total = total
        self._bits = bytearray((total + 7) // 8)
        self._count = 0

    @classmethod
    def full(cls, total: int) -> ChunkSet:
        """The set of all chunks."""
        chunks = cls(total)
        chunks.add_range(0, total)
        return chunks

    @classmethod
    def from_bytes(cls, data: bytes, total: int) -> ChunkSet:
        """Decode untrusted bytes.

        Raises:
            ValueError: Not exactly the length `total` needs, or a bit set after the last chunk.
        """
        if len(data) != (total + 7) // 8:
            raise ValueError(f"a set of {total} chunks has {(total + 7) // 8} bytes, not {len(data)}")
        if total % 8 and data[-1] >> total % 8:
            raise ValueError("a bit is set after the last chunk")
        chunks = cls(total)
        chunks._bits[:] = data
        chunks._count = int.from_bytes(data, "little").bit_count()
        return chunks

    def to_bytes(self) -> bytes:
        """The bitmap described above."""
        return bytes(self._bits)

    def copy(self) -> ChunkSet:
        """An independent set of the same chunks."""
        return ChunkSet.from_bytes(self.to_bytes(), self.total)

    @property
    def count(self) -> int:
        """Number of chunks in the set."""
        return self._count

    @property
    def complete(self) -> bool:
        """Whether every chunk is in the set."""
        return self._count == self.total

    def has(self, index: int) -> bool:
        """Whether chunk `index` is in the set; false outside the blob."""
        return 0 <= index < self.total and bool(self._bits[index >> 3] >> (index & 7) & 1)

    def has_range(self, first: int, count: int) -> bool:
        """Whether all of these chunks are in the set."""
        return all(self.has(index) for index in range(first, first + count))

    def add(self, index: int) -> None:
        """Put chunk `index` in."""
        if not 0 <= index < self.total:
            raise IndexError(f"chunk {index} of {self.total}")
        bit = 1 << (index & 7)
        if not self._bits[index >> 3] & bit:
            self._bits[index >> 3] |= bit
            self._count += 1

    def discard(self, index: int) -> None:
        """Take chunk `index` out, if it is in."""
        if self.has(index):
            self._bits[index >> 3] &= ~(1 << (index & 7))
            self._count -= 1

    def add_range(self, first: int, count: int) -> None:
        """Put a run of chunks in."""
        end = first + count
        while first < end and first & 7:
            self.add(first)
            first += 1
        if 0 <= first <= end - 8 and end <= self.total:
            span = slice(first >> 3, end >> 3)
            before = int.from_bytes(self._bits[span], "little").bit_count()
            self._bits[span] = b"\xff" * (span.stop - span.start)
            self._count += (span.stop - span.start) * 8 - before
            first = span.stop * 8
        for index in range(first, end):
            self.add(index)

    def window(self, start: int, width: int) -> int:
        """Chunks `start` to `start + width` as an int, bit `k` being chunk `start + k`. Both multiples of 8."""
        return int.from_bytes(self._bits[start >> 3 : (start + width) >> 3], "little")

    def missing_runs(self) -> Iterator[tuple[int, int]]:
        """Runs `(first, count)` of chunks that are not in the set, in order."""
        first = 0
        while first < self.total:
            if self._bits[first >> 3] == 0xFF and not first & 7:
                first += 8
            elif self.has(first):
                first += 1
            else:
                end = first + 1
                while end < self.total and not self.has(end):
                    end += 1
                yield first, end - first
                first = end

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ChunkSet) and self.total == other.total and self._bits == other._bits

    __hash__ = None  # type: ignore[assignment]  # mutable

    def __repr__(self) -> str:
        return f"ChunkSet({self._count} of {self.total})"
