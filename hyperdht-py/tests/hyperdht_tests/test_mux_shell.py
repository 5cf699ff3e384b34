"""Protomux over real connections."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest
from anyio import BrokenResourceError, ClosedResourceError, EndOfStream

from hyperdht import ConnectionClosed, LocalProtocolError, MuxChannel, Protomux
from hyperdht.io.mux import INBOX_MESSAGES

from .io_pairs import secret_pair

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def mux_pair() -> AsyncIterator[tuple[Protomux, Protomux]]:
    async with secret_pair() as (left, right), Protomux(left) as left_mux, Protomux(right) as right_mux:
        yield left_mux, right_mux


async def receive(channel: MuxChannel) -> tuple[int, bytes]:
    message_type, body = await channel.receive()
    return message_type, bytes(body)


async def test_both_open_and_talk() -> None:
    async with mux_pair() as (left, right):
        ours = await left.open_channel("chat", b"id", handshake=b"left")
        theirs = await right.open_channel("chat", b"id", handshake=b"right")
        assert await ours.wait_open() == b"right"
        assert await theirs.wait_open() == b"left"
        assert (ours.protocol, ours.id) == ("chat", b"id")
        await ours.send(3, b"hello")
        assert await receive(theirs) == (3, b"hello")
        async with left.cork():
            await ours.send(0, b"one")
            await ours.send(1, b"two")
        assert [await receive(theirs), await receive(theirs)] == [(0, b"one"), (1, b"two")]
        await ours.aclose()
        with pytest.raises(EndOfStream):
            await theirs.receive()
        assert theirs.closed
        with pytest.raises(BrokenResourceError):
            await theirs.send(0, b"x")
        with pytest.raises(ClosedResourceError):
            await ours.send(0, b"x")
        with pytest.raises(ClosedResourceError):
            await ours.receive()


async def test_pair_handler_opens_and_early_messages_arrive() -> None:
    async with mux_pair() as (left, right):
        seen: list[tuple[bytes | None, int, bytes]] = []
        done = anyio.Event()

        async def handler(id_: bytes | None) -> None:
            channel = await right.open_channel("lazy", id_)
            message_type, body = await channel.receive()
            seen.append((id_, message_type, bytes(body)))
            done.set()

        right.pair("lazy", handler)
        channel = await left.open_channel("lazy", b"7")
        await channel.send(0, b"early")
        await channel.wait_open()
        await done.wait()
        assert seen == [(b"7", 0, b"early")]


async def test_refused_channel() -> None:
    async with mux_pair() as (left, right):

        async def handler(id_: bytes | None) -> None:
            """Looks at it and does not want it."""

        right.pair("unwanted", handler)
        for protocol in ("unknown", "unwanted"):
            channel = await left.open_channel(protocol)
            with pytest.raises(ConnectionClosed):
                await channel.wait_open()
        right.unpair("unwanted")


async def test_unique_channels() -> None:
    async with mux_pair() as (left, _):
        await left.open_channel("once")
        with pytest.raises(LocalProtocolError):
            await left.open_channel("once")


async def test_slow_reader_holds_the_peer_back_and_loses_nothing() -> None:
    count, body = 40 * INBOX_MESSAGES, bytes(10_000)
    async with mux_pair() as (left, right), anyio.create_task_group() as task_group:
        ours, theirs = await left.open_channel("data"), await right.open_channel("data")
        sent = 0

        async def send() -> None:
            nonlocal sent
            for number in range(count):
                await ours.send(number, body)
                sent += 1

        task_group.start_soon(send)
        await theirs.wait_open()
        await anyio.wait_all_tasks_blocked()
        assert len(theirs._inbox) < 3 * INBOX_MESSAGES
        for number in range(count):
            assert (await theirs.receive())[0] == number


async def test_early_messages_over_the_limit_wait_for_the_handler() -> None:
    async with mux_pair() as (left, right):
        go, got = anyio.Event(), anyio.Event()
        received = 0

        async def handler(id_: bytes | None) -> None:
            nonlocal received
            await go.wait()
            channel = await right.open_channel("slow", id_)
            for _ in range(100):
                await channel.receive()
                received += 1
            got.set()

        right.pair("slow", handler)
        channel = await left.open_channel("slow")
        async with anyio.create_task_group() as task_group:

            async def send() -> None:
                for _ in range(100):
                    await channel.send(0, bytes(60_000))

            task_group.start_soon(send)
            await anyio.wait_all_tasks_blocked()
            go.set()
        await got.wait()
        assert received == 100


async def test_connection_that_ends_closes_all_channels() -> None:
    async with mux_pair() as (left, right):
        ours, theirs = await left.open_channel("a"), await right.open_channel("a")
        await theirs.wait_open()
        pending = await left.open_channel("pending")
        await right._stream.aclose()
        with pytest.raises((EndOfStream, BrokenResourceError)):
            await ours.receive()
        with pytest.raises((ConnectionClosed, BrokenResourceError)):
            await pending.wait_open()
        with pytest.raises(ClosedResourceError):
            await left.open_channel("b")


async def test_peer_that_breaks_the_protocol_is_cut_off() -> None:
    async with secret_pair() as (left, right), Protomux(left) as mux:
        channel = await mux.open_channel("a")
        await right.receive()
        await right.send(b"\0\2\7")  # rejects what was never opened
        with pytest.raises(BrokenResourceError, match="rejected"):
            await channel.receive()
        with pytest.raises((EndOfStream, BrokenResourceError)):
            await right.receive()
