"""What `ollaswarm doctor` says of a local network that keeps its machines apart: part of `make soak`."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.processes import Sidecar, wait_for

from .backbone import Backbone
from .kinds import site
from .needs import NEEDS_LAB

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PATIENCE_S = 60.0
"""A dial that nobody answers takes ten seconds."""
NO_OLLAMA = "http://127.0.0.1:9"
FIREWALL = """table inet host {{
  chain input {{ type filter hook input priority 0; policy accept; iifname "eth0" meta l4proto tcp ct state new {what}; }}
}}
"""
pytestmark = [
    pytest.mark.soak,
    pytest.mark.timeout(300),
    NEEDS_LAB,
]


@contextmanager
def two_in_a_house(kind: str, folder: Path, *, firewall: str = "") -> Iterator[tuple[Sidecar, Sidecar]]:
    """Two sidecars behind one router, in the room of the local network, with a firewall on each."""
    with ExitStack() as stack:
        backbone = stack.enter_context(Backbone())
        house = stack.enter_context(site(kind, "11.1.0.1", backbone))
        sidecars = []
        for number, host in enumerate(house.hosts):
            if firewall:
                host.filter(FIREWALL.format(what=firewall))
            up = Sidecar(folder / str(number), NO_OLLAMA, listen="0.0.0.0:0", mdns=True, prefix=host.prefix)
            up.start()
            stack.callback(up.stop)
            up.ok("room", "join", "local")
            sidecars.append(up)
        yield sidecars[0], sidecars[1]


def kinds(sidecar: Sidecar) -> list[str]:
    answer: dict[str, Any] = sidecar.run("doctor", "--room", "local", "--json").json
    return [finding["kind"] for finding in answer["findings"]]


@pytest.mark.parametrize(
    ("kind", "firewall", "found"),
    [
        ("same", "", "connected"),
        ("same", "drop", "lan-isolated"),
        ("same", "reject with tcp reset", "lan-port-closed"),
        ("same-isolated", "", "mdns-silent"),
    ],
    ids=["nothing in the way", "TCP dropped", "TCP rejected", "hosts kept apart"],
)
def test_what_is_in_the_way_at_home_is_named(kind: str, firewall: str, found: str, tmp_path: Path) -> None:
    with two_in_a_house(kind, tmp_path, firewall=firewall) as sidecars:
        for sidecar in sidecars:
            wait_for(lambda sidecar=sidecar: found in kinds(sidecar), found, PATIENCE_S)
