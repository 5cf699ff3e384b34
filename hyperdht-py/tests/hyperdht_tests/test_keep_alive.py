"""Connections whose handshake was done elsewhere, and the empty messages that keep them alive."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import anyio
import pytest

from hyperdht import KeyPair, SecretStream, testnet
from hyperdht.io.keep_alive import KeepAlive
from hyperdht.io.peer_stream import HEADER_BYTES
from hyperdht.noise import HandshakeKeys, NoiseHandshake

from .dht_nodes import connected, node, nodes
from .io_pairs import tcp_pair

pytestmark = pytest.mark.anyio

EMPTY_BYTES = 20  # of a message without content: three of its length, seventeen of its encryption
LEFT, RIGHT = KeyPair.generate(), KeyPair.generate()


def handshake_keys() -> tuple[HandshakeKeys, HandshakeKeys]:
    """What an IK handshake in the DHT leaves on both sides."""
    left = NoiseHandshake("IK", is_initiator=True, static=LEFT, remote_static=RIGHT.public_key)
    right = NoiseHandshake("IK", is_initiator=False, static=RIGHT)
    right.read_message(left.write_message())
    left.read_message(right.write_message())
    return left.keys(), right.keys()


@asynccontextmanager
async def resumed_pair() -> AsyncIterator[tuple[SecretStream, SecretStream]]:
    left_keys, right_keys = handshake_keys()
    async with tcp_pair() as (left_bytes, right_bytes):
        left = await SecretStream.resume(left_bytes, is_initiator=True, key_pair=LEFT, handshake=left_keys)
        right = await SecretStream.resume(right_bytes, is_initiator=False, key_pair=RIGHT, handshake=right_keys)
        async with left, right:
            yield left, right


async def test_a_resumed_connection_knows_both_keys_and_opens() -> None:
    async with resumed_pair() as (left, right):
        await left.wait_open()
        assert left.remote_public_key == right.public_key == RIGHT.public_key
        assert left.handshake_hash == right.handshake_hash


async def test_what_comes_with_the_header_is_kept() -> None:
    async with resumed_pair() as (left, right):
        await right.send(b"first")
        await left.wait_open()
        assert await left.receive() == b"first"


async def test_the_end_before_the_header_is_told() -> None:
    left_keys, _ = handshake_keys()
    async with tcp_pair() as (left_bytes, right_bytes):
        left = await SecretStream.resume(left_bytes, is_initiator=True, key_pair=LEFT, handshake=left_keys)
        await right_bytes.aclose()
        with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
            await left.wait_open()


class IdleConnection:
    """Says nothing of its own unless told to."""

    def __init__(self) -> None:
        self.beats = 0
        self.last_sent = anyio.current_time()
        self.beaten = anyio.Event()

    def beat(self) -> None:
        self.beats += 1
        self.last_sent = anyio.current_time()
        self.beaten.set()
        self.beaten = anyio.Event()

    async def beats_reach(self, count: int) -> None:
        with anyio.fail_after(5):
            while self.beats < count:
                await self.beaten.wait()


@asynccontextmanager
async def kept_alive(*connections: IdleConnection, interval_s: float = 0.1) -> AsyncIterator[KeepAlive]:
    keep_alive = KeepAlive(interval_s)
    for each in connections:
        keep_alive.add(each)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(keep_alive.run)
        yield keep_alive
        tasks.cancel_scope.cancel()


async def test_idle_connections_are_kept_alive_until_they_are_closed() -> None:
    first, second, third = IdleConnection(), IdleConnection(), IdleConnection()
    async with kept_alive(first) as keep_alive:
        await first.beats_reach(2)
        keep_alive.add(second)
        await second.beats_reach(2)
        assert len(keep_alive) == 2
        keep_alive.discard(first)
        keep_alive.discard(second)
        assert len(keep_alive) == 0
        beats = first.beats, second.beats
        keep_alive.add(third)
        await third.beats_reach(2)
        assert (first.beats, second.beats) == beats


async def test_one_that_sends_is_silent_otherwise() -> None:
    talking, idle = IdleConnection(), IdleConnection()
    async with kept_alive(talking, idle, interval_s=0.2), anyio.create_task_group() as tasks:

        async def talk() -> None:
            while True:
                await anyio.sleep(0.02)
                talking.last_sent = anyio.current_time()

        tasks.start_soon(talk)
        await idle.beats_reach(3)
        assert talking.beats == 0
        tasks.cancel_scope.cancel()
        silent_since = talking.last_sent
        await talking.beats_reach(1)
        assert talking.last_sent - silent_since >= 0.1, "the interval, less what goes together"


async def test_after_a_change_of_the_network_all_are_heard_of_at_once() -> None:
    first, second = IdleConnection(), IdleConnection()
    keep_alive = KeepAlive(interval_s=3600)
    keep_alive.add(first)
    keep_alive.add(second)
    keep_alive.beat_all()
    assert (first.beats, second.beats) == (1, 1)


async def test_the_peer_sees_nothing_of_a_sign_of_life() -> None:
    async with nodes(2) as (left, right), left.listen() as server:
        client, accepted = await connected(right, server)
        before = client._watched.bytes_sent
        client.beat()
        assert client._watched.bytes_sent == before + EMPTY_BYTES
        await client.send(b"payload")
        assert await accepted.receive() == b"payload"


async def test_a_closed_connection_does_not_beat() -> None:
    async with nodes(2) as (left, right), left.listen() as server:
        client, _ = await connected(right, server)
        client.beat()
        before = client._watched.bytes_sent
        await client.aclose()
        client.beat()
        assert client._watched.bytes_sent == before


async def test_both_sides_beat_because_programs_give_up_peers_that_they_do_not_hear() -> None:
    async with testnet(4) as bootstrap, AsyncExitStack() as stack:
        left, right = [await stack.enter_async_context(node(bootstrap, keep_alive_s=0.2)) for _ in range(2)]
        server = await stack.enter_async_context(left.listen())
        both = await connected(right, server)
        await anyio.sleep(2.0)
        beats = [(stream._watched.bytes_sent - HEADER_BYTES) // EMPTY_BYTES for stream in both]
        assert min(beats) >= 6, f"one of them is silent: {beats}"
