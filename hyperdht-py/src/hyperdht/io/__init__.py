"""The only part of hyperdht that touches sockets, tasks and clocks (anyio)."""

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
    "listen_tcp",
]
