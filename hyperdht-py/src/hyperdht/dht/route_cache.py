"""What a node remembers of peers it was connected with, to find them faster the next time."""

from collections.abc import Sequence
from typing import Generic, NamedTuple, TypeVar

from ..addresses import Address
from .payloads import KEPT_RELAYS

MAX_PEERS = 512  # hyperdht's own cap for relay addresses; each is some 500 bytes here
V = TypeVar("V")


class Route(NamedTuple):
    """A path to a peer that carried a connection."""

    socket: int
    address: Address


class RouteCache:
    """One per node. Peers are known by their public keys, and those used longest ago are forgotten first."""

    def __init__(self) -> None:
        self._relays: _Recent[tuple[Address, ...]] = _Recent()
        self._routes: _Recent[Route] = _Recent()

    def relay_addresses(self, public_key: bytes) -> tuple[Address, ...]:
        """The nodes that forwarded to that peer the last time."""
        return self._relays.get(public_key) or ()

    def remember_relays(self, public_key: bytes, addresses: Sequence[Address]) -> None:
        """A connection came about through these, or the peer named them."""
        if addresses:
            self._relays.set(public_key, tuple(addresses[:KEPT_RELAYS]))

    def route(self, public_key: bytes) -> Route | None:
        """Where a peer with a reusable socket was reached, if that socket is still open."""
        return self._routes.get(public_key)

    def remember_route(self, public_key: bytes, route: Route) -> None:
        """A connection runs over this path, and both sides allow others beside it."""
        self._routes.set(public_key, route)

    def forget_route(self, public_key: bytes) -> None:
        """The peer is not reached that way any more."""
        self._routes.delete(public_key)

    def forget_socket(self, socket: int) -> None:
        """A socket was closed."""
        for public_key, route in self._routes.items():
            if route.socket == socket:
                self._routes.delete(public_key)


class _Recent(Generic[V]):
    """Values by key; the one used longest ago makes room for a new one."""

    def __init__(self) -> None:
        self._values: dict[bytes, V] = {}

    def get(self, key: bytes) -> V | None:
        value = self._values.pop(key, None)
        if value is not None:
            self._values[key] = value
        return value

    def set(self, key: bytes, value: V) -> None:
        self.delete(key)
        self._values[key] = value
        if len(self._values) > MAX_PEERS:
            self.delete(next(iter(self._values)))

    def delete(self, key: bytes) -> None:
        self._values.pop(key, None)

    def items(self) -> list[tuple[bytes, V]]:
        return list(self._values.items())
