"""Hyperswarm against the official one: topics, duplicates, leaving."""

from __future__ import annotations

import secrets
import time
from typing import TYPE_CHECKING, Any

import pytest

from .dht_fixtures import NODES, PAIRS, close, peers, public_key, topic
from .dht_peers import Kind, Peer, transfer

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

pytestmark = [pytest.mark.interop, pytest.mark.usefixtures("node")]

MIB = 1 << 20
SETTLE_S = 5.0


def meet(client: Peer, server: Peer) -> tuple[int, int]:
    """Wait for the connection; its number at both."""
    ours, theirs = client.event("connection"), server.event("connection")
    assert ours["handshakeHash"] == theirs["handshakeHash"]
    assert ours["remotePublicKey"] == theirs["publicKey"]
    return ours["conn"], theirs["conn"]


@PAIRS
@NODES
def test_swarm_join(left: Kind, right: Kind, nodes: Kind, bootstrap: Callable[[Kind], list[str]]) -> None:
    """The right one announces, the left one searches."""
    where = topic()
    with peers(left, right, bootstrap=bootstrap(nodes), kind="swarm") as [client, server]:
        server.call("join", topic=where, server=True, client=False)
        client.call("join", topic=where, server=False, client=True)
        ours = client.event("connection")
        assert ours["topics"] == [where]
        theirs = server.event("connection")
        assert (ours["isInitiator"], theirs["isInitiator"]) == (True, False)
        sent, received = transfer(client, ours["conn"], server, theirs["conn"], MIB)
        assert sent["sha256"] == received["sha256"]


@PAIRS
def test_join_peer(left: Kind, right: Kind, bootstrap: Callable[[Kind], list[str]]) -> None:
    with peers(left, right, bootstrap=bootstrap(right), kind="swarm") as [client, server]:
        server.call("join", topic=topic(), server=True, client=False)
        client.call("joinPeer", publicKey=server.call("info")["publicKey"])
        meet(client, server)


@PAIRS
@pytest.mark.parametrize("greater", ["left", "right"])
def test_both_dial_and_one_connection_stays(
    left: Kind, right: Kind, greater: str, bootstrap: Callable[[Kind], list[str]]
) -> None:
    where = topic()
    seeds = sorted((secrets.token_hex(32) for _ in range(2)), key=public_key, reverse=greater == "left")
    options = {"bootstrap": bootstrap(right), "kind": "swarm"}
    with Peer(left) as first, Peer(right) as second:
        everybody = (first, second)
        _all([(peer, peer.begin("init", seed=seed, **options)) for peer, seed in zip(everybody, seeds, strict=True)])
        for joined in ({"server": True, "client": False}, {"server": False, "client": True}):
            _all([(peer, peer.begin("join", topic=where, **joined)) for peer in everybody])
        _all([(peer, peer.begin("flush")) for peer in everybody])
        for peer in everybody:
            peer.event("connection")
        ours, theirs = _settled(first, second)
        assert len(ours) == 1
        assert ours == theirs


def _all(waiting: list[tuple[Peer, Future[Any]]]) -> None:
    for peer, future in waiting:
        peer.wait(future)


def _settled(first: Peer, second: Peer) -> tuple[set[str], set[str]]:
    """What is open once both have closed the one too many: they do not do so at the same moment."""
    until = time.monotonic() + SETTLE_S
    while True:
        ours, theirs = _surviving(first), _surviving(second)
        if len(ours) == len(theirs) == 1 or time.monotonic() > until:
            return ours, theirs
        time.sleep(0.05)


def _surviving(peer: Peer) -> set[str]:
    return {each["handshakeHash"] for each in peer.call("open")}


@PAIRS
def test_leaving_a_topic_unannounces_and_keeps_the_connection(
    left: Kind, right: Kind, bootstrap: Callable[[Kind], list[str]]
) -> None:
    where = topic()
    with peers(left, right, bootstrap=bootstrap(right), kind="swarm") as [server, client]:
        server.call("join", topic=where, server=True, client=False)
        client.call("join", topic=where, server=False, client=True)
        conn, remote = meet(client, server)
        server.call("leave", topic=where)
        assert client.call("lookup", topic=where) == {}
        client.call("write", conn=conn, data=b"still there".hex())
        assert server.data(remote) == b"still there"


@PAIRS
@NODES
@pytest.mark.parametrize("way", ["close", "SIGTERM"])
def test_exit_unannounces(
    left: Kind, right: Kind, nodes: Kind, way: str, bootstrap: Callable[[Kind], list[str]]
) -> None:
    where = topic()
    with peers(left, right, bootstrap=bootstrap(nodes), kind="swarm") as [server, client]:
        server.call("join", topic=where, server=True, client=False)
        server_key = server.call("info")["publicKey"]
        assert list(client.call("lookup", topic=where)) == [server_key]
        if way == "close":
            close(server)
        else:
            assert server.terminate() == 0
        assert client.call("lookup", topic=where) == {}


@PAIRS
def test_suspend_and_resume(left: Kind, right: Kind, bootstrap: Callable[[Kind], list[str]]) -> None:
    where = topic()
    with peers(left, right, bootstrap=bootstrap(right), kind="swarm") as [server, client]:
        server.call("join", topic=where, server=True, client=False)
        client.call("join", topic=where, server=False, client=True)
        conn, _ = meet(client, server)
        server.call("suspend")
        client.event("closed", conn=conn)
        assert client.call("lookup", topic=where) == {}
        server.call("resume")
        meet(client, server)
        assert list(client.call("lookup", topic=where)) == [server.call("info")["publicKey"]]
