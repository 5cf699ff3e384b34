"""Ending a program politely when the system asks for it."""

import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
from anyio.abc import TaskStatus


@asynccontextmanager
async def stop_on_signals(*signals: signal.Signals) -> AsyncGenerator[None]:
    """Cancel the block on SIGTERM or SIGINT (or the given signals), and go on behind it.

        async with stop_on_signals(), Hyperswarm() as swarm:
            ...

    The resources inside then close as after any other end: a swarm takes its announces back. Where there are no such signals
    (Windows), the block just runs; Ctrl-C cancels the main task there by itself.
    """
    if sys.platform == "win32":
        yield
        return
    try:
        async with anyio.create_task_group() as tasks:
            await tasks.start(_cancel_on, signals or (signal.SIGTERM, signal.SIGINT), tasks.cancel_scope)
            yield
            tasks.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        if len(group.exceptions) == 1:  # the block's own, which is nobody else's business
            raise group.exceptions[0] from None
        raise


async def _cancel_on(
    signals: tuple[signal.Signals, ...], scope: anyio.CancelScope, *, task_status: TaskStatus[None]
) -> None:
    with anyio.open_signal_receiver(*signals) as received:
        task_status.started()
        async for _ in received:
            scope.cancel()
            return
