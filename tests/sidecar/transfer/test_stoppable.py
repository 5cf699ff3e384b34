from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import anyio
import pytest

from sidecar.transfer.stoppable import run_stoppable

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.anyio


async def test_the_answer_comes_back() -> None:
    assert await run_stoppable(lambda stopped: 7 if not stopped() else 0) == 7


async def test_a_cancelled_caller_goes_on_and_the_work_ends() -> None:
    begun, ended, go_on = threading.Event(), threading.Event(), threading.Event()

    def work(stopped: Callable[[], bool]) -> None:
        begun.set()
        go_on.wait(10)
        if stopped():
            ended.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run_stoppable, work)
        await anyio.to_thread.run_sync(begun.wait, 10)
        tasks.cancel_scope.cancel()
    assert not ended.is_set(), "the caller did not wait for it"
    go_on.set()
    assert await anyio.to_thread.run_sync(ended.wait, 10)
