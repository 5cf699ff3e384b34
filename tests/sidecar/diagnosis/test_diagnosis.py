"""The diagnosis as a table: these facts, that finding."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import pytest

from sidecar.control_types import NatKind
from sidecar.diagnosis import (
    KINDS,
    ClockFacts,
    DhtFacts,
    DialFacts,
    DialKind,
    Interface,
    LanFacts,
    MachineFacts,
    MeetingFacts,
    PeerFacts,
    RoomFacts,
    diagnose_machine,
    diagnose_peer,
    diagnose_room,
)

if TYPE_CHECKING:
    from sidecar.control_types import Finding

PAGE = Path(__file__).parents[3] / "docs" / "connections.md"
KEY = "ab" * 32
WELL = MachineFacts(dht=DhtFacts(nat="consistent"), lan=LanFacts(others=1, members=1, connected=1), peers=1)
LONELY = replace(WELL, lan=LanFacts(others=1), peers=0)
ROOM = RoomFacts("team", on_internet=True, announced=True, walks=2)
PEER = PeerFacts(KEY)


def kinds(findings: tuple[Finding, ...]) -> list[str]:
    return [each.kind for each in findings]


def test_nothing_is_found_where_nothing_is_wrong() -> None:
    assert diagnose_machine(WELL) == ()


@pytest.mark.parametrize(
    ("changes", "kind", "level", "said"),
    [
        ({"dht": DhtFacts(enabled=False)}, "dht-off", "ok", "--no-dht"),
        ({"dht": DhtFacts(wanted=False)}, "dht-unused", "ok", "No room on the internet"),
        ({"dht": DhtFacts(problem="no network")}, "dht-no-socket", "fail", "no network"),
        ({"dht": DhtFacts(joining=True, answered=False)}, "joining", "warn", "a moment ago"),
        ({"dht": DhtFacts(answered=False)}, "dht-silent", "fail", "UDP"),
        ({"dht": DhtFacts(answered=False, own_bootstrap=True)}, "dht-silent", "fail", "--bootstrap"),
        ({"dht": DhtFacts(nat="random")}, "nat-random", "ok", "another port"),
        ({"dht": DhtFacts(nat="unknown")}, "nat-unknown", "ok", "Too few"),
        ({"lan": LanFacts(mdns_enabled=False)}, "mdns-off", "ok", "--no-mdns"),
        ({"lan": LanFacts(mdns_running=False, mdns_problem="in use")}, "mdns-broken", "fail", "in use"),
        ({"lan": LanFacts()}, "mdns-alone", "ok", "Multicast works"),
        ({"lan": LanFacts(heard_anything=False)}, "mdns-silent", "warn", "5353"),
        ({"lan": LanFacts(others=1, members=1, dials={"timeout": 1})}, "lan-isolated", "warn", "isolation"),
        ({"lan": LanFacts(others=1, members=1, dials={"unreachable": 1})}, "lan-isolated", "warn", "isolation"),
        ({"lan": LanFacts(others=1, dials={"timeout": 1})}, "lan-isolated", "warn", "off"),
        ({"lan": LanFacts(others=1, members=1, dials={"refused": 1})}, "lan-port-closed", "warn", "--listen"),
        ({"lan": LanFacts(others=1, dials={"handshake": 1})}, "lan-other-program", "warn", "Another program"),
        ({"interfaces": (Interface("wg0", True),)}, "vpn", "ok", "wg0"),
        ({"interfaces": (Interface("wg0", True),), "peers": 0}, "vpn", "warn", "without it"),
        ({"default_routes": 2}, "many-routes", "ok", "2 ways"),
        ({"default_routes": 2, "peers": 0}, "many-routes", "warn", "switch one off"),
        ({"clock": ClockFacts(publishers_ahead=2, ahead_s=3600)}, "clock-behind", "warn", "60 minutes"),
        ({"clock": ClockFacts(publishers_ahead=1, ahead_s=3600)}, "clock-differs", "warn", "One of the two"),
        ({"clock": ClockFacts(set_back_s=7200)}, "clock-set-back", "warn", "120 minutes"),
    ],
)
def test_machine(changes: dict[str, object], kind: str, level: str, said: str) -> None:
    (found,) = diagnose_machine(replace(WELL, **changes))  # type: ignore[arg-type]
    assert (found.kind, found.level) == (kind, level)
    assert said in " ".join((found.what, found.cause, found.next))


@pytest.mark.parametrize(
    "lan",
    [
        LanFacts(others=1, members=1, connected=1, dials={"timeout": 3}),
        LanFacts(others=1, members=1, dials={"connected": 1}),
    ],
)
def test_a_local_network_that_carries_somebody_is_not_isolated(lan: LanFacts) -> None:
    assert diagnose_machine(replace(WELL, lan=lan)) == ()


def test_the_worst_comes_first() -> None:
    machine = replace(WELL, dht=DhtFacts(answered=False), clock=ClockFacts(set_back_s=900), default_routes=2)
    assert [each.level for each in diagnose_machine(machine)] == ["fail", "warn", "ok"]


@pytest.mark.parametrize(
    ("machine", "room", "kind"),
    [
        (WELL, replace(ROOM, connected={"lan": 1, "relayed": 2}), "connected"),
        (LONELY, ROOM, "nobody-announced"),
        (LONELY, replace(ROOM, announced=False, walks=0, walking=True), "joining"),
        (LONELY, replace(ROOM, announced=False, walks_failed=3), "not-announced"),
        (LONELY, replace(ROOM, seen=1, waiting=1), "waiting"),
        (LONELY, replace(ROOM, seen=1, failed=(DialFacts("silent"),)), "stale-announce"),
        (LONELY, replace(ROOM, seen=1, failed=(DialFacts("not-found"),)), "stale-announce"),
        (LONELY, replace(ROOM, seen=1, failed=(DialFacts("double-random", "random", "random"),)), "needs-relay"),
        (LONELY, replace(ROOM, seen=1, unproved=1), "nobody-proved"),
        (LONELY, replace(ROOM, seen=1, wrong_proofs=1), "wrong-proof"),
        (LONELY, replace(ROOM, seen=1, blocked=1), "blocked"),
        (replace(WELL, peers=64), replace(ROOM, seen=1), "peer-limit"),
        (replace(LONELY, dht=DhtFacts(answered=False)), ROOM, "dht-silent"),
        (replace(LONELY, dht=DhtFacts(enabled=False)), ROOM, "dht-off"),
        (LONELY, RoomFacts("local", on_internet=False), "alone-on-lan"),
        (replace(LONELY, lan=LanFacts(heard_anything=False)), RoomFacts("local", on_internet=False), "mdns-silent"),
    ],
)
def test_room(machine: MachineFacts, room: RoomFacts, kind: str) -> None:
    assert kind in kinds(diagnose_room(machine, room))


def test_a_room_with_members_is_not_told_of_what_does_no_harm() -> None:
    machine = replace(WELL, dht=DhtFacts(nat="random"), interfaces=(Interface("tun0", True),), default_routes=2)
    assert kinds(diagnose_room(machine, replace(ROOM, connected={"direct": 1}))) == ["connected"]


def test_the_local_room_is_not_told_of_the_dht() -> None:
    machine = replace(LONELY, dht=DhtFacts(answered=False))
    assert kinds(diagnose_room(machine, RoomFacts("local", on_internet=False))) == ["alone-on-lan"]


def test_peers_that_fail_alike_are_one_finding() -> None:
    failed = (DialFacts("silent"), DialFacts("not-found"), DialFacts("double-random"), DialFacts("silent"))
    found = diagnose_room(LONELY, replace(ROOM, seen=4, failed=failed))
    assert kinds(found) == ["stale-announce", "needs-relay"]
    assert found[0].what.startswith("Each of 3 peers found")


MET = MeetingFacts("direct", proved=True, reason="the peer said goodbye", ago_s=30)


@pytest.mark.parametrize(
    ("machine", "peer", "kind", "level", "said"),
    [
        (WELL, replace(PEER, ourselves=True), "ourselves", "ok", "own key"),
        (WELL, replace(PEER, orch_mind=True), "orch-mind", "ok", "Orch-Mind"),
        (WELL, replace(PEER, road="direct", rooms=("team",)), "connected", "ok", "team"),
        (WELL, replace(PEER, road="lan", rooms=("team",)), "connected", "ok", "local network"),
        (WELL, replace(PEER, road="relayed", rooms=("team",)), "relayed", "ok", "member relays"),
        (WELL, replace(PEER, road="direct", unproved=True), "nobody-proved", "warn", "Compare the room codes"),
        (WELL, replace(PEER, road="direct"), "waiting", "warn", "on their way"),
        (WELL, replace(PEER, blocked=True, dial=DialFacts("silent")), "blocked", "fail", f"trust {KEY}"),
        (replace(WELL, peers=64), PEER, "peer-limit", "fail", "--max-peers"),
        (WELL, replace(PEER, meeting=MeetingFacts("lan", False, "proofs")), "wrong-proof", "fail", "wrong proofs"),
        (WELL, replace(PEER, meeting=MeetingFacts("lan", False, "full")), "peer-limit", "warn", "no more peers"),
        (WELL, replace(PEER, meeting=MET), "lost", "warn", "said goodbye"),
        (WELL, replace(PEER, meeting=replace(MET, proved=False)), "left-without-proof", "warn", "blocked this machine"),
        (WELL, replace(PEER, dialling=True), "waiting", "warn", "being dialled"),
        (WELL, replace(PEER, seen_in=("team",)), "waiting", "warn", "announced in team"),
        (WELL, replace(PEER, remembered_s=7300), "unknown-peer", "warn", "2 hours ago"),
        (WELL, PEER, "unknown-peer", "warn", "never met"),
    ],
)
def test_peer(machine: MachineFacts, peer: PeerFacts, kind: str, level: str, said: str) -> None:
    found = next(each for each in diagnose_peer(machine, peer) if each.kind == kind)
    assert found.level == level
    assert said in " ".join((found.what, found.cause, found.next))


@pytest.mark.parametrize(
    ("dial", "kind", "said"),
    [
        (DialFacts("not-found"), "stale-announce", "found by key"),
        (DialFacts("silent"), "stale-announce", "nobody there answers"),
        (DialFacts("double-random", "random", "random"), "needs-relay", "third member"),
        (DialFacts("holepunch", "random", "random"), "needs-relay", "relays"),
        (DialFacts("holepunch", "consistent", "random"), "holepunch-failed", "keeps ports"),
        (DialFacts("holepunch", "unknown", "consistent"), "holepunch-unknown", "dropping UDP"),
        (DialFacts("relay"), "relay-failed", "another member"),
        (DialFacts("double-random", "random", "random", relay_tried=True), "relay-failed", "another member"),
        (DialFacts("refused"), "peer-refuses", "error"),
        (DialFacts("incompatible"), "incompatible", "Update both"),
        (DialFacts("timeout"), "timeout", "said nothing"),
        (DialFacts("other", detail="no more sockets"), "dial-failed", "no more sockets"),
    ],
)
def test_failed_dial(dial: DialFacts, kind: str, said: str) -> None:
    found = diagnose_peer(WELL, replace(PEER, dial=dial, seen_in=("team",)))
    assert kinds(found) == [kind]
    assert said in " ".join((found[0].what, found[0].cause, found[0].next))


@pytest.mark.parametrize("local", get_args(NatKind))
@pytest.mark.parametrize("remote", get_args(NatKind))
def test_both_sides_are_named_where_punching_failed(local: NatKind, remote: NatKind) -> None:
    (found,) = diagnose_peer(WELL, replace(PEER, dial=DialFacts("holepunch", local, remote)))
    if local == remote == "random":
        assert "Both routers" in found.cause
    else:
        assert "Here is" in found.cause
        assert "there is" in found.cause


def test_a_machine_that_is_cut_off_explains_it_before_the_peer_does() -> None:
    found = diagnose_peer(replace(WELL, dht=DhtFacts(answered=False)), PEER)
    assert kinds(found) == ["dht-silent", "unknown-peer"]


def test_where_nobody_relays_a_private_room_is_the_next_step() -> None:
    dial = DialFacts("double-random", "random", "random")
    peer = diagnose_peer(WELL, replace(PEER, dial=dial, members_relay=False))[0]
    room = diagnose_room(LONELY, replace(ROOM, seen=1, failed=(dial,), members_relay=False))[0]
    for found in (peer, room):
        assert found.kind == "needs-relay"
        assert "meet in a private one" in found.next


def test_a_relay_that_is_known_by_now_is_named() -> None:
    dial = DialFacts("double-random", "random", "random")
    found = diagnose_peer(WELL, replace(PEER, dial=dial, relay_known=True))
    assert kinds(found) == ["needs-relay", "waiting"]
    assert kinds(diagnose_peer(WELL, replace(PEER, dial=DialFacts("silent"), relay_known=True))) == ["stale-announce"]


def test_a_dht_that_is_not_used_may_be_the_reason() -> None:
    assert "dht-unused" in kinds(diagnose_peer(replace(WELL, dht=DhtFacts(wanted=False)), PEER))
    quiet = replace(WELL, lan=LanFacts(mdns_enabled=False))
    assert "mdns-off" in kinds(diagnose_peer(quiet, PEER))
    assert kinds(diagnose_peer(quiet, replace(PEER, dial=DialFacts("silent")))) == ["stale-announce"]


def test_every_kind_of_dial_is_explained() -> None:
    for kind in get_args(DialKind):
        assert diagnose_peer(WELL, replace(PEER, dial=DialFacts(kind)))[0].next


def test_every_finding_is_on_the_page_and_nothing_else() -> None:
    assert sorted(re.findall(r"^### `([a-z-]+)`", PAGE.read_text("utf-8"), re.M)) == sorted(KINDS)
