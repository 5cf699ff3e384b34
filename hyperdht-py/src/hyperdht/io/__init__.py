"""The only part of hyperdht that touches sockets, tasks and clocks (anyio)."""

from .allocator import keep_freed_memory
from .connection import SecretStream
from .direct import DirectByteStream
from .mux import MuxChannel, Protomux
from .tcp import TcpListener, TcpStream, connect_tcp, listen_tcp

__all__ = [
    "DirectByteStream",
    "MuxChannel",
    "Protomux",
    "SecretStream",
    "TcpListener",
    "TcpStream",
    "connect_tcp",
    "keep_freed_memory",
    "listen_tcp",
]
