"""Our UDX and the official udx-native over loopback, in both roles: data, ends, messages, relays, other paths, losses."""

import hashlib
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio import BrokenResourceError, EndOfStream

from hyperdht.addresses import Address
from hyperdht.io.offload import Offload
from hyperdht.io.udx_stream import UdxByteStream
from hyperdht.io.udx_transport import UdxTransport
from hyperdht.udx import Event, StreamRemoteChanged

from .js_peer import JsPeer
from .lossy_path import lossy_path

pytestmark = [pytest.mark.anyio, pytest.mark.interop, pytest.mark.usefixtures("node")]

PEER = Path(__file__).with_name("udx_peer.mjs")
OURS, THEIRS = 1001, 2002
CHUNK = 65536
CHUNKS = 1024  # 64 MiB


@asynccontextmanager
async def udx_peer() -> AsyncIterator[JsPeer]:
    async with await anyio.open_process(["node", str(PEER)], stderr=None) as process:
        peer = JsPeer(process)
        async with anyio.create_task_group() as task_group:
            task_group.start_soon(peer.read)
            try:
                yield peer
            finally:
                with anyio.CancelScope(shield=True), anyio.move_on_after(math.inf):
                    process.kill()
                    await process.wait()
                task_group.cancel_scope.cancel()


@asynccontextmanager
async def both(**options: Any) -> AsyncIterator[tuple[UdxTransport, JsPeer, int]]:
    """Our transport with one socket, the JavaScript peer with one, and its port."""
    async with udx_peer() as peer, UdxTransport(host="127.0.0.1", **options) as transport:
        transport.open()
        yield transport, peer, (await peer.request("open"))["port"]


def connect(
    transport: UdxTransport, port: int, *, ours: int = OURS, theirs: int = THEIRS, socket: int = 0
) -> UdxByteStream:
    transport.endpoint.reserve(None, stream_id=ours)
    transport.endpoint.connect(ours, socket, Address("127.0.0.1", port), theirs, now=transport.now())
    return UdxByteStream(transport, ours)


@asynccontextmanager
async def connection(**options: Any) -> AsyncIterator[tuple[UdxByteStream, JsPeer]]:
    """Both sides know each other's id and address."""
    async with both(**options) as (transport, peer, port):
        await peer.request("create", stream=THEIRS)
        await peer.request("connect", stream=THEIRS, remoteId=OURS, port=transport.port(0))
        yield connect(transport, port), peer


def chunk(index: int) -> bytes:
    return index.to_bytes(4, "little") + bytes([index % 251]) * (CHUNK - 4)


async def send_bulk(stream: UdxByteStream, count: int) -> str:
    digest = hashlib.sha256()
    for index in range(count):
        data = chunk(index)
        digest.update(data)
        await stream.send(data)
    return digest.hexdigest()


async def receive_bulk(stream: UdxByteStream, size: int) -> str:
    digest, got = hashlib.sha256(), 0

    def take(data: memoryview) -> None:
        nonlocal got
        got += len(data)
        digest.update(data)

    while got < size:
        await stream.receive_to(take)
    assert got == size
    return digest.hexdigest()


async def exchange(stream: UdxByteStream, peer: JsPeer, count: int) -> None:
    """`count` chunks each way at once; both sides got what the other sent."""
    digests: dict[str, str] = {}
    await peer.request("collect", stream=THEIRS, size=count * CHUNK)

    async def send() -> None:
        digests["we sent"] = await send_bulk(stream, count)

    async def receive() -> None:
        digests["we got"] = await receive_bulk(stream, count * CHUNK)

    async with anyio.create_task_group() as task_group:
        task_group.start_soon(send)
        task_group.start_soon(receive)
        sent = await peer.request("bulk", stream=THEIRS, count=count, size=CHUNK)
        collected = await peer.event("collected")
    assert collected["beyond"] == 0
    assert digests == {"we sent": collected["sha256"], "we got": sent["sha256"]}


@pytest.mark.parametrize("options", [{}, {"offload": Offload.none()}], ids=["fast", "no-offload"])
async def test_64_mib_each_way_at_once(options: dict[str, Any]) -> None:
    async with connection(**options) as (stream, peer):
        await exchange(stream, peer, CHUNKS)
        assert stream.max_message_bytes == 1452  # our search for larger packets came to its end
        assert (await peer.request("state", stream=THEIRS))["mtu"] == 1500  # and theirs, whose probes we answered


