"""What a swarm remembers of one peer.

Source: hyperswarm 4.17.2 `lib/peer-info.js`; docs/protocol/hyperswarm.md.
"""

import math
from dataclasses import dataclass, field
from enum import IntEnum

from ..addresses import Address

GOOD_CONNECTION_S = 15.0  # a connection that held so long was no accident: its peer is tried again soon
LAST_ATTEMPT = 3  # beyond it only peers asked for by key are tried


class Priority(IntEnum):
    """Who is dialled first. A peer just lost comes before one never tried, and that one before a peer that fails."""

    VERY_LOW = 0
    LOW = 1
    NORMAL = 2
    HIGH = 3
    VERY_HIGH = 4


PRIORITY_OF_ATTEMPTS = (Priority.NORMAL, Priority.VERY_HIGH, Priority.HIGH, Priority.LOW)


@dataclass(slots=True, eq=False)
class PeerInfo:
    """One peer. Programs read it, and may call `reconnect`."""

    public_key: bytes
    relay_addresses: tuple[Address, ...] = ()
    """DHT nodes that can reach it, as its record said."""
    topics: set[bytes] = field(default_factory=set[bytes])
    """Our topics under which it was found. Empty on the side that did not look."""
    attempts: int = 0
    """Our dials since a connection last held, or since it was found again."""
    priority: Priority = Priority.NORMAL
    proven: bool = False
    """A dial of ours reached it."""
    explicit: bool = False
    """Asked for by key with `join_peer`."""
    banned: bool = False
    client: bool = False
    """Our dial made the last connection, not the peer's."""
    reconnecting: bool = True
    force_relaying: bool = False
    """A dial failed in a way that only a relay helps against."""
    queued: bool = False
    """Waits for its turn to be dialled."""
    waiting: bool = False
    """Waits until it may be queued again."""
    connected_at: float | None = None
    disconnected_at: float = -math.inf

    def reconnect(self, wanted: bool) -> None:
        """Whether to dial again once the connection is lost."""
        self.reconnecting = wanted

    @property
    def is_needed(self) -> bool:
        """Whether to keep it although nothing connects us."""
        return self.banned or self.queued or self.explicit or self.waiting

    def update_priority(self) -> bool:
        """Settle the priority. Returns whether to queue it."""
        if self.explicit and self.attempts > LAST_ATTEMPT:
            self.attempts = LAST_ATTEMPT
        if self.banned or self.queued or self.attempts > LAST_ATTEMPT:
            return False
        self.priority = PRIORITY_OF_ATTEMPTS[self.attempts]
        return True

    def found_again(self) -> None:
        """A lookup named it: what failed long ago may work now. Peers that are doing well keep their history."""
        if self.priority < Priority.NORMAL or not self.client:
            self.client = self.proven = False
            self.attempts = 0

    def connected(self, now: float) -> None:
        """A dial of ours succeeded."""
        self.proven = self.client = True
        self.connected_at = now

    def disconnected(self, now: float) -> None:
        """A dial of ours failed, or the connection it made is over."""
        if self.connected_at is not None and now - self.connected_at >= GOOD_CONNECTION_S:
            self.attempts = 0
        self.connected_at = None
        self.disconnected_at = now
        self.attempts += 1
