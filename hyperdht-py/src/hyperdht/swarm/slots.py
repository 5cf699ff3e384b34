"""How many connections there may be, and how many there are."""

from dataclasses import dataclass

MAX_PEERS = 64
MAX_PARALLEL = 3
# The reference takes any number. Keys cost nothing, and each connection costs up to 4 MiB of receive window (T18).
MAX_SERVER_CONNECTIONS = 256
# Opened and not taken by the program yet. The reference emits an event and has no such queue.
MAX_WAITING = 32


@dataclass(frozen=True, slots=True)
class Limits:
    """What a program may choose."""

    max_peers: int = MAX_PEERS
    """No more dials with so many connections; fewer the more peers were asked for by key, which are dialled regardless."""
    max_parallel: int = MAX_PARALLEL
    """Dials at a time."""
    max_client_connections: int | None = None
    """Connections that we dialled, dials included."""
    max_server_connections: int = MAX_SERVER_CONNECTIONS
    """Connections that others dialled."""
    max_waiting: int = MAX_WAITING
    """Connections opened and not taken by the program. While there are so many, none is dialled or accepted."""


@dataclass(slots=True)
class Slots:
    """What is taken of the limits."""

    limits: Limits
    dialling: int = 0
    client: int = 0
    server: int = 0
    waiting: int = 0

    @property
    def may_dial_explicit(self) -> bool:
        """Whether a peer that was asked for by key may be dialled."""
        return self.dialling < self.limits.max_parallel and self.waiting + self.dialling < self.limits.max_waiting

    def may_dial(self, *, connections: int, explicit_peers: int) -> bool:
        """Whether any peer may be dialled."""
        return self.may_dial_explicit and not self.at_limit(connections=connections, explicit_peers=explicit_peers)

    def at_limit(self, *, connections: int, explicit_peers: int) -> bool:
        """Whether there is no room for another dial, however the present ones end."""
        limits = self.limits
        return (
            max_peers_factor(explicit_peers) * connections >= limits.max_peers
            or (limits.max_client_connections is not None and self.client >= limits.max_client_connections)
            or self.waiting >= limits.max_waiting
        )

    @property
    def may_accept(self) -> bool:
        """Whether a connection from outside may be taken."""
        return self.server < self.limits.max_server_connections and self.waiting < self.limits.max_waiting


def max_peers_factor(explicit_peers: int) -> int:
    """How much each connection counts: a program that names its peers leaves fewer slots for found ones."""
    return 1 if explicit_peers == 0 else 2 if explicit_peers == 1 else 3 if explicit_peers < 4 else 4
