"""A blob that is being fetched: data file, bitmap, lock; resumed after any end; renamed into place when whole.

Everything lives in `FOLDER/<hex of the digest>/`, named by nothing a peer wrote (T7). All methods block: call them in
a worker thread, as few and as large as possible.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sidecar.errors import BlobMismatch, TransferError
from sidecar.transfer import files
from sidecar.transfer.chunks import CHUNK_BYTES, ChunkSet, ChunkTable, chunk_count, chunk_length
from sidecar.transfer.journal import ChunkJournal
from sidecar.transfer.verified import VerifiedBlob, WholeHash

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from ollama_bridge.digests import Digest
    from sidecar.transfer.files import Buffer

WRITE_CHUNKS = 16
"""Chunks hashed before they are written in one call: 1 MiB is still in the cache then."""
WRITE_BACK_BYTES = 16 * 1024 * 1024
"""How much is written before the system is asked to start bringing it to the disk."""
KEEP_CACHED_BYTES = 256 * 1024 * 1024
"""A larger blob does not stay in the page cache while it is written: there it would push out the models that Ollama maps,
and fresh pages cost more than all the rest of a write (measured: 1.4 against 0.36 CPU-s/GB). An adapter stays: it is
installed right away."""
WRITTEN_BY_THEN_BYTES = 64 * 1024 * 1024
"""How far behind the end write-back has surely come; pages that are still unwritten are not dropped anyway."""
UNHASHED_CHUNKS = 128
"""Written chunks kept for the whole-file hash (8 MiB). What does not fit is read back from the page cache."""
SPACE_CHECK_BYTES = 64 * 1024 * 1024
"""How often the reserve is checked while writing, because others write to the disk too."""


@dataclass(frozen=True, slots=True)
class DiskPolicy:
    """What a fetch may take of the disk."""

    measure: Callable[[Path], tuple[int, int]] = files.space
    """Total and free bytes of a folder's disk."""
    reserve: Callable[[int], int] = files.default_reserve
    """Bytes to leave free on a disk of that many bytes."""
    admit: Callable[[int], None] = lambda needed: None
    """Told the bytes still needed before any is written; raises `QuotaExceeded` to refuse."""


@dataclass(slots=True)
class WriteReport:
    """What became of a batch."""

    written: list[int] = field(default_factory=list)
    wrong: list[tuple[int, int]] = field(default_factory=list)
    """Position in the batch, and chunk index, of chunks whose SHA-256 or length was not the table's."""