@pytest.mark.parametrize(("loss", "seed"), [(0.001, 1), (0.01, 2), (0.05, 3)])
async def test_losses_late_packets_and_packets_that_come_twice(loss: float, seed: int) -> None:
    async with both() as (transport, peer, port):
        with lossy_path(port, loss=loss, seed=seed) as path:
            await peer.request("create", stream=THEIRS, accept=OURS)  # it answers to where our packets come from
            stream = connect(transport, path.port)
            await stream.send(b"first")
            await peer.event("data")
            await exchange(stream, peer, 256 if loss < 0.05 else 32)
            assert path.lost > 5
            await stream.send_eof()
            await peer.event("end")


async def test_javascript_connects_to_us() -> None:
    async with both() as (transport, peer, _):
        asked: list[tuple[int, Address]] = []

        def accept(socket: int, sender: Address, now: float) -> bool:
            asked.append((socket, sender))
            if stream.socket is None:
                transport.endpoint.connect(OURS, socket, sender, THEIRS, now=now)
            return True

        transport.endpoint.reserve(accept, stream_id=OURS)
        stream = transport.endpoint.stream(OURS)
        await peer.request("create", stream=THEIRS)
        await peer.request("connect", stream=THEIRS, remoteId=OURS, port=transport.port(0))
        await peer.request("write", stream=THEIRS, data=b"hello".hex())
        while stream.socket is None:  # noqa: ASYNC110  # a hook has no event
            await anyio.sleep(0.01)
        ours = UdxByteStream(transport, OURS)
        assert await ours.receive() == b"hello"
        await ours.send(b"welcome")
        assert (await peer.event("data"))["data"] == b"welcome".hex()
        assert len(asked) == 1


@pytest.mark.parametrize("we_end_first", [True, False])
async def test_half_open_and_closed_by_both(we_end_first: bool) -> None:
    async with connection() as (stream, peer):
        if we_end_first:
            await stream.send(b"bye")
            await stream.send_eof()
            assert (await peer.event("data"))["data"] == b"bye".hex()
            await peer.event("end")
            await peer.request("write", stream=THEIRS, data=b"answer".hex())
            assert await stream.receive() == b"answer"
            await peer.request("end", stream=THEIRS)
        else:
            await peer.request("write", stream=THEIRS, data=b"bye".hex())
            await peer.request("end", stream=THEIRS)
            assert await stream.receive() == b"bye"
        with pytest.raises(EndOfStream):
            await stream.receive()
        if not we_end_first:
            await stream.send(b"answer")
            assert (await peer.event("data"))["data"] == b"answer".hex()
        await stream.aclose()
        await peer.event("close")
        assert peer.events("error") == []


async def test_our_destroy_and_theirs() -> None:
    async with connection() as (stream, peer):
        await stream.send(b"x")
        await peer.event("data")
        stream.destroy()
        assert (await peer.event("error"))["code"] == "ECONNRESET"
        await peer.event("close")
    async with connection() as (stream, peer):
        await peer.request("destroy", stream=THEIRS)
        with pytest.raises(BrokenResourceError, match="gave the stream up"):
            await stream.receive()


async def test_unordered_messages_both_ways() -> None:
    async with connection() as (stream, peer):
        stream.send_message(b"to javascript")
        assert (await peer.event("message"))["data"] == b"to javascript".hex()
        stream.send_message(b"")
        assert (await peer.event("message"))["data"] == ""
        assert (await peer.request("send", stream=THEIRS, data=b"to python".hex()))["sent"]
        assert await stream.receive_message() == b"to python"


async def test_when_we_do_not_read_the_official_sender_waits_and_goes_on() -> None:
    async with connection() as (stream, peer), anyio.create_task_group() as task_group:
        sent: list[str] = []

        async def bulk() -> None:
            sent.append((await peer.request("bulk", stream=THEIRS, count=512, size=CHUNK))["sha256"])

        task_group.start_soon(bulk)
        window = 4 << 20
        with anyio.fail_after(20):
            while stream.stream.machine.unread_bytes < window - 2 * 1452:  # noqa: ASYNC110  # a machine has no events for us
                await anyio.sleep(0.01)
        await anyio.sleep(3)  # it asks from time to time whether the window is open
        assert stream.stream.machine.unread_bytes <= window + (64 << 10)
        digest = await receive_bulk(stream, 512 * CHUNK)
    assert sent == [digest]


