"""A network of nodes in memory, for tests of what is built on nodes: connections are real, the DHT is a dictionary."""

from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Self

import anyio
from anyio.abc import ByteStream
from anyio.lowlevel import checkpoint

from hyperdht import KeyPair, PeerNotFound, RequestTimeout
from hyperdht.addresses import Address
from hyperdht.buffers import BytesLike
from hyperdht.dht.messages import PeerRecord
from hyperdht.dht.operations import OnPeers
from hyperdht.dht.payloads import NoisePayload
from hyperdht.dht.peers_found import PeersFound
from hyperdht.errors import HolepunchError
from hyperdht.io.peer_stream import PeerStream
from hyperdht.io.swarm_node import ServerFirewall
from hyperdht.noise import HandshakeKeys, NoiseHandshake

NODE = Address("192.0.2.1", 49737)
CLIENT = Address("192.0.2.2", 1000)


class FakeByteStream(ByteStream):
    """One end of a connection: closing it forcefully resets it, as with UDX."""

    def __init__(self) -> None:
        self.other: FakeByteStream
        self.bytes_sent = self.bytes_received = 0
        self._arrived = bytearray()
        self._news = anyio.Event()
        self._callbacks: list[Callable[[], object]] = []
        self._closed = self._reset = self._ended = False

    def on_closed(self, callback: Callable[[], object]) -> None:
        if self._closed:
            callback()
        else:
            self._callbacks.append(callback)

    async def receive(self, max_bytes: int = 65536) -> bytes:
        await checkpoint()
        while not self._arrived:
            if self._reset:
                raise anyio.BrokenResourceError
            if self._closed:
                raise anyio.ClosedResourceError
            if self._ended:
                raise anyio.EndOfStream
            self._news = anyio.Event()
            await self._news.wait()
        data = bytes(self._arrived[:max_bytes])
        del self._arrived[:max_bytes]
        return data

    async def send(self, item: bytes) -> None:
        await checkpoint()
        if self._closed:
            raise anyio.BrokenResourceError if self._reset else anyio.ClosedResourceError
        self.send_now(item)

    def send_now(self, item: BytesLike) -> None:
        self.bytes_sent += len(item)
        self.other.bytes_received += len(item)
        self.other._arrived += item
        self.other._news.set()

    async def send_eof(self) -> None:
        self.other._ended = True
        self.other._news.set()

    async def aclose(self) -> None:
        try:
            await checkpoint()
        except BaseException:
            self.reset()
            raise
        await self.send_eof()
        self._close()

    def reset(self) -> None:
        """This end is closed, and the other breaks."""
        self._close()
        self.other._reset = True
        self.other._close()

    def _close(self) -> None:
        self._news.set()
        if not self._closed:
            self._closed = True
            for callback in self._callbacks:
                callback()


def byte_streams() -> tuple[FakeByteStream, FakeByteStream]:
    left, right = FakeByteStream(), FakeByteStream()
    left.other, right.other = right, left
    return left, right


@dataclass
class FakeNetwork:
    """What all nodes share."""

    servers: dict[bytes, "FakeServer"] = field(default_factory=dict)
    records: defaultdict[bytes, dict[bytes, tuple[Address, ...]]] = field(default_factory=lambda: defaultdict(dict))
    calls: list[tuple[object, ...]] = field(default_factory=list)
    failures: dict[bytes, Exception] = field(default_factory=dict)
    """By the key that is dialled."""
    offline: bool = False
    hang: bool = False
    """Nobody answers, ever."""
    dials_held: anyio.Event | None = None
    """Dials wait for it."""
    dials_ignore_cancellation: bool = False
    """They have succeeded already when it comes, and their task does not know yet."""

    async def reach(self) -> None:
        """One round trip."""
        await checkpoint()
        if self.hang:
            await anyio.sleep_forever()
        if self.offline:
            raise RequestTimeout("no network")

    def called(self, name: str) -> list[tuple[object, ...]]:
        return [call[1:] for call in self.calls if call[0] == name]


class FakeServer:
    def __init__(self, node: "FakeNode", key_pair: KeyPair, firewall: ServerFirewall) -> None:
        self.node = node
        self.key_pair = key_pair
        self.firewall = firewall
        self._accepted: deque[PeerStream] = deque()
        self._news = anyio.Event()
        self._closed = False

    @property
    def relay_addresses(self) -> tuple[Address, ...]:
        return self.node.relays

    async def __aiter__(self) -> AsyncIterator[PeerStream]:
        while not self._closed:
            while self._accepted:
                yield self._accepted.popleft()
            self._news = anyio.Event()
            await self._news.wait()

    async def aclose(self) -> None:
        network = self.node.network
        if network.servers.pop(self.key_pair.public_key, None) is not None:
            self._closed = True
            self._news.set()
            await network.reach()
            network.calls.append(("stopped listening", self.key_pair.public_key))

    async def accept(self, byte_stream: FakeByteStream, keys: HandshakeKeys) -> None:
        stream = await PeerStream.resume(byte_stream, is_initiator=False, key_pair=self.key_pair, handshake=keys)
        try:
            await stream.wait_open()
        except (anyio.ClosedResourceError, anyio.BrokenResourceError, anyio.EndOfStream):
            return
        self._accepted.append(stream)
        self._news.set()


