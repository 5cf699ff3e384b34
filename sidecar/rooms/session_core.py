"""What every part of a room session stands on: the proof, the state, events out, messages out at their pace."""

from __future__ import annotations

from collections import deque
from enum import Enum
from typing import TYPE_CHECKING

from hyperdht.crypto import equal
from hyperdht.errors import DecodeError, LocalProtocolError
from sidecar.catalogue.limits import (
    CATALOGUE_BURST,
    CATALOGUE_MESSAGES_PER_S,
    SENDING_BURST,
    SENDING_PER_S,
    TokenBucket,
)

from . import session_events as events
from .messages import VERSION, Goodbye, GoodbyeReason, Message, MessageType, OpenHandshake, encode

if TYPE_CHECKING:
    from hyperdht.buffers import Body, BytesLike

MAX_VIOLATIONS = 8
"""Unasked-for messages before the channel is closed: a faulty peer should show up in the log, not fill it."""

UNPACED = frozenset(
    {MessageType.TABLE, MessageType.REQUEST_CHUNKS, MessageType.CHUNKS, MessageType.CANCEL, MessageType.REFUSE}
    | {MessageType.GOODBYE}
)
"""Bounded by what was asked for, not by a rate."""

Outgoing = tuple[int, "Body"]


class State(Enum):
    """Where the session is."""

    OPENING = "opening"
    """The other side's proof has not come."""
    OPEN = "open"
    CLOSED = "closed"


class SessionCore:
    """See the module docstring; `RoomSession` is the whole."""

    def __init__(self, *, proof: bytes, expected_proof: bytes) -> None:
        self._proof = proof
        self._expected_proof = expected_proof
        self.state = State.OPENING
        self.violations = 0
        """Unasked-for messages so far."""
        self._events: deque[events.SessionEvent] = deque()
        self._catalogue_lane: deque[tuple[int, bytes, float]] = deque()
        self._data_lane: deque[Outgoing] = deque()
        self._incoming = TokenBucket(CATALOGUE_MESSAGES_PER_S, CATALOGUE_BURST, 0.0)
        self._outgoing = TokenBucket(SENDING_PER_S, SENDING_BURST, 0.0)

    def open_handshake(self) -> bytes:
        """What to pass to `Channel.open`."""
        return OpenHandshake(VERSION, self._proof).encode()

    def opened(self, handshake: BytesLike, now: float) -> None:
        """The channel is open on both sides; `handshake` is the peer's. Judges its proof."""
        if self.state is not State.OPENING:
            raise LocalProtocolError("a room session is opened once")
        try:
            remote = OpenHandshake.decode(handshake)
        except DecodeError:
            self._end(events.ProofFailed())
            return
        if remote.version != VERSION:
            self._end(events.VersionUnsupported(remote.version), GoodbyeReason.VERSION)
        elif not equal(remote.proof, self._expected_proof):
            self._end(events.ProofFailed())
        else:
            self.state = State.OPEN
            self._incoming = TokenBucket(CATALOGUE_MESSAGES_PER_S, CATALOGUE_BURST, now)
            self._outgoing = TokenBucket(SENDING_PER_S, SENDING_BURST, now)
            self._events.append(events.MembershipProved())

    def closed(self) -> None:
        """The channel is closed; nothing more comes or goes."""
        self.state = State.CLOSED
        self._catalogue_lane.clear()
        self._data_lane.clear()

    def next_event(self) -> events.SessionEvent | None:
        """What happened, oldest first; None when there is no more."""
        return self._events.popleft() if self._events else None

    @property
    def has_messages(self) -> bool:
        """Whether there is something to send, now or when its time has come."""
        return bool(self._data_lane or self._catalogue_lane)

    def messages_to_send(self, now: float) -> list[Outgoing]:
        """Type and body of the messages that may go now, in order; each is handed out once."""
        ready: list[Outgoing] = []
        while self._catalogue_lane and self._outgoing.take(now, self._catalogue_lane[0][2]):
            message_type, body, _ = self._catalogue_lane.popleft()
            ready.append((message_type, body))
        ready += self._data_lane
        self._data_lane.clear()
        return ready

    def next_timer(self) -> float | None:
        """When held-back messages may go, on the owner's clock; None if there are none."""
        return self._outgoing.ready_at(self._catalogue_lane[0][2]) if self._catalogue_lane else None

    def goodbye(self, reason: GoodbyeReason) -> None:
        """Say the last word; what is not sent yet is dropped. Then close the channel."""
        if self.state is not State.CLOSED:
            self.closed()
            self._data_lane.append((MessageType.GOODBYE, encode(Goodbye(reason))))

    def _expect(self, asked: bool, what: str, event: events.SessionEvent) -> None:
        if asked:
            self._events.append(event)
        else:
            self._unasked(what)

    def _unasked(self, what: str) -> None:
        self.violations += 1
        if self.violations >= MAX_VIOLATIONS:
            self._fail(f"{what} that nobody asked for, {self.violations} times")

    def _fail(self, reason: str) -> None:
        self._end(events.ProtocolViolation(reason), GoodbyeReason.VIOLATION)

    def _end(self, event: events.SessionEvent, goodbye: GoodbyeReason | None = None) -> None:
        self._events.append(event)
        self.closed()
        if goodbye is not None:
            self._data_lane.append((MessageType.GOODBYE, encode(Goodbye(goodbye))))

    def _send(self, message: Message, cost: float = 1.0) -> None:
        if self.state is State.OPENING:
            raise LocalProtocolError("nothing may be sent before the peer has proved membership")
        if self.state is State.CLOSED:
            return
        if message.TYPE in UNPACED:
            self._data_lane.append((message.TYPE, encode(message)))
        else:
            self._catalogue_lane.append((message.TYPE, encode(message), cost))
