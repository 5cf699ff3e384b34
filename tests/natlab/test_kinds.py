"""The lab's NATs are what they are called, seen with plain sockets."""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING

import pytest

from .backbone import Backbone
from .kinds import FORWARDED_PORT, KINDS, SHARED, Site, site
from .namespaces import Namespace
from .needs import NEEDS_LAB

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = NEEDS_LAB

SERVERS = [f"11.0.0.{number}" for number in range(1, 5)]
PUBLIC = "11.1.0.1"
DELAY_S = 0.01
WAIT_S = 1.0
SILENCE_S = 0.2


@pytest.fixture
def servers() -> Iterator[tuple[Backbone, list[socket.socket]]]:
    """Somebody with four addresses to talk to."""
    with Backbone() as backbone, Namespace() as namespace:
        backbone.connect(namespace, SERVERS)
        sockets = [namespace.udp(host, 1000) for host in SERVERS]
        yield backbone, sockets
        for each in sockets:
            each.close()
        backbone.disconnect(SERVERS)


def received(udp: socket.socket, timeout_s: float = WAIT_S) -> tuple[bytes, tuple[str, int]] | None:
    udp.settimeout(timeout_s)
    try:
        return udp.recvfrom(100)
    except TimeoutError:
        return None


def mappings(here: Site, sockets: list[socket.socket], port: int = 5000) -> list[tuple[str, int]]:
    """How four servers see one socket of the first host; they answer, and it hears them."""
    seen = []
    with here.hosts[0].udp(port=port) as udp:
        for server in sockets:
            udp.sendto(b"hello", server.getsockname())
            heard = received(server)
            assert heard is not None
            seen.append(heard[1])
            server.sendto(b"answer", heard[1])
            assert received(udp) == (b"answer", server.getsockname())
    return seen


@pytest.mark.parametrize("kind", KINDS)
def test_mapping(kind: str, servers: tuple[Backbone, list[socket.socket]]) -> None:
    backbone, sockets = servers
    with site(kind, PUBLIC, backbone) as here:
        seen = mappings(here, sockets)
    assert {host for host, _ in seen} == {PUBLIC}
    ports = {port for _, port in seen}
    assert len(ports) == 4 if kind == "random" else ports == {5000}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("port", [5000, FORWARDED_PORT])
def test_filtering(kind: str, port: int, servers: tuple[Backbone, list[socket.socket]]) -> None:
    """Whether a stranger gets in at the mapping of a socket that talked to somebody else."""
    backbone, sockets = servers
    with site(kind, PUBLIC, backbone) as here, here.hosts[0].udp(port=port) as udp:
        udp.sendto(b"hello", sockets[0].getsockname())
        heard = received(sockets[0])
        assert heard is not None
        sockets[1].sendto(b"stranger", heard[1])
        lets_in = kind in ("open", "fullcone") or (kind == "forwarded" and port == FORWARDED_PORT)
        assert (received(udp, SILENCE_S) is not None) == lets_in


@pytest.mark.parametrize("kind", SHARED)
def test_path_inside(kind: str, servers: tuple[Backbone, list[socket.socket]]) -> None:
    backbone, _ = servers
    with site(kind, PUBLIC, backbone) as here, here.hosts[0].udp() as first, here.hosts[1].udp(port=5000) as second:
        first.sendto(b"neighbour", ("192.168.1.3", 5000))
        assert (received(second, SILENCE_S) is not None) == (kind == "same")
        first.sendto(b"hairpin", (PUBLIC, 5000))
        assert received(second, SILENCE_S) is None


def test_delay_loss_and_ttl(servers: tuple[Backbone, list[socket.socket]]) -> None:
    backbone, sockets = servers
    with site("open", PUBLIC, backbone, delay_s=DELAY_S, loss=0.5) as here, here.hosts[0].udp() as udp:
        started, arrived = time.monotonic(), 0
        for _ in range(200):
            udp.sendto(b"hello", sockets[0].getsockname())
        while received(sockets[0], SILENCE_S) is not None:
            if arrived == 0:
                assert time.monotonic() - started >= DELAY_S
            arrived += 1
        assert 50 < arrived < 150
        udp.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 5)
        for _ in range(20):
            udp.sendto(b"probe", sockets[0].getsockname())
        assert received(sockets[0], SILENCE_S) is None
