"""Where the bytes of an offer come from, and who has them afterwards.

`Blobs.obtain` gives the verified file: what Ollama has already, else what peers send, within quota and reserve. While it
comes and once it is there, it is provided to others: first from our partial file, at the end from our copy or Ollama's.
"""

from __future__ import annotations

import contextlib
import os
from functools import partial
from typing import TYPE_CHECKING

import anyio
from anyio import to_thread

from ollama_bridge.digests import Digest
from ollama_bridge.nofollow import open_regular

from .catalogue.rows import HeldRow
from .errors import BlobMismatch, ChunkMismatch, QuotaExceeded, TransferCancelled
from .transfer.chunks import CHUNK_BYTES, hash_chunks
from .transfer.fetch import Fetch
from .transfer.fetch_types import BlobSpec
from .transfer.files import check_space
from .transfer.partial import DiskPolicy, PartialFile
from .transfer.pool import SourcePool
from .transfer.stoppable import run_stoppable
from .transfer.verified import verify_file

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path
    from typing import BinaryIO

    from ollama_bridge.store import Store

    from .catalogue.entry import Blob, SignedEntry
    from .catalogue.journal_thread import JournalThread
    from .paths import DataPaths
    from .rooms.network import RoomNetwork
    from .transfer.bandwidth import TokenBucket
    from .transfer.chunks import ChunkTable
    from .transfer.fetch_types import Progress
    from .transfer.provide import Provider
    from .transfer.source import ChunkSource
    from .transfer.verified import VerifiedBlob


TAKEN_AT_ONCE = 64
"""Chunks of a local file in memory at once: 4 MiB."""