def shake_hands(initiator: KeyPair, responder: KeyPair) -> tuple[HandshakeKeys, HandshakeKeys]:
    """What both sides of the DHT's handshake end with."""
    left = NoiseHandshake("IK", is_initiator=True, static=initiator, remote_static=responder.public_key)
    right = NoiseHandshake("IK", is_initiator=False, static=responder)
    right.read_message(left.write_message())
    left.read_message(right.write_message())
    return left.keys(), right.keys()


class FakeNode:
    """A node of `FakeNetwork`; connections need `async with`."""

    def __init__(self, network: FakeNetwork) -> None:
        self.network = network
        self.relays: tuple[Address, ...] = (NODE,)
        self.randomized = False
        self.suspended = 0
        self._callbacks: list[Callable[[], object]] = []

    async def __aenter__(self) -> Self:
        self._tasks = anyio.create_task_group()
        await self._tasks.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._tasks.cancel_scope.cancel()
        await self._tasks.__aexit__(None, None, None)

    async def connect(
        self, public_key: bytes, *, key_pair: KeyPair, relay_addresses: Sequence[Address], relay_through: bytes | None
    ) -> PeerStream:
        network = self.network
        network.calls.append(("connect", public_key, tuple(relay_addresses), relay_through))
        await network.reach()
        if network.dials_held is not None:
            with anyio.CancelScope(shield=network.dials_ignore_cancellation):
                await network.dials_held.wait()
        if public_key in network.failures:
            raise network.failures[public_key]
        server = network.servers.get(public_key)
        if server is None or server.firewall(key_pair.public_key, NoisePayload(), CLIENT):
            raise PeerNotFound("nobody is there, or wants us")
        left, right = byte_streams()
        keys, their_keys = shake_hands(key_pair, server.key_pair)
        server.node._tasks.start_soon(server.accept, right, their_keys)
        try:
            with anyio.CancelScope(shield=network.dials_ignore_cancellation):
                stream = await PeerStream.resume(left, is_initiator=True, key_pair=key_pair, handshake=keys)
                await stream.wait_open()
        except BaseException:
            left.reset()
            raise
        return stream

    @asynccontextmanager
    async def listen(
        self, *, key_pair: KeyPair, firewall: ServerFirewall, relay_through: Callable[[], bytes | None]
    ) -> AsyncIterator[FakeServer]:
        await self.network.reach()
        assert key_pair.public_key not in self.network.servers
        server = self.network.servers[key_pair.public_key] = FakeServer(self, key_pair, firewall)
        self.network.calls.append(("listen", key_pair.public_key))
        try:
            yield server
        finally:
            with anyio.CancelScope(shield=True):
                await server.aclose()

    async def search(self, topic: bytes, *, seeds: Sequence[Address], on_peers: OnPeers) -> Sequence[Address]:
        self.network.calls.append(("search", topic, tuple(seeds)))
        await self.network.reach()
        self._tell(topic, on_peers)
        return (NODE,)

    async def announce(
        self,
        topic: bytes,
        *,
        key_pair: KeyPair,
        relay_addresses: Sequence[Address],
        clear: bool,
        seeds: Sequence[Address],
        on_peers: OnPeers,
    ) -> Sequence[Address]:
        self.network.calls.append(("announce", topic, key_pair.public_key, clear, tuple(seeds)))
        await self.network.reach()
        self._tell(topic, on_peers)
        records = self.network.records[topic]
        if clear or key_pair.public_key not in records:
            records[key_pair.public_key] = tuple(relay_addresses)
        return (NODE,)

    async def unannounce(
        self,
        topic: bytes,
        *,
        key_pair: KeyPair,
        seeds: Sequence[Address],
        only_closest_nodes: bool,
        on_peers: OnPeers | None = None,
    ) -> Sequence[Address]:
        self.network.calls.append(("unannounce", topic, key_pair.public_key, tuple(seeds), only_closest_nodes))
        await self.network.reach()
        if on_peers is not None:
            self._tell(topic, on_peers)
        self.network.records[topic].pop(key_pair.public_key, None)
        return (NODE,)

    def _tell(self, topic: bytes, on_peers: OnPeers) -> None:
        records = tuple(PeerRecord(key, relays) for key, relays in self.network.records[topic].items())
        for _ in range(2):  # several nodes know the same
            on_peers(PeersFound(NODE, records, 0), 0.0)

    def on_network_change(self, callback: Callable[[], object]) -> Callable[[], None]:
        self._callbacks.append(callback)
        return lambda: self._callbacks.remove(callback)

    def change_network(self) -> None:
        for callback in self._callbacks:
            callback()

    async def suspend(self) -> None:
        self.suspended += 1

    async def resume(self) -> None:
        self.suspended -= 1


NOT_PUNCHED = HolepunchError("HOLEPUNCH_DOUBLE_RANDOMIZED_NATS")
