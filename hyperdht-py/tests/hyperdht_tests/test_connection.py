"""SecretStream over real sockets: messages, ends, limits, cancellation."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest
from anyio import BrokenResourceError, BusyResourceError, ClosedResourceError, EndOfStream
from anyio.abc import SocketAttribute

from hyperdht import (
    ConnectionClosed,
    HandshakeError,
    KeyPair,
    LocalProtocolError,
    RemoteProtocolError,
    RequestTimeout,
    SecretStream,
)
from hyperdht.io import connection
from hyperdht.secret_stream import MAX_MESSAGE_BYTES

from .io_pairs import establish_pair, secret_pair, tcp_pair

pytestmark = pytest.mark.anyio


async def receive_all(stream: SecretStream) -> list[bytes]:
    received: list[bytes] = []
    try:
        while True:
            received += map(bytes, await stream.receive_many())
    except EndOfStream:
        return received


async def test_both_sides_know_each_other() -> None:
    async with secret_pair() as (left, right):
        assert left.handshake_hash == right.handshake_hash
        assert left.remote_public_key == right.public_key
        assert right.remote_public_key == left.public_key
        assert left.is_initiator
        assert not right.is_initiator


async def test_messages_keep_boundaries_and_order_both_ways() -> None:
    sent = [bytes([n % 256]) * (n * 37 % 9000) for n in range(300)]
    async with secret_pair() as (left, right), anyio.create_task_group() as task_group:

        async def send(stream: SecretStream) -> None:
            await stream.send(sent[0])
            await stream.send_many(sent[1:])
            await stream.send_many([])
            await stream.send_eof()

        task_group.start_soon(send, left)
        task_group.start_soon(send, right)
        assert await receive_all(right) == sent
        assert await receive_all(left) == sent


async def test_sends_over_the_write_size_and_single_receives() -> None:
    sent = [bytes([n]) * 65536 for n in range(40)]
    async with secret_pair() as (left, right), anyio.create_task_group() as task_group:
        task_group.start_soon(left.send_many, sent)
        for message in sent:
            assert await right.receive() == message


async def test_many_tasks_send_in_the_order_they_called() -> None:
    async with secret_pair() as (left, right), anyio.create_task_group() as task_group:
        for number in range(50):
            task_group.start_soon(left.send, bytes([number]) * 20_000)
        for number in range(50):
            assert (await right.receive())[0] == number


@asynccontextmanager
async def anyio_tcp_pair() -> AsyncIterator[tuple[anyio.abc.SocketStream, anyio.abc.SocketStream]]:
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    accepted: list[anyio.abc.SocketStream] = []
    got = anyio.Event()

    async def handle(stream: anyio.abc.SocketStream) -> None:
        accepted.append(stream)
        got.set()

    async with listener, anyio.create_task_group() as task_group:
        task_group.start_soon(listener.serve, handle)
        left = await anyio.connect_tcp("127.0.0.1", listener.extra(anyio.abc.SocketAttribute.local_port))
        await got.wait()
        task_group.cancel_scope.cancel()
    async with left, accepted[0]:
        yield left, accepted[0]


async def test_any_anyio_byte_stream_will_do() -> None:
    sent = [bytes([n]) * 65536 for n in range(64)]
    async with anyio_tcp_pair() as pair:
        left, right = await establish_pair(*pair, {"keep_alive_s": 5.0}, {})
        async with left, right, anyio.create_task_group() as task_group:
            task_group.start_soon(right.send_many, sent)
            for message in sent:
                assert await left.receive() == message


async def test_expected_key() -> None:
    key_pair = KeyPair.generate()
    options = {"remote_public_key": key_pair.public_key}
    async with secret_pair(options, {"key_pair": key_pair}) as (left, _):
        assert left.remote_public_key == key_pair.public_key


async def test_another_key_than_expected_ends_both_sides() -> None:
    async with tcp_pair() as pair:
        with pytest.raises(ExceptionGroup) as raised:
            await establish_pair(*pair, {"remote_public_key": KeyPair.generate().public_key}, {})
    assert raised.group_contains(HandshakeError, match="another key")


async def test_peer_that_hangs_up_during_the_handshake() -> None:
    async with tcp_pair() as (left, right):
        await right.aclose()
        with pytest.raises(ConnectionClosed):
            await SecretStream.establish(left, is_initiator=True, key_pair=KeyPair.generate())


async def test_silent_peer_during_the_handshake_times_out_and_is_closed() -> None:
    async with tcp_pair() as (left, right):
        with pytest.raises(RequestTimeout):
            await SecretStream.establish(
                right, is_initiator=False, key_pair=KeyPair.generate(), handshake_timeout_s=0.05
            )
        with pytest.raises(ClosedResourceError):
            await right.receive()
        with pytest.raises(EndOfStream):
            await left.receive()


async def test_garbage_instead_of_a_handshake() -> None:
    async with tcp_pair() as (left, right):
        await left.send(b"GET / HTTP/1.1\r\n\r\n" * 100)
        with pytest.raises(RemoteProtocolError, match=r"a frame of \d+ bytes"):
            await SecretStream.establish(right, is_initiator=False, key_pair=KeyPair.generate())


async def test_t06_message_over_the_cap_breaks_the_connection() -> None:
    async with secret_pair({}, {"max_message_bytes": 1000}) as (left, right):
        await left.send_many([bytes(1000), bytes(1001)])
        assert await right.receive() == bytes(1000)
        with pytest.raises(BrokenResourceError, match="at most"):
            await right.receive()
        with pytest.raises(BrokenResourceError):
            await right.send(b"x")


async def test_forged_bytes_break_the_connection_after_the_good_messages() -> None:
    async with tcp_pair() as (left_bytes, right_bytes):
        left, right = await establish_pair(left_bytes, right_bytes, {}, {})
        await left.send(b"good")
        await left_bytes.send(b"\x20\0\0" + bytes(32))
        assert await right.receive() == b"good"
        with pytest.raises(BrokenResourceError, match="forged"):
            await right.receive()


async def test_end_in_the_middle_of_a_message_is_no_clean_end() -> None:
    async with tcp_pair() as (left_bytes, right_bytes):
        _, right = await establish_pair(left_bytes, right_bytes, {}, {})
        await left_bytes.send(b"\x20\0\0 half")
        await left_bytes.send_eof()
        with pytest.raises(BrokenResourceError, match="middle"):
            await right.receive()


async def test_message_too_long_for_a_frame_is_refused_here() -> None:
    async with secret_pair() as (left, right):
        with pytest.raises(LocalProtocolError):
            await left.send_many([b"first", bytes(MAX_MESSAGE_BYTES + 1)])
        await left.send(b"goes on")
        assert await right.receive() == b"goes on"


async def test_cancelled_receive_loses_nothing() -> None:
    async with secret_pair() as (left, right):
        with anyio.move_on_after(0.01):
            await right.receive()
        await left.send_many([b"one", b"two"])
        assert await right.receive() == b"one"
        with anyio.CancelScope() as scope:
            scope.cancel()
            await right.receive()
        assert await right.receive_many() == [b"two"]


async def test_send_cancelled_before_its_turn_sent_nothing() -> None:
    async with secret_pair() as (left, right), anyio.create_task_group() as task_group:
        big = [bytes(1_000_000)] * 20
        task_group.start_soon(left.send_many, big)
        await anyio.wait_all_tasks_blocked()
        with anyio.move_on_after(0.01) as scope:
            await left.send(b"never")
        assert scope.cancelled_caught
        task_group.start_soon(left.send, b"later")
        for message in big:
            assert await right.receive() == message
        assert await right.receive() == b"later"


async def test_send_cancelled_half_way_closes_the_connection() -> None:
    async with secret_pair() as (left, right):
        with anyio.move_on_after(0.05) as scope:
            await left.send_many([bytes(1_000_000)] * 20)  # nobody reads
        assert scope.cancelled_caught
        with pytest.raises(ClosedResourceError):
            await left.send(b"x")
        with pytest.raises(ClosedResourceError):
            await left.receive()
        with pytest.raises(BrokenResourceError):
            await receive_all(right)


async def test_closing_here() -> None:
    async with secret_pair() as (left, right):

        async def receive() -> None:
            with pytest.raises(ClosedResourceError):
                await left.receive()

        async with anyio.create_task_group() as task_group:
            task_group.start_soon(receive)
            await anyio.wait_all_tasks_blocked()
            with pytest.raises(BusyResourceError):
                await left.receive()
            await left.aclose()
        for use in (left.receive, left.send_eof):
            with pytest.raises(ClosedResourceError):
                await use()
        with pytest.raises(EndOfStream):
            await right.receive()


async def test_message_sent_right_before_closing_arrives() -> None:
    """Although the initiator has not read the responder's header then."""
    for _ in range(20):
        async with secret_pair() as (left, right):
            await left.send(b"last words")
            await left.aclose()
            assert await receive_all(right) == [b"last words"]


