"""The kinds of peers a test runs with, and DHTs of both kinds that all tests of a session share."""

from __future__ import annotations

import secrets
from contextlib import ExitStack, contextmanager
from itertools import product
from typing import TYPE_CHECKING, Any

import pytest

from hyperdht import KeyPair

from .dht_peers import Kind, Peer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

KINDS: tuple[Kind, ...] = ("js", "py")
PAIRS = pytest.mark.parametrize(
    ("left", "right"),
    [
        pytest.param(left, right, id=f"{left}-to-{right}", marks=[pytest.mark.soak] if left == right == "js" else [])
        for left, right in product(KINDS, KINDS)
    ],
)
"""js-to-js, which `make soak` runs, is there to show that a test asks for nothing the official stack does not do."""
NODES = pytest.mark.parametrize("nodes", KINDS, ids=[f"{kind}-nodes" for kind in KINDS])


@pytest.fixture(scope="session")
def bootstrap(node: None) -> Iterator[Callable[[Kind], list[str]]]:
    """Call with a kind: the bootstrap list of a DHT of five such nodes. Tests share it, so they use topics of their own."""
    with ExitStack() as stack:
        known: dict[Kind, list[str]] = {}

        def of_kind(kind: Kind) -> list[str]:
            if kind not in known:
                known[kind] = stack.enter_context(Peer(kind)).testnet()
            return known[kind]

        yield of_kind


@contextmanager
def peers(*kinds: Kind, bootstrap: list[str], **options: Any) -> Iterator[list[Peer]]:
    """Running nodes on that DHT, with the same options each."""
    with ExitStack() as stack:
        started = [stack.enter_context(Peer(kind)) for kind in kinds]
        ready = [peer.begin("init", bootstrap=bootstrap, **options) for peer in started]
        for peer, future in zip(started, ready, strict=True):
            peer.wait(future)
        yield started


def topic() -> str:
    """One that nobody else uses."""
    return secrets.token_hex(32)


def close(*closing: Peer) -> None:
    """Leave in order, all at once."""
    for peer, future in [(peer, peer.begin("close")) for peer in closing]:
        peer.wait(future)


def public_key(seed: str) -> str:
    return KeyPair.from_seed(bytes.fromhex(seed)).public_key.hex()


def port_of(address: str) -> int:
    return int(address.rpartition(":")[2])
