"""At most one connection per peer, and which one stays when two meet.

Both sides must come to the same answer without talking: unless the existing connection shows that the peer must have lost it,
the one initiated by the peer with the greater key stays. Source: hyperswarm 4.17.2 `index.js`; vectors `swarm_duplicates`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum, auto

from .peer_info import PeerInfo

SILENT_S = 2.0
"""Dials that cross come within it. A connection that has been open for longer without a word from both sides may lead nowhere:
ours open before the peer has spoken (adr/0011). It would be kept, and each of the peer's refused, until UDX gives up (13 s)."""


class ConnectionState(Enum):
    """Where a connection is."""

    DIALLING = auto()
    """We are trying to reach the peer."""
    OPEN = auto()
    """Handed over, or waiting to be."""
    CLOSING = auto()
    """We asked for its end, which has not been reported yet. It keeps its place until then."""


def never_talked() -> bool:
    """What a connection says that has not opened."""
    return False


@dataclass(slots=True, eq=False)
class Connection:
    """One connection of a swarm, or an attempt at one."""

    peer: PeerInfo
    is_initiator: bool
    state: ConnectionState
    talked: Callable[[], bool] = never_talked
    """Whether messages went both ways, empty ones included."""
    opened: bool = False
    """Whether it was reported as opened."""
    opened_at: float = 0.0
    taken: bool = False
    """Whether the program has it."""
    successor: "Connection | None" = None
    """Opens once this one is over."""

    def is_silent(self, now: float) -> bool:
        """Whether it has been open for a while and no messages went both ways."""
        return self.opened and not self.talked() and now - self.opened_at >= SILENT_S


def keep_new(own_key: bytes, remote_key: bytes, *, new_is_initiator: bool, existing_outdated: bool) -> bool:
    """Whether a new connection to a peer replaces the existing one.

    Args:
        new_is_initiator: Whether the new one is ours.
        existing_outdated: Messages went both ways on the existing one, and a peer that connects anew has lost it; or none did
            where they should have.
    """
    return existing_outdated or (own_key > remote_key) == new_is_initiator


class ConnectionSet:
    """The connections by peer, dialled ones included."""

    def __init__(self) -> None:
        self._by_key: dict[bytes, Connection] = {}

    def __len__(self) -> int:
        return len(self._by_key)

    def __iter__(self) -> Iterator[Connection]:
        return iter(tuple(self._by_key.values()))

    def __contains__(self, public_key: bytes) -> bool:
        return public_key in self._by_key

    def get(self, public_key: bytes) -> Connection | None:
        return self._by_key.get(public_key)

    def add(self, connection: Connection) -> None:
        assert connection.peer.public_key not in self._by_key
        self._by_key[connection.peer.public_key] = connection

    def discard(self, connection: Connection) -> bool:
        """Remove it. Returns whether it was in."""
        if self._by_key.get(connection.peer.public_key) is not connection:
            return False
        del self._by_key[connection.peer.public_key]
        return True
