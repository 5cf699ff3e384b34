"""The end of a fetch: all is asked for, and sources with nothing to do race for what slower ones still owe.

Each source answers in order, so when a chunk will come follows from its place in what its source owes. An idle source
is asked for the chunks that would come last, as many as it can bring before their own source does: the two meet.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sidecar.transfer.chunks import CHUNK_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from sidecar.transfer.source_state import SourceState

MAX_COPIES = 3
"""Sources asked for one chunk at a time: the two asked first may both stall. Where one that delivered before can be asked,
those that never did are not counted: silent peers must not fill the places."""
GAIN_S = 0.05
"""Less than this is not worth a chunk sent twice."""


@dataclass(slots=True)
class Owed:
    """One chunk that was asked for."""

    eta: float
    """Seconds until it comes, by the best of those asked."""
    copies: int = 0
    proven: int = 0
    """Copies asked of sources that delivered before."""

    def ask(self, source: SourceState, eta: float) -> None:
        """Note one more who was asked for it."""
        self.eta = min(self.eta, eta)
        self.copies += 1
        self.proven += source.proven


def owed_chunks(
    sources: Iterable[SourceState], came: Callable[[int], bool], typical: float, now: float
) -> dict[int, Owed]:
    """All that is asked for and has not come from anybody.

    Args:
        came: Whether a chunk is here already; its request may go on for the sake of others.
        typical: Bytes per second assumed of a source that was not measured.
    """
    owed: dict[int, Owed] = {}
    for source in sources:
        per_chunk = CHUNK_BYTES / source.likely_speed(typical, now)
        eta = max(0.0, now - source.last_bytes_at - (source.round_trip or 0.0))  # silent so long, perhaps as long again
        for ticket in source.tickets.values():
            for index in ticket.indexes():
                eta += per_chunk
                if came(index):
                    continue
                owed.setdefault(index, Owed(eta)).ask(source, eta)
    return owed


def race(idle: SourceState, owed: dict[int, Owed], speed: float, limit: int) -> tuple[int, int] | None:
    """First and count of the chunks to ask of `idle` as well, noted in `owed`; None if it would help nobody."""

    def open_to_idle(index: int) -> Owed | None:
        chunk = owed.get(index)
        if chunk is None or not idle.holdings.has(index):
            return None
        return chunk if (chunk.proven if idle.proven else chunk.copies) < MAX_COPIES else None

    trip, per_chunk = idle.round_trip or 0.0, CHUNK_BYTES / speed
    last = max((index for index in owed if open_to_idle(index)), key=lambda index: owed[index].eta, default=None)
    if last is None or limit < 1 or owed[last].eta < trip + per_chunk + GAIN_S:
        return None
    first = last
    while last - first + 1 < limit:
        before = open_to_idle(first - 1)
        if before is None or before.eta < trip + (last - first + 2) * per_chunk:
            break
        first -= 1
    for index in range(first, last + 1):
        owed[index].ask(idle, trip + (index - first + 1) * per_chunk)
    return first, last - first + 1
