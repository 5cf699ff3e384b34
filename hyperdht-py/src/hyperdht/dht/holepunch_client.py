"""The rounds of hole punching, at the side that called.

Source: hyperdht 6.34.0 `lib/connect.js`; docs/protocol/holepunching.md.
"""

from collections.abc import Callable, Sequence
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING

from ..addresses import Address
from .constants import Firewall, PayloadError
from .context import Context
from .holepunch_exchange import AnsweredRound, HolepunchExchange
from .holepunch_messages import HolepunchPayload, HolepunchSeal
from .payloads import RelayInfo
from .puncher import Puncher
from .random_punches import RandomPunchLimiter
from .reachable import may_send_to

if TYPE_CHECKING:
    from ..rpc.timers import Timer

MAX_PROBE_ROUNDS = 3  # without an answer each takes 4 s
MAX_PUNCH_ROUNDS = 3
PATIENCE_S = 1.0
TRY_LATER_S = 10.0  # and up to as much again

PunchHook = Callable[[int, int, tuple[Address, ...], tuple[Address, ...]], bool]
"""Called as hook(remote firewall, local firewall, remote addresses, local addresses) before punching; False forbids it."""


class HolepunchFailure(Enum):
    """Why there is no hole. The values are the codes of the official package."""

    ABORTED = "HOLEPUNCH_ABORTED"
    """Nothing came through, our hook said no, or too many random punches are running here."""
    INVALID = "HOLEPUNCH_INVALID"
    """Answers came, but none that the server can have written."""
    PROBE_TIMEOUT = "HOLEPUNCH_PROBE_TIMEOUT"
    """Nobody answered, or one side could not find out about its NAT."""
    DOUBLE_RANDOMIZED = "HOLEPUNCH_DOUBLE_RANDOMIZED_NATS"
    """Both sides have another port for each destination."""
    REMOTE_ABORTED = "REMOTE_ABORTED"
    REMOTE_NOT_HOLEPUNCHING = "REMOTE_NOT_HOLEPUNCHING"
    REMOTE_NOT_HOLEPUNCHABLE = "REMOTE_NOT_HOLEPUNCHABLE"
    """The server named no address that may be probed."""