async def test_sending_after_our_end() -> None:
    async with secret_pair() as (left, right):
        await left.send_eof()
        with pytest.raises(ClosedResourceError):
            await left.send(b"x")
        assert await receive_all(right) == []
        await right.send(b"answer")
        assert await left.receive() == b"answer"


async def test_keep_alives_hold_an_idle_connection_and_are_not_seen() -> None:
    limits = {"keep_alive_s": 0.02, "timeout_s": 0.5}
    async with secret_pair(limits, limits) as (left, right), anyio.create_task_group() as task_group:
        for stream in (left, right):
            task_group.start_soon(stream.receive)
        await anyio.sleep(0.8)  # longer than the time limit: without a keep-alive both would have failed
        await left.send(b"")
        await left.send(b"bye")
        await right.send(b"bye")


async def test_peer_without_keep_alive_sees_empty_messages() -> None:
    async with secret_pair({"keep_alive_s": 0.02}, {}) as (left, right), anyio.create_task_group() as task_group:
        task_group.start_soon(left.receive)
        assert await right.receive() == b""
        await right.send(b"bye")


async def test_silence_over_the_time_limit() -> None:
    async with secret_pair({"timeout_s": 0.05}, {}) as (left, right):
        with pytest.raises(BrokenResourceError, match="nothing came") as raised:
            await left.receive()
        assert isinstance(raised.value.__cause__, RequestTimeout)
        with pytest.raises(EndOfStream):
            await right.receive()


