"""Messages about blobs: who holds what, chunk tables, chunks."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Self

from hyperdht.buffers import Parts
from hyperdht.errors import DecodeError
from sidecar.catalogue.envelope import SHORT_ID_BYTES
from sidecar.transfer.chunks import HASH_BYTES, MAX_CHUNKS

from .wire import (
    DIGEST_BYTES,
    MAX_BITMAP_BYTES,
    MAX_CHUNKS_PER_REQUEST,
    MAX_MESSAGE_DATA_BYTES,
    MAX_TABLE_PAGE,
    HoldingState,
    MessageType,
    RefuseReason,
    RefuseSubject,
    check_range,
)

if TYPE_CHECKING:
    from hyperdht.buffers import BytesLike
    from hyperdht.encoding import Reader, Writer

CHUNKS_HEAD = struct.Struct("<II6s")
CHUNKS_PADDING = bytes(6)
"""With Protomux's two bytes the head has 16, so that whole chunks make a message OpenSSL can encrypt (docs/adr/0008)."""


@dataclass(frozen=True, slots=True)
class QueryBlob:
    """Asks what the receiver holds of a blob, now and as it changes."""

    TYPE: ClassVar = MessageType.QUERY_BLOB
    digest: bytes

    def push(self, writer: Writer) -> None:
        writer.push_fixed(self.digest)

    @classmethod
    def pull(cls, reader: Reader) -> Self:
        return cls(reader.pull_fixed(DIGEST_BYTES))


@dataclass(frozen=True, slots=True)
class Holdings:
    """What the sender holds of a blob."""

    TYPE: ClassVar = MessageType.HOLDINGS
    digest: bytes
    count: int
    """Chunks of the blob; 0 may stand with NOTHING."""
    state: HoldingState
    first: int = 0
    """Chunk of the bitmap's first bit."""
    bitmap: bytes = field(default=b"", repr=False)

    def push(self, writer: Writer) -> None:
        writer.push_fixed(self.digest)
        writer.push_uint(self.count)
        writer.push_uint8(self.state)
        if self.state is HoldingState.PARTIAL:
            writer.push_uint(self.first)
            writer.push_fixed(self.bitmap)

    @classmethod
    def pull(cls, reader: Reader) -> Self:
        digest, count, state = reader.pull_fixed(DIGEST_BYTES), reader.pull_uint(), reader.pull_uint8()
        if count > MAX_CHUNKS or state > HoldingState.PARTIAL:
            raise DecodeError("holdings of a blob that cannot be")
        if state != HoldingState.PARTIAL:
            return cls(digest, count, HoldingState(state))
        first, bitmap = reader.pull_uint(), reader.pull_rest()
        return cls(digest, count, HoldingState.PARTIAL, first, _checked_bitmap(count, first, bitmap))


@dataclass(frozen=True, slots=True)
class RequestTable:
    """Asks for a page of a chunk table."""

    TYPE: ClassVar = MessageType.REQUEST_TABLE
    digest: bytes
    first: int
    count: int

    def push(self, writer: Writer) -> None:
        writer.push_fixed(self.digest)
        writer.push_uint(self.first)
        writer.push_uint(self.count)

    @classmethod
    def pull(cls, reader: Reader) -> Self:
        digest, first, count = reader.pull_fixed(DIGEST_BYTES), reader.pull_uint(), reader.pull_uint()
        check_range(first, count, MAX_TABLE_PAGE)
        return cls(digest, first, count)


