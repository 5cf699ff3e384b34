"""Where two peers are in telling each other what changed in their catalogues: positions, pages, wanted ids."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from .messages import EPOCH_BYTES, MAX_WANTED, Since, Want

if TYPE_CHECKING:
    from .messages import Offers, RawStatement

Position = tuple[bytes, int]
"""Epoch and sequence in the other side's numbering."""

START: Position = (bytes(EPOCH_BYTES), 0)


class ReceivingSync:
    """What we learn of the peer's catalogue."""

    def __init__(self) -> None:
        self._latest = START
        self._settled = START
        self._asking = False
        self._caught_up = False
        self._wanted: set[bytes] = set()
        self._to_want: deque[bytes] = deque()
        self._queued: set[bytes] = set()

    @property
    def position(self) -> Position:
        """Up to where everything the peer offered and we wanted has come: where to go on after a reconnect."""
        return self._settled if self._queued else self._latest

    def ask(self, position: Position) -> Since:
        """The first question after the proofs."""
        self._latest = self._settled = position
        self._asking = True
        return Since(*position)

    def offers(self, message: Offers) -> Since | None:
        """Take a page in; returns the question for the next page.

        Raises:
            ValueError: An answer nobody asked for, or a push before the answers were complete.
        """
        if message.answer != self._asking or not (message.answer or self._caught_up):
            raise ValueError("offers that answer nothing")
        if not self._queued:
            self._settled = self._latest
        self._latest = (message.epoch, message.sequence)
        if message.answer:
            self._asking = message.more
            self._caught_up = not message.more
        return Since(*self._latest) if message.more and message.answer else None

    def want(self, short_ids: tuple[bytes, ...]) -> None:
        """Plan to ask for statements."""
        for short_id in short_ids:
            if short_id not in self._queued:
                self._queued.add(short_id)
                self._to_want.append(short_id)

    def next_want(self) -> Want | None:
        """The ids to ask for now: many at a time, because each question is one message of our pace."""
        room = MAX_WANTED - len(self._wanted)
        if not self._to_want or room < MAX_WANTED // 2:
            return None
        ids = tuple(self._to_want.popleft() for _ in range(min(room, len(self._to_want))))
        self._wanted.update(ids)
        return Want(ids)

    def arrived(self, short_id: bytes) -> bool:
        """Note that an id was answered; False if it was not asked for."""
        if short_id not in self._wanted:
            return False
        self._wanted.discard(short_id)
        self._queued.discard(short_id)
        return True


class SendingSync:
    """What the peer learns of our catalogue."""

    def __init__(self) -> None:
        self.asked = False
        """A question is waiting for its answer."""
        self.caught_up = False
        """The peer has had everything up to now, so changes are pushed."""
        self._wanted: set[bytes] = set()

    def since(self) -> bool:
        """Take a question in; False if one is waiting already."""
        if self.asked:
            return False
        self.asked, self.caught_up = True, False
        return True

    def answered(self, *, more: bool) -> None:
        """The question was answered."""
        self.asked, self.caught_up = False, not more

    def wanted(self, short_ids: tuple[bytes, ...]) -> bool:
        """Take ids in; False if too many are unanswered or one is there twice."""
        before = len(self._wanted)
        self._wanted.update(short_ids)
        return len(self._wanted) == before + len(short_ids) <= MAX_WANTED

    def sent(self, statements: tuple[RawStatement, ...]) -> int:
        """Note statements that go out; returns how many of them nobody asked for."""
        before = len(self._wanted)
        self._wanted.difference_update(statement.short_id for statement in statements)
        return len(statements) - (before - len(self._wanted))

    def refused(self, short_id: bytes) -> bool:
        """Note a refusal that goes out; False if the id was not asked for."""
        if short_id not in self._wanted:
            return False
        self._wanted.discard(short_id)
        return True