async def test_peer_that_neither_sends_nor_reads_is_given_up_on_both_ends_of_ours() -> None:
    async with secret_pair({"timeout_s": 0.3, "keep_alive_s": 0.1}, {}) as (left, _):

        async def send() -> None:
            with pytest.raises(BrokenResourceError, match="nothing came"):
                await left.send_many([bytes(1_000_000)] * 20)

        async with anyio.create_task_group() as task_group:
            task_group.start_soon(send)
            with pytest.raises(BrokenResourceError, match="nothing came"):
                await left.receive()


async def test_keep_alive_into_a_full_connection_does_not_outlast_the_time_limit() -> None:
    async with tcp_pair() as (left_bytes, right_bytes):
        left, _ = await establish_pair(left_bytes, right_bytes, {"timeout_s": 0.4, "keep_alive_s": 0.1}, {})
        with anyio.move_on_after(0.05):
            await left_bytes.send(bytes(50_000_000))  # fills what the system buffers; nobody reads
        with pytest.raises(BrokenResourceError, match="nothing came"):
            await left.receive()


async def test_failure_met_while_sending_reaches_the_receiver() -> None:
    async with tcp_pair() as (left_bytes, right_bytes):
        left, _ = await establish_pair(left_bytes, right_bytes, {}, {})

        async def receive() -> None:
            with pytest.raises(BrokenResourceError):
                await left.receive()

        async with anyio.create_task_group() as task_group:
            task_group.start_soon(receive)
            await anyio.wait_all_tasks_blocked()
            left_bytes.extra(SocketAttribute.raw_socket).shutdown(socket.SHUT_WR)
            with pytest.raises(BrokenResourceError):
                await left.send(b"x")


async def test_bytes_of_an_unfinished_message_are_a_sign_of_life() -> None:
    async with tcp_pair() as (left_bytes, right_bytes):
        left, right = await establish_pair(left_bytes, right_bytes, {}, {"timeout_s": 0.25})
        frame = bytes(left._machine.encrypt([b"slow"]))

        async def drip() -> None:
            for byte in frame[:6]:
                await left_bytes.send(bytes([byte]))
                await anyio.sleep(0.06)
            await left_bytes.send(frame[6:])

        async with anyio.create_task_group() as task_group:
            task_group.start_soon(drip)
            assert await right.receive() == b"slow"


async def test_byte_stream_view() -> None:
    data = bytes(range(256)) * 1000
    async with secret_pair() as (left, right):
        ours, theirs = left.byte_stream(), right.byte_stream()
        await right.send(b"")
        await theirs.send(data)
        await theirs.send_eof()
        received = b""
        while len(received) < len(data):
            received += await ours.receive(1000)
        assert received == data
        with pytest.raises(EndOfStream):
            await ours.receive()
        await ours.aclose()


async def test_idle_connections_hold_no_read_buffer() -> None:
    """All streams of a thread read into one buffer; a message is never a view into it."""
    async with secret_pair() as (left, right):
        await left.send(b"first")
        kept = await right.receive()
        await left.send(b"other")
        await right.receive()
        assert kept == b"first"


def test_long_lists_are_cut_into_writes() -> None:
    parts = list(connection._parts([bytes(600_000)] * 5))
    assert [len(part) for part in parts] == [2, 2, 1]
    assert list(connection._parts([])) == []
