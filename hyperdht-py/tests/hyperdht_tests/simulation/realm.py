"""Where addresses are unique: the public network, or what is behind one box. And the lines that packets take there."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from hyperdht.addresses import Address

from .clock import Clock


class Packet(NamedTuple):
    """One UDP datagram on its way."""

    source: Address
    destination: Address
    data: bytes
    ttl: int


Receiver = Callable[[Packet], None]


@dataclass(frozen=True, slots=True)
class Line:
    """The way between one participant and the others of its realm; it is passed once by each packet to or from it."""

    latency_s: float = 0.01
    jitter_s: float = 0.0
    """Up to that much is added, to each packet anew: packets overtake each other."""
    loss: float = 0.0
    duplication: float = 0.0
    bytes_s: float | None = None
    """Bandwidth in each direction."""
    queue_s: float = 0.2
    """A packet that would wait longer for its turn on a line of limited bandwidth is lost."""

    @property
    def is_perfect(self) -> bool:
        return not (self.jitter_s or self.loss or self.duplication or self.bytes_s)


@dataclass(slots=True, eq=False)
class Attachment:
    """One participant of a realm."""

    receiver: Receiver
    line: Line
    busy_until: list[float] = field(default_factory=lambda: [0.0, 0.0])
    """By direction, out and in: when a line of limited bandwidth has sent what it was given."""


@dataclass(slots=True)
class Traffic:
    """What a realm has carried."""

    packets: int = 0
    bytes: int = 0
    lost: int = 0
    """By lines."""
    expired: int = 0
    """By ttl."""
    unroutable: int = 0


class Realm:
    """Carries packets between its participants, and to the box that leads out for all other addresses."""

    def __init__(self, clock: Clock, *, hops: int, isolated: bool = False) -> None:
        """
        Args:
            hops: Routers between any two participants. A packet with a smaller ttl dies on the way.
            isolated: Participants reach only the box that leads out, not each other.
        """
        self.clock = clock
        self.gateway: Attachment | None = None
        self.traffic = Traffic()
        self._hops = hops
        self._isolated = isolated
        self._participants: dict[str, Attachment] = {}

    def attach(self, host: str, receiver: Receiver, line: Line) -> Attachment:
        """Let `receiver` have the packets to `host`."""
        if host in self._participants:
            raise ValueError(f"{host} is taken")
        attachment = self._participants[host] = Attachment(receiver, line)
        return attachment

    def detach(self, host: str) -> None:
        """Packets to `host` lead nowhere from now on."""
        del self._participants[host]

    def carry(self, packet: Packet, origin: Attachment) -> None:
        """Take a packet from one participant to another, or lose it."""
        target = self._participants.get(packet.destination.host)
        if target is None or (self._isolated and origin is not self.gateway):
            target = self.gateway
        self.traffic.packets += 1
        self.traffic.bytes += len(packet.data)
        if target is None or target is origin:
            self.traffic.unroutable += 1
        elif packet.ttl <= self._hops:
            self.traffic.expired += 1
        else:
            self._transport(packet._replace(ttl=packet.ttl - self._hops) if self._hops else packet, origin, target)

    def _transport(self, packet: Packet, origin: Attachment, target: Attachment) -> None:
        clock = self.clock
        if origin.line.is_perfect and target.line.is_perfect:
            when = clock.now + origin.line.latency_s + target.line.latency_s
            clock.call_at(when, target.receiver, packet)
            return
        arrivals = [clock.now]
        for attachment, direction in ((origin, 0), (target, 1)):
            arrivals = [late for when in arrivals for late in self._pass(attachment, direction, when, len(packet.data))]
        self.traffic.lost += not arrivals
        for when in arrivals:
            clock.call_at(when, target.receiver, packet)

    def _pass(self, attachment: Attachment, direction: int, when: float, size: int) -> list[float]:
        """When a packet that enters a line at `when` leaves it: never, once or twice."""
        line, random = attachment.line, self.clock.random
        if line.bytes_s is not None:
            starts = max(when, attachment.busy_until[direction])
            if starts - when > line.queue_s:
                return []
            when = attachment.busy_until[direction] = starts + size / line.bytes_s
        if line.loss and random.random() < line.loss:
            return []
        copies = 2 if line.duplication and random.random() < line.duplication else 1
        return [when + line.latency_s + line.jitter_s * random.random() for _ in range(copies)]
