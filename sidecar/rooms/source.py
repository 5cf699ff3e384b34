"""A peer in a room as a source of one blob: what `transfer.fetch` asks, put into words of the room session."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import anyio

from sidecar.transfer.chunks import HASH_BYTES, ChunkSet
from sidecar.transfer.source import ReceivedChunks, SourceLost, SourceRefused

from .messages import RefuseReason

if TYPE_CHECKING:
    from ollama_bridge.digests import Digest

    from .link import RoomLink

PAGE_S = 15.0
"""For one page of a chunk table, 128 KiB."""
GONE = {RefuseReason.NOT_HERE, RefuseReason.DAMAGED, RefuseReason.NOT_ALLOWED}


class LinkSource:
    """Implements `ChunkSource`. Made by `RoomLink.source`; told by it what arrives."""

    def __init__(self, link: RoomLink, digest: Digest) -> None:
        self._link = link
        self._raw = bytes.fromhex(digest.hex)
        self._received: deque[ReceivedChunks | SourceRefused] = deque()
        self._pages: dict[int, bytes] = {}
        self._holdings: ChunkSet | None = None
        self._table_refused: RefuseReason | None = None
        self._lost = False
        self._own_ids = 0
        """Names of requests that were never sent; below zero, where the session has none."""
        self._changed = anyio.Event()

    @property
    def key(self) -> bytes:
        """Public key of the peer."""
        return self._link.peer_key

    @property
    def room_id(self) -> bytes:
        """The room it is asked in, whose caps apply."""
        return self._link.room_id

    @property
    def is_lan(self) -> bool:
        """Whether it is reached over the local network."""
        return self._link.is_lan

    async def holdings(self, digest: Digest, count: int) -> ChunkSet:
        """See `ChunkSource`."""
        self._check()
        self._holdings = None
        self._link.session.query_blob(self._raw, count)
        self._link.flush()
        while self._holdings is None:
            await self._wait()
        return self._holdings

    async def chunk_table(self, digest: Digest, count: int) -> bytes:
        """See `ChunkSource`."""
        self._check()
        self._pages.clear()
        self._table_refused = None
        self._link.session.request_table(self._raw, count)
        self._link.flush()
        while sum(map(len, self._pages.values())) < count * HASH_BYTES:
            if self._table_refused is not None:
                raise SourceRefused(0, gone=self._table_refused in GONE)
            await self._wait_for_page(len(self._pages))
        return b"".join(self._pages[first] for first in sorted(self._pages))

    async def _wait_for_page(self, had: int) -> None:
        """A table of a large model takes minutes on a slow line: patience is for each page."""
        with anyio.move_on_after(PAGE_S):
            while len(self._pages) == had and self._table_refused is None:
                await self._wait()
            return
        raise SourceRefused(0, gone=False)

    def request(self, digest: Digest, first: int, count: int) -> int:
        """See `ChunkSource`."""
        self._check()
        request_id = self._link.request_chunks(self, self._raw, first, count)
        if request_id is None:  # other fetches owe this peer's answers: as if it had said that it is busy
            request_id = self._own_ids = self._own_ids - 1
            self._received.append(SourceRefused(request_id, gone=False))
            self._notify()
        return request_id

    def cancel(self, request_id: int) -> None:
        """See `ChunkSource`."""
        if not self._lost:
            self._link.session.cancel(request_id)
            self._link.flush()

    async def next_chunks(self) -> list[ReceivedChunks]:
        """See `ChunkSource`."""
        while not self._received:
            self._check()
            await self._wait()
        if isinstance(self._received[0], SourceRefused):
            refused = self._received.popleft()
            assert isinstance(refused, SourceRefused)
            raise refused
        chunks = []
        while self._received and isinstance(self._received[0], ReceivedChunks):
            chunk = self._received.popleft()
            assert isinstance(chunk, ReceivedChunks)
            chunks.append(chunk)
        return chunks

    # --- told by the link ------------------------------------------------------------------------------------------

    def chunks_arrived(self, request_id: int, first: int, data: memoryview) -> None:
        """The next chunks of a request of ours."""
        self._received.append(ReceivedChunks(request_id, first, data))
        self._notify()

    def request_refused(self, request_id: int, reason: RefuseReason) -> None:
        """The peer ended a request of ours."""
        self._received.append(SourceRefused(request_id, gone=reason in GONE))
        self._notify()

    def holdings_arrived(self, chunks: ChunkSet) -> None:
        """What the peer holds."""
        self._holdings = chunks.copy()
        self._notify()

    def table_arrived(self, first: int, hashes: bytes) -> None:
        """A page of the chunk table."""
        self._pages[first] = hashes
        self._notify()

    def table_refused(self, reason: RefuseReason) -> None:
        """The peer will not give the table."""
        self._table_refused = reason
        self._notify()

    def lose(self) -> None:
        """The peer left the room, or its connection ended."""
        self._lost = True
        self._notify()

    def _check(self) -> None:
        if self._lost:
            raise SourceLost

    async def _wait(self) -> None:
        if self._changed.is_set():
            self._changed = anyio.Event()
        await self._changed.wait()
        self._check()

    def _notify(self) -> None:
        # All who wait look at what came; several tasks of the fetch may wait for different answers at once.
        self._changed.set()
