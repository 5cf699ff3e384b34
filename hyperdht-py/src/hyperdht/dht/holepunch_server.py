"""The rounds of hole punching, at the side that was called.

Source: hyperdht 6.34.0 `lib/server.js`; docs/protocol/holepunching.md.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from ..addresses import Address
from ..crypto import equal
from ..rpc.events import RequestReceived
from .constants import Firewall, PayloadError
from .context import Context
from .holepunch_client import PunchHook
from .holepunch_messages import HolepunchPayload, HolepunchSeal
from .payloads import HolepunchMessage
from .puncher import Puncher, is_random
from .random_punches import RandomPunchLimiter
from .reachable import may_send_to
from .router import answer_holepunch

if TYPE_CHECKING:
    from ..rpc.timers import Timer

FIRST_ROUND_S = 10.0
RETRY_S = 60.0  # who is to try later comes back after 10 to 20 s, and may have to wait for others again
MAX_WAITING = 8  # messages held until our NAT is classified: a client sends one at a time, each up to four times
MAX_FAST_PROBES = 16  # the address comes from whoever says to be a relay, so it may be anybody's


@dataclass(frozen=True, slots=True)
class _Asked:
    """One message of the client, and how its answer finds back."""

    payload: HolepunchPayload
    client_address: Address
    message: HolepunchMessage
    received: RequestReceived
    is_own_relay: bool


class HolepunchServer:
    """One client that shook hands through relays and may want to punch. Opens its socket and looks at the NAT at once.

    The server learns that a hole is open from the first packet of the stream (the hook given to `Streams.reserve`), and
    then calls `close`. If the client does not begin within 10 s, or punching fails, `on_aborted(now)` is called once, with
    all sockets closed; later messages are still answered, with an error. It is not called from inside the constructor, and
    not after `close`.
    """

    def __init__(
        self,
        context: Context,
        *,
        secret: bytes,
        client_address: Address,
        client_firewall: int,
        is_own_relay: Callable[[Address], bool],
        limiter: RandomPunchLimiter,
        has_relay: bool = False,
        hook: PunchHook | None = None,
        now: float,
        on_aborted: Callable[[float], None],
    ) -> None:
        """
        Args:
            secret: The hole punch secret of the handshake, 32 bytes.
            client_address: Where the relay of the handshake sees the client (`peer_address` of its message).
            client_firewall: The `firewall` of the client's noise payload.
            is_own_relay: Whether we announced through a node lately: such a node is believed about the client's address.
            limiter: The node's.
            has_relay: Whether a blind relay carries the connection meanwhile: then too many punches are no reason to end.
        Raises:
            OSError: No socket to punch with.
        """
        self.dropped = 0
        """Messages that the client cannot have written, and those beyond what it may have open."""
        self._context = context
        self._seal = HolepunchSeal(secret, context.randomness)
        self._is_own_relay = is_own_relay
        self._limiter = limiter
        self._has_relay = has_relay
        self._hook = hook
        self._on_aborted = on_aborted
        self._round = 0
        self._waiting = 0
        self._fast_probes = 0
        self._has_slot = False
        self._aborted = False
        self._over = False
        self._puncher = Puncher(
            context, remote_firewall=client_firewall, now=now, on_connected=None, on_exhausted=self._abort
        )
        self._puncher.expect(client_address.host)
        self._timer: Timer = context.rpc.timers.call_at(now + FIRST_ROUND_S, self._abort)

    @property
    def socket(self) -> int:
        """Answer the handshake from here (FROM_SERVER), so that the relay tells the client this socket's address."""
        return self._context.rpc.endpoint.main_socket if self._over else self._puncher.socket

    @property
    def sockets(self) -> tuple[int, ...]:
        """All that are open."""
        return self._puncher.sockets

    @property
    def dropped_probes(self) -> int:
        """Probes beyond the number that is echoed."""
        return self._puncher.dropped

    def receive(self, message: HolepunchMessage, received: RequestReceived, now: float) -> None:
        """A PEER_HOLEPUNCH with mode FROM_RELAY and the id of this handshake arrived in `received`.

        Answers by itself (FROM_SERVER, to the relay, from `socket`), perhaps later; never if the payload is forged.
        """
        payload = self._seal.open(message.payload)
        if payload is None or message.peer_address is None or self._waiting >= MAX_WAITING:
            self.dropped += 1
            return
        asked = _Asked(payload, message.peer_address, message, received, self._is_own_relay(received.sender))
        if self._over:
            if self._aborted:
                self._refuse(asked, PayloadError.ABORTED, now)
            return
        if payload.error:
            self._round = max(self._round, payload.round)
            self._refuse(asked, PayloadError.ABORTED, now)
            return
        if received.socket == self._puncher.socket:
            self._puncher.add_sample(received.request.to, by=received.sender, now=now)
        if payload.round >= self._round:
            self._round = payload.round
            self._take_in(asked)
        self._puncher.expect(message.peer_address.host)
        if self._has_relay and not self._puncher.punching:
            self._wait_for_retry(now)
        self._waiting += 1
        self._puncher.analyze(now, partial(self._analyzed, asked), allow_reopen=not self._puncher.remote_punching)

    def receive_probe(self, socket: int, sender: Address, now: float) -> bool:
        """A datagram of one byte arrived. Returns whether it came to a socket of this session."""
        return self._puncher.receive_probe(socket, sender, now)

    def close(self, now: float, *, keep: int | None = None) -> None:
        """Stop, and close all sockets but `keep`, which then is the caller's: the stream came through on it.

        May be called at any time, also when everything is over.
        """
        if self._over:
            return
        self._over = True
        self._timer.cancel()
        self._waiting = 0
        if self._has_slot:
            self._has_slot = False
            self._limiter.give_back(now, used=self._puncher.punching)
        self._puncher.close(keep=keep)

    def _take_in(self, asked: _Asked) -> None:
        """Only our own relays vouch for the client's address, so only what comes through them can prove that it is there."""
        token, sent_back = self._seal.token(asked.client_address.host), asked.payload.remote_token
        echoed = asked.is_own_relay and sent_back is not None and equal(token, sent_back)
        verified = asked.client_address.host if echoed else None
        self._puncher.update_remote(asked.payload, verified_host=verified, named_by=asked.received.sender)

    def _analyzed(self, asked: _Asked, usable: bool, now: float) -> None:
        self._waiting -= 1
        puncher = self._puncher
        if not usable and not puncher.remote_punching:
            self._refuse(asked, PayloadError.ABORTED, now)
            return
        self._probe_at_once(asked)
        if puncher.remote_punching and not puncher.punching:
            error = self._start_punching(asked, now)
            if error and not (error == PayloadError.TRY_LATER and self._has_relay):
                self._refuse(asked, error, now)
                return
            self._answer(asked, error)
        else:
            self._answer(asked, PayloadError.NONE)

    def _probe_at_once(self, asked: _Asked) -> None:
        """Fast mode: the client opened its NAT for an address of ours, so one probe from there gets through."""
        puncher = self._puncher
        if is_random(puncher.firewall) or asked.payload.remote_address not in (puncher.addresses or ()):
            return
        if self._fast_probes < MAX_FAST_PROBES and may_send_to(asked.client_address, named_by=asked.received.sender):
            self._fast_probes += 1
            puncher.probe(asked.client_address)

    def _start_punching(self, asked: _Asked, now: float) -> PayloadError:
        """The client punches, or is about to."""
        puncher = self._puncher
        remote = tuple(target.address for target in puncher.targets)
        if self._hook is not None and not self._hook(
            puncher.remote_firewall, puncher.firewall, remote, puncher.addresses or ()
        ):
            return PayloadError.ABORTED
        if puncher.is_random:
            self._has_slot = self._limiter.take(now)
            if not self._has_slot:
                return PayloadError.TRY_LATER
        if not puncher.punch(now, near_port=asked.client_address.port):
            return PayloadError.ABORTED
        self._timer.cancel()
        return PayloadError.NONE

    def _wait_for_retry(self, now: float) -> None:
        """While the connection runs through a blind relay the client may take its time."""
        self._timer.cancel()
        self._timer = self._context.rpc.timers.call_at(now + RETRY_S, self._abort)

    def _answer(self, asked: _Asked, error: PayloadError) -> None:
        puncher = self._puncher
        payload = HolepunchPayload(
            error=error,
            firewall=puncher.firewall,
            round=self._round,
            punching=puncher.punching,
            addresses=puncher.addresses,
            token=self._seal.token(asked.client_address.host) if asked.is_own_relay else None,
            remote_token=asked.payload.token,
        )
        if puncher.firewall != Firewall.UNKNOWN:
            puncher.freeze()
        self._send(asked, payload, puncher.socket)

    def _refuse(self, asked: _Asked, error: PayloadError, now: float) -> None:
        """Answer with an error and end, if that was not done before."""
        self._send(asked, HolepunchPayload(error=error, round=self._round), self._context.rpc.endpoint.main_socket)
        self._abort(now)

    def _send(self, asked: _Asked, payload: HolepunchPayload, socket: int) -> None:
        answer_holepunch(self._context.rpc, asked.message, asked.received, self._seal.seal(payload), socket=socket)

    def _abort(self, now: float) -> None:
        if self._over:
            return
        self.close(now)
        self._aborted = True
        self._on_aborted(now)