class Blobs:
    """See the module docstring."""

    def __init__(
        self,
        *,
        paths: DataPaths,
        store: Store | None,
        journal: JournalThread,
        network: RoomNetwork,
        provider: Provider,
        own_key: bytes,
        quota_bytes: int,
        reserve: Callable[[int], int],
        caps: Callable[[ChunkSource], list[TokenBucket]] = lambda source: [],
        banned: Callable[[bytes], None] = lambda key: None,
        rejected: Callable[[bytes], None] = lambda key: None,
    ) -> None:
        """
        Args:
            reserve: Bytes to leave free on a disk of that many bytes.
            caps: Download caps that apply to a source.
            banned: Told the key of each peer that is not asked again for a blob.
            rejected: Told the key of a peer for each wrong chunk it sent.
        """
        self._paths = paths
        self._store = store
        self._journal = journal
        self._network = network
        self._provider = provider
        self._own_key = own_key
        self._quota_bytes = quota_bytes
        self._reserve = reserve
        self._caps = caps
        self._banned = banned
        self._rejected = rejected

    async def obtain(
        self, entry: SignedEntry, claimed: Blob, fetching: Callable[[Fetch], None], progress: Callable[[Progress], None]
    ) -> tuple[VerifiedBlob, bool]:
        """A blob of an entry as a verified file: from the local store if Ollama has it already, else from peers.

        The second value: whether peers sent it.
        """
        digest = Digest.parse(claimed.digest)
        here = await run_stoppable(lambda stopped: self._from_store(digest, claimed.size, stopped))
        if here is not None:
            return here, False
        pool = SourcePool()
        fetch = Fetch(
            BlobSpec(digest, claimed.size, claimed.chunks),
            pool,
            self._paths.partial,
            self._paths.blobs,
            policy=await self.disk_policy(),
            progress=progress,
            caps=self._caps,
            seed=int.from_bytes(self._own_key[:4], "little"),
            struck=self._banned,
            rejected=self._rejected,
            ready=self._provide_parts,
        )
        fetching(fetch)
        try:
            with self._network.attached(entry, pool, digest):
                blob = await fetch.run()
        except BaseException:
            self._end_parts(digest)
            raise
        if fetch.table is not None:
            opener = partial(open_regular, blob.path.parent, (blob.path.name,))
            self._provider.register(digest, blob.size, fetch.table, opener)
        return blob, True

    async def check_room(self, entry: SignedEntry) -> None:
        """Refuse before the first byte what all blobs of an entry together would not leave room for.

        Each fetch looks again. Ollama's copy is counted too where its store can be seen: on the same disk as ours, both
        are there for a moment.

        Raises:
            QuotaExceeded, DiskFull: With the figures.
        """
        await to_thread.run_sync(self._check_room, [(Digest.parse(b.digest), b.size) for b in entry.entry.blobs])

    def _check_room(self, blobs: list[tuple[Digest, int]]) -> None:
        store = self._store
        new = [each for each in blobs if store is None or not store.has_blob(*each)]
        missing = sum(max(0, size - self._kept_bytes(digest)) for digest, size in new)
        self._admit(self.stored_bytes(), missing)
        copies = sum(size for _, size in new)
        if store is None or not store.root.exists():
            check_space(self._paths.blobs, missing, reserve_of=self._reserve)
        elif store.root.stat().st_dev == self._paths.blobs.stat().st_dev:
            check_space(self._paths.blobs, missing + copies, reserve_of=self._reserve)
        else:
            check_space(self._paths.blobs, missing, reserve_of=self._reserve)
            check_space(store.root, copies, reserve_of=self._reserve)

    def _kept_bytes(self, digest: Digest) -> int:
        """Bytes of a blob that an earlier fetch left here, whole or in part."""
        whole = self._paths.blobs / digest.file_name
        return whole.stat().st_size if whole.exists() else _tree_bytes(self._paths.partial / digest.hex)

    async def provide_small(self, blob: VerifiedBlob) -> None:
        """Provide a small blob that Ollama had already, so that a model is provided with all its parts."""
        if self._provider.blob(blob.digest) is None:
            with blob.path.open("rb") as file:
                _, table = await to_thread.run_sync(hash_chunks, file, blob.size)
            opener = partial(open_regular, blob.path.parent, (blob.path.name,))
            self._provider.register(blob.digest, blob.size, table, opener)

    async def take_in(self, entry: SignedEntry, table: ChunkTable, read: Callable[[int, int], bytes]) -> None:
        """Put a blob that lies in a file of the user's among the fetched ones, verified chunk by chunk and as a whole.

        Continues where an earlier try was interrupted, within the same quota and reserve as a fetch.

        Args:
            table: Its root is the entry's.
            read: Gives the bytes at an offset, of that length.
        Raises:
            ChunkMismatch, BlobMismatch, DiskFull, QuotaExceeded: As a fetch does.
        """
        claimed = entry.entry.blob
        digest = Digest.parse(claimed.digest)
        used = await to_thread.run_sync(self.stored_bytes)
        policy = DiskPolicy(admit=partial(self._admit, used), reserve=self._reserve)

        def work() -> VerifiedBlob | None:
            kept = self._paths.blobs / digest.file_name
            if kept.exists() or self._from_store(digest, claimed.size) is not None:
                return None  # `obtain` looks at it again
            with PartialFile(self._paths.partial, self._paths.blobs, digest, claimed.size, table, policy) as file:
                return _fill(file, read)

        blob = await to_thread.run_sync(work)
        if blob is not None:
            self._provider.register(
                digest, blob.size, table, partial(open_regular, blob.path.parent, (blob.path.name,))
            )

    def _from_store(
        self, digest: Digest, size: int, stopped: Callable[[], bool] = lambda: False
    ) -> VerifiedBlob | None:
        if self._store is None or not self._store.has_blob(digest, size):
            return None

        def go_on(done: int) -> None:
            if stopped():
                raise TransferCancelled("Reading the file was cancelled.")

        try:
            return verify_file(self._store.blob_path(digest), digest, size, go_on)
        except (BlobMismatch, OSError):
            return None

    @contextlib.asynccontextmanager
    async def scratch_file(self, data: bytes) -> AsyncIterator[Path]:
        """A file of ours with that content, while the block lasts."""
        path = self._paths.blobs / f".scratch-{Digest.of(data).hex}"
        await to_thread.run_sync(path.write_bytes, data)
        try:
            yield path
        finally:
            with anyio.CancelScope(shield=True):
                await to_thread.run_sync(partial(path.unlink, missing_ok=True))

    # --- what is held afterwards -------------------------------------------------------------------------------------

    async def hold(self, blob: VerifiedBlob) -> None:
        """Provide what was fetched to others, from our own copy."""
        await self._note_held(blob, str(blob.path), partial(open_regular, blob.path.parent, (blob.path.name,)))

    async def let_ollama_hold(self, blob: VerifiedBlob) -> None:
        """Ollama has the blob now: provide it from its store, and keep no second copy."""
        if self._store is None or not await to_thread.run_sync(self._store.has_blob, blob.digest, blob.size):
            await self.hold(blob)
            return
        await self._note_held(blob, "", partial(self._store.open_blob, blob.digest))
        if blob.path.parent == self._paths.blobs:
            await to_thread.run_sync(partial(blob.path.unlink, missing_ok=True))

    async def _note_held(self, blob: VerifiedBlob, path: str, opener: Callable[[], BinaryIO]) -> None:
        registered = self._provider.blob(blob.digest)
        if registered is None:
            return  # it was in the store before; whoever shared it has registered it
        table = registered.table
        self._provider.register(blob.digest, blob.size, table, opener)
        row = HeldRow(str(blob.digest), path, blob.size, table.hashes)
        await self._journal.run(lambda journal: journal.save_held(row))
        await self._network.set_held(blob.digest, True)

    def _provide_parts(self, fetch: Fetch) -> None:
        """Provide the chunks we have while the rest is still coming."""
        path, table, have = fetch.data_path, fetch.table, fetch.have
        if path is not None and table is not None and have is not None:
            opener = partial(open_regular, path.parent, (path.name,))
            self._provider.register(fetch.spec.digest, fetch.spec.size, table, opener, have)

    def _end_parts(self, digest: Digest) -> None:
        blob = self._provider.blob(digest)
        if blob is not None and blob.have is not None:
            self._provider.withdraw(digest)
            self._network.holdings_changed(digest)

    # --- quota -------------------------------------------------------------------------------------------------------

    async def disk_policy(self) -> DiskPolicy:
        """What one more fetch may take of the disk."""
        used = await to_thread.run_sync(self.stored_bytes)
        return DiskPolicy(admit=partial(self._admit, used), reserve=self._reserve)

    def stored_bytes(self) -> int:
        """Bytes of fetched data in the data folder; blocking."""
        return sum(_tree_bytes(folder) for folder in (self._paths.partial, self._paths.blobs))

    def _admit(self, used: int, needed: int) -> None:
        if used + needed > self._quota_bytes:
            raise QuotaExceeded(
                f"{needed} more bytes would make {used + needed} of fetched data; the quota is {self._quota_bytes}."
            )


def _fill(file: PartialFile, read: Callable[[int, int], bytes]) -> VerifiedBlob:
    """Write the missing chunks in order and put the file in place; blocking."""
    at_once = TAKEN_AT_ONCE * CHUNK_BYTES
    for first in range(0, file.have.total, TAKEN_AT_ONCE):
        chunks = range(first, min(first + TAKEN_AT_ONCE, file.have.total))
        if not all(file.have.has(index) for index in chunks):
            data = memoryview(read(first * CHUNK_BYTES, at_once))
            report = file.write_batch([(first, data)])
            if report.wrong or not all(file.have.has(index) for index in chunks):
                raise ChunkMismatch(
                    "The bytes of the adapter in this file are not those that were signed.", "Copy the file again."
                )
        file.advance(TAKEN_AT_ONCE)
    while file.behind:
        file.advance(TAKEN_AT_ONCE)
    return file.finish()


def _tree_bytes(folder: Path) -> int:
    return sum(_sizes(folder))


def _sizes(folder: Path) -> Iterator[int]:
    for root, _, files in os.walk(folder):
        for name in files:
            try:
                yield os.lstat(os.path.join(root, name)).st_blocks * 512
            except (OSError, AttributeError):
                continue
