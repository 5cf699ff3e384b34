"""Connections whose handshake was done elsewhere, and the empty messages that keep them alive."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest

from hyperdht import KeyPair, SecretStream
from hyperdht.io.keep_alive import KeepAlive
from hyperdht.noise import HandshakeKeys, NoiseHandshake

from .io_pairs import tcp_pair

pytestmark = pytest.mark.anyio

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


async def test_the_peer_sees_nothing_of_a_keep_alive() -> None:
    async with resumed_pair() as (left, right):
        await left.keep_alive(0.0)
        await left.send(b"payload")
        assert await right.receive() == b"payload"


class IdleConnection:
    """Needs a sign of life whenever it is asked."""

    def __init__(self) -> None:
        self.beats = 0
        self.beaten = anyio.Event()

    def needs_keep_alive(self, interval_s: float) -> bool:
        return True

    async def keep_alive(self, interval_s: float) -> None:
        self.beats += 1
        self.beaten.set()
        await anyio.sleep_forever()  # a peer that takes nothing


async def test_idle_connections_are_kept_alive_also_beside_one_that_is_stuck() -> None:
    first, second = IdleConnection(), IdleConnection()
    keep_alive = KeepAlive(interval_s=0.02)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(keep_alive.run, tasks)
        keep_alive.add(first)
        await first.beaten.wait()
        keep_alive.add(second)
        await second.beaten.wait()
        keep_alive.discard(first)
        keep_alive.discard(second)
        beats = first.beats
        await anyio.sleep(0.02)
        assert first.beats == beats
        tasks.cancel_scope.cancel()


async def test_a_connection_that_sends_needs_no_sign_of_life() -> None:
    async with resumed_pair() as (left, _right):
        await left.send(b"x")
        assert not left.needs_keep_alive(5.0)
        assert left.needs_keep_alive(0.0)
        await left.aclose()
        assert not left.needs_keep_alive(0.0)
