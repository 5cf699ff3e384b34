"""Connecting to a peer by its public key: finding it, shaking hands through a relay, reaching it.

    SEARCHING --answer--> REACHING --direct way--> LINKED
        |                    |
        +--------------------+--> FAILED, or over by `cancel`

Source: hyperdht 6.34.0 `lib/connect.js`; docs/protocol/connections.md.
"""

from collections.abc import Callable, Sequence
from enum import Enum, auto

from ..addresses import Address
from ..crypto import KeyPair, blake2b
from ..errors import ConnectError, DecodeError, HandshakeError, PeerFailed, PeerIncompatible, PeerNotFound
from ..rpc.randomness import Randomness
from .constants import Firewall, PayloadError
from .context import Context
from .handshake_search import HandshakeAnswer, HandshakeSearch, request_handshake
from .holepunch_client import PunchHook
from .link import Link, Path, RelayWanted
from .noise_session import ClientHandshake, SessionKeys
from .payloads import KEPT_RELAYS, VERSION, NoisePayload, RelayThrough, UdxInfo
from .random_punches import RandomPunchLimiter
from .reach import Reach, ReachOptions
from .reachable import may_send_to
from .route_cache import Route, RouteCache
from .router import Router

TOKEN_BYTES = 32


class _State(Enum):
    SEARCHING = auto()
    REACHING = auto()
    OVER = auto()


