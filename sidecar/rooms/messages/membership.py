"""Messages about the members themselves: the proof, other peers, goodbye."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Self

from hyperdht.encoding import Reader, Writer
from sidecar.catalogue.envelope import KEY_BYTES

from .wire import MAX_PEERS, PEERS_RANDOM, PEERS_RELAY, PROOF_BYTES, VERSION, GoodbyeReason, MessageType, pull_count

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
    """Another member. A hint: it is dialled by its key and must prove itself."""

    public_key: bytes
    is_random: bool = False
    """Its NAT gives each destination another port."""


@dataclass(frozen=True, slots=True)
class Peers:
    """What the sender says of itself, and other members."""

    TYPE: ClassVar = MessageType.PEERS
    relay: bytes | None
    """Key under which the sender relays for members."""
    is_random: bool
    """The NAT of the sender gives each destination another port."""
    peers: tuple[PeerHint, ...]

    def push(self, writer: Writer) -> None:
        writer.push_uint8(PEERS_RELAY * (self.relay is not None) | PEERS_RANDOM * self.is_random)
        if self.relay is not None:
            writer.push_fixed(self.relay)
        writer.push_uint(len(self.peers))
        for peer in self.peers:
            writer.push_fixed(peer.public_key)
            writer.push_uint8(PEERS_RANDOM * peer.is_random)

    @classmethod
    def pull(cls, reader: Reader) -> Self:
        flags = reader.pull_uint8()
        relay = reader.pull_fixed(KEY_BYTES) if flags & PEERS_RELAY else None
        peers = tuple(
            PeerHint(reader.pull_fixed(KEY_BYTES), bool(reader.pull_uint8() & PEERS_RANDOM))
            for _ in range(pull_count(reader, MAX_PEERS))
        )
        return cls(relay, bool(flags & PEERS_RANDOM), peers)


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
