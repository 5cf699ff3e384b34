"""From a room code to the values that name a room and prove membership. Formulas: docs/protocol/keys.md."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from hyperdht.crypto import argon2id, blake2b

KEY_BYTES = 32
NONCE_BYTES = 16
HANDSHAKE_HASH_BYTES = 64
TAG_BYTES = 8

GENERAL_TOPIC = hashlib.sha256(b"orch-mind-general-public-community-room-v1").digest()
"""The topic of Orch-Mind's community room, so that both kinds of peers meet there."""

_SALT = blake2b(b"ollaswarm/room/v1", size=16)
_OPSLIMIT = 3
_MEMLIMIT_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class RoomKey:
    """The secret of a room. Its repr, and so any log line or traceback, shows only the public room id."""

    secret: bytes = field(repr=False)
    """32 bytes; whoever has them is a member."""
    fixed_topic: bytes | None = field(default=None, repr=False)
    """The topic, where it is not derived from the secret."""

    def __post_init__(self) -> None:
        if len(self.secret) != KEY_BYTES:
            raise ValueError(f"a room key has {KEY_BYTES} bytes, not {len(self.secret)}")

    def __repr__(self) -> str:
        return f"RoomKey(room_id={self.room_id.hex()})"

    @property
    def topic(self) -> bytes:
        """32 bytes to announce and look up in the DHT. The local room's is never used there."""
        return self.fixed_topic or blake2b(b"ollaswarm/topic", key=self.secret)

    @property
    def proof_key(self) -> bytes:
        """32 bytes that key the membership proof. Secret."""
        return blake2b(b"ollaswarm/proof", key=self.secret)

    @property
    def room_id(self) -> bytes:
        """16 bytes that name the room on this machine and in metrics; gives nothing away."""
        return blake2b(b"ollaswarm/id", key=self.secret, size=16)

    def channel_id(self, handshake_hash: bytes) -> bytes:
        """The Protomux channel id of this room on the connection with that handshake hash."""
        return blake2b(_checked_hash(handshake_hash), key=self.secret)

    def proof(self, *, is_initiator: bool, handshake_hash: bytes, public_key: bytes, remote_public_key: bytes) -> bytes:
        """The membership proof that the owner of `public_key`, in that role, sends on that connection (T12)."""
        if len(public_key) != KEY_BYTES or len(remote_public_key) != KEY_BYTES:
            raise ValueError("public keys have 32 bytes")
        role = b"\x00" if is_initiator else b"\x01"
        data = role + _checked_hash(handshake_hash) + public_key + remote_public_key
        return blake2b(data, key=self.proof_key)

    def mdns_tag(self, nonce: bytes) -> bytes:
        """8 bytes by which members recognise the room in an mDNS announcement with that 16-byte nonce."""
        if len(nonce) != NONCE_BYTES:
            raise ValueError(f"an mDNS nonce has {NONCE_BYTES} bytes, not {len(nonce)}")
        return blake2b(nonce, key=self.secret)[:TAG_BYTES]


def derive_room_key(code: str) -> RoomKey:
    """The key of a private room. Takes about 0.2 s and 64 MiB: call it in a worker thread.

    Args:
        code: Normalised by `code.normalise_code`.
    """
    return RoomKey(
        argon2id(code.encode("ascii"), _SALT, opslimit=_OPSLIMIT, memlimit_bytes=_MEMLIMIT_BYTES, size=KEY_BYTES)
    )


def general_room_key() -> RoomKey:
    """The key of the public room: known to everybody, so its proof only keeps the code path one."""
    return RoomKey(blake2b(b"ollaswarm/general/v1"), GENERAL_TOPIC)


def local_room_key() -> RoomKey:
    """The key of the room of this local network: known to everybody on it."""
    return RoomKey(blake2b(b"ollaswarm/local/v1"))


def _checked_hash(handshake_hash: bytes) -> bytes:
    # Another length would let the hash of a different protocol, or an mDNS nonce, stand in for it.
    if len(handshake_hash) != HANDSHAKE_HASH_BYTES:
        raise ValueError(f"a handshake hash has {HANDSHAKE_HASH_BYTES} bytes, not {len(handshake_hash)}")
    return handshake_hash
