"""SecretStream: encrypted messages over any anyio byte stream.

    async with await SecretStream.establish(tcp_stream, is_initiator=True, key_pair=key_pair) as stream:
        await stream.send(b"one message")
        for message in await stream.receive_many(): ...

It starts no task of its own. Keep-alive messages are sent and time limits watched while a task waits in `receive`, and the
owner of a connection always has one that does.
"""

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Self

import anyio
from anyio.abc import AsyncResource, ByteStream
from anyio.lowlevel import checkpoint

from ..buffers import BytesLike
from ..crypto import KeyPair
from ..errors import ConnectionClosed, LocalProtocolError, RemoteProtocolError, RequestTimeout
from ..noise import HandshakeKeys
from ..secret_stream import MAX_MESSAGE_BYTES, DataReceived, SecretStreamMachine, State
from .direct import receive_to, send_owned

HANDSHAKE_TIMEOUT_S = (
    15.0  # three messages; a slow mobile link needs 2-3 s, a stranger who says nothing holds a socket no longer
)
WRITE_BYTES = 1024 * 1024  # encrypted at a time: bounds memory and how long other tasks wait (about a millisecond)

# A task that sends in a loop lets others run after this much, if it need not wait anyway. A turn of the event loop for every
# message of 64 KiB costs 15 % of the speed, and over UDX the packets would not fill their batches.
YIELD_BYTES = 512 * 1024

BYTE_STREAM_MESSAGE_BYTES = 65536  # peers with a small message cap take this


