"""The findings there are, and how each is said. `docs/connections.md` explains every kind."""

from __future__ import annotations

from typing import Final

from sidecar.control_types import Certainty, Finding, Level

KINDS: Final = (
    "connected", "relayed", "ourselves", "orch-mind", "joining", "waiting",
    "dht-off", "dht-unused", "dht-no-socket", "dht-silent", "nat-random", "nat-unknown",
    "mdns-off", "mdns-broken", "mdns-silent", "mdns-alone", "lan-isolated", "lan-port-closed", "lan-other-program",
    "vpn", "many-routes", "clock-behind", "clock-differs", "clock-set-back",
    "not-announced", "nobody-announced", "alone-on-lan",
    "stale-announce", "needs-relay", "relay-failed", "holepunch-failed", "holepunch-unknown", "peer-refuses", "incompatible",
    "timeout", "dial-failed",
    "nobody-proved", "wrong-proof", "blocked", "peer-limit", "left-without-proof", "lost", "unknown-peer",
)  # fmt: skip
"""Short names of the findings, for programs."""


def finding(
    kind: str, level: Level, what: str, cause: str, next_step: str = "", certainty: Certainty = "certain"
) -> Finding:
    """One finding, of a kind that there is."""
    assert kind in KINDS, kind
    return Finding(kind, level, what, cause, next_step, certainty)


def plural(count: int, one: str, many: str | None = None) -> str:
    """`1 peer`, `2 peers`."""
    return f"{count} {one if count == 1 else many or one + 's'}"
