"""What a diagnosis is made from. Plain data: whoever gathers it has asked sockets and clocks already.

Durations are float seconds. Keys and labels appear only where the answer is about exactly that peer or room.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sidecar.control_types import NatKind, Road

DialKind = Literal[
    "not-found", "silent", "double-random", "holepunch", "relay", "refused", "incompatible", "timeout", "other"
]
"""Why a dial over the DHT failed, in the order in which it would have gone well."""
LanOutcome = Literal["connected", "refused", "timeout", "unreachable", "handshake"]
"""How the newest dial of an address on the local network ended. `handshake`: something answered that is no sidecar."""
Refusal = Literal["", "blocked", "full", "proofs"]
"""Why we did not let a peer in that connected."""


@dataclass(frozen=True, slots=True)
class DhtFacts:
    """Our place in the DHT."""

    enabled: bool = True
    wanted: bool = True
    """Whether a room on the internet is joined. Before that nothing is sent, so nothing is known."""
    problem: str = ""
    """Why the sockets cannot be opened."""
    joining: bool = False
    """The first walk is still under way."""
    answered: bool = True
    """Nodes answer."""
    nat: NatKind = "unknown"
    own_bootstrap: bool = False
    """Nodes of the user's own are asked instead of the public ones."""

    @property
    def works(self) -> bool:
        return self.enabled and self.wanted and not self.problem and self.answered


@dataclass(frozen=True, slots=True)
class LanFacts:
    """The local network."""

    mdns_enabled: bool = True
    mdns_running: bool = True
    mdns_problem: str = ""
    heard_anything: bool = True
    """Any other machine answered by multicast, a printer for instance."""
    others: int = 0
    """Other sidecars announced there, of any room."""
    members: int = 0
    """Of them, those in a room of ours."""
    dials: Mapping[LanOutcome, int] = field(default_factory=dict)
    """Addresses by how the newest dial of each ended."""
    connected: int = 0
    """Peers connected over it."""


@dataclass(frozen=True, slots=True)
class Interface:
    """A network interface that is up and has an IPv4 address."""

    name: str
    tunnel: bool
    """Made by a VPN, going by its name."""


@dataclass(frozen=True, slots=True)
class ClockFacts:
    """What speaks against our clock."""

    publishers_ahead: int = 0
    """Publishers whose newest entry was made later than now, by more than honest clocks differ."""
    ahead_s: float = 0.0
    """By how much, at the most."""
    set_back_s: float = 0.0
    """How far it was set back while we ran."""


@dataclass(frozen=True, slots=True)
class MachineFacts:
    """What is the same for all rooms and peers."""

    dht: DhtFacts = DhtFacts()
    lan: LanFacts = LanFacts()
    interfaces: tuple[Interface, ...] = ()
    default_routes: int | None = None
    """Ways out to the internet; None where the system does not tell."""
    clock: ClockFacts = ClockFacts()
    peers: int = 0
    """Connections, proved or not."""
    max_peers: int = 64

    @property
    def tunnels(self) -> tuple[str, ...]:
        """Names of the interfaces a VPN made."""
        return tuple(each.name for each in self.interfaces if each.tunnel)


@dataclass(frozen=True, slots=True)
class DialFacts:
    """The newest dial of a peer, which failed."""

    kind: DialKind
    local_nat: NatKind = "unknown"
    """As it was found for this dial; the NAT may treat another socket otherwise."""
    remote_nat: NatKind = "unknown"
    """As the peer said."""
    ago_s: float = 0.0
    failures: int = 1
    """In a row."""
    relay_tried: bool = False
    """A member was asked to relay."""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class RoomFacts:
    """One room."""

    label: str
    on_internet: bool
    """Whether its members look for each other in the DHT, as all but those of the local room do."""
    members_relay: bool = True
    """Whether members relay for each other there, as in private rooms; anybody may enter the general one."""
    announced: bool = False
    walking: bool = False
    """A walk through the DHT is under way."""
    walks: int = 0
    """Walks that ended well."""
    walks_failed: int = 0
    """In a row."""
    seen: int = 0
    """Others whom the newest walk found announced."""
    connected: Mapping[Road, int] = field(default_factory=dict)
    """Members that proved it, by road."""
    unproved: int = 0
    """Of those found announced: connected, and nothing proved."""
    blocked: int = 0
    """Of those: blocked by us."""
    waiting: int = 0
    """Of those: not dialled yet, or being dialled."""
    failed: tuple[DialFacts, ...] = ()
    """Of those: the newest dial failed."""
    wrong_proofs: int = 0
    """Proofs for any room that were wrong, since the start."""

    @property
    def members(self) -> int:
        return sum(self.connected.values())


@dataclass(frozen=True, slots=True)
class MeetingFacts:
    """The newest connection with a peer that is over, or that we did not let in."""

    road: Road
    proved: bool
    """Whether it showed itself a member of a room of ours."""
    refusal: Refusal = ""
    reason: str = ""
    """Why it ended, in words."""
    ago_s: float = 0.0


@dataclass(frozen=True, slots=True)
class PeerFacts:
    """One peer."""

    key: str
    """64 hex."""
    ourselves: bool = False
    road: Road | None = None
    """Set exactly while connected."""
    rooms: tuple[str, ...] = ()
    """Labels of the rooms it proved on this connection."""
    unproved: bool = False
    """It had time to prove a room, and did not."""
    orch_mind: bool = False
    """Speaks Orch-Mind's messages with us now."""
    blocked: bool = False
    seen_in: tuple[str, ...] = ()
    """Labels of the rooms in whose topic it is announced."""
    remembered_s: float | None = None
    """Since it was last met in a room, if that is remembered."""
    members_relay: bool = True
    """False if it is only known from rooms in which nobody relays."""
    relay_known: bool = False
    """A member told that it relays, and reaches this peer."""
    dialling: bool = False
    dial: DialFacts | None = None
    """Only if its newest dial failed."""
    meeting: MeetingFacts | None = None
