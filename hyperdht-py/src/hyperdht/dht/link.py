"""What connecting and listening end in."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from ..addresses import Address
from ..noise import HandshakeKeys


class Path(Enum):
    """How the packets of a connection travel."""

    DIRECT = "direct"
    LAN = "lan"
    PUNCHED = "punched"
    RELAYED = "relayed"


@dataclass(frozen=True, slots=True)
class Link:
    """A way to the peer is open: bind the stream to it and start the secret stream with `keys`.

    A second link for a stream that runs through a relay already means that it moves over to this one.
    """

    stream_id: int
    """Ours, as `Streams.reserve` gave it."""
    remote_stream_id: int
    socket: int
    address: Address
    keys: HandshakeKeys
    is_initiator: bool
    path: Path


@dataclass(frozen=True, slots=True)
class RelayWanted:
    """Reach the peer through a blind relay: connect to it, pair, and report the stream it answers with to `opened`.
    Do none of this from inside the callback that hands this over.

    The connection to the relay is no longer needed once a later `Link` of the stream, one that is not relayed, carried a
    packet, or when the stream ends.
    """

    relay_public_key: bytes
    token: bytes
    """32 bytes that name the pair at the relay."""
    is_initiator: bool
    """The side that chose the relay."""
    stream_id: int
    connected: Callable[[int, Address, float], None]
    """Call as connected(socket, address of the relay, now) before pairing: what comes from there is not the peer itself."""
    opened: Callable[[int, Address, int, float], None]
    """Call as opened(socket, address of the relay, remote stream id, now)."""
    failed: Callable[[float], None]
