"""One round of hole punching as a request: sealed, through a relay, with an answer only the server can have written.

Source: hyperdht 6.34.0 `lib/connect.js` and `lib/router.js`; docs/protocol/holepunching.md.
"""

from collections.abc import Callable
from dataclasses import dataclass

from ..addresses import Address
from ..crypto import equal
from ..errors import DecodeError
from ..rpc.caller import Answer
from ..rpc.node import RpcNode
from .constants import Command
from .holepunch_messages import HolepunchPayload, HolepunchSeal
from .payloads import HolepunchMessage, Mode, RelayInfo, decode_holepunch, encode_holepunch


@dataclass(frozen=True, slots=True)
class AnsweredRound:
    """The server's answer to one round."""

    payload: HolepunchPayload
    echoed: bool
    """It received what we sent to its address."""
    relay: RelayInfo
    server_address: Address
    """Where the relay saw the answer come from."""
    client_address: Address
    """Where the relay sees our socket."""
    now: float


class HolepunchExchange:
    """The client's requests to one server, one at a time."""

    def __init__(self, rpc: RpcNode, seal: HolepunchSeal, *, target: bytes, remote_id: int) -> None:
        """
        Args:
            target: The hash of the server's public key.
            remote_id: The server's number of the handshake.
        """
        self.dropped = 0
        """Answers that the server cannot have written."""
        self._rpc = rpc
        self._seal = seal
        self._target = target
        self._remote_id = remote_id
        self._request: int | None = None

    def ask(
        self,
        relay: RelayInfo,
        payload: HolepunchPayload,
        *,
        socket: int,
        now: float,
        then: Callable[[AnsweredRound], None],
        without_answer: Callable[[bool, float], None],
    ) -> None:
        """Send one round.

        Args:
            without_answer: Called as without_answer(invalid, now) when nobody answered in time, or somebody else did.
        """

        def answered(answer: Answer) -> None:
            self._request = None
            if answer.reply is None:
                without_answer(False, answer.now)
                return
            answered_round = self._read(answer, relay, payload.token)
            if answered_round is None:
                self.dropped += 1
                without_answer(True, answer.now)
            else:
                then(answered_round)

        value = self._message(relay, payload)
        self._request = self._rpc.request(
            relay.relay_address,
            Command.PEER_HOLEPUNCH,
            target=self._target,
            value=value,
            socket=socket,
            now=now,
            then=answered,
        )

    def tell(self, relay: RelayInfo, payload: HolepunchPayload, *, now: float) -> None:
        """Send one round whose answer does not matter. It leaves from a main socket."""
        value = self._message(relay, payload)
        self._rpc.request(relay.relay_address, Command.PEER_HOLEPUNCH, target=self._target, value=value, now=now)

    def cancel(self) -> None:
        """The callbacks of an open request are not called."""
        if self._request is not None:
            self._rpc.cancel(self._request)
            self._request = None

    def _message(self, relay: RelayInfo, payload: HolepunchPayload) -> bytes:
        sealed = self._seal.seal(payload)
        return encode_holepunch(HolepunchMessage(Mode.FROM_CLIENT, self._remote_id, sealed, relay.peer_address))

    def _read(self, answer: Answer, relay: RelayInfo, token: bytes | None) -> AnsweredRound | None:
        """What the server says; None if it is not the server who says it."""
        if answer.reply is None or answer.reply.value is None or answer.sender != relay.relay_address:
            return None
        try:
            message = decode_holepunch(answer.reply.value)
        except DecodeError:
            return None
        payload = self._seal.open(message.payload) if message.mode == Mode.REPLY else None
        if payload is None:
            return None
        echoed = token is not None and payload.remote_token is not None and equal(token, payload.remote_token)
        server_address = relay.relay_address if message.peer_address is None else message.peer_address
        return AnsweredRound(payload, echoed, relay, server_address, answer.reply.to, answer.now)
