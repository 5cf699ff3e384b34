"""Fetches in virtual time: real schedulers, providers that are numbers. No second of it is waited for.

A provider sends three chunks at a time at its own rate, each time to the taker it gave least of those that wait, and
knows its answers arrive half a round trip later. What it lies about, and when it is silent, are switches.
"""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING

from sidecar.transfer.chunks import CHUNK_BYTES, ChunkSet
from sidecar.transfer.scheduler import Scheduler
from sidecar.transfer.scheduler_events import Arrival, Request, SchedulerLimits, SourceBanned

if TYPE_CHECKING:
    from collections.abc import Callable

MB = 1_000_000
MESSAGE_CHUNKS = 3
STEP_S = 1.0
"""A fetch looks around at least this often."""
REFRESH_S = 2.0
"""How often a fetch asks sources that hold parts what they hold now."""


class Clock:
    """Things to do, in the order of their time."""

    def __init__(self) -> None:
        self.now = 0.0
        self._todo: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()

    def after(self, seconds: float, do: Callable[[], None]) -> None:
        heapq.heappush(self._todo, (self.now + seconds, next(self._order), do))

    def run(self, until: Callable[[], bool], limit_s: float = 3600.0) -> float:
        """The time at which `until` holds."""
        while not until():
            assert self._todo, "nothing left to happen"
            self.now, _, do = heapq.heappop(self._todo)
            assert self.now < limit_s, "it does not end"
            do()
        return self.now


@dataclass(eq=False)
class Provider:
    """Somebody who has chunks and an uplink."""

    clock: Clock
    key: bytes
    rate: float
    """Bytes per second."""
    round_trip: float = 0.02
    holds: Callable[[int], bool] = lambda index: True
    lies: bool = False
    """Every chunk is wrong."""
    denies: bool = False
    """Refuses all that it says it holds."""
    silent: list[tuple[float, float]] = field(default_factory=list)
    """From when until when nothing leaves it; what was asked meanwhile is answered afterwards."""
    sent: int = 0
    """Chunks."""
    given: dict[bytes, int] = field(default_factory=dict)
    _waiting: dict[Fetcher, deque[list[int]]] = field(default_factory=dict)
    """By taker: ticket, next chunk, chunks left."""
    _busy: bool = False

    def asked(self, taker: Fetcher, request: Request) -> None:
        if self.denies:
            self.clock.after(self.round_trip, lambda: taker.refused(self, request))
            return
        self._waiting.setdefault(taker, deque()).append([request.ticket, request.first, request.count])
        self._begin()

    def cancelled(self, taker: Fetcher, ticket: int) -> None:
        waiting = [each for each in self._waiting.get(taker, ()) if each[0] != ticket]
        self._waiting[taker] = deque(waiting)

    def _begin(self) -> None:
        if not self._busy and any(self._waiting.values()):
            self._busy = True
            ends = [end for begin, end in self.silent if begin <= self.clock.now < end]
            self.clock.after(max(ends, default=self.clock.now) - self.clock.now, self._send)

    def _send(self) -> None:
        takers = [taker for taker, waiting in self._waiting.items() if waiting]
        if not takers:
            self._busy = False
            return
        if any(begin <= self.clock.now < end for begin, end in self.silent):
            self._busy = False
            self._begin()
            return
        taker = min(takers, key=lambda each: self.given.get(each.key, 0))
        oldest = self._waiting[taker][0]
        ticket, first, _ = oldest
        length = min(MESSAGE_CHUNKS, oldest[2])
        oldest[1] += length
        oldest[2] -= length
        if not oldest[2]:
            self._waiting[taker].popleft()
        self.sent += length
        self.given[taker.key] = self.given.get(taker.key, 0) + length
        seconds = length * CHUNK_BYTES / self.rate
        self.clock.after(seconds + self.round_trip / 2, lambda: taker.received(self, ticket, first, length))
        self.clock.after(seconds, self._done)

    def _done(self) -> None:
        self._busy = False
        self._begin()


