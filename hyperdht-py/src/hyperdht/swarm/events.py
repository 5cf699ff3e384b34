"""What a swarm wants done, and what happened."""

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, TypeAlias

from .connection_set import Connection
from .peer_info import PeerInfo

if TYPE_CHECKING:
    from .discovery import Discovery, Refresh
    from .flush import Flush


class CloseReason(Enum):
    """Why a connection has to go."""

    DUPLICATE = "there is another connection with this peer"
    SURPLUS = "no room for more connections"
    BANNED = "the peer is banned"
    SUSPENDED = "the swarm is suspended"
    DESTROYED = "the swarm was destroyed"


@dataclass(frozen=True, slots=True)
class DialWanted:
    """Connect to `connection.peer`, then report `dial_opened` or `closed`."""

    connection: Connection


@dataclass(frozen=True, slots=True)
class CloseWanted:
    """End a connection, or the attempt at one, at once; then report `closed`."""

    connection: Connection
    reason: CloseReason


@dataclass(frozen=True, slots=True)
class KeepAliveWanted:
    """Send an empty message: if the peer is gone, its silence will show it."""

    connection: Connection


@dataclass(frozen=True, slots=True)
class ConnectionOpened:
    """A connection for the program. Report `taken` when it takes it."""

    connection: Connection


@dataclass(frozen=True, slots=True)
class ConnectionLost:
    """An opened connection is over."""

    connection: Connection


@dataclass(frozen=True, slots=True)
class PeerBanned:
    """No more connections with this peer."""

    peer: PeerInfo


@dataclass(frozen=True, slots=True)
class Updated:
    """The number of peers, connections or dials may have changed."""


@dataclass(frozen=True, slots=True)
class RefreshWanted:
    """Walk the DHT as `refresh` says; report `found`, and at the end `refreshed` or `refresh_failed`."""

    refresh: "Refresh"


@dataclass(frozen=True, slots=True)
class RefreshUnwanted:
    """Stop that walk. Nothing needs to be reported."""

    refresh: "Refresh"


@dataclass(frozen=True, slots=True)
class UnannounceWanted:
    """Take the announce of `discovery.topic` back, at `discovery.closest_nodes` or, without any, where a walk leads; then
    report `unannounced`."""

    discovery: "Discovery"


@dataclass(frozen=True, slots=True)
class FlushEnded:
    """`flush.complete` is settled."""

    flush: "Flush"


SwarmEvent: TypeAlias = (
    DialWanted
    | CloseWanted
    | KeepAliveWanted
    | ConnectionOpened
    | ConnectionLost
    | PeerBanned
    | Updated
    | RefreshWanted
    | RefreshUnwanted
    | UnannounceWanted
    | FlushEnded
)
