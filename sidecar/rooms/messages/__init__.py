"""The messages of the room protocol as bytes. Layouts, bounds and reasons: docs/protocol/room.md.

`decode` takes the body as Protomux hands it over and gives a message, None for a type this version does not know, or
raises `DecodeError`. Chunks, the one message on the data path, have functions of their own that copy no data.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hyperdht.encoding import Reader, Writer
from hyperdht.errors import DecodeError

from .blobs import Cancel, Holdings, QueryBlob, Refuse, RequestChunks, RequestTable, Table, encode_chunks, split_chunks
from .catalogue import Entries, Offer, Offers, RawStatement, Since, Want
from .membership import Goodbye, OpenHandshake, PeerHint, Peers
from .wire import (
    DIGEST_BYTES,
    EPOCH_BYTES,
    MAX_BITMAP_BYTES,
    MAX_BODY_BYTES,
    MAX_CHUNKS_PER_MESSAGE,
    MAX_CHUNKS_PER_REQUEST,
    MAX_ENTRIES,
    MAX_FRAME_BYTES,
    MAX_MESSAGE_DATA_BYTES,
    MAX_OFFERS,
    MAX_PEERS,
    MAX_TABLE_PAGE,
    MAX_WANTED,
    OFFER_HELD,
    OFFERS_ANSWER,
    OFFERS_MORE,
    PROOF_BYTES,
    PROTOCOL,
    VERSION,
    GoodbyeReason,
    HoldingState,
    MessageType,
    RefuseReason,
    RefuseSubject,
)

if TYPE_CHECKING:
    from hyperdht.buffers import BytesLike

__all__ = [
    "DIGEST_BYTES",
    "EPOCH_BYTES",
    "MAX_BITMAP_BYTES",
    "MAX_BODY_BYTES",
    "MAX_CHUNKS_PER_MESSAGE",
    "MAX_CHUNKS_PER_REQUEST",
    "MAX_ENTRIES",
    "MAX_FRAME_BYTES",
    "MAX_MESSAGE_DATA_BYTES",
    "MAX_OFFERS",
    "MAX_PEERS",
    "MAX_TABLE_PAGE",
    "MAX_WANTED",
    "OFFERS_ANSWER",
    "OFFERS_MORE",
    "OFFER_HELD",
    "PROOF_BYTES",
    "PROTOCOL",
    "VERSION",
    "Cancel",
    "Entries",
    "Goodbye",
    "GoodbyeReason",
    "HoldingState",
    "Holdings",
    "Message",
    "MessageType",
    "Offer",
    "Offers",
    "OpenHandshake",
    "PeerHint",
    "Peers",
    "QueryBlob",
    "RawStatement",
    "Refuse",
    "RefuseReason",
    "RefuseSubject",
    "RequestChunks",
    "RequestTable",
    "Since",
    "Table",
    "Want",
    "decode",
    "encode",
    "encode_chunks",
    "split_chunks",
]

Message = (
    Since
    | Offers
    | Want
    | Entries
    | QueryBlob
    | Holdings
    | RequestTable
    | Table
    | RequestChunks
    | Cancel
    | Refuse
    | Peers
    | Goodbye
)
_CLASSES: dict[int, type[Message]] = {
    cls.TYPE: cls
    for cls in (
        Since,
        Offers,
        Want,
        Entries,
        QueryBlob,
        Holdings,
        RequestTable,
        Table,
        RequestChunks,
        Cancel,
        Refuse,
        Peers,
        Goodbye,
    )
}


def encode(message: Message) -> bytes:
    """The body of a message."""
    writer = Writer()
    message.push(writer)
    return writer.finish()


def decode(message_type: int, body: BytesLike) -> Message | None:
    """Read a body.

    Returns:
        None for types this version does not know, and for CHUNKS, which `split_chunks` reads.
    Raises:
        DecodeError: Truncated, too long, out of bounds, or with bytes left over.
    """
    cls = _CLASSES.get(message_type)
    if cls is None:
        return None
    reader = Reader(body)
    message = cls.pull(reader)
    if reader.remaining:
        raise DecodeError(f"{reader.remaining} bytes after the end of {cls.__name__}")
    return message
