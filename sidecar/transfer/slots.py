"""Upload slots, shared fairly between peers (T20).

A slot is one batch in memory, from before it is read until the peer's connection took it. The next free slot goes to the
waiting peer that holds fewest, then to the one that was given fewest bytes. A peer that returns counts as having been given
as much as the least of those active, so it can neither save up nor be starved.

Bandwidth caps are kept here, not before the line: a slot is only for a peer whose caps are paid, and who gets what a cap
leaves is the same question as who gets a slot. First come, first served would give most to whoever asks for most at once.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sidecar.transfer.bandwidth import TokenBucket

UPLOAD_SLOTS = 8
"""Batches of up to 3 MiB in memory for peers that take them; more would not make the disk or the link faster."""
SLOW_S = 5.0
"""A peer that takes longer for one batch keeps it, but no longer the slot: eight slow readers must not block others."""
IDLE_S = 1.0
"""A peer that asks again sooner was not idle: it waited for the way, or for a cap, and what it was given less stays owed."""
AT_ONCE_S = 1e-3
"""A debt to a cap that is paid sooner is none: timers are no finer."""


@dataclass(slots=True, eq=False)
class Slot:
    """The right to have one batch in memory for `peer`."""

    peer: bytes
    since: float
    revoked: bool = False


@dataclass(slots=True)
class _Account:
    users: int = 0
    given: int = 0
    held: int = 0
    idle_since: float = float("-inf")
    slow: bool = False


@dataclass(slots=True, eq=False)
class _Claim:
    """A task that waits for a slot."""

    size: int
    ready: anyio.Event
    caps: Sequence[TokenBucket]
    slot: Slot | None = None

    def wait(self, now: float) -> float:
        """Seconds until its caps let it go."""
        return max((cap.wait(self.size, now=now) for cap in self.caps), default=0.0)


class UploadSlots:
    """Hands out `count` slots."""

    def __init__(self, count: int = UPLOAD_SLOTS, *, clock: Callable[[], float] = anyio.current_time) -> None:
        self._free = count
        self._clock = clock
        self._held: list[Slot] = []  # oldest first
        self._accounts: dict[bytes, _Account] = {}
        self._claims: dict[bytes, deque[_Claim]] = {}

    @property
    def used(self) -> int:
        """How many are taken."""
        return len(self._held)

    def join(self, peer: bytes) -> None:
        """A peer may ask from now on, in one more room."""
        if peer not in self._accounts:
            given = min((account.given for account in self._accounts.values()), default=0)
            self._accounts[peer] = _Account(given=given)
        self._accounts[peer].users += 1

    def leave(self, peer: bytes) -> None:
        """A peer is gone from a room. Its tasks have ended: none waits for a slot."""
        self._accounts[peer].users -= 1
        if not self._accounts[peer].users:
            del self._accounts[peer]

    def is_slow(self, peer: bytes) -> bool:
        """Whether the last slot of this peer had to be taken from it: give it smaller batches."""
        account = self._accounts.get(peer)
        return account is not None and account.slow

    async def take(self, peer: bytes, size: int, caps: Sequence[TokenBucket] = ()) -> Slot:
        """Wait for a slot for `size` bytes, and until all caps that apply allow them."""
        claim = _Claim(size, anyio.Event(), caps)
        self._claims.setdefault(peer, deque()).append(claim)
        self._catch_up(peer)
        try:
            self._hand_out()
            while claim.slot is None:
                with anyio.move_on_after(self._seconds_to_wait(claim)):
                    await claim.ready.wait()
                self._revoke_overdue()
                self._hand_out()
        except BaseException:
            self._withdraw(peer, claim)
            raise
        return claim.slot

    def give_back(self, slot: Slot) -> None:
        """The batch is out of memory."""
        if slot in self._held:
            self._held.remove(slot)
            self._free += 1
        account = self._accounts.get(slot.peer)
        if account is not None:
            account.held -= 1
            account.idle_since = self._clock()
            account.slow = slot.revoked
        self._hand_out()

    def _catch_up(self, peer: bytes) -> None:
        """Being idle saves nothing up."""
        active = [self._accounts[key].given for key in self._claims if key in self._accounts and key != peer]
        account = self._accounts[peer]
        idle = not account.held and len(self._claims[peer]) == 1 and self._clock() - account.idle_since > IDLE_S
        if active and idle:
            account.given = max(account.given, min(active))

    def _hand_out(self) -> None:
        now = self._clock()
        while self._free and (peer := self._next(now)) is not None:
            claim = self._claims[peer].popleft()
            if not self._claims[peer]:
                del self._claims[peer]
            for cap in claim.caps:
                cap.reserve(claim.size, now=now)
            claim.slot = Slot(peer, now)
            self._held.append(claim.slot)
            self._accounts[peer].held += 1
            self._accounts[peer].given += claim.size
            self._free -= 1
            claim.ready.set()

    def _next(self, now: float) -> bytes | None:
        """Whose turn it is. What a cap gains is for the first that waits for it longest, however much that asks for: given
        to who asks for less and so waits for less, the first would wait for ever."""
        waited_for: list[TokenBucket] = []
        for peer in sorted(self._claims, key=lambda key: (self._accounts[key].held, self._accounts[key].given)):
            claim = self._claims[peer][0]
            if claim.wait(now) >= AT_ONCE_S:
                waited_for.append(max(claim.caps, key=lambda cap: cap.wait(claim.size, now=now)))
            elif not any(cap in waited_for for cap in claim.caps):
                return peer
        return None

    def _seconds_to_wait(self, claim: _Claim) -> float:
        """Until there may be something for this claim: its caps, or those of one before it, are paid, or the oldest slot is
        overdue."""
        now = self._clock()
        waits = [claim.wait(now)] if claim.wait(now) else [claims[0].wait(now) for claims in self._claims.values()]
        if self._free and any(waits):
            return min(filter(None, waits))
        return max(0.0, self._held[0].since + SLOW_S - now) if self._held else SLOW_S

    def _revoke_overdue(self) -> None:
        while self._held and not self._free and self._claims and self._clock() - self._held[0].since >= SLOW_S:
            slot = self._held.pop(0)
            slot.revoked = True
            if account := self._accounts.get(slot.peer):
                account.slow = True
            self._free += 1
            self._hand_out()

    def _withdraw(self, peer: bytes, claim: _Claim) -> None:
        if claim.slot is not None:
            self.give_back(claim.slot)
        elif claim in self._claims.get(peer, ()):
            self._claims[peer].remove(claim)
            if not self._claims[peer]:
                del self._claims[peer]