async def test_a_javascript_reader_that_pauses_gets_everything_in_the_end() -> None:
    async with connection() as (stream, peer):
        await peer.request("pause", stream=THEIRS)
        digest = await send_bulk(stream, 256)  # it never closes its window; the data waits there
        await peer.request("collect", stream=THEIRS, size=256 * CHUNK)
        await anyio.sleep(0.2)
        assert peer.events("collected") == []
        await peer.request("resume", stream=THEIRS)
        assert (await peer.event("collected"))["sha256"] == digest


# --- relays and other paths


def relay_both(relay: UdxTransport, our_port: int, their_port: int) -> None:
    """Streams 10, to us, and 20, to JavaScript, through `relay`."""
    for stream_id, remote, to in ((10, OURS, our_port), (20, THEIRS, their_port)):
        relay.endpoint.reserve(lambda *_: True, stream_id=stream_id)
        relay.endpoint.connect(stream_id, 0, Address("127.0.0.1", to), remote, now=relay.now())
    relay.endpoint.relay(10, 20)
    relay.endpoint.relay(20, 10)


async def test_a_javascript_relay_between_two_of_us() -> None:
    async with both() as (left, peer, port), UdxTransport(host="127.0.0.1") as right:
        right.open()
        for stream, transport, remote in ((10, left, 1), (20, right, 2)):
            await peer.request("create", stream=stream, firewall=True)
            await peer.request("connect", stream=stream, remoteId=remote, port=transport.port(0))
        await peer.request("relay", **{"from": 10, "to": 20})
        await peer.request("relay", **{"from": 20, "to": 10})
        one = connect(left, port, ours=1, theirs=10)
        other = connect(right, port, ours=2, theirs=20)
        async with anyio.create_task_group() as task_group:
            task_group.start_soon(send_bulk, one, 64)
            expected = hashlib.sha256(b"".join(map(chunk, range(64)))).hexdigest()
            assert await receive_bulk(other, 64 * CHUNK) == expected
        # and now without the relay
        one.stream.hook = other.stream.hook = lambda *_: True
        left.endpoint.change_remote(1, 0, Address("127.0.0.1", right.port(0)), 2)
        right.endpoint.change_remote(2, 0, Address("127.0.0.1", left.port(0)), 1)
        one.send_message(b"")
        await one.send(b"direct")
        assert await other.receive() == b"direct"
        one.destroy()
        with pytest.raises(BrokenResourceError):
            await other.receive()


async def test_our_relay_between_javascript_and_us() -> None:
    async with both() as (ours, peer, port), UdxTransport(host="127.0.0.1") as relay:
        relay.open()
        relay_both(relay, ours.port(0), port)
        await peer.request("create", stream=THEIRS)
        await peer.request("connect", stream=THEIRS, remoteId=20, port=relay.port(0))
        stream = connect(ours, relay.port(0), theirs=10)
        await exchange(stream, peer, 64)
        await peer.request("destroy", stream=THEIRS)
        with pytest.raises(BrokenResourceError, match="gave the stream up"):
            await stream.receive()


async def test_both_move_from_a_relay_to_each_other_while_data_flows() -> None:
    async with both() as (ours, peer, port), UdxTransport(host="127.0.0.1") as relay:
        relay.open()
        relay_both(relay, ours.port(0), port)
        await peer.request("create", stream=THEIRS, firewall=True)
        await peer.request("connect", stream=THEIRS, remoteId=20, port=relay.port(0))
        stream = connect(ours, relay.port(0), theirs=10)
        stream.stream.hook = lambda *_: True
        events: list[Event] = []
        tell = stream._on_event

        def on_event(event: Event) -> None:
            events.append(event)
            tell(event)

        stream.stream.on_event(on_event)

        async def move() -> None:
            await anyio.sleep(0.05)
            ours.endpoint.change_remote(OURS, 0, Address("127.0.0.1", port), THEIRS)
            await peer.request("changeRemote", stream=THEIRS, remoteId=OURS, port=ours.port(0))

        async with anyio.create_task_group() as task_group:
            task_group.start_soon(move)
            await exchange(stream, peer, 256)
        carried = relay.endpoint.counters.relayed_bytes
        await exchange(stream, peer, 16)
        assert relay.endpoint.counters.relayed_bytes == carried
        assert carried > 100_000
        assert StreamRemoteChanged() in events
