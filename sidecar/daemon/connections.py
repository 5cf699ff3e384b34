"""The facts of `sidecar.diagnosis`, gathered from the parts of a running daemon."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, TypeVar

from hyperdht.dht.constants import Firewall
from hyperdht.swarm import ConnectionState
from sidecar.catalogue.fields import unix_seconds
from sidecar.catalogue.rows import Standing
from sidecar.diagnosis import (
    ClockFacts,
    DhtFacts,
    DialFacts,
    LanFacts,
    MachineFacts,
    MeetingFacts,
    PeerFacts,
    RoomFacts,
)

from .ways_out import default_routes, interfaces

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from hyperdht.io.swarm import TopicStatus
    from hyperdht.swarm import DialReport
    from sidecar.control_types import NatKind, Road
    from sidecar.diagnosis import DialKind, Interface
    from sidecar.parts import Parts
    from sidecar.rooms.internet import InternetRooms
    from sidecar.rooms.network import JoinedRoom
    from sidecar.rooms.peer import PeerConnection

    from .local_network import LocalNetwork

K = TypeVar("K", bound=str)
# Clocks of honest machines differ by seconds; entries are dated to the second and expire by date.
CLOCK_TOLERANCE_S = 600.0
# A member proves itself in its first message.
PROOF_EXPECTED_S = 5.0
NATS: dict[int, NatKind] = {
    Firewall.UNKNOWN: "unknown",
    Firewall.OPEN: "open",
    Firewall.CONSISTENT: "consistent",
    Firewall.RANDOM: "random",
}
# What `DialReport.code` means here; anything about hole punching that is not named is "holepunch".
DIAL_KINDS: dict[str, DialKind] = {
    "PEER_NOT_FOUND": "not-found",
    "PEER_CONNECTION_FAILED": "silent",
    "HOLEPUNCH_DOUBLE_RANDOMIZED_NATS": "double-random",
    "RELAY_ABORTED": "relay",
    "SERVER_ERROR": "refused",
    "SERVER_INCOMPATIBLE": "incompatible",
    "TIMEOUT": "timeout",
    "CLOSED": "timeout",
}


def dial_kind(code: str) -> DialKind:
    """The kind of a failed dial, of a small set whatever the code (T21: it becomes a label of metrics)."""
    if code in DIAL_KINDS:
        return DIAL_KINDS[code]
    return "holepunch" if "HOLEPUNCH" in code or code.startswith("REMOTE_") else "other"


class ConnectionFacts:
    """See the module docstring. Everything is looked up when asked."""

    def __init__(
        self,
        parts: Parts,
        local_network: LocalNetwork,
        internet: InternetRooms,
        *,
        look_around: Callable[[], tuple[Interface, ...]] = interfaces,
        count_routes: Callable[[], int | None] = default_routes,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.internet = internet
        self._parts = parts
        self._network = parts.network
        self._local_network = local_network
        self._look_around = look_around
        self._count_routes = count_routes
        self._clock = clock
        self._wall_clock = wall_clock
        self._ahead_at_start = wall_clock() - clock()

    # --- this machine

    def machine(self) -> MachineFacts:
        """What is the same for all rooms and peers. Looks at every entry and every interface: for who asks now and then."""
        return MachineFacts(
            dht=self.dht(),
            lan=self.lan(),
            interfaces=self._look_around(),
            default_routes=self._count_routes(),
            clock=self._clock_facts(),
            peers=len(self._network.connections),
            max_peers=self._parts.settings.max_peers,
        )

    @property
    def nat(self) -> NatKind:
        """The NAT before us."""
        return NATS[self.internet.firewall]

    def roads(self) -> Counter[Road]:
        """Connections with members, by road."""
        return Counter(each.road for each in self._network.connections.values() if each.proved)

    def unproved(self) -> int:
        """Connections in which nobody has proved anything, though there was time."""
        return sum(self._is_unproved(each) for each in self._network.connections.values())

    def dials_failed(self) -> Counter[DialKind]:
        """Failed dials over the DHT since the swarm started, by kind."""
        counted: Counter[DialKind] = Counter()
        if (swarm := self.internet.swarm) is not None:
            for code, count in swarm.dials.failures.items():
                counted[dial_kind(code)] += count
        return counted

    def dials_opened(self) -> int:
        """Those that opened a connection."""
        return 0 if self.internet.swarm is None else self.internet.swarm.dials.opened

    def dht(self) -> DhtFacts:
        """Our place in the DHT."""
        info, swarm = self.internet.info(), self.internet.swarm
        states = [] if swarm is None else [swarm.status(topic) for topic in swarm.topics]
        wanted = bool(self._parts.orch_mind.joined) or any(room.is_internet for room in self._network.rooms.values())
        return DhtFacts(
            enabled=info.enabled,
            wanted=wanted,
            problem=info.problem if not info.running else "",
            joining=wanted and (not info.running or self.internet.joining),
            answered=info.online or any(status is not None and status.succeeded for status in states),
            nat=self.nat,
            own_bootstrap=bool(self._parts.settings.bootstrap),
        )

    def lan(self) -> LanFacts:
        """The local network."""
        mdns = self._local_network.mdns_info()
        return LanFacts(
            mdns_enabled=mdns.enabled,
            mdns_running=mdns.running,
            mdns_problem=mdns.cause,
            heard_anything=mdns.heard_anything,
            others=mdns.others,
            members=mdns.members,
            dials=Counter(self._local_network.lan.dials.values()),
            connected=self.roads()["lan"],
        )

    def _clock_facts(self) -> ClockFacts:
        now, own = self._wall_clock(), self._parts.identity.key_pair.public_key
        newest: dict[bytes, float] = {}
        for room in self._parts.catalogue.rooms():
            for entry in self._parts.catalogue.entries(room):
                if entry.publisher != own:
                    created = unix_seconds(entry.entry.created)
                    newest[entry.publisher] = max(created, newest.get(entry.publisher, created))
        ahead = [created - now for created in newest.values() if created > now + CLOCK_TOLERANCE_S]
        drift = (now - self._clock()) - self._ahead_at_start
        # Forward says nothing: the monotonic clock stands still while a machine sleeps.
        return ClockFacts(len(ahead), max(ahead, default=0.0), -drift if drift < -CLOCK_TOLERANCE_S else 0.0)

    # --- rooms

    def rooms(self) -> tuple[RoomFacts, ...]:
        """All rooms of our own protocol."""
        return tuple(self.room(room) for room in self._network.rooms.values())

    def room(self, room: JoinedRoom) -> RoomFacts:
        """One of them."""
        status = self._status(room)
        seen = frozenset[bytes]() if status is None else status.peers
        members = {link.peer_key: link.connection.road for link in self._network.links(room.key.room_id)}
        counts: Counter[str] = Counter()
        failed = []
        for key in seen - members.keys():
            dial = self._dial(key)
            kind = self._kind_of(key, dial)
            counts[kind] += 1
            if kind == "failed" and dial is not None:
                failed.append(dial)
        return RoomFacts(
            label=room.label,
            on_internet=room.is_internet,
            members_relay=room.is_private,
            announced=status is not None and status.is_server and status.succeeded,
            walking=status is not None and status.refreshing,
            walks=0 if status is None else status.walks,
            walks_failed=0 if status is None else status.failures,
            seen=len(seen),
            connected=Counter(members.values()),
            unproved=counts["unproved"],
            blocked=counts["blocked"],
            waiting=counts["waiting"],
            failed=tuple(failed),
            wrong_proofs=self._network.bad_input["proof"],
        )

    def _kind_of(self, key: bytes, dial: DialFacts | None) -> str:
        """What becomes of a peer that is announced in a room's topic and is no member of it as far as we know."""
        connection, meeting = self._network.connections.get(key), self._network.meetings.get(key)
        if self._parts.keyring.standing(key) is Standing.BLOCKED:
            return "blocked"
        if connection is not None:
            return "unproved" if connection.proved or self._is_unproved(connection) else "waiting"
        if dial is not None:
            return "failed"
        return "unproved" if meeting is not None and not meeting.proved and not meeting.refusal else "waiting"

    def _status(self, room: JoinedRoom) -> TopicStatus | None:
        swarm = self.internet.swarm
        return None if swarm is None or not room.is_internet else swarm.status(room.key.topic)

    # --- peers

    def peer(self, key: bytes) -> PeerFacts:
        """One peer, known or not."""
        network, swarm = self._network, self.internet.swarm
        connection, meeting = network.connections.get(key), self._meeting(key)
        dialled = None if swarm is None else swarm.machine.connections.get(key)
        return PeerFacts(
            key=key.hex(),
            ourselves=key == self._parts.identity.key_pair.public_key,
            road=None if connection is None else connection.road,
            rooms=() if connection is None else self._labels(connection),
            unproved=connection is not None and self._is_unproved(connection),
            orch_mind=key in self._parts.orch_mind.peer_keys,
            blocked=self._parts.keyring.standing(key) is Standing.BLOCKED,
            seen_in=self._seen_in(key),
            remembered_s=self._remembered(key),
            members_relay=self._members_relay(key),
            relay_known=network.acquaintances.introductions.relay_for(key) is not None,
            dialling=dialled is not None and dialled.state is ConnectionState.DIALLING,
            dial=self._dial(key),
            meeting=meeting,
        )

    def known_keys(self) -> set[bytes]:
        """Peers that a unique prefix may mean: those met, dialled, announced or remembered."""
        swarm, members = self.internet.swarm, self._network.acquaintances.members
        keys = set(self._network.connections) | self._parts.orch_mind.peer_keys
        keys |= {row.key for room_id in self._network.rooms for row in members.of(room_id)}
        if swarm is not None:
            keys |= {report.public_key for report in swarm.dials.reports()}
            for topic in swarm.topics:
                if (status := swarm.status(topic)) is not None:
                    keys |= status.peers
        return keys

    def _labels(self, connection: PeerConnection) -> tuple[str, ...]:
        return tuple(sorted(self._network.rooms[link.room_id].label for link in connection.proved))

    def _seen_in(self, key: bytes) -> tuple[str, ...]:
        rooms = self._network.rooms.values()
        states = ((room, self._status(room)) for room in rooms)
        return tuple(sorted(room.label for room, status in states if status is not None and key in status.peers))

    def _members_relay(self, key: bytes) -> bool:
        states = ((room.is_private, self._status(room)) for room in self._network.rooms.values())
        seen_in = [is_private for is_private, status in states if status is not None and key in status.peers]
        return any(seen_in) or not seen_in

    def _remembered(self, key: bytes) -> float | None:
        rows = (row for room_id in self._network.rooms for row in self._network.acquaintances.members.of(room_id))
        last = max((row.last_seen for row in rows if row.key == key), default=None)
        return None if last is None else max(0.0, self._wall_clock() - last)

    def _dial(self, key: bytes) -> DialFacts | None:
        """The newest dial, if it failed and nothing newer is known."""
        swarm, met = self.internet.swarm, self._network.meetings.get(key)
        report = None if swarm is None else swarm.dials.get(key)
        if report is None or report.code is None or (met is not None and met.at > report.at):
            return None
        return dial_facts(report, self._clock())

    def _meeting(self, key: bytes) -> MeetingFacts | None:
        met = self._network.meetings.get(key)
        if met is None:
            return None
        return MeetingFacts(met.road, met.proved, met.refusal, met.reason, self._clock() - met.at)

    def _is_unproved(self, connection: PeerConnection) -> bool:
        return not connection.proved and self._clock() - connection.connected_at > PROOF_EXPECTED_S


def dial_facts(report: DialReport, now: float) -> DialFacts:
    """A failed dial as the diagnosis wants it."""
    assert report.code is not None
    return DialFacts(
        kind=dial_kind(report.code),
        local_nat=NATS.get(report.local_firewall, "unknown"),
        remote_nat=NATS.get(report.remote_firewall, "unknown"),
        ago_s=max(0.0, now - report.at),
        failures=report.failures,
        relay_tried=report.relay is not None,
        detail=report.detail,
    )


def only_positive(counts: Mapping[K, int]) -> dict[str, int]:
    """As a plain object, without what did not happen."""
    return {kind: count for kind, count in counts.items() if count}
