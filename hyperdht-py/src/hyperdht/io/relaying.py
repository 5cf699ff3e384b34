"""Blind relays: meeting a peer at one, and being one."""

import contextlib
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Self, cast

import anyio

from ..addresses import Address
from ..crypto import KeyPair
from ..dht.blind_relay import RelayPair, RelayPairing
from ..dht.blind_relay_messages import PROTOCOL, MessageType, Pair, decode_pair, encode_pair
from ..dht.link import RelayWanted
from ..errors import ConnectionClosed, DecodeError, LocalProtocolError, RequestTimeout
from .hooks import guarded
from .mux import MuxChannel, Protomux
from .peer_stream import PeerStream
from .relay_limits import Carried, RelayLimits

if TYPE_CHECKING:
    from .node import HyperDHT
    from .server import FirewallHook, Server
    from .udx_stream import UdxByteStream

CLOSE_TIME_S = 3.0
PAIR_TIMEOUT_S = 15.0  # as long as either side waits for the other
WATCH_EVERY_S = 1.0


@asynccontextmanager
async def meet_at_relay(node: "HyperDHT", wanted: RelayWanted) -> AsyncGenerator[Protomux]:
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

    Peers name `relay.public_key` as `relay_through`. What it carries crosses this machine's line twice; `limits` and `allow`
    are where an operator says who may and how much.
    """

    def __init__(
        self,
        node: "HyperDHT",
        *,
        key_pair: KeyPair | None = None,
        firewall: "FirewallHook | None" = None,
        limits: RelayLimits | None = None,
        allow: Callable[[int, int], bool] | None = None,
        close_timeout_s: float = CLOSE_TIME_S,
    ) -> None:
        """
        Args:
            key_pair: What peers name to be carried here; the node's without.
            firewall: Decides by their keys who may be carried, as that of `HyperDHT.listen`. Anybody without.
            limits: How much it carries, and for how many.
            allow: Called as allow(packets, bytes) before packets are passed on; False drops them.
            close_timeout_s: How long its end may take to tell the DHT.
        """
        self._node = node
        self._limits = limits or RelayLimits()
        self._allow = None if allow is None else guarded(allow, instead=False, name="allow")
        self._close_timeout_s = close_timeout_s
        self._server: Server = node.listen(key_pair, firewall=firewall)
        self._pairing = RelayPairing(on_matched=self._matched, on_ended=self._ended)
        self._channels: dict[int, MuxChannel] = {}
        self._carried: dict[RelayPair, Carried] = {}
        self._hosts: Counter[str] = Counter()
        self._next_session = 0
        self.refused = 0
        """Peers that connected and were dropped because there were too many."""

    @property
    def public_key(self) -> bytes:
        """What peers name to be carried here."""
        return self._server.public_key

    @property
    def pairs(self) -> int:
        """Connections carried now."""
        return self._pairing.pairs

    @property
    def sessions(self) -> int:
        """Peers connected now."""
        return self._hosts.total()

    async def __aenter__(self) -> Self:
        await self._server.listen()
        self._bucket = self._limits.bucket(self._node.now())
        self._tasks = anyio.create_task_group()
        await self._tasks.__aenter__()
        self._tasks.start_soon(self._serve)
        self._tasks.start_soon(self._watch)
        return self

    async def __aexit__(self, *_: object) -> None:
        with anyio.CancelScope(shield=True):
            await self._server.aclose(unannounce_within_s=self._close_timeout_s)
        self._tasks.cancel_scope.cancel()
        await self._tasks.__aexit__(None, None, None)

    async def _serve(self) -> None:
        async for stream in self._server:
            raw = cast("UdxByteStream", stream.raw_stream)
            host = raw.remote_address.host
            if self.sessions < self._limits.sessions and self._hosts[host] < self._limits.sessions_of_host:
                self._hosts[host] += 1
                self._tasks.start_soon(self._serve_peer, stream, host)
            else:
                self.refused += 1
                raw.destroy()

    async def _watch(self) -> None:
        """Forget who waits in vain, and pairs that ended, or were here for too long or for nothing."""
        while True:
            await anyio.sleep(WATCH_EVERY_S)
            now = self._node.now()
            self._pairing.handle_timer(now=now)
            for pair, carried in tuple(self._carried.items()):
                alive = all(map(self._node.has_stream, carried.streams))
                if not alive or not self._limits.may_go_on(carried, now):
                    self._pairing.end(pair)
                    self._ended(pair, now)

    async def _serve_peer(self, stream: PeerStream, host: str) -> None:
        session, self._next_session = self._next_session, self._next_session + 1
        try:
            async with Protomux(stream) as mux:
                channel = await mux.open_channel(PROTOCOL, stream.remote_public_key)
                self._channels[session] = channel
                self._pairing.open(session, host=host)
                while True:
                    kind, body = await self._next_message(session, channel)
                    self._pairing.receive(session, kind, body, self._node.now())
        except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
            pass
        finally:
            self._hosts[host] -= 1
            if not self._hosts[host]:
                del self._hosts[host]
            self._channels.pop(session, None)
            self._pairing.close(session, self._node.now())

    async def _next_message(self, session: int, channel: MuxChannel) -> tuple[int, memoryview]:
        """
        Raises:
            ClosedResourceError: A peer that is neither carried nor waits for another has no business here.
        """
        while True:
            with anyio.move_on_after(self._limits.idle_s):
                return await channel.receive()
            if not self._pairing.has_business(session):
                raise anyio.ClosedResourceError

    def _matched(self, pair: RelayPair, now: float) -> None:
        first, second = (self._open_stream(end.stream_id) for end in pair.ends)
        carried = self._carried[pair] = Carried((first, second), now)
        hook = partial(self._may_carry, carried)
        self._node.endpoint.relay(first, second, hook=hook)
        self._node.endpoint.relay(second, first, hook=hook)
        for end, answer in zip(pair.ends, pair.answers((first, second)), strict=True):
            channel = self._channels.get(cast("int", end.session))
            if channel is not None:
                self._tasks.start_soon(self._answer, channel, answer)

    def _may_carry(self, carried: Carried, packets: int, size: int) -> bool:
        if self._allow is not None and not self._allow(packets, size):
            return False
        return self._limits.allow(carried, self._bucket, size, self._node.now())

    async def _answer(self, channel: MuxChannel, message: bytes) -> None:
        with contextlib.suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):  # its session ends by itself
            await channel.send(MessageType.PAIR, message)

    def _open_stream(self, remote_id: int) -> int:
        endpoint = self._node.endpoint

        def bind(socket: int, sender: Address, now: float) -> bool:
            """The peer's first packet shows where it is."""
            if endpoint.stream(stream_id).address is None:
                with contextlib.suppress(LocalProtocolError):  # a pair that ended in this turn
                    endpoint.connect(stream_id, socket, sender, remote_id, now=now)
                    return True
            return False

        stream_id = endpoint.reserve(bind)
        return stream_id

    def _ended(self, pair: RelayPair, now: float) -> None:
        carried = self._carried.pop(pair, None)
        for stream_id in () if carried is None else carried.streams:
            try:
                self._node.endpoint.stream(stream_id).destroy()
            except LocalProtocolError:
                continue