@dataclass(eq=False)
class Fetcher:
    """Somebody who fetches, and carries out what the scheduler says."""

    clock: Clock
    key: bytes
    total: int
    seed: int = 0
    limits: SchedulerLimits | None = None
    sources: dict[bytes, Provider] = field(default_factory=dict)
    finished_at: float | None = None
    received_chunks: int = 0
    banned: list[bytes] = field(default_factory=list)
    came: dict[bytes, list[float]] = field(default_factory=dict)
    """When chunks came, by source."""
    _timer_at: float = float("inf")

    def __post_init__(self) -> None:
        self.scheduler = Scheduler(self.total, ChunkSet(self.total), limits=self.limits, seed=self.seed)
        self.clock.after(REFRESH_S, self._refresh)
        self.clock.after(STEP_S, self._step)

    def meet(self, provider: Provider) -> None:
        self.sources[provider.key] = provider
        self.scheduler.add_source(provider.key, self._holdings(provider), now=self.clock.now)
        self.pump()

    def received(self, provider: Provider, ticket: int, first: int, length: int) -> None:
        if self.finished_at is not None:
            return
        plan = self.scheduler
        self.received_chunks += length
        self.came.setdefault(provider.key, []).append(self.clock.now)
        if plan.arrived(provider.key, ticket, first, length, now=self.clock.now) is Arrival.CHECK:
            indexes = range(first, first + length)
            if provider.lies:
                for index in indexes:
                    plan.wrong(provider.key, index)
            else:
                plan.verified(indexes)
        self.pump()

    def refused(self, provider: Provider, request: Request) -> None:
        self.scheduler.refused(provider.key, request.ticket, gone=True, now=self.clock.now)
        self.pump()

    def pump(self) -> None:
        if self.scheduler.complete and self.finished_at is None:
            self.finished_at = self.clock.now
        for command in self.scheduler.commands(now=self.clock.now):
            provider = self.sources[command.source]
            if isinstance(command, Request):
                self.clock.after(provider.round_trip / 2, lambda p=provider, c=command: p.asked(self, c))  # type: ignore[misc]
            else:
                self.clock.after(
                    provider.round_trip / 2,
                    lambda p=provider, c=command: p.cancelled(self, c.ticket),  # type: ignore[misc]
                )
        while (event := self.scheduler.next_event()) is not None:
            if isinstance(event, SourceBanned):
                self.banned.append(event.source)
        timer = self.scheduler.next_timer()
        if timer is not None and timer < self._timer_at:
            self._timer_at = timer
            self.clock.after(max(0.0, timer - self.clock.now), self._timer)

    def _timer(self) -> None:
        self._timer_at = float("inf")
        self.scheduler.handle_timer(now=self.clock.now)
        if self.finished_at is None:
            self.pump()

    def _step(self) -> None:
        if self.finished_at is None:
            self.pump()
            self.clock.after(STEP_S, self._step)

    def _refresh(self) -> None:
        if self.finished_at is None:
            for key, provider in self.sources.items():
                held = self._holdings(provider)
                if key in self.scheduler.sources and not (provider.denies and held.complete):
                    self.scheduler.update_holdings(key, held)
            self.pump()
            self.clock.after(REFRESH_S, self._refresh)

    def _holdings(self, provider: Provider) -> ChunkSet:
        held = ChunkSet(self.total)
        for index in range(self.total):
            if provider.holds(index):
                held.add(index)
        return held


def fetch(clock: Clock, total: int, *providers: Provider, **options: object) -> Fetcher:
    """A fetch of `total` chunks from these, run to its end."""
    fetcher = Fetcher(clock, b"fetcher", total, **options)  # type: ignore[arg-type]
    for provider in providers:
        fetcher.meet(provider)
    clock.run(lambda: fetcher.finished_at is not None)
    return fetcher
