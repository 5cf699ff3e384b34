"""What a blind relay and its clients tell each other.

On a connection to the relay runs Protomux protocol "blind-relay"; the channel's id is the public key of the connecting
peer, and there is no handshake. Source: blind-relay 1.6.1 `index.js`; docs/protocol/holepunching.md.
"""

from dataclasses import dataclass
from enum import IntEnum

from ..buffers import BytesLike
from ..encoding import Reader, Writer
from ..errors import DecodeError

PROTOCOL = "blind-relay"
TOKEN_BYTES = 32
MAX_STREAM_ID = 0xFFFFFFFF

_IS_INITIATOR = 1


class MessageType(IntEnum):
    """Numbers of the channel's messages."""

    PAIR = 0
    UNPAIR = 1


@dataclass(frozen=True, slots=True)
class Pair:
    """To the relay: connect this stream with the one of whoever names the same token in the other role. Back: done."""

    is_initiator: bool
    """The side that chose the relay, also in the relay's answer to it."""
    token: bytes
    """32 bytes."""
    stream_id: int
    """What packets to the sender of this message must carry: 32 bits."""
    seq: int = 0


def encode_pair(pair: Pair) -> bytes:
    """Flags (1 byte: 1 initiator), token (32 bytes), stream id (uint), seq (uint)."""
    writer = Writer()
    writer.push_bitfield(_IS_INITIATOR if pair.is_initiator else 0, 7)
    writer.push_fixed(pair.token)
    writer.push_uint(pair.stream_id)
    writer.push_uint(pair.seq)
    return writer.finish()


def decode_pair(body: BytesLike) -> Pair:
    """Reverse `encode_pair`.

    Raises:
        DecodeError: Truncated, or a stream id above 32 bits.
    """
    reader = Reader(body)
    flags = reader.pull_bitfield()
    pair = Pair(bool(flags & _IS_INITIATOR), reader.pull_fixed(TOKEN_BYTES), reader.pull_uint(), reader.pull_uint())
    if pair.stream_id > MAX_STREAM_ID:
        raise DecodeError(f"stream id {pair.stream_id} has more than 32 bits")
    return pair


def encode_unpair(token: bytes) -> bytes:
    """Flags (1 byte, none defined), token (32 bytes)."""
    writer = Writer()
    writer.push_bitfield(0, 7)
    writer.push_fixed(token)
    return writer.finish()


def decode_unpair(body: BytesLike) -> bytes:
    """The token.

    Raises:
        DecodeError: Truncated.
    """
    reader = Reader(body)
    reader.pull_bitfield()
    return reader.pull_fixed(TOKEN_BYTES)
