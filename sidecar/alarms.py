"""Tells what a user must hear of without asking: a known name under another key, an installed adapter taken back."""

from __future__ import annotations

import logging
import sqlite3
from typing import TYPE_CHECKING

from .catalogue.block_list import BLOCK_LIST_NAME, SignedBlockList
from .catalogue.entry import SignedEntry
from .catalogue.withdrawal import SignedWithdrawal
from .events import BlockListChanged, EntryAdded, EntryWithdrawn, InstallWithdrawn, TrustAlarm
from .trust.warnings import warnings_about

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from .bus import EventBus
    from .catalogue.catalogue import Catalogue
    from .catalogue.journal import Journal
    from .catalogue.journal_thread import JournalThread
    from .catalogue.rows import InstallRow
    from .events import Event
    from .trust.keyring import Keyring
    from .trust.pins import Pins

log = logging.getLogger(__name__)


def withdrawn_installs(installs: Iterable[InstallRow], catalogue: Catalogue) -> list[InstallRow]:
    """Installs whose publisher took the adapter back since, by what the rooms know now."""
    return [row for row in installs if row.adapter and _is_withdrawn(row, catalogue)]


def _is_withdrawn(row: InstallRow, catalogue: Catalogue) -> bool:
    stands = [catalogue.find(room_id, row.publisher, row.adapter) for room_id in catalogue.rooms()]
    return any(isinstance(each, SignedWithdrawal) and each.version > row.version for each in stands)


class Alarms:
    """Listens to what happens in rooms."""

    def __init__(
        self,
        *,
        bus: EventBus,
        catalogue: Catalogue,
        journal: JournalThread,
        keyring: Keyring,
        pins: Pins,
        own_key: bytes,
        blocked: Callable[[Iterable[bytes]], Awaitable[None]],
    ) -> None:
        """
        Args:
            blocked: Told the keys that a list names, once it counts.
        """
        self._bus = bus
        self._catalogue = catalogue
        self._journal = journal
        self._keyring = keyring
        self._pins = pins
        self._own_key = own_key
        self._blocked = blocked

    async def run(self) -> None:
        """Work until cancelled."""
        async with self._bus.subscribe() as events:
            async for numbered in events:
                try:
                    await self._heard(numbered.event)
                except sqlite3.Error as error:  # a full disk must not end the daemon
                    log.error("what followed from %s could not be noted: %s", numbered.event.name, error)

    async def _heard(self, event: Event) -> None:
        match event:
            case EntryAdded():
                self._look_at(event)
            case BlockListChanged():
                await self.look_at_list(bytes.fromhex(event.publisher))
            case EntryWithdrawn():
                await self._taken_back(event)

    async def look_at_list(self, publisher: bytes) -> None:
        """Take in what a followed block list says in our rooms now, and part with whom it names."""
        for room_id in self._catalogue.rooms():
            found = self._catalogue.find(room_id, publisher, BLOCK_LIST_NAME)
            if isinstance(found, SignedBlockList):
                await self._take_list(found)

    async def _take_list(self, signed: SignedBlockList) -> None:
        said = signed.block_list

        def work(_: Journal) -> bool:
            return self._keyring.take_list(signed.publisher, said.version, said.blocked)

        if await self._journal.run(work):
            await self._blocked(said.blocked)

    def _look_at(self, event: EntryAdded) -> None:
        room_id, publisher = bytes.fromhex(event.room), bytes.fromhex(event.publisher)
        if room_id not in self._catalogue.rooms():
            return
        signed = self._catalogue.find(room_id, publisher, event.adapter)
        if not isinstance(signed, SignedEntry):
            return
        own = publisher == self._own_key
        standing = self._keyring.standing(publisher)
        for text in warnings_about(signed, (room_id,), self._pins, standing, own=own):
            self._bus.emit(TrustAlarm(event.room, event.ref, event.adapter, event.publisher, text))

    async def _taken_back(self, event: EntryWithdrawn) -> None:
        installs = await self._journal.run(lambda journal: journal.installs())
        for row in withdrawn_installs(installs, self._catalogue):
            if (row.publisher.hex(), row.adapter.lower()) == (event.publisher, event.adapter.lower()):
                self._bus.emit(InstallWithdrawn(event.room, row.name, row.adapter, event.version, event.publisher))
