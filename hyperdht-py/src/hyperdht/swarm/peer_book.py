"""Whom a swarm remembers. Keys cost nothing and anybody can announce under a known topic, so everything here has a cap (T17)."""

import ipaddress
from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence

from ..addresses import Address
from ..dht.constants import MAX_RELAY_ADDRESSES
from .dial_queue import DialQueue
from .peer_info import PeerInfo

# Some 2 MB. An honest topic of this size is never dialled through: a swarm holds 64 peers. Once full, a newcomer replaces
# somebody in the dial queue by chance, so that who floods a topic gets a share of it and not all.
MAX_PEERS = 2048
# A firewall that rejects is asked again when its ban is forgotten, so this only saves asking.
MAX_FIREWALL_BANS = 1024
# Relays of honest peers are spread over the DHT. Records that all name one network make everybody who dials send there.
# Peers beyond this are reached all the same, by asking the DHT for the way.
MAX_HINTS_PER_SUBNET = 64
IPV4_SUBNET_BITS = 24
IPV6_SUBNET_BITS = 48


class PeerBook:
    """The peers by key, our own never among them."""

    def __init__(self, own_key: bytes, queue: DialQueue, *, max_peers: int = MAX_PEERS) -> None:
        self._own_key = own_key
        self._queue = queue
        self._max_peers = max_peers
        self._peers: dict[bytes, PeerInfo] = {}
        self._hints: Counter[bytes] = Counter()
        self._firewall_bans: OrderedDict[bytes, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._peers)

    def __iter__(self) -> Iterator[PeerInfo]:
        return iter(tuple(self._peers.values()))

    def get(self, public_key: bytes) -> PeerInfo | None:
        return self._peers.get(public_key)

    def discovered(
        self, public_key: bytes, relay_addresses: Sequence[Address]
    ) -> tuple[PeerInfo | None, PeerInfo | None]:
        """A lookup named a peer.

        Returns:
            The peer, None for ourselves or when there is no room; and who lost its place in the queue for it, if anybody.
        """
        if public_key == self._own_key:
            return None, None
        evicted = None
        peer = self._peers.get(public_key)
        if peer is None:
            if len(self._peers) >= self._max_peers:
                evicted = self._evict()
                if evicted is None:
                    return None, None
            peer = self._add(public_key)
        self._set_hints(peer, relay_addresses)
        return peer, evicted

    def known(self, public_key: bytes) -> PeerInfo | None:
        """The peer that connected, or that the program asked for; None for ourselves. Those are not counted."""
        if public_key == self._own_key:
            return None
        return self._peers.get(public_key) or self._add(public_key)

    def forget(self, peer: PeerInfo) -> None:
        """Nothing connects us with it."""
        if not peer.is_needed and self._peers.get(peer.public_key) is peer:
            del self._peers[peer.public_key]
            self._set_hints(peer, ())

    def ban(self, peer: PeerInfo, *, by_firewall: bool) -> PeerInfo | None:
        """Have nothing to do with it. Returns whose ban is forgotten for it, if anybody's.

        What the program banned by key stays banned.
        """
        peer.banned = True
        if not by_firewall:
            self._firewall_bans.pop(peer.public_key, None)
            return None
        self._firewall_bans[peer.public_key] = None
        if len(self._firewall_bans) <= MAX_FIREWALL_BANS:
            return None
        oldest = self._peers[next(iter(self._firewall_bans))]
        self.unban(oldest)
        return oldest

    def unban(self, peer: PeerInfo) -> None:
        """Undo `ban`."""
        peer.banned = False
        self._firewall_bans.pop(peer.public_key, None)

    def _add(self, public_key: bytes) -> PeerInfo:
        peer = self._peers[public_key] = PeerInfo(public_key)
        return peer

    def _evict(self) -> PeerInfo | None:
        peer = self._queue.evict()
        if peer is not None:
            self.forget(peer)
        return peer

    def _set_hints(self, peer: PeerInfo, addresses: Sequence[Address]) -> None:
        for address in peer.relay_addresses:
            network = subnet(address.host)
            self._hints[network] -= 1
            if not self._hints[network]:
                del self._hints[network]
        kept: list[Address] = []
        for address in addresses[:MAX_RELAY_ADDRESSES]:
            network = subnet(address.host)
            if self._hints[network] < MAX_HINTS_PER_SUBNET:
                self._hints[network] += 1
                kept.append(address)
        peer.relay_addresses = tuple(kept)


def subnet(host: str) -> bytes:
    """The network a stranger with one line of a provider has: /24 of IPv4, /48 of IPv6."""
    address = ipaddress.ip_address(host)
    bits = IPV4_SUBNET_BITS if address.version == 4 else IPV6_SUBNET_BITS
    return address.packed[: bits // 8]
