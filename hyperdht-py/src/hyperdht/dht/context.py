"""What the machines of a node share, and what they need from the shell around it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from ..addresses import Address
from ..rpc.node import RpcNode
from ..rpc.randomness import Randomness

StreamPacketHook = Callable[[int, Address, float], bool]
"""Called as hook(socket, sender, now) for a packet of a reserved stream that is not connected yet, or that came through
another socket than the stream's. Returns whether to take the packet."""


class Sockets(Protocol):
    """UDP sockets beside the node's client socket (0) and server socket (1). Binding one does not block."""

    def open(self) -> int:
        """Bind a socket to any free port, on the same host as the others. Numbers are never used twice.

        Raises:
            OSError: The system has no more.
        """
        ...

    def close(self, socket: int) -> None:
        """Close it once no stream uses it any more."""
        ...

    def port(self, socket: int) -> int:
        """The local port of any socket, also 0 and 1."""
        ...


class Streams(Protocol):
    """The UDX streams of the node, all sockets together."""

    def reserve(self, hook: StreamPacketHook) -> int:
        """A stream id unique in this node. Packets for it go through `hook` until the stream is connected."""
        ...

    def release(self, stream_id: int) -> None:
        """Forget a reserved stream that was not connected."""
        ...


@dataclass(frozen=True, slots=True)
class Context:
    """One per node."""

    rpc: RpcNode
    sockets: Sockets
    streams: Streams
    randomness: Randomness
    local_addresses: Callable[[], tuple[Address, ...]]
    """IPv4 addresses of this machine's interfaces with the port of the server socket; for peers in the same network."""
    tells_local_addresses: Callable[[], bool] = lambda: True
    """Whether peers are told these now. Asked for each peer."""

    def told_addresses(self) -> tuple[Address, ...]:
        """Those of our local addresses that peers may know."""
        return self.local_addresses() if self.tells_local_addresses() else ()
