"""What is wrong with this machine's own place in the networks, whatever the room or peer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .findings import finding, plural

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sidecar.control_types import Finding

    from .facts import ClockFacts, DhtFacts, LanFacts, MachineFacts

BOOTSTRAP_NEXT = "Check the addresses given with --bootstrap, that those nodes run, and that UDP to them is allowed."
UDP_NEXT = (
    "Check that there is internet at all, and that this network lets UDP out (some offices and hotels do not); "
    "else name nodes of your own with --bootstrap."
)


def diagnose_machine(facts: MachineFacts) -> tuple[Finding, ...]:
    """All that is found, the worst first. Empty when nothing stands in the way."""
    found = [
        *diagnose_dht(facts.dht),
        *diagnose_lan(facts.lan),
        *diagnose_ways_out(facts),
        *diagnose_clock(facts.clock),
    ]
    return worst_first(found)


def worst_first(found: Sequence[Finding]) -> tuple[Finding, ...]:
    """In the order in which to read them; what is equally bad stays as it was."""
    return tuple(sorted(found, key=lambda each: ("fail", "warn", "ok").index(each.level)))


def diagnose_dht(dht: DhtFacts) -> list[Finding]:
    """Whether the DHT can find us and we others."""
    if not dht.enabled:
        return [finding("dht-off", "ok", "The DHT is not used.", "It is switched off with --no-dht.")]
    if not dht.wanted:
        return [finding("dht-unused", "ok", "The DHT is not used yet.", "No room on the internet is joined.")]
    if dht.problem:
        what, cause = "No socket can be opened for the DHT.", f"The system says: {dht.problem}."
        return [finding("dht-no-socket", "fail", what, cause, "Is there a network at all? See --listen, too.")]
    if dht.joining and not dht.answered:
        return [finding("joining", "warn", "The DHT has not answered yet.", "It was asked a moment ago.", "Ask again.")]
    if not dht.answered:
        return [_silent(dht)]
    if dht.nat == "random":
        cause = "The router before this machine uses another port for every destination."
        step = "Behind another such router a peer needs a member that relays; forwarding a UDP port here helps as well."
        return [finding("nat-random", "ok", "Peers behind routers of the same kind cannot be reached.", cause, step)]
    if dht.nat == "unknown":
        cause = "Too few nodes have told yet, or they do not agree."
        return [finding("nat-unknown", "ok", "How others see this machine is not known.", cause, "Ask again soon.")]
    return []


def _silent(dht: DhtFacts) -> Finding:
    what = "No node of the DHT answers."
    if dht.own_bootstrap:
        cause = "The nodes given with --bootstrap do not run, or UDP to them is stopped."
        return finding("dht-silent", "fail", what, cause, BOOTSTRAP_NEXT, "likely")
    cause = "There is no internet, or something on the way (a firewall, a VPN) stops UDP."
    return finding("dht-silent", "fail", what, cause, UDP_NEXT, "likely")


def diagnose_lan(lan: LanFacts) -> list[Finding]:
    """Whether machines of the same network see and reach each other."""
    if not lan.mdns_enabled:
        cause = "Discovery is switched off with --no-mdns."
        found = [finding("mdns-off", "ok", "Nobody is looked for on the local network.", cause)]
    elif not lan.mdns_running:
        what, cause = "Nobody can be found on the local network.", lan.mdns_problem or "Discovery does not run"
        step = "Another program may hold UDP port 5353; otherwise give --peer HOST:PORT."
        found = [finding("mdns-broken", "fail", what, f"{cause.rstrip('.')}.", step)]
    else:
        found = _seen_by_mdns(lan)
    return [*_dialled(lan), *found]


def _seen_by_mdns(lan: LanFacts) -> list[Finding]:
    if lan.others:
        return []
    if lan.heard_anything:
        what = "No other sidecar is seen on this local network."
        cause = "Multicast works: other devices, or programs of this machine, were heard."
        return [finding("mdns-alone", "ok", what, cause, "Is `ollaswarm up` running on the other machine?", "likely")]
    what = "Nothing at all was heard by multicast on the local network."
    cause = (
        "Nobody else is there, or the network or a firewall (UDP port 5353) keeps multicast back, as guest Wi-Fi does."
    )
    step = "Allow UDP port 5353, leave the guest network or the VPN, or give --peer HOST:PORT."
    return [finding("mdns-silent", "warn", what, cause, step, "possible")]


def _dialled(lan: LanFacts) -> list[Finding]:
    if lan.connected:
        return []
    lost = lan.dials.get("timeout", 0) + lan.dials.get("unreachable", 0)
    refused, other = lan.dials.get("refused", 0), lan.dials.get("handshake", 0)
    found = []
    if lost and lan.members:
        what = f"{plural(lan.members, 'member')} announced on the local network, and no connection gets through."
        cause = (
            "The Wi-Fi keeps its devices apart (client isolation), or a firewall on the other machine drops packets."
        )
        step = "Allow ollaswarm on the other machine's firewall; switch off client or AP isolation, or use a cable."
        found.append(finding("lan-isolated", "warn", what, cause, step, "likely"))
    elif lost:
        what = f"{plural(lost, 'address', 'addresses')} on the local network did not answer."
        cause = "The machine is off, or a firewall drops packets."
        step = "Check that the other side runs, its --listen port, and firewalls."
        found.append(finding("lan-isolated", "warn", what, cause, step, "possible"))
    if refused:
        what = f"{plural(refused, 'machine')} on the local network answered that nothing listens there."
        cause = "Its sidecar ended a moment ago or has another port now, or a firewall there rejects."
        step = "Start it again, or give it a fixed --listen HOST:PORT that its firewall allows."
        found.append(finding("lan-port-closed", "warn", what, cause, step))
    if other:
        what, cause = "Something on the local network answers that is no sidecar.", "Another program has that port."
        found.append(finding("lan-other-program", "warn", what, cause, "Check the address given with --peer."))
    return found


def diagnose_ways_out(facts: MachineFacts) -> list[Finding]:
    """A VPN is only worth a warning where something does not work: most of the time it does no harm."""
    troubled = facts.peers == 0 and (facts.dht.wanted or facts.lan.members > 0)
    found = []
    if facts.tunnels:
        what = f"A VPN is up ({', '.join(facts.tunnels[:4])})."
        cause = (
            "It may take the way to the local network or to the internet, and hides which network this machine is in."
        )
        step = "If a peer cannot be reached, try without it, or let it leave local addresses and UDP alone."
        found.append(finding("vpn", "warn" if troubled else "ok", what, cause, step, "possible"))
    if facts.default_routes is not None and facts.default_routes > 1:
        what = f"There are {facts.default_routes} ways out to the internet."
        cause = "Packets to different peers may leave by different ones, with another address each."
        step = "If peers cannot be reached, switch one off, for instance Wi-Fi beside a cable."
        found.append(finding("many-routes", "warn" if troubled else "ok", what, cause, step, "possible"))
    return found


def diagnose_clock(clock: ClockFacts) -> list[Finding]:
    """A wrong clock does not stop a connection, but entries of those who connect count as expired or not yet made."""
    minutes = clock.ahead_s / 60
    step = "Let the system set its clock by the network (NTP)."
    found = []
    if clock.publishers_ahead > 1:
        what = f"{clock.publishers_ahead} publishers' entries are dated up to {minutes:.0f} minutes from now."
        found.append(finding("clock-behind", "warn", what, "The clock of this machine is behind.", step, "likely"))
    elif clock.publishers_ahead:
        what = f"A publisher's entry is dated {minutes:.0f} minutes from now."
        cause = "One of the two clocks is wrong."
        found.append(finding("clock-differs", "warn", what, cause, step, "possible"))
    if clock.set_back_s:
        what = f"The clock was set back by {clock.set_back_s / 60:.0f} minutes while the sidecar ran."
        cause = "Somebody or the network corrected it: what was made before may be dated wrongly."
        found.append(finding("clock-set-back", "warn", what, cause, "Check that it is right now."))
    return found
