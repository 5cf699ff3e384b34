"""UDX over real sockets: byte streams, back-pressure, cancellation, closing, and what else uses the sockets."""

import hashlib
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import anyio
import pytest
from anyio import BrokenResourceError, BusyResourceError, ClosedResourceError, EndOfStream

from hyperdht import KeyPair, LocalProtocolError, SecretStream
from hyperdht.addresses import Address
from hyperdht.io.offload import Offload
from hyperdht.io.reactor import TaskReactor, reactor_for
from hyperdht.io.udx_stream import UdxByteStream
from hyperdht.io.udx_transport import UdxTransport
from hyperdht.noise import HandshakeKeys
from hyperdht.rpc.requests import Datagram
from hyperdht.udx.packet import DATA, encode_packet

from .vectors import pattern

pytestmark = pytest.mark.anyio
WAYS: list[dict[str, Any]] = [{}, {"offload": Offload.none()}, {"reactor": TaskReactor}]


class Pair(NamedTuple):
    """Two transports in this process and a stream between them."""

    transports: tuple[UdxTransport, UdxTransport]
    left: UdxByteStream
    right: UdxByteStream


def connect_pair(
    left: UdxTransport, right: UdxTransport, *, left_socket: int = 0
) -> tuple[UdxByteStream, UdxByteStream]:
    ids = left.endpoint.reserve(None), right.endpoint.reserve(None)
    left.endpoint.connect(ids[0], left_socket, address_of(right), ids[1], now=left.now())
    right.endpoint.connect(ids[1], 0, address_of(left, left_socket), ids[0], now=right.now())
    return UdxByteStream(left, ids[0]), UdxByteStream(right, ids[1])


def address_of(transport: UdxTransport, socket: int = 0) -> Address:
    return Address("127.0.0.1", transport.port(socket))


@asynccontextmanager
async def transports(**options: Any) -> AsyncIterator[tuple[UdxTransport, UdxTransport]]:
    async with UdxTransport(host="127.0.0.1", **options) as left, UdxTransport(host="127.0.0.1", **options) as right:
        left.open()
        right.open()
        yield left, right


@asynccontextmanager
async def pair(**options: Any) -> AsyncIterator[Pair]:
    async with transports(**options) as both:
        yield Pair(both, *connect_pair(*both))


async def read_all(stream: UdxByteStream, consume: Callable[[memoryview], object] | None = None) -> bytes:
    data = bytearray()
    while True:
        try:
            await stream.receive_to(consume or data.extend)
        except EndOfStream:
            return bytes(data)


def secret_options(is_initiator: bool) -> dict[str, Any]:
    """Of a stream whose handshake was done elsewhere, as in the DHT."""
    keys = [bytes([1]) * 32, bytes([2]) * 32]
    tx, rx = keys if is_initiator else keys[::-1]
    remote = KeyPair.from_seed(bytes(32)).public_key
    handshake = HandshakeKeys(tx=tx, rx=rx, hash=bytes(64), remote_public_key=remote)
    return {"is_initiator": is_initiator, "key_pair": KeyPair.from_seed(bytes(32)), "handshake": handshake}


@pytest.mark.parametrize("options", WAYS, ids=["fast", "no-offload", "tasks"])
async def test_32_mib_both_ways_at_once(options: dict[str, Any]) -> None:
    chunk, count = os.urandom(65_537), 512
    expected = hashlib.sha256(chunk * count).digest()
    async with pair(**options) as (_, left, right):
        done = []

        async def send(stream: UdxByteStream) -> None:
            for _ in range(count):
                await stream.send(chunk)
            await stream.send_eof()

        async def receive(stream: UdxByteStream) -> None:
            digest = hashlib.sha256()
            await read_all(stream, digest.update)
            done.append(digest.digest())

        async with anyio.create_task_group() as task_group:
            for stream in (left, right):
                task_group.start_soon(send, stream)
                task_group.start_soon(receive, stream)
        assert done == [expected, expected]
        await left.aclose()
        await right.aclose()


@pytest.mark.parametrize("options", WAYS, ids=["fast", "no-offload", "tasks"])
async def test_secret_streams_run_over_it(options: dict[str, Any]) -> None:
    async with pair(**options) as (_, left, right):
        one = await SecretStream.establish(left, **secret_options(True))
        other = await SecretStream.establish(right, **secret_options(False))
        async with one, other, anyio.create_task_group() as task_group:
            messages = [os.urandom(size) for size in (0, 1, 1000, 65_536, 300_000)]
            task_group.start_soon(one.send_many, messages * 10)
            task_group.start_soon(other.send_many, messages)
            assert [await other.receive() for _ in range(50)] == messages * 10
            assert [await one.receive() for _ in range(5)] == messages


