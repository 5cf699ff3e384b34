"""The driver: no wait is for ever, and what went wrong is told."""

from __future__ import annotations

import pytest

from .dht_fixtures import KINDS
from .dht_peers import Kind, Peer, PeerError, PeerSilent

pytestmark = [pytest.mark.interop, pytest.mark.usefixtures("node"), pytest.mark.parametrize("kind", KINDS)]


def test_an_error_of_the_peer_is_an_exception(kind: Kind) -> None:
    with Peer(kind) as peer, pytest.raises(PeerError):
        peer.call("write", conn=7, data="00")


def test_a_peer_that_does_not_answer(kind: Kind) -> None:
    with Peer(kind) as peer:
        with pytest.raises(PeerSilent, match="no answer in"):
            peer.call("info", timeout_s=0.0)
        with pytest.raises(PeerSilent, match="no 'connection' in"):
            peer.event("connection", timeout_s=0.05)


def test_a_peer_whose_process_ends(kind: Kind) -> None:
    with Peer(kind) as peer:
        waiting = peer.begin("kill")
        with pytest.raises(PeerSilent, match="its process ended"):
            peer.wait(waiting)
        with pytest.raises(PeerSilent, match="its process ended"):
            peer.call("info")


def test_sigterm_ends_it_in_order(kind: Kind) -> None:
    with Peer(kind) as peer:
        peer.testnet(1)
        assert peer.terminate() == 0
