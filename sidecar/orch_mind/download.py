"""A file that comes from an Orch-Mind peer, on the way to its quarantine.

Not resumable: Orch-Mind always sends all of a file, so what an earlier run had would save nothing. Everything is in a
folder named by the SHA-256 the file should have, and by nothing a peer wrote (T7). All methods block.
"""

from __future__ import annotations

import os
import shutil
import threading
from typing import TYPE_CHECKING

from ollama_bridge.digests import Digest
from sidecar.transfer import files
from sidecar.transfer.chunks import CHUNK_BYTES
from sidecar.transfer.verified import VerifiedBlob, verify_file

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from sidecar.transfer.partial import DiskPolicy

TENSOR_FILE = "adapter_model.safetensors"
"""PEFT's name for it, so that the folder is one the converter takes."""
SPACE_CHECK_BYTES = 64 * 1024 * 1024


class Download:
    """See the module docstring. Use as a context manager: what is not finished is deleted at its end.

    Args:
        quarantine: Where such folders are kept.
        checksum: SHA-256 of the file, 64 lower-case hex.
        size: Bytes of the file.
        policy: Disk and quota.
    Raises:
        DiskFull, QuotaExceeded: It must not be fetched now.
    """

    def __init__(self, quarantine: Path, checksum: str, size: int, policy: DiskPolicy) -> None:
        self.home = quarantine / Digest(checksum).hex
        self._digest, self._size, self._policy = Digest(checksum), size, policy
        self._since_space_check = 0
        self._finished = False
        self._writing = threading.Lock()
        quarantine.mkdir(mode=0o700, parents=True, exist_ok=True)
        policy.admit(size)
        files.check_space(quarantine, size, policy.measure, policy.reserve)
        shutil.rmtree(self.home, ignore_errors=True)  # what a crash left
        self.home.mkdir(mode=0o700)
        self._fd = files.open_private(self.path)

    @property
    def path(self) -> Path:
        return self.home / TENSOR_FILE

    def write(self, chunks: Iterable[tuple[int, bytes]]) -> None:
        """Put chunks in their places; each is one of the offer, of the right length. Does nothing once closed."""
        with self._writing:
            if self._fd < 0:
                return
            for index, data in chunks:
                files.write_at(self._fd, [data], index * CHUNK_BYTES)
                self._since_space_check += len(data)
            if self._since_space_check >= SPACE_CHECK_BYTES:
                self._since_space_check = 0
                files.check_space(self.home, 0, self._policy.measure, self._policy.reserve)

    def finish(self) -> VerifiedBlob:
        """The whole file, on the disk for good.

        Raises:
            BlobMismatch: It is not the one that was offered.
        """
        os.fsync(self._fd)
        self._close()
        blob = verify_file(self.path, self._digest, self._size)
        files.sync_directory(self.home)
        self._finished = True
        return blob

    def __enter__(self) -> Download:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._close()
        if not self._finished:
            shutil.rmtree(self.home, ignore_errors=True)

    def _close(self) -> None:
        with self._writing:  # a thread that is still writing must not write into another file of that number
            if self._fd >= 0:
                os.close(self._fd)
            self._fd = -1
