"""One client of a server, from its Noise message until its stream is connected or it is given up.

    WAITING --accept--> OPEN --direct way--> OVER
       |                  |
       +----- reject -----+--nothing for 10 s, or punching failed--> OVER

While OPEN the stream may run through a blind relay already. What OVER leaves behind is the answer, for copies of the same
message that arrive late.

Source: hyperdht 6.34.0 `lib/server.js`; docs/protocol/connections.md.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING, Protocol

from ..addresses import Address
from ..errors import LocalProtocolError
from ..rpc.endpoint import SERVER_SOCKET
from ..rpc.events import RequestReceived
from .constants import Firewall, PayloadError
from .context import Context
from .holepunch_client import PunchHook
from .holepunch_server import HolepunchServer
from .lan import best_match, private_ones
from .link import Link, Path, RelayWanted
from .noise_session import ServerHandshake, SessionKeys
from .payloads import VERSION, HolepunchInfo, HolepunchMessage, NoisePayload, RelayInfo, RelayThrough, UdxInfo
from .random_punches import RandomPunchLimiter
from .reach import path_of
from .reachable import may_send_to
from .relay_attempt import RelayAttempt
from .route_cache import Route, RouteCache
from .router import HandshakeArrival

if TYPE_CHECKING:
    from ..rpc.timers import Timer

WAIT_S = 10.0
TOKEN_BYTES = 32
# Three relays and four transmissions through each make 12 copies of a message. Answering without end would let anybody who
# has seen one have us send its answer wherever they say it came from.
MAX_COPIES = 32


class Announced(Protocol):
    """Where a server announced itself; `Announcer` is one."""

    @property
    def relays(self) -> Sequence[RelayInfo]: ...

    @property
    def relay_addresses(self) -> Sequence[Address]: ...

    def is_own_relay(self, address: Address) -> bool: ...


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """What whoever listens allows."""

    share_local_address: bool = True
    """Tell clients our addresses in the local network, and expect them there."""
    reusable_socket: bool = False
    relay_through: Callable[[], bytes | None] | None = None
    """Called for each client: the public key of a blind relay to use beside the other ways."""
    on_relay: Callable[[RelayWanted, float], None] | None = None
    """Dials blind relays, ours and those clients name; None: never use one."""
    may_use_relay_of_client: Callable[[], bool] = lambda: True
    punching: bool = True
    hook: PunchHook | None = None
    """Asked before punching."""


@dataclass(frozen=True, slots=True)
class SessionContext:
    """What all sessions of a server share."""

    node: Context
    announced: Announced
    options: ServerOptions
    routes: RouteCache
    limiter: RandomPunchLimiter
    on_link: Callable[[Link, float], None]


class _State(Enum):
    WAITING = auto()
    OPEN = auto()
    OVER = auto()


class ServerSession:
    """See the module. `on_over(session, now)` is called once, perhaps from inside `accept`."""

    def __init__(
        self,
        shared: SessionContext,
        number: int,
        arrival: HandshakeArrival,
        handshake: ServerHandshake,
        *,
        now: float,
        on_over: Callable[["ServerSession", float], None],
    ) -> None:
        """
        Args:
            number: What the client puts in its rounds of hole punching.
        """
        self.number = number
        self.remote_public_key = handshake.remote_public_key
        self.payload = handshake.payload
        """What the client says about itself."""
        self._shared = shared
        self._context = shared.node
        self._rpc = shared.node.rpc
        self._arrival = arrival
        self._handshake = handshake
        self._on_over = on_over
        self._state = _State.WAITING
        self._copies = [arrival.answer]  # to be answered once our hook has decided
        self._copies_seen = 1
        self._answer: bytes | None = None
        self._keys: SessionKeys | None = None
        self._stream_id = 0
        self._punch: HolepunchServer | None = None
        self._answers_from_punch = False
        self._relay: RelayAttempt | None = None
        self._relay_is_theirs = False
        self._expected_until = now + WAIT_S
        self._wrote = False
        self._expects_client = True
        """Whether it may still reach us directly."""
        self._timer: Timer | None = self._rpc.timers.call_at(now + WAIT_S, self._give_up)

    @property
    def over(self) -> bool:
        return self._state is _State.OVER

    @property
    def is_there(self) -> bool:
        """Whether the client has shown that it got our answer. Its handshake may come from anywhere."""
        return self._wrote or (self._relay is not None and self._relay.relayed)

    @property
    def dials_relay_of_client(self) -> bool:
        """Whether we are connecting to a blind relay because the client said so."""
        return self._relay is not None and self._relay_is_theirs and not self._relay.over

    def receive_copy(self, arrival: HandshakeArrival) -> None:
        """The same message came again, through another relay or because our answer was lost."""
        self._copies_seen += 1
        if self._copies_seen > MAX_COPIES:
            return
        if self._answer is not None:
            arrival.answer(self._answer, self._answer_socket())
        elif self._state is _State.WAITING:
            self._copies.append(arrival.answer)

    def accept(self, now: float) -> None:
        """Answer, and look for a way to the client. Nothing happens if it is too late."""
        if self._state is not _State.WAITING:
            return
        self._state = _State.OPEN
        error = _error_for(self.payload)
        if error is PayloadError.NONE:
            self._stream_id = self._context.streams.reserve(self._handle_stream_packet)
        relay = self._relay_of_our_choice()
        self._answer, self._keys = self._handshake.answer(self._own_payload(error, relay))
        copies, self._copies = self._copies, []
        if error is PayloadError.NONE:
            self._reach(relay, now)
        for answer in copies:
            answer(self._answer, self._answer_socket())
        if error is not PayloadError.NONE:
            self._end(now)

    def reject(self, now: float) -> None:
        """Do not answer, now or later. Nothing happens if it is too late."""
        if self._state is _State.WAITING:
            self._end(now)

    def close(self, now: float) -> None:
        """Stop. A relayed stream goes on."""
        if not self.over:
            self._release_stream()
            self._end(now)

    def receive_holepunch(self, message: HolepunchMessage, received: RequestReceived, now: float) -> None:
        """A round of hole punching with our number."""
        if self._punch is not None:
            dropped = self._punch.dropped
            self._punch.receive(message, received, now)
            self._wrote = self._wrote or self._punch.dropped == dropped

    def receive_probe(self, socket: int, sender: Address, now: float) -> bool:
        """A datagram of one byte arrived. Returns whether it was for this session."""
        return self._punch is not None and self._punch.receive_probe(socket, sender, now)

    # The answer

    def _relay_of_our_choice(self) -> RelayThrough | None:
        options = self._shared.options
        public_key = options.relay_through() if options.relay_through is not None and options.on_relay else None
        return None if public_key is None else RelayThrough(public_key, self._rpc.randomness.randbytes(TOKEN_BYTES))

    def _own_payload(self, error: PayloadError, relay: RelayThrough | None) -> NoisePayload:
        remote = self._rpc.remote_address()
        announced, options = self._shared.announced, self._shared.options
        public = () if remote is None else (remote,)
        local = self._context.told_addresses() if options.share_local_address else ()
        return NoisePayload(
            error=error,
            firewall=Firewall.UNKNOWN if remote is None else Firewall.OPEN,
            holepunch=HolepunchInfo(self.number, tuple(announced.relays)) if remote is None else None,
            addresses4=public + local,
            udx=UdxInfo(self._stream_id, options.reusable_socket),
            relay_through=relay,
            relay_addresses=tuple(announced.relay_addresses) or None,
        )

    def _answer_socket(self) -> int | None:
        """The relay tells the client where our answer came from, and that is where it will punch to."""
        return self._punch.socket if self._punch is not None and self._answers_from_punch and not self.over else None

    # Reaching the client

    def _reach(self, relay: RelayThrough | None, now: float) -> None:
        arrival = self._arrival
        if arrival.direct:
            self._open(arrival.socket, arrival.client_address, Path.DIRECT, now)
        elif self.payload.firewall == Firewall.OPEN and may_send_to(arrival.client_address, named_by=arrival.sender):
            self._open(self._rpc.endpoint.main_socket, arrival.client_address, Path.DIRECT, now)
        else:
            self._cancel_timer()
            self._expected_until = now + WAIT_S
            self._timer = self._rpc.timers.call_at(self._expected_until, self._give_up)
            self._start_relay(relay, now)
            if self._rpc.remote_address() is None and self._shared.options.punching:
                self._prepare_to_punch(now)

    def _prepare_to_punch(self, now: float) -> None:
        assert self._keys is not None
        try:
            self._punch = HolepunchServer(
                self._context,
                secret=self._keys.holepunch_secret,
                client_address=self._arrival.client_address,
                client_firewall=self.payload.firewall,
                is_own_relay=self._shared.announced.is_own_relay,
                limiter=self._shared.limiter,
                has_relay=self._relay is not None,
                hook=self._shared.options.hook,
                now=now,
                on_aborted=self._handle_punch_aborted,
            )
        except OSError:
            return  # no socket left: the client may still reach us, or the relay
        self._cancel_timer()  # the puncher has its own
        self._answers_from_punch = not self._client_is_in_lan()  # there it shall come to the main socket

    def _client_is_in_lan(self) -> bool:
        """Behind the same public address, with a private one that looks like ours."""
        if self._arrival.client_address.host != self._arrival.own_address.host:
            return False
        if not self._shared.options.share_local_address:
            return False
        theirs = private_ones(self.payload.addresses4)
        return best_match(self._context.told_addresses(), theirs) is not None

    def _handle_stream_packet(self, socket: int, sender: Address, now: float) -> bool:
        """A packet for the stream came from somewhere new: the client reached us."""
        if self._relay is not None and self._relay.comes_from_relay(socket, sender):
            return self._relay.relayed
        if self.over:
            return True  # it goes by the path it has; a packet that takes another one is still the peer's
        punched = self._punch is not None and socket > SERVER_SOCKET
        self._open(socket, sender, Path.PUNCHED if punched else path_of(sender, self.payload), now)
        return True

    def _start_relay(self, ours: RelayThrough | None, now: float) -> None:
        options = self._shared.options
        if options.on_relay is None:
            return
        theirs = self.payload.relay_through
        if ours is None and (theirs is None or not options.may_use_relay_of_client()):
            return
        chosen = ours or theirs
        assert chosen is not None
        self._relay_is_theirs = ours is None
        self._relay = RelayAttempt(
            self._rpc.timers,
            chosen,
            is_initiator=ours is not None,
            stream_id=self._stream_id,
            now=now,
            on_relay=options.on_relay,
            on_opened=self._handle_relayed,
            on_failed=self._handle_relay_failed,
        )

    def _handle_relayed(self, socket: int, address: Address, remote_stream_id: int, now: float) -> None:
        self._shared.on_link(self._link(socket, address, remote_stream_id, Path.RELAYED), now)
        if not self._expects_client and not self.over:
            self._end(now)

    def _handle_relay_failed(self, now: float) -> None:
        if not self._expects_client:
            self._give_up(now)

    # How it ends

    def _open(self, socket: int, address: Address, path: Path, now: float) -> None:
        udx = self.payload.udx
        assert udx is not None
        if self._shared.options.reusable_socket and udx.reusable_socket:
            self._shared.routes.remember_route(self.remote_public_key, Route(socket, address))
        self._end(now, keep=socket)
        self._shared.on_link(self._link(socket, address, udx.id, path), now)
        if path is Path.PUNCHED:
            self._context.sockets.close(socket)  # from here on it is the stream's

    def _link(self, socket: int, address: Address, remote_stream_id: int, path: Path) -> Link:
        if self._keys is None:
            raise LocalProtocolError("the handshake was not answered yet")
        return Link(
            self._stream_id, remote_stream_id, socket, address, self._keys.stream, is_initiator=False, path=path
        )

    def _handle_punch_aborted(self, now: float) -> None:
        """There will be no hole. In the local network, or from an open address, the client needs none."""
        if now < self._expected_until:
            self._timer = self._rpc.timers.call_at(self._expected_until, self._give_up)
        else:
            self._give_up(now)

    def _give_up(self, now: float) -> None:
        """The client did not come, or punching failed."""
        self._expects_client = False
        if self._relay is not None and not self._relay.over:
            return  # it may still come through the relay
        self.close(now)

    def _release_stream(self) -> None:
        relayed = self._relay is not None and self._relay.relayed
        if self._stream_id and not relayed:
            self._context.streams.release(self._stream_id)

    def _end(self, now: float, *, keep: int | None = None) -> None:
        self._state = _State.OVER
        self._copies = []
        self._cancel_timer()
        if self._relay is not None:
            self._relay.cancel()
        if self._punch is not None:
            self._punch.close(now, keep=keep)
        self._on_over(self, now)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _error_for(payload: NoisePayload) -> PayloadError:
    if payload.version != VERSION:
        return PayloadError.VERSION_MISMATCH
    return PayloadError.NONE if payload.udx is not None else PayloadError.ABORTED
