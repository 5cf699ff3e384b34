"""Meeting a peer at a blind relay: the side that asks.

Source: blind-relay 1.6.1 `index.js`; docs/protocol/holepunching.md.
"""

from collections.abc import Callable
from dataclasses import dataclass

from ..buffers import BytesLike
from ..errors import DecodeError, LocalProtocolError
from ..rpc.timers import Timer, Timers
from .blind_relay_messages import MessageType, Pair, decode_pair, encode_pair, encode_unpair

PAIR_TIMEOUT_S = 15.0


@dataclass(slots=True, eq=False)
class _Request:
    is_initiator: bool
    on_paired: Callable[[int, float], None]
    on_failed: Callable[[float], None]
    timer: Timer


class RelayClient:
    """One peer's side of the channel to a relay; it can wait for several others at once."""

    def __init__(self) -> None:
        self.dropped = 0
        """Messages that were malformed or answered nothing."""
        self._requests: dict[bytes, _Request] = {}
        self._timers = Timers()
        self._outgoing: list[tuple[int, bytes]] = []

    @property
    def waiting(self) -> int:
        """How many requests are open."""
        return len(self._requests)

    def pair(
        self,
        token: bytes,
        *,
        is_initiator: bool,
        stream_id: int,
        now: float,
        on_paired: Callable[[int, float], None],
        on_failed: Callable[[float], None],
    ) -> None:
        """Wait for the other peer, 15 s at most.

        Args:
            stream_id: Of our own stream.
            on_paired: Called as on_paired(remote stream id, now). Bind the stream to the address of the relay's connection.
            on_failed: Called as on_failed(now).
        Raises:
            LocalProtocolError: A request with this token is open.
        """
        if token in self._requests:
            raise LocalProtocolError("a request with this token is open already")
        timer = self._timers.call_at(now + PAIR_TIMEOUT_S, lambda now: self._fail(token, now))
        self._requests[token] = _Request(is_initiator, on_paired, on_failed, timer)
        self._outgoing.append((MessageType.PAIR, encode_pair(Pair(is_initiator, token, stream_id))))

    def unpair(self, token: bytes) -> None:
        """Stop waiting, or have the relay close what was paired. Neither callback is called for it any more."""
        request = self._requests.pop(token, None)
        if request is not None:
            request.timer.cancel()
        self._outgoing.append((MessageType.UNPAIR, encode_unpair(token)))

    def receive(self, kind: int, body: BytesLike, now: float) -> None:
        """A message of the relay. What is malformed or was not asked for is counted and dropped."""
        try:
            pair = decode_pair(body) if kind == MessageType.PAIR else None
        except DecodeError:
            pair = None
        request = None if pair is None else self._requests.get(pair.token)
        if pair is None or request is None or request.is_initiator != pair.is_initiator:
            self.dropped += 1
            return
        del self._requests[pair.token]
        request.timer.cancel()
        request.on_paired(pair.stream_id, now)

    def close(self, now: float) -> None:
        """The channel or its connection is closed: everybody who still waits has failed."""
        for token in list(self._requests):
            self._fail(token, now)

    def messages_to_send(self) -> list[tuple[int, bytes]]:
        """Type and body of what is to be sent now, each once."""
        outgoing, self._outgoing = self._outgoing, []
        return outgoing

    def next_timer(self) -> float | None:
        """When to call `handle_timer`."""
        return self._timers.next_timer()

    def handle_timer(self, *, now: float) -> None:
        """The time of `next_timer` has come."""
        self._timers.handle_timer(now=now)

    def _fail(self, token: bytes, now: float) -> None:
        request = self._requests.pop(token, None)
        if request is not None:
            request.timer.cancel()
            request.on_failed(now)