@dataclass(frozen=True, slots=True)
class Table:
    """A page of a chunk table."""

    TYPE: ClassVar = MessageType.TABLE
    digest: bytes
    first: int
    hashes: bytes = field(repr=False)

    def push(self, writer: Writer) -> None:
        writer.push_fixed(self.digest)
        writer.push_uint(self.first)
        writer.push_fixed(self.hashes)

    @classmethod
    def pull(cls, reader: Reader) -> Self:
        digest, first, hashes = reader.pull_fixed(DIGEST_BYTES), reader.pull_uint(), reader.pull_rest()
        if len(hashes) % HASH_BYTES:
            raise DecodeError("a chunk hash is cut off")
        check_range(first, len(hashes) // HASH_BYTES, MAX_TABLE_PAGE)
        return cls(digest, first, hashes)


@dataclass(frozen=True, slots=True)
class RequestChunks:
    """Asks for a run of chunks."""

    TYPE: ClassVar = MessageType.REQUEST_CHUNKS
    request_id: int
    digest: bytes
    first: int
    count: int

    def push(self, writer: Writer) -> None:
        writer.push_uint32(self.request_id)
        writer.push_fixed(self.digest)
        writer.push_uint32(self.first)
        writer.push_uint32(self.count)

    @classmethod
    def pull(cls, reader: Reader) -> Self:
        request_id, digest = reader.pull_uint32(), reader.pull_fixed(DIGEST_BYTES)
        first, count = reader.pull_uint32(), reader.pull_uint32()
        check_range(first, count, MAX_CHUNKS_PER_REQUEST)
        return cls(request_id, digest, first, count)


@dataclass(frozen=True, slots=True)
class Cancel:
    """Asks to end a request early."""

    TYPE: ClassVar = MessageType.CANCEL
    request_id: int

    def push(self, writer: Writer) -> None:
        writer.push_uint32(self.request_id)

    @classmethod
    def pull(cls, reader: Reader) -> Self:
        return cls(reader.pull_uint32())


@dataclass(frozen=True, slots=True)
class Refuse:
    """Something asked for does not come. Which fields count follows the subject."""

    TYPE: ClassVar = MessageType.REFUSE
    subject: RefuseSubject
    reason: RefuseReason
    request_id: int = 0
    digest: bytes = b""
    first: int = 0
    short_id: bytes = b""

    def push(self, writer: Writer) -> None:
        writer.push_uint8(self.subject)
        writer.push_uint8(self.reason)
        if self.subject is RefuseSubject.CHUNKS:
            writer.push_uint32(self.request_id)
        elif self.subject is RefuseSubject.TABLE:
            writer.push_fixed(self.digest)
            writer.push_uint(self.first)
        else:
            writer.push_fixed(self.short_id)

    @classmethod
    def pull(cls, reader: Reader) -> Self:
        subject, number = reader.pull_uint8(), reader.pull_uint8()
        reason = RefuseReason(number) if number <= max(RefuseReason) else RefuseReason.OTHER
        if subject == RefuseSubject.CHUNKS:
            return cls(RefuseSubject.CHUNKS, reason, request_id=reader.pull_uint32())
        if subject == RefuseSubject.TABLE:
            digest, first = reader.pull_fixed(DIGEST_BYTES), reader.pull_uint()
            return cls(RefuseSubject.TABLE, reason, digest=digest, first=first)
        if subject == RefuseSubject.ENTRY:
            return cls(RefuseSubject.ENTRY, reason, short_id=reader.pull_fixed(SHORT_ID_BYTES))
        raise DecodeError(f"refusal of an unknown subject {subject}")


def encode_chunks(request_id: int, first: int, data: BytesLike) -> Parts:
    """The body of a message with chunk `first` and those that follow it, at most three. `data` is not copied."""
    return Parts(CHUNKS_HEAD.pack(request_id, first, CHUNKS_PADDING), data)


def split_chunks(body: memoryview) -> tuple[int, int, memoryview]:
    """Request id, index of the first chunk, and the data of all of them, a view of `body`. Raises DecodeError."""
    size = len(body) - CHUNKS_HEAD.size
    if not 0 < size <= MAX_MESSAGE_DATA_BYTES:
        raise DecodeError(f"a message of chunks with {len(body)} bytes")
    request_id, first, padding = CHUNKS_HEAD.unpack_from(body)
    if padding != CHUNKS_PADDING:
        raise DecodeError("padding that is not zero")
    return request_id, first, body[CHUNKS_HEAD.size :]


def _checked_bitmap(count: int, first: int, bitmap: bytes) -> bytes:
    if not 0 < len(bitmap) <= MAX_BITMAP_BYTES or first % 8 or first + 8 * len(bitmap) > (count + 7) // 8 * 8:
        raise DecodeError("a bitmap outside its blob")
    after = first + 8 * len(bitmap) - count
    if after > 0 and bitmap[-1] >> (8 - after):
        raise DecodeError("a bit is set after the last chunk")
    return bitmap
