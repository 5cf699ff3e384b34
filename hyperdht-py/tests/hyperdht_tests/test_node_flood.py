"""Floods of strangers against nodes on real sockets (T18): what they hold stays bounded, and an honest peer connects.

The table with packets per second, processor and memory: `make bench ARGS=flood`.
"""

import hashlib
import os
import random
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack, ExitStack
from typing import Any

import anyio
import pytest

from hyperdht import BlindRelay, HyperDHT, KeyPair, Protomux, Server, testnet
from hyperdht.addresses import Address
from hyperdht.dht.blind_relay_messages import PROTOCOL, MessageType, Pair, encode_pair
from hyperdht.dht.handshake_limits import HandshakeLimits
from hyperdht.dht.payloads import RelayInfo
from hyperdht.dht.reach import Reach, Way
from hyperdht.io import half_open, relaying
from hyperdht.io.half_open import MAX_HALF_OPEN, HalfOpen
from hyperdht.io.relay_limits import Carried, RelayLimits

from .dht_nodes import LOOPBACK, connected, exchange, node
from .flooding import Datagrams, announces, flood, garbage_handshakes, handshakes, lookups, strangers

pytestmark = pytest.mark.anyio

PER_S = 1500
CANNOT_PUNCH: dict[str, Any] = {"holepunch": lambda *_: False}
Make = Callable[[bytes, Address, int], Datagrams]


def open_files() -> int:
    """Of this process, where the system tells."""
    return len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else 0


async def connect_meanwhile(client: HyperDHT, server: Server, times: int) -> None:
    for _ in range(times):
        with anyio.fail_after(20):
            await exchange(*await connected(client, server, key_pair=KeyPair.generate()))


def with_relay(public_key: bytes, to: Address, count: int) -> Datagrams:
    return handshakes(public_key, to, count, relay_through=True)


@pytest.mark.parametrize(
    ("make", "sources", "through_relays"),
    [
        (handshakes, 1, False),
        (handshakes, 100, False),
        (garbage_handshakes, 100, False),
        (with_relay, 100, False),
        (handshakes, 100, True),
    ],
    ids=["one host", "many hosts", "garbage", "naming a relay", "through relays"],
)
async def test_t18_a_flood_of_handshakes_is_bounded_and_an_honest_peer_connects(
    make: Make, sources: int, through_relays: bool
) -> None:
    """Through relays the server is firewalled, so that each client costs it a socket."""
    async with AsyncExitStack() as stack:
        bootstrap = await stack.enter_async_context(testnet(4))
        victim = await stack.enter_async_context(node(bootstrap, firewalled=through_relays))
        honest = await stack.enter_async_context(node(bootstrap, firewalled=True))
        server = await stack.enter_async_context(victim.listen())
        files, streams = open_files(), len(victim.endpoint)
        to = server.relay_addresses if through_relays else [Address(LOOPBACK, victim.port)]
        datagrams = make(server.public_key, to[0], 1000)
        with ExitStack() as flooding:
            socks = flooding.enter_context(strangers(sources))
            sent = flooding.enter_context(flood(to, datagrams, socks, per_s=PER_S))
            await anyio.sleep(0.5)
            await connect_meanwhile(honest, server, 3)
            assert open_files() <= files + sources + HandshakeLimits().max_open + 10
            assert len(victim.ports) <= 2 + HandshakeLimits().max_open
            assert len(victim._links.half_open) <= MAX_HALF_OPEN
            assert len(victim._links._meetings) <= HandshakeLimits().max_relays
            assert len(victim.endpoint) - streams <= MAX_HALF_OPEN + HandshakeLimits().max_open + 10
            assert sent[0] > 300


async def test_t18_floods_of_records_and_questions_keep_nobody_from_connecting() -> None:
    async with AsyncExitStack() as stack:
        bootstrap = await stack.enter_async_context(testnet(4))
        victim = await stack.enter_async_context(
            node(bootstrap, firewalled=False, ephemeral=False, public_host=LOOPBACK)
        )
        honest = await stack.enter_async_context(node(bootstrap, firewalled=True))
        server = await stack.enter_async_context(victim.listen())
        to = Address(LOOPBACK, victim.port)
        with strangers(2) as (one, other):
            records = await anyio.to_thread.run_sync(announces, to, one, 500)
            with flood([to], records, [one], per_s=PER_S), flood([to], lookups(to, 500), [other], per_s=PER_S):
                await anyio.sleep(0.5)
                await connect_meanwhile(honest, server, 3)
                await honest.announce(bytes(32))
                assert [peer async for peer in honest.lookup(bytes(32))]


