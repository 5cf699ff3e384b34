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
from sidecar.transfer.end_game import owed_chunks, race
from sidecar.transfer.rarity import UnitOrder
from sidecar.transfer.scheduler_events import Arrival, Cancel, Request, SchedulerLimits, SourceBanned, SourceStalled
from sidecar.transfer.source_state import REQUESTS_IN_SHARE, UNIT_CHUNKS, SourceState, Ticket

if TYPE_CHECKING:
    from collections.abc import Iterable

UNKNOWN_SPEED = 1e8
"""Bytes per second assumed of sources while none was measured: nobody is doubted before he had the time to answer."""
LEAST_UNIT = 8
"""What is left to ask for is dealt out in smaller requests when it is less than a unit for everyone, to this many chunks:
the last to finish should not have got 3 MiB alone."""


class Scheduler:
    """Plans one fetch. See the module docstring for the states of a chunk.

    Args:
        total: Chunks of the blob.
        have: Chunks already held.
        limits: Bounds, for tests to tighten.
        seed: Makes the order among equally rare units our own. Peers that fetch the same blob at the same time each have
            another, and so soon hold what the others lack.
    """

    def __init__(self, total: int, have: ChunkSet, *, limits: SchedulerLimits | None = None, seed: int = 0) -> None:
        self.have = have.copy()
        self.limits = limits or SchedulerLimits()
        self.sources: dict[bytes, SourceState] = {}
        self._strikes: Counter[bytes] = Counter()  # outlives the source: leaving and coming back changes nothing
        self._banned: set[bytes] = set()
        self._wanted = ChunkSet(total)
        for first, length in have.missing_runs():
            self._wanted.add_range(first, length)
        self._pending: dict[int, int] = {}  # how many sources owe a chunk
        self._checking: set[int] = set()
        self._order = UnitOrder(-(-total // UNIT_CHUNKS), seed)
        self._preferred: tuple[int, ...] = ()
        self._tickets = count(1)
        self._events: deque[SourceStalled | SourceBanned] = deque()
        self._cancels: list[Cancel] = []
        self._probes: list[Request] = []

    # --- sources -------------------------------------------------------------------------------------------------

    def add_source(self, key: bytes, holdings: ChunkSet, *, now: float) -> None:
        """A source is ready to be asked. A banned key is ignored."""
        if not self.banned(key):
            self.remove_source(key)
            self.sources[key] = SourceState(key, holdings.copy(), last_bytes_at=now)
            self._order.holders_changed()

    def update_holdings(self, key: bytes, holdings: ChunkSet) -> None:
        """A source now holds something else, or says again what it holds."""
        if source := self.sources.get(key):
            changed = source.holdings != holdings
            source.hold(holdings.copy())
            if changed:
                self._order.holders_changed()

    def remove_source(self, key: bytes) -> None:
        """A source is gone; what it owed goes to others."""
        if source := self.sources.pop(key, None):
            for ticket in list(source.tickets.values()):
                self._give_back(source, ticket)
            self._order.holders_changed()

    def refused(self, key: bytes, ticket_id: int, *, gone: bool, now: float) -> None:
        """A source refused a request: because it does not hold the chunks (`gone`), or because it is busy."""
        source = self.sources.get(key)
        if source is None:
            return
        source.hear(now)
        if ticket := source.tickets.get(ticket_id):
            self._give_back(source, ticket)
        if not gone:
            source.pause(now)
        elif source.deny():
            self._ban(key)

    def wait(self, key: bytes, until: float) -> None:
        """What this source sent waits here for a cap of our own until then: that is no silence of its."""
        if source := self.sources.get(key):
            source.hear(until)

    def denied(self, key: bytes) -> bool:
        """Whether a source refused what it said it holds: it is not asked again before `update_holdings`."""
        source = self.sources.get(key)
        return source is not None and source.denied

    def strike(self, key: bytes) -> None:
        """A source gave wrong data: the chunk table, a chunk, or one nobody asked for."""
        self._strikes[key] += 1
        if self._strikes[key] == self.limits.strikes:
            self._ban(key)

    def _ban(self, key: bytes) -> None:
        self._banned.add(key)
        if source := self.sources.get(key):
            self._cancels += [Cancel(key, ticket) for ticket in source.tickets]
            self.remove_source(key)
        self._events.append(SourceBanned(key))

    def banned(self, key: bytes) -> bool:
        """Whether this key is not asked again for this blob."""
        return key in self._banned

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
            self._cancel_spare(source, ticket)
        elif not source.take_late(ticket_id, first, count, now):
            self.strike(key)
            return Arrival.UNREQUESTED
        new = [index for index in indexes if not self._came(index)]
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
        if self._order.rank([source.holdings for source in self.sources.values()], now):
            for source in self.sources.values():
                source.cursor = 0
        requests: list[Request] = []
        asking = [source for source in self.sources.values() if source.available(now)]
        shares = self._shares(asking)
        room = self.limits.total_in_flight - self.in_flight
        while asking and room > 0:
            still = []
            most = max(LEAST_UNIT, self._wanted.count // len(shares))
            for source in asking:
                if asked := self._ask(source, shares[source.key], min(room, most), requests, now):
                    room -= asked
                    still.append(source)
            asking = still
        if self._wanted.count == 0 and self._pending:
            self._end_game(requests, now)
        cancels, self._cancels = self._cancels, []
        probes, self._probes = self._probes, []
        return [*cancels, *probes, *requests]

    def next_event(self) -> SourceStalled | SourceBanned | None:
        """What happened to a source, oldest first; None when all was told."""
        return self._events.popleft() if self._events else None

    def next_timer(self) -> float | None:
        """When `handle_timer` has something to do."""
        deadlines = [
            source.last_bytes_at + source.patience(self.limits.stall_s) if source.tickets else source.paused_until
            for source in self.sources.values()
            if source.tickets or source.paused_until
        ]
        return min(deadlines, default=None)

    def handle_timer(self, *, now: float) -> None:
        """Take back what silent sources owe."""
        for source in self.sources.values():
            if source.paused_until <= now:
                source.paused_until = 0.0
            if source.tickets and now >= source.last_bytes_at + source.patience(self.limits.stall_s):
                owed = [index for ticket in source.tickets.values() for index in ticket.indexes()]
                wanted = next((index for index in owed if not self._came(index)), owed[0])
                for ticket in list(source.tickets.values()):
                    self._cancels.append(Cancel(source.key, ticket.ticket))
                    self._give_back(source, ticket)
                self._probes.append(source.probe(next(self._tickets), wanted, now))
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
    def any_lied(self) -> bool:
        """Whether some source used up its strikes."""
        return any(strikes >= self.limits.strikes for strikes in self._strikes.values())

    def can_continue(self) -> bool:
        """Whether a known source owes something or holds something wanted, be it paused."""
        return any(source.tickets or self._next_run(source, 1) for source in self.sources.values())

    @property
    def in_flight(self) -> int:
        """Chunks asked for or not yet verified, copies counted."""
        return sum(source.in_flight for source in self.sources.values()) + len(self._checking)

    # --- inside --------------------------------------------------------------------------------------------------

    def _typical_speed(self) -> float:
        known = [source.speed for source in self.sources.values() if source.speed]
        return sum(known) / len(known) if known else UNKNOWN_SPEED

    def _shares(self, sources: list[SourceState]) -> dict[bytes, int]:
        """Chunks each source may owe: its own window, cut so that the sum stays below the total by speed."""
        typical = self._typical_speed()
        total_speed = sum(source.speed or typical for source in sources) or 1.0
        return {
            source.key: min(
                source.window(), max(1, int(self.limits.total_in_flight * (source.speed or typical) / total_speed))
            )
            for source in sources
        }

    def _ask(self, source: SourceState, share: int, most: int, requests: list[Request], now: float) -> int:
        """Make one more request of `source` if it has room and holds something wanted. Gives the chunks asked for."""
        room = share - source.in_flight
        if min(room, most) < 1 or len(source.tickets) >= self.limits.requests_per_source:
            return 0
        unit = min(source.request_size(), most)
        if share < source.window():
            unit = min(unit, max(1, share // REQUESTS_IN_SHARE))
        if room < unit and source.in_flight:
            return 0  # wait for a whole unit's room, or requests would shrink to one chunk each
        run = self._next_run(source, min(room, unit))
        if run is None:
            return 0
        self._issue(source, *run, requests, now)
        return run[1]

    def _next_run(self, source: SourceState, limit: int) -> tuple[int, int] | None:
        """The first run of wanted chunks that `source` holds: what is preferred, then in order of rarity."""
        for unit in self._preferred:
            if run := self._run_in(unit, source, limit):
                return run
        order = self._order.units
        while source.cursor < len(order):
            if run := self._run_in(order[source.cursor], source, limit):
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
        idle = [source for source in self.sources.values() if not source.tickets and source.available(now)]
        if not idle:
            return
        typical = self._typical_speed()
        owed = owed_chunks(self.sources.values(), self._came, typical, now)
        idle.sort(key=lambda source: (not source.proven, -(source.speed or typical)))
        for source in idle:
            limit = min(source.request_size(), self.limits.total_in_flight - self.in_flight)
            if run := race(source, owed, source.speed or typical, limit):
                self._issue(source, *run, requests, now)

    def _cancel_losers(self, index: int) -> None:
        """The race for `index` is decided."""
        for source in self.sources.values():
            for ticket in list(source.tickets.values()):
                if ticket.owes(index):
                    self._cancel_spare(source, ticket)

    def _cancel_spare(self, source: SourceState, ticket: Ticket) -> None:
        """Cancel a request that owes nothing but what is held."""
        if ticket.left and all(self.have.has(index) for index in ticket.indexes()):
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

    def _came(self, index: int) -> bool:
        return index in self._checking or self.have.has(index)

    def _want(self, index: int) -> None:
        """Make a chunk wanted again, unless it is held or on its way."""
        if index in self._pending or self._came(index):
            return
        self._wanted.add(index)
        unit = index // UNIT_CHUNKS
        for source in self.sources.values():
            source.cursor = min(source.cursor, self._order.place(unit))
