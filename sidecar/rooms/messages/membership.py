"""Messages about the members themselves: the proof, other peers, goodbye."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Self

from hyperdht.encoding import Reader, Writer
from hyperdht.errors import DecodeError
from sidecar.catalogue.envelope import KEY_BYTES

from .wire import MAX_ADDRESSES, MAX_PEERS, PROOF_BYTES, VERSION, GoodbyeReason, MessageType, pull_count

if TYPE_CHECKING:
    from hyperdht.buffers import BytesLike


@dataclass(frozen=True, slots=True)
class OpenHandshake:
    """The handshake of the channel's open message."""

    version: int
    proof: bytes = field(repr=False)
    flags: int = 0

    def encode(self) -> bytes:
        writer = Writer()
        writer.push_uint(self.version)
        writer.push_fixed(self.proof)
        writer.push_uint(self.flags)
        return writer.finish()

    @classmethod
    def decode(cls, data: BytesLike) -> Self:
        """Bytes after the flags are left to later versions. Of an unknown version only the number is read."""
        reader = Reader(data)
        version = reader.pull_uint()
        if version != VERSION:
            return cls(version, bytes(PROOF_BYTES))
        return cls(version, reader.pull_fixed(PROOF_BYTES), reader.pull_uint())


@dataclass(frozen=True, slots=True)
class PeerHint:
    """Another member and where it might be reached. A hint: it must prove itself."""

    public_key: bytes
    addresses: tuple[tuple[str, int], ...]
    """IP address in text form and port."""


@dataclass(frozen=True, slots=True)
class Peers:
    """Other members."""

    TYPE: ClassVar = MessageType.PEERS
    peers: tuple[PeerHint, ...]

    def push(self, writer: Writer) -> None:
        writer.push_uint(len(self.peers))
        for peer in self.peers:
            writer.push_fixed(peer.public_key)
            writer.push_uint(len(peer.addresses))
            for host, port in peer.addresses:
                writer.push_ip(host)
                writer.push_port(port)

    @classmethod
    def pull(cls, reader: Reader) -> Self:
        return cls(tuple(_pull_peer(reader) for _ in range(pull_count(reader, MAX_PEERS))))


@dataclass(frozen=True, slots=True)
class Goodbye:
    """The last message."""

    TYPE: ClassVar = MessageType.GOODBYE
    reason: GoodbyeReason

    def push(self, writer: Writer) -> None:
        writer.push_uint8(self.reason)

    @classmethod
    def pull(cls, reader: Reader) -> Self:
        number = reader.pull_uint8()
        return cls(GoodbyeReason(number) if number <= max(GoodbyeReason) else GoodbyeReason.OTHER)


def _pull_peer(reader: Reader) -> PeerHint:
    public_key, count = reader.pull_fixed(KEY_BYTES), pull_count(reader, MAX_ADDRESSES)
    addresses = tuple((reader.pull_ip(), reader.pull_port()) for _ in range(count))
    if any(port == 0 for _, port in addresses):
        raise DecodeError("port 0")
    return PeerHint(public_key, addresses)
