"""SecretStream without I/O: a Noise handshake, then encrypted messages that keep their boundaries."""

from .events import DataReceived, Event, HandshakeCompleted, StreamClosed
from .framing import MAX_MESSAGE_BYTES
from .stream import SecretStreamMachine, State
from .unordered import UnorderedBox

__all__ = [
    "MAX_MESSAGE_BYTES",
    "DataReceived",
    "Event",
    "HandshakeCompleted",
    "SecretStreamMachine",
    "State",
    "StreamClosed",
    "UnorderedBox",
]
