"""The header of a file that is still on its way: read as soon as its first chunks are here."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, BinaryIO, TypeVar, cast

from anyio import to_thread

from sidecar.transfer.chunks import chunk_count

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidecar.transfer.follow import Followed

READ_CHUNKS = 16  # 1 MiB: most headers of adapters are whole then

T = TypeVar("T")


class NotHere(Exception):
    """The header goes on behind what is here."""


async def read_header(followed: Followed, parse: Callable[[BinaryIO], T]) -> T:
    """What the beginning of a file says.

    Args:
        parse: Our own bounded reader (T2), which looks at nothing behind the header. Tried with twice as much each time:
            a model's header, with its vocabulary, has tens of megabytes.
    Raises:
        FollowEnded: It will not come.
        Exception: What `parse` raises.
    """
    here, wanted = b"", READ_CHUNKS
    with followed.reader() as reader:
        while True:
            while (done := chunk_count(len(here))) < min(wanted, followed.count):
                here += await reader.read(done, wanted - done)
            wanted *= 2
            try:
                return await to_thread.run_sync(parse, cast("BinaryIO", _Beginning(here, followed.size)))
            except NotHere:
                continue


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
