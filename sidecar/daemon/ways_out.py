"""The network interfaces of this machine, as far as they explain why peers are not reached."""

from __future__ import annotations

import re
from pathlib import Path

import ifaddr

from sidecar.diagnosis import Interface

# What VPN programs call their interfaces on Linux, macOS and, as descriptions, on Windows.
TUNNEL = re.compile(
    r"^(tun|tap|wg|utun|ppp|ipsec|tailscale|zt|nordlynx|proton)|\b(vpn|wireguard|tunnel|tap-windows|zerotier)\b", re.I
)
ROUTES = Path("/proc/net/route")
UP_FLAG = 1


def is_tunnel(*names: str) -> bool:
    """Whether an interface of these names is a VPN's."""
    return any(TUNNEL.search(name) for name in names)


def interfaces() -> tuple[Interface, ...]:
    """Those with an IPv4 address, loopback left out. Systems keep tunnels without one around for themselves."""
    found = []
    for adapter in ifaddr.get_adapters():
        hosts = [str(address.ip) for address in adapter.ips if address.is_IPv4]
        if hosts and not all(host.startswith("127.") for host in hosts):
            found.append(Interface(adapter.nice_name, is_tunnel(adapter.name, adapter.nice_name)))
    return tuple(found)


def default_routes(table: Path = ROUTES) -> int | None:
    """Interfaces by which packets may leave for the internet; None where the system keeps no such table (Linux does)."""
    try:
        lines = table.read_text("ascii").splitlines()[1:]
    except (OSError, UnicodeDecodeError):
        return None
    routes = [line.split() for line in lines]
    return len({route[0] for route in routes if len(route) > 3 and route[1] == "00000000" and _is_up(route[3])})


def _is_up(flags: str) -> bool:
    return bool(int(flags, 16) & UP_FLAG)
