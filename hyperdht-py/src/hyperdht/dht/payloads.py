"""What travels in PEER_HANDSHAKE and PEER_HOLEPUNCH: the envelope relays read, and what only the two peers can.

Source: hyperdht 6.34.0 `lib/messages.js`; docs/protocol/connections.md.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import TypeVar

from ..addresses import Address
from ..buffers import BytesLike
from ..encoding import Reader, Writer
from ..errors import DecodeError
from .constants import Firewall, PayloadError

VERSION = 1
KEY_BYTES = 32
MAX_STREAM_ID = 0xFFFFFFFF
REUSABLE_SOCKET = 1

# A datagram of 2048 bytes holds 340 addresses. All of a list are read, or peers with many would seem broken, but only so
# many are kept: what we keep we may send to, and a hostile peer would name the addresses of others.
KEPT_ADDRESSES = 16  # a host with several networks and container bridges has about ten; its own come first
KEPT_RELAYS = 6  # an announcer has three, and for a moment three more while it changes them

_HAS_PEER_ADDRESS, _HAS_RELAY_ADDRESS = 1, 2
_HAS_HOLEPUNCH, _HAS_ADDRESSES4, _HAS_ADDRESSES6, _HAS_UDX = 1, 2, 4, 8
_HAS_SECRET_STREAM, _HAS_RELAY_THROUGH, _HAS_RELAY_ADDRESSES = 16, 32, 64

Item = TypeVar("Item")


class Mode(IntEnum):
    """Which leg of its way a message is on."""

    FROM_CLIENT = 0
    FROM_SERVER = 1
    FROM_RELAY = 2
    FROM_SECOND_RELAY = 3
    REPLY = 4


@dataclass(frozen=True, slots=True)
class HandshakeMessage:
    """A Noise message between two peers, and how its answer finds back."""

    mode: int
    """A `Mode`; values unknown to us are kept."""
    noise: bytes
    peer_address: Address | None = None
    """The client on the way there, the server on the way back; added by the relay, which sees the true one."""
    relay_address: Address | None = None
    """From a second relay: the first one, where the answer goes."""


@dataclass(frozen=True, slots=True)
class HolepunchMessage:
    """An encrypted round of hole punching between two peers that finished their handshake."""

    mode: int
    id: int
    """The server's number of the handshake. 0 on the way back."""
    payload: bytes
    peer_address: Address | None = None
    """From a client: where to forward to. Then as in a handshake."""


@dataclass(frozen=True, slots=True)
class RelayInfo:
    """A node that forwards for a server."""

    relay_address: Address
    peer_address: Address
    """The server's address as this node sees it."""


@dataclass(frozen=True, slots=True)
class HolepunchInfo:
    """How to start punching with a server."""

    id: int
    relays: tuple[RelayInfo, ...]


@dataclass(frozen=True, slots=True)
class UdxInfo:
    """The stream of the sender."""

    id: int
    """What packets to the sender must carry: 32 bits."""
    reusable_socket: bool = False
    """Whether later connections may use the same path."""
    seq: int = 0
    version: int = 1


@dataclass(frozen=True, slots=True)
class RelayThrough:
    """A blind relay the sender wants to meet at."""

    public_key: bytes
    token: bytes
    """32 bytes that name the pair."""
    version: int = 1


@dataclass(frozen=True, slots=True)
class NoisePayload:
    """What a Noise message of the DHT carries. The sender's key is proven; the addresses are only what it claims."""

    version: int = VERSION
    """When it is not 1, nothing else was read."""
    error: int = PayloadError.NONE
    firewall: int = Firewall.UNKNOWN
    holepunch: HolepunchInfo | None = None
    addresses4: tuple[Address, ...] = ()
    addresses6: tuple[Address, ...] = ()
    udx: UdxInfo | None = None
    secret_stream: int | None = VERSION
    """The version of the secret stream the sender speaks."""
    relay_through: RelayThrough | None = None
    relay_addresses: tuple[Address, ...] | None = None
    """Where a server can be found next time."""


def encode_handshake(message: HandshakeMessage) -> bytes:
    """See `decode_handshake` for the layout."""
    flags = _HAS_PEER_ADDRESS if message.peer_address is not None else 0
    flags |= _HAS_RELAY_ADDRESS if message.relay_address is not None else 0
    writer = Writer()
    writer.push_uint(flags)
    writer.push_uint(message.mode)
    writer.push_buffer(message.noise)
    if message.peer_address is not None:
        writer.push_ipv4_address(message.peer_address)
    if message.relay_address is not None:
        writer.push_ipv4_address(message.relay_address)
    return writer.finish()


def decode_handshake(value: BytesLike) -> HandshakeMessage:
    """The value of a PEER_HANDSHAKE.

    Layout: flags (uint: 1 peer address, 2 relay address), mode (uint), Noise message (length + bytes), then each address
    (IPv4 + port) only if flagged.

    Raises:
        DecodeError: Truncated.
    """
    reader = Reader(value)
    flags = reader.pull_uint()
    return HandshakeMessage(
        mode=reader.pull_uint(),
        noise=reader.pull_buffer(),
        peer_address=reader.pull_ipv4_address() if flags & _HAS_PEER_ADDRESS else None,
        relay_address=reader.pull_ipv4_address() if flags & _HAS_RELAY_ADDRESS else None,
    )


def encode_holepunch(message: HolepunchMessage) -> bytes:
    """See `decode_holepunch` for the layout."""
    writer = Writer()
    writer.push_uint(_HAS_PEER_ADDRESS if message.peer_address is not None else 0)
    writer.push_uint(message.mode)
    writer.push_uint(message.id)
    writer.push_buffer(message.payload)
    if message.peer_address is not None:
        writer.push_ipv4_address(message.peer_address)
    return writer.finish()


