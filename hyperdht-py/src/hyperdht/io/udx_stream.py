"""A UDX stream as an anyio byte stream."""

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import anyio
from anyio.abc import SocketAttribute
from anyio.lowlevel import checkpoint

from ..addresses import Address
from ..buffers import BytesLike
from ..dht.link import Path
from ..errors import LocalProtocolError
from ..udx import (
    CloseReason,
    EndpointStream,
    Event,
    State,
    StreamClosed,
    StreamMessageReceived,
)
from .direct import DirectByteStream
from .udx_transport import UdxTransport

CLOSE_TIME = 3.0  # for the peer to acknowledge what is under way when a stream is closed
# After that the peer may end its side in peace: a DESTROY makes the official stack drop what it has not read yet.
GRACE_TIME = 10.0
MAX_WAITING_MESSAGES = 256
# Once our side ended, nothing of ours goes unanswered any more; a peer that vanishes is noticed in 25 s all the same.
HEARTBEAT_S = 5.0


class UdxByteStream(DirectByteStream):
    """Owns one connected stream of a transport. One task may send while another receives.

    Sending waits while more than 512 KiB are queued; a task that does not receive closes the peer's window. Of the data
    nothing is lost by cancellation: bytes leave the queue only when a task is there, and are queued all at once.
    """

    def __init__(self, transport: UdxTransport, stream_id: int, path: Path | None = None) -> None:
        """Take over a stream of `transport.endpoint`.

        Args:
            path: How its packets travel, where that is known.
        Raises:
            LocalProtocolError: There is no such stream, or it is not connected.
        """
        stream = transport.endpoint.stream(stream_id)
        if stream.address is None:
            raise LocalProtocolError("the stream is not connected")
        self.path = path
        """How its packets travel now: it changes when a direct way opens for a stream that began at a relay."""
        self._transport = transport
        self._stream: EndpointStream = stream
        self._machine = stream.machine
        self._rest = memoryview(b"")
        self._messages: deque[bytes] = deque(maxlen=MAX_WAITING_MESSAGES)
        self._news = anyio.Event()
        self._receiving = False
        self._sending = False
        self._send_ended = False
        self._closed = False
        self._bytes_read = 0
        self._closed_callbacks: list[Callable[[], object]] = []
        self.bytes_sent = 0
        """Handed to it so far."""
        stream.on_event(self._on_event)

    @property
    def bytes_received(self) -> int:
        """Arrived in order so far, whether read or not."""
        return self._bytes_read + self._machine.unread_bytes

    def on_closed(self, callback: Callable[[], object]) -> None:
        """Call `callback` once both directions are over, for whatever reason; at once if they are."""
        if self._machine.close_reason is not None:
            callback()
        else:
            self._closed_callbacks.append(callback)

    @property
    def stream(self) -> EndpointStream:
        """For looking at addresses and round-trip times."""
        return self._stream

    @property
    def remote_address(self) -> Address:
        """Where packets go now."""
        assert self._stream.address is not None
        return self._stream.address

    def _on_event(self, event: Event) -> None:
        if isinstance(event, StreamMessageReceived):
            self._messages.append(event.data)
        self._news.set()
        if isinstance(event, StreamClosed):
            callbacks, self._closed_callbacks = self._closed_callbacks, []
            for callback in callbacks:
                callback()

    async def _next_news(self) -> None:
        """Wait until something happened since the caller looked."""
        if self._news.is_set():
            self._news = anyio.Event()
        await self._news.wait()

    # --- receiving

    async def receive_to(self, consume: Callable[[memoryview], object]) -> None:
        data = await self._receive()
        consume(data)

    async def receive(self, max_bytes: int = 65536) -> bytes:
        data = await self._receive()
        self._rest = data[max_bytes:]
        return bytes(data[:max_bytes])

    async def _receive(self) -> memoryview:
        if self._receiving:
            raise anyio.BusyResourceError("receiving from")
        self._receiving = True
        try:
            await checkpoint()
            while True:
                if self._closed:
                    raise anyio.ClosedResourceError
                if self._rest:
                    data, self._rest = self._rest, memoryview(b"")
                    return data
                if self._machine.unread_bytes:
                    data = memoryview(self._stream.read())
                    self._bytes_read += len(data)
                    return data
                if self._machine.remote_ended:
                    raise anyio.EndOfStream
                self._raise_if_over()
                await self._next_news()
        finally:
            self._receiving = False

    async def receive_message(self) -> bytes:
        """The next unordered message. The oldest of more than 256 that wait are dropped."""
        await checkpoint()
        while not self._messages:
            self._raise_if_over()
            await self._next_news()
        return self._messages.popleft()

    # --- sending

    async def send(self, item: BytesLike) -> None:
        """Queue all of `item`, or when cancelled before that, nothing. Others have their turn when the queue is full."""
        await self.send_owned(item if isinstance(item, bytes) else bytes(item))

    async def send_owned(self, item: BytesLike) -> None:
        if self._sending:
            raise anyio.BusyResourceError("sending to")
        self._sending = True
        try:
            while True:
                self._raise_if_over()
                if self._send_ended:
                    raise anyio.ClosedResourceError
                if self._machine.writable:
                    self._stream.write(item)
                    self.bytes_sent += len(item)
                    return
                await self._next_news()
        finally:
            self._sending = False

    def send_now(self, item: BytesLike) -> None:
        """Queue a few bytes without waiting for room; nothing once the stream or our side is over."""
        if not (self._closed or self._send_ended or self._machine.close_reason is not None):
            self._stream.write(item)
            self.bytes_sent += len(item)

    def send_message(self, message: BytesLike) -> None:
        """Send an unordered message, which may be lost.

        Raises:
            LocalProtocolError: Longer than `max_message_bytes`.
        """
        self._stream.send_message(message)

    @property
    def max_message_bytes(self) -> int:
        """What fits into one unordered message."""
        return self._machine.max_message_bytes

    # --- the end

    async def send_eof(self) -> None:
        """End our side, without waiting for the peer to know."""
        self._raise_if_over()
        self._end()
        self._stream.watch_peer(HEARTBEAT_S, now=self._transport.now())
        await checkpoint()

    def _end(self) -> None:
        if not self._send_ended:
            self._send_ended = True
            self._stream.end()

    async def aclose(self) -> None:
        """Close both directions. Waits up to 3 s for the peer to have what was sent; cancelled, it gives the stream up.

        The peer has another 10 s to end its side, while the transport is open.
        """
        if not self._closed:
            self._closed = True
            self._news.set()
            if self._machine.state is State.OPEN:
                self._stream.abandon(self._transport.now() + CLOSE_TIME + GRACE_TIME)
        try:
            await checkpoint()
            with anyio.move_on_after(CLOSE_TIME) as scope:
                while self._machine.state is State.OPEN and not self._machine.delivered:
                    await self._next_news()
            if scope.cancelled_caught:
                self._stream.destroy()
        except BaseException:
            self._stream.destroy()
            raise

    async def aclose_forcefully(self) -> None:
        """Give the stream up at once; the peer sees a reset."""
        self.destroy()
        await checkpoint()

    def destroy(self) -> None:
        """The same from a place that cannot wait."""
        self._closed = True
        self._stream.destroy()
        self._news.set()

    def _raise_if_over(self) -> None:
        if self._closed:
            raise anyio.ClosedResourceError
        reason = self._machine.close_reason
        if reason is CloseReason.RESET:
            raise anyio.BrokenResourceError("the peer gave the stream up")
        if reason is CloseReason.TIMED_OUT:
            raise anyio.BrokenResourceError("the peer does not answer any more")
        if reason is not None:
            raise anyio.ClosedResourceError

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        return {SocketAttribute.remote_address: lambda: tuple(self.remote_address)}
