"""The bundle's bytes. Blocking, bounded, and nothing is believed before it was checked; the layout is docs/bundle.md.

`read_bundle` decides about the whole shape of a file before any of its content is used: after the signature, every length
follows from what was signed, so a file is either exactly that long or refused. It holds no names and no paths (T7).
"""

from __future__ import annotations

import hashlib
import io
import os
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from sidecar.catalogue.envelope import KEY_BYTES, SIGNATURE_BYTES
from sidecar.catalogue.limits import MAX_RAW_BYTES
from sidecar.errors import BundleError
from sidecar.transfer.chunks import HASH_BYTES, ChunkTable, chunk_count
from sidecar.trust.signatures import verify_entry

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

    from sidecar.catalogue.entry import SignedEntry

MAGIC = b"ollaswarm bundle v1\n"
_LENGTH = struct.Struct("<I")
_BASE = struct.Struct("<Q")
MAX_BASE_BYTES = 1 << 41
"""2 TiB, beyond every model there is; what really bounds a base is that the file must be as long as it says."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """A file whose entry is verified and whose shape is right. The content behind the offsets is not hashed yet."""

    signed: SignedEntry
    table: ChunkTable
    adapter_at: int
    base_at: int
    base_size: int
    """0 without a base."""


class Section(io.RawIOBase):
    """Some bytes of an open file, as a file of their own for reading."""

    def __init__(self, file: BinaryIO, start: int, size: int) -> None:
        self._file, self._start, self._size, self._at = file, start, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        self._at = max(0, origin + offset)
        return self._at

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer).cast("B")
        wanted = max(0, min(len(view), self._size - self._at))
        self._file.seek(self._start + self._at)
        data = self._file.read(wanted)
        view[: len(data)] = data
        self._at += len(data)
        return len(data)


def write_head(file: BinaryIO, signed: SignedEntry, table: ChunkTable) -> None:
    """Everything before the adapter's bytes."""
    file.write(MAGIC + _LENGTH.pack(len(signed.raw)) + signed.raw + signed.publisher + signed.signature)
    file.write(table.hashes)


def base_head(size: int) -> bytes:
    """What stands before the base's bytes; for a bundle without one, all that follows the adapter."""
    return _BASE.pack(size)


def head_bytes(signed: SignedEntry) -> int:
    """Bytes of a bundle beside adapter and base."""
    fixed = len(MAGIC) + _LENGTH.size + KEY_BYTES + SIGNATURE_BYTES + _BASE.size
    return fixed + len(signed.raw) + chunk_count(signed.entry.blob.size) * HASH_BYTES


def read_bundle(file: BinaryIO) -> Bundle:
    """Check the shape of a bundle, its signature and its chunk table.

    Raises:
        BundleError: Not a bundle, cut off, longer than it says, or with a table that is not the entry's.
        SignatureInvalid, EntryInvalid: The entry in it is refused.
    """
    size = os.fstat(file.fileno()).st_size
    file.seek(0)
    if file.read(len(MAGIC)) != MAGIC:
        raise BundleError("The file is not a bundle of ollaswarm, or of a version that this one does not know.")
    (length,) = _LENGTH.unpack(_exactly(file, _LENGTH.size))
    if length > MAX_RAW_BYTES:
        raise BundleError(f"The entry in the bundle has {length} bytes, at most {MAX_RAW_BYTES} are allowed.")
    raw = _exactly(file, length)
    publisher = _exactly(file, KEY_BYTES)
    signed = verify_entry(raw, publisher, _exactly(file, SIGNATURE_BYTES))
    if signed.entry.is_model:
        raise BundleError("The bundle is of a whole model, which this version of ollaswarm does not read from a file.")
    blob = signed.entry.blob
    table_bytes = chunk_count(blob.size) * HASH_BYTES
    adapter_at = file.tell() + table_bytes
    base_at = adapter_at + blob.size + _BASE.size
    if size < base_at:  # before the table is read: a short file must not make us ask for 64 MiB
        raise BundleError(f"The bundle is cut off: it has {size} bytes and should have at least {base_at}.")
    table = ChunkTable(_exactly(file, table_bytes))
    if table.root_hex != blob.chunks:
        raise BundleError("The chunk table in the bundle is not the one that was signed.")
    file.seek(base_at - _BASE.size)
    (base_size,) = _BASE.unpack(_exactly(file, _BASE.size))
    if base_size > MAX_BASE_BYTES or size != base_at + base_size:
        raise BundleError(f"The bundle should end after {base_at + base_size} bytes, and has {size}.")
    return Bundle(signed, table, adapter_at, base_at, base_size)


def hash_section(file: BinaryIO, start: int, size: int) -> str:
    """`sha256:<hex>` of some bytes of a file."""
    state, block = hashlib.sha256(), 1 << 20
    file.seek(start)
    while size > 0:
        data = _exactly(file, min(block, size))
        state.update(data)
        size -= len(data)
    return f"sha256:{state.hexdigest()}"


def _exactly(file: BinaryIO, count: int) -> bytes:
    data = file.read(count)
    if len(data) != count:
        raise BundleError("The bundle is cut off.")
    return data
