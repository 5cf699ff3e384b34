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

FIRST_WINDOW = 6
"""Chunks a source may owe before the first came: two messages. 60 silent peers then tie up less than what a fetch may ask
for at once, and one honest peer among them is asked too."""
GROWTH = 2
"""Chunks more it may owe for each that came, as long as it gets faster: three times as much with every round trip."""
FASTER = 1.25
"""By what a sample of its speed must be above the one before for a source to be getting faster."""
LEAST_REQUESTS = 2
"""Two requests keep a link busy: one on its way while the other is served."""
REQUESTS_IN_SHARE = 4
"""Where the limit over all sources leaves a source less than its window, requests are cut so that the next is on its way
while three quarters of the share are still owed. In whole units four sources lost a quarter of their speed at 100 ms."""
QUEUE_S = 0.25
"""Seconds of data a source should owe beyond its round trip."""
UNIT_S = 0.25
"""A request should take no longer than this, so slow sources are asked for less at a time."""
SPEED_SAMPLE_S = 0.1
SPEED_MEMORY_S = 0.3
"""A sample weighs by its length against this, so that data in bursts, as a provider's turns give it, is measured whole."""
LEAST_STALL_S = 3.0
STALL_FACTOR = 4.0
"""A source whose speed is known has stalled after four times as long as all it owes should take, and three seconds."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 5.0, 60.0
LATE_TICKETS = 64
"""Cancelled requests remembered, as their chunks may be on the way. As many as a source can owe."""
MAX_DENIALS = 8
"""Times a source may refuse what it said it holds, before it said so again. A peer whose own fetch was cancelled, or
whose file changed, does that once or twice."""


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
    """It was busy; not asked before."""
    asleep: bool = False
    """It stalled: owes one chunk as a probe, which nobody waits for, and is not asked again before that or a late one comes."""
    denied: bool = False
    """It refused something it said it holds, and has not said anew what it holds."""
    denials: int = 0
    _pause_s: float = FIRST_PAUSE_S
    _late: OrderedDict[int, Ticket] = field(default_factory=OrderedDict)
    _came: int = 0
    _asked_at: float | None = None
    _gets_faster: bool = True
    _sample_from: float | None = None
    _sample_chunks: int = 0

    @property
    def proven(self) -> bool:
        """Whether it ever delivered."""
        return self._came > 0

    def available(self, now: float) -> bool:
        """Whether it may be asked at all."""
        return self.paused_until <= now and not self.asleep and not self.denied

    def window(self) -> int:
        """Chunks it may owe: what arrives in one round trip, and `QUEUE_S` more."""
        if self._pause_s > FIRST_PAUSE_S:
            return 1  # it was busy: one chunk shows whether it still is
        if self.speed is None:
            return FIRST_WINDOW + GROWTH * self._came
        owed = int(self.speed * ((self.round_trip or 0.0) + QUEUE_S) / CHUNK_BYTES)
        if self._gets_faster:
            owed = max(owed, min(FIRST_WINDOW + GROWTH * self._came, GROWTH * owed))
        return max(LEAST_REQUESTS * self.request_size(), owed)

    def likely_speed(self, typical: float, now: float) -> float:
        """Bytes per second to expect of it: before it was measured as others have, unless it had time to show less."""
        if self.speed is not None or self._asked_at is None:
            return self.speed or typical
        return min(typical, (self._came + 1) * CHUNK_BYTES / max(now - self._asked_at, SPEED_SAMPLE_S))

    def request_size(self) -> int:
        """Chunks to ask for at once."""
        if self.speed is None:
            return min(UNIT_CHUNKS, self.window() // LEAST_REQUESTS or 1)
        return max(1, min(UNIT_CHUNKS, int(self.speed * UNIT_S / CHUNK_BYTES)))

    def patience(self, longest: float) -> float:
        """Seconds of silence after which it has stalled."""
        if self.speed is None:
            return longest
        expected = (self.round_trip or 0.0) + self.in_flight * CHUNK_BYTES / self.speed
        return min(longest, max(LEAST_STALL_S, STALL_FACTOR * expected))

    def issue(self, ticket_id: int, first: int, count: int, now: float) -> Ticket:
        """Note a new request."""
        if not self.tickets:
            self.last_bytes_at = max(self.last_bytes_at, now)
            self._sample_from = None
        if self._asked_at is None:
            self._asked_at = now
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
        self._came += count
        self._measure(count, now)

    def _measure(self, count: int, now: float) -> None:
        """Speed from the first chunks after a pause on: the way there is no part of it."""
        if self._sample_from is None:
            self._sample_from, self._sample_chunks = now, 0
            return
        self._sample_chunks += count
        elapsed = now - self._sample_from
        if elapsed >= SPEED_SAMPLE_S:
            measured = self._sample_chunks * CHUNK_BYTES / elapsed
            self._gets_faster = self._gets_faster and measured > FASTER * (self.speed or 0.0)
            weight = 1.0 if self._gets_faster else elapsed / (elapsed + SPEED_MEMORY_S)
            self.speed = (self.speed or 0.0) + weight * (measured - (self.speed or 0.0))
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

    def probe(self, ticket_id: int, index: int, now: float) -> Request:
        """Ask for one chunk without counting on it: whatever comes of it shows that the source is back."""
        ticket = self.issue(ticket_id, index, 1, now)
        self.drop(ticket)
        self.asleep = True
        return ticket.request

    def pause(self, now: float) -> None:
        """Do not ask it for a while, longer each time."""
        self.paused_until = now + self._pause_s
        self._pause_s = min(self._pause_s * 2, LONGEST_PAUSE_S)

    def deny(self) -> bool:
        """It refused what it said it holds; whether it did so too often."""
        self.denials += not self.denied
        self.denied = True
        return self.denials >= MAX_DENIALS

    def hold(self, holdings: ChunkSet) -> None:
        """It says what it holds."""
        self.holdings, self.cursor, self.denied = holdings, 0, False

    def hear(self, at: float) -> None:
        """It is alive, and silence counts from `at`."""
        self.last_bytes_at = max(self.last_bytes_at, at)
        self.asleep = False

    def _woke(self, now: float) -> None:
        self.hear(now)
        self.paused_until, self._pause_s = 0.0, FIRST_PAUSE_S