def decode_holepunch(value: BytesLike) -> HolepunchMessage:
    """The value of a PEER_HOLEPUNCH.

    Layout: flags (uint: 1 peer address), mode (uint), id (uint), sealed payload (length + bytes), then the address
    (IPv4 + port) only if flagged.

    Raises:
        DecodeError: Truncated.
    """
    reader = Reader(value)
    flags = reader.pull_uint()
    return HolepunchMessage(
        mode=reader.pull_uint(),
        id=reader.pull_uint(),
        payload=reader.pull_buffer(),
        peer_address=reader.pull_ipv4_address() if flags & _HAS_PEER_ADDRESS else None,
    )


def encode_noise_payload(payload: NoisePayload) -> bytes:
    """See `decode_noise_payload` for the layout."""
    flags = _HAS_HOLEPUNCH if payload.holepunch is not None else 0
    flags |= _HAS_ADDRESSES4 if payload.addresses4 else 0
    flags |= _HAS_ADDRESSES6 if payload.addresses6 else 0
    flags |= _HAS_UDX if payload.udx is not None else 0
    flags |= _HAS_SECRET_STREAM if payload.secret_stream is not None else 0
    flags |= _HAS_RELAY_THROUGH if payload.relay_through is not None else 0
    flags |= _HAS_RELAY_ADDRESSES if payload.relay_addresses is not None else 0
    writer = Writer()
    for number in (payload.version, flags, payload.error, payload.firewall):
        writer.push_uint(number)
    if payload.holepunch is not None:
        writer.push_uint(payload.holepunch.id)
        writer.push_array(payload.holepunch.relays, _push_relay)
    if payload.addresses4:
        writer.push_array(payload.addresses4, Writer.push_ipv4_address)
    if payload.addresses6:
        writer.push_array(payload.addresses6, Writer.push_ipv6_address)
    if payload.udx is not None:
        udx = payload.udx
        for number in (udx.version, REUSABLE_SOCKET if udx.reusable_socket else 0, udx.id, udx.seq):
            writer.push_uint(number)
    if payload.secret_stream is not None:
        writer.push_uint(payload.secret_stream)
    if payload.relay_through is not None:
        writer.push_uint(payload.relay_through.version)
        writer.push_uint(0)  # flags, none defined
        writer.push_fixed(payload.relay_through.public_key)
        writer.push_fixed(payload.relay_through.token)
    if payload.relay_addresses is not None:
        writer.push_array(payload.relay_addresses, Writer.push_ipv4_address)
    return writer.finish()


def decode_noise_payload(data: BytesLike) -> NoisePayload:
    """The payload of a Noise message.

    Layout, all numbers uint: version; when it is 1 then flags, error, firewall and, each only if flagged,
        1       holepunch: id, count and relays (12 bytes each: address of the relay, address of the peer as it sees it)
        2, 4    addresses: count and IPv4 (6 bytes each), count and IPv6 (18 bytes each)
        8       stream: version, features (1 reusable socket), id, seq
        16      secret stream: version
        32      relay through: version, flags, public key (32 bytes), token (32 bytes)
        64      relay addresses: count and IPv4 (6 bytes each)

    Raises:
        DecodeError: Truncated, or a stream id above 32 bits.
    """
    reader = Reader(data)
    version = reader.pull_uint()
    if version != VERSION:
        return NoisePayload(version, secret_stream=None)
    flags = reader.pull_uint()
    return NoisePayload(
        version=version,
        error=reader.pull_uint(),
        firewall=reader.pull_uint(),
        holepunch=_pull_holepunch(reader) if flags & _HAS_HOLEPUNCH else None,
        addresses4=_pull_some(reader, Reader.pull_ipv4_address, KEPT_ADDRESSES) if flags & _HAS_ADDRESSES4 else (),
        addresses6=_pull_some(reader, Reader.pull_ipv6_address, KEPT_ADDRESSES) if flags & _HAS_ADDRESSES6 else (),
        udx=_pull_udx(reader) if flags & _HAS_UDX else None,
        secret_stream=reader.pull_uint() if flags & _HAS_SECRET_STREAM else None,
        relay_through=_pull_relay_through(reader) if flags & _HAS_RELAY_THROUGH else None,
        relay_addresses=_pull_some(reader, Reader.pull_ipv4_address, KEPT_RELAYS)
        if flags & _HAS_RELAY_ADDRESSES
        else None,
    )


def _push_relay(writer: Writer, relay: RelayInfo) -> None:
    writer.push_ipv4_address(relay.relay_address)
    writer.push_ipv4_address(relay.peer_address)


def _pull_relay(reader: Reader) -> RelayInfo:
    return RelayInfo(relay_address=reader.pull_ipv4_address(), peer_address=reader.pull_ipv4_address())


def _pull_holepunch(reader: Reader) -> HolepunchInfo:
    return HolepunchInfo(reader.pull_uint(), _pull_some(reader, _pull_relay, KEPT_RELAYS))


def _pull_udx(reader: Reader) -> UdxInfo:
    version, features, stream_id, seq = (reader.pull_uint() for _ in range(4))
    if stream_id > MAX_STREAM_ID:
        raise DecodeError(f"stream id {stream_id} has more than 32 bits")
    return UdxInfo(stream_id, bool(features & REUSABLE_SOCKET), seq, version)


def _pull_relay_through(reader: Reader) -> RelayThrough:
    version = reader.pull_uint()
    reader.pull_uint()  # flags, none defined
    return RelayThrough(reader.pull_fixed(KEY_BYTES), reader.pull_fixed(KEY_BYTES), version)


def _pull_some(reader: Reader, pull_item: Callable[[Reader], Item], keep: int) -> tuple[Item, ...]:
    return tuple(reader.pull_array(pull_item)[:keep])