async def test_half_open_in_both_orders() -> None:
    async with pair() as (_, left, right):
        await left.send(b"question")
        await left.send_eof()
        assert await read_all(right) == b"question"
        await right.send(b"answer")
        await right.send_eof()
        assert await read_all(left) == b"answer"
        with pytest.raises(ClosedResourceError):
            await left.send(b"more")
        await left.aclose()
        await right.aclose()


async def test_a_reader_that_stops_holds_the_writer_up() -> None:
    async with pair() as (_, left, right):
        sent = 0

        async def send_for_ever() -> None:
            nonlocal sent
            while True:
                await left.send(bytes(65_536))
                sent += 65_536

        async with anyio.create_task_group() as task_group:
            task_group.start_soon(send_for_ever)
            await reaches(lambda: sent > 4_000_000 and left.stream.machine.queued_bytes > 512 << 10)
            stopped = sent
            await anyio.sleep(0.2)
            assert sent - stopped <= 131_072
            assert sent < 6_000_000
            assert right.stream.machine.unread_bytes <= (4 << 20) + (64 << 10)
            got = 0

            def count(data: memoryview) -> None:
                nonlocal got
                got += len(data)

            while got < 20_000_000:
                await right.receive_to(count)
            task_group.cancel_scope.cancel()


async def reaches(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(20):
        while not condition():  # noqa: ASYNC110  # of machines that know no events of ours
            await anyio.sleep(0.01)


async def test_receive_gives_what_fits_and_keeps_the_rest() -> None:
    async with pair() as (_, left, right):
        await left.send(pattern(1000))
        got = b""
        while len(got) < 1000:
            part = await right.receive(7)
            assert len(part) <= 7
            got += part
        assert got == pattern(1000)


async def test_cancelling_a_receiver_or_a_waiting_sender_loses_nothing() -> None:
    async with pair() as (_, left, right):
        expected = bytearray()
        got = bytearray()
        for step in range(300):
            chunk = bytes([step % 251]) * 50_000
            with anyio.move_on_after(0.001):
                await left.send(chunk)
                expected += chunk
            with anyio.move_on_after(0.0005):
                await right.receive_to(got.extend)
        await left.send_eof()
        got += await read_all(right)
        assert got == expected


async def test_two_tasks_at_one_end_are_refused() -> None:
    async with pair() as (_, left, _right), anyio.create_task_group() as task_group:

        async def receive() -> None:
            with pytest.raises(ClosedResourceError):
                await left.receive()

        task_group.start_soon(receive)
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(BusyResourceError):
            await left.receive()
        await left.aclose_forcefully()


# --- closing


async def test_closing_delivers_what_was_sent() -> None:
    async with pair() as (_, left, right), anyio.create_task_group() as task_group:
        await left.send(pattern(200_000))
        task_group.start_soon(left.aclose)
        assert await read_all(right) == pattern(200_000)
        with pytest.raises(ClosedResourceError):
            await left.send(b"x")
        with pytest.raises(ClosedResourceError):
            await left.receive()


async def test_destroy_breaks_the_peers_stream_after_what_it_has() -> None:
    async with pair() as (_, left, right):
        await left.send(b"last words")
        await reaches(lambda: right.stream.machine.unread_bytes > 0)
        left.destroy()
        assert await right.receive() == b"last words"
        for verb in (right.receive, lambda: right.send(b"x"), right.receive_message, right.send_eof):
            with pytest.raises(BrokenResourceError, match="gave the stream up"):
                await verb()
        await right.aclose()
        with pytest.raises(ClosedResourceError):
            await right.receive()


async def test_a_cancelled_close_gives_the_stream_up() -> None:
    async with transports() as (left, _):
        stream_id = left.endpoint.reserve(None)
        left.endpoint.connect(stream_id, 0, Address("127.0.0.1", 9), 1, now=left.now())  # nobody is there
        stream = UdxByteStream(left, stream_id)
        await stream.send(b"x")
        with anyio.move_on_after(0.05) as scope:
            await stream.aclose()
        assert scope.cancelled_caught
        await reaches(lambda: len(left.endpoint) == 0)


async def test_the_end_of_a_transport_resets_the_peers_and_closes_what_waits() -> None:
    async with UdxTransport(host="127.0.0.1") as left:
        left.open()
        async with UdxTransport(host="127.0.0.1") as right:
            right.open()
            ours, theirs = connect_pair(left, right)
            async with anyio.create_task_group() as task_group:

                async def wait_for_the_end() -> None:
                    with pytest.raises(ClosedResourceError):
                        await theirs.receive()

                task_group.start_soon(wait_for_the_end)
                await anyio.wait_all_tasks_blocked()
                right.shut_down()
        with pytest.raises(BrokenResourceError):
            await ours.receive()
        right.wake()
        right.send(b"x", address_of(left), 0)


async def test_an_unknown_or_unconnected_stream_is_misuse() -> None:
    async with transports() as (left, _):
        with pytest.raises(LocalProtocolError):
            UdxByteStream(left, 5)
        with pytest.raises(LocalProtocolError):
            UdxByteStream(left, left.endpoint.reserve(None))


# --- beside the stream


async def test_unordered_messages() -> None:
    async with pair() as (_, left, right):
        left.send_message(b"one")
        assert await right.receive_message() == b"one"
        with pytest.raises(LocalProtocolError):
            left.send_message(bytes(left.max_message_bytes + 1))
        for n in range(500):
            left.send_message(b"%d" % n)
        await left.send(b"x")
        await right.receive()
        with anyio.fail_after(5):
            while await right.receive_message() != b"499":
                pass


async def test_a_stream_moves_to_another_socket() -> None:
    async with pair() as ((one, other), left, right):
        socket = other.open()
        right.stream.hook = left.stream.hook = lambda *_: True
        one.endpoint.change_remote(left.stream.local_id, 0, address_of(other, socket), right.stream.local_id)
        other.endpoint.change_remote(right.stream.local_id, socket, address_of(one), left.stream.local_id)
        await left.send(b"there")
        assert await right.receive() == b"there"
        await right.send(b"back")
        assert await left.receive() == b"back"
        assert left.remote_address == address_of(other, socket)


async def test_pool_sockets_close_when_no_stream_uses_them() -> None:
    async with transports() as (one, other):
        idle, used = one.open(), one.open()
        port = one.port(idle)
        one.close(idle)
        with pytest.raises(KeyError):
            one.port(idle)
        left, right = connect_pair(one, other, left_socket=used)
        one.close(used)
        await left.send(b"still open")
        assert await right.receive() == b"still open"
        left.destroy()
        await reaches(lambda: used not in one._sockets)
        assert one.open(port) > used  # numbers are not used twice, ports are free again


class Echo:
    """A machine beside the streams: sends back what it got, and something on its own."""

    def __init__(self, start: float) -> None:
        self.got: list[tuple[bytes, Address, int]] = []
        self.timer: float | None = start + 0.02
        self.out: list[Datagram] = []
        self.peer: Address | None = None

    def receive(self, datagram: bytes, *, sender: Address, socket: int, now: float) -> None:
        self.got.append((datagram, sender, socket))
        if not datagram.startswith(b"re:"):
            self.out.append(Datagram(b"re:" + datagram, sender, socket))

    def datagrams_to_send(self) -> list[Datagram]:
        out, self.out = self.out, []
        return out

    def next_timer(self) -> float | None:
        return self.timer

    def handle_timer(self, *, now: float) -> None:
        if self.timer is not None and now >= self.timer and self.peer is not None:
            self.timer = None
            self.out.append(Datagram(b"timer", self.peer, 0, ttl=5))


@pytest.mark.parametrize("reactor", [reactor_for, TaskReactor])
async def test_a_machine_beside_the_streams_gets_the_rest_and_is_woken(reactor: Any) -> None:
    async with transports(reactor=reactor) as (left, right):
        ours, theirs = Echo(left.now()), Echo(right.now())
        ours.peer, theirs.timer = address_of(right), None
        left.attach(ours)
        right.attach(theirs)
        ours.out.append(Datagram(b"hello", address_of(right), 0))
        left.wake()
        late = encode_packet(DATA, stream_id=77, rwnd=0, seq=0, ack=0)
        left.send(late, address_of(right), 0)
        await reaches(lambda: len(ours.got) == 3)
        assert {data for data, _, _ in ours.got} == {b"re:hello", b"re:timer", b"re:" + late}
        assert theirs.got[0][1:] == (address_of(left), 0)


async def test_without_a_machine_a_callback_gets_the_rest() -> None:
    async with transports() as (left, right):
        got: list[tuple[bytes, Address, int]] = []
        right.on_datagram = lambda *item: got.append(item)
        left.send(b"\0", address_of(right), 0, ttl=5)
        await reaches(lambda: bool(got))
        assert got == [(b"\0", address_of(left), 0)]
