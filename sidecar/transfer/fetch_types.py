"""What a fetch is given and what it tells."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sidecar.errors import TransferError
from sidecar.transfer.chunks import MAX_BLOB_BYTES, chunk_count
from sidecar.transfer.scheduler_events import SchedulerLimits

if TYPE_CHECKING:
    from ollama_bridge.digests import Digest

PROGRESS_S = 0.1
SPEED_WEIGHT = 0.3


@dataclass(frozen=True, slots=True)
class BlobSpec:
    """Which blob, by the words of a signed entry: everything later is measured against this (T6).

    Raises:
        TransferError: A size or root no blob can have.
    """

    digest: Digest
    size: int
    chunks_root: str
    """SHA-256 of the concatenated chunk hashes, 64 lower-case hex digits."""

    def __post_init__(self) -> None:
        if not 0 < self.size <= MAX_BLOB_BYTES:
            raise TransferError(f"A blob of {self.size} bytes cannot be fetched; the most is {MAX_BLOB_BYTES}.")
        if not re.fullmatch(r"[0-9a-f]{64}", self.chunks_root):
            raise TransferError("The root of the chunk table is not 64 lower-case hex digits.")

    @property
    def count(self) -> int:
        """Number of chunks."""
        return chunk_count(self.size)


@dataclass(frozen=True, slots=True)
class FetchLimits:
    """Patience, in seconds, and the scheduler's limits."""

    no_source_s: float = 30.0
    """Without a source that has what is missing: time for a peer to reconnect or another to be found."""
    only_liars_s: float = 3.0
    """When every source that held something sent wrong data and is banned: nobody is left to wait for but a newcomer."""
    nothing_came_s: float = 120.0
    """With sources, but without one verified chunk: a stalled source is tried again twice in this time."""
    answer_s: float = 15.0
    """For a chunk table or holdings; the table of a large blob takes a while on a slow link."""
    retry_s: float = 1.0
    """Between tries of getting the table from a source that refused it or lied."""
    refresh_s: float = 1.0
    """Between questions to a source that holds only parts. Peers that fetch at the same time live off the answers: with
    twice as much, eight of them take a tenth more from the one who has it all."""
    scheduler: SchedulerLimits = field(default_factory=SchedulerLimits)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a fetch is."""

    done_bytes: int
    total_bytes: int
    bytes_per_s: float
    sources: int


class SpeedMeter:
    """Smoothed speed, and when it is time to tell it."""

    def __init__(self) -> None:
        self.speed = 0.0
        self._told_at: float | None = None
        self._told_bytes = 0

    def due(self, done: int, now: float) -> bool:
        """Whether `PROGRESS_S` passed since the last time; measures when it did. What a resume found is not speed."""
        if self._told_at is None:
            self._told_at, self._told_bytes = now, done
            return True
        elapsed = now - self._told_at
        if elapsed < PROGRESS_S:
            return False
        measured = (done - self._told_bytes) / elapsed
        self.speed = measured if not self.speed else self.speed + SPEED_WEIGHT * (measured - self.speed)
        self._told_at, self._told_bytes = now, done
        return True
