"""The bitmap file of a partial blob: which chunks are in the data file, kept so that kill -9 costs nothing.

Layout: 8 bytes magic, size of the blob (8 bytes, little-endian), root of its chunk table (32 bytes), then the bitmap of
`ChunkSet.to_bytes`. A bit is written only after the write of its chunk was issued. When the process dies, the kernel
still has both; when the power goes, either may be missing, so bits of an earlier run are never believed without hashing.
"""

from __future__ import annotations

import os

from sidecar.transfer.chunks import ChunkSet, chunk_count
from sidecar.transfer.files import read_at, write_at

_MAGIC = b"ollapar1"
_HEADER_BYTES = 48


class ChunkJournal:
    """Bitmap of one partial file.

    Args:
        fd: Open for reading and writing; stays the caller's.
        size: Bytes of the blob.
        root_hex: Root of the chunk table its chunks are checked against.
    """

    def __init__(self, fd: int, size: int, root_hex: str) -> None:
        self._fd = fd
        self._header = _MAGIC + size.to_bytes(8, "little") + bytes.fromhex(root_hex)
        self._total = chunk_count(size)

    def load(self) -> ChunkSet | None:
        """The chunks noted by earlier runs; None when the file is damaged or was about other chunks."""
        expected = _HEADER_BYTES + (self._total + 7) // 8
        data = read_at(self._fd, expected + 1, 0)
        if data[:_HEADER_BYTES] != self._header:
            return None
        try:
            return ChunkSet.from_bytes(data[_HEADER_BYTES:], self._total)
        except ValueError:
            return None

    def reset(self, have: ChunkSet) -> None:
        """Write the file anew."""
        os.ftruncate(self._fd, 0)
        write_at(self._fd, [self._header, have.to_bytes()], 0)

    def note(self, have: ChunkSet, first: int, count: int) -> None:
        """Write the bits of a run of chunks as they are in `have`."""
        start, end = first // 8, (first + count + 7) // 8
        bits = have.window(start * 8, (end - start) * 8).to_bytes(end - start, "little")
        write_at(self._fd, [bits], _HEADER_BYTES + start)
