"""What a swarm can tell about dials that failed, and about the topics it is in."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from hyperdht import ConnectionClosed, KeyPair, PeerNotFound, RequestTimeout
from hyperdht.dht.constants import Firewall
from hyperdht.errors import HolepunchError, PeerFailed
from hyperdht.io.swarm import Hyperswarm, TopicStatus
from hyperdht.swarm import DialLog, DialReport
from hyperdht.swarm.dial_log import MAX_REPORTS, code_of

from .fake_network import NODE, FakeNetwork, FakeNode

pytestmark = pytest.mark.anyio

TOPIC = bytes([7]) * 32
RANDOM_NATS = HolepunchError(
    "HOLEPUNCH_DOUBLE_RANDOMIZED_NATS", local_firewall=Firewall.RANDOM, remote_firewall=Firewall.RANDOM
)


@pytest.fixture
def network() -> FakeNetwork:
    return FakeNetwork()


@asynccontextmanager
async def swarm_on(network: FakeNetwork, **options: Any) -> AsyncIterator[Hyperswarm]:
    async with FakeNode(network) as node, Hyperswarm(dht=node, **options) as swarm:
        yield swarm


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (PeerNotFound(), "PEER_NOT_FOUND"),
        (PeerFailed(), "SERVER_ERROR"),
        (RANDOM_NATS, "HOLEPUNCH_DOUBLE_RANDOMIZED_NATS"),
        (RequestTimeout("late"), "TIMEOUT"),
        (ConnectionClosed("gone"), "CLOSED"),
        (OSError("no socket"), "OTHER"),
    ],
)
def test_causes_have_names(error: Exception, code: str) -> None:
    assert code_of(error) == code


def test_failures_in_a_row_are_counted_until_a_dial_opens() -> None:
    log, key = DialLog(), bytes(32)
    for now in (1.0, 2.0):
        log.fail(key, frozenset((TOPIC,)), RANDOM_NATS, relay=None, now=now)
    assert log.get(key) == DialReport(
        key,
        frozenset((TOPIC,)),
        2.0,
        RANDOM_NATS.code,
        str(RANDOM_NATS),
        failures=2,
        local_firewall=Firewall.RANDOM,
        remote_firewall=Firewall.RANDOM,
    )
    log.succeed(key, frozenset(), relay=b"r" * 32, now=3.0)
    assert log.get(key) == DialReport(key, frozenset(), 3.0, relay=b"r" * 32)
    assert (log.opened, dict(log.failures)) == (1, {RANDOM_NATS.code: 2})


def test_t17_keys_that_cost_nothing_do_not_fill_the_log() -> None:
    log = DialLog()
    for number in range(MAX_REPORTS + 10):
        log.fail(number.to_bytes(32, "big"), frozenset(), PeerNotFound(), relay=None, now=number)
    assert len(log) == MAX_REPORTS
    assert log.get(bytes(32)) is None
    assert log.reports()[-1].at == MAX_REPORTS + 9
    assert log.failures["PEER_NOT_FOUND"] == MAX_REPORTS + 10


async def test_a_topic_tells_whom_it_holds_without_us(network: FakeNetwork) -> None:
    gone = KeyPair.generate().public_key
    network.records[TOPIC] = {gone: (NODE,)}
    async with swarm_on(network) as swarm:
        session = await swarm.join(TOPIC)
        assert await session.flushed()
        status = swarm.status(TOPIC)
        assert isinstance(status, TopicStatus)
        assert (status.walks, status.failures, status.peers) == (1, 0, frozenset({gone}))
        assert await swarm.flush()
        report = swarm.dials.get(gone)
        assert report is not None
        assert (report.code, report.topics, report.failures) == ("PEER_NOT_FOUND", frozenset({TOPIC}), 1)


async def test_walks_that_fail_are_counted(network: FakeNetwork) -> None:
    network.offline = True
    async with swarm_on(network) as swarm:
        session = await swarm.join(TOPIC)
        assert not await session.flushed()
        status = swarm.status(TOPIC)
        assert status is not None
        assert (status.walks, status.failures, status.succeeded) == (0, 1, False)


async def test_the_report_outlives_the_peer_that_was_given_up(network: FakeNetwork) -> None:
    key = KeyPair.generate().public_key
    network.failures[key] = RANDOM_NATS
    async with swarm_on(network) as swarm:
        report = await swarm.try_peer(key)
        assert report is not None
        assert (report.code, report.local_firewall) == (RANDOM_NATS.code, Firewall.RANDOM)
        assert swarm.peers_known == 0
        assert swarm.dials.get(key) is report


async def test_a_peer_can_be_tried_again_and_again(network: FakeNetwork) -> None:
    key = KeyPair.generate().public_key
    async with swarm_on(network) as swarm:
        for attempt in range(1, 8):
            report = await swarm.try_peer(key)
            assert report is not None
            assert report.failures == attempt


async def test_trying_a_peer_that_is_there_connects(network: FakeNetwork) -> None:
    async with swarm_on(network) as server, swarm_on(network) as client:
        await server.listen()
        report = await client.try_peer(server.key_pair.public_key)
        assert report is not None
        assert report.code is None
        with anyio.fail_after(10):
            stream = await client.connections.__anext__()
        assert stream.path is None, "a network in memory has no paths"
        assert await client.try_peer(server.key_pair.public_key) is None, "connected already"


async def test_trying_takes_the_wish_of_others_not_away(network: FakeNetwork) -> None:
    key = KeyPair.generate().public_key
    async with swarm_on(network) as swarm:
        swarm.join_peer(key)
        await swarm.try_peer(key)
        info = swarm.peer(key)
        assert info is not None
        assert info.explicit


async def test_nobody_to_try(network: FakeNetwork) -> None:
    banned = KeyPair.generate().public_key
    async with swarm_on(network, firewall=lambda key, payload: key == banned) as swarm:
        assert await swarm.try_peer(swarm.key_pair.public_key) is None
        assert await swarm.try_peer(banned) is None
    async with swarm_on(network, max_peers=1) as full:
        network.dials_held = anyio.Event()
        full.join_peer(KeyPair.generate().public_key)
        await full.until(lambda: full.connecting == 1)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(full.try_peer, KeyPair.generate().public_key)
            await anyio.wait_all_tasks_blocked()
            network.dials_held.set()


async def test_a_dial_that_takes_too_long_is_a_timeout(network: FakeNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hyperdht.io.swarm_links.DIAL_TIMEOUT_S", 0.01)
    network.dials_held = anyio.Event()
    async with swarm_on(network) as swarm:
        report = await swarm.try_peer(KeyPair.generate().public_key)
        assert report is not None
        assert report.code == "TIMEOUT"
