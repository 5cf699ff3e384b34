"""How Protomux messages are written.

    message     uint channel, uint type, body          channel = the sender's own id, counted from 1
    control     channel 0: type 0 batch, 1 open, 2 reject, 3 close
    open        uint local id, string protocol, optional-buffer id, handshake bytes to the end
    reject      uint id of the rejected open           close       uint local id
    batch       uint channel, then buffers of (uint type, body); an empty buffer announces another uint channel

Source: protomux 3.12.1 `index.js`; docs/protocol/protomux.md.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from ..buffers import Body, BytesLike, parts_of
from ..encoding import Reader, Writer, encode_uint
from .limits import MAX_ID_BYTES, MAX_PROTOCOL_BYTES

CONTROL = 0
BATCH, OPEN, REJECT, CLOSE = range(4)


@dataclass(frozen=True, slots=True)
class Open:
    """The peer's open."""

    remote_id: int
    protocol: str
    id: bytes | None
    handshake: bytes


def read_open(reader: Reader) -> Open:
    """Decode the body of an open; raises `DecodeError`."""
    remote_id = reader.pull_uint()
    protocol = reader.pull_string(max_bytes=MAX_PROTOCOL_BYTES)
    id_ = reader.pull_optional_buffer(max_bytes=MAX_ID_BYTES)
    return Open(remote_id, protocol, id_, reader.pull_rest())


def open_body(local_id: int, protocol: str, id_: bytes | None, handshake: BytesLike) -> bytes:
    """The body of our open."""
    writer = Writer()
    writer.push_uint(local_id)
    writer.push_string(protocol)
    writer.push_optional_buffer(id_)
    writer.push_rest(handshake)
    return writer.finish()


@dataclass(frozen=True, slots=True)
class Item:
    """One message on its way out."""

    channel_id: int
    type: bytes
    """Already encoded."""
    body: Body

    @property
    def size(self) -> int:
        """Bytes in a batch, not counting length and channel."""
        return len(self.type) + len(self.body)

    def message(self) -> bytes:
        """As a message of its own."""
        return b"".join((encode_uint(self.channel_id), self.type, *parts_of(self.body)))


def batch_message(items: Iterable[Item]) -> bytes:
    """All of `items` as one message."""
    parts: list[BytesLike] = [encode_uint(CONTROL), encode_uint(BATCH)]
    channel_id: int | None = None
    for item in items:
        if item.channel_id != channel_id:
            if channel_id is not None:
                parts.append(encode_uint(0))
            channel_id = item.channel_id
            parts.append(encode_uint(channel_id))
        parts += (encode_uint(item.size), item.type, *parts_of(item.body))
    return b"".join(parts)
