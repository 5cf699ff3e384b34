"""What the scheduler knows of one source: what it owes, how fast it is, and when to try it again."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sidecar.transfer.chunks import CHUNK_BYTES
from sidecar.transfer.scheduler_events import Request

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sidecar.transfer.chunks import ChunkSet

UNIT_CHUNKS = 48
"""Largest request: 3 MiB, sixteen messages of three chunks, which a provider reads in one call. A multiple of 8, see
`ChunkSet.window`. Half of it costs 4 % more, for twice as many requests, threads woken and slots handed out."""

FIRST_WINDOW = 2 * UNIT_CHUNKS
"""Chunks a source may owe before its speed is known."""
LEAST_REQUESTS = 2
"""Two requests keep a link busy: one on its way while the other is served."""
QUEUE_S = 0.25
"""Seconds of data a source should owe beyond its round trip."""
UNIT_S = 1.0
"""A request should take no longer than this, so slow sources are asked for less at a time."""
SPEED_SAMPLE_S = 0.1
SPEED_WEIGHT = 0.3
FIRST_PAUSE_S, LONGEST_PAUSE_S = 5.0, 60.0
LATE_TICKETS = 64
"""Cancelled requests remembered, as their chunks may be on the way. As many as a source can owe."""


@dataclass(slots=True)
class Ticket:
    """A request and which of its chunks have not come."""

    request: Request
    issued_at: float
    mask: int
    left: int
    answered: bool = False

    @property
    def ticket(self) -> int:
        """Name of the request."""
        return self.request.ticket

    def owes(self, index: int) -> bool:
        """Whether chunk `index` was asked for and has not come."""
        offset = index - self.request.first
        return offset >= 0 and bool(self.mask >> offset & 1)

    def take(self, first: int, count: int) -> bool:
        """Note that chunks came; False when not all of them are owed."""
        offset = first - self.request.first
        if offset < 0 or count < 1:
            return False
        came = ((1 << count) - 1) << offset
        if self.mask & came != came:
            return False
        self.mask &= ~came
        self.left -= count
        return True

    def indexes(self) -> Iterator[int]:
        """Chunks still owed, in order."""
        return (
            index for index in range(self.request.first, self.request.first + self.request.count) if self.owes(index)
        )


@dataclass(slots=True)
class SourceState:
    """One source of one fetch."""

    key: bytes
    holdings: ChunkSet
    last_bytes_at: float
    tickets: dict[int, Ticket] = field(default_factory=dict)
    in_flight: int = 0
    cursor: int = 0
    """Place in the order of units before which it holds nothing wanted."""
    speed: float | None = None
    """Bytes per second while it was owed something; None until measured."""
    round_trip: float | None = None
    """Shortest seconds from a request to its first chunk."""
    paused_until: float = 0.0
    _pause_s: float = FIRST_PAUSE_S
    _late: OrderedDict[int, Ticket] = field(default_factory=OrderedDict)
    _sample_from: float = 0.0
    _sample_chunks: int = 0

    def window(self) -> int:
        """Chunks it may owe: what arrives in one round trip, and `QUEUE_S` more."""
        if self._pause_s > FIRST_PAUSE_S:
            return 1  # it was silent: one chunk shows whether it is back
        if self.speed is None:
            return FIRST_WINDOW
        return max(
            LEAST_REQUESTS * self.request_size(), int(self.speed * ((self.round_trip or 0.0) + QUEUE_S) / CHUNK_BYTES)
        )

    def request_size(self) -> int:
        """Chunks to ask for at once."""
        return UNIT_CHUNKS if self.speed is None else max(1, min(UNIT_CHUNKS, int(self.speed * UNIT_S / CHUNK_BYTES)))

    def issue(self, ticket_id: int, first: int, count: int, now: float) -> Ticket:
        """Note a new request."""
        if not self.tickets:
            self.last_bytes_at = self._sample_from = now
            self._sample_chunks = 0
        ticket = Ticket(Request(ticket_id, self.key, first, count), now, (1 << count) - 1, count)
        self.tickets[ticket_id] = ticket
        self.in_flight += count
        return ticket

    def took(self, ticket: Ticket, count: int, now: float) -> None:
        """Chunks came that were owed: measure."""
        self.in_flight -= count
        self._woke(now)
        if not ticket.answered:
            ticket.answered = True
            waited = now - ticket.issued_at
            self.round_trip = waited if self.round_trip is None else min(self.round_trip, waited)
        if not ticket.left:
            del self.tickets[ticket.ticket]
        self._sample_chunks += count
        elapsed = now - self._sample_from
        if elapsed >= SPEED_SAMPLE_S:
            measured = self._sample_chunks * CHUNK_BYTES / elapsed
            self.speed = measured if self.speed is None else self.speed + SPEED_WEIGHT * (measured - self.speed)
            self._sample_from, self._sample_chunks = now, 0

    def drop(self, ticket: Ticket) -> None:
        """A request was cancelled or given up; its chunks may still come."""
        del self.tickets[ticket.ticket]
        self.in_flight -= ticket.left
        self._late[ticket.ticket] = ticket
        while len(self._late) > LATE_TICKETS:
            self._late.popitem(last=False)

    def take_late(self, ticket_id: int, first: int, count: int, now: float) -> bool:
        """Whether chunks belong to a request we gave up."""
        ticket = self._late.get(ticket_id)
        if ticket is None or not ticket.take(first, count):
            return False
        self._woke(now)
        return True

    def pause(self, now: float) -> None:
        """Do not ask it for a while, longer each time."""
        self.paused_until = now + self._pause_s
        self._pause_s = min(self._pause_s * 2, LONGEST_PAUSE_S)

    def seconds_left(self, now: float, *, like: SourceState) -> float:
        """Estimate until all it owes has come; silence so far makes it longer."""
        return self.seconds_for(self.in_flight, like=like) + now - self.last_bytes_at

    def seconds_for(self, chunks: int, *, like: SourceState) -> float:
        """Estimate for that many chunks; a source never measured counts as fast as `like`, or as a chunk a second."""
        speed = self.speed or like.speed or CHUNK_BYTES
        return chunks * CHUNK_BYTES / speed

    def _woke(self, now: float) -> None:
        self.last_bytes_at = now
        self.paused_until, self._pause_s = 0.0, FIRST_PAUSE_S
