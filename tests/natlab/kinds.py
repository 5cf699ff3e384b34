"""How the hosts of the lab are connected: the kinds of NAT and firewall, as nftables rules.

Every kind is one network namespace per host, with a router of its own where there is NAT. What arrives at a router
uninvited is dropped before connection tracking keeps it: an entry would take the port from the host behind.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from .namespaces import Namespace

if TYPE_CHECKING:
    from .backbone import Backbone

FORWARDED_PORT = 49737
"""Of the kind `forwarded`: the first port a node tries to bind."""

SHARED = ("same", "same-isolated")
"""Kinds of two hosts behind one router."""
KINDS = ("open", "blocked", "consistent", "fullcone", "forwarded", "double", "random", *SHARED)

HOST, ROUTER = "192.168.1.2", "192.168.1.1"
FIRST_HOST = 2
"""Last number of the address of the first host behind a router; the others follow."""
INNER, OUTER = "100.64.1.2", "100.64.1.1"

BLOCKED = """
table ip lab {
  chain in { type filter hook input priority 0; policy drop; iifname "lo" accept; ct state established,related accept; }
}
"""

NAT = """
table ip lab {{
  chain in {{ type filter hook input priority 0; policy drop; iifname "lo" accept; }}
  chain through {{
    type filter hook forward priority 0; policy drop;
    iifname "lan" accept; ct state established,related accept; {let_in}
  }}
  chain before {{ type nat hook prerouting priority -100; {before} }}
  chain after {{ type nat hook postrouting priority 100; oifname "wan" {masquerade}; }}
}}
"""


def _nat(masquerade: str = "masquerade", before: str = "", let_in: str = "") -> str:
    return NAT.format(masquerade=masquerade, before=before, let_in=let_in)


TO_HOST = f'iifname "wan" meta l4proto udp {{port}} dnat to {HOST};'
LET_IN = "ct status dnat accept;"
RULES = {
    "consistent": _nat(),
    "fullcone": _nat(before=TO_HOST.format(port=""), let_in=LET_IN),
    "forwarded": _nat(before=TO_HOST.format(port=f"udp dport {FORWARDED_PORT}"), let_in=LET_IN),
    "random": _nat("masquerade fully-random"),
    "double": _nat(),
    "same": _nat(),
    "same-isolated": _nat(),
}


@dataclass
class Site:
    """One subscriber line with its router, and one or two hosts to run peers on."""

    kind: str
    public: str
    hosts: list[Namespace]
    router: Namespace
    """Nearest to the hosts; the host itself where there is no router."""
    backbone: Backbone
    stack: ExitStack

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        try:
            self.backbone.disconnect([self.public])
        finally:
            self.stack.close()

    def unplug(self, host: int) -> None:
        """Pull a host's cable out of the router; the host keeps its address and routes."""
        self.router.ip(f"link set lan{host} down")

    def plug_in(self, host: int) -> None:
        """Undo `unplug`."""
        self.router.ip(f"link set lan{host} up")


def site(
    kind: str, public: str, backbone: Backbone, *, hosts: int | None = None, delay_s: float = 0.0, loss: float = 0.0
) -> Site:
    """Build a line of that kind with a public address.

    Args:
        hosts: How many are behind the router; else two for the `SHARED` kinds and one for the others. Without a router
            there is one.
    """
    with ExitStack() as stack:
        edge = stack.enter_context(Namespace())
        backbone.connect(edge, [public], delay_s=delay_s, loss=loss)
        behind, router = [edge], edge
        if kind == "blocked":
            edge.filter(BLOCKED)
        elif kind != "open":
            behind, router = _behind_router(kind, edge, hosts or (2 if kind in SHARED else 1), stack)
        return Site(kind, public, behind, router, backbone, stack.pop_all())


def _behind_router(kind: str, edge: Namespace, count: int, stack: ExitStack) -> tuple[list[Namespace], Namespace]:
    _route(edge, RULES[kind])
    router = edge
    if kind == "double":
        router = stack.enter_context(Namespace())
        edge.link("lan", router, "wan")
        edge.ip(f"address add {OUTER}/24 dev lan")
        router.ip(f"address add {INNER}/24 dev wan", f"route add default via {OUTER}")
        _route(router, RULES[kind])
    router.sysctl("bridge.bridge-nf-call-iptables", 0)
    router.ip("link add lan type bridge", "link set lan up", f"address add {ROUTER}/24 dev lan")
    hosts = []
    for number in range(count):
        host = stack.enter_context(Namespace())
        router.link(f"lan{number}", host, "eth0")
        isolated = "on" if kind == "same-isolated" else "off"
        router.ip(f"link set lan{number} master lan", f"link set lan{number} type bridge_slave isolated {isolated}")
        address = f"{ROUTER.rpartition('.')[0]}.{FIRST_HOST + number}"
        host.ip(f"address add {address}/24 dev eth0", f"route add default via {ROUTER}")
        hosts.append(host)
    return hosts, router


def _route(router: Namespace, rules: str) -> None:
    router.sysctl("ipv4.ip_forward", 1)
    router.filter(rules)
