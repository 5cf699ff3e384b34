"""The one place where catalogues change: statements are verified, placed, and written to the journal, in that order.

Peers' statements wait in one queue; our own and "we hold it now" take their turn between two of its batches. Nobody is
told of a change before the journal has it.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio

from ollama_bridge.digests import Digest
from sidecar.catalogue.catalogue import Outcome, Status
from sidecar.catalogue.entry import SignedEntry
from sidecar.catalogue.envelope import StatementKind
from sidecar.catalogue.rows import Standing
from sidecar.errors import EntryInvalid, EntryKindUnknown, SignatureInvalid
from sidecar.trust.signatures import verify_statement

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable, Iterable

    from sidecar.catalogue.catalogue import Catalogue, Placement
    from sidecar.catalogue.journal import Journal
    from sidecar.catalogue.journal_thread import JournalThread
    from sidecar.catalogue.withdrawal import Statement
    from sidecar.transfer.provide import Provider
    from sidecar.trust.keyring import Keyring

    from .link import RoomLink
    from .messages import RawStatement

log = logging.getLogger(__name__)

MAX_WAITING = 1024
"""Statements waiting for their signature check, over all peers; then reading stops until they are done."""
VERIFY_AT_ONCE = 64
"""Signature checks between two looks at everything else: about five milliseconds."""


@dataclass(frozen=True, slots=True)
class Placed:
    """A statement of a peer that changed the catalogue."""

    outcome: Outcome
    held: bool
    """Whether we hold its blobs."""
    origin: RoomLink


class Statements:
    """See the module docstring."""

    def __init__(
        self,
        *,
        catalogue: Catalogue,
        journal: JournalThread,
        keyring: Keyring,
        provider: Provider,
        bad_input: Counter[str],
        forged: Callable[[RoomLink], None],
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """
        Args:
            bad_input: Counts what is refused, by kind.
            forged: Told who brought a statement that does not verify.
        """
        self._catalogue = catalogue
        self._journal = journal
        self._keyring = keyring
        self._provider = provider
        self._bad_input = bad_input
        self._forged = forged
        self._wall_clock = wall_clock
        self._waiting: deque[tuple[RoomLink, RawStatement]] = deque()
        self._arrived = anyio.Event()
        self._worked_off = anyio.Event()
        self._turn = anyio.Lock()

    def add(self, link: RoomLink, statements: Iterable[RawStatement]) -> None:
        """Queue what a peer sent."""
        self._waiting.extend((link, statement) for statement in statements)
        self._arrived.set()

    async def breathe(self) -> None:
        """Wait while the queue is long."""
        while len(self._waiting) > MAX_WAITING:
            await self._worked_off.wait()

    async def run(self, told: Callable[[list[Placed]], None]) -> None:
        """Work the queue off until cancelled; `told` hears of each batch once it is in the journal."""
        while True:
            while not self._waiting:
                self._arrived = anyio.Event()
                await self._arrived.wait()
            batch = [self._waiting.popleft() for _ in range(min(VERIFY_AT_ONCE, len(self._waiting)))]
            async with self._turn:
                placed = [found for link, raw in batch if (found := self._place(link, raw)) is not None]
                if placed:
                    await self._write(placed)
            told(placed)
            self._worked_off.set()
            self._worked_off = anyio.Event()

    async def place_own(self, room_id: bytes, statement: Statement, *, held: bool) -> Outcome:
        """Put a statement of our own into a room."""
        async with self._turn:
            outcome = self._catalogue.put(room_id, statement, now=self._wall_clock(), held=held)
            await self._journal.run(lambda journal: journal.record([outcome], held=held))
        return outcome

    async def set_held(self, digest: Digest, held: bool) -> tuple[tuple[Placement, SignedEntry], ...]:
        """Note that we hold a blob whole now, or no longer; the entries whose offer changed."""
        async with self._turn:
            changed = self._catalogue.set_held(str(digest), held)
            rows = [(place.room_id, place.sequence, entry.id) for place, entry in changed]
            await self._journal.run(lambda journal: journal.set_held(rows, held))
        return changed

    async def forget_expired(self) -> None:
        """Drop entries whose publisher said they end, here and in the journal. Peers drop theirs by the same rule."""
        async with self._turn:
            expired = self._catalogue.prune_expired(self._wall_clock())
            if expired:
                await self._note(lambda journal: journal.remove_statements([entry.id for entry in expired]))

    def _place(self, link: RoomLink, raw: RawStatement) -> Placed | None:
        if link.room_id not in self._catalogue.rooms():
            return None  # left meanwhile
        if self._catalogue.get(link.room_id, raw.short_id) is not None:
            return None  # another member was faster; the id stands for every byte of it, signature included
        try:
            statement = verify_statement(StatementKind(raw.kind), raw.raw, raw.publisher, raw.signature)
        except EntryKindUnknown as error:  # signed well: who forwards what newer versions make is no liar
            self._bad_input["entry-kind"] += 1
            log.info("entry refused: %s", error)
            return None
        except (SignatureInvalid, EntryInvalid, ValueError) as error:
            self._bad_input["entry"] += 1
            log.warning("peer %s sent an entry that is refused: %s", link.peer_key.hex()[:12], error)
            self._forged(link)
            return None
        if self._keyring.standing(statement.publisher) is Standing.BLOCKED:
            return None
        held = isinstance(statement, SignedEntry) and self._holds(statement)
        outcome = self._catalogue.put(link.room_id, statement, now=self._wall_clock(), held=held)
        if outcome.status in (Status.OLDER, Status.CONFLICT, Status.FULL):
            self._bad_input[f"entry-{outcome.status.value}"] += 1
            log.info("entry refused: %s", outcome.reason)
        return Placed(outcome, held, link) if outcome.changed else None

    async def _write(self, placed: list[Placed]) -> None:
        now = self._wall_clock()
        publishers = {each.outcome.statement.publisher for each in placed}

        def work(journal: Journal) -> None:
            for publisher in publishers:
                self._keyring.see(publisher, now)
            for held in (True, False):
                journal.record([each.outcome for each in placed if each.held == held], held=held)

        await self._note(work)

    async def _note(self, work: Callable[[Journal], None]) -> None:
        """Write what peers can tell us again after a restart: a full disk must not end the daemon."""
        try:
            await self._journal.run(work)
        except sqlite3.Error as error:
            log.error("entries could not be written to the journal: %s", error)

    def _holds(self, entry: SignedEntry) -> bool:
        held = (self._provider.blob(Digest.parse(blob.digest)) for blob in entry.entry.blobs)
        return all(blob is not None and blob.have is None for blob in held)
