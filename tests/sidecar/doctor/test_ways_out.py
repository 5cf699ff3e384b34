"""Which interfaces are a VPN's, and how many ways there are out."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from sidecar.daemon import ways_out
from sidecar.daemon.connections import dial_kind
from sidecar.diagnosis import Interface
from sidecar.metrics import Metrics

if TYPE_CHECKING:
    from pathlib import Path

HEAD = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"
ETH = "eth0\t00000000\t0101A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\n"
WLAN = "wlan0\t00000000\t0101A8C0\t0003\t0\t0\t600\t00000000\t0\t0\t0\n"
LOCAL = "eth0\t0001A8C0\t00000000\t0001\t0\t0\t100\t00FFFFFF\t0\t0\t0\n"
DOWN = "ppp0\t00000000\t0101A8C0\t0002\t0\t0\t100\t00000000\t0\t0\t0\n"


@pytest.mark.parametrize(
    "names",
    [("tun0",), ("utun3",), ("wg0",), ("ppp0",), ("tailscale0",), ("{41B0}", "WireGuard Tunnel"), ("{9}", "My VPN")],
)
def test_tunnels(names: tuple[str, ...]) -> None:
    assert ways_out.is_tunnel(*names)


@pytest.mark.parametrize("name", ["eth0", "wlan0", "en0", "docker0", "br-12ab", "lo", "Ethernet", "vethtun"])
def test_no_tunnels(name: str) -> None:
    assert not ways_out.is_tunnel(name)


def test_only_interfaces_that_are_in_use_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Systems keep tunnels without an IPv4 address around, as macOS its utun0 to utun3."""

    def adapter(name: str, *addresses: tuple[str, bool]) -> SimpleNamespace:
        ips = [SimpleNamespace(ip=ip, is_IPv4=is_ipv4) for ip, is_ipv4 in addresses]
        return SimpleNamespace(name=name, nice_name=name, ips=ips)

    adapters = [
        adapter("lo", ("127.0.0.1", True)),
        adapter("utun0", ("fe80::1", False)),
        adapter("eth0", ("192.168.1.2", True)),
        adapter("tun0", ("10.8.0.2", True)),
    ]
    monkeypatch.setattr("ifaddr.get_adapters", lambda: adapters)
    assert ways_out.interfaces() == (Interface("eth0", False), Interface("tun0", True))


@pytest.mark.parametrize(
    ("lines", "routes"), [(ETH + LOCAL, 1), (ETH + WLAN + LOCAL, 2), (ETH + ETH, 1), (ETH + DOWN, 1), ("short\n", 0)]
)
def test_default_routes(lines: str, routes: int, tmp_path: Path) -> None:
    table = tmp_path / "route"
    table.write_text(HEAD + lines)
    assert ways_out.default_routes(table) == routes


def test_a_system_without_the_table_says_nothing(tmp_path: Path) -> None:
    assert ways_out.default_routes(tmp_path / "none") is None


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("HOLEPUNCH_PROBE_TIMEOUT", "holepunch"),
        ("REMOTE_ABORTED", "holepunch"),
        ("CANNOT_HOLEPUNCH", "holepunch"),
        ("CLOSED", "timeout"),
        ("whatever a stranger sends", "other"),
    ],
)
def test_t21_whatever_the_code_the_kind_is_one_of_a_few(code: str, kind: str) -> None:
    assert dial_kind(code) == kind
    Metrics().dials.labels(dial_kind(code))
