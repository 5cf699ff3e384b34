"""The two packets of dht-rpc: what a node asks and what it is told.

Source: dht-rpc 6.27.0 `lib/io.js`; docs/protocol/dht-rpc.md.
"""

from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache

from ..addresses import Address
from ..buffers import BytesLike
from ..crypto import blake2b
from ..encoding import Reader, Writer
from ..errors import DecodeError

REQUEST_TYPE = 0x03  # type 0 in the high nibble, version 3 in the low
REPLY_TYPE = 0x13
HASH_BYTES = 32
# The reference receives into buffers of this size, so nothing larger ever arrived anywhere. It also bounds the lists in a packet.
MAX_DATAGRAM_BYTES = 2048

HAS_ID = 1
HAS_TOKEN = 2
IS_INTERNAL = 4  # in a request
HAS_CLOSER_NODES = 4  # in a reply
HAS_TARGET = 8  # in a request
HAS_ERROR = 8  # in a reply
HAS_VALUE = 16


class Command(IntEnum):
    """The commands every node answers itself, sent with the internal flag."""

    PING = 0
    PING_NAT = 1
    FIND_NODE = 2
    DOWN_HINT = 3
    DELAYED_PING = 4


class ErrorCode(IntEnum):
    """The errors dht-rpc itself answers with; layers above add their own numbers."""

    NONE = 0
    UNKNOWN_COMMAND = 1
    INVALID_TOKEN = 2


@dataclass(frozen=True, slots=True)
class Request:
    """One question to one node."""

    tid: int
    """Chosen by the sender, 16 bits; the reply carries it back."""
    to: Address
    """Where the sender aimed."""
    command: int
    """A `Command` when `internal`, else a number of the layer above."""
    internal: bool = False
    id: bytes | None = None
    """The sender's node id: 32 bytes. In a decoded request always the hash of the address it came from."""
    token: bytes | None = None
    """What the receiver gave the sender earlier: 32 bytes."""
    target: bytes | None = None
    """The key in question: 32 bytes."""
    value: bytes | None = None
    """Undecoded. An empty value is not the same as none."""


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to one request."""

    tid: int
    to: Address
    """Our address as the replier saw it: the raw material of NAT sampling."""
    id: bytes | None = None
    """The replier's node id: 32 bytes. In a decoded reply always the hash of the address it came from."""
    token: bytes | None = None
    """For a later write to the same node: 32 bytes, good for 7.5 to 15 s."""
    closer_nodes: tuple[Address, ...] = ()
    """Nodes near the target. Unverified: their ids are the hashes of these addresses."""
    error: int = ErrorCode.NONE
    value: bytes | None = None


@lru_cache(maxsize=4096)  # of nodes seldom many more are known, and each is named in hundreds of packets
def encode_address(address: Address) -> bytes:
    """The six bytes of an IPv4 address and port."""
    writer = Writer()
    writer.push_ipv4_address(address)
    return writer.finish()


@lru_cache(maxsize=4096)
def node_id(address: Address) -> bytes:
    """The id a persistent node at that public address must have."""
    return blake2b(encode_address(address))


def encode_request(request: Request) -> bytes:
    """One request as a datagram; see `decode_request` for the layout."""
    flags = IS_INTERNAL if request.internal else 0
    flags |= HAS_ID if request.id is not None else 0
    flags |= HAS_TOKEN if request.token is not None else 0
    flags |= HAS_TARGET if request.target is not None else 0
    flags |= HAS_VALUE if request.value is not None else 0
    writer = _start(REQUEST_TYPE, flags, request)
    writer.push_uint(request.command)
    if request.target is not None:
        _push_hash(writer, request.target)
    if request.value is not None:
        writer.push_buffer(request.value)
    return writer.finish()


def decode_request(datagram: BytesLike, *, sender: Address) -> Request:
    """Decode one dht-rpc request.

    Layout, integers little-endian:
        byte 0      0x03: type 0 in the high nibble, version 3 in the low
        byte 1      flags: 1 id, 2 token, 4 internal command, 8 target, 16 value
        bytes 2-3   tid
        bytes 4-9   the receiver's address as the sender knows it (IPv4 + port)
        then        id (32 bytes) and token (32 bytes), each only if flagged; command (uint);
                    target (32 bytes) and value (length + bytes), each only if flagged
    Args:
        datagram: One UDP payload, untrusted.
        sender: Where it came from, IPv4. An `id` that is not the hash of this address is ignored, not an error.
    Returns:
        A `Request` whose `value` is still undecoded bytes. Bytes after it are ignored, as by the reference.
    Raises:
        DecodeError: Truncated, too long or wrong type byte. The caller counts it and drops the datagram.
    Source: dht-rpc lib/io.js `decodeRequest`, 6.27.0.
    """
    reader, flags, tid, to = _open(datagram, REQUEST_TYPE)
    return Request(
        tid=tid,
        to=to,
        internal=bool(flags & IS_INTERNAL),
        id=_pull_id(reader, sender) if flags & HAS_ID else None,
        token=reader.pull_fixed(HASH_BYTES) if flags & HAS_TOKEN else None,
        command=reader.pull_uint(),
        target=reader.pull_fixed(HASH_BYTES) if flags & HAS_TARGET else None,
        value=reader.pull_buffer() if flags & HAS_VALUE else None,
    )


