"""Sending a blob to Ollama so that it cannot receive anything but that blob.

Ollama checks a pulled blob only after the last byte, never checks the status of a part, and trusts what is in its store
for ever (facts 6.2, 1.4). So the whole file is hashed before its first byte leaves, and every block again on its way
out: a file that changes in between ends the connection instead of entering a model (T24).
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, Protocol

import anyio

from ollama_bridge.errors import BlobMissing
from ollama_bridge.loopback_http import DropConnection, Response

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from types import TracebackType

    from ollama_bridge.digests import Digest
    from ollama_bridge.loopback_http import Request, SendBytes

BLOCK_BYTES = 1 << 20  # what is read, hashed and sent at once; 32 bytes of memory for each MiB of blob

_RANGE = re.compile(r"bytes=(\d{1,15})-(\d{0,15})")


@dataclass(frozen=True, slots=True)
class ByteRange:
    """Bytes `start` to `stop`, `stop` not included."""

    start: int
    stop: int


def parse_range(header: str, size: int) -> ByteRange | None:
    """One range inside the blob, None for anything else."""
    match = _RANGE.fullmatch(header.strip())
    if match is None:
        return None
    start, stop = int(match[1]), int(match[2]) + 1 if match[2] else size
    return ByteRange(start, stop) if start < stop <= size else None


def is_local_program(request: Request, authorities: Collection[str]) -> bool:
    """Whether a request comes from a program that asked for one of our addresses, and not from a web page (T24)."""
    from_browser = any(name == "origin" or name.startswith("sec-fetch-") for name in request.headers)
    return request.headers.get("host") in authorities and not from_browser


class ServedBlob(Protocol):
    """Something that hands out bytes of a blob, none of them unchecked."""

    @property
    def size(self) -> int: ...

    async def send(self, send: SendBytes, part: ByteRange) -> None:
        """Send a part. Raises `DropConnection` when it cannot."""


class CheckedBlob:
    """An open blob whose content has been seen to match its digest."""

    def __init__(self, file: BinaryIO, size: int, block_hashes: list[bytes]) -> None:
        self._file = file
        self._hashes = block_hashes
        self._lock = anyio.Lock()  # one file position, up to 16 parts at once
        self.size = size

    @classmethod
    async def open(cls, opener: Callable[[Digest], BinaryIO], digest: Digest, size: int) -> CheckedBlob:
        """Open and hash a blob.

        Raises:
            BlobMissing: It cannot be opened, or is not what its digest says.
        """
        return await anyio.to_thread.run_sync(cls._open, opener, digest, size)

    @classmethod
    def _open(cls, opener: Callable[[Digest], BinaryIO], digest: Digest, size: int) -> CheckedBlob:
        try:
            file = opener(digest)
        except OSError as error:
            raise BlobMissing(f"Blob {digest.short} cannot be opened ({error.strerror}).") from None
        try:
            whole, hashes, seen = hashlib.sha256(), [], 0
            while block := file.read(BLOCK_BYTES):
                whole.update(block)
                hashes.append(hashlib.sha256(block).digest())
                seen += len(block)
            if seen != size or whole.hexdigest() != digest.hex:
                raise BlobMissing(f"Blob {digest.short} on disk is not what its digest says. Fetch it again.")
        except BaseException:
            file.close()
            raise
        return cls(file, size, hashes)

    def __enter__(self) -> CheckedBlob:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    async def send(self, send: SendBytes, part: ByteRange) -> None:
        """Send a part of the blob, block by block.

        Raises:
            DropConnection: The file is no longer what it was.
        """
        for index in range(part.start // BLOCK_BYTES, -(-part.stop // BLOCK_BYTES)):
            async with self._lock:
                block = await anyio.to_thread.run_sync(self._read_block, index)
            offset = index * BLOCK_BYTES
            await send(block[max(part.start - offset, 0) : part.stop - offset])

    def _read_block(self, index: int) -> bytes:
        try:
            self._file.seek(index * BLOCK_BYTES, os.SEEK_SET)
            block = self._file.read(BLOCK_BYTES)
        except (OSError, ValueError):
            raise DropConnection from None
        if hashlib.sha256(block).digest() != self._hashes[index]:
            raise DropConnection
        return block


def blob_response(request: Request, blob: ServedBlob) -> Response:
    """Answer a GET as Ollama needs it (facts 6.2): whole with a Location, a range with exactly 206, or not at all.

    Raises:
        DropConnection: The range cannot be served; an error page would become part of the model.
    """
    wanted = request.headers.get("range")
    part = ByteRange(0, blob.size) if wanted is None else parse_range(wanted, blob.size)
    if part is None:
        raise DropConnection
    headers = {
        "content-type": "application/octet-stream",
        "content-length": str(part.stop - part.start),
        "accept-ranges": "bytes",
    }
    if wanted is None:
        headers["location"] = request.path  # without it Ollama gives up: "no Location header in response"
    else:
        headers["content-range"] = f"bytes {part.start}-{part.stop - 1}/{blob.size}"

    async def write(send: SendBytes) -> None:
        await blob.send(send, part)

    return Response(200 if wanted is None else 206, headers, write)