class HolepunchClient:
    """One attempt to reach a server whose handshake came through relays. Starts at once, and always ends:

    - `on_connected(socket, address, now)`: a probe of the server arrived. All other sockets are closed by then; this one
      belongs to the receiver of the call, who closes it with `context.sockets.close` once the stream uses it.
    - `on_failed(failure, now)`: all sockets are closed.
    - `cancel`: neither is called.

    Neither is called from inside the constructor.
    """

    def __init__(
        self,
        context: Context,
        *,
        secret: bytes,
        target: bytes,
        remote_id: int,
        relays: Sequence[RelayInfo],
        remote_firewall: int,
        server_address: Address,
        client_address: Address,
        client_relay: Address,
        limiter: RandomPunchLimiter,
        has_relay: bool = False,
        fast_open: bool = True,
        hook: PunchHook | None = None,
        now: float,
        on_connected: Callable[[int, Address, float], None],
        on_failed: Callable[[HolepunchFailure, float], None],
    ) -> None:
        """
        Args:
            secret: The hole punch secret of the handshake, 32 bytes.
            target: The hash of the server's public key.
            remote_id: The `id` in the server's holepunch info.
            relays: The `relays` there; at least one.
            remote_firewall: The `firewall` of the server's noise payload.
            server_address: Where the relay of the handshake sees the server.
            client_address: Where that relay sees us.
            client_relay: That relay.
            limiter: The node's.
            has_relay: Whether a blind relay carries the connection meanwhile: then waiting is better than giving up.
            fast_open: Open our NAT for the server before it answers.
        Raises:
            OSError: No socket to punch with.
        """
        self._context = context
        self._seal = HolepunchSeal(secret, context.randomness)
        self._exchange = HolepunchExchange(context.rpc, self._seal, target=target, remote_id=remote_id)
        self._client_relay = client_relay
        self._relays = _usable_relays(relays, client_relay)
        self._server_address = server_address
        self._limiter = limiter
        self._has_relay = has_relay
        self._fast_open = fast_open and may_send_to(server_address, named_by=client_relay)
        self._hook = hook
        self._on_connected = on_connected
        self._on_failed = on_failed
        self._rounds = 0
        self._remote_token: bytes | None = None
        self._may_probe_again = True
        self._delayed = False
        self._has_slot = False
        self._probe_rounds_left = MAX_PROBE_ROUNDS
        self._punch_rounds_left = MAX_PUNCH_ROUNDS
        self._timer: Timer | None = None
        self._over = False
        self._puncher = Puncher(
            context,
            remote_firewall=remote_firewall,
            now=now,
            on_connected=self._connected,
            on_exhausted=partial(self._fail, HolepunchFailure.ABORTED),
        )
        self._puncher.same_network = client_address.host == server_address.host
        self._puncher.expect(server_address.host)
        if self._relays:
            self._probe_round(now)
        else:
            self._wait(now, partial(self._fail, HolepunchFailure.REMOTE_NOT_HOLEPUNCHABLE))

    @property
    def sockets(self) -> tuple[int, ...]:
        """All that are open."""
        return self._puncher.sockets

    @property
    def local_firewall(self) -> int:
        """What is known about our NAT, also once the attempt is over."""
        return self._puncher.firewall

    @property
    def remote_firewall(self) -> int:
        """What the server says about its own."""
        return self._puncher.remote_firewall

    @property
    def dropped(self) -> int:
        """Answers that the server cannot have written."""
        return self._exchange.dropped

    @property
    def dropped_probes(self) -> int:
        """Probes from hosts that cannot be the server."""
        return self._puncher.dropped

    def receive_probe(self, socket: int, sender: Address, now: float) -> bool:
        """A datagram of one byte arrived. Returns whether it came to a socket of this attempt."""
        return self._puncher.receive_probe(socket, sender, now)

    def cancel(self, now: float, *, keep: int | None = None) -> None:
        """Stop, and close all sockets but `keep`, which then is the caller's: the stream got through on it another way.

        May be called at any time, also when everything is over.
        """
        if self._over:
            return
        self._over = True
        self._exchange.cancel()
        if self._timer is not None:
            self._timer.cancel()
        self._give_back_slot(now, used=self._puncher.punching)
        self._puncher.close(keep=keep)

    # First we ask how the server is doing

    def _probe_round(self, now: float) -> None:
        if self._fast_open:
            self._puncher.open_session(self._server_address)
        payload = HolepunchPayload(
            firewall=self._puncher.firewall,
            round=self._next_round(),
            addresses=self._puncher.addresses,
            remote_address=self._server_address if self._fast_open else None,
        )
        self._ask(self._relays[0], payload, now, then=self._probed, without_answer=self._probe_failed)

    def _probe_failed(self, failure: HolepunchFailure, now: float) -> None:
        """A relay that does not answer is not asked again. One in whose name others answer may do better next time."""
        relay = self._relays.pop(0)
        self._probe_rounds_left -= 1
        if failure is HolepunchFailure.INVALID:
            self._relays.append(relay)
        if self._relays and self._probe_rounds_left:
            self._probe_round(now)
        else:
            self._fail(failure, now)

    def _probed(self, answer: AnsweredRound) -> None:
        if answer.payload.error:
            self._fail(HolepunchFailure.REMOTE_ABORTED, answer.now)
            return
        self._take_in(answer)
        self._puncher.expect(answer.server_address.host)
        self._puncher.add_sample(answer.client_address, by=answer.relay.relay_address, now=answer.now)
        if self._puncher.remote_firewall == Firewall.UNKNOWN:
            self._wait(answer.now + PATIENCE_S, lambda now: self._analyze(answer, now))
        else:
            self._analyze(answer, answer.now)

    def _analyze(self, answer: AnsweredRound, now: float) -> None:
        socket = self._puncher.socket

        def analyzed(usable: bool, now: float) -> None:
            changed = socket != self._puncher.socket
            if self._may_probe_again and (self._is_worth_repeating(answer) or (usable and changed)):
                self._may_probe_again = False
                self._relays = [*self._relays[1:], self._relays[0]]
                self._probe_round(now)
            elif Firewall.UNKNOWN in (self._puncher.remote_firewall, self._puncher.firewall):
                self._abort(HolepunchFailure.PROBE_TIMEOUT, now)
            elif not usable:
                self._abort(HolepunchFailure.DOUBLE_RANDOMIZED, now)
            else:
                self._prepare_punch(answer, now)

        self._puncher.analyze(now, analyzed, allow_reopen=True)

    def _is_worth_repeating(self, answer: AnsweredRound) -> bool:
        return self._puncher.remote_firewall == Firewall.UNKNOWN or answer.payload.token is None

    # Then both punch

    def _prepare_punch(self, answer: AnsweredRound, now: float) -> None:
        """Where both sides use the same relay, its news of the server's address is good for the next round too."""
        same_relay = answer.relay.relay_address == self._client_relay
        if same_relay and answer.server_address != self._server_address:
            self._server_address = answer.server_address
            if may_send_to(answer.server_address, named_by=self._client_relay):
                self._puncher.open_session(answer.server_address)
        self._remote_token = answer.payload.token
        puncher = self._puncher
        remote = tuple(target.address for target in puncher.targets)
        if self._hook is not None and not self._hook(
            puncher.remote_firewall, puncher.firewall, remote, puncher.addresses or ()
        ):
            self._abort(HolepunchFailure.ABORTED, now)
        else:
            self._punch_round(now)

    def _punch_round(self, now: float) -> None:
        self._puncher.freeze()
        if self._puncher.is_random and not self._has_slot:
            self._has_slot = self._limiter.take(now)
            if not self._has_slot:
                self._postpone(now)
                return
        if self._puncher.is_random and not self._delayed and not self._is_client_relay_the_servers():
            self._introduce(now, then=self._punch_round)
        else:
            self._ask_to_punch(now, punching=True, then=self._answered, without_answer=self._punch_failed)

    def _is_client_relay_the_servers(self) -> bool:
        return any(relay.relay_address == self._client_relay for relay in self._relays)

    def _introduce(self, now: float, then: Callable[[float], None]) -> None:
        """With a random NAT each side wants proof of where the other one is, from a relay of its own choice. Where they have
        none in common, this round through ours proves the server's place, and the next one, through the server's, ours.
        """

        def introduced(answer: AnsweredRound) -> None:
            if not answer.payload.error:
                self._take_in(answer)
            then(answer.now)

        self._ask_to_punch(now, punching=False, then=introduced, without_answer=lambda failure, now: then(now))
        self._delayed = True

    def _postpone(self, now: float) -> None:
        """Too many random punches are running. With a blind relay there is time."""
        if not self._has_relay:
            self._abort(HolepunchFailure.ABORTED, now)
        elif self._delayed:
            self._try_later(now)
        else:
            self._introduce(now, then=self._try_later)

    def _try_later(self, now: float) -> None:
        self._wait(now + TRY_LATER_S * (1 + self._context.randomness.random()), self._punch_round)

    def _ask_to_punch(
        self,
        now: float,
        *,
        punching: bool,
        then: Callable[[AnsweredRound], None],
        without_answer: Callable[[HolepunchFailure, float], None],
    ) -> None:
        """The round goes through the relay of the handshake, later through one of the server's."""
        relay = self._relays[0] if self._delayed else RelayInfo(self._client_relay, self._server_address)
        payload = HolepunchPayload(
            firewall=self._puncher.firewall,
            round=self._next_round(),
            punching=punching,
            addresses=self._puncher.addresses,
            token=None if self._delayed else self._seal.token(self._server_address.host),
            remote_token=self._remote_token,
        )
        self._ask(relay, payload, now, then=then, without_answer=without_answer)

    def _punch_failed(self, failure: HolepunchFailure, now: float) -> None:
        """Bad luck with packets, or the relay of the handshake is gone. The server's own cannot prove where the server is,
        so they are of no use where that must be certain."""
        self._punch_rounds_left -= 1
        if not self._punch_rounds_left:
            self._fail(failure, now)
            return
        self._delayed = self._delayed or (self._punch_rounds_left == 1 and not self._puncher.is_random)
        self._punch_round(now)

    def _answered(self, answer: AnsweredRound) -> None:
        if answer.payload.error == PayloadError.TRY_LATER and self._has_relay:
            self._give_back_slot(answer.now, used=False)
            self._take_in(answer)
            self._delayed = True
            self._try_later(answer.now)
            return
        if answer.payload.error:
            self._fail(HolepunchFailure.REMOTE_ABORTED, answer.now)
            return
        self._take_in(answer)
        if not self._puncher.remote_punching:
            self._fail(HolepunchFailure.REMOTE_NOT_HOLEPUNCHING, answer.now)
        elif not self._puncher.punch(answer.now, near_port=answer.server_address.port):
            self._fail(HolepunchFailure.REMOTE_NOT_HOLEPUNCHABLE, answer.now)

    # What all rounds have in common

    def _ask(
        self,
        relay: RelayInfo,
        payload: HolepunchPayload,
        now: float,
        *,
        then: Callable[[AnsweredRound], None],
        without_answer: Callable[[HolepunchFailure, float], None],
    ) -> None:
        def failed(answered: bool, now: float) -> None:
            without_answer(HolepunchFailure.INVALID if answered else HolepunchFailure.PROBE_TIMEOUT, now)

        self._exchange.ask(relay, payload, socket=self._puncher.socket, now=now, then=then, without_answer=failed)

    def _take_in(self, answer: AnsweredRound) -> None:
        verified = answer.relay.peer_address.host if answer.echoed else None
        self._puncher.update_remote(answer.payload, verified_host=verified, named_by=self._client_relay)

    def _next_round(self) -> int:
        self._rounds += 1
        return self._rounds - 1

    def _wait(self, until: float, then: Callable[[float], None]) -> None:
        self._timer = self._context.rpc.timers.call_at(until, then)

    def _connected(self, socket: int, address: Address, now: float) -> None:
        self.cancel(now, keep=socket)
        self._on_connected(socket, address, now)

    def _abort(self, failure: HolepunchFailure, now: float) -> None:
        """Fail, and let the server know; it leaves from a main socket, as ours close."""
        payload = HolepunchPayload(error=PayloadError.ABORTED, round=self._next_round())
        self._exchange.tell(self._relays[0], payload, now=now)
        self._fail(failure, now)

    def _fail(self, failure: HolepunchFailure, now: float) -> None:
        self.cancel(now)
        self._on_failed(failure, now)

    def _give_back_slot(self, now: float, *, used: bool) -> None:
        if self._has_slot:
            self._has_slot = False
            self._limiter.give_back(now, used=used)


def _usable_relays(relays: Sequence[RelayInfo], client_relay: Address) -> list[RelayInfo]:
    """The one that both sides use comes first: it knows the server by the address that our NAT is open for."""
    usable = [relay for relay in relays if may_send_to(relay.relay_address, named_by=client_relay)]
    return sorted(usable, key=lambda relay: relay.relay_address != client_relay)
