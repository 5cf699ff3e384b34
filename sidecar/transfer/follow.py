"""Reading a blob while it is being fetched: every chunk checked by its hash, the last one kept back until somebody says so.

The fetch asks first for what its readers stand at, wherever in the blob that is. A reader does not see peers come and go,
nor the partial file become the finished one, nor one fetch follow another.
"""

from __future__ import annotations

import contextlib
import hashlib
from typing import TYPE_CHECKING

import anyio
from anyio import to_thread

from ollama_bridge.nofollow import open_regular
from sidecar.transfer.chunks import CHUNK_BYTES, chunk_count, chunk_length
from sidecar.transfer.source_state import UNIT_CHUNKS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sidecar.transfer.chunks import ChunkTable
    from sidecar.transfer.fetch import Fetch


class FollowEnded(Exception):
    """No more can be read; the text says why."""


class Followed:
    """One blob, its fetch, and its readers. All calls from the event loop's thread.

    Args:
        size: Bytes of the blob.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.count = chunk_count(size)
        self._fetch: Fetch | None = None
        self._released: tuple[Path, ChunkTable] | None = None
        self._end: str | None = None
        self.change = anyio.Event()
        """Set at the next change: more can be read, or nothing more ever."""
        self._readers: list[Reader] = []
        self._preferred: tuple[int, ...] = ()

    @property
    def readers(self) -> int:
        """How many read now."""
        return len(self._readers)

    @property
    def is_released(self) -> bool:
        """Whether the whole blob may be read."""
        return self._released is not None

    def follow(self, fetch: Fetch) -> None:
        """Chunks come with this fetch from now on."""
        self._fetch, self._preferred = fetch, ()
        fetch.grew = self._tell
        self._prefer()
        self._tell()

    def release(self, path: Path, table: ChunkTable) -> None:
        """The whole blob lies in a file of ours and may be read to its end."""
        self._released = path, table
        self._tell()

    def end(self, cause: str) -> None:
        """Nothing more is read: the blob was refused, or cannot be had."""
        self._end = cause
        self._tell()

    @contextlib.contextmanager
    def reader(self) -> Iterator[Reader]:
        """A place in the blob whose surroundings are fetched first while the block lasts."""
        reader = Reader(self)
        self._readers.append(reader)
        try:
            yield reader
        finally:
            self._readers.remove(reader)
            self._prefer()

    # --- for readers -------------------------------------------------------------------------------------------------

    def place(self, index: int, most: int) -> tuple[Path, ChunkTable, int] | None:
        """Where chunks from `index` on can be read, and how many of `most`; None while there are none."""
        if self._end is not None:
            raise FollowEnded(self._end)
        if self._released is not None:
            return *self._released, min(most, self.count - index)
        fetch = self._fetch
        if fetch is None or fetch.have is None or fetch.table is None or fetch.data_path is None:
            return None
        here = 0
        while here < most and index + here < self.count - 1 and fetch.have.has(index + here):
            here += 1
        return (fetch.data_path, fetch.table, here) if here else None

    def moved(self) -> None:
        """A reader stands elsewhere now."""
        self._prefer()

    def _tell(self) -> None:
        self.change.set()
        self.change = anyio.Event()

    def _prefer(self) -> None:
        at = [reader.position for reader in self._readers]
        ahead = [position + UNIT_CHUNKS for position in at]  # the next request should be under way by then
        wanted = tuple(dict.fromkeys(i // UNIT_CHUNKS * UNIT_CHUNKS for i in (*at, *ahead) if i < self.count))
        if self._fetch is not None and wanted != self._preferred:
            self._preferred = wanted
            self._fetch.prefer(wanted)


class Reader:
    """One who reads. Made by `Followed.reader`."""

    def __init__(self, followed: Followed) -> None:
        self._followed = followed
        self.position = 0
        """Chunk it waits for or reads."""

    async def read(self, index: int, most: int) -> bytes:
        """Chunks from `index` on, as many of `most` as are here, at least one; waits for that one.

        Raises:
            FollowEnded: It will not come.
        """
        followed = self._followed
        self.position = index
        followed.moved()
        while True:
            change, released = followed.change, followed.is_released
            if (place := followed.place(index, most)) is not None:
                path, table, here = place
                if data := await to_thread.run_sync(_read, path, table, followed.size, index, here):
                    return data
                if released:
                    raise FollowEnded(f"{path.name} is no longer what was verified.")
                # Damage on the disk, which the fetch is about to find and mend, or the file has just got its last name.
            await change.wait()


def _read(path: Path, table: ChunkTable, size: int, first: int, count: int) -> bytes:
    """As many whole chunks as are what their hashes say, from the first on."""
    try:
        with contextlib.closing(open_regular(path.parent, (path.name,))) as file:
            file.seek(first * CHUNK_BYTES)
            data = file.read(count * CHUNK_BYTES)
    except OSError:
        return b""
    good = 0
    view = memoryview(data)
    for index in range(first, first + count):
        chunk = view[good : good + chunk_length(index, size)]
        if hashlib.sha256(chunk).digest() != table.hash_of(index):
            break
        good += len(chunk)
    return data[:good]
