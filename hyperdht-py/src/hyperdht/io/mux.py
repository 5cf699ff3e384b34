"""Protomux over a SecretStream, for programs that want channels to await.

async with Protomux(stream) as mux:
    channel = await mux.open_channel("chat")
    await channel.wait_open()
    await channel.send(0, b"hello")
    message_type, body = await channel.receive()
"""
# ruff: noqa: A002 - `id` and `type` are the protocol's own words

from collections import Counter, deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Self, cast

import anyio.abc
from anyio.lowlevel import checkpoint

from ..buffers import BytesLike
from ..errors import ConnectionClosed, LocalProtocolError, RemoteProtocolError
from ..protomux import (
    Channel,
    ChannelMessageReceived,
    ChannelOpened,
    ChannelRequested,
    Mux,
    MuxLimits,
)
from .connection import SecretStream

# Messages held for a channel whose reader is slower than the peer. When one channel is full the whole connection is not read,
# as in JavaScript: Protomux has no flow control of its own.
INBOX_MESSAGES = 64

PairHandler = Callable[[bytes | None], Awaitable[object]]


class MuxChannel:
    """One channel; made by `Protomux.open_channel`."""

    def __init__(self, mux: "Protomux", channel: Channel) -> None:
        self._mux = mux
        self._channel = channel
        self._answered = anyio.Event()
        self._handshake = b""
        self._inbox: deque[tuple[int, memoryview]] = deque()
        self._arrived = anyio.Event()
        self._closed_here = False
        self._finished = False

    @property
    def protocol(self) -> str:
        """The name we opened it under."""
        return self._channel.protocol

    @property
    def id(self) -> bytes | None:
        """What tells it from others of the same protocol."""
        return self._channel.id

    @property
    def closed(self) -> bool:
        """Whether either side closed it. What came before can still be received."""
        return self._channel.closed

    async def wait_open(self) -> bytes:
        """Wait for the peer to open it too; what the peer attached to its open.

        Raises:
            ConnectionClosed: The peer refused it, or the connection ended.
        """
        await self._answered.wait()
        if not self._channel.opened:
            raise ConnectionClosed(f"the peer refused the channel {self.protocol!r} or the connection ended")
        return self._handshake

    async def send(self, type: int, body: BytesLike) -> None:
        """Send a message; waits while the connection is full. A send that is cancelled may still be sent later.

        Raises:
            ClosedResourceError: We closed it.
            BrokenResourceError: The peer closed it, or the connection failed.
        """
        if self._closed_here:
            raise anyio.ClosedResourceError
        if self._channel.closed:
            raise anyio.BrokenResourceError("the peer closed the channel")
        self._channel.send(type, body)
        await self._mux.flush()

    async def receive(self) -> tuple[int, memoryview]:
        """The next message: its type and body.

        Raises:
            EndOfStream: The peer closed the channel, or ended the connection between two messages.
            ClosedResourceError: We closed it.
            BrokenResourceError: The connection failed.
        """
        await checkpoint()
        while not self._inbox:
            if self._closed_here:
                raise anyio.ClosedResourceError
            if self._finished and self._mux.failure is not None:
                raise anyio.BrokenResourceError(str(self._mux.failure)) from self._mux.failure
            if self._finished:
                raise anyio.EndOfStream
            await self._arrived.wait()
        message = self._inbox.popleft()
        if not self._inbox and not self._finished:
            self._arrived = anyio.Event()
        self._mux.made_progress()
        return message

    async def aclose(self) -> None:
        """Tell the peer that it is over, and drop what was not received."""
        self._closed_here = True
        self._inbox.clear()
        self._channel.close()
        self._arrived.set()
        self._mux.made_progress()
        await self._mux.flush()

    @property
    def full(self) -> bool:
        """For `Protomux`: whether the reader is so far behind that the connection should wait."""
        return len(self._inbox) >= INBOX_MESSAGES

    def opened(self, handshake: bytes) -> None:
        """For `Protomux`."""
        self._handshake = handshake
        self._answered.set()

    def put(self, type: int, body: memoryview) -> None:
        """For `Protomux`."""
        if not self._closed_here:
            self._inbox.append((type, body))
            self._arrived.set()

    def finished(self) -> None:
        """For `Protomux`."""
        self._finished = True
        self._answered.set()
        self._arrived.set()


