"""Whom to dial by key, and when: remembered members of our rooms, and those other members told us of. Without I/O or clock.

A few at a time, remembered ones first, in random order, and only while half of the places for peers is free, so that a room does not begin with
everybody dialling everybody. The other half is for those who dial us.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from hyperdht.rpc.randomness import Randomness

MAX_DIALS = 3
"""At a time, as many as the swarm itself dials: each is a walk through the DHT and perhaps hole punching."""
DIAL_S = 30.0
"""Until a dial is given up. A punch through a random NAT was seen to need 26 s."""
SOON_S = 3.0
"""Hints and remembered members are dialled within that time, at random: a newcomer that all are told of is not dialled by
all at once, and has connected to some of them before."""
AGAIN_S = 5.0
"""After a connection was lost; the swarm itself redials those that it found in a topic, sooner."""
BACKOFF_S = 30.0
LONGEST_BACKOFF_S = 3600.0
"""What failed is tried again after 30 s, a minute, two…; a machine that was off for a week is found within the hour."""
HINT_TRIES = 2
"""Failures until a member that we only heard of is forgotten. It is told anew by whoever connects with it."""
MAX_HINTED_PER_ROOM = 256
"""Hints come from members, who may lie; beyond this they are ignored until some were tried."""


@dataclass(slots=True, eq=False)
class _Candidate:
    key: bytes
    rooms: set[bytes] = field(default_factory=set)
    remembered: bool = False
    failures: int = 0
    due: float = math.inf


class DialPlan:
    """See the module docstring. `now` is the owner's clock."""

    def __init__(
        self,
        *,
        randomness: Randomness,
        may_dial: Callable[[], bool],
        is_welcome: Callable[[bytes], bool],
    ) -> None:
        """
        Args:
            may_dial: Whether there are places for more peers.
            is_welcome: False for keys that are blocked.
        """
        self.dialling: dict[bytes, float] = {}
        """Keys, and when their dial began."""
        self._randomness = randomness
        self._may_dial = may_dial
        self._is_welcome = is_welcome
        self._candidates: dict[bytes, _Candidate] = {}
        self._connected: set[bytes] = set()

    def remember(self, room_id: bytes, key: bytes, now: float, *, failures: int = 0) -> None:
        """Somebody proved to be a member once, and is to be dialled whenever it is not connected."""
        candidate = self._add(room_id, key, now)
        candidate.remembered = True
        candidate.failures = max(candidate.failures, failures)

    def hint(self, room_id: bytes, key: bytes, now: float) -> bool:
        """A member named another one. False if there are too many such."""
        if key in self._connected:
            return True
        if key not in self._candidates and self._hinted(room_id) >= MAX_HINTED_PER_ROOM:
            return False
        self._add(room_id, key, now)
        return True

    def connected(self, key: bytes) -> None:
        """It is connected and proved to be a member."""
        self._connected.add(key)
        self.dialling.pop(key, None)
        if (candidate := self._candidates.get(key)) is not None:
            candidate.due, candidate.failures = math.inf, 0

    def lost(self, key: bytes, now: float) -> None:
        """It is connected no more."""
        self._connected.discard(key)
        if (candidate := self._candidates.get(key)) is not None:
            candidate.due = now + AGAIN_S * (1 + self._randomness.random())

    def failed(self, key: bytes, now: float) -> None:
        """The dial failed, or took too long."""
        if self.dialling.pop(key, None) is None:
            return
        candidate = self._candidates[key]
        candidate.failures += 1
        if not candidate.remembered and candidate.failures >= HINT_TRIES:
            del self._candidates[key]
        else:
            wait = min(LONGEST_BACKOFF_S, BACKOFF_S * 2 ** min(candidate.failures - 1, 16))
            candidate.due = now + wait * (0.5 + self._randomness.random() / 2)

    def give_back(self, now: float) -> None:
        """Dials under way are over through no fault of theirs, such as a swarm that ended."""
        for key in tuple(self.dialling):
            del self.dialling[key]
            self._candidates[key].due = now

    def hasten(self, now: float) -> None:
        """There is a network again, or another one: what failed before may work now."""
        for candidate in self._candidates.values():
            if candidate.due > now + SOON_S and candidate.key not in self._connected | self.dialling.keys():
                candidate.due = now + SOON_S * self._randomness.random()

    def leave(self, room_id: bytes) -> None:
        """We left a room: whom we know from there alone is not dialled any more."""
        for candidate in tuple(self._candidates.values()):
            candidate.rooms.discard(room_id)
            if not candidate.rooms:
                self._forget(candidate.key)

    def forget(self, room_id: bytes, key: bytes) -> None:
        """Somebody is no longer remembered in a room."""
        candidate = self._candidates.get(key)
        if candidate is not None:
            candidate.rooms.discard(room_id)
            if not candidate.rooms:
                self._forget(key)

    def take(self, now: float) -> list[bytes]:
        """Whom to dial now; they count as being dialled from here on."""
        if not self._may_dial():
            return []
        due = [each for each in self._candidates.values() if each.due <= now and self._is_welcome(each.key)]
        self._randomness.shuffle(due)
        due.sort(
            key=lambda each: not each.remembered
        )  # made-up hints must not keep those waiting that proved themselves
        taken = due[: max(0, MAX_DIALS - len(self.dialling))]
        for candidate in taken:
            self.dialling[candidate.key] = now
            candidate.due = math.inf
        return [candidate.key for candidate in taken]

    def overdue(self, now: float) -> list[bytes]:
        """Dials that took too long."""
        return [key for key, began in self.dialling.items() if now >= began + DIAL_S]

    def next_timer(self) -> float:
        """When to look again, if nothing happens; infinity for never."""
        ends = [began + DIAL_S for began in self.dialling.values()]
        if len(self.dialling) < MAX_DIALS and self._may_dial():
            ends += [each.due for each in self._candidates.values() if self._is_welcome(each.key)]
        return min(ends, default=math.inf)

    def _add(self, room_id: bytes, key: bytes, now: float) -> _Candidate:
        candidate = self._candidates.get(key)
        if candidate is None:
            candidate = self._candidates[key] = _Candidate(key)
            if key not in self._connected:
                candidate.due = now + SOON_S * self._randomness.random()
        candidate.rooms.add(room_id)
        return candidate

    def _forget(self, key: bytes) -> None:
        del self._candidates[key]
        self.dialling.pop(key, None)

    def _hinted(self, room_id: bytes) -> int:
        return sum(room_id in each.rooms and not each.remembered for each in self._candidates.values())
