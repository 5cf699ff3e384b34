"""Peers that connect to a key pair, for a task to iterate over."""

from collections import deque
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Self, cast

import anyio
from anyio.lowlevel import checkpoint

from ..addresses import Address
from ..crypto import KeyPair
from ..dht.link import Link
from ..dht.payloads import NoisePayload
from ..dht.server import HandshakeRequest
from ..dht.server import Server as ServerMachine
from ..dht.server_session import ServerOptions
from .hooks import report
from .peer_stream import PeerStream
from .pending import Pending

if TYPE_CHECKING:
    from ..dht.announcer import Announcer
    from .node import HyperDHT
    from .udx_stream import UdxByteStream

FirewallHook = Callable[[bytes, NoisePayload, Address], bool | Awaitable[bool]]
"""Called as hook(public key, what the peer says about itself, its address by what a relay says); True refuses the peer."""

# Peers that connected and nobody took yet. Each costs a stream and what it sent, up to a window; a program that is this
# late does not want them.
BACKLOG = 64
CLOSE_TIME_S = 3.0
JUDGE_TIME_S = 10.0  # the handshake is given up by then, and a hook that hangs must not collect tasks


class Server:
    """Made by `HyperDHT.listen`. Leaving its `async with` block stops listening; connections stay."""

    def __init__(
        self, node: "HyperDHT", key_pair: KeyPair, firewall: FirewallHook | None, options: ServerOptions
    ) -> None:
        self.key_pair = key_pair
        self.refused = 0
        """Peers that connected and were dropped, because nobody took those before them."""
        self._node = node
        self._firewall = firewall
        self._options = options
        self._accepted: deque[PeerStream] = deque()
        self._news = anyio.Event()
        self._closed = False
        self._machine: ServerMachine | None = None
        self._announcer: Announcer | None = None
        self._announced = anyio.Event()

    @property
    def public_key(self) -> bytes:
        """What peers connect to."""
        return self.key_pair.public_key

    @property
    def relay_addresses(self) -> tuple[Address, ...]:
        """Nodes that pass on handshakes to us; empty before the first announcement."""
        return () if self._machine is None else self._machine.relay_addresses

    async def __aenter__(self) -> Self:
        await self.listen()
        return self

    async def __aexit__(self, *_: object) -> None:
        with anyio.CancelScope(shield=True):
            await self.aclose()

    async def listen(self) -> None:
        """Start listening, and wait until peers can find us.

        Raises:
            LocalProtocolError: The node listens with that key pair already.
            ClosedResourceError: The node or the server is closed.
        """
        await self._node.fully_bootstrapped()
        if self._closed:
            raise anyio.ClosedResourceError
        self._machine, self._announcer = self._node.start_server(
            self.key_pair,
            on_link=self._take_link,
            on_handshake=None if self._firewall is None else self._judge,
            on_announced=lambda _: self._announced.set(),
            options=self._options,
        )
        self._node.remember_server(self)
        try:
            await self.flushed()
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self.aclose()
            raise

    async def flushed(self) -> None:
        """Wait until the first announcement is done."""
        await self._node.waiting.wait(self._announced)
        self._node.waiting.check()

    def refresh(self) -> None:
        """Announce anew now. Changes of the network do this by themselves."""
        if self._announcer is not None:
            self._announcer.refresh(self._node.now())
            self._node.wake()

    async def accept(self) -> PeerStream:
        """The next peer.

        Raises:
            ClosedResourceError: The server was closed.
        """
        await checkpoint()
        while not self._accepted:
            if self._closed:
                raise anyio.ClosedResourceError
            self._news = anyio.Event()
            await self._news.wait()
        return self._accepted.popleft()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> PeerStream:
        try:
            return await self.accept()
        except anyio.ClosedResourceError:
            raise StopAsyncIteration from None

    async def aclose(self, *, unannounce_within_s: float = CLOSE_TIME_S) -> None:
        """Take no more peers, and tell the DHT, for at most so many seconds. Peers nobody took are dropped."""
        if self._closed:
            return
        self._closed = True
        self._news.set()
        self._node.forget_server(self)
        if self._machine is not None:
            done: Pending[float] = Pending()
            self._node.stop_server(self._machine, done.set)
            with anyio.move_on_after(unannounce_within_s):
                await done.wait()
        while self._accepted:
            _drop(self._accepted.popleft())
        await checkpoint()

    async def suspend(self) -> None:
        """For `HyperDHT.suspend`: withdraw what was announced."""
        if self._announcer is not None:
            done: Pending[float] = Pending(self._node.waiting)
            self._announcer.suspend(self._node.now(), done.set)
            self._node.wake()
            await done.wait()

    def resume(self) -> None:
        """Undo `suspend`."""
        if self._announcer is not None:
            self._announcer.resume(self._node.now())

    def _take_link(self, link: Link, now: float) -> None:
        self._node.take_link(link, self.key_pair, self._take_stream)

    def _take_stream(self, stream: PeerStream) -> None:
        if len(self._accepted) >= BACKLOG:  # who left meanwhile makes room
            self._accepted = deque(waiting for waiting in self._accepted if not waiting.over)
        if self._closed or len(self._accepted) >= BACKLOG:
            self.refused += not self._closed
            _drop(stream)
        else:
            self._accepted.append(stream)
            self._news.set()

    def _judge(self, request: HandshakeRequest, now: float) -> None:
        assert self._firewall is not None
        try:
            verdict = self._firewall(request.public_key, request.payload, request.address)
        except Exception as error:
            report(error, "firewall")
            verdict = True
        if isinstance(verdict, Awaitable):
            self._node.start_soon(self._judge_later, request, verdict)
        elif verdict:
            request.reject(now)
        else:
            request.accept(now)

    async def _judge_later(self, request: HandshakeRequest, verdict: Awaitable[bool]) -> None:
        refused = True
        try:
            with anyio.move_on_after(JUDGE_TIME_S):
                refused = await verdict
        except Exception as error:
            report(error, "firewall")
        if refused:
            request.reject(self._node.now())
        else:
            request.accept(self._node.now())
        self._node.wake()


def _drop(stream: PeerStream) -> None:
    cast("UdxByteStream", stream.raw_stream).destroy()
