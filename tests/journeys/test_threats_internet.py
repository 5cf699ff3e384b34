"""Threats to rooms on the internet, each against whole sidecars that meet over a DHT; numbers as in the threat model."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from hyperdht import HyperDHT, Hyperswarm, testnet
from hyperdht.dht.noise_session import ClientHandshake
from hyperdht.io import node as dht_node
from sidecar.rooms.key import GENERAL_TOPIC
from tests.journeys.inside import IN_PROCESS, team, until
from tests.journeys.test_internet_rooms import connected

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from hyperdht.dht.payloads import NoisePayload

pytestmark = IN_PROCESS

LOOPBACK = "127.0.0.1"
AT_HOME = "192.168.77.7"


@asynccontextmanager
async def swarm(bootstrap: Sequence[str], **options: Any) -> AsyncIterator[Hyperswarm]:
    """Somebody's own swarm, on loopback."""
    async with (
        HyperDHT(bootstrap=bootstrap, host=LOOPBACK, port=0) as node,
        Hyperswarm(dht=node, close_timeout_s=0.5, **options) as made,
    ):
        node._local_hosts = (LOOPBACK,)  # wherever the test puts the sidecars
        yield made


# --- T21: what strangers in a public topic learn ------------------------------------------------------------------------


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[NoisePayload]:
    """What anybody of this process said of itself in a handshake. Sidecars are in a network of their own at home."""
    payloads: list[NoisePayload] = []
    begin, read_answer = ClientHandshake.__init__, ClientHandshake.read_answer

    def beginning(self: ClientHandshake, key_pair: Any, public_key: bytes, payload: NoisePayload) -> None:
        payloads.append(payload)
        begin(self, key_pair, public_key, payload)

    def reading(self: ClientHandshake, noise: bytes) -> Any:
        answer = read_answer(self, noise)
        payloads.append(answer[0])
        return answer

    monkeypatch.setattr(ClientHandshake, "__init__", beginning)
    monkeypatch.setattr(ClientHandshake, "read_answer", reading)
    monkeypatch.setattr(dht_node, "local_hosts", lambda host: (AT_HOME,))
    return payloads


def hosts(payloads: list[NoisePayload]) -> set[str]:
    return {address.host for payload in payloads for address in payload.addresses4}


async def test_t21_members_of_a_private_room_may_know_where_we_are_at_home_and_strangers_never(
    tmp_path: Path, files: Path, said: list[NoisePayload]
) -> None:
    """Behind one router without multicast, members of a private room need it. In the general room anybody asks."""
    async with testnet(4) as bootstrap, team(tmp_path, files) as people:
        network = {"no_dht": False, "bootstrap": tuple(bootstrap), "peers": ()}
        first = await people.join("first", **network)
        await people.join("second", **network)
        await until(lambda: connected(first) == 1)
        assert AT_HOME in hosts(said)
        for node in people.nodes:
            await node.control.join_room("general", label=None, consent=True)
        said.clear()
        async with swarm(bootstrap) as listening, swarm(bootstrap) as dialling:
            await listening.join(GENERAL_TOPIC, client=False)
            await until(lambda: len(listening.connections) == 2)  # both came to it
            await dialling.join(GENERAL_TOPIC, server=False)
            await until(lambda: len(dialling.connections) >= 2)  # and it to both
        assert said
        assert AT_HOME not in hosts(said)
