"""The header of an adapter that is still on its way: read as soon as its first chunks are here."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, BinaryIO, cast

from anyio import to_thread

from ollama_bridge.adapters.gguf import ADAPTER_LIMITS, read_gguf
from sidecar.transfer.chunks import chunk_count

if TYPE_CHECKING:
    from ollama_bridge.adapters.gguf import GgufHeader
    from sidecar.transfer.follow import Followed

READ_CHUNKS = 16  # 1 MiB: most headers are whole then


class NotHere(Exception):
    """The header goes on behind what is here."""


async def read_header(followed: Followed) -> GgufHeader:
    """The header, by our own bounded reader (T2).

    Raises:
        AdapterFormatError: It is none.
        FollowEnded: It will not come.
    """
    here = b""
    with followed.reader() as reader:
        while True:
            here += await reader.read(chunk_count(len(here)), READ_CHUNKS)
            try:
                return await to_thread.run_sync(_parse, here, followed.size)
            except NotHere:
                continue


def _parse(here: bytes, size: int) -> GgufHeader:
    return read_gguf(cast("BinaryIO", _Beginning(here, size)), limits=ADAPTER_LIMITS)


class _Beginning(io.BytesIO):
    """A file of which only the beginning can be read, but whose size is known."""

    def __init__(self, here: bytes, size: int) -> None:
        super().__init__(here)
        self._here = len(here)
        self._size = size

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        return super().seek(self._size + offset if whence == io.SEEK_END else offset)

    def read(self, count: int | None = -1, /) -> bytes:
        """Less than asked for at the end of what is here; from there on, and before the end of the file, NotHere."""
        if self._here <= self.tell() < self._size:
            raise NotHere
        return super().read(count)
