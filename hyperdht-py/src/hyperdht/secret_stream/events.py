"""What a secret stream tells its owner."""

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class HandshakeCompleted:
    """Both sides proved their keys; messages can be sent from here on."""

    remote_public_key: bytes
    handshake_hash: bytes
    """64 bytes, equal on both sides: the channel binding."""


@dataclass(frozen=True, slots=True)
class DataReceived:
    """Every message that was complete in the bytes of one `receive`, in order, each in a buffer of its own."""

    messages: list[bytearray]


@dataclass(frozen=True, slots=True)
class StreamClosed:
    """The peer ended its side between two messages. Not authenticated: whoever carries the bytes can fake it."""


Event: TypeAlias = HandshakeCompleted | DataReceived | StreamClosed
