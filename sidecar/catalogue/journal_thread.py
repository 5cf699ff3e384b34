"""The journal for callers in the event loop: one piece of work at a time, in a worker thread."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import anyio
from anyio import to_thread

if TYPE_CHECKING:
    from collections.abc import Callable

    from .journal import Journal

T = TypeVar("T")


class JournalThread:
    """Runs work on a journal, in the order it was asked for. Cancelling the caller does not stop work that began."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._turn = anyio.CapacityLimiter(1)

    async def run(self, work: Callable[[Journal], T]) -> T:
        """Do `work(journal)` and return its result."""
        return await to_thread.run_sync(work, self._journal, limiter=self._turn)
