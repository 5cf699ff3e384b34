"""Why one peer is not reachable."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .dials import explain_dial
from .findings import finding
from .machine import diagnose_machine, worst_first

if TYPE_CHECKING:
    from sidecar.control_types import Finding

    from .facts import MachineFacts, MeetingFacts, PeerFacts

# Of what is no fault of this machine, what may be the reason all the same; the second lot only where nothing was dialled.
WAYS_OUT = frozenset({"vpn", "many-routes"})
NOT_USED = frozenset({"dht-off", "dht-unused", "mdns-off"})
ROADS = {
    "lan": "over the local network",
    "direct": "directly over the internet",
    "relayed": "through a relaying member",
}


def diagnose_peer(machine: MachineFacts, peer: PeerFacts) -> tuple[Finding, ...]:
    """All that is found about a peer, the worst first; never empty."""
    if peer.ourselves:
        return (finding("ourselves", "ok", "That is this machine's own key.", "Nobody dials himself."),)
    if peer.orch_mind:
        return (finding("orch-mind", "ok", "Connected, as a user of Orch-Mind.", "It speaks Orch-Mind's messages."),)
    if peer.road is not None:
        return worst_first(_standing(peer))
    found = _in_the_way(machine, peer)
    if peer.dial is not None and not peer.blocked:
        found.append(explained := explain_dial(peer.dial, "The peer", members_relay=peer.members_relay))
        if explained.kind == "needs-relay" and peer.relay_known:
            what, cause = "A member that relays is known by now.", "The next dial goes through it."
            found.append(finding("waiting", "warn", what, cause, "Ask again, or add --dial."))
    if peer.meeting is not None and not peer.blocked:
        found += _met(peer.meeting)
    if not found:
        found.append(_not_tried(peer))
    worth_saying = WAYS_OUT if peer.dial is not None else WAYS_OUT | NOT_USED
    found += [each for each in diagnose_machine(machine) if each.level != "ok" or each.kind in worth_saying]
    return worst_first(found)


def _standing(peer: PeerFacts) -> list[Finding]:
    assert peer.road is not None
    road = ROADS[peer.road]
    if not peer.rooms:
        if not peer.unproved:
            return [finding("waiting", "warn", "Just connected.", "Proofs are on their way.", "Ask again.")]
        what = f"Connected {road}, and it proved none of our rooms."
        cause = "It is in none of them, has another code, or is another program that knows a topic of ours."
        step = "Compare the room codes on both sides."
        return [finding("nobody-proved", "warn", what, cause, step)]
    found = [finding("connected", "ok", f"Connected {road}.", f"Rooms in common: {', '.join(peer.rooms)}.")]
    if peer.road == "relayed":
        what, cause = "A member relays the connection.", "No direct way was found through the routers of both sides."
        step = "It works, at the relaying member's speed. A forwarded UDP port on one side makes it direct."
        found.append(finding("relayed", "ok", what, cause, step))
    return found


def _in_the_way(machine: MachineFacts, peer: PeerFacts) -> list[Finding]:
    found = []
    if peer.blocked:
        what, cause = "You blocked this peer, or follow a list that names it.", "Blocked keys get no connection."
        found.append(finding("blocked", "fail", what, cause, f"`ollaswarm trust {peer.key}` undoes it."))
    if machine.peers >= machine.max_peers:
        what, cause = "No more peers are let in.", f"{machine.peers} are connected, and that is the limit."
        found.append(finding("peer-limit", "fail", what, cause, "Raise --max-peers."))
    return found


def _met(meeting: MeetingFacts) -> list[Finding]:
    """What the newest connection with it, which is over, tells."""
    if meeting.refusal == "proofs":
        what, cause = "We do not talk to this peer any more.", "It gave wrong proofs for rooms of ours."
        step = "Restart both programs after comparing the codes; an honest peer never gives a wrong proof."
        return [finding("wrong-proof", "fail", what, cause, step)]
    if meeting.refusal == "full":
        what, cause = "It connected when no more peers were let in.", "The limit of connections was reached."
        return [finding("peer-limit", "warn", what, cause, "Raise --max-peers.")]
    if meeting.refusal == "blocked":
        return []  # and unblocked since: it dials again by itself
    ended = f"It ended {_ago(meeting.ago_s)}: {meeting.reason.rstrip('.') or 'no reason is known'}."
    if meeting.proved:
        step = "It is dialled again by itself. If it stays away: is it running, and online?"
        return [finding("lost", "warn", f"It was connected {ROADS[meeting.road]}.", ended, step)]
    what = f"It was connected {ROADS[meeting.road]}, and the connection ended before it proved a room."
    cause = f"{ended} It is in none of our rooms, or blocked this machine, or has no room for more peers."
    return [finding("left-without-proof", "warn", what, cause, "Compare the codes, and ask its owner.", "likely")]


def _not_tried(peer: PeerFacts) -> Finding:
    if peer.dialling:
        return finding("waiting", "warn", "It is being dialled.", "A dial takes up to a minute.", "Ask again.")
    if peer.seen_in:
        what = f"It is announced in {', '.join(peer.seen_in)}, and was not dialled yet."
        return finding("waiting", "warn", what, "Its turn has not come.", "Ask again, or add --dial.")
    if peer.remembered_s is not None:
        what = f"It was last met {_ago(peer.remembered_s)}, and is not announced in any room of ours now."
        cause = "It is off, or left the room."
        return finding("unknown-peer", "warn", what, cause, "Is it running? --dial tries it by its key.", "likely")
    what = "It is not announced in any room of ours, and was never met."
    cause = "It is off, in none of our rooms, in another DHT, or the key is not its key."
    step = "Compare with `ollaswarm status` over there, and the room codes. --dial tries it by its key."
    return finding("unknown-peer", "warn", what, cause, step)


def _ago(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s ago"
    if seconds < 7200:
        return f"{seconds / 60:.0f} minutes ago"
    return f"{seconds / 3600:.0f} hours ago" if seconds < 172_800 else f"{seconds / 86_400:.0f} days ago"
