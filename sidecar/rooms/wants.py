"""Which member is asked for which statement: what all of them offer is sent by one, or a newcomer takes in a room many times over.

Whoever offers first is asked. If it does not answer in time, refuses or goes, all who offer it are asked, so that a member
who offers everything and sends nothing costs the room one pause.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio

from sidecar.catalogue.limits import MAX_ENTRIES_PER_ROOM

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from .link import RoomLink

PATIENCE_S = 5.0
"""Without any answer of a member, until others are asked too. Many times what entries take over a slow line."""
LONGEST_PATIENCE_S = 60.0
"""The same for one that answers now and then. A full room takes 45 s; who trickles is waited for once."""

MAX_ASKED = 2 * MAX_ENTRIES_PER_ROOM
"""Questions remembered, in all rooms: what a full room brings, and as much again. Offers cost their sender nothing. Beyond it
whoever offers is asked, and nobody remembers that somebody was."""

Key = tuple[bytes, bytes]
"""Room and short id."""


@dataclass(slots=True)
class _Asked:
    link: RoomLink
    at: float
    arrived: bool = False
    """It waits for its signature check, or was refused: nobody else is asked."""


class Wants:
    """See the module docstring. One for all rooms."""

    def __init__(self, *, links: Callable[[bytes], list[RoomLink]], missing: Callable[[bytes, bytes], bool]) -> None:
        """
        Args:
            links: Proved members of a room.
            missing: Whether a room's catalogue lacks a statement.
        """
        self._links = links
        self._missing = missing
        self._asked: dict[Key, _Asked] = {}
        self._heard: dict[RoomLink, float] = {}
        """When a member last answered."""
        self._begun = anyio.Event()

    async def run(self) -> None:
        """Look after what is late, until cancelled."""
        while True:
            if not self._asked:
                self._begun = anyio.Event()
                await self._begun.wait()
            await anyio.sleep(PATIENCE_S / 2)
            now = anyio.current_time()
            self._turn_to_others([key for key, asked in self._asked.items() if self._is_overdue(asked, now)])
            self._heard = {link: at for link, at in self._heard.items() if at > now - PATIENCE_S}

    def ask(self, link: RoomLink, short_ids: Iterable[bytes]) -> None:
        """A member offers statements we do not have: ask it for those that nobody was asked for yet."""
        now = anyio.current_time()
        chosen = [each for each in short_ids if (link.room_id, each) not in self._asked]
        noted = chosen[: max(0, MAX_ASKED - len(self._asked))]
        self._asked.update({(link.room_id, each): _Asked(link, now) for each in noted})
        link.session.want(chosen)
        if chosen:
            self._begun.set()

    def arrived(self, link: RoomLink, short_ids: Iterable[bytes]) -> None:
        """Statements came, wanted or not."""
        self._heard[link] = anyio.current_time()
        for short_id in short_ids:
            if (asked := self._asked.get((link.room_id, short_id))) is not None:
                asked.arrived = True

    def refused(self, link: RoomLink, short_id: bytes) -> None:
        """A member no longer has what it was asked for."""
        key = link.room_id, short_id
        if key in self._asked and self._asked[key].link is link:
            self._turn_to_others([key])

    def lost(self, link: RoomLink) -> None:
        """A member is gone."""
        self._heard.pop(link, None)
        self._turn_to_others([key for key, asked in self._asked.items() if asked.link is link])

    def _is_overdue(self, asked: _Asked, now: float) -> bool:
        silent_since = max(asked.at, self._heard.get(asked.link, asked.at))
        return silent_since <= now - PATIENCE_S or asked.at <= now - LONGEST_PATIENCE_S

    def _turn_to_others(self, keys: Iterable[Key]) -> None:
        by_room: dict[bytes, list[bytes]] = {}
        for key in keys:
            asked = self._asked.pop(key)
            if not asked.arrived and self._missing(*key):
                by_room.setdefault(key[0], []).append(key[1])
        for room_id, short_ids in by_room.items():
            for link in self._links(room_id):
                link.session.want([each for each in short_ids if each in link.offers])
                link.flush()
