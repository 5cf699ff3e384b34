"""A connection of the DHT: a SecretStream whose owner can tell that it is over without reading from it."""

from collections.abc import Callable
from typing import Protocol, cast

import anyio
from anyio.abc import ByteStream

from ..buffers import BytesLike
from ..dht.link import Path
from ..secret_stream import SecretStreamMachine
from ..secret_stream.framing import LENGTH_BYTES
from ..secret_stream.stream import HEADER_BODY_BYTES
from ..swarm import PeerInfo
from .connection import SecretStream
from .udx_stream import UdxByteStream

HEADER_BYTES = LENGTH_BYTES + HEADER_BODY_BYTES


class WatchedByteStream(Protocol):
    """What the byte stream below has to have beside a byte stream's methods."""

    @property
    def bytes_sent(self) -> int:
        """Handed to it so far."""
        ...

    @property
    def bytes_received(self) -> int:
        """Arrived in order so far, whether read or not."""
        ...

    def on_closed(self, callback: Callable[[], object]) -> None:
        """Call `callback` once both directions are over, for whatever reason; at once if they are."""
        ...

    def send_now(self, item: BytesLike) -> None:
        """Queue a few bytes without waiting; nothing once it is over."""
        ...


class PeerStream(SecretStream):
    """A connection with a peer, made by a node and, in a swarm, counted by it until it is closed."""

    def __init__(self, byte_stream: ByteStream, machine: SecretStreamMachine) -> None:
        """Use `resume` or `establish` with a byte stream that is a `WatchedByteStream`."""
        super().__init__(byte_stream, machine)
        self.peer_info = PeerInfo(self.remote_public_key)
        """What the swarm knows of the peer; nothing outside of one."""
        self._callbacks: list[Callable[[], object]] = []
        self._over = False
        self._watched = cast("WatchedByteStream", byte_stream)
        self._watched.on_closed(self._set_over)

    @property
    def topics(self) -> frozenset[bytes]:
        """The swarm's topics under which this side found the peer. Empty on the side that did not look."""
        return frozenset(self.peer_info.topics)

    @property
    def path(self) -> Path | None:
        """How its packets travel now; None where that is not known. A relayed connection moves when a direct way opens."""
        return self.raw_stream.path if isinstance(self.raw_stream, UdxByteStream) else None

    @property
    def over(self) -> bool:
        """Whether it is of no more use, though what came before may wait to be received."""
        return self._over

    def talked(self) -> bool:
        """Whether messages went both ways, empty ones included. The headers that every stream begins with do not count."""
        return self._watched.bytes_sent > HEADER_BYTES and self._watched.bytes_received > HEADER_BYTES

    @property
    def last_sent(self) -> float:
        """When a message was sent last, on the clock of the event loop; when it was made, before the first."""
        return self._last_sent

    def beat(self) -> None:
        """Send an empty message, unless a send is under way, which is a sign of life itself. Waits for nothing."""
        if not (self._over or self._closed or self._send_ended or self._failure or self._send_lock.locked()):
            self._watched.send_now(self._machine.encrypt((b"",)))
            self._last_sent = anyio.current_time()

    def on_over(self, callback: Callable[[], object]) -> None:
        """Call `callback` once it is `over`; at once if it is."""
        if self._over:
            callback()
        else:
            self._callbacks.append(callback)

    async def aclose(self) -> None:
        """See `SecretStream.aclose`."""
        try:
            await super().aclose()
        finally:
            self._set_over()

    def _set_over(self) -> None:
        self._over = True
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()
