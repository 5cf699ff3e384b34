"""The TCP byte stream, on real sockets and with both ways of waiting for them."""

import socket
import struct

import anyio
import pytest
from anyio import BrokenResourceError, BusyResourceError, ClosedResourceError, EndOfStream
from anyio.abc import SocketAttribute

from hyperdht.io import TcpStream, connect_tcp, listen_tcp, readiness, tcp

from .io_pairs import tcp_pair

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["loop", "anyio"], autouse=True)
def _both_ways_of_waiting(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The anyio way is what Windows uses; it works here too, so that it is tested here."""
    if request.param == "anyio":
        monkeypatch.setattr(tcp, "readiness_of", readiness.AnyioReadiness)


async def receive_exactly(stream: TcpStream, size: int) -> bytes:
    data = b""
    while len(data) < size:
        data += await stream.receive(size - len(data))
    return data


async def test_bytes_both_ways_and_half_close() -> None:
    async with tcp_pair() as (left, right):
        await left.send(b"hello")
        assert await receive_exactly(right, 5) == b"hello"
        await left.send_eof()
        with pytest.raises(EndOfStream):
            await right.receive()
        await right.send(bytearray(b"still here"))
        assert await receive_exactly(left, 10) == b"still here"


async def test_more_than_the_system_buffers_waits_for_the_reader() -> None:
    data = bytes(range(256)) * 100_000
    async with tcp_pair() as (left, right), anyio.create_task_group() as task_group:
        task_group.start_soon(left.send, data)
        assert await receive_exactly(right, len(data)) == data


async def test_addresses() -> None:
    async with tcp_pair() as (left, right):
        assert left.remote_address == right.local_address
        assert left.extra(SocketAttribute.remote_port) == right.local_address.port
        assert right.extra(SocketAttribute.remote_address) == tuple(left.local_address)
        assert isinstance(left.extra(SocketAttribute.raw_socket), socket.socket)


async def test_cancelled_receive_loses_nothing() -> None:
    async with tcp_pair() as (left, right):
        with anyio.move_on_after(0.01):
            await right.receive()
        await left.send(b"kept")
        with anyio.CancelScope() as scope:
            scope.cancel()
            await right.receive()
        assert await receive_exactly(right, 4) == b"kept"


async def test_closing_wakes_a_waiting_receiver_and_sender() -> None:
    async with tcp_pair() as (left, right):
        woken = []

        async def receive() -> None:
            with pytest.raises(ClosedResourceError):
                await left.receive()
            woken.append("receiver")

        async def send() -> None:
            with pytest.raises(ClosedResourceError):
                await left.send(bytes(50_000_000))
            woken.append("sender")

        async with anyio.create_task_group() as task_group:
            task_group.start_soon(receive)
            task_group.start_soon(send)
            await anyio.wait_all_tasks_blocked()
            with pytest.raises(BusyResourceError):
                await left.receive()
            with pytest.raises(BusyResourceError):
                await left.send(b"x")
            await left.aclose()
        assert sorted(woken) == ["receiver", "sender"]
        for use in (left.receive, left.send_eof):
            with pytest.raises(ClosedResourceError):
                await use()
        with pytest.raises(ClosedResourceError):
            await left.send(b"x")
        assert right.remote_address == left.local_address


async def test_closing_with_unread_bytes_keeps_what_was_sent() -> None:
    async with tcp_pair() as (left, right):
        await left.send(b"never read")
        await right.send(b"last words")
        await right.aclose()
        assert await receive_exactly(left, 10) == b"last words"
        with pytest.raises(EndOfStream):
            await left.receive()


async def test_reset_by_the_peer_is_a_broken_resource() -> None:
    async with tcp_pair() as (left, right):
        linger_for_no_time = struct.pack("ii", 1, 0)
        right.extra(SocketAttribute.raw_socket).setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger_for_no_time)
        right.extra(SocketAttribute.raw_socket).close()
        with pytest.raises(BrokenResourceError):
            await left.receive()
        with pytest.raises(BrokenResourceError):
            await left.send(b"x")


async def test_connecting_to_a_closed_port_says_where() -> None:
    async with await listen_tcp("127.0.0.1") as listener:
        port = listener.port
    with pytest.raises(OSError, match=r"127\.0\.0\.1"):
        await connect_tcp("127.0.0.1", port)


async def test_listener_serves_until_closed() -> None:
    async with await listen_tcp() as listener:
        answered = anyio.Event()

        async def answer(stream: TcpStream) -> None:
            async with stream:
                await stream.send(await stream.receive())
            answered.set()

        async with anyio.create_task_group() as task_group:
            task_group.start_soon(listener.serve, answer)
            async with await connect_tcp("127.0.0.1", listener.port) as stream:
                assert listener.extra(SocketAttribute.local_port) == listener.port
                await stream.send(b"echo")
                assert await receive_exactly(stream, 4) == b"echo"
            await answered.wait()
            await listener.aclose()


async def test_taken_port() -> None:
    async with await listen_tcp("127.0.0.1") as listener:
        with pytest.raises(OSError, match=r"."):
            await listen_tcp("127.0.0.1", listener.port)
