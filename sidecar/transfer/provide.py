"""Serve chunks of blobs we may share: read in runs, hashed again before they leave.

A blob is registered with its chunk table, made when it was shared. Every chunk is compared with that table each time it
is read, so a file that was swapped, linked elsewhere or damaged since is never sent: it is withdrawn instead (T8).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO

import anyio
from anyio import to_thread

from ollama_bridge.errors import StoreError
from sidecar.transfer.bandwidth import EachCapped, TokenBucket
from sidecar.transfer.chunks import chunk_count
from sidecar.transfer.provided import ChunksRefused, FileChanged, ProvidedBlob, read_verified
from sidecar.transfer.slots import UploadSlots
from sidecar.transfer.source_state import UNIT_CHUNKS
from sidecar.transfer.uploads import PeerUploads

if TYPE_CHECKING:
    from collections.abc import Callable

    from ollama_bridge.digests import Digest
    from sidecar.transfer.chunks import ChunkSet, ChunkTable

READ_CHUNKS = UNIT_CHUNKS
"""Most chunks per read: what one request of ours asks for."""
READ_THREADS = 2
"""Reading and hashing at the same time; more would only take the cores from encryption."""


class Provider:
    """All blobs we serve, to all peers.

    Args:
        slots: Upload slots.
        cap: Upload cap over all rooms.
        peer_rate: Upload cap for each peer, in bytes per second.
        withdrawn: Told the digest of a blob whose file turned out to be another, and why.
        clock: Seconds, monotonic.
    """

    def __init__(
        self,
        *,
        slots: UploadSlots | None = None,
        cap: TokenBucket | None = None,
        peer_rate: float | None = None,
        withdrawn: Callable[[Digest, str], None] = lambda digest, reason: None,
        clock: Callable[[], float] = anyio.current_time,
    ) -> None:
        self.slots = slots or UploadSlots(clock=clock)
        self.cap = cap or TokenBucket()
        self._peer_caps = EachCapped(peer_rate)
        self.clock = clock
        self.withdrawn = withdrawn
        self._blobs: dict[Digest, ProvidedBlob] = {}
        self._threads = anyio.CapacityLimiter(READ_THREADS)

    def register(
        self,
        digest: Digest,
        size: int,
        table: ChunkTable,
        opener: Callable[[], BinaryIO],
        have: ChunkSet | None = None,
    ) -> None:
        """Serve a blob from now on; the same digest again replaces what was registered.

        Raises:
            ValueError: The table is not one of `size` bytes.
        """
        if table.count != chunk_count(size):
            raise ValueError(f"a table of {table.count} chunks for {size} bytes")
        self._blobs[digest] = ProvidedBlob(digest, size, table, opener, have)

    def withdraw(self, digest: Digest) -> None:
        """Serve a blob no longer."""
        self._blobs.pop(digest, None)

    def blob(self, digest: Digest) -> ProvidedBlob | None:
        """What is registered for a digest."""
        return self._blobs.get(digest)

    def peer(
        self, key: bytes, *, may_have: Callable[[Digest], bool], cap: TokenBucket | None = None, exempt: bool = False
    ) -> PeerUploads:
        """The uploads to one peer in one room. Use as an async context manager.

        Args:
            key: Public key of the peer; slots are fair between keys.
            may_have: Whether this room shares a blob. What one room shares is not served to another.
            cap: Upload cap of the room.
            exempt: The caps do not apply (a peer on the LAN, if the user wishes so).
        """
        all_caps = (self.cap, cap, self._peer_caps.of(key))
        caps = () if exempt else tuple(each for each in all_caps if each is not None)
        return PeerUploads(self, key, may_have, caps)

    async def read_chunks(self, digest: Digest, first: int, count: int) -> memoryview:
        """Read a run of at most `READ_CHUNKS` chunks, each compared with the table.

        Raises:
            ChunksRefused: Not registered, not held, or the file is not what was shared (then it is withdrawn).
        """
        blob = self._blobs.get(digest)
        if blob is None or first < 0 or not 1 <= count <= READ_CHUNKS or first + count > blob.table.count:
            raise ChunksRefused("not held")
        if blob.have is not None and not blob.have.has_range(first, count):
            raise ChunksRefused("not held yet")
        try:
            return await to_thread.run_sync(read_verified, blob, first, count, limiter=self._threads)
        except (OSError, StoreError, FileChanged) as error:
            if self._blobs.get(digest) is blob:
                del self._blobs[digest]
                self.withdrawn(digest, f"its file cannot be served any more: {error}")
            raise ChunksRefused("withdrawn") from error
