"""From ways to peers to connections: binds streams, starts their encryption, moves them when a better way opens."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import anyio

from ..crypto import KeyPair
from ..dht.link import Link, Path, RelayWanted
from ..dht.rate_limit import source_of
from ..errors import ConnectError, ConnectionClosed, HyperDHTError, LocalProtocolError, RequestTimeout
from .half_open import HalfOpen
from .peer_stream import PeerStream
from .pending import Pending
from .relaying import PAIR_TIMEOUT_S, meet_at_relay
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
# Relays we dial for clients at the same time, in all servers of the node. Each is a search and a whole connection, to a key
# that a client may have chosen; the server's own limit ends when the client has come another way.
MAX_MEETINGS_FOR_CLIENTS = 32


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
        self.half_open = HalfOpen()
        self._transport = transport
        self._keep_alive = keep_alive
        self._max_message_bytes = max_message_bytes
        self._relayed: dict[int, UdxByteStream] = {}  # streams that began at a relay; their path says where they are
        self._meetings: dict[int, anyio.CancelScope] = {}  # at relays, by the stream they are for
        self._meetings_for_clients = 0

    def bind(self, link: Link) -> UdxByteStream | None:
        """Let the stream of a new link send. Returns None for a stream that only moves to a better way, or is gone."""
        if link.stream_id in self._relayed:
            self._move(link)
            return None
        try:
            self._transport.endpoint.connect(
                link.stream_id, link.socket, link.address, link.remote_stream_id, now=self.node.now()
            )
        except LocalProtocolError:
            return None
        raw = UdxByteStream(self._transport, link.stream_id, link.path)
        if link.path is Path.RELAYED:
            self._relayed[link.stream_id] = raw
        else:
            self._leave_meeting(link.stream_id)
        return raw

    def _move(self, link: Link) -> None:
        try:
            stream = self._transport.endpoint.stream(link.stream_id)
            self._transport.endpoint.change_remote(link.stream_id, link.socket, link.address, link.remote_stream_id)
        except LocalProtocolError:
            return  # it ended meanwhile
        self._relayed[link.stream_id].path = link.path
        stream.send_message(b"")  # shows the peer the way, also when there is nothing to say

    async def open(self, link: Link, raw: UdxByteStream, key_pair: KeyPair, *, wait_for_peer: bool) -> PeerStream:
        """Start the encryption.

        Args:
            wait_for_peer: Until it has spoken. A client need not: the peer has answered the handshake, and what is sent
                now is a round trip earlier there. A server must, as clients can be forged.
        Raises:
            ConnectionClosed: The peer is gone already.
            RequestTimeout: It is silent.
            ClosedResourceError: The node was closed.
        """
        try:
            stream = await PeerStream.resume(
                raw,
                is_initiator=link.is_initiator,
                key_pair=key_pair,
                handshake=link.keys,
                max_message_bytes=self._max_message_bytes,
            )
            if wait_for_peer:
                with anyio.fail_after(OPEN_TIMEOUT_S):
                    await stream.wait_open()
        except BaseException as error:
            raw.destroy()
            if isinstance(error, TimeoutError):
                raise RequestTimeout(f"the peer was reached, but said nothing for {OPEN_TIMEOUT_S:.0f} s") from None
            if isinstance(error, anyio.EndOfStream | anyio.BrokenResourceError | anyio.ClosedResourceError):
                self.node.waiting.check()
                raise ConnectionClosed("the peer was reached, but the connection ended before it opened") from error
            raise
        self._keep_alive.add(stream)
        stream.on_over(lambda: self._keep_alive.discard(stream))
        return stream

    def accept(self, link: Link, key_pair: KeyPair, take: Callable[[PeerStream], None]) -> None:
        """A server got a link. `take` gets the connection once the peer has spoken."""
        raw = self.bind(link)
        if raw is not None:
            self.half_open.add(raw, source_of(link.address))
            self.node.start_soon(self._open_accepted, link, raw, key_pair, take)

    async def _open_accepted(
        self, link: Link, raw: UdxByteStream, key_pair: KeyPair, take: Callable[[PeerStream], None]
    ) -> None:
        try:
            take(await self.open(link, raw, key_pair, wait_for_peer=True))
        except (ConnectionClosed, RequestTimeout, anyio.ClosedResourceError):
            return  # a client that came and went; nobody waits for it
        finally:
            self.half_open.discard(raw)

    def pair(self, wanted: RelayWanted, *, for_client: bool = False) -> None:
        """Have a blind relay carry a stream."""
        self._meetings_for_clients += for_client
        self._meetings[wanted.stream_id] = scope = anyio.CancelScope()
        self.node.start_soon(self._pair, wanted, scope, for_client)

    def give_up(self, stream_id: int) -> None:
        """Nobody wants the stream any more, connected or not, nor the relay it may be about to run through."""
        self._leave_meeting(stream_id)
        if self.node.has_stream(stream_id):
            self._transport.endpoint.stream(stream_id).destroy()

    def _leave_meeting(self, stream_id: int) -> None:
        if stream_id in self._meetings:
            self._meetings[stream_id].cancel()

    async def _pair(self, wanted: RelayWanted, scope: anyio.CancelScope, for_client: bool) -> None:
        stream_id = wanted.stream_id
        try:
            with scope:
                if self._meetings_for_clients <= MAX_MEETINGS_FOR_CLIENTS or not for_client:
                    scope.deadline = anyio.current_time() + PAIR_TIMEOUT_S
                    async with meet_at_relay(self.node, wanted) as relay:
                        scope.deadline = float("inf")
                        self._meetings_for_clients -= for_client
                        for_client = False
                        self.node.wake()
                        async with anyio.create_task_group() as tasks:
                            tasks.start_soon(self._watch_relayed, stream_id, scope)
                            await relay.wait_closed()
                            scope.cancel()
        except (HyperDHTError, OSError, anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream):
            pass  # keys, tokens and answers come from others, so that anything may be wrong with them
        finally:
            self._meetings_for_clients -= for_client
            del self._meetings[stream_id]
            wanted.failed(self.node.now())
            self._relay_lost(stream_id)

    async def _watch_relayed(self, stream_id: int, scope: anyio.CancelScope) -> None:
        """Leave the relay when the stream is over or found a better way. Few streams are relayed, so this may poll."""
        while self._is_relayed(stream_id) and self.node.has_stream(stream_id):  # noqa: ASYNC110
            await anyio.sleep(RELAY_LOOK_EVERY_S)
        if stream_id in self._relayed and not self._is_relayed(stream_id):
            await anyio.sleep(RELAY_GRACE_S)
        scope.cancel()

    def _is_relayed(self, stream_id: int) -> bool:
        raw = self._relayed.get(stream_id)
        return raw is not None and raw.path is Path.RELAYED

    def _relay_lost(self, stream_id: int) -> None:
        carried = self._is_relayed(stream_id)
        self._relayed.pop(stream_id, None)
        if not carried or not self.node.has_stream(stream_id):
            return
        self._transport.endpoint.stream(stream_id).destroy()  # nothing carries it any more


class Dialing:
    """One call of `HyperDHT.connect`."""

    def __init__(self, links: Links, key_pair: KeyPair, *, may_use_relay: bool) -> None:
        self._links = links
        self._key_pair = key_pair
        self._may_use_relay = may_use_relay
        self._outcome: Pending[tuple[Link, UdxByteStream] | ConnectError] = Pending(links.node.waiting)

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
            link, raw = outcome
            raw.on_closed(lambda: attempt.cancel(node.now()))  # what runs through a relay may end before a hole is open
            return await self._links.open(link, raw, self._key_pair, wait_for_peer=False)
        except BaseException:
            attempt.cancel(node.now())
            self._links.give_up(attempt.stream_id)
            raise

    def _take_link(self, link: Link, now: float) -> None:
        raw = self._links.bind(link)
        if raw is not None:
            self._outcome.set((link, raw))
        else:
            self._outcome.set(ConnectError("the connection was given up while it was made"))
