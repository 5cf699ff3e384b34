"""Blind relays: meeting a peer at one, and being one."""

import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Self, cast

import anyio

from ..addresses import Address
from ..dht.blind_relay import RelayPair, RelayPairing
from ..dht.blind_relay_messages import PROTOCOL, MessageType, Pair, decode_pair, encode_pair
from ..dht.link import RelayWanted
from ..errors import ConnectionClosed, DecodeError, LocalProtocolError, RequestTimeout
from .mux import MuxChannel, Protomux
from .peer_stream import PeerStream

if TYPE_CHECKING:
    from .node import HyperDHT
    from .server import Server
    from .udx_stream import UdxByteStream

PAIR_TIMEOUT_S = 15.0  # as long as either side waits for the other


@asynccontextmanager
async def meet_at_relay(node: "HyperDHT", wanted: RelayWanted) -> AsyncIterator[Protomux]:
    """Connect to a relay and pair; report the way to `wanted`. The way lasts as long as the connection to the relay.

    Raises:
        ConnectError, ConnectionClosed, RequestTimeout: The relay cannot be reached, or the peer did not come.
    """
    stream = await node.connect_directly(wanted.relay_public_key)
    async with Protomux(stream) as mux:
        raw = cast("UdxByteStream", stream.raw_stream)
        socket, address = raw.stream.socket, raw.remote_address
        assert socket is not None
        wanted.connected(socket, address, node.now())
        channel = await mux.open_channel(PROTOCOL, stream.public_key)
        await channel.send(MessageType.PAIR, encode_pair(Pair(wanted.is_initiator, wanted.token, wanted.stream_id)))
        answer = await _answer_to(channel, wanted)
        wanted.opened(socket, address, answer.stream_id, node.now())
        yield mux


async def _answer_to(channel: MuxChannel, wanted: RelayWanted) -> Pair:
    try:
        with anyio.fail_after(PAIR_TIMEOUT_S):
            while True:
                kind, body = await channel.receive()
                if kind != MessageType.PAIR:
                    continue
                answer = decode_pair(body)
                if answer.token == wanted.token and answer.is_initiator == wanted.is_initiator:
                    return answer
    except TimeoutError:
        raise RequestTimeout("the peer did not come to the relay in time") from None
    except DecodeError as error:
        raise ConnectionClosed("the relay answered with something else than the protocol says") from error


class BlindRelay:
    """Carries connections of others, which it cannot read: `async with BlindRelay(dht) as relay`.

    Peers name `relay.public_key` as `relay_through`. What it carries crosses this machine's line twice; `allow` is where
    an operator says who may and how much.
    """

    def __init__(self, node: "HyperDHT", *, allow: Callable[[int, int], bool] | None = None) -> None:
        """
        Args:
            allow: Called as allow(packets, bytes) before packets are passed on; False drops them.
        """
        self._node = node
        self._allow = allow
        self._server: Server = node.listen()
        self._pairing = RelayPairing(on_matched=self._matched, on_ended=self._ended)
        self._channels: dict[int, MuxChannel] = {}
        self._streams: dict[RelayPair, tuple[int, int]] = {}
        self._next_session = 0

    @property
    def public_key(self) -> bytes:
        """What peers name to be carried here."""
        return self._server.public_key

    @property
    def pairs(self) -> int:
        """Connections carried now."""
        return self._pairing.pairs

    async def __aenter__(self) -> Self:
        await self._server.listen()
        self._tasks = anyio.create_task_group()
        await self._tasks.__aenter__()
        self._tasks.start_soon(self._serve)
        self._tasks.start_soon(self._watch)
        return self

    async def __aexit__(self, *_: object) -> None:
        with anyio.CancelScope(shield=True):
            await self._server.aclose()
        self._tasks.cancel_scope.cancel()
        await self._tasks.__aexit__(None, None, None)

    async def _serve(self) -> None:
        async for stream in self._server:
            self._tasks.start_soon(self._serve_peer, stream)

    async def _watch(self) -> None:
        """Forget who waits in vain, and pairs whose streams ended."""
        while True:
            await anyio.sleep(1.0)
            self._pairing.handle_timer(now=self._node.now())
            for pair in [pair for pair, ids in self._streams.items() if not all(map(self._node.has_stream, ids))]:
                self._pairing.end(pair)
                self._ended(pair, self._node.now())

    async def _serve_peer(self, stream: PeerStream) -> None:
        session, self._next_session = self._next_session, self._next_session + 1
        raw = cast("UdxByteStream", stream.raw_stream)
        async with Protomux(stream) as mux:
            try:
                channel = await mux.open_channel(PROTOCOL, stream.remote_public_key)
                self._channels[session] = channel
                self._pairing.open(session, host=raw.remote_address.host)
                while True:
                    kind, body = await channel.receive()
                    self._pairing.receive(session, kind, body, self._node.now())
            except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
                pass
            finally:
                self._channels.pop(session, None)
                self._pairing.close(session, self._node.now())

    def _matched(self, pair: RelayPair, now: float) -> None:
        first, second = (self._open_stream(end.stream_id) for end in pair.ends)
        endpoint = self._node.endpoint
        endpoint.relay(first, second, hook=self._allow)
        endpoint.relay(second, first, hook=self._allow)
        self._streams[pair] = (first, second)
        for end, answer in zip(pair.ends, pair.answers((first, second)), strict=True):
            channel = self._channels.get(cast("int", end.session))
            if channel is not None:
                self._tasks.start_soon(self._answer, channel, answer)

    async def _answer(self, channel: MuxChannel, message: bytes) -> None:
        with contextlib.suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):  # its session ends by itself
            await channel.send(MessageType.PAIR, message)

    def _open_stream(self, remote_id: int) -> int:
        endpoint = self._node.endpoint

        def bind(socket: int, sender: Address, now: float) -> bool:
            """The peer's first packet shows where it is."""
            stream = endpoint.stream(stream_id)
            if stream.address is not None:
                return False
            endpoint.connect(stream_id, socket, sender, remote_id, now=now)
            return True

        stream_id = endpoint.reserve(bind)
        return stream_id

    def _ended(self, pair: RelayPair, now: float) -> None:
        for stream_id in self._streams.pop(pair, ()):
            try:
                self._node.endpoint.stream(stream_id).destroy()
            except LocalProtocolError:
                continue