class Connect:
    """One attempt. Its drivers are the callbacks of the node's requests, timers, sockets and streams.

    `on_link` is called with a direct way, or first with a relayed one and then perhaps with a direct one. `on_failed` is
    called only without any link. Neither is called after `cancel`, nor from inside the constructor.
    """

    def __init__(
        self,
        context: Context,
        router: Router,
        public_key: bytes,
        key_pair: KeyPair,
        *,
        routes: RouteCache,
        limiter: RandomPunchLimiter,
        now: float,
        on_link: Callable[[Link, float], None],
        on_failed: Callable[[ConnectError, float], None],
        on_relay: Callable[[RelayWanted, float], None] | None = None,
        relay_addresses: Sequence[Address] = (),
        relay_through: bytes | None = None,
        local_connection: bool = True,
        fast_open: bool = True,
        reusable_socket: bool = False,
        holepunch: PunchHook | None = None,
    ) -> None:
        """
        Args:
            public_key: The peer's.
            key_pair: Ours; the peer sees its public key.
            routes: The node's.
            limiter: The node's.
            on_relay: Dials blind relays; None: never use one.
            relay_addresses: Nodes that may forward to the peer, for instance from its record.
            relay_through: The public key of a blind relay to use beside the other ways.
            local_connection: Tell the peer our addresses in the local network, and try its.
            fast_open: Open our NAT for the peer before it has answered the first round of hole punching.
            reusable_socket: Try the way of an open connection to that peer first, and let others use ours.
            holepunch: Asked before punching.
        Raises:
            HandshakeError: `public_key` is not the key of anybody.
        """
        self._context = context
        self._rpc = context.rpc
        self._public_key = public_key
        self._target = blake2b(public_key)
        self._routes = routes
        self._limiter = limiter
        self._on_link = on_link
        self._on_failed = on_failed
        self._reusable_socket = reusable_socket
        own_relay = _relay_of_our_choice(relay_through, self._rpc.randomness) if on_relay is not None else None
        self._options = ReachOptions(own_relay, on_relay, local_connection, fast_open, holepunch)
        self._known = self._nodes_to_ask_first(router, relay_addresses, now)
        self._state = _State.SEARCHING
        self._search: HandshakeSearch | None = None
        self._route_request: int | None = None
        self._reached_from: tuple[int, Address] | None = None
        self._answered: tuple[NoisePayload, SessionKeys] | None = None
        self._reach: Reach | None = None
        self._relayed = False
        self.stream_id = context.streams.reserve(self._handle_stream_packet)
        """Reserved for this connection."""
        try:
            self._handshake = ClientHandshake(key_pair, public_key, self._own_payload())
        except HandshakeError:
            context.streams.release(self.stream_id)
            raise
        self._start(now)

    @property
    def over(self) -> bool:
        """Whether nothing more will happen."""
        return self._state is _State.OVER

    def cancel(self, now: float) -> None:
        """Stop, without a callback. To be called too when a relayed stream ends, as its hole punching ends with it."""
        if not self.over:
            self._end(now)
            if not self._relayed:
                self._context.streams.release(self.stream_id)

    def receive_probe(self, socket: int, sender: Address, now: float) -> bool:
        """A datagram of one byte arrived. Returns whether it was for this connection."""
        return self._reach is not None and self._reach.receive_probe(socket, sender, now)

    def _nodes_to_ask_first(self, router: Router, given: Sequence[Address], now: float) -> Sequence[Address]:
        own_route = router.route_to(self._target, now)
        if own_route is not None:
            return (own_route,)
        ourselves = self._rpc.nat_address() or next(iter(self._context.local_addresses()), None)
        if ourselves is None:
            return ()
        # They come from records of strangers, and from the peer, who must not make us send into our own network.
        for named in (given, self._routes.relay_addresses(self._public_key)):
            allowed = [address for address in named if may_send_to(address, named_by=ourselves)]
            if allowed:
                return allowed[:KEPT_RELAYS]
        return ()

    def _own_payload(self) -> NoisePayload:
        remote = self._rpc.remote_address()
        public = () if remote is None else (remote,)
        local = self._context.told_addresses() if self._options.local_connection else ()
        return NoisePayload(
            firewall=Firewall.UNKNOWN if remote is None else Firewall.OPEN,
            addresses4=public + local,
            udx=UdxInfo(self.stream_id, self._reusable_socket),
            relay_through=self._options.relay_through,
        )

    def _start(self, now: float) -> None:
        route = self._routes.route(self._public_key) if self._reusable_socket else None
        if route is None:
            self._start_search(now)
            return
        self._route_request = request_handshake(
            self._rpc,
            route.address,
            target=self._target,
            noise=self._handshake.message,
            socket=route.socket,
            now=now,
            then=self._handle_route_answer,
            on_slow=self._handle_route_slow,
        )

    def _handle_route_slow(self, now: float) -> None:
        """The route may be gone. It keeps its chance, but others shall not wait for it."""
        self._routes.forget_route(self._public_key)
        self._start_search(now)

    def _handle_route_answer(self, answer: HandshakeAnswer | None, now: float) -> None:
        self._route_request = None
        if answer is not None and self._receive_answer(answer):
            return
        if self._search is not None and self._search.over:
            self._handle_exhausted(self._search.found_any, now)
        else:
            self._start_search(now)

    def _start_search(self, now: float) -> None:
        if self._search is None and self._state is _State.SEARCHING:
            self._search = HandshakeSearch(
                self._rpc,
                public_key=self._public_key,
                target=self._target,
                noise=self._handshake.message,
                known=self._known,
                now=now,
                on_answer=self._receive_answer,
                on_exhausted=self._handle_exhausted,
            )

    def _handle_exhausted(self, found_any: bool, now: float) -> None:
        if self._route_request is None:
            self._fail(ConnectError() if found_any else PeerNotFound(), now)

    def _receive_answer(self, answer: HandshakeAnswer) -> bool:
        """Take the first valid answer. Returns whether this one was worth ending the search."""
        if self._state is not _State.SEARCHING:
            return True
        try:
            self._answered = payload, keys = self._handshake.read_answer(answer.noise)
        except (HandshakeError, DecodeError):
            return False
        self._state = _State.REACHING
        self._stop_searching()
        error = _refusal_in(payload)
        if error is not None:
            self._fail(error, answer.now)
            return True
        self._reach = Reach(
            self._context,
            answer=answer,
            payload=payload,
            secret=keys.holepunch_secret,
            target=self._target,
            stream_id=self.stream_id,
            options=self._options,
            limiter=self._limiter,
            on_open=self._open,
            on_relayed=self._handle_relayed,
            on_failed=self._fail,
        )
        if self._reached_from is not None:
            socket, sender = self._reached_from
            self._open(socket, sender, self._reach.path_from(socket, sender), answer.now)
        elif not answer.relayed:
            self._open(answer.socket, answer.asked, Path.DIRECT, answer.now)
        else:
            self._reach.start(answer.now)
        return True

    def _handle_stream_packet(self, socket: int, sender: Address, now: float) -> bool:
        """A packet for our stream came from somewhere new: the peer reached us before we reached it."""
        if self._reach is None:
            # The server sends as soon as it has answered, so its first packet often overtakes the answer. The stream keeps it
            # until then; refused, it would come again after a second.
            if self._state is _State.SEARCHING:
                self._reached_from = (socket, sender)
            return self._state is _State.SEARCHING
        if self._reach.comes_from_relay(socket, sender):
            return self._relayed
        if self.over:
            return True  # it goes by the path it has; a packet that takes another one is still the peer's
        self._open(socket, sender, self._reach.path_from(socket, sender), now)
        return True

    def _handle_relayed(self, socket: int, address: Address, remote_stream_id: int, now: float) -> None:
        self._relayed = True
        self._on_link(self._link(socket, address, remote_stream_id, Path.RELAYED), now)

    def _open(self, socket: int, address: Address, path: Path, now: float) -> None:
        assert self._answered is not None
        payload, _ = self._answered
        assert payload.udx is not None
        asked = self._search.asked if self._search is not None else ()
        self._routes.remember_relays(self._public_key, payload.relay_addresses or tuple(asked))
        if self._reusable_socket and payload.udx.reusable_socket:
            self._routes.remember_route(self._public_key, Route(socket, address))
        self._end(now, keep=socket)
        self._on_link(self._link(socket, address, payload.udx.id, path), now)
        if path is Path.PUNCHED:
            self._context.sockets.close(socket)  # from here on it is the stream's

    def _link(self, socket: int, address: Address, remote_stream_id: int, path: Path) -> Link:
        assert self._answered is not None
        keys = self._answered[1].stream
        return Link(self.stream_id, remote_stream_id, socket, address, keys, is_initiator=True, path=path)

    def _fail(self, error: ConnectError, now: float) -> None:
        self._end(now)
        if not self._relayed:  # else the relay goes on carrying it
            self._context.streams.release(self.stream_id)
            self._on_failed(error, now)

    def _end(self, now: float, *, keep: int | None = None) -> None:
        self._state = _State.OVER
        self._stop_searching()
        if self._reach is not None:
            self._reach.stop(now, keep=keep)

    def _stop_searching(self) -> None:
        if self._search is not None:
            self._search.cancel()
        if self._route_request is not None:
            self._rpc.cancel(self._route_request)
            self._route_request = None


def _relay_of_our_choice(public_key: bytes | None, randomness: Randomness) -> RelayThrough | None:
    return None if public_key is None else RelayThrough(public_key, randomness.randbytes(TOKEN_BYTES))


def _refusal_in(payload: NoisePayload) -> ConnectError | None:
    if payload.version != VERSION:
        return PeerIncompatible(f"The peer speaks version {payload.version} of the protocol, we speak {VERSION}.")
    if payload.error != PayloadError.NONE:
        return PeerFailed(f"The peer took the handshake and answered with error {payload.error}.")
    if payload.udx is None:
        return PeerFailed("The peer took the handshake and named no stream.")
    return None
