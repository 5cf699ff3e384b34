"""Hyperswarm for programs.

    async with Hyperswarm(bootstrap=bootstrap) as swarm:
        session = await swarm.join(topic)
        async for stream in swarm.connections:
            ...                                      # a SecretStream; closing it is the program's part

`hyperdht.swarm` decides, this carries out. Every input to the machine is followed by `pump`, which turns its events into tasks.
"""

import logging
import random
from collections.abc import Callable, Generator, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Self, TypeAlias

import anyio
from anyio.lowlevel import checkpoint

from ..addresses import Address
from ..crypto import KeyPair
from ..dht.payloads import NoisePayload
from ..errors import LocalProtocolError
from ..rpc.randomness import Randomness
from ..swarm import (
    CloseReason,
    CloseWanted,
    Connection,
    ConnectionLost,
    ConnectionOpened,
    ConnectionState,
    DialLog,
    DialReport,
    DialWanted,
    FlushEnded,
    KeepAliveWanted,
    Limits,
    PeerBanned,
    PeerInfo,
    RefreshUnwanted,
    RefreshWanted,
    Session,
    Swarm,
    SwarmEvent,
    SwarmState,
    UnannounceWanted,
    Updated,
)
from .arrivals import SwarmConnections
from .bootstrap import PUBLIC_NODES
from .hooks import guarded
from .node import HyperDHT
from .peer_stream import PeerStream
from .swarm_events import SwarmEvents
from .swarm_links import SwarmLinks
from .swarm_node import SwarmNode
from .swarm_presence import Presence
from .swarm_session import SwarmSession

log = logging.getLogger(__name__)

# Two round trips to each node that has our announce; one that is gone costs a second.
CLOSE_TIMEOUT_S = 5.0
RESET_TIMEOUT_S = 1.0  # for connections, which are not waited for: each is one packet

Firewall: TypeAlias = Callable[[bytes, NoisePayload | None], bool]
"""Called as firewall(public_key, payload) for who connects to us, with None before we dial. True refuses and bans."""
RelayChoice: TypeAlias = Callable[[bool], bytes | None]
"""Called as relay_through(force); the key of a blind relay to use, or None. `force`: a direct dial failed already."""
PeerRelayChoice: TypeAlias = Callable[[bytes, bool], bytes | None]
"""The same, called as relay_for_peer(public_key, force) and only for our dials: which relay helps may depend on the peer."""


@dataclass(frozen=True, slots=True)
class TopicStatus:
    """How it stands with a topic."""

    topic: bytes
    is_server: bool
    is_client: bool
    sessions: int
    refreshing: bool
    """A walk is under way."""
    succeeded: bool
    """The last one that ended went well."""
    walks: int = 0
    """Those that ended well."""
    failures: int = 0
    """Those that failed since."""
    peers: frozenset[bytes] = frozenset()
    """Keys announced there, ours left out, as the last walk and the one under way met them."""


