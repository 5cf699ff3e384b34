"""Which chunks to ask of which source. Sans-I/O: time comes in as `now`, requests come out as commands.

Drivers: sources that come and go, chunks that arrive and are then found right or wrong, and a timer. A chunk is in one
of four states: held; wanted (nobody was asked); pending (asked of one source, of two in the end game); in checking
(arrived, not yet verified). Everything that is pending or in checking counts against one limit, so memory is bounded
however fast the sources are and however slow the disk is.
"""

from __future__ import annotations

from collections import Counter, deque
from itertools import count
from typing import TYPE_CHECKING

from sidecar.transfer.chunks import ChunkSet
from sidecar.transfer.scheduler_events import Arrival, Cancel, SchedulerLimits, SourceBanned, SourceStalled
from sidecar.transfer.source_state import UNIT_CHUNKS, SourceState, Ticket

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sidecar.transfer.scheduler_events import Request

RERANK_S = 2.0
"""Counting holders costs (units x sources), so a room full of partial holders is counted this often at most."""


class Scheduler:
    """Plans one fetch. See the module docstring for the states of a chunk.

    Args:
        total: Chunks of the blob.
        have: Chunks already held.
        limits: Bounds, for tests to tighten.
        first_unit: Where to start among equally rare units while some sources hold only parts. Peers that fetch the
            same blob at the same time start at different places, and so soon hold what the others lack.
    """

    def __init__(
        self, total: int, have: ChunkSet, *, limits: SchedulerLimits | None = None, first_unit: int = 0
    ) -> None:
        self.have = have.copy()
        self.limits = limits or SchedulerLimits()
        self.sources: dict[bytes, SourceState] = {}
        self._strikes: Counter[bytes] = Counter()  # outlives the source: leaving and coming back changes nothing
        self._wanted = ChunkSet(total)
        for first, length in have.missing_runs():
            self._wanted.add_range(first, length)
        self._pending: dict[int, int] = {}  # how many sources owe a chunk
        self._checking: set[int] = set()
        self._units = -(-total // UNIT_CHUNKS)
        self._first_unit = first_unit % self._units if self._units else 0
        self._order: Sequence[int] = range(self._units)
        self._place: Sequence[int] = self._order  # inverse of _order
        self._preferred: tuple[int, ...] = ()
        self._rank_at: float | None = None  # when to order again; None: nothing changed
        self._ranked_at = float("-inf")
        self._tickets = count(1)
        self._events: deque[SourceStalled | SourceBanned] = deque()
        self._cancels: list[Cancel] = []

    # --- sources -------------------------------------------------------------------------------------------------

    def add_source(self, key: bytes, holdings: ChunkSet, *, now: float) -> None:
        """A source is ready to be asked. A banned key is ignored."""
        if not self.banned(key):
            self.remove_source(key)
            self.sources[key] = SourceState(key, holdings.copy(), last_bytes_at=now)
            self._holders_changed()

    def update_holdings(self, key: bytes, holdings: ChunkSet) -> None:
        """A source now holds something else."""
        if source := self.sources.get(key):
            source.holdings = holdings.copy()
            source.cursor = 0
            self._holders_changed()

    def remove_source(self, key: bytes) -> None:
        """A source is gone; what it owed goes to others."""
        if source := self.sources.pop(key, None):
            for ticket in list(source.tickets.values()):
                self._give_back(source, ticket)
            self._holders_changed()

    def refused(self, key: bytes, ticket_id: int, *, gone: bool, now: float) -> None:
        """A source refused a request: because it does not hold the chunks (`gone`), or because it is busy."""
        source = self.sources.get(key)
        ticket = source.tickets.get(ticket_id) if source else None
        if source is None or ticket is None:
            return
        self._give_back(source, ticket)
        if gone:
            for index in ticket.indexes():
                source.holdings.discard(index)
        else:
            source.pause(now)

    def strike(self, key: bytes) -> None:
        """A source gave wrong data: the chunk table, a chunk, or one nobody asked for."""
        self._strikes[key] += 1
        if self._strikes[key] == self.limits.strikes:
            if source := self.sources.get(key):
                self._cancels += [Cancel(key, ticket) for ticket in source.tickets]
                self.remove_source(key)
            self._events.append(SourceBanned(key))

    def banned(self, key: bytes) -> bool:
        """Whether this key used up its strikes."""
        return self._strikes[key] >= self.limits.strikes

    # --- chunks --------------------------------------------------------------------------------------------------

    def arrived(self, key: bytes, ticket_id: int, first: int, count: int = 1, *, now: float) -> Arrival:
        """Chunks came from a source in answer to a request (by its ticket), or so it says."""
        source = self.sources.get(key)
        if source is None:
            return Arrival.SPARE
        ticket = source.tickets.get(ticket_id)
        indexes = range(first, first + count)
        if ticket is not None and ticket.take(first, count):
            source.took(ticket, count, now)
            for index in indexes:
                self._forget_pending(index)
        elif not source.take_late(ticket_id, first, count, now):
            self.strike(key)
            return Arrival.UNREQUESTED
        new = [index for index in indexes if index not in self._checking and not self.have.has(index)]
        for index in new:
            self._wanted.discard(index)
        self._checking.update(new)
        return Arrival.CHECK if new else Arrival.SPARE  # one new chunk is reason enough to look at all of them

    def verified(self, indexes: Iterable[int]) -> None:
        """These chunks are right and written."""
        for index in indexes:
            self._checking.discard(index)
            self._wanted.discard(index)
            self.have.add(index)
            if index in self._pending:
                self._cancel_losers(index)

    def wrong(self, key: bytes, index: int) -> None:
        """What this source sent as chunk `index` is not that chunk."""
        self._checking.discard(index)
        self._want(index)
        self.strike(key)

    def prefer(self, indexes: Iterable[int]) -> None:
        """Ask for the units of these chunks before all others, however common they are: somebody waits for them."""
        self._preferred = tuple(dict.fromkeys(index // UNIT_CHUNKS for index in indexes))

    def lost(self, indexes: Iterable[int]) -> None:
        """Chunks that were held turned out to be damaged on disk."""
        for index in indexes:
            self.have.discard(index)
            self._want(index)

    # --- out -----------------------------------------------------------------------------------------------------

    def commands(self, *, now: float) -> list[Request | Cancel]:
        """Requests and cancellations to send now. Carry all of them out, in order."""
        if self._rank_at is not None and now >= self._rank_at:
            self._rank(now)
        requests: list[Request] = []
        open_sources = [source for source in self.sources.values() if source.paused_until <= now]
        shares = self._shares(open_sources)
        while open_sources:
            open_sources = [source for source in open_sources if self._ask(source, shares, requests, now)]
        if self._wanted.count == 0 and self._pending:
            self._end_game(requests, now)
        cancels, self._cancels = self._cancels, []
        return [*cancels, *requests]

    def next_event(self) -> SourceStalled | SourceBanned | None:
        """What happened to a source, oldest first; None when all was told."""
        return self._events.popleft() if self._events else None

    def next_timer(self) -> float | None:
        """When `handle_timer` has something to do."""
        deadlines = [
            source.last_bytes_at + self.limits.stall_s if source.tickets else source.paused_until
            for source in self.sources.values()
            if source.tickets or source.paused_until
        ]
        return min(deadlines, default=None)

    def handle_timer(self, *, now: float) -> None:
        """Take back what silent sources owe."""
        for source in self.sources.values():
            if source.paused_until <= now:
                source.paused_until = 0.0
            if source.tickets and now - source.last_bytes_at >= self.limits.stall_s:
                for ticket in list(source.tickets.values()):
                    self._cancels.append(Cancel(source.key, ticket.ticket))
                    self._give_back(source, ticket)
                source.pause(now)
                self._events.append(SourceStalled(source.key))

    @property
    def complete(self) -> bool:
        """Whether every chunk is held."""
        return self.have.complete

    def owed_by(self, key: bytes) -> list[int]:
        """Tickets of the requests a source has not answered completely."""
        source = self.sources.get(key)
        return list(source.tickets) if source else []

    @property
    def any_banned(self) -> bool:
        """Whether some source used up its strikes."""
        return any(map(self.banned, self._strikes))

    def can_continue(self) -> bool:
        """Whether a known source owes something or holds something wanted, be it paused."""
        return any(source.tickets or self._next_run(source, 1) for source in self.sources.values())

    @property
    def in_flight(self) -> int:
        """Chunks asked for or not yet verified, copies counted."""
        return sum(source.in_flight for source in self.sources.values()) + len(self._checking)

    # --- inside --------------------------------------------------------------------------------------------------

    def _shares(self, sources: list[SourceState]) -> dict[bytes, int]:
        """Chunks each source may owe: its own window, cut so that the sum stays below the total by speed."""
        known = [source.speed for source in sources if source.speed]
        typical = sum(known) / len(known) if known else 1.0
        total_speed = sum(source.speed or typical for source in sources) or 1.0
        return {
            source.key: min(
                source.window(), max(1, int(self.limits.total_in_flight * (source.speed or typical) / total_speed))
            )
            for source in sources
        }

    def _ask(self, source: SourceState, shares: dict[bytes, int], requests: list[Request], now: float) -> bool:
        """Make one more request of `source` if it has room and holds something wanted."""
        room = min(shares[source.key] - source.in_flight, self.limits.total_in_flight - self.in_flight)
        if room < 1 or len(source.tickets) >= self.limits.requests_per_source:
            return False
        unit = source.request_size()
        if room < unit and source.in_flight:
            return False  # wait for a whole unit's room, or requests would shrink to one chunk each
        run = self._next_run(source, min(room, unit))
        if run is None:
            return False
        self._issue(source, *run, requests, now)
        return True

    def _next_run(self, source: SourceState, limit: int) -> tuple[int, int] | None:
        """The first run of wanted chunks that `source` holds: what is preferred, then in order of rarity."""
        for unit in self._preferred:
            if run := self._run_in(unit, source, limit):
                return run
        while source.cursor < self._units:
            if run := self._run_in(self._order[source.cursor], source, limit):
                return run
            source.cursor += 1
        return None

    def _run_in(self, unit: int, source: SourceState, limit: int) -> tuple[int, int] | None:
        """The first run of wanted chunks of one unit that `source` holds."""
        start = unit * UNIT_CHUNKS
        mask = self._wanted.window(start, UNIT_CHUNKS) & source.holdings.window(start, UNIT_CHUNKS)
        if not mask:
            return None
        offset = (mask & -mask).bit_length() - 1
        run = mask >> offset
        length = (~run & (run + 1)).bit_length() - 1
        return start + offset, min(length, limit)

    def _issue(self, source: SourceState, first: int, length: int, requests: list[Request], now: float) -> None:
        request = source.issue(next(self._tickets), first, length, now)
        for index in range(first, first + length):
            self._wanted.discard(index)
            self._pending[index] = self._pending.get(index, 0) + 1
        requests.append(request.request)

    def _end_game(self, requests: list[Request], now: float) -> None:
        """Nothing is left to ask for: let idle sources race for what slower ones still owe."""
        for idle in self.sources.values():
            if idle.tickets or idle.paused_until > now or self.in_flight >= self.limits.total_in_flight:
                continue
            owed = [
                (other.seconds_left(now, like=idle), ticket)
                for other in self.sources.values()
                if other is not idle
                for ticket in other.tickets.values()
                if all(self._pending.get(i) == 1 and idle.holdings.has(i) for i in ticket.indexes())
            ]
            left, ticket = max(owed, key=lambda pair: (pair[0], pair[1].ticket), default=(0.0, None))
            if ticket is None or left <= idle.seconds_for(ticket.left, like=self.sources[ticket.request.source]):
                continue
            indexes = list(ticket.indexes())[: self.limits.total_in_flight - self.in_flight]
            if indexes[-1] - indexes[0] == len(indexes) - 1:
                self._issue(idle, indexes[0], len(indexes), requests, now)

    def _cancel_losers(self, index: int) -> None:
        """The race for `index` is decided: cancel requests that owe nothing else."""
        for source in self.sources.values():
            for ticket in list(source.tickets.values()):
                if ticket.owes(index) and all(self.have.has(i) for i in ticket.indexes()):
                    self._cancels.append(Cancel(source.key, ticket.ticket))
                    self._give_back(source, ticket)

    def _give_back(self, source: SourceState, ticket: Ticket) -> None:
        source.drop(ticket)
        for index in ticket.indexes():
            self._forget_pending(index)
            self._want(index)

    def _forget_pending(self, index: int) -> None:
        if self._pending[index] == 1:
            del self._pending[index]
        else:
            self._pending[index] -= 1

    def _want(self, index: int) -> None:
        """Make a chunk wanted again, unless it is held or on its way."""
        if index in self._pending or index in self._checking or self.have.has(index):
            return
        self._wanted.add(index)
        unit = index // UNIT_CHUNKS
        for source in self.sources.values():
            source.cursor = min(source.cursor, self._place[unit])

    def _holders_changed(self) -> None:
        self._rank_at = self._ranked_at + RERANK_S

    def _rank(self, now: float) -> None:
        """Order the units by how few sources hold them; in file order while every source holds everything."""
        self._rank_at, self._ranked_at = None, now
        partial = [source.holdings for source in self.sources.values() if not source.holdings.complete]
        if not partial:
            self._order = self._place = range(self._units)
        else:
            holders = [
                sum(1 for holdings in partial if holdings.window(unit * UNIT_CHUNKS, UNIT_CHUNKS))
                for unit in range(self._units)
            ]
            self._order = sorted(range(self._units), key=lambda u: (holders[u], (u - self._first_unit) % self._units))
            place = [0] * self._units
            for position, unit in enumerate(self._order):
                place[unit] = position
            self._place = place
        for source in self.sources.values():
            source.cursor = 0
