"""The Hyperswarm stack in Python, wire-compatible with the official JavaScript packages.

This module holds the public names. The machines without I/O are in `noise`, `secret_stream` and `protomux`, TCP in `io`.
"""

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
from .io import BlindRelay, HyperDHT, Hyperswarm, MuxChannel, Protomux, SecretStream, Server, stop_on_signals, testnet

__all__ = [
    "BlindRelay",
    "ConnectionClosed",
    "DecodeError",
    "HandshakeError",
    "HyperDHT",
    "HyperDHTError",
    "Hyperswarm",
    "KeyPair",
    "LocalProtocolError",
    "MuxChannel",
    "PeerNotFound",
    "Protomux",
    "RemoteProtocolError",
    "RequestTimeout",
    "SecretStream",
    "Server",
    "stop_on_signals",
    "testnet",
]