class Hyperswarm:
    """Finds the peers of topics, and keeps connections with them. An async context manager; its end is `destroy`."""

    def __init__(
        self,
        *,
        bootstrap: Sequence[str] | None = None,
        key_pair: KeyPair | None = None,
        max_peers: int | None = None,
        firewall: Firewall | None = None,
        relay_through: bytes | RelayChoice | None = None,
        relay_for_peer: PeerRelayChoice | None = None,
        dht: SwarmNode | None = None,
        limits: Limits | None = None,
        close_timeout_s: float = CLOSE_TIMEOUT_S,
        randomness: Randomness | None = None,
    ) -> None:
        """
        Args:
            bootstrap: For the swarm's own node; the public nodes without. Not beside `dht`.
            key_pair: Who we are for our peers; a new one without.
            max_peers: Shorthand for `limits.max_peers`.
            firewall: Whom not to talk to. One that raises refuses.
            relay_through: A blind relay for peers that cannot be reached otherwise.
            relay_for_peer: Asked first when we dial. The reference has no such thing: its choice is not told whom for.
            dht: A node to use, which may serve others too and is neither suspended nor closed with the swarm.
            close_timeout_s: How long `destroy` may take to tell the DHT.
        """
        if dht is not None and bootstrap is not None:
            raise LocalProtocolError("bootstrap is for a node of the swarm's own, and dht brings another")
        self.key_pair = key_pair or KeyPair.generate()
        self.connections = SwarmConnections(self._taken)
        self.dials = DialLog()
        """How our dials ended, by peer and by cause."""
        self._bootstrap = bootstrap
        self._given_dht = dht
        self._relay_through = relay_through
        self._relay_for_peer = (
            None if relay_for_peer is None else guarded(relay_for_peer, instead=None, name="relay_for_peer")
        )
        self._user_firewall = firewall
        self._close_timeout_s = close_timeout_s
        limits = limits or (Limits() if max_peers is None else Limits(max_peers=max_peers))
        self.machine = Swarm(
            self.key_pair.public_key,
            randomness=randomness or random.SystemRandom(),
            firewall=None if firewall is None else self._judge,
            limits=limits,
        )
        self._links = SwarmLinks(self)
        self._presence = Presence(self)
        self._state_lock = anyio.Lock()
        self._running = anyio.Event()
        self._changed = anyio.Event()
        self._pumping = False
        self._subscribers: set[SwarmEvents] = set()
        self._destroyed = False

    # ---- lifetime

    async def __aenter__(self) -> Self:
        self._stack = AsyncExitStack()
        async with self._stack:
            if self._given_dht is None:
                self.dht: SwarmNode = await self._stack.enter_async_context(
                    HyperDHT(bootstrap=PUBLIC_NODES if self._bootstrap is None else self._bootstrap)
                )
            else:
                self.dht = self._given_dht
            self._stack.callback(self.dht.on_network_change(self._network_changed))
            self._outer = anyio.create_task_group()
            await self._outer.__aenter__()
            self._stack = self._stack.pop_all()
        self._outer.start_soon(self._run)
        with anyio.CancelScope(shield=True):  # a cancellation is for `__aexit__`, which wants all of this to be there
            await self._running.wait()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        try:
            await self.destroy()
        finally:
            self.tasks.cancel_scope.cancel()
            try:
                # The block's own error goes on as it is; a task group would wrap it.
                own = error is not None and not isinstance(error, anyio.get_cancelled_exc_class())
                swallowed = await (
                    self._outer.__aexit__(None, None, None) if own else self._outer.__aexit__(kind, error, traceback)
                )
            finally:
                await self._stack.aclose()
        return swallowed and not own

    async def _run(self) -> None:
        """Everything that happens by itself. Shielded, so that a program which is cancelled can still say goodbye."""
        with anyio.CancelScope(shield=True):
            async with anyio.create_task_group() as self.tasks:
                self.tasks.start_soon(self._run_timers)
                self._running.set()

    async def destroy(self, *, force: bool = False) -> None:
        """Take our announces back, stop listening, end all connections.

        It takes at most `close_timeout_s`, and no cancellation cuts it short. `force`: ends them and says nothing.
        """
        self._destroyed = True
        with anyio.CancelScope(shield=True):
            async with self._state_lock:
                if self.tasks.cancel_scope.cancel_called:
                    self.connections.end()
                    return
                self.machine.destroy()
                self.pump()
                if not force:
                    with anyio.move_on_after(self._close_timeout_s):
                        await self._presence.withdraw()
                self.machine.close_connections(CloseReason.DESTROYED)
                self.pump()
                with anyio.move_on_after(RESET_TIMEOUT_S):
                    await self.until(lambda: self._links.none)
                self.connections.end()
                self._end_subscriptions()
                self.tasks.cancel_scope.cancel()

    async def suspend(self) -> None:
        """End all connections, take our announces back, and close the sockets, until `resume`.

        A node that was given to the swarm keeps its sockets.
        """
        async with self._state_lock:
            if self.machine.state is not SwarmState.RUNNING:
                return
            self.machine.suspend()
            self.pump()
            with anyio.move_on_after(self._close_timeout_s):
                await self._presence.withdraw()
                await self.until(lambda: self._links.none)
            if self._given_dht is None:
                await self.dht.suspend()

    async def resume(self) -> None:
        """Undo `suspend`: listen, announce and look up again."""
        async with self._state_lock:
            if self.machine.state is not SwarmState.SUSPENDED:
                return
            if self._given_dht is None:
                await self.dht.resume()
            self.machine.resume(self.now())
            self.pump()
            self.tasks.start_soon(self._presence.listen_again)

    # ---- topics

    async def join(
        self, topic: bytes, *, server: bool = True, client: bool = True, limit: int | None = None
    ) -> SwarmSession:
        """Announce a topic (`server`), look for its peers and dial them (`client`), again and again until it is left.

        Returns at once; see `SwarmSession.flushed`.

        Args:
            topic: 32 bytes. Hash a name with `hyperdht.crypto.blake2b`.
            limit: How many peers that are not connected yet one walk may add.

        Raises:
            LocalProtocolError: No topic, neither server nor client, or the swarm was destroyed.
        """
        session = self.machine.join(bytes(topic), server=server, client=client, limit=limit, now=self.now())
        self.pump()
        await checkpoint()
        return SwarmSession(self, session)

    async def leave(self, topic: bytes) -> None:
        """End all sessions of a topic, and wait until our announce is taken back. Its connections stay."""
        discovery = self.machine.leave(bytes(topic))
        self.pump()
        if discovery is not None:
            await self.until(lambda: discovery.settled)

    async def leave_session(self, session: Session) -> None:
        """For `SwarmSession`."""
        if not session.left:
            self.machine.leave_session(session, self.now())
            self.pump()
        await self.until(lambda: session.discovery.settled)

    def status(self, topic: bytes) -> TopicStatus | None:
        """How it stands with a topic; None if it is not joined."""
        discovery = self.machine.topics.get(bytes(topic))
        if discovery is None:
            return None
        return TopicStatus(
            topic=discovery.topic,
            is_server=any(session.server for session in discovery.sessions),
            is_client=any(session.client for session in discovery.sessions),
            sessions=len(discovery.sessions),
            refreshing=not discovery.settled,
            succeeded=discovery.succeeded,
            walks=discovery.walks,
            failures=discovery.failures,
            peers=discovery.found - {self.key_pair.public_key},
        )

    @property
    def topics(self) -> tuple[bytes, ...]:
        """The topics joined."""
        return tuple(discovery.topic for discovery in self.machine.topics)

    async def flush(self) -> bool:
        """Wait until all topics are announced and looked up, and every dial that led to has opened or failed.

        Returns:
            False if the swarm was suspended or destroyed before.
        """
        for discovery in self.machine.topics:
            await self.until(lambda discovery=discovery: discovery.settled)  # type: ignore[misc]
        flush = self.machine.flush()
        self.pump()
        await self.until(lambda: flush.complete is not None)
        return bool(flush.complete)

    async def listen(self) -> None:
        """Be reachable by key without announcing a topic. `join` as server does it by itself.

        Raises:
            HyperDHTError: No node of the DHT answers.
        """
        await self._presence.listening()

    # ---- peers

    def join_peer(self, public_key: bytes) -> None:
        """Keep a connection with this peer, whatever the topics and however many others there are."""
        self.machine.join_peer(bytes(public_key), self.now())
        self.pump()

    def leave_peer(self, public_key: bytes) -> None:
        """Undo `join_peer`. A connection stays."""
        self.machine.leave_peer(bytes(public_key))
        self.pump()

    async def try_peer(self, public_key: bytes) -> DialReport | None:
        """Dial a peer now, however often that failed before, and wait for how it ends.

        Returns:
            The report of that dial. None if there was none: the peer is connected already or connected to us meanwhile, is
            banned or ourselves, or no more connections are allowed.
        """
        key = bytes(public_key)
        before = self.dials.get(key)
        asked_for = (known := self.peer(key)) is not None and known.explicit
        self.join_peer(key)

        def is_settled() -> bool:
            peer, connection = self.peer(key), self.machine.connections.get(key)
            if connection is not None:
                return connection.state is not ConnectionState.DIALLING
            # One that is queued gets its turn as long as others are being dialled.
            return peer is None or not peer.queued or not self.connecting

        try:
            await self.until(lambda: self.dials.get(key) is not before or is_settled())
        finally:
            if not asked_for:
                self.leave_peer(key)
        report = self.dials.get(key)
        return None if report is before else report

    def ban(self, public_key: bytes, *, banned: bool = True) -> None:
        """End the connection with a peer and make no other; or allow it again."""
        self.machine.ban(bytes(public_key), banned=banned)
        self.pump()

    def peer(self, public_key: bytes) -> PeerInfo | None:
        """What is remembered of a peer; None if nothing is."""
        return self.machine.peers.get(bytes(public_key))

    @property
    def connecting(self) -> int:
        """Dials under way."""
        return self.machine.slots.dialling

    @property
    def peers_known(self) -> int:
        """Peers remembered, connected or not."""
        return len(self.machine.peers)

    @contextmanager
    def events(self) -> Generator[SwarmEvents]:
        """What happens from now on: `Updated` after any change of the numbers, `PeerBanned`."""
        events = SwarmEvents()
        if self._destroyed:
            events.end()
        self._subscribers.add(events)
        try:
            yield events
        finally:
            self._subscribers.discard(events)

    # ---- for the parts of the swarm

    def now(self) -> float:
        """The clock of the machine."""
        return anyio.current_time()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until something about the swarm is so."""
        await checkpoint()
        while not condition():
            await self._changed.wait()

    def pump(self) -> None:
        """Do what the machine wants done. To be called after every input."""
        if self._pumping:
            return  # an event led to another input; the loop below takes its events too
        self._pumping = True
        try:
            while (event := self.machine.next_event()) is not None:
                self._carry_out(event)
        finally:
            self._pumping = False
        self._changed.set()
        self._changed = anyio.Event()

    def refuses(self, public_key: bytes, payload: NoisePayload, address: Address) -> bool:
        """The firewall of our server."""
        admitted = self.machine.admits(public_key, payload)
        self.pump()
        return not admitted

    def take_incoming(self, stream: PeerStream) -> None:
        """A peer connected to our server."""
        connection = self.machine.incoming(stream.remote_public_key, stream.talked, self.now())
        self._links.watch(connection, stream)

    @property
    def uses_relays(self) -> bool:
        """Whether there is a blind relay to turn to."""
        return self._relay_through is not None or self._relay_for_peer is not None

    def relay_for(self, force: bool, *, public_key: bytes | None = None) -> bytes | None:
        """The blind relay for a connection. `force`: nothing else will do. `public_key`: whom we dial."""
        if public_key is not None and self._relay_for_peer is not None:
            chosen = self._relay_for_peer(public_key, force)
            if chosen is not None:
                return chosen
        if callable(self._relay_through):
            return self._relay_through(force)
        return self._relay_through if force or self.dht.randomized else None

    # ---- events of the machine

    def _carry_out(self, event: SwarmEvent) -> None:
        match event:
            case DialWanted(connection):
                self.tasks.start_soon(self._links.dial, connection)
            case CloseWanted(connection, reason):
                self._links.close(connection, reason)
            case KeepAliveWanted(connection):
                stream = self._links.stream(connection)
                if stream is not None:
                    stream.beat()
            case ConnectionOpened(connection):
                stream = self._links.stream(connection)
                assert stream is not None
                stream.peer_info = connection.peer
                self.connections.opened(connection, stream)
            case ConnectionLost(connection):
                self.connections.lost(connection)
            case RefreshWanted(refresh):
                self.tasks.start_soon(self._presence.refresh, refresh)
            case RefreshUnwanted(refresh):
                self._presence.stop(refresh)
            case UnannounceWanted(discovery):
                self.tasks.start_soon(self._presence.unannounce, discovery)
            case PeerBanned() | Updated():
                for subscriber in self._subscribers:
                    subscriber.put(event)
            case FlushEnded():
                pass  # who waits for it looks at the flush itself after every event

    def _taken(self, connection: Connection) -> None:
        self.machine.taken(connection, self.now())
        self.pump()

    def _network_changed(self) -> None:
        self.machine.network_changed(self.now())
        self.pump()

    # ---- the rest

    async def _run_timers(self) -> None:
        while True:
            when = self.machine.next_timer()
            with anyio.CancelScope(deadline=float("inf") if when is None else when):
                await self._changed.wait()
            if when is not None and self.now() >= when:
                self.machine.handle_timer(now=self.now())
                self.pump()

    def _judge(self, public_key: bytes, payload: object) -> bool:
        assert self._user_firewall is not None
        assert payload is None or isinstance(payload, NoisePayload)
        try:
            return self._user_firewall(public_key, payload)
        except Exception:
            log.exception("the firewall of the swarm failed; the peer is refused")
            return True

    def _end_subscriptions(self) -> None:
        for subscriber in self._subscribers:
            subscriber.end()
