"""The Hyperswarm stack in Python."""

from .crypto import KeyPair
from .errors import (
    ConnectionClosed,
    DecodeError,
    HandshakeError,
    HyperDHTError,
    LocalProtocolError,
    PeerNotFound,
    RemoteProtocolError,
    RequestTimeout,
)

__all__ = [
    "ConnectionClosed",
    "DecodeError",
    "HandshakeError",
    "HyperDHTError",
    "KeyPair",
    "LocalProtocolError",
    "PeerNotFound",
    "RemoteProtocolError",
    "RequestTimeout",
]
