"""The only part of hyperdht that touches sockets, tasks and clocks (anyio)."""

from .allocator import keep_freed_memory
from .connection import SecretStream
from .direct import DirectByteStream
from .mux import MuxChannel, Protomux
from .node import HyperDHT
from .relaying import BlindRelay
from .server import Server
from .signals import stop_on_signals
from .swarm import Hyperswarm
from .swarm_session import SwarmSession
from .tcp import TcpListener, TcpStream, connect_tcp, listen_tcp
from .testnet import bootstrapper, testnet

__all__ = [
    "BlindRelay",
    "DirectByteStream",
    "HyperDHT",
    "Hyperswarm",
    "MuxChannel",
    "Protomux",
    "SecretStream",
    "Server",
    "SwarmSession",
    "TcpListener",
    "TcpStream",
    "bootstrapper",
    "connect_tcp",
    "keep_freed_memory",
    "listen_tcp",
    "stop_on_signals",
    "testnet",
]
