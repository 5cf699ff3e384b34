"""Long reading in a worker thread that does not outlive who waits for it."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, TypeVar

from anyio import to_thread

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


async def run_stoppable(work: Callable[[Callable[[], bool]], T]) -> T:
    """Run blocking work in a thread; when the caller is cancelled, it goes on at once and the work is told to end.

    Hashing a model takes minutes, and neither a cancelled transfer nor a daemon that stops can wait for that.

    Args:
        work: Given a function that says whether to stop; asks it every few milliseconds, and changes nothing on the disk.
    """
    stop = threading.Event()
    try:
        return await to_thread.run_sync(work, stop.is_set, abandon_on_cancel=True)
    finally:
        stop.set()