class SecretStream(AsyncResource):
    """An established connection to the holder of `remote_public_key`.

    Messages arrive whole, in order and once. Sending is safe from several tasks, in the order they called; receiving is for
    one task at a time. At the end of a connection the errors are anyio's: `EndOfStream` when the peer ended its side between
    two messages, `BrokenResourceError` when the connection or the peer failed (the cause says which), `ClosedResourceError`
    when it was closed here.
    """

    def __init__(self, byte_stream: ByteStream, machine: SecretStreamMachine) -> None:
        """Use `establish`."""
        self._bytes = byte_stream
        self._machine = machine
        self._send_lock = anyio.Lock(fast_acquire=True)
        self._sent_since_yield = 0
        self._received: deque[bytearray] = deque()
        self._receiving = False
        self._closed = False
        self._send_ended = False
        self._receive_ended = False
        self._failure: Exception | None = None
        self._keep_alive_s = math.inf
        self._idle_timeout_s = math.inf
        self._last_sent = self._last_received = anyio.current_time()

    @classmethod
    async def establish(
        cls,
        byte_stream: ByteStream,
        *,
        is_initiator: bool,
        key_pair: KeyPair,
        remote_public_key: bytes | None = None,
        handshake: HandshakeKeys | None = None,
        keep_alive_s: float | None = None,
        timeout_s: float | None = None,
        handshake_timeout_s: float = HANDSHAKE_TIMEOUT_S,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
    ) -> Self:
        """Do the handshake over `byte_stream`, which belongs to the secret stream from now on and is closed on failure.

        Args:
            is_initiator: Whether we are the one who connected.
            remote_public_key: Whom we mean to reach; anybody else is refused.
            handshake: The result of a handshake done elsewhere (IK, in the DHT); nothing is awaited then.
            keep_alive_s: Send an empty message after that long without sending, and drop the peer's empty ones.
            timeout_s: Fail when not one byte came for that long.
            max_message_bytes: Longer messages of the peer end the connection before they are buffered.

        Raises:
            HandshakeError: The peer has another key or speaks another protocol.
            RequestTimeout: No handshake within `handshake_timeout_s`.
            ConnectionClosed: The connection ended first.
        """
        machine = SecretStreamMachine(
            is_initiator,
            key_pair,
            remote_public_key=remote_public_key,
            handshake=handshake,
            max_message_bytes=max_message_bytes,
            drop_empty=keep_alive_s is not None,
        )
        try:
            with anyio.fail_after(handshake_timeout_s):
                await _shake_hands(byte_stream, machine)
        except BaseException as error:
            await anyio.aclose_forcefully(byte_stream)
            if isinstance(error, TimeoutError):
                raise RequestTimeout(f"no handshake within {handshake_timeout_s} s") from None
            if isinstance(error, anyio.EndOfStream | anyio.BrokenResourceError):
                raise ConnectionClosed("the connection ended during the handshake") from error
            raise
        stream = cls(byte_stream, machine)
        stream._keep_alive_s = math.inf if keep_alive_s is None else keep_alive_s
        stream._idle_timeout_s = math.inf if timeout_s is None else timeout_s
        stream._take_events()  # messages may have come with the last handshake bytes
        return stream

    @classmethod
    async def resume(
        cls,
        byte_stream: ByteStream,
        *,
        is_initiator: bool,
        key_pair: KeyPair,
        handshake: HandshakeKeys,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
    ) -> Self:
        """A connection whose handshake was done elsewhere, as the DHT does it. Sends our header and waits for nothing.

        Empty messages of the peer are swallowed; whoever owns the connection sends some from time to time.
        """
        machine = SecretStreamMachine(
            is_initiator, key_pair, handshake=handshake, max_message_bytes=max_message_bytes, drop_empty=True
        )
        await byte_stream.send(machine.data_to_send())
        return cls(byte_stream, machine)

    async def wait_open(self) -> None:
        """Wait for the peer's header, the sign that both directions work. Messages that come with it are kept.

        Raises:
            EndOfStream, BrokenResourceError, ClosedResourceError: As for `receive`.
        """
        await self._wait_until(lambda: self._machine.state is not State.HEADER)

    @property
    def is_initiator(self) -> bool:
        """Whether we are the side that connected."""
        return self._machine.is_initiator

    @property
    def public_key(self) -> bytes:
        """Our key."""
        return self._machine.public_key

    @property
    def remote_public_key(self) -> bytes:
        """The peer's key, which it proved to hold."""
        assert self._machine.remote_public_key is not None
        return self._machine.remote_public_key

    @property
    def handshake_hash(self) -> bytes:
        """64 bytes, equal on both sides, different for every connection."""
        assert self._machine.handshake_hash is not None
        return self._machine.handshake_hash

    @property
    def raw_stream(self) -> ByteStream:
        """What carries the encrypted bytes; for looking at addresses. Sending there breaks the connection."""
        return self._bytes

    async def send(self, message: BytesLike) -> None:
        """Send one message; see `send_many`."""
        await self.send_many((message,))

    async def send_many(self, messages: Sequence[BytesLike]) -> None:
        """Send messages in order, in one write (about 1 MiB each when there are more); returns when the system took them.

        Cancelled while waiting for its turn, it has sent nothing. Cancelled later, the connection is closed, because the
        peer could not make sense of half a message.

        Raises:
            LocalProtocolError: A message is over 16,777,198 bytes; nothing was sent.
            ClosedResourceError, BrokenResourceError: As described for the class.
        """
        if messages and (longest := max(map(len, messages))) > MAX_MESSAGE_BYTES:
            raise LocalProtocolError(f"a message holds at most {MAX_MESSAGE_BYTES} bytes, this one has {longest}")
        async with self._send_lock:
            await self._let_others_run()
            self._raise_failure()
            if self._closed or self._send_ended:
                raise anyio.ClosedResourceError
            for part in _parts(messages):
                encrypted = self._machine.encrypt(part)
                self._sent_since_yield += len(encrypted)
                try:
                    await send_owned(self._bytes, encrypted)
                except BaseException as error:
                    await self._give_up_sending(error)
                    raise
            self._last_sent = anyio.current_time()

    async def _let_others_run(self) -> None:
        """With the lock in hand, so that who called first sends first. Taking it has looked for cancellation."""
        if self._sent_since_yield >= YIELD_BYTES:
            self._sent_since_yield = 0
            await checkpoint()

    async def receive(self) -> bytearray:
        """The next message. Cancellation loses nothing."""
        await self._wait_for_messages()
        return self._received.popleft()

    async def receive_many(self) -> list[bytearray]:
        """Every message that is complete by now, at least one. Cancellation loses nothing."""
        await self._wait_for_messages()
        messages = list(self._received)
        self._received.clear()
        return messages

    async def send_eof(self) -> None:
        """End our side. The peer's messages can still be received."""
        async with self._send_lock:
            if self._closed:
                raise anyio.ClosedResourceError
            self._send_ended = True
            await self._bytes.send_eof()

    def byte_stream(self) -> ByteStream:
        """This connection as a stream of bytes without message boundaries, for code that wants one. Use one or the other."""
        return MessageByteStream(self)

    async def aclose(self) -> None:
        """Close both directions. To be sure that the peer got everything: `send_eof`, then receive until `EndOfStream`."""
        self._closed = True
        await self._bytes.aclose()

    async def _wait_for_messages(self) -> None:
        await self._wait_until(lambda: bool(self._received))

    async def _wait_until(self, arrived: Callable[[], bool]) -> None:
        if self._receiving:
            raise anyio.BusyResourceError("receiving from")
        self._receiving = True
        try:
            if arrived():
                await checkpoint()
            while not arrived():
                self._raise_failure()
                if self._closed:
                    raise anyio.ClosedResourceError
                if self._receive_ended:
                    raise anyio.EndOfStream
                await self._read_once()
        finally:
            self._receiving = False

    async def _read_once(self) -> None:
        try:
            if self._keep_alive_s == self._idle_timeout_s == math.inf:
                await receive_to(self._bytes, self._machine.receive)
            else:
                await self._read_within_limits()
        except anyio.EndOfStream:
            self._end()
        except RemoteProtocolError as error:
            await self._fail(error)
        except anyio.ClosedResourceError:
            self._raise_failure()  # a sender found out first
            raise
        finally:
            self._take_events()

    async def _read_within_limits(self) -> None:
        keep_alive_at = self._last_sent + self._keep_alive_s
        idle_at = self._last_received + self._idle_timeout_s
        with anyio.move_on_at(min(keep_alive_at, idle_at)) as scope:
            await receive_to(self._bytes, self._machine.receive)
            self._last_received = anyio.current_time()
        if not scope.cancelled_caught:
            return
        if anyio.current_time() >= idle_at:
            await self._fail(self._silence())
        elif not self._send_lock.locked() and not self._send_ended:  # a send under way is a sign of life itself
            with anyio.move_on_at(idle_at) as scope:  # a peer that reads nothing either must not hold us here
                await self.send(b"")
            if scope.cancelled_caught:
                await self._fail(self._silence())
        else:
            self._last_sent = anyio.current_time()

    def _silence(self) -> RequestTimeout:
        return RequestTimeout(f"nothing came from the peer for {self._idle_timeout_s} s")

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise anyio.BrokenResourceError(str(self._failure)) from self._failure

    async def _give_up_sending(self, error: BaseException) -> None:
        """Part of a frame may be out: nothing can follow it. Wakes the receiver with the same reason."""
        self._raise_failure()  # the receiver found out first and closed the bytes below
        if isinstance(error, anyio.BrokenResourceError):
            self._failure = error
        else:
            self._closed = True
        await anyio.aclose_forcefully(self._bytes)

    def _end(self) -> None:
        try:
            self._machine.receive_eof()
            self._receive_ended = True
        except RemoteProtocolError as error:
            self._failure = error

    async def _fail(self, error: Exception) -> None:
        self._failure = error
        await anyio.aclose_forcefully(self._bytes)

    def _take_events(self) -> None:
        while (event := self._machine.next_event()) is not None:
            if isinstance(event, DataReceived):
                self._received += event.messages


