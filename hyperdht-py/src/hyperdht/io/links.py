"""From ways to peers to connections: binds streams, starts their encryption, moves them when a better way opens."""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import anyio

from ..crypto import KeyPair
from ..dht.link import Link, Path, RelayWanted
from ..errors import ConnectError, ConnectionClosed, LocalProtocolError, RequestTimeout
from .peer_stream import PeerStream
from .pending import Pending
from .relaying import meet_at_relay
from .udx_stream import UdxByteStream
from .udx_transport import UdxTransport

if TYPE_CHECKING:
    from ..dht.node import DhtNode
    from .keep_alive import KeepAlive
    from .node import HyperDHT

# A peer that said it can be reached and then is silent. UDX itself gives up after 13 s without an answer; this ends the
# wait for one that answers packets and does not speak.
OPEN_TIMEOUT_S = 15.0
# How long the relay is kept after the stream found a direct way: what the peer sent before still comes through it.
RELAY_GRACE_S = 10.0
RELAY_LOOK_EVERY_S = 1.0


class Links:
    """One per node."""

    def __init__(
        self,
        node: "HyperDHT",
        transport: UdxTransport,
        machine: "DhtNode",
        keep_alive: "KeepAlive",
        max_message_bytes: int,
    ) -> None:
        self.node = node
        self.machine = machine
        self._transport = transport
        self._keep_alive = keep_alive
        self._max_message_bytes = max_message_bytes
        self._relayed: dict[int, bool] = {}  # streams that began at a relay, and whether they found a direct way

    def bind(self, link: Link) -> UdxByteStream | None:
        """Let the stream of a new link send. Returns None for a stream that only moves to a better way."""
        if link.stream_id in self._relayed:
            self._move(link)
            return None
        if link.path is Path.RELAYED:
            self._relayed[link.stream_id] = False
        self._transport.endpoint.connect(
            link.stream_id, link.socket, link.address, link.remote_stream_id, now=self.node.now()
        )
        return UdxByteStream(self._transport, link.stream_id)

    def _move(self, link: Link) -> None:
        try:
            stream = self._transport.endpoint.stream(link.stream_id)
        except LocalProtocolError:
            return  # it ended meanwhile
        self._relayed[link.stream_id] = True
        self._transport.endpoint.change_remote(link.stream_id, link.socket, link.address, link.remote_stream_id)
        stream.send_message(b"")  # shows the peer the way, also when there is nothing to say

    async def open(self, link: Link, raw: UdxByteStream, key_pair: KeyPair) -> PeerStream:
        """Start the encryption, and wait for the peer's.

        Raises:
            ConnectionClosed: The peer is gone already.
            RequestTimeout: It is silent.
        """
        try:
            stream = await PeerStream.resume(
                raw,
                is_initiator=link.is_initiator,
                key_pair=key_pair,
                handshake=link.keys,
                max_message_bytes=self._max_message_bytes,
            )
            with anyio.fail_after(OPEN_TIMEOUT_S):
                await stream.wait_open()
        except BaseException as error:
            raw.destroy()
            if isinstance(error, TimeoutError):
                raise RequestTimeout(f"the peer was reached, but said nothing for {OPEN_TIMEOUT_S:.0f} s") from None
            if isinstance(error, anyio.EndOfStream | anyio.BrokenResourceError | anyio.ClosedResourceError):
                raise ConnectionClosed("the peer was reached, but the connection ended before it opened") from error
            raise
        self._keep_alive.add(stream)
        stream.on_over(lambda: self._keep_alive.discard(stream))
        return stream

    def accept(self, link: Link, key_pair: KeyPair, take: Callable[[PeerStream], Awaitable[None]]) -> None:
        """A server got a link. `take` gets the connection once the peer has spoken."""
        raw = self.bind(link)
        if raw is not None:
            self.node.start_soon(self._open_accepted, link, raw, key_pair, take)

    async def _open_accepted(
        self, link: Link, raw: UdxByteStream, key_pair: KeyPair, take: Callable[[PeerStream], Awaitable[None]]
    ) -> None:
        try:
            stream = await self.open(link, raw, key_pair)
        except (ConnectionClosed, RequestTimeout):
            return  # a client that came and went; nobody waits for it
        await take(stream)

    def pair(self, wanted: RelayWanted) -> None:
        """Have a blind relay carry a stream."""
        self.node.start_soon(self._pair, wanted)

    async def _pair(self, wanted: RelayWanted) -> None:
        try:
            async with meet_at_relay(self.node, wanted) as relay:
                self.node.wake()
                with anyio.CancelScope() as scope:
                    async with anyio.create_task_group() as tasks:
                        tasks.start_soon(self._watch_relayed, wanted.stream_id, scope)
                        await relay.wait_closed()
                        scope.cancel()
        except (ConnectError, ConnectionClosed, RequestTimeout, anyio.BrokenResourceError, anyio.EndOfStream):
            wanted.failed(self.node.now())
        finally:
            self._relay_lost(wanted.stream_id)

    async def _watch_relayed(self, stream_id: int, scope: anyio.CancelScope) -> None:
        """Leave the relay when the stream is over or found a better way. Few streams are relayed, so this may poll."""
        while self._relayed.get(stream_id) is False and self.node.has_stream(stream_id):  # noqa: ASYNC110
            await anyio.sleep(RELAY_LOOK_EVERY_S)
        if self._relayed.get(stream_id):
            await anyio.sleep(RELAY_GRACE_S)
        scope.cancel()

    def _relay_lost(self, stream_id: int) -> None:
        if self._relayed.pop(stream_id, True) or not self.node.has_stream(stream_id):
            return
        self._transport.endpoint.stream(stream_id).destroy()  # nothing carries it any more


class Dialing:
    """One call of `HyperDHT.connect`."""

    def __init__(self, links: Links, key_pair: KeyPair, *, may_use_relay: bool) -> None:
        self._links = links
        self._key_pair = key_pair
        self._may_use_relay = may_use_relay
        self._outcome: Pending[tuple[Link, UdxByteStream] | ConnectError] = Pending()

    async def run(self, public_key: bytes, **options: Any) -> PeerStream:
        """See `HyperDHT.connect`."""
        node = self._links.node
        attempt = self._links.machine.connect(
            public_key,
            self._key_pair,
            now=node.now(),
            on_link=self._take_link,
            on_failed=lambda error, _: self._outcome.set(error),
            on_relay=(lambda wanted, _: self._links.pair(wanted)) if self._may_use_relay else None,
            **options,
        )
        node.wake()
        try:
            outcome = await self._outcome.wait()
            if isinstance(outcome, ConnectError):
                raise outcome
            return await self._links.open(*outcome, self._key_pair)
        except BaseException:
            attempt.cancel(node.now())
            raise

    def _take_link(self, link: Link, now: float) -> None:
        raw = self._links.bind(link)
        if raw is not None:
            self._outcome.set((link, raw))
