"""HyperDHT: a node of the DHT with its sockets, connections and servers.

async with HyperDHT() as dht:
    async with dht.listen() as server:
        async for stream in server: ...
    stream = await dht.connect(public_key)
    await stream.send(b"one message")
"""

import random
import time
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any, Final, Self

import anyio
from anyio.lowlevel import checkpoint

from ..addresses import Address
from ..crypto import KeyPair
from ..dht.announcer import Announcer
from ..dht.constants import Firewall
from ..dht.holepunch_client import PunchHook
from ..dht.link import Link, RelayWanted
from ..dht.node import DhtNode
from ..dht.server import HandshakeRequest
from ..dht.server import Server as ServerMachine
from ..dht.server_session import ServerOptions
from ..errors import LocalProtocolError, NodeSuspended
from ..rpc import RpcNode
from ..rpc.health import Health
from ..secret_stream import MAX_MESSAGE_BYTES
from ..udx import UdxEndpoint
from .bootstrap import PUBLIC_NODES, BootstrapNode, known_addresses, resolve
from .hooks import guarded
from .interfaces import EVERY_INTERFACE, local_hosts
from .keep_alive import INTERVAL_S, KeepAlive
from .links import Dialing, Links
from .offload import Offload
from .peer_stream import PeerStream
from .pending import Waiting
from .queries import Queries
from .server import FirewallHook, Server
from .udx_transport import UdxTransport

DEFAULT_PORT: Final = 49737
PORTS_TO_TRY: Final = 5  # as dht-rpc: nodes of one machine are found at the same few ports after a restart
LOOK_EVERY_S: Final = 5.0  # reading the interfaces takes a millisecond
SLEPT_AFTER_S: Final = 15.0  # as dht-rpc
CLIENT_SOCKET, SERVER_SOCKET = 0, 1


