"""Listening for peers under a key pair.

Source: hyperdht 6.34.0 `lib/server.js`; docs/protocol/connections.md.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

from ..addresses import Address
from ..crypto import KeyPair, blake2b
from ..errors import DecodeError, HandshakeError
from ..rpc.events import RequestReceived
from .context import Context
from .handshake_limits import HandshakeGate, HandshakeLimits
from .link import Link
from .noise_session import ServerHandshake
from .payloads import HolepunchMessage, NoisePayload
from .random_punches import RandomPunchLimiter
from .rate_limit import source_of
from .route_cache import RouteCache
from .router import HandshakeArrival, Router
from .server_session import Announced, ServerOptions, ServerSession, SessionContext

REMEMBER_S = 10.0
_DEFAULT_OPTIONS = ServerOptions()
_DEFAULT_LIMITS = HandshakeLimits()


@dataclass(frozen=True, slots=True)
class HandshakeRequest:
    """A peer wants to connect. It has proven its key. Call one of the two, now or within 10 s."""

    public_key: bytes
    payload: NoisePayload
    """What the peer says about itself. Its addresses are only claims."""
    address: Address
    """Where it is, by what the relay says."""
    accept: Callable[[float], None]
    reject: Callable[[float], None]
    """The peer gets no answer at all, as from a server that is not there."""


class ServerAnnouncer(Announced, Protocol):
    """Keeps a server findable; `Announcer` is one."""

    def start(self, now: float, then: Callable[[float], None] | None = None) -> None: ...

    def stop(self, now: float, then: Callable[[float], None]) -> None: ...


class OwnRecords(Protocol):
    """Where this node's servers are found when it is asked itself; `Storage` is one."""

    def add_own(self, public_key: bytes) -> None: ...

    def remove_own(self, public_key: bytes) -> None: ...