class PartialFile:
    """The resumable file of one fetch. Use as a context manager.

    Two threads may use it at a time: one in `write_batch`, one in `advance`, which moves the whole-file hash on over
    what the other wrote. Apart they keep two cores busy; together they would be the slowest part of a fetch.

    Args:
        folder: Where partial files are kept, on the disk of `blobs`.
        blobs: Where finished blobs go, as `sha256-<hex>`.
        digest: Of the blob.
        size: Of the blob.
        table: Hashes of its chunks; its root must have been checked.
        policy: Disk and quota.
    Raises:
        TransferError: Another process or task is fetching this blob into this folder.
        DiskFull: It cannot fit beside the reserve.
        QuotaExceeded: From `policy.admit`.
    """

    def __init__(
        self, folder: Path, blobs: Path, digest: Digest, size: int, table: ChunkTable, policy: DiskPolicy | None = None
    ) -> None:
        self.digest, self.size, self.table = digest, size, table
        self._blobs, self._folder, self._home = blobs, folder, folder / digest.hex
        self._policy = policy or DiskPolicy()
        self._writing, self._hashing = threading.Lock(), threading.Lock()  # taken in this order
        self._sets = threading.Lock()  # guards the chunk sets, never held while something slow happens
        self._whole = WholeHash()
        self._unhashed: deque[tuple[int, Buffer]] = deque()
        self._since_write_back = self._since_space_check = 0
        blobs.mkdir(parents=True, exist_ok=True)
        self._home.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._journal_fd = files.open_private(self._home / "chunks")
        self._data_fd = -1
        try:
            if not files.lock(self._journal_fd):
                raise TransferError(f"{digest} is already being fetched.", "Wait for that transfer, or cancel it.")
            self._data_fd = files.open_private(self.data_path)
            self._journal = ChunkJournal(self._journal_fd, size, table.root_hex)
            self.have = self._load()
            self._policy.admit(self.missing_bytes)
            files.check_space(self._home, self.missing_bytes, self._policy.measure, self._policy.reserve)
        except BaseException:
            self.close()
            raise
        self._checked = ChunkSet(self.have.total)  # hashed in this run; the rest of `have` is only believed so far

    def __enter__(self) -> PartialFile:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @property
    def missing_bytes(self) -> int:
        """Bytes that still have to come, the last chunk counted whole."""
        return min((self.have.total - self.have.count) * CHUNK_BYTES, self.size)

    @property
    def hashed(self) -> int:
        """Chunks from the start that the running whole-file hash has seen; it stops at gaps."""
        return -(-self._whole.done // CHUNK_BYTES)

    @property
    def behind(self) -> bool:
        """Whether `advance` has something to do."""
        return self.have.has(self.hashed)

    def write_batch(self, batch: Sequence[tuple[int, Buffer]]) -> WriteReport:
        """Verify chunks, write the right ones, and note them.

        Args:
            batch: (first, data of one or more chunks) from peers, data untrusted. Fastest when in order.
        Raises:
            DiskFull: Chunks written before it stay noted.
        """
        report = WriteReport()
        with self._writing:
            run: list[Buffer] = []
            first = 0
            for position, index, data in _single_chunks(batch):
                if not self._is_chunk(index, data):
                    report.wrong.append((position, index))
                    continue
                if run and (index != first + len(run) or len(run) == WRITE_CHUNKS):
                    self._write_run(first, run, report)
                    run = []
                if not run:
                    first = index
                run.append(data)
            if run:
                self._write_run(first, run, report)
        return report

    def advance(self, max_chunks: int) -> list[int]:
        """Move the whole-file hash on by up to that many chunks, checking what earlier runs wrote on the way.

        Returns:
            Chunks noted by an earlier run that are not on the disk as noted. They are no longer in `have`.
        """
        with self._hashing:
            for _ in range(max_chunks):
                index = self.hashed
                if self._journal_fd < 0 or not self.have.has(index):
                    break
                data = self._kept(index)
                if data is None:
                    data = files.read_at(self._data_fd, chunk_length(index, self.size), index * CHUNK_BYTES)
                    if not self._checked.has(index) and not self._is_chunk(index, data):
                        self._forget(index)
                        return [index]
                self._whole.update(data)
        return []

    def distrust(self) -> None:
        """Believe nothing on the disk any more, after the whole file had the wrong digest; `advance` checks it all."""
        with self._writing, self._hashing:
            self._whole = WholeHash()
            self._unhashed.clear()
            self._checked = ChunkSet(self.have.total)

    def finish(self) -> VerifiedBlob:
        """Put the whole file in its place, on the disk for good.

        Raises:
            BlobMismatch: The whole file has another digest though each chunk is the table's: `distrust`, advance, and if
                that finds no damage, table and digest of the entry contradict each other.
        """
        if not self._whole.matches(self.digest, self.size):
            raise BlobMismatch(f"The fetched file is not {self.digest}.")
        os.ftruncate(self._data_fd, self.size)  # an earlier run with another claimed size may have left more
        os.fsync(self._data_fd)
        target = self._blobs / self.digest.file_name
        os.close(self._data_fd)
        self._data_fd = -1
        self.data_path.replace(target)
        files.sync_directory(self._blobs)
        self.discard()
        return self._whole.seal(target, self.digest, self.size)

    def discard(self) -> None:
        """Close and delete what is left."""
        self.close()
        shutil.rmtree(self._home, ignore_errors=True)

    def close(self) -> None:
        """Close the files and free the lock. What was fetched stays for the next run."""
        with self._writing, self._hashing:  # a thread that is still hashing must not read another file of that number
            for fd in (self._data_fd, self._journal_fd):
                if fd >= 0:
                    os.close(fd)
            self._data_fd = self._journal_fd = -1

    @property
    def data_path(self) -> Path:
        """The data file, for serving chunks of `have` while the rest is still being fetched."""
        return self._home / "data"

    # --- inside --------------------------------------------------------------------------------------------------

    def _load(self) -> ChunkSet:
        """What earlier runs noted, or when that is damaged, what the data file really holds."""
        have = self._journal.load()
        if have is None:
            have = self._scan()
            self._journal.reset(have)
        return have

    def _scan(self) -> ChunkSet:
        """Check every chunk that may be in the data file against the table."""
        have = ChunkSet(chunk_count(self.size))
        stored = min(os.fstat(self._data_fd).st_size, self.size)
        for index in range(chunk_count(stored)):
            data = files.read_at(self._data_fd, chunk_length(index, self.size), index * CHUNK_BYTES)
            if hashlib.sha256(data).digest() == self.table.hash_of(index):
                have.add(index)
        return have

    def _is_chunk(self, index: int, data: Buffer) -> bool:
        if len(data) != chunk_length(index, self.size):
            return False
        return hashlib.sha256(data).digest() == self.table.hash_of(index)

    def _write_run(self, first: int, run: list[Buffer], report: WriteReport) -> None:
        files.write_at(self._data_fd, run, first * CHUNK_BYTES)
        indexes = range(first, first + len(run))
        with self._sets:
            for index in indexes:
                self.have.add(index)
                self._checked.add(index)
            self._journal.note(self.have, first, len(run))
        if len(self._unhashed) < UNHASHED_CHUNKS:
            self._unhashed.extend(zip(indexes, run, strict=True))
        report.written.extend(indexes)
        self._after_write(first, len(run) * CHUNK_BYTES)

    def _kept(self, index: int) -> Buffer | None:
        """Chunk `index` if it is still in memory. Chunks before it are forgotten, and when it is not first, itself too."""
        while self._unhashed:
            kept, data = self._unhashed[0]
            if kept > index:
                return None
            self._unhashed.popleft()
            if kept == index:
                return data
        return None

    def _forget(self, index: int) -> None:
        with self._sets:
            self.have.discard(index)
            self._journal.note(self.have, index, 1)

    def _after_write(self, first: int, written: int) -> None:
        self._since_write_back += written
        self._since_space_check += written
        if self._since_write_back >= WRITE_BACK_BYTES:
            end = first * CHUNK_BYTES + written
            files.start_write_back(self._data_fd, max(0, end - 2 * WRITE_BACK_BYTES), 2 * WRITE_BACK_BYTES)
            self._since_write_back = 0
            if self.size > KEEP_CACHED_BYTES:
                hashed = self.hashed * CHUNK_BYTES  # what is not hashed may have to be read again
                if (length := min(end - WRITTEN_BY_THEN_BYTES, hashed)) > 0:
                    files.drop_cached(self._data_fd, length)
        if self._since_space_check >= SPACE_CHECK_BYTES:
            self._since_space_check = 0
            files.check_space(self._home, self.missing_bytes, self._policy.measure, self._policy.reserve)


def _single_chunks(batch: Sequence[tuple[int, Buffer]]) -> Iterator[tuple[int, int, memoryview]]:
    """Position in the batch, index and data of each chunk, in the order of the file."""
    for position in sorted(range(len(batch)), key=lambda position: batch[position][0]):
        first, data = batch[position]
        view = memoryview(data)
        for start in range(0, len(view), CHUNK_BYTES):
            yield position, first + start // CHUNK_BYTES, view[start : start + CHUNK_BYTES]
