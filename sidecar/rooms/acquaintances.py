"""Members of our rooms on the internet: who is remembered, who tells of whom, who relays, and whom to dial by key.

The network says who came and went; `internet.py` dials. What is decided is in `members.py`, `introductions.py` and
`dial_plan.py`; here is what ties them together.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import anyio

from sidecar.catalogue.rows import Standing, Way

from .dial_plan import DialPlan
from .introductions import Introductions
from .members import Members

if TYPE_CHECKING:
    from collections.abc import Callable

    from hyperdht.rpc.randomness import Randomness
    from sidecar.catalogue.journal_thread import JournalThread
    from sidecar.trust.keyring import Keyring

    from .introductions import Presence
    from .link import RoomLink
    from .session_events import PeersReceived


class Acquaintances:
    """See the module docstring. One per daemon, made by its `RoomNetwork`."""

    def __init__(
        self,
        *,
        journal: JournalThread,
        keyring: Keyring,
        is_internet: Callable[[bytes], bool],
        is_private: Callable[[bytes], bool],
        connections: Callable[[], int],
        max_peers: int,
        wall_clock: Callable[[], float],
        randomness: Randomness | None = None,
    ) -> None:
        """
        Args:
            is_internet: Whether a room we are in is one on the internet.
            is_private: Whether it is one that not everybody may enter.
            connections: How many connections there are, proved or not.
        """
        chance = randomness or random.SystemRandom()
        self.members = Members(journal, wall_clock=wall_clock)
        self.introductions = Introductions(randomness=chance, is_internet=is_internet, is_private=is_private)
        self.plan = DialPlan(randomness=chance, may_dial=self._may_dial, is_welcome=self._is_welcome)
        self.online = False
        """Whether the DHT answers, so that dials may succeed."""
        self._keyring = keyring
        self._is_internet = is_internet
        self._is_private = is_private
        self._connections = connections
        self._places = max(1, max_peers // 2)
        self._wake = anyio.Event()

    async def restore(self, rooms: list[bytes]) -> None:
        """Begin with what the journal remembers of these rooms."""
        await self.members.restore()
        now = anyio.current_time()
        for room_id in rooms:
            for row in self.members.of(room_id):
                self.plan.remember(room_id, row.key, now, failures=row.failures)

    # --- what the network says

    def proved(self, link: RoomLink) -> None:
        """A peer proved to be a member."""
        if not self._is_internet(link.room_id):
            return
        now, key = anyio.current_time(), link.peer_key
        self.plan.connected(key)
        forgotten = self.members.proved(link.room_id, key, Way(link.connection.road))
        if forgotten != key:
            self.plan.remember(link.room_id, key, now)
        if forgotten is not None:
            self.plan.forget(link.room_id, forgotten)
        self.introductions.proved(link, now)
        self.wake()

    def heard(self, link: RoomLink, event: PeersReceived) -> None:
        """A member said something about itself and others."""
        now = anyio.current_time()
        for key in self.introductions.received(link, event, now):
            self.plan.hint(link.room_id, key, now)
        self.wake()

    def lost(self, link: RoomLink, *, gone: bool) -> None:
        """A member is not connected in a room any more. `gone`: nor in any other room."""
        self.introductions.lost(link)
        self.members.lost(link.room_id, link.peer_key)
        if gone:
            self.plan.lost(link.peer_key, anyio.current_time())
        self.wake()

    def left(self, room_id: bytes) -> None:
        """We left a room."""
        self.members.left(room_id)
        self.plan.leave(room_id)
        self.wake()

    # --- what the swarm's owner asks and says

    def present(self, presence: Presence | None) -> None:
        """What members are told about us."""
        self.introductions.present(presence)

    def dial_failed(self, key: bytes) -> None:
        """A dial by key failed, or took too long."""
        self.plan.failed(key, anyio.current_time())
        self.members.failed(key)

    def relay_for(self, key: bytes, force: bool) -> bytes | None:
        """The relay to dial a peer through: when a direct dial failed so that nothing else helps, or both NATs are random."""
        ours = self.introductions.presence
        if force or (ours is not None and ours.is_random and self.introductions.is_random(key)):
            return self.introductions.relay_for(key)
        return None

    def may_be_carried(self, key: bytes) -> bool:
        """Whether we relay for somebody: for who proved to be a member of a private room of ours, now or before, and is not
        blocked. Anybody may enter the general room, so its members are strangers here."""
        return any(map(self._is_private, self.members.rooms_of(key))) and self._is_welcome(key)

    async def woken(self) -> None:
        """Wait until something changed that `plan` may care about."""
        await self._wake.wait()
        self._wake = anyio.Event()

    def wake(self) -> None:
        """Something changed."""
        self._wake.set()

    def _may_dial(self) -> bool:
        return self.online and self._connections() + len(self.plan.dialling) < self._places

    def _is_welcome(self, key: bytes) -> bool:
        return self._keyring.standing(key) is not Standing.BLOCKED