class HyperDHT(Queries):
    """An async context manager. Leaving it stops its servers, resets its connections and closes its sockets."""

    def __init__(
        self,
        *,
        bootstrap: Sequence[str | Address] | None = None,
        key_pair: KeyPair | None = None,
        host: str = EVERY_INTERFACE,
        port: int = DEFAULT_PORT,
        ephemeral: bool | None = None,
        firewalled: bool | None = None,
        public_host: str | None = None,
        keep_alive_s: float = INTERVAL_S,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        offload: Offload | None = None,
        tells_local_addresses: Callable[[], bool] = lambda: True,
        randomness: random.Random | None = None,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """
        Args:
            bootstrap: Nodes to start from: `host:port`, or `ip@host:port` to use the name only if the address is silent. The
                public network's without; none at all for the first node of a network.
            key_pair: Who we are to peers, unless a call says otherwise. Random without.
            host: Address to bind to.
            port: Of the server socket. If it is taken the next four are tried, then any; 0 is any.
            ephemeral: Never store for others (True), store from the start (False), or once this node has been up for 20
                minutes and can be reached (None).
            firewalled: Whether strangers cannot reach the server socket; None: find out.
            public_host: Our address as others see it, for a node nobody can tell it: the first of a network.
            keep_alive_s: A connection that sent nothing for that long sends a sign of life.
            max_message_bytes: A peer that sends a longer message is disconnected before it is buffered.
            offload: Which batches of packets the kernel is asked to make; without it what it can.
            tells_local_addresses: Asked for each peer, whether it may know our addresses in the local network. Peers behind
                the same router need them where it does not take its own packets back.
            randomness: The system's without. For tests.
            wall_clock: The time of day in seconds. For tests.
        Raises:
            LocalProtocolError: A bootstrap node is not of these forms.
        """
        self.key_pair = key_pair or KeyPair.generate()
        self._bootstrap = [BootstrapNode.of(node) for node in (PUBLIC_NODES if bootstrap is None else bootstrap)]
        self._host = host
        self._wanted_port = port
        self._ephemeral = ephemeral
        self._firewalled = firewalled
        self._public_host = public_host
        self._max_message_bytes = max_message_bytes
        self._transport = UdxTransport(host=host, offload=offload)
        self._tells_local_addresses = guarded(tells_local_addresses, instead=False, name="tells_local_addresses")
        self._randomness = randomness or random.SystemRandom()
        self._keep_alive = KeepAlive(keep_alive_s)
        self._wall_clock = wall_clock
        self._waiting = Waiting()
        self._bootstrapped = anyio.Event()
        self._started: DhtNode | None = None
        self._port = 0
        self._servers: set[Server] = set()
        self._local_hosts = local_hosts(host)
        self._suspended = False

    # --- life

    async def __aenter__(self) -> Self:
        if self._started is not None:
            raise LocalProtocolError("a HyperDHT is entered once; make another one")
        await self._transport.__aenter__()
        try:
            self._transport.open()
            self._bind_server_socket()
            self._port = self._transport.port(SERVER_SOCKET)
            self._started = self._make_machine()
            self._rpc.on_bootstrapped.append(lambda _: self._bootstrapped.set())
            self._transport.on_socket_closed = self._started.routes.forget_socket
            self._transport.attach(self._started)
            self._tasks = anyio.create_task_group()
            await self._tasks.__aenter__()
        except BaseException:
            await self._transport.__aexit__()
            raise
        self._links = Links(self, self._transport, self._machine, self._keep_alive, self._max_message_bytes)
        self._tasks.start_soon(self._keep_alive.run)
        self._tasks.start_soon(self._join_network)
        self._tasks.start_soon(self._watch_machine)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._waiting.close()
        with anyio.CancelScope(shield=True):
            await self._close_servers()
        self._tasks.cancel_scope.cancel()
        try:
            await self._tasks.__aexit__(None, None, None)
        finally:
            await self._transport.__aexit__()

    async def _close_servers(self) -> None:
        async with anyio.create_task_group() as closing:
            for server in tuple(self._servers):
                closing.start_soon(server.aclose)

    def _bind_server_socket(self) -> None:
        wanted = self._wanted_port
        for port in (*range(wanted, min(wanted + PORTS_TO_TRY, 65536)), 0) if wanted else (0,):
            try:
                self._transport.open(port)
            except OSError:
                if not port:
                    raise
            else:
                return

    def _make_machine(self) -> DhtNode:
        return DhtNode(
            self._transport,
            self._transport.endpoint,
            randomness=self._randomness,
            local_addresses=self._local_addresses,
            unix_ms=lambda: time.time_ns() // 1_000_000,
            now=self.now(),
            bootstrap=known_addresses(self._bootstrap),
            ephemeral=self._ephemeral,
            firewalled=self._firewalled,
            known_address=None if self._public_host is None else Address(self._public_host, self.port),
            tells_local_addresses=self._tells_local_addresses,
        )

    async def _join_network(self) -> None:
        """Start with the addresses we know; names are resolved when these led nowhere."""
        if self._bootstrap and not known_addresses(self._bootstrap):
            self._rpc.set_bootstrap(await resolve(self._bootstrap))
        self._machine.start(self.now())
        self.wake()
        await self._bootstrapped.wait()
        if self._bootstrap and not len(self._rpc.table):
            self._rpc.set_bootstrap([*known_addresses(self._bootstrap), *await resolve(self._bootstrap)])
            self._rpc.refresh(self.now())
            self.wake()

    async def _watch_machine(self) -> None:
        """Notice other addresses, and sleep: the clock that timers follow may have stopped meanwhile, the time of day did not."""
        ahead = self._wall_clock() - self.now()
        while True:
            await anyio.sleep(LOOK_EVERY_S)
            before, ahead = ahead, self._wall_clock() - self.now()
            hosts = local_hosts(self._host)
            if hosts != self._local_hosts:
                self._local_hosts = hosts
                self.handle_network_change()
            elif ahead - before > SLEPT_AFTER_S:
                self.handle_wakeup()

    def handle_network_change(self) -> None:
        """The network of this machine is another one: find out about it, announce anew, and see which connections live.

        Changes of the machine's addresses are noticed without a call.
        """
        self._rpc.handle_network_change(self.now())
        self._keep_alive.beat_all()
        self.wake()

    def handle_wakeup(self) -> None:
        """This machine slept: ask who is still there, and see which connections live. Noticed without a call."""
        self._rpc.handle_wakeup(self.now())
        self._keep_alive.beat_all()
        for server in tuple(self._servers):
            server.refresh()
        self.wake()

    async def fully_bootstrapped(self) -> None:
        """Wait until the nodes around us are known, or there is nobody.

        Raises:
            ClosedResourceError: The node is closed.
        """
        if not self._rpc.bootstrapped:
            await self._waiting.wait(self._bootstrapped)
        self._waiting.check()

    def on_network_change(self, callback: Callable[[], object]) -> Callable[[], None]:
        """Call `callback` when our addresses changed, and when others answer again. Returns what undoes it."""
        call = guarded(callback, instead=None, name="on_network_change")

        def changed(now: float) -> None:
            call()

        def health_changed(now: float) -> None:
            if self.online:
                call()

        def undo() -> None:
            self._rpc.on_network_change.remove(changed)
            self._rpc.on_health_change.remove(health_changed)

        self._rpc.on_network_change.append(changed)
        self._rpc.on_health_change.append(health_changed)
        return undo

    async def suspend(self) -> None:
        """Before the machine sleeps: withdraw servers, reset connections, and be silent until `resume`."""
        self._waiting.check()
        if self._suspended:
            return
        self._suspended = True
        async with anyio.create_task_group() as suspending:
            for server in tuple(self._servers):
                suspending.start_soon(server.suspend)
        self._transport.endpoint.destroy_all()
        self._rpc.suspend(self.now())
        self.wake()

    async def resume(self) -> None:
        """Undo `suspend`."""
        await checkpoint()
        self._waiting.check()
        if not self._suspended:
            return
        self._suspended = False
        self._rpc.resume(self.now())
        for server in tuple(self._servers):
            server.resume()
        self.wake()

    # --- what is known about this node

    @property
    def port(self) -> int:
        """The local port of the server socket."""
        return self._port

    @property
    def ports(self) -> tuple[int, ...]:
        """The local ports of all sockets, those of hole punching included."""
        return self._transport.ports()

    @property
    def nat_address(self) -> Address | None:
        """Our address as others see it; port 0 when it differs from peer to peer. None while unknown."""
        return self._rpc.nat_address()

    @property
    def remote_address(self) -> Address | None:
        """Where anybody can reach us; None when nobody can, or while that is unknown."""
        return self._rpc.remote_address()

    @property
    def randomized(self) -> bool:
        """Whether the NAT before us uses another port for each destination, as far as we know."""
        address = self.nat_address
        return address is not None and not address.port

    @property
    def firewall(self) -> Firewall:
        """What the network lets through to this node, as far as we know."""
        if self.remote_address is not None:
            return Firewall.OPEN
        address = self.nat_address
        if address is None:
            return Firewall.UNKNOWN
        return Firewall.CONSISTENT if address.port else Firewall.RANDOM

    @property
    def firewalled(self) -> bool:
        """Whether strangers cannot reach the server socket, as far as we know."""
        return self._rpc.firewalled

    @property
    def ephemeral(self) -> bool:
        """Whether this node keeps nothing for others."""
        return self._rpc.ephemeral

    @property
    def bootstrapped(self) -> bool:
        """Whether the nodes around us are known."""
        return self._rpc.bootstrapped

    @property
    def online(self) -> bool:
        """Whether others answer."""
        return self._rpc.health is not Health.OFFLINE

    # --- peers

    async def connect(
        self,
        public_key: bytes,
        *,
        key_pair: KeyPair | None = None,
        relay_addresses: Sequence[Address] = (),
        relay_through: bytes | None = None,
        local_connection: bool = True,
        fast_open: bool = True,
        reusable_socket: bool = False,
        holepunch: PunchHook | None = None,
    ) -> PeerStream:
        """Reach a listening peer, wherever it is. Cancellation leaves nothing behind.

        Args:
            public_key: 32 bytes. Nobody else can answer.
            key_pair: Ours; the node's without.
            relay_addresses: Nodes that may pass on the handshake, from a lookup for instance.
            relay_through: The public key of a blind relay that carries the encrypted packets until a direct way is found.
            local_connection: Tell the peer our addresses in the local network, and try its.
            fast_open: Open our NAT for the peer a round earlier.
            reusable_socket: Try the way of an open connection to that peer first, and let later ones use this one's.
            holepunch: Asked before hole punching.
        Raises:
            PeerNotFound: Nobody announced that key.
            ConnectError: It was announced, but could not be reached; the cause says what was in the way.
            HandshakeError: `public_key` is not a key.
            ClosedResourceError: The node is closed.
        """
        if self._suspended:
            raise NodeSuspended
        await self.fully_bootstrapped()
        dialing = Dialing(self._links, key_pair or self.key_pair, may_use_relay=True)
        return await dialing.run(
            public_key,
            relay_addresses=relay_addresses,
            relay_through=relay_through,
            local_connection=local_connection,
            fast_open=fast_open,
            reusable_socket=reusable_socket,
            holepunch=_guarded(holepunch),
        )

    def listen(
        self,
        key_pair: KeyPair | None = None,
        *,
        firewall: FirewallHook | None = None,
        share_local_address: bool = True,
        reusable_socket: bool = False,
        relay_through: Callable[[], bytes | None] | bytes | None = None,
        holepunch: PunchHook | None = None,
    ) -> Server:
        """Take connections for a key pair: `async with dht.listen() as server`.

        Args:
            key_pair: The node's without.
            firewall: Decides who is refused, and may be async, for 10 s. A refused peer gets no answer.
            share_local_address: Tell peers our addresses in the local network.
            reusable_socket: Let a peer's later connections use the way of its first.
            relay_through: The public key of a blind relay to offer to each peer.
            holepunch: Asked before hole punching.

        Hooks that raise say no; it is logged.
        """
        relay: Callable[[], bytes | None]
        if callable(relay_through):
            relay = guarded(relay_through, instead=None, name="relay_through")
        else:
            relay = partial(_constant, relay_through)
        options = ServerOptions(
            share_local_address=share_local_address,
            reusable_socket=reusable_socket,
            relay_through=relay,
            on_relay=self._take_relay,
            hook=_guarded(holepunch),
        )
        return Server(self, key_pair or self.key_pair, firewall, options)

    # --- for the parts of this package

    async def connect_directly(self, public_key: bytes) -> PeerStream:
        """Connect without the help of any blind relay: to one."""
        return await Dialing(self._links, self.key_pair, may_use_relay=False).run(public_key)

    @property
    def endpoint(self) -> UdxEndpoint:
        """The streams of this node."""
        return self._transport.endpoint

    def has_stream(self, stream_id: int) -> bool:
        """Whether a stream is neither over nor unknown."""
        try:
            self.endpoint.stream(stream_id)
        except LocalProtocolError:
            return False
        return True

    @property
    def waiting(self) -> Waiting:
        """Ends with the node."""
        return self._waiting

    @property
    def _machine(self) -> DhtNode:
        if self._started is None:
            raise LocalProtocolError("a HyperDHT works inside its context: async with HyperDHT() as dht")
        return self._started

    @property
    def _rpc(self) -> RpcNode:
        return self._machine.rpc

    def now(self) -> float:
        """The node's clock."""
        return self._transport.now()

    def wake(self) -> None:
        """The machine was asked something: send it."""
        self._transport.wake()

    _now = now
    _wake = wake

    def start_soon(self, function: Callable[..., Coroutine[Any, Any, Any]], *arguments: Any) -> None:
        """Run a task until the node closes."""
        self._tasks.start_soon(function, *arguments)

    def start_server(
        self,
        key_pair: KeyPair,
        *,
        on_link: Callable[[Link, float], None],
        on_handshake: Callable[[HandshakeRequest, float], None] | None,
        on_announced: Callable[[float], None],
        options: ServerOptions,
    ) -> tuple[ServerMachine, Announcer]:
        """For `Server`."""
        self._waiting.check()
        started = self._machine.listen(
            key_pair,
            now=self.now(),
            on_link=on_link,
            on_handshake=on_handshake,
            on_announced=on_announced,
            options=options,
        )
        self.wake()
        return started

    def stop_server(self, server: ServerMachine, then: Callable[[float], None]) -> None:
        """For `Server`."""
        self._machine.stop(server, self.now(), then)
        self.wake()

    def remember_server(self, server: Server) -> None:
        """For `Server`: it listens, and wants to hear when the node closes, sleeps or moves."""
        self._servers.add(server)

    def forget_server(self, server: Server) -> None:
        """For `Server`: it is closed."""
        self._servers.discard(server)

    def take_link(self, link: Link, key_pair: KeyPair, take: Callable[[PeerStream], None]) -> None:
        """For `Server`: bind a stream to the way a peer came, and hand it over once the peer has spoken."""
        self._links.accept(link, key_pair, take)

    def _take_relay(self, wanted: RelayWanted, now: float) -> None:
        self._links.pair(wanted, for_client=True)

    def _local_addresses(self) -> tuple[Address, ...]:
        return tuple(Address(host, self.port) for host in self._local_hosts)


def _guarded(hook: PunchHook | None) -> PunchHook | None:
    return None if hook is None else guarded(hook, instead=False, name="holepunch")


def _constant(value: bytes | None) -> bytes | None:
    return value
