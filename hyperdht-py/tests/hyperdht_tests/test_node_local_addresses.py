"""Whether peers learn where we are in our own network (T21)."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from hyperdht import HyperDHT, testnet
from hyperdht.addresses import Address
from hyperdht.dht.noise_session import ClientHandshake
from hyperdht.dht.payloads import NoisePayload

from .dht_nodes import connected, exchange, node

pytestmark = pytest.mark.anyio

AT_HOME = "192.168.77.7"
Told = Callable[..., Awaitable[tuple[NoisePayload, NoisePayload]]]


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    """Connects, and returns what the client and the server said of themselves."""
    answers: list[NoisePayload] = []
    read_answer = ClientHandshake.read_answer

    def reading(self: ClientHandshake, noise: bytes) -> Any:
        answer = read_answer(self, noise)
        answers.append(answer[0])
        return answer

    monkeypatch.setattr(ClientHandshake, "read_answer", reading)

    async def connect(client: HyperDHT, server: HyperDHT) -> tuple[NoisePayload, NoisePayload]:
        asked: list[NoisePayload] = []

        def admit(public_key: bytes, payload: NoisePayload, address: Address) -> bool:
            asked.append(payload)
            return False

        async with server.listen(firewall=admit) as listening:
            await exchange(*await connected(client, listening))
        return asked[0], answers[-1]

    return connect


async def test_t21_local_addresses_are_told_as_long_as_the_program_agrees(told: Told) -> None:
    agreed = [True]
    async with (
        testnet(4) as bootstrap,
        node(bootstrap, tells_local_addresses=lambda: agreed[0]) as ours,
        node(bootstrap) as peer,
    ):
        ours._local_hosts = (AT_HOME,)
        own = Address(AT_HOME, ours.port)
        assert own in (await told(ours, peer))[0].addresses4
        assert own in (await told(peer, ours))[1].addresses4
        agreed[0] = False
        assert own not in (await told(ours, peer))[0].addresses4
        assert own not in (await told(peer, ours))[1].addresses4


async def test_t21_a_program_that_cannot_say_has_them_kept(told: Told, caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> bool:
        raise RuntimeError("no idea")

    async with testnet(4) as bootstrap, node(bootstrap, tells_local_addresses=broken) as ours, node(bootstrap) as peer:
        ours._local_hosts = (AT_HOME,)
        assert Address(AT_HOME, ours.port) not in (await told(ours, peer))[0].addresses4
    assert "tells_local_addresses" in caplog.text
