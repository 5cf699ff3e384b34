"""Our Protomux and the official one over a secret stream, with either side connecting."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest
from anyio import EndOfStream

from hyperdht import ConnectionClosed, MuxChannel, Protomux

from .js_peer import JsPeer
from .test_secret_stream_js import ROLES, connection

pytestmark = [pytest.mark.anyio, pytest.mark.interop, pytest.mark.usefixtures("node")]


@asynccontextmanager
async def mux_with_js(we_connect: bool = True) -> AsyncIterator[tuple[Protomux, JsPeer]]:
    async with connection(we_connect, {"withMux": True}) as (stream, peer, _), Protomux(stream) as mux:
        yield mux, peer


async def open_with_js(mux: Protomux, peer: JsPeer, protocol: str, id_: bytes | None = None) -> MuxChannel:
    """A channel that JavaScript, where it has the protocol's name, opens when ours arrives."""
    await peer.request("pair", name=protocol, protocol=protocol)
    channel = await mux.open_channel(protocol, id_)
    await channel.wait_open()
    await peer.event("open")
    return channel


async def receive(channel: MuxChannel) -> tuple[int, bytes]:
    message_type, body = await channel.receive()
    return message_type, bytes(body)


@ROLES
async def test_open_talk_and_close(we_connect: bool) -> None:
    async with mux_with_js(we_connect) as (mux, peer):
        await peer.request("pair", name="theirs", protocol="chat", handshake=b"from js".hex())
        ours = await mux.open_channel("chat", b"\1\2", handshake=b"from python")
        assert await ours.wait_open() == b"from js"
        assert (await peer.event("open"))["handshake"] == b"from python".hex()
        await ours.send(1, b"hello")
        assert await peer.event("message") == {"event": "message", "name": "theirs", "type": 1, "hex": b"hello".hex()}
        await peer.request("send", name="theirs", type=0, data=b"world".hex())
        assert await receive(ours) == (0, b"world")
        await ours.send(7, b"a type JavaScript does not know is ignored")
        await ours.send(0, b"still there")
        assert (await peer.event("message"))["hex"] == b"still there".hex()
        await ours.aclose()
        assert (await peer.event("channelClosed"))["remote"] is True


@ROLES
async def test_close_from_javascript(we_connect: bool) -> None:
    async with mux_with_js(we_connect) as (mux, peer):
        ours = await open_with_js(mux, peer, "chat")
        await peer.request("send", name="chat", type=0, data=b"bye".hex())
        await peer.request("close", name="chat")
        assert await receive(ours) == (0, b"bye")
        with pytest.raises(EndOfStream):
            await ours.receive()


@ROLES
async def test_javascript_rejects_a_channel_it_does_not_know(we_connect: bool) -> None:
    async with mux_with_js(we_connect) as (mux, _):
        for _ in range(3):  # the id is free again each time, or JavaScript would end the connection
            channel = await mux.open_channel("unknown")
            await channel.send(0, b"pipelined")
            with pytest.raises(ConnectionClosed):
                await channel.wait_open()


@ROLES
async def test_we_reject_a_channel_we_do_not_know(we_connect: bool) -> None:
    async with mux_with_js(we_connect) as (mux, peer):
        for number in range(3):
            await peer.request("createChannel", name=f"c{number}", protocol="unknown")
            await peer.request("open", name=f"c{number}")
            assert (await peer.event("channelClosed"))["remote"] is True
        await open_with_js(mux, peer, "later")  # no slip in the ids: JavaScript would have ended the connection


@ROLES
async def test_javascript_pairs_and_gets_early_messages(we_connect: bool) -> None:
    async with mux_with_js(we_connect) as (mux, peer):
        await peer.request("pair", name="paired", protocol="lazy", handshake=b"paired".hex())
        ours = await mux.open_channel("lazy", b"\x07")
        await ours.send(0, b"early")
        assert await ours.wait_open() == b"paired"
        assert (await peer.event("notify"))["channelId"] == "07"
        assert (await peer.event("message"))["hex"] == b"early".hex()


@ROLES
async def test_we_pair_and_get_early_messages(we_connect: bool) -> None:
    async with mux_with_js(we_connect) as (mux, peer):
        received: list[tuple[int, bytes]] = []
        done = anyio.Event()

        async def handler(id_: bytes | None) -> None:
            await anyio.lowlevel.checkpoint()
            channel = await mux.open_channel("lazy", id_, handshake=b"ours")
            received.append(await receive(channel))
            done.set()

        mux.pair("lazy", handler)
        await peer.request("createChannel", name="theirs", protocol="lazy")
        await peer.request("open", name="theirs")
        await peer.request("send", name="theirs", type=1, data=b"early".hex())
        await done.wait()
        assert received == [(1, b"early")]
        assert (await peer.event("open"))["handshake"] == b"ours".hex()


@ROLES
async def test_batches_both_ways(we_connect: bool) -> None:
    async with mux_with_js(we_connect) as (mux, peer):
        ours = [await open_with_js(mux, peer, name) for name in ("a", "b")]
        async with mux.cork():
            await ours[0].send(0, b"one")
            await ours[0].send(1, b"two")
            await ours[1].send(0, b"three")
            await ours[0].aclose()
        assert [(await peer.event("message"))["hex"] for _ in range(3)] == [m.hex() for m in (b"one", b"two", b"three")]
        assert (await peer.event("channelClosed"))["name"] == "a"
        await peer.request("cork")
        for number in range(5):
            await peer.request("send", name="b", type=0, data=f"0{number}")
        await peer.request("close", name="b")
        await peer.request("uncork")
        assert [await receive(ours[1]) for _ in range(5)] == [(0, bytes([number])) for number in range(5)]
        with pytest.raises(EndOfStream):
            await ours[1].receive()


async def test_old_and_new_protocol_name_find_each_other() -> None:
    async with mux_with_js() as (mux, peer):
        opened: list[MuxChannel] = []

        async def open_old_name(_: bytes | None) -> None:
            opened.append(await mux.open_channel("old", aliases=("new",)))

        mux.pair("new", open_old_name)
        await peer.request("createChannel", name="theirs", protocol="new", aliases=["old"])
        await peer.request("open", name="theirs")
        await peer.event("open")
        await opened[0].send(0, b"x")
        assert (await peer.event("message"))["hex"] == "78"


async def test_large_messages_through_a_channel_both_ways() -> None:
    body = bytes(range(256)) * 4096  # 1 MiB
    async with mux_with_js() as (mux, peer):
        ours = await open_with_js(mux, peer, "data")
        for _ in range(3):
            await ours.send(0, body)
            assert (await peer.event("message"))["hex"] == body.hex()
            await peer.request("send", name="data", type=1, data=body.hex())
            assert await receive(ours) == (1, body)


async def test_end_of_the_connection_closes_channels_on_both_sides() -> None:
    async with mux_with_js() as (mux, peer):
        ours = await open_with_js(mux, peer, "chat")
        await peer.request("destroy")
        with pytest.raises((EndOfStream, anyio.BrokenResourceError)):
            await ours.receive()
        assert (await peer.event("channelClosed"))["remote"] is True
