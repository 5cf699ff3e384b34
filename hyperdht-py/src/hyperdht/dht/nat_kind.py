"""Which kind of NAT a socket sits behind, going by what nodes say they see of it.

Source: hyperdht 6.34.0 `lib/nat.js`.
"""

from dataclasses import dataclass

from ..addresses import Address
from .constants import Firewall

ENOUGH_SAMPLES = 4
SAMPLES_TO_JUDGE = 3
MAX_SAMPLES = 16  # who relays to us may add one: more than a few honest ones never come


@dataclass(slots=True)
class _Sample:
    address: Address
    hits: int = 1


class NatClassifier:
    """Judges one socket. Another socket of the same node may fare differently."""

    def __init__(self, *, firewalled: bool) -> None:
        """
        Args:
            firewalled: What the node knows about itself. When strangers can reach it, no sample says otherwise.
        """
        self.firewall = Firewall.UNKNOWN if firewalled else Firewall.OPEN
        self.addresses: tuple[Address, ...] | None = None
        """Where others can try to reach the socket; with port 0 when that differs. None while unknown."""
        self._firewalled = firewalled
        self._frozen = False
        self._seen_by: set[Address] = set()
        self._by_address: list[_Sample] = []  # most hits first, then oldest first
        self._by_host: list[_Sample] = []

    @property
    def samples(self) -> int:
        return len(self._seen_by)

    @property
    def is_settled(self) -> bool:
        """Whether more samples are not worth waiting for."""
        decided = self.firewall in (Firewall.CONSISTENT, Firewall.OPEN) and self.samples > 0
        return decided or self.samples >= ENOUGH_SAMPLES

    def add(self, observed: Address, *, by: Address) -> None:
        """A node sees the socket at that address. Each node counts once."""
        if by in self._seen_by or len(self._seen_by) >= MAX_SAMPLES:
            return
        self._seen_by.add(by)
        _count(self._by_host, Address(observed.host, 0))
        _count(self._by_address, observed)
        if not self._frozen and (self.samples >= SAMPLES_TO_JUDGE or not self._firewalled):
            self.firewall = self._judge()
            self.addresses = self._reachable_at()

    def freeze(self) -> None:
        """The other side is told now; from here on the judgement stays as it is."""
        self._frozen = True

    def _judge(self) -> Firewall:
        if not self._firewalled:
            return Firewall.OPEN
        best = self._by_address[0].hits
        if best >= 3:
            return Firewall.CONSISTENT
        if best == 1:
            return Firewall.RANDOM
        if len(self._by_host) == 1 and self.samples >= 4:
            return Firewall.RANDOM
        if len(self._by_host) > 1 and self._by_address[1].hits > 1:
            return Firewall.CONSISTENT  # two hosts, twice each: a NAT with two addresses
        return Firewall.RANDOM if self.samples > ENOUGH_SAMPLES else self.firewall

    def _reachable_at(self) -> tuple[Address, ...] | None:
        if self.firewall == Firewall.UNKNOWN:
            return None
        if self.firewall == Firewall.RANDOM:
            return (self._by_host[0].address,)
        # The reference names none for open nodes, and peers behind a NAT then cannot punch towards it.
        return tuple(s.address for i, s in enumerate(self._by_address) if s.hits >= 2 or i < 2)


def _count(samples: list[_Sample], address: Address) -> None:
    place = next((i for i, sample in enumerate(samples) if sample.address == address), None)
    if place is None:
        samples.append(_Sample(address))
        return
    sample = samples.pop(place)
    sample.hits += 1
    while place > 0 and samples[place - 1].hits < sample.hits:
        place -= 1
    samples.insert(place, sample)
