"""The part of a room session that tells what each side offers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hyperdht.errors import LocalProtocolError

from . import session_events as events
from .catalogue_sync import START, Position, ReceivingSync, SendingSync
from .messages import (
    MAX_BODY_BYTES,
    MAX_ENTRIES,
    MAX_OFFERS,
    Entries,
    Offer,
    Offers,
    RawStatement,
    Refuse,
    RefuseReason,
    RefuseSubject,
    Since,
    Want,
)
from .session_core import SessionCore, State

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sidecar.catalogue.withdrawal import Statement


class CatalogueSession(SessionCore):
    """Questions for changes, offers, wanted and pushed entries."""

    def __init__(self, *, proof: bytes, expected_proof: bytes) -> None:
        super().__init__(proof=proof, expected_proof=expected_proof)
        self._receiving = ReceivingSync()
        self._sending = SendingSync()

    @property
    def position(self) -> Position:
        """Where in the peer's changes we are, for `ask_since` of a later session. Read it with all events drained."""
        return self._receiving.position

    @property
    def pushes(self) -> bool:
        """Whether the peer has caught up with our changes, so that `offer` sends."""
        return self._sending.caught_up

    def ask_since(self, position: Position = START) -> None:
        """Ask for the peer's changes; once, right after MembershipProved."""
        self._send(self._receiving.ask(position))

    def answer_since(self, epoch: bytes, sequence: int, offers: Iterable[Offer], *, more: bool) -> None:
        """Answer ChangesAsked with a page of at most 1,024 offers.

        Args:
            sequence: Our position after this page.
            more: Whether the peer should ask again.
        """
        if self.state is State.OPEN and not self._sending.asked:
            raise LocalProtocolError("an answer to no question")
        self._sending.answered(more=more)
        self._send(Offers(epoch, sequence, more, True, _page(offers)))

    def offer(self, epoch: bytes, sequence: int, offers: Iterable[Offer]) -> bool:
        """Tell of changes as they happen. False if the peer has not caught up; it will ask for them itself."""
        if not self._sending.caught_up:
            return False
        self._send(Offers(epoch, sequence, False, False, _page(offers)))
        return True

    def want(self, short_ids: Iterable[bytes]) -> None:
        """Ask for statements by 16-byte id; asked in portions, each id once."""
        self._receiving.want(tuple(short_ids))
        self._ask_wanted()

    def send_entries(self, statements: Iterable[Statement]) -> None:
        """Send statements: wanted ones, or a new one of our own at once."""
        batch: list[RawStatement] = []
        size = 9
        for statement in statements:
            raw = RawStatement(statement.kind, statement.publisher, statement.signature, statement.raw)
            if batch and (size + raw.size > MAX_BODY_BYTES or len(batch) == MAX_ENTRIES):
                self._send_batch(tuple(batch))
                batch, size = [], 9
            batch.append(raw)
            size += raw.size
        if batch:
            self._send_batch(tuple(batch))

    def refuse_entries(self, short_ids: Iterable[bytes]) -> None:
        """Tell the peer that statements it wanted are gone."""
        for short_id in short_ids:
            if self._sending.refused(short_id):
                self._send(Refuse(RefuseSubject.ENTRY, RefuseReason.NOT_HERE, short_id=short_id))

    def _handle_since(self, message: Since) -> None:
        position = events.ChangesAsked(message.epoch, message.sequence)
        self._expect(self._sending.since(), "a second question", position)

    def _handle_want(self, message: Want) -> None:
        if self._sending.wanted(message.short_ids):
            self._events.append(events.EntriesWanted(message.short_ids))
        else:
            self._fail("more wanted entries than allowed")

    def _handle_offers(self, message: Offers) -> None:
        try:
            next_page = self._receiving.offers(message)
        except ValueError:
            self._unasked("offers")
            return
        self._events.append(events.OffersReceived(message.offers, message.more))
        if next_page is not None:
            self._send(next_page)

    def _handle_entries(self, statements: tuple[RawStatement, ...], now: float) -> None:
        pushed = sum(not self._receiving.arrived(statement.short_id) for statement in statements)
        if pushed and not self._incoming.take(now, pushed):
            self._fail("more pushed entries than allowed")
            return
        self._events.append(events.EntriesReceived(statements))
        self._ask_wanted()

    def _handle_refused_entry(self, message: Refuse) -> None:
        asked = self._receiving.arrived(message.short_id)
        self._expect(asked, "a refusal", events.EntriesRefused(message.short_id))
        self._ask_wanted()

    def _send_batch(self, statements: tuple[RawStatement, ...]) -> None:
        self._send(Entries(statements), 1.0 + self._sending.sent(statements))

    def _ask_wanted(self) -> None:
        while (message := self._receiving.next_want()) is not None:
            self._send(message)


def _page(offers: Iterable[Offer]) -> tuple[Offer, ...]:
    page = tuple(offers)
    if len(page) > MAX_OFFERS:
        raise LocalProtocolError(f"{len(page)} offers in one message")
    return page
