"""What a swarm needs of a node; `HyperDHT` is one, and tests bring another."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol, TypeAlias

from ..addresses import Address
from ..crypto import KeyPair
from ..dht.operations import OnPeers
from ..dht.payloads import NoisePayload
from .peer_stream import PeerStream

ServerFirewall: TypeAlias = Callable[[bytes, NoisePayload, Address], bool]
"""Called as firewall(public_key, payload, address); True refuses the peer."""


class SwarmServer(Protocol):
    """A server that listens, and can be found, once its context is entered."""

    @property
    def relay_addresses(self) -> tuple[Address, ...]:
        """Nodes that pass on handshakes."""
        ...

    def __aiter__(self) -> AsyncIterator[PeerStream]:
        """The peers that connect, until `aclose`."""
        ...

    async def aclose(self) -> None:
        """Stop listening, and tell the DHT. Connections stay."""
        ...


class SwarmNode(Protocol):
    """A node of the DHT that is started already."""

    @property
    def randomized(self) -> bool:
        """Whether our NAT gives each destination another port."""
        ...

    async def connect(
        self,
        public_key: bytes,
        *,
        key_pair: KeyPair,
        relay_addresses: Sequence[Address],
        relay_through: bytes | None,
    ) -> PeerStream:
        """Connect to a peer that listens. Cancelled, it leaves nothing behind.

        Raises:
            HyperDHTError: It is not there, or cannot be reached.
        """
        ...

    def listen(
        self,
        *,
        key_pair: KeyPair,
        firewall: ServerFirewall,
        relay_through: Callable[[], bytes | None],
    ) -> AbstractAsyncContextManager[SwarmServer]:
        """Listen under a key. `relay_through` is asked for each peer which relay to offer, if any.

        Raises:
            HyperDHTError: On entering the context, when nobody can find us.
        """
        ...

    async def search(self, topic: bytes, *, seeds: Sequence[Address], on_peers: OnPeers) -> Sequence[Address]:
        """A lookup. Returns the closest nodes, for the `seeds` of the next one.

        Raises:
            HyperDHTError: Nobody answered.
        """
        ...

    async def announce(
        self,
        topic: bytes,
        *,
        key_pair: KeyPair,
        relay_addresses: Sequence[Address],
        clear: bool,
        seeds: Sequence[Address],
        on_peers: OnPeers,
    ) -> Sequence[Address]:
        """A lookup that ends with announcing. Returns the closest nodes, which have the announce now.

        Raises:
            HyperDHTError: Nobody took it.
        """
        ...

    async def unannounce(
        self,
        topic: bytes,
        *,
        key_pair: KeyPair,
        seeds: Sequence[Address],
        only_closest_nodes: bool,
        on_peers: OnPeers | None = None,
    ) -> Sequence[Address]:
        """A lookup that takes the announce back where it meets it; `only_closest_nodes`: asks the seeds alone, once."""
        ...

    def on_network_change(self, callback: Callable[[], object]) -> Callable[[], None]:
        """Call `callback` when our addresses change, and when there is a network again. Returns what undoes it."""
        ...

    async def suspend(self) -> None:
        """Close the sockets."""
        ...

    async def resume(self) -> None:
        """Undo `suspend`."""
        ...
