"""SHA-256 digests as Ollama writes them, in the one spelling we let through.

Ollama takes either case of hex and keeps it in file names (manifest/paths.go), so two spellings of one digest would be
two files there. Here only lower case exists, which also makes a digest safe to use as a file name (T7).
"""

from __future__ import annotations

import hashlib
import re
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Self

from ollama_bridge.errors import DigestInvalid

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

HASH_BLOCK_BYTES = 1 << 20  # large enough that SHA-256 runs outside the GIL nearly all the time

_HEX = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, order=True)
class Digest:
    """The SHA-256 of some content; `str()` gives `sha256:<hex>`."""

    hex: str
    """64 lower-case hex digits."""

    def __post_init__(self) -> None:
        if not _HEX.fullmatch(self.hex):
            raise DigestInvalid(f"{self.hex[:80]!r} is not a digest: expected 64 lower-case hex digits.")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `sha256:<64 lower-case hex>`.

        Raises:
            DigestInvalid: Any other spelling.
        """
        prefix, _, hex_digits = text.partition(":")
        if prefix != "sha256" or not _HEX.fullmatch(hex_digits):
            raise DigestInvalid(f"{text[:80]!r} is not a digest: expected sha256: and 64 lower-case hex digits.")
        return cls(hex_digits)

    @classmethod
    def parse_file_name(cls, name: str) -> Self | None:
        """The digest of a blob's file name, None for the temporary and partial files that live beside blobs."""
        if name.startswith("sha256-") and _HEX.fullmatch(name[7:]):
            return cls(name[7:])
        return None

    @classmethod
    def of(cls, data: bytes | bytearray | memoryview) -> Self:
        """The digest of bytes in memory."""
        return cls(hashlib.sha256(data).hexdigest())

    @property
    def file_name(self) -> str:
        """How the store names the blob."""
        return f"sha256-{self.hex}"

    @property
    def short(self) -> str:
        """Twelve hex digits, for people."""
        return self.hex[:12]

    def __str__(self) -> str:
        return f"sha256:{self.hex}"


def hash_file(source: Path | BinaryIO, progress: Callable[[int], None] | None = None) -> Digest:
    """Hash a file from its current position to its end. Blocking: call it in a worker thread.

    Args:
        source: A path, or an open binary file, which stays open.
        progress: Called with the bytes hashed so far after each block; may raise to stop.
    """
    opened: AbstractContextManager[BinaryIO] = source.open("rb") if isinstance(source, Path) else nullcontext(source)
    state = hashlib.sha256()
    buffer = bytearray(HASH_BLOCK_BYTES)
    view = memoryview(buffer)
    done = 0
    with opened as file:
        while count := file.readinto(buffer):  # type: ignore[attr-defined]  # every real binary file has it
            state.update(view[:count])
            done += count
            if progress is not None:
                progress(done)
    return Digest(state.hexdigest())
