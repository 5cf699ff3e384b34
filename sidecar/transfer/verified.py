"""The only way from bytes on disk to a `VerifiedBlob`: their SHA-256."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from ollama_bridge.digests import Digest, hash_file
from sidecar.errors import BlobMismatch

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_PROOF = object()


class VerifiedBlob:
    """A file whose whole SHA-256 was found equal to `digest`. Install accepts nothing else.

    Only this module makes one: with `verify_file`, or with `WholeHash.seal` after every byte went through it.
    """

    __slots__ = ("digest", "path", "size")

    def __init__(self, path: Path, digest: Digest, size: int, *, proof: object) -> None:
        if proof is not _PROOF:
            raise TypeError("a VerifiedBlob is made by verifying: verify_file or WholeHash.seal")
        self.path = path
        self.digest = digest
        self.size = size

    def __repr__(self) -> str:
        return f"VerifiedBlob({self.digest}, {self.size} bytes)"


def verify_file(path: Path, digest: Digest, size: int, progress: Callable[[int], None] | None = None) -> VerifiedBlob:
    """Hash a file that is already there. Blocking: call it in a worker thread.

    Raises:
        BlobMismatch: Its length or content is another.
        OSError: It cannot be read.
    """
    actual_size = path.stat().st_size
    if actual_size != size:
        raise BlobMismatch(f"{path.name} has {actual_size} bytes, not {size}.")
    actual = hash_file(path, progress)
    if actual != digest:
        raise BlobMismatch(f"{path.name} has the digest {actual}, not {digest}.")
    return VerifiedBlob(path, digest, size, proof=_PROOF)


class WholeHash:
    """Running SHA-256 over the in-order start of a blob."""

    def __init__(self) -> None:
        self._state = hashlib.sha256()
        self.done = 0
        """Bytes hashed so far."""

    def update(self, data: bytes | bytearray | memoryview) -> None:
        """Take the next bytes."""
        self._state.update(data)
        self.done += len(data)

    def matches(self, digest: Digest, size: int) -> bool:
        """Whether exactly the blob of that digest and size went through."""
        return self.done == size and self._state.hexdigest() == digest.hex

    def seal(self, path: Path, digest: Digest, size: int) -> VerifiedBlob:
        """State that `path` holds what was hashed.

        Raises:
            BlobMismatch: Something else was hashed.
        """
        if not self.matches(digest, size):
            raise BlobMismatch(f"The fetched bytes have the digest sha256:{self._state.hexdigest()}, not {digest}.")
        return VerifiedBlob(path, digest, size, proof=_PROOF)
