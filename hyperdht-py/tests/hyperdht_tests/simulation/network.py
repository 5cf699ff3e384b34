"""Hosts, and the places they can sit in."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

from hyperdht.addresses import Address

from .clock import Clock
from .nat import BEHAVIOURS, Behaviour, NatBox, NatKind
from .realm import Attachment, Line, Packet, Realm

TTL = 64
BACKBONE_HOPS = 10  # a hole puncher's probes with a ttl of 5 pass the sender's boxes and never arrive
FORWARDED_PORT = 49737
LAN = Line(latency_s=0.0002)
FIRST_EPHEMERAL_PORT, LAST_EPHEMERAL_PORT = 32768, 60999  # Linux'

DatagramHandler = Callable[[bytes, Address, float], None]
"""Called as handler(data, sender, now)."""


class Counters(NamedTuple):
    """What a host has sent and received."""

    sent: int = 0
    sent_bytes: int = 0
    received: int = 0
    received_bytes: int = 0


class Host:
    """A machine with one interface. Sockets are known by their ports."""

    def __init__(self, realm: Realm, address: str, line: Line, box: NatBox | None = None) -> None:
        self.address = address
        """As the host itself knows it: behind a box a private one."""
        self.box = box
        self.clock = realm.clock
        self.sent = self.sent_bytes = self.received = self.received_bytes = 0
        self._realm = realm
        self._handlers: dict[int, DatagramHandler] = {}
        self._random = realm.clock.random_for(f"ports of {address}")
        self._line = line
        self._attachment: Attachment | None = None
        self.plug_in()

    @property
    def counters(self) -> Counters:
        return Counters(self.sent, self.sent_bytes, self.received, self.received_bytes)

    @property
    def public_host(self) -> str:
        """What the public network sees."""
        box = self.box
        while box is not None and box.parent is not None:
            box = box.parent
        return self.address if box is None else box.host

    def bind(self, handler: DatagramHandler, port: int = 0) -> int:
        """Give `handler` what arrives at a port, by default any free one. Returns the port.

        Raises:
            OSError: The port is taken.
        """
        if port in self._handlers:
            raise OSError(f"port {port} is taken")
        while not port or port in self._handlers:
            port = self._random.randrange(FIRST_EPHEMERAL_PORT, LAST_EPHEMERAL_PORT + 1)
        self._handlers[port] = handler
        return port

    def close(self, port: int) -> None:
        """Give a port back."""
        del self._handlers[port]

    def send(self, data: bytes, to: Address, *, port: int, ttl: int | None = None) -> None:
        """Send one datagram from a bound port. Without a line nothing happens, as nobody hears about a cable pulled."""
        if port not in self._handlers:
            raise OSError(f"port {port} is closed")
        if self._attachment is None:
            return
        self.sent += 1
        self.sent_bytes += len(data)
        packet = Packet(Address(self.address, port), to, data, TTL if ttl is None else ttl)
        if to.host == self.address:
            self.clock.call_at(self.clock.now, self._receive, packet)
        else:
            self._realm.carry(packet, self._attachment)

    def plug_in(self) -> None:
        """Connect to the network (again)."""
        if self._attachment is None:
            self._attachment = self._realm.attach(self.address, self._receive, self._line)

    def unplug(self) -> None:
        """Vanish from the network without a word; sockets stay open."""
        if self._attachment is not None:
            self._realm.detach(self.address)
            self._attachment = None

    def _receive(self, packet: Packet) -> None:
        handler = self._handlers.get(packet.destination.port)
        if handler is not None:
            self.received += 1
            self.received_bytes += len(packet.data)
            handler(packet.data, packet.source, self.clock.now)


@dataclass(slots=True)
class Site:
    """The place behind one box; hosts can be added."""

    realm: Realm
    box: NatBox
    prefix: str
    hosts: int = 0

    def host(self) -> Host:
        """One more machine here."""
        self.hosts += 1
        return Host(self.realm, f"{self.prefix}.{self.hosts + 1}", LAN, self.box)


class Network:
    """The public network. Each host or box that is added gets a /24 of its own."""

    def __init__(self, seed: int, *, line: Line | None = None, now: float = 0.0) -> None:
        """`line` is what each participant is connected with unless its own is given: 10 ms each way by default."""
        self.clock = Clock(seed, now=now)
        self.public = Realm(self.clock, hops=BACKBONE_HOPS)
        self._line = line or Line()
        self._count = 0
        self._sites = 0

    def host(self, kind: NatKind = NatKind.OPEN, *, address: str | None = None, line: Line | None = None) -> Host:
        """A machine on its own behind the given kind of box."""
        if kind is NatKind.OPEN:
            return Host(self.public, address or self._new_address(), line or self._line)
        return self.site(kind, line=line).host()

    def site(
        self,
        kind: NatKind,
        *,
        behaviour: Behaviour | None = None,
        isolated: bool = False,
        hairpin: bool = False,
        line: Line | None = None,
    ) -> Site:
        """A box, and the place behind it.

        Args:
            behaviour: Other rules than the kind's.
            isolated: Hosts of the place do not reach each other directly.
            hairpin: They reach each other through the box's outer address.
        """
        rules = replace(behaviour or BEHAVIOURS[kind], hairpin=hairpin)
        if kind is NatKind.DOUBLE:
            carrier = self._box(rules, self.public, "100.64.0", line or self._line, isolated=False)
            outer, address, lan_line = carrier.realm, carrier.prefix + ".2", LAN
            site = self._box(rules, outer, self._new_prefix(), lan_line, isolated=isolated, address=address)
            site.box.parent = carrier.box
            return site
        if kind is NatKind.BLOCKED:
            address = self._new_address()
            prefix = address.rpartition(".")[0]
            return self._box(rules, self.public, prefix, line or self._line, isolated=isolated, address=f"{prefix}.2")
        site = self._box(rules, self.public, self._new_prefix(), line or self._line, isolated=isolated)
        if kind is NatKind.FORWARDED:
            site.box.forward(FORWARDED_PORT, Address(f"{site.prefix}.2", FORWARDED_PORT))
        return site

    def _box(
        self, rules: Behaviour, outer: Realm, prefix: str, line: Line, *, isolated: bool, address: str | None = None
    ) -> Site:
        inner = Realm(self.clock, hops=0, isolated=isolated)
        box = NatBox(rules, inner=inner, outer=outer, host=address or self._new_address(), line=line, lan=LAN)
        return Site(inner, box, prefix)

    def _new_address(self) -> str:
        self._count += 1
        return f"{11 + self._count // 65536}.{self._count // 256 % 256}.{self._count % 256}.2"

    def _new_prefix(self) -> str:
        self._sites += 1
        return f"192.168.{self._sites % 256}"