class Protomux:
    """The channels of one connection. Leaving the `async with` block closes the connection."""

    def __init__(self, stream: SecretStream, *, limits: MuxLimits | None = None) -> None:
        self._stream = stream
        self._mux = Mux(limits)
        self._handlers: dict[tuple[str, bytes | None], PairHandler] = {}
        self._pairing: Counter[tuple[str, bytes | None]] = Counter()
        self._flush_lock = anyio.Lock()
        self._progress = anyio.Event()
        self._closed = anyio.Event()
        self._full: set[MuxChannel] = set()
        self._task_group: anyio.abc.TaskGroup | None = None
        self.failure: Exception | None = None
        """Why the connection ended, unless the peer ended it properly."""

    async def __aenter__(self) -> Self:
        self._task_group = anyio.create_task_group()
        await self._task_group.__aenter__()
        self._task_group.start_soon(self._run)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task_group is not None
        self._task_group.cancel_scope.cancel()
        try:
            await self._task_group.__aexit__(
                None, None, None
            )  # not told of the block's own error, it wraps it in no group
        finally:
            await self._stream.aclose()

    def pair(self, protocol: str, handler: PairHandler, id: bytes | None = None) -> None:
        """Call `await handler(id)` when the peer opens `protocol`; with `id` for that one only. It calls `open_channel`, or
        lets the peer be refused when it returns without."""
        self._handlers[protocol, id] = handler

    def unpair(self, protocol: str, id: bytes | None = None) -> None:
        """Undo `pair`."""
        self._handlers.pop((protocol, id), None)

    async def open_channel(
        self,
        protocol: str,
        id: bytes | None = None,
        *,
        handshake: BytesLike = b"",
        unique: bool = True,
        aliases: tuple[str, ...] = (),
    ) -> MuxChannel:
        """Open a channel, answering the peer's open if there is one. Messages can be sent before the peer answers.

        Raises:
            LocalProtocolError: It is open already and should be unique.
            ClosedResourceError: The connection is over.
        """
        channel = self._mux.create_channel(protocol, id, unique=unique, aliases=aliases)
        if channel is None:
            if self._mux.over:
                raise anyio.ClosedResourceError
            raise LocalProtocolError(f"the channel {protocol!r} is open already")
        channel.context = mux_channel = MuxChannel(self, channel)
        channel.open(handshake)
        self._deliver()
        self.made_progress()
        await self.flush()
        return mux_channel

    @asynccontextmanager
    async def cork(self) -> AsyncGenerator[None]:
        """Everything sent inside the block goes out as one batch at its end."""
        self._mux.cork()
        try:
            yield
        finally:
            self._mux.uncork()
        await self.flush()

    async def flush(self) -> None:
        """Send what is queued. Messages are taken under the lock, so that a cancelled sender leaves them to the next one."""
        async with self._flush_lock:
            messages = self._mux.messages_to_send()
            if messages:
                await self._stream.send_many(messages)

    async def wait_closed(self) -> None:
        """Wait until the connection is over; `failure` says why, unless the peer ended it properly."""
        await self._closed.wait()

    def made_progress(self) -> None:
        """For `MuxChannel`: something was taken, so that reading may go on."""
        self._progress.set()

    async def _run(self) -> None:
        try:
            while True:
                for message in await self._stream.receive_many():
                    self._mux.receive(message)
                    self._deliver()
                    await self._wait_for_readers()
                await self.flush()
        except anyio.EndOfStream:
            pass
        except (anyio.BrokenResourceError, anyio.ClosedResourceError, RemoteProtocolError) as error:
            self.failure = error
        finally:
            self._mux.connection_lost()
            self._deliver()
            self._closed.set()
            await self._stream.aclose()

    async def _wait_for_readers(self) -> None:
        while self._mux.should_pause or any(channel.full for channel in self._full):
            self._progress = anyio.Event()
            await self.flush()  # the peer may be waiting for what is queued
            await self._progress.wait()
        self._full.clear()

    def _deliver(self) -> None:
        while (event := self._mux.next_event()) is not None:
            if isinstance(event, ChannelRequested):
                self._request(event)
                continue
            channel = cast("MuxChannel", event.channel.context)
            if isinstance(event, ChannelOpened):
                channel.opened(event.handshake)
            elif isinstance(event, ChannelMessageReceived):
                channel.put(event.type, event.body)
                if channel.full:
                    self._full.add(channel)
            else:
                channel.finished()

    def _request(self, event: ChannelRequested) -> None:
        handler = self._handlers.get((event.protocol, event.id)) or self._handlers.get((event.protocol, None))
        if handler is None:
            self._mux.reject(event.protocol, event.id)
            return
        assert self._task_group is not None
        self._pairing[event.protocol, event.id] += 1
        self._task_group.start_soon(self._pair, handler, event)

    async def _pair(self, handler: PairHandler, event: ChannelRequested) -> None:
        key = (event.protocol, event.id)
        await handler(event.id)
        self._pairing[key] -= 1
        if not self._pairing[key]:  # else another handler may still claim what waits
            del self._pairing[key]
            while self._mux.reject(*key):
                pass
        self.made_progress()
        await self.flush()
