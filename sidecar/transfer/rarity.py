"""In which order the units of a blob are asked for: those that fewest sources hold first."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from sidecar.transfer.source_state import UNIT_CHUNKS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sidecar.transfer.chunks import ChunkSet

RERANK_S = 0.5
"""New holdings change the order this often at most."""
LOOKS_PER_S = 25_000
"""Looking at one unit of one source takes about a microsecond, and this much of the time may go into it: 60 peers that
hold parts of 100 GB are looked at every minute and a half instead."""


class UnitOrder:
    """The order of one fetch.

    Args:
        count: Units of the blob.
        seed: Makes the order among equally rare units our own.
    """

    def __init__(self, count: int, seed: int) -> None:
        self.units: Sequence[int] = range(count)
        self._place: Sequence[int] = self.units  # inverse of units
        self._seed = seed
        self._luck: list[bytes] = []
        self._rank_at: float | None = None  # when to order again; None: nothing changed
        self._ranked_at = float("-inf")
        self._pause_s = RERANK_S

    def place(self, unit: int) -> int:
        """Where a unit is in the order."""
        return self._place[unit]

    def holders_changed(self) -> None:
        """Some source holds something else, came or went."""
        self._rank_at = self._ranked_at + self._pause_s

    def rank(self, holdings: list[ChunkSet], now: float) -> bool:
        """Order the units again if it is time; whether it was. In file order while every source holds everything."""
        if self._rank_at is None or now < self._rank_at:
            return False
        self._rank_at, self._ranked_at = None, now
        partial = [held for held in holdings if not held.complete]
        count = len(self.units)
        self._pause_s = max(RERANK_S, count * len(partial) / LOOKS_PER_S)
        if not partial:
            self.units = self._place = range(count)
            return True
        holders = [0] * count
        for held in partial:
            if held.count:
                for unit in range(count):
                    holders[unit] += held.window(unit * UNIT_CHUNKS, UNIT_CHUNKS) != 0
        luck = self._shuffled()
        self.units = sorted(range(count), key=lambda unit: (holders[unit], luck[unit]))
        place = [0] * count
        for position, unit in enumerate(self.units):
            place[unit] = position
        self._place = place
        return True

    def _shuffled(self) -> list[bytes]:
        """A number drawn for each unit, the same each time: a fetch that keeps to its own order meets others seldom."""
        if not self._luck:
            drawn = hashlib.blake2b(self._seed.to_bytes(8, "little"), digest_size=8)
            for unit in range(len(self.units)):
                of_unit = drawn.copy()
                of_unit.update(unit.to_bytes(4, "little"))
                self._luck.append(of_unit.digest())
        return self._luck
