"""What goes into and comes out of the scheduler: limits, commands, events and the verdict on an arrival."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


@dataclass(frozen=True, slots=True)
class SchedulerLimits:
    """Bounds on what is asked for at once, and on patience."""

    total_in_flight: int = 512
    """Chunks (32 MiB) asked for or unverified over all sources: the memory a fetch may take."""
    requests_per_source: int = 64
    """A provider refuses more (design 12)."""
    stall_s: float = 10.0
    """Silence after which what was asked of a source is given to others."""
    strikes: int = 3
    """Wrong chunks until a source is banned for this blob; a broken disk or memory deserves a second chance, no more."""


@dataclass(frozen=True, slots=True)
class Request:
    """Ask `source` for chunks `first` to `first + count`; `ticket` names the request."""

    ticket: int
    source: bytes
    first: int
    count: int


@dataclass(frozen=True, slots=True)
class Cancel:
    """Tell `source` that request `ticket` is no longer needed."""

    source: bytes
    ticket: int


@dataclass(frozen=True, slots=True)
class SourceStalled:
    """A source was silent for `stall_s`; its requests went to others and it is tried again later."""

    source: bytes


@dataclass(frozen=True, slots=True)
class SourceBanned:
    """A source gave wrong data too often and is not asked again for this blob."""

    source: bytes


class Arrival(Enum):
    """What to do with a chunk that arrived."""

    CHECK = "check"
    """Verify it, then report `verified` or `wrong`."""
    SPARE = "spare"
    """It was asked for and somebody else was faster. Drop it."""
    UNREQUESTED = "unrequested"
    """It was never asked of this source. Drop it; the strike is already counted."""
