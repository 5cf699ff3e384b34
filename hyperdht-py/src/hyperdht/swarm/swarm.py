"""A swarm without I/O: which peers of which topics to connect to, and when.

    swarm = Swarm(public_key, randomness=...)
    session = swarm.join(topic, server=True, client=True, limit=None, now=now)
    while (event := swarm.next_event()) is not None: ...     # events.py says what to do and what to report
    swarm.handle_timer(now=now)                              # when next_timer() has come

Every input may lead to events. Source: hyperswarm 4.17.2 `index.js`; docs/protocol/hyperswarm.md.
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from enum import Enum, auto

from ..addresses import Address
from ..dht.messages import PeerRecord
from ..errors import LocalProtocolError
from ..rpc.randomness import Randomness
from ..rpc.timers import Timers
from .candidates import Candidates, Firewall
from .connection_set import Connection, ConnectionSet, ConnectionState, keep_new
from .discovery import Discovery, Refresh, Session
from .events import (
    CloseReason,
    CloseWanted,
    ConnectionLost,
    ConnectionOpened,
    DialWanted,
    KeepAliveWanted,
    SwarmEvent,
    Updated,
)
from .flush import Flush
from .peer_book import PeerBook
from .peer_info import PeerInfo
from .slots import Limits, Slots
from .topics import Topics


class SwarmState(Enum):
    """What a swarm may do."""

    RUNNING = auto()
    SUSPENDED = auto()
    DESTROYED = auto()


class Swarm:
    """Topics, peers and connections of one key."""

    def __init__(
        self,
        public_key: bytes,
        *,
        randomness: Randomness,
        firewall: Firewall | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.public_key = public_key
        self.state = SwarmState.RUNNING
        self.timers = Timers()
        self.topics = Topics(self.timers, randomness, self._emit)
        self.connections = ConnectionSet()
        self.slots = Slots(limits or Limits())
        self._events: deque[SwarmEvent] = deque()
        self._candidates = Candidates(
            public_key,
            timers=self.timers,
            randomness=randomness,
            firewall=firewall,
            is_connected=self.connections.__contains__,
            emit=self._emit,
            on_due=self._attempt,
        )

    @property
    def peers(self) -> PeerBook:
        """Those we remember."""
        return self._candidates.peers

    # ---- what the owner drives

    def next_event(self) -> SwarmEvent | None:
        """The oldest event not taken yet."""
        return self._events.popleft() if self._events else None

    def next_timer(self) -> float | None:
        """When to call `handle_timer`."""
        return self.timers.next_timer()

    def handle_timer(self, *, now: float) -> None:
        self.timers.handle_timer(now=now)

    # ---- topics

    def join(self, topic: bytes, *, server: bool, client: bool, limit: int | None, now: float) -> Session:
        """Announce and look up a topic until the session leaves it.

        Raises:
            LocalProtocolError: No topic, neither server nor client, or the swarm was destroyed.
        """
        if self.state is SwarmState.DESTROYED:
            raise LocalProtocolError("the swarm was destroyed")
        suspended = self.state is SwarmState.SUSPENDED
        return self.topics.join(topic, server=server, client=client, limit=limit, suspended=suspended, now=now)

    def leave_session(self, session: Session, now: float) -> None:
        """End one session, and with the last one of a topic leave it."""
        session.discovery.remove_session(session, now)
        if not session.discovery.sessions and self.topics.get(session.discovery.topic) is session.discovery:
            self.leave(session.discovery.topic)

    def leave(self, topic: bytes) -> Discovery | None:
        """End all sessions of a topic. Its connections stay, its peers are not dialled any more."""
        left = self.topics.leave(topic)
        if left is not None:
            self._candidates.forget_topic(topic)
        return left

    def found(self, refresh: Refresh, peers: Iterable[PeerRecord], now: float) -> None:
        """A walk met records."""
        discovery = self.topics.get(refresh.topic)
        if discovery is None or self.state is not SwarmState.RUNNING:
            return
        for record in discovery.accept(refresh, peers, self.connections.__contains__):
            self._candidates.add(record, refresh.topic)
        self._attempt(now)

    def refreshed(self, refresh: Refresh, closest_nodes: Sequence[Address], now: float) -> None:
        """A walk ended well, at these nodes."""
        discovery = self.topics.get(refresh.topic)
        if discovery is not None:
            discovery.refreshed(refresh, closest_nodes, now)

    def refresh_failed(self, refresh: Refresh, now: float) -> None:
        """A walk, or what it needed first, failed."""
        discovery = self.topics.get(refresh.topic)
        if discovery is not None:
            discovery.refresh_failed(refresh, now)

    def unannounced(self, discovery: Discovery, now: float) -> None:
        """What `UnannounceWanted` asked for is done, or given up."""
        self.topics.unannounced(discovery, now)

    # ---- peers

    def join_peer(self, public_key: bytes, now: float) -> None:
        """Keep a connection with this peer, whatever the topics."""
        self._candidates.add_explicit(public_key)
        self._attempt(now)

    def leave_peer(self, public_key: bytes) -> None:
        """Undo `join_peer`. A connection stays."""
        self._candidates.remove_explicit(public_key)

    def ban(self, public_key: bytes, *, banned: bool = True) -> None:
        """Have nothing more to do with a peer, whose connection ends; or allow it again."""
        peer = self.peers.known(public_key)
        if peer is None:
            return
        if not banned:
            self._candidates.unban(peer)
            return
        self._candidates.ban(peer)
        connection = self.connections.get(public_key)
        if connection is not None:
            self._close_with_successor(connection, CloseReason.BANNED)

    def admits(self, public_key: bytes, payload: object) -> bool:
        """Whether to answer the handshake of a peer that connects to us."""
        if self.state is not SwarmState.RUNNING:
            return False
        if public_key not in self.connections and not self.slots.may_accept:
            return False
        return not self._candidates.rejects(public_key, payload)

    # ---- connections

    def dial_opened(self, connection: Connection, talked: Callable[[], bool], now: float) -> None:
        """The dial reached its peer. Not to be called after `CloseWanted`: that dial is `closed`."""
        assert connection.state is ConnectionState.DIALLING
        self.slots.dialling -= 1
        connection.peer.connected(now)
        self._opened(connection, talked, now)
        self._candidates.settle(connection.peer)
        self._attempt(now)

    def incoming(self, public_key: bytes, talked: Callable[[], bool], now: float) -> Connection:
        """A peer connected to us. The events say what becomes of it."""
        peer = self.peers.get(public_key) or PeerInfo(public_key)
        new = Connection(peer, is_initiator=False, state=ConnectionState.OPEN, talked=talked)
        existing = self.connections.get(public_key)
        if self.state is not SwarmState.RUNNING:
            suspended = self.state is SwarmState.SUSPENDED
            self._close(new, CloseReason.SUSPENDED if suspended else CloseReason.DESTROYED)
        elif peer.banned or public_key == self.public_key:
            self._close(new, CloseReason.BANNED)
        elif existing is not None:
            self._resolve(existing, new, now)
        elif not self.slots.may_accept:
            self._close(new, CloseReason.SURPLUS)
        else:
            self._accept(new, now)
        self._attempt(now)
        return new

    def taken(self, connection: Connection, now: float) -> None:
        """The program has the connection now."""
        if connection.opened and not connection.taken:
            connection.taken = True
            self.slots.waiting -= 1
            self._attempt(now)

    def closed(self, connection: Connection, now: float, *, relay_might_help: bool = False) -> None:
        """A connection is over, or a dial failed."""
        if not self.connections.discard(connection):
            self._forget_successor(connection)
            return
        peer = connection.peer
        self._release(connection)
        if connection.is_initiator:
            self._count(peer, relay_might_help, now)
        if connection.successor is not None:
            self._accept(connection.successor, now)
        elif self.state is SwarmState.RUNNING and (connection.is_initiator or peer.explicit):
            self._candidates.retry_later(peer, now)
        self._candidates.forget(peer)
        self._candidates.settle(peer)
        self._emit(Updated())
        self._attempt(now)

    # ---- the whole

    def flush(self) -> Flush:
        """Wait for every dial that is due now. `FlushEnded` says when, unless `complete` is set already."""
        if self.state is not SwarmState.RUNNING:
            flush = Flush(())
            flush.complete = self.state is SwarmState.SUSPENDED
            return flush
        if self._is_at_rest():
            return Flush(())
        return self._candidates.flush(each.peer for each in self.connections if each.state is ConnectionState.DIALLING)

    def network_changed(self, now: float) -> None:
        """Another network, or one again after there was none: see who is still there, and be found at the new place."""
        if self.state is SwarmState.RUNNING:
            for connection in self.connections:
                self._keep_alive(connection)
            self.topics.refresh_all(now)

    def suspend(self) -> None:
        """Take all announces back and end all connections until `resume`."""
        if self.state is SwarmState.RUNNING:
            self.state = SwarmState.SUSPENDED
            self.topics.suspend()
            self.close_connections(CloseReason.SUSPENDED)
            self._candidates.stop()

    def resume(self, now: float) -> None:
        """Undo `suspend`."""
        if self.state is SwarmState.SUSPENDED:
            self.state = SwarmState.RUNNING
            self.topics.resume(now)
            self._candidates.enqueue_explicit()
            self._attempt(now)

    def destroy(self) -> None:
        """Leave all topics and dial nobody any more. The connections are left to `close_connections`."""
        self.state = SwarmState.DESTROYED
        for discovery in self.topics:
            self.topics.leave(discovery.topic)
        self._candidates.stop()

    def close_connections(self, reason: CloseReason) -> None:
        """End all connections and dials."""
        for connection in self.connections:
            self._close_with_successor(connection, reason)

    # ---- rules

    def _attempt(self, now: float) -> None:
        """Start the dials there is room for."""
        if self.state is not SwarmState.RUNNING:
            return
        for peer in self._candidates.explicit_due(now):
            if self.slots.may_dial_explicit:
                self._dial(peer)
        while len(self._candidates.queue) and self._may_dial():
            self._dial(self._candidates.queue.take())
        if self._is_at_rest():
            self._candidates.end_flushes()

    def _dial(self, peer: PeerInfo) -> None:
        if peer.banned or peer.public_key in self.connections or self._candidates.rejects(peer.public_key, None):
            self._candidates.settle(peer)
            return
        self._candidates.dequeue(peer)
        connection = Connection(peer, is_initiator=True, state=ConnectionState.DIALLING)
        self.connections.add(connection)
        self.slots.dialling += 1
        self.slots.client += 1
        self._emit(DialWanted(connection))
        self._emit(Updated())

    def _resolve(self, existing: Connection, new: Connection, now: float) -> None:
        """Two connections with one peer: one of them goes."""
        rival = existing.successor or existing
        outdated = rival.talked() or rival.is_silent(now)
        if not keep_new(self.public_key, new.peer.public_key, new_is_initiator=False, existing_outdated=outdated):
            self._keep_alive(existing)
            self._close(new, CloseReason.DUPLICATE)
            return
        self._close(rival, CloseReason.DUPLICATE)
        existing.successor = new

    def _accept(self, connection: Connection, now: float) -> None:
        known = self.peers.known(connection.peer.public_key)
        assert known is not None
        connection.peer = known
        known.client = False
        self.connections.add(connection)
        self.slots.server += 1
        self._opened(connection, connection.talked, now)

    def _opened(self, connection: Connection, talked: Callable[[], bool], now: float) -> None:
        connection.state = ConnectionState.OPEN
        connection.opened_at = now
        connection.talked = talked
        connection.opened = True
        self.slots.waiting += 1
        self._emit(ConnectionOpened(connection))
        self._emit(Updated())

    def _close(self, connection: Connection, reason: CloseReason) -> None:
        if connection.state is not ConnectionState.CLOSING:
            connection.state = ConnectionState.CLOSING
            self._emit(CloseWanted(connection, reason))

    def _close_with_successor(self, connection: Connection, reason: CloseReason) -> None:
        if connection.successor is not None:
            self._close(connection.successor, reason)
            connection.successor = None
        self._close(connection, reason)

    def _keep_alive(self, connection: Connection) -> None:
        if connection.state is ConnectionState.OPEN:
            self._emit(KeepAliveWanted(connection))

    def _release(self, connection: Connection) -> None:
        """Give its slots back."""
        slots = self.slots
        if connection.is_initiator:
            slots.client -= 1
            slots.dialling -= not connection.opened
        else:
            slots.server -= 1
        if connection.opened:
            slots.waiting -= not connection.taken
            self._emit(ConnectionLost(connection))

    def _count(self, peer: PeerInfo, relay_might_help: bool, now: float) -> None:
        """Our dial failed, or the connection it made is over."""
        if relay_might_help:
            peer.force_relaying = True
            peer.attempts = 0  # the next dial goes another way
        peer.disconnected(now)

    def _forget_successor(self, connection: Connection) -> None:
        """It ended before it could take its predecessor's place."""
        existing = self.connections.get(connection.peer.public_key)
        if existing is not None and existing.successor is connection:
            existing.successor = None

    def _may_dial(self) -> bool:
        return self.slots.may_dial(connections=len(self.connections), explicit_peers=self._candidates.explicit_count)

    def _is_at_rest(self) -> bool:
        """Whether no dial is under way and the limits allow none."""
        at_limit = self.slots.at_limit(
            connections=len(self.connections), explicit_peers=self._candidates.explicit_count
        )
        return at_limit and not self.slots.dialling

    def _emit(self, event: SwarmEvent) -> None:
        if not (isinstance(event, Updated) and self._events and isinstance(self._events[-1], Updated)):
            self._events.append(event)
