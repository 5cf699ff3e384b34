"""What the storage commands carry: announces, records of peers, mutable values, requests to plugins.

Bytes after the last field are ignored, as by the reference. Source: hyperdht 6.34.0 `lib/messages.js`;
docs/protocol/hyperdht.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from ..addresses import Address
from ..buffers import BytesLike
from ..crypto import PUBLIC_KEY_BYTES, SIGNATURE_BYTES
from ..encoding import Reader, Writer, encode_uint
from ..rpc.messages import HASH_BYTES, MAX_DATAGRAM_BYTES

REFRESH_BYTES = 32
HAS_PEER = 1
HAS_REFRESH = 2
HAS_SIGNATURE = 4
HAS_BUMP = 8
HAS_VALUE = 1  # in a plugin request
# 62 records of a peer without relays fill the largest datagram, and 335 relays one record. The counts in front can say more.
MAX_ITEMS = 512
# What a reply can hold beside an id, a token and 20 closer nodes without outgrowing the buffers it is received in.
MAX_REPLY_VALUE_BYTES = MAX_DATAGRAM_BYTES - (10 + 2 * HASH_BYTES + 1 + 20 * 6 + 3)
# A mutable value is stored with its seq, its length and its signature.
MAX_MUTABLE_VALUE_BYTES = MAX_REPLY_VALUE_BYTES - (9 + 3 + SIGNATURE_BYTES)


@dataclass(frozen=True, slots=True)
class PeerRecord:
    """A peer, as it announced itself."""

    public_key: bytes
    """32 bytes."""
    relay_addresses: tuple[Address, ...] = ()
    """DHT nodes that can reach it. Signed for the node that stored them, which may still have made them up for us."""


@dataclass(frozen=True, slots=True)
class Announce:
    """The value of ANNOUNCE and of UNANNOUNCE."""

    peer: PeerRecord | None = None
    refresh: bytes | None = None
    """Beside a peer: the hash of 32 bytes that will renew this record later. Alone: those 32 bytes."""
    signature: bytes | None = None
    """64 bytes; see `signatures`."""
    bump: int = 0
    """Unix milliseconds, 0 for none. Not signed."""


@dataclass(frozen=True, slots=True)
class LookupReply:
    """The value of a reply to LOOKUP."""

    peers: tuple[PeerRecord, ...]
    bump: int = 0
    """The highest one announced for the topic; 0 from old nodes too, which do not send it."""


@dataclass(frozen=True, slots=True)
class MutableValue:
    """A value under a key, as MUTABLE_GET is answered."""

    seq: int
    value: bytes
    signature: bytes
    """64 bytes by the key; see `signatures`."""


@dataclass(frozen=True, slots=True)
class MutablePut:
    """The value of MUTABLE_PUT."""

    public_key: bytes
    stored: MutableValue


@dataclass(frozen=True, slots=True)
class PluginRequest:
    """The value of PLUGIN."""

    plugin: str
    version: int
    command: int
    value: bytes | None = None
    """An empty value is not the same as none."""


def encode_peer(peer: PeerRecord) -> bytes:
    """public key 32 | relay addresses array(ipv4)"""
    writer = Writer()
    _push_peer(writer, peer)
    return writer.finish()


def decode_peer(data: BytesLike) -> PeerRecord:
    """Reverse `encode_peer`.

    Raises:
        DecodeError: No record.
    """
    return _pull_peer(Reader(data))


def encode_announce(announce: Announce) -> bytes:
    """flags uint | [peer] | [refresh 32] | [signature 64] | [bump uint]; flags: 1 peer, 2 refresh, 4 signature, 8 bump"""
    flags = HAS_PEER if announce.peer is not None else 0
    flags |= HAS_REFRESH if announce.refresh is not None else 0
    flags |= HAS_SIGNATURE if announce.signature is not None else 0
    flags |= HAS_BUMP if announce.bump else 0
    writer = Writer()
    writer.push_uint(flags)
    if announce.peer is not None:
        _push_peer(writer, announce.peer)
    if announce.refresh is not None:
        _push_sized(writer, announce.refresh, REFRESH_BYTES)
    if announce.signature is not None:
        _push_sized(writer, announce.signature, SIGNATURE_BYTES)
    if announce.bump:
        writer.push_uint(announce.bump)
    return writer.finish()


def decode_announce(data: BytesLike) -> Announce:
    """Reverse `encode_announce`.

    Raises:
        DecodeError: Truncated, or a bump above 2^53-1.
    """
    reader = Reader(data)
    flags = reader.pull_uint()
    return Announce(
        peer=_pull_peer(reader) if flags & HAS_PEER else None,
        refresh=reader.pull_fixed(REFRESH_BYTES) if flags & HAS_REFRESH else None,
        signature=reader.pull_fixed(SIGNATURE_BYTES) if flags & HAS_SIGNATURE else None,
        bump=reader.pull_uint() if flags & HAS_BUMP else 0,
    )


def encode_lookup_reply(records: Sequence[bytes], bump: int) -> bytes:
    """array(peer) | bump uint. The records are taken as they were encoded when they came in."""
    writer = Writer()
    writer.push_array(records, Writer.push_fixed)
    writer.push_uint(bump)
    return writer.finish()


def decode_lookup_reply(data: BytesLike) -> LookupReply:
    """Reverse `encode_lookup_reply`.

    Raises:
        DecodeError: Truncated.
    """
    reader = Reader(data)
    peers = tuple(reader.pull_array(_pull_peer, max_items=MAX_ITEMS))
    return LookupReply(peers, reader.pull_uint() if reader.remaining else 0)


def encode_mutable_value(stored: MutableValue) -> bytes:
    """seq uint | value buffer | signature 64"""
    writer = Writer()
    _push_mutable_value(writer, stored)
    return writer.finish()


def decode_mutable_value(data: BytesLike) -> MutableValue:
    """Reverse `encode_mutable_value`.

    Raises:
        DecodeError: Truncated, or a seq above 2^53-1.
    """
    return _pull_mutable_value(Reader(data))


def encode_mutable_put(put: MutablePut) -> bytes:
    """public key 32 | seq uint | value buffer | signature 64"""
    writer = Writer()
    _push_sized(writer, put.public_key, PUBLIC_KEY_BYTES)
    _push_mutable_value(writer, put.stored)
    return writer.finish()


def decode_mutable_put(data: BytesLike) -> MutablePut:
    """Reverse `encode_mutable_put`.

    Raises:
        DecodeError: Truncated, or a seq above 2^53-1.
    """
    reader = Reader(data)
    return MutablePut(reader.pull_fixed(PUBLIC_KEY_BYTES), _pull_mutable_value(reader))


def encode_seq(seq: int) -> bytes:
    """The value of MUTABLE_GET: the lowest seq of interest."""
    return encode_uint(seq)


def decode_seq(data: BytesLike) -> int:
    """Reverse `encode_seq`.

    Raises:
        DecodeError: Truncated, or above 2^53-1.
    """
    return Reader(data).pull_uint()


def encode_plugin_request(request: PluginRequest) -> bytes:
    """plugin string | version uint | command uint | flags uint | [value buffer]; flags: 1 value"""
    writer = Writer()
    writer.push_string(request.plugin)
    writer.push_uint(request.version)
    writer.push_uint(request.command)
    writer.push_uint(0 if request.value is None else HAS_VALUE)
    if request.value is not None:
        writer.push_buffer(request.value)
    return writer.finish()


def decode_plugin_request(data: BytesLike) -> PluginRequest:
    """Reverse `encode_plugin_request`.

    Raises:
        DecodeError: Truncated, or a name that is not UTF-8.
    """
    reader = Reader(data)
    return PluginRequest(
        plugin=reader.pull_string(),
        version=reader.pull_uint(),
        command=reader.pull_uint(),
        value=reader.pull_buffer() if reader.pull_uint() & HAS_VALUE else None,
    )


def _push_peer(writer: Writer, peer: PeerRecord) -> None:
    _push_sized(writer, peer.public_key, PUBLIC_KEY_BYTES)
    writer.push_array(peer.relay_addresses, Writer.push_ipv4_address)


def _pull_peer(reader: Reader) -> PeerRecord:
    public_key = reader.pull_fixed(PUBLIC_KEY_BYTES)
    return PeerRecord(public_key, tuple(reader.pull_array(Reader.pull_ipv4_address, max_items=MAX_ITEMS)))


def _push_mutable_value(writer: Writer, stored: MutableValue) -> None:
    writer.push_uint(stored.seq)
    writer.push_buffer(stored.value)
    _push_sized(writer, stored.signature, SIGNATURE_BYTES)


def _pull_mutable_value(reader: Reader) -> MutableValue:
    return MutableValue(reader.pull_uint(), reader.pull_buffer(), reader.pull_fixed(SIGNATURE_BYTES))


def _push_sized(writer: Writer, value: bytes, size: int) -> None:
    if len(value) != size:
        raise ValueError(f"a field of {size} bytes cannot hold {len(value)}")
    writer.push_fixed(value)