class Server:
    """One key pair's server on one node. Its drivers are the router, the node's timers, sockets and streams."""

    def __init__(
        self,
        context: Context,
        router: Router,
        storage: OwnRecords,
        announcer: ServerAnnouncer,
        key_pair: KeyPair,
        *,
        routes: RouteCache,
        limiter: RandomPunchLimiter,
        now: float,
        on_link: Callable[[Link, float], None],
        on_handshake: Callable[[HandshakeRequest, float], None] | None = None,
        options: ServerOptions = _DEFAULT_OPTIONS,
        limits: HandshakeLimits = _DEFAULT_LIMITS,
    ) -> None:
        """
        Args:
            announcer: For the same key pair; started and stopped with the server.
            routes: The node's.
            limiter: The node's.
            on_link: Called once with a direct way to a peer, or with a relayed one and then perhaps with a direct one.
            on_handshake: Decides who may connect; None: everybody. Must not raise.
        """
        self.key_pair = key_pair
        self.target = blake2b(key_pair.public_key)
        self.listening = False
        self._context = context
        self._router = router
        self._storage = storage
        self._announcer = announcer
        self._on_handshake = on_handshake
        self._limits = limits
        self._gate = HandshakeGate(limits, now=now)
        self._shared = SessionContext(
            node=context,
            announced=announcer,
            options=replace(options, may_use_relay_of_client=self._may_dial_relay),
            routes=routes,
            limiter=limiter,
            on_link=on_link,
        )
        self._by_noise: dict[bytes, ServerSession | None] = {}  # in order of arrival; None for what is no handshake
        self._sessions: dict[int, ServerSession] = {}  # by number, as long as they are remembered
        self._open: dict[int, tuple[ServerSession, Address]] = {}  # with whom it is charged to
        self._given_up = 0
        self._next_number = 0

    @property
    def public_key(self) -> bytes:
        return self.key_pair.public_key

    @property
    def relay_addresses(self) -> tuple[Address, ...]:
        """Where the server can be found without a search."""
        return tuple(self._announcer.relay_addresses)

    @property
    def open_sessions(self) -> int:
        """Handshakes that have not led to a direct connection or been given up."""
        return self._gate.open

    @property
    def refused(self) -> int:
        """Handshakes not looked at, or given up before their client came, because there were too many."""
        return self._gate.refused + self._given_up

    @property
    def remembered(self) -> int:
        """What is kept of handshakes, also of those that are over."""
        return max(len(self._by_noise), len(self._sessions))

    def start(self, now: float, then: Callable[[float], None] | None = None) -> None:
        """Listen. `then(now)` is called when the server can be found, or when that failed for now.

        Raises:
            LocalProtocolError: A server of this node has that key pair already.
        """
        self._router.register(self.target, self)
        self._storage.add_own(self.public_key)
        self.listening = True
        self._announcer.start(now, then)

    def stop(self, now: float, then: Callable[[float], None]) -> None:
        """Take no more peers, and unannounce. Connections stay. `then(now)` is called when nobody forwards to us any more."""
        self.listening = False
        self._router.unregister(self.target)
        self._storage.remove_own(self.public_key)
        for session, _ in tuple(self._open.values()):
            session.close(now)
        self._by_noise.clear()
        self._sessions.clear()
        self._announcer.stop(now, then)

    def receive_handshake(self, arrival: HandshakeArrival, now: float) -> None:
        """A client's message came from the router. The same bytes always get the same answer."""
        key = blake2b(arrival.noise)
        if key in self._by_noise:
            known = self._by_noise[key]
            if known is not None:
                known.receive_copy(arrival)
            return
        source = self._source_of(arrival)
        if not self._gate.admit(source, now, partial(self._make_room, source, now)):
            return
        session = self._new_session(key, source, arrival, now)
        if session is None:
            self._gate.leave(source)
            self._forget_later(key, None, now)
        elif self._on_handshake is None:
            session.accept(now)
        else:
            peer, claims = session.remote_public_key, session.payload
            request = HandshakeRequest(peer, claims, arrival.client_address, session.accept, session.reject)
            self._on_handshake(request, now)

    def receive_holepunch(self, message: HolepunchMessage, received: RequestReceived, now: float) -> None:
        """A round of hole punching came from the router. Unknown numbers are not answered."""
        session = self._sessions.get(message.id)
        if session is not None:
            session.receive_holepunch(message, received, now)

    def receive_probe(self, socket: int, sender: Address, now: float) -> bool:
        """A datagram of one byte arrived. Returns whether it was for this server."""
        return any(session.receive_probe(socket, sender, now) for session, _ in self._open.values())

    def _new_session(self, key: bytes, source: Address, arrival: HandshakeArrival, now: float) -> ServerSession | None:
        """The session of a message not seen before; None if it is not for us. Both are remembered."""
        if len(self._by_noise) >= self._limits.max_remembered:
            self._forget_oldest()
        self._by_noise[key] = None
        try:
            handshake = ServerHandshake(self.key_pair, arrival.noise)
        except (HandshakeError, DecodeError):
            return None
        session = ServerSession(
            self._shared,
            self._next_number,
            arrival,
            handshake,
            now=now,
            on_over=partial(self._handle_over, key, source),
        )
        self._next_number += 1
        self._by_noise[key] = self._sessions[session.number] = session
        self._open[session.number] = session, source
        return session

    def _make_room(self, source: Address, now: float, of_source: bool) -> None:
        """Give up the oldest client that has not shown that it got our answer. A flood with invented addresses would keep
        everybody out else; who is there shows it after a round trip, and a flood makes that the last half second's."""
        for session, its in self._open.values():
            if not session.is_there and (not of_source or source_of(its) == source_of(source)):
                self._given_up += 1
                session.close(now)
                return

    def _handle_over(self, key: bytes, source: Address, session: ServerSession, now: float) -> None:
        self._gate.leave(source)
        del self._open[session.number]
        self._forget_later(key, session, now)

    def _forget_later(self, key: bytes, session: ServerSession | None, now: float) -> None:
        self._context.rpc.timers.call_at(now + REMEMBER_S, lambda _: self._forget(key, session))

    def _forget(self, key: bytes, session: ServerSession | None) -> None:
        if key in self._by_noise and self._by_noise[key] is session:
            del self._by_noise[key]
        if session is not None:
            self._sessions.pop(session.number, None)

    def _forget_oldest(self) -> None:
        """Make room. What is still open stays; there is less of it."""
        for key, session in self._by_noise.items():
            if session is None or session.over:
                self._forget(key, session)
                return

    def _source_of(self, arrival: HandshakeArrival) -> Address:
        """Whom to charge. Only nodes we announced ourselves to forward to us; of others the client may be invented."""
        believed = arrival.direct or self._announcer.is_own_relay(arrival.sender)
        return arrival.client_address if believed else arrival.sender

    def _may_dial_relay(self) -> bool:
        dialling = sum(session.dials_relay_of_client for session, _ in self._open.values())
        return dialling < self._limits.max_relays
