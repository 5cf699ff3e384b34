"""Who proved to be a member of our rooms on the internet, kept over restarts: a room finds itself again although somebody
surrounds or floods its topic (T17).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import anyio

from sidecar.catalogue.rows import MemberRow

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidecar.catalogue.journal_thread import JournalThread
    from sidecar.catalogue.rows import Way

MAX_MEMBERS_PER_ROOM = 64
"""As many as are connected at once by default. In the general room keys cost nothing, so there must be a limit; beyond it
those go that could not be reached, then those not seen for longest, and never one that is connected."""


class Members:
    """All rooms' members. In memory, and written behind what happens by `run`."""

    def __init__(self, journal: JournalThread, *, wall_clock: Callable[[], float]) -> None:
        self._journal = journal
        self._wall_clock = wall_clock
        self._rooms: dict[bytes, dict[bytes, MemberRow]] = {}
        self._connected: set[tuple[bytes, bytes]] = set()
        self._unsaved: dict[tuple[bytes, bytes], MemberRow | None] = {}
        """None: to be forgotten."""
        self._changed = anyio.Event()

    async def restore(self) -> None:
        """Read what the journal has."""
        for row in await self._journal.run(lambda journal: journal.members()):
            self._rooms.setdefault(row.room_id, {})[row.key] = row

    async def run(self) -> None:
        """Write changes until cancelled."""
        while True:
            await self._changed.wait()
            self._changed = anyio.Event()
            changes = dict(self._unsaved)
            rows = [row for row in changes.values() if row is not None]
            gone = [place for place, row in changes.items() if row is None]
            await self._journal.run(lambda journal, rows=rows, gone=gone: journal.save_members(rows, gone))  # type: ignore[misc]
            for place, row in changes.items():
                if self._unsaved.get(place, changes) is row:
                    del self._unsaved[place]

    def of(self, room_id: bytes) -> tuple[MemberRow, ...]:
        """Who is remembered in a room."""
        return tuple(self._rooms.get(room_id, {}).values())

    def rooms_of(self, key: bytes) -> set[bytes]:
        """The rooms of which somebody is a member, connected now or remembered."""
        remembered = {room_id for room_id, members in self._rooms.items() if key in members}
        return remembered | {room_id for room_id, connected in self._connected if connected == key}

    @property
    def unsaved(self) -> int:
        """Changes not written yet."""
        return len(self._unsaved)

    def proved(self, room_id: bytes, key: bytes, way: Way) -> bytes | None:
        """A peer proved its membership. Returns who is forgotten for it: nobody, another one, or itself."""
        now = self._wall_clock()
        self._connected.add((room_id, key))
        members = self._rooms.setdefault(room_id, {})
        forgotten = None
        if key not in members and len(members) >= MAX_MEMBERS_PER_ROOM:
            forgotten = self._make_room(room_id)
            if forgotten is None:
                return key
        first_seen = members[key].first_seen if key in members else now
        self._set(MemberRow(room_id, key, first_seen, now, way))
        return forgotten

    def lost(self, room_id: bytes, key: bytes) -> None:
        """A member is not connected any more."""
        self._connected.discard((room_id, key))
        row = self._rooms.get(room_id, {}).get(key)
        if row is not None:
            self._set(replace(row, last_seen=self._wall_clock()))

    def failed(self, key: bytes) -> None:
        """A dial by key failed."""
        for members in self._rooms.values():
            if key in members:
                self._set(replace(members[key], failures=members[key].failures + 1))

    def left(self, room_id: bytes) -> None:
        """We left a room; the journal forgets its members with it."""
        self._rooms.pop(room_id, None)
        self._connected = {place for place in self._connected if place[0] != room_id}
        self._unsaved = {place: row for place, row in self._unsaved.items() if place[0] != room_id}

    def _make_room(self, room_id: bytes) -> bytes | None:
        """Forget somebody; None if all are connected."""
        away = [row for key, row in self._rooms[room_id].items() if (room_id, key) not in self._connected]
        if not away:
            return None
        worst = max(away, key=lambda row: (row.failures, -row.last_seen))
        del self._rooms[room_id][worst.key]
        self._note((room_id, worst.key), None)
        return worst.key

    def _set(self, row: MemberRow) -> None:
        self._rooms[row.room_id][row.key] = row
        self._note((row.room_id, row.key), row)

    def _note(self, place: tuple[bytes, bytes], row: MemberRow | None) -> None:
        self._unsaved[place] = row
        self._changed.set()
