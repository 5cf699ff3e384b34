"""Reading a file header forwards through a small window, never trusting a length in it (T2).

GGUF headers of base models hold whole vocabularies. A window keeps memory at a megabyte whatever the header claims, and
every read first asks whether that many bytes are left in the file and in the header's allowance.
"""

from __future__ import annotations

import os
from typing import BinaryIO

from ollama_bridge.errors import AdapterFormatError

WINDOW_BYTES = 1 << 20


def size_of(file: BinaryIO) -> int:
    """Size of an open file in bytes; leaves the position at its end."""
    return file.seek(0, os.SEEK_END)


class HeaderWindow:
    """A forward-only cursor over the first bytes of a file.

    `data` and `position` are open to the one caller that has a loop hot enough to need them (string arrays).
    """

    def __init__(self, file: BinaryIO, *, max_bytes: int, what: str) -> None:
        self.file_size = size_of(file)
        file.seek(0)
        self._file = file
        self._what = what
        self._end = min(self.file_size, max_bytes)
        self._window_start = 0
        self.data = b""
        self.position = 0

    @property
    def offset(self) -> int:
        """Bytes from the start of the file to the cursor."""
        return self._window_start + self.position

    @property
    def remaining(self) -> int:
        """Bytes that may still be read."""
        return self._end - self.offset

    def require(self, count: int) -> None:
        """Refuse if fewer than `count` bytes are left, before anything is allocated for them."""
        if count > self.remaining:
            where = "the file ends first" if self._end == self.file_size else f"only {self._end} header bytes are read"
            raise AdapterFormatError(
                f"The {self._what} header is cut or lies about its size: {count} bytes are announced at byte "
                f"{self.offset}, but {where}. Get the file again from its source."
            )

    def fill(self, count: int) -> None:
        """Make the next `count` bytes available in `data` from `position` on."""
        if len(self.data) - self.position >= count:
            return
        self.require(count)
        rest = self.data[self.position :]
        self._window_start += self.position
        self.position = 0
        wanted = max(count, min(WINDOW_BYTES, self.remaining))
        self.data = rest + self._read_exactly(wanted - len(rest))

    def take(self, count: int) -> bytes:
        """The next `count` bytes."""
        self.fill(count)
        start = self.position
        self.position += count
        return self.data[start : self.position]

    def skip(self, count: int) -> None:
        """Move on without reading."""
        self.require(count)
        available = len(self.data) - self.position
        if count <= available:
            self.position += count
            return
        self._window_start += self.position + count
        self._file.seek(self._window_start)
        self.data, self.position = b"", 0

    def _read_exactly(self, count: int) -> bytes:
        pieces = []
        while count:
            piece = self._file.read(count)
            if not piece:  # the file shrank since its size was asked for
                raise AdapterFormatError(f"The {self._what} file became shorter while it was read. Try again.")
            pieces.append(piece)
            count -= len(piece)
        return b"".join(pieces)
