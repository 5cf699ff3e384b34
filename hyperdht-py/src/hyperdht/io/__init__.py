"""The only part of hyperdht that touches sockets, tasks and clocks (anyio)."""

from .allocator import keep_freed_memory
from .connection import SecretStream
from .direct import DirectByteStream
from .mux import MuxChannel, Protomux
from .node import HyperDHT
from .relaying import BlindRelay
from .server import Server
from .tcp import TcpListener, TcpStream, connect_tcp, listen_tcp
from .testnet import bootstrapper, testnet

__all__ = [
    "BlindRelay",
    "DirectByteStream",
    "HyperDHT",
    "MuxChannel",
    "Protomux",
    "SecretStream",
    "Server",
    "TcpListener",
    "TcpStream",
    "bootstrapper",
    "connect_tcp",
    "keep_freed_memory",
    "listen_tcp",
    "testnet",
]
