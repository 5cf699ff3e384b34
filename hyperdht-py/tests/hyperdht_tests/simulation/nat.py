"""Boxes that translate addresses and filter: what they map, whom they let in, and for how long.

The kinds are those of the laboratory with real kernels; words of RFC 4787.
"""

from dataclasses import dataclass, field
from enum import Enum, auto

from hyperdht.addresses import Address

from .realm import Line, Packet, Realm

FIRST_PORT, LAST_PORT = 1024, 65535
MAPPING_TIMEOUT_S = 30.0  # Linux' for UDP without an answer; with one it is 120 s


class Ports(Enum):
    """Which outer port a mapping gets."""

    PRESERVED = auto()
    """The inner one, unless another mapping has it."""
    RANDOM = auto()
    SEQUENTIAL = auto()
    """The one after the last."""


class Filtering(Enum):
    """Whose packets a mapping lets in."""

    NONE = auto()
    """Everybody's."""
    HOST = auto()
    """Of hosts we sent to."""
    HOST_AND_PORT = auto()
    """Of addresses we sent to."""


@dataclass(frozen=True, slots=True)
class Behaviour:
    """The rules of one box."""

    ports: Ports = Ports.PRESERVED
    per_destination: bool = False
    """Another mapping for each destination, in place of one for all."""
    filtering: Filtering = Filtering.HOST_AND_PORT
    translates: bool = True
    """False for a firewall: it filters, and addresses stay as they are."""
    hairpin: bool = False
    """Whether hosts behind the box reach each other by its outer address."""
    timeout_s: float = MAPPING_TIMEOUT_S
    """After that long without a packet in either direction a mapping, or the permission to come in, is gone."""


class NatKind(Enum):
    """What a host can sit behind. OPEN and DOUBLE are no rules of one box: there is none, or there are two."""

    OPEN = "open"
    BLOCKED = "blocked"
    CONSISTENT = "consistent"
    FULLCONE = "fullcone"
    FORWARDED = "forwarded"
    RANDOM = "random"
    SYMMETRIC = "symmetric"
    DOUBLE = "double"


BEHAVIOURS = {
    NatKind.BLOCKED: Behaviour(translates=False),
    NatKind.CONSISTENT: Behaviour(),
    NatKind.FULLCONE: Behaviour(filtering=Filtering.NONE),
    NatKind.FORWARDED: Behaviour(),
    NatKind.RANDOM: Behaviour(ports=Ports.RANDOM, per_destination=True),
    NatKind.SYMMETRIC: Behaviour(ports=Ports.SEQUENTIAL, per_destination=True),
    NatKind.DOUBLE: Behaviour(),
}


@dataclass(slots=True, eq=False)
class _Mapping:
    inner: Address
    outer: Address
    key: tuple[Address, Address | None]
    used: float
    is_static: bool = False
    permissions: dict[Address | str, float] = field(default_factory=dict)
    """By the address or host of others: when a packet last went to it, or came from it."""


class NatBox:
    """Sits between an inner and an outer realm."""

    def __init__(self, behaviour: Behaviour, *, inner: Realm, outer: Realm, host: str, line: Line, lan: Line) -> None:
        """
        Args:
            host: The box's address in the outer realm; for a firewall that of the one host behind it.
            line: To the outer realm.
            lan: To the inner one.
        """
        self.behaviour = behaviour
        self.host = host
        self.parent: NatBox | None = None
        """The box outside this one."""
        self._clock = outer.clock
        self._inner, self._outer = inner, outer
        self._outside = outer.attach(host, self._receive_from_outside, line)
        self._inside = inner.gateway = inner.attach("gateway", self._receive_from_inside, lan)
        self._by_key: dict[tuple[Address, Address | None], _Mapping] = {}
        self._by_port: dict[int, _Mapping] = {}
        self._last_port = outer.clock.random.randrange(FIRST_PORT, LAST_PORT)

    def forward(self, port: int, inner: Address) -> None:
        """Lead everybody who sends to `port` to `inner`, and let `inner` send from that port."""
        mapping = _Mapping(inner, Address(self.host, port), (inner, None), self._clock.now, is_static=True)
        self._by_key[mapping.key] = self._by_port[port] = mapping

    def forget(self) -> None:
        """Lose all mappings, as when the box is switched off and on; only what was set by hand stays."""
        for mapping in list(self._by_key.values()):
            if not mapping.is_static:
                self._remove(mapping)

    def _receive_from_inside(self, packet: Packet) -> None:
        if packet.ttl <= 1:
            return
        mapping = self._mapping_for(packet)
        mapping.permissions[self._permission(packet.destination)] = mapping.used = self._clock.now
        translated = Packet(mapping.outer, packet.destination, packet.data, packet.ttl - 1)
        if packet.destination.host != self.host:
            self._outer.carry(translated, self._outside)
        elif self.behaviour.hairpin:
            self._receive_from_outside(translated)

    def _receive_from_outside(self, packet: Packet) -> None:
        mapping = self._alive(self._by_port.get(packet.destination.port))
        if mapping is None or packet.ttl <= 1 or not self._lets_in(mapping, packet.source):
            return
        mapping.used = self._clock.now
        if (permission := self._permission(packet.source)) in mapping.permissions:
            mapping.permissions[permission] = self._clock.now
        self._inner.carry(Packet(packet.source, mapping.inner, packet.data, packet.ttl - 1), self._inside)

    def _lets_in(self, mapping: _Mapping, source: Address) -> bool:
        if mapping.is_static or self.behaviour.filtering is Filtering.NONE:
            return True
        since = mapping.permissions.get(self._permission(source))
        return since is not None and self._clock.now - since < self.behaviour.timeout_s

    def _permission(self, other: Address) -> Address | str:
        return other.host if self.behaviour.filtering is Filtering.HOST else other

    def _mapping_for(self, packet: Packet) -> _Mapping:
        static = self._by_key.get((packet.source, None))
        if static is not None and static.is_static:
            return static
        key = (packet.source, packet.destination if self.behaviour.per_destination else None)
        mapping = self._alive(self._by_key.get(key))
        if mapping is None:
            outer = Address(self.host, self._free_port(packet.source.port))
            mapping = self._by_key[key] = self._by_port[outer.port] = _Mapping(
                packet.source, outer, key, self._clock.now
            )
        return mapping

    def _alive(self, mapping: _Mapping | None) -> _Mapping | None:
        if mapping is None or mapping.is_static or self._clock.now - mapping.used < self.behaviour.timeout_s:
            return mapping
        self._remove(mapping)
        return None

    def _remove(self, mapping: _Mapping) -> None:
        del self._by_key[mapping.key]
        del self._by_port[mapping.outer.port]

    def _free_port(self, inner_port: int) -> int:
        if self.behaviour.ports is Ports.PRESERVED and self._is_free(inner_port):
            return inner_port
        while True:
            if self.behaviour.ports is Ports.SEQUENTIAL:
                self._last_port = self._last_port + 1 if self._last_port < LAST_PORT else FIRST_PORT
            else:
                self._last_port = self._clock.random.randrange(FIRST_PORT, LAST_PORT + 1)
            if self._is_free(self._last_port):
                return self._last_port

    def _is_free(self, port: int) -> bool:
        return self._alive(self._by_port.get(port)) is None