async def test_t18_peers_of_a_relay_that_want_nothing_or_too_many_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relaying, "WATCH_EVERY_S", 0.05)
    limits = RelayLimits(sessions=6, sessions_of_host=5, idle_s=2.0)
    async with (
        testnet(4) as bootstrap,
        node(bootstrap, firewalled=False) as middle,
        node(bootstrap) as stranger,
        BlindRelay(middle, limits=limits) as relay,
    ):
        streams = [await stranger.connect(relay.public_key, key_pair=KeyPair.generate()) for _ in range(8)]
        with pytest.raises((anyio.BrokenResourceError, anyio.EndOfStream)):
            await streams[-1].receive()
        assert relay.sessions == 5
        assert relay.refused == 3
        async with Protomux(streams[0]) as mux:
            channel = await mux.open_channel(PROTOCOL, streams[0].public_key)
            for number in range(100):
                await channel.send(MessageType.PAIR, encode_pair(Pair(True, number.to_bytes(32, "big"), 1)))
            with anyio.fail_after(10):
                while relay.sessions > 1:  # noqa: ASYNC110
                    await anyio.sleep(0.05)
            assert relay._pairing.waiting == 64
            assert len(middle.endpoint) - len(middle.endpoint._lingering) <= 8


@pytest.mark.parametrize(
    "limits", [RelayLimits(pair_bytes=300_000), RelayLimits(pair_s=1.0)], ids=["so many bytes", "so long"]
)
async def test_t18_an_operator_limits_what_a_relay_carries(
    limits: RelayLimits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relaying, "WATCH_EVERY_S", 0.05)
    async with (
        testnet(4) as bootstrap,
        node(bootstrap, firewalled=False) as middle,
        node(bootstrap, firewalled=True) as left,
        node(bootstrap, firewalled=True) as right,
        BlindRelay(middle, limits=limits) as relay,
        left.listen(share_local_address=False, **CANNOT_PUNCH) as server,
    ):
        client, accepted = await connected(
            right, server, local_connection=False, fast_open=False, relay_through=relay.public_key, **CANNOT_PUNCH
        )
        await exchange(client, accepted)
        assert relay.pairs == 1
        await client.send(bytes(1 << 19))
        with anyio.fail_after(5):
            while relay.pairs:  # noqa: ASYNC110
                await anyio.sleep(0.02)
        assert middle.endpoint.counters.relayed_bytes < 1 << 20


def test_t18_a_relay_s_bandwidth_is_shared_by_all_it_carries() -> None:
    limits = RelayLimits(bytes_per_s=1000)
    bucket, one, other = limits.bucket(0.0), Carried((1, 2), 0.0), Carried((3, 4), 0.0)
    assert limits.allow(one, bucket, 400, 0.0)
    assert not limits.allow(other, bucket, 200, 0.0)
    assert limits.allow(other, bucket, 200, 0.1)
    assert (one.size, other.size) == (400, 200)
    assert limits.may_go_on(other, 60.0)
    assert not limits.may_go_on(other, 60.2)


class Stream:
    def __init__(self) -> None:
        self.destroyed = False

    def destroy(self) -> None:
        self.destroyed = True


def test_t18_of_clients_that_never_speak_the_oldest_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(half_open, "MAX_HALF_OPEN", 4)
    monkeypatch.setattr(half_open, "MAX_HALF_OPEN_OF_SOURCE", 2)
    waiting = HalfOpen()
    streams = [Stream() for _ in range(7)]
    for stream, source in zip(streams, "aaabcd", strict=False):
        waiting.add(stream, source)
    assert [stream.destroyed for stream in streams] == [True, True, False, False, False, False, False]
    waiting.discard(streams[2])
    waiting.add(streams[6], "e")
    assert [stream.destroyed for stream in streams[2:]] == [False] * 5
    assert (len(waiting), waiting.given_up) == (4, 2)


async def test_moving_from_a_relay_to_a_direct_way_under_load_loses_no_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    size, chunk = 32 << 20, 1 << 16
    start_punching = Reach._start_punching
    waiting: list[Callable[[], None]] = []

    def start_later(self: Reach, relays: list[RelayInfo], now: float) -> None:
        self._ways.add(Way.PUNCH)
        waiting.append(lambda: start_punching(self, relays, right.now()))

    monkeypatch.setattr(Reach, "_start_punching", start_later)
    async with (
        testnet(4) as bootstrap,
        node(bootstrap, firewalled=False) as middle,
        node(bootstrap, firewalled=True) as left,
        node(bootstrap, firewalled=True) as right,
        BlindRelay(middle) as relay,
        left.listen(share_local_address=False) as server,
    ):
        client, accepted = await connected(
            right, server, local_connection=False, fast_open=False, relay_through=relay.public_key
        )
        hashes = [hashlib.sha256(), hashlib.sha256()]
        at_first = client.raw_stream.remote_address  # type: ignore[attr-defined]

        async def send() -> None:
            for number in range(size // chunk):
                message = random.Random(number).randbytes(chunk)
                hashes[0].update(message)
                await client.send(message)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(send)
            received = 0
            while received < size:
                message = await accepted.receive()
                received += len(message)
                hashes[1].update(message)
                if waiting and received > size // 4:
                    waiting.pop()()
                    right.wake()
        assert hashes[0].digest() == hashes[1].digest()
        assert at_first.port == middle.port
        assert client.raw_stream.remote_address.port in left.ports  # type: ignore[attr-defined]
        assert chunk < middle.endpoint.counters.relayed_bytes < size
        await exchange(client, accepted)