class MessageByteStream(ByteStream):
    """The messages of a connection joined into bytes."""

    def __init__(self, connection: SecretStream) -> None:
        self._connection = connection
        self._rest = memoryview(b"")

    async def receive(self, max_bytes: int = 65536) -> bytes:
        while not self._rest:  # an empty message is no end of stream
            self._rest = memoryview(await self._connection.receive())
        data, self._rest = bytes(self._rest[:max_bytes]), self._rest[max_bytes:]
        return data

    async def send(self, item: bytes) -> None:
        view = memoryview(item)
        await self._connection.send_many(
            [view[at : at + BYTE_STREAM_MESSAGE_BYTES] for at in range(0, len(view), BYTE_STREAM_MESSAGE_BYTES)]
        )

    async def send_eof(self) -> None:
        await self._connection.send_eof()

    async def aclose(self) -> None:
        await self._connection.aclose()


async def _shake_hands(byte_stream: ByteStream, machine: SecretStreamMachine) -> None:
    while True:
        if outgoing := machine.data_to_send():
            await byte_stream.send(outgoing)
        if machine.handshake_complete:
            return
        await receive_to(byte_stream, machine.receive)


def _parts(messages: Sequence[BytesLike]) -> Iterator[Sequence[BytesLike]]:
    """Cut a long list into runs of about `WRITE_BYTES`."""
    start = size = 0
    for index, message in enumerate(messages):
        size += len(message)
        if size >= WRITE_BYTES:
            yield messages[start : index + 1]
            start, size = index + 1, 0
    if start < len(messages):
        yield messages[start:]
