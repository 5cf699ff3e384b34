"""Messages about what a room offers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Self

from sidecar.catalogue.envelope import KEY_BYTES, SHORT_ID_BYTES, SIGNATURE_BYTES, statement_id
from sidecar.catalogue.limits import MAX_RAW_BYTES

from .wire import (
    EPOCH_BYTES,
    MAX_ENTRIES,
    MAX_OFFERS,
    MAX_WANTED,
    OFFER_HELD,
    OFFERS_ANSWER,
    OFFERS_MORE,
    MessageType,
    pull_count,
)

if TYPE_CHECKING:
    from hyperdht.encoding import Reader, Writer


@dataclass(frozen=True, slots=True)
class Since:
    """Asks for the changes after a position in the receiver's catalogue."""

    TYPE: ClassVar = MessageType.SINCE
    epoch: bytes
    sequence: int

    def push(self, writer: Writer) -> None:
        writer.push_fixed(self.epoch)
        writer.push_uint(self.sequence)

    @classmethod
    def pull(cls, reader: Reader) -> Self:
        return cls(reader.pull_fixed(EPOCH_BYTES), reader.pull_uint())


@dataclass(frozen=True, slots=True)
class Offer:
    """One statement the sender has."""

    short_id: bytes
    held: bool
    """Whether the sender holds all its blobs."""


@dataclass(frozen=True, slots=True)
class Offers:
    """Changes of the sender's catalogue up to a position."""

    TYPE: ClassVar = MessageType.OFFERS
    epoch: bytes
    sequence: int
    more: bool
    answer: bool
    offers: tuple[Offer, ...]

    def push(self, writer: Writer) -> None:
        writer.push_fixed(self.epoch)
        writer.push_uint(self.sequence)
        writer.push_uint8(OFFERS_MORE * self.more | OFFERS_ANSWER * self.answer)
        writer.push_uint(len(self.offers))
        for offer in self.offers:
            writer.push_fixed(offer.short_id)
            writer.push_uint8(OFFER_HELD * offer.held)

    @classmethod
    def pull(cls, reader: Reader) -> Self:
        epoch, sequence, flags = reader.pull_fixed(EPOCH_BYTES), reader.pull_uint(), reader.pull_uint8()
        count = pull_count(reader, MAX_OFFERS)
        offers = tuple(
            Offer(reader.pull_fixed(SHORT_ID_BYTES), bool(reader.pull_uint8() & OFFER_HELD)) for _ in range(count)
        )
        return cls(epoch, sequence, bool(flags & OFFERS_MORE), bool(flags & OFFERS_ANSWER), offers)


@dataclass(frozen=True, slots=True)
class Want:
    """Asks for statements by id."""

    TYPE: ClassVar = MessageType.WANT
    short_ids: tuple[bytes, ...]

    def push(self, writer: Writer) -> None:
        writer.push_uint(len(self.short_ids))
        for short_id in self.short_ids:
            writer.push_fixed(short_id)

    @classmethod
    def pull(cls, reader: Reader) -> Self:
        return cls(tuple(reader.pull_fixed(SHORT_ID_BYTES) for _ in range(pull_count(reader, MAX_WANTED))))


@dataclass(frozen=True, slots=True)
class RawStatement:
    """A statement as it came: nothing in it is verified."""

    kind: int
    publisher: bytes
    signature: bytes = field(repr=False)
    raw: bytes = field(repr=False)

    @property
    def short_id(self) -> bytes:
        """The 16 bytes under which it is offered and wanted."""
        return statement_id(self.raw, self.publisher, self.signature)[:SHORT_ID_BYTES]

    @property
    def size(self) -> int:
        """The most bytes it takes in a message."""
        return 1 + KEY_BYTES + SIGNATURE_BYTES + 5 + len(self.raw)


@dataclass(frozen=True, slots=True)
class Entries:
    """Statements, wanted or pushed."""

    TYPE: ClassVar = MessageType.ENTRIES
    statements: tuple[RawStatement, ...]

    def push(self, writer: Writer) -> None:
        writer.push_uint(len(self.statements))
        for statement in self.statements:
            writer.push_uint8(statement.kind)
            writer.push_fixed(statement.publisher)
            writer.push_fixed(statement.signature)
            writer.push_buffer(statement.raw)

    @classmethod
    def pull(cls, reader: Reader) -> Self:
        return cls(tuple(_pull_statement(reader) for _ in range(pull_count(reader, MAX_ENTRIES))))


def _pull_statement(reader: Reader) -> RawStatement:
    kind, publisher = reader.pull_uint8(), reader.pull_fixed(KEY_BYTES)
    signature = reader.pull_fixed(SIGNATURE_BYTES)
    return RawStatement(kind, publisher, signature, reader.pull_buffer(max_bytes=MAX_RAW_BYTES))