def encode_reply(reply: Reply) -> bytes:
    """One reply as a datagram; see `decode_reply` for the layout."""
    flags = HAS_ID if reply.id is not None else 0
    flags |= HAS_TOKEN if reply.token is not None else 0
    flags |= HAS_CLOSER_NODES if reply.closer_nodes else 0
    flags |= HAS_ERROR if reply.error else 0
    flags |= HAS_VALUE if reply.value is not None else 0
    writer = _start(REPLY_TYPE, flags, reply)
    if reply.closer_nodes:
        writer.push_array(reply.closer_nodes, _push_address)
    if reply.error:
        writer.push_uint(reply.error)
    if reply.value is not None:
        writer.push_buffer(reply.value)
    return writer.finish()


def decode_reply(datagram: BytesLike, *, sender: Address) -> Reply:
    """Decode one dht-rpc reply.

    Layout, integers little-endian:
        byte 0      0x13: type 1 in the high nibble, version 3 in the low
        byte 1      flags: 1 id, 2 token, 4 closer nodes, 8 error, 16 value
        bytes 2-3   tid, echoes the request
        bytes 4-9   our address as the replier saw it (IPv4 + port), used for NAT sampling
        then, each only if flagged: id (32 bytes), token (32 bytes),
        closer nodes (count + 6 bytes each), error (uint), value (length + bytes)
    Args:
        datagram: One UDP payload, untrusted.
        sender: Where it came from, IPv4. An `id` that is not the hash of this address is ignored, not an error.
    Returns:
        A `Reply` whose `value` is still undecoded bytes. Bytes after it are ignored, as by the reference.
    Raises:
        DecodeError: Truncated, too long or wrong type byte. The caller counts it and drops the datagram.
    Source: dht-rpc lib/io.js `decodeReply`, 6.27.0.
    """
    reader, flags, tid, to = _open(datagram, REPLY_TYPE)
    return Reply(
        tid=tid,
        to=to,
        id=_pull_id(reader, sender) if flags & HAS_ID else None,
        token=reader.pull_fixed(HASH_BYTES) if flags & HAS_TOKEN else None,
        closer_nodes=tuple(reader.pull_array(Reader.pull_ipv4_address)) if flags & HAS_CLOSER_NODES else (),
        error=reader.pull_uint() if flags & HAS_ERROR else ErrorCode.NONE,
        value=reader.pull_buffer() if flags & HAS_VALUE else None,
    )


def _start(kind: int, flags: int, message: Request | Reply) -> Writer:
    writer = Writer()
    writer.push_uint8(kind)
    writer.push_uint8(flags)
    writer.push_uint16(message.tid)
    _push_address(writer, message.to)
    if message.id is not None:
        _push_hash(writer, message.id)
    if message.token is not None:
        _push_hash(writer, message.token)
    return writer


def _push_address(writer: Writer, address: Address) -> None:
    writer.push_fixed(encode_address(address))


def _push_hash(writer: Writer, value: bytes) -> None:
    if len(value) != HASH_BYTES:
        raise ValueError(f"{len(value)} bytes where ids, tokens and targets have {HASH_BYTES}")
    writer.push_fixed(value)


def _open(datagram: BytesLike, kind: int) -> tuple[Reader, int, int, Address]:
    if len(datagram) > MAX_DATAGRAM_BYTES:
        raise DecodeError(f"datagram of {len(datagram)} bytes where at most {MAX_DATAGRAM_BYTES} are allowed")
    reader = Reader(datagram)
    first = reader.pull_uint8()
    if first != kind:
        raise DecodeError(f"first byte {first:#04x} where {kind:#04x} was expected")
    return reader, reader.pull_uint8(), reader.pull_uint16(), reader.pull_ipv4_address()


def _pull_id(reader: Reader, sender: Address) -> bytes | None:
    claimed = reader.pull_fixed(HASH_BYTES)
    # An id cannot be chosen, only an address: otherwise one host could place itself beside any target.
    return claimed if claimed == node_id(sender) else None
