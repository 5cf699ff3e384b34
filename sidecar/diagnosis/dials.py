"""What a failed dial over the DHT means."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from .findings import finding

if TYPE_CHECKING:
    from sidecar.control_types import Finding, NatKind

    from .facts import DialFacts

NAT_WORDS: dict[NatKind, str] = {
    "open": "no router in the way",
    "consistent": "a router that keeps ports",
    "random": "a router with another port for every destination",
    "unknown": "a router of unknown kind",
}
RELAY_NEXT = "Have a third member of the room online that both reach: it relays."
NO_RELAY_NEXT = (
    "Nobody relays in a room that anybody may enter: meet in a private one, with a third member that both reach."
)
PORT_NEXT = "Or forward a UDP port to one of the two, or put both into one network."


def explain_dial(dial: DialFacts, who: str, *, members_relay: bool = True) -> Finding:
    """The finding of a dial that failed. `who` begins the sentence: `The peer`, `Each of 2 peers`."""
    explain = EXPLANATIONS.get(dial.kind)
    if explain is not None:
        kind, what, cause, step, certain = explain
        return finding(kind, "warn", f"{who} {what}", cause, step, "certain" if certain else "likely")
    if dial.kind in ("holepunch", "double-random"):
        return _punching(dial, who, RELAY_NEXT if members_relay else NO_RELAY_NEXT)
    cause = dial.detail.rstrip(".") or "The dial failed"
    return finding("dial-failed", "warn", f"{who} could not be reached.", f"{cause}.", "Try again.", "possible")


def _punching(dial: DialFacts, who: str, relay_step: str) -> Finding:
    """Both NATs are in the way, and it depends on their kinds what helps."""
    ours, theirs = NAT_WORDS[dial.local_nat], NAT_WORDS[dial.remote_nat]
    sides = f"Here is {ours}; there is {theirs}."
    if dial.kind == "double-random" or (dial.local_nat, dial.remote_nat) == ("random", "random"):
        if dial.relay_tried:
            return explain_dial(replace(dial, kind="relay"), who)
        what = "can only be reached through a relay."
        cause = "Both routers use another port for every destination, so neither side can tell where to send."
        step = f"{relay_step} {PORT_NEXT}"
        return finding("needs-relay", "warn", f"{who} {what}", cause, step)
    if "unknown" in (dial.local_nat, dial.remote_nat):
        cause = f"No packet got through; one side could not find out which router it is behind. {sides}"
        step = "Try again soon. If it stays so, a firewall may be dropping UDP on that side."
        return finding("holepunch-unknown", "warn", f"{who} cannot be reached yet.", cause, step, "likely")
    cause = f"No packet got through the routers. {sides} A firewall may stop UDP on one side."
    step = f"Try again. {relay_step} {PORT_NEXT}"
    return finding(
        "holepunch-failed", "warn", f"{who} could not be reached through the routers.", cause, step, "likely"
    )


# kind of dial -> (kind of finding, what, cause, next step, whether that is certain)
EXPLANATIONS = {
    "not-found": (
        "stale-announce",
        "cannot be found by key.",
        "Nobody in the DHT can pass anything on to it: it went away without a goodbye, or lost its network.",
        "Is it running, and online? What is left of its announce is gone after half an hour at the latest.",
        False,
    ),
    "silent": (
        "stale-announce",
        "is announced, and nobody there answers.",
        "It ended without a goodbye, lost its network, or has blocked this machine (it does not say which).",
        "Is it running, and online? What is left of its announce is gone after half an hour at the latest.",
        False,
    ),
    "relay": (
        "relay-failed",
        "was to be reached through a member that relays, and was not.",
        "The relaying member does not reach it, or has no room left.",
        "Have another member online that both reach.",
        False,
    ),
    "refused": ("peer-refuses", "answered with an error.", "It does not want the connection.", "Ask its owner.", True),
    "incompatible": (
        "incompatible",
        "speaks another version of the protocol.",
        "One of the two programs is older.",
        "Update both.",
        True,
    ),
    "timeout": (
        "timeout",
        "was reached and then said nothing.",
        "The line is bad, or that machine is overloaded or about to go away.",
        "Try again.",
        False,
    ),
}
