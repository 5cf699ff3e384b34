"""Server-sent events: what happened, and how one transfer is doing.

Both can be cut at any time without changing anything: `since` (or `Last-Event-ID`) continues the events, and the
progress of a transfer is a series of whole states, never of differences.
"""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING

import anyio
from starlette.responses import Response

from sidecar.errors import SidecarError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.types import Receive, Scope, Send

    from sidecar.control_types import Control

    Emit = Callable[[str, dict[str, object], int | None], Awaitable[None]]
    Producer = Callable[[Emit], Awaitable[None]]

logger = logging.getLogger(__name__)

# Shorter than the idle limits of common proxies and of our own client's read timeout.
HEARTBEAT_S = 15.0
# A transfer is looked at again this often even if no event says so, so that a lost event costs a second, not a hang.
LOOK_AGAIN_S = 1.0


def encode_event(name: str, data: dict[str, object], number: int | None) -> bytes:
    """One server-sent event. JSON has no raw line breaks, so a peer's text cannot start a new field."""
    identity = "" if number is None else f"id: {number}\n"
    return f"{identity}event: {name}\ndata: {json.dumps(data)}\n\n".encode()


class EventStream(Response):
    """A response that lasts until its producer ends, the client leaves, or the daemon closes."""

    media_type = "text/event-stream"

    def __init__(self, produce: Producer, closing: anyio.Event) -> None:
        super().__init__()
        del self.headers["content-length"]
        self._produce = produce
        self._closing = closing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        lock = anyio.Lock()

        async def write(data: bytes, *, more: bool = True) -> None:
            async with lock:
                await send({"type": "http.response.body", "body": data, "more_body": more})

        async def emit(name: str, data: dict[str, object], number: int | None) -> None:
            await write(encode_event(name, data, number))

        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async with anyio.create_task_group() as tasks:

            async def end_when(wait: Callable[[], Awaitable[None]]) -> None:
                await wait()
                tasks.cancel_scope.cancel()

            async def heartbeat() -> None:
                while True:
                    await write(b": still here\n\n")
                    await anyio.sleep(HEARTBEAT_S)

            tasks.start_soon(heartbeat)
            tasks.start_soon(end_when, self._closing.wait)
            tasks.start_soon(end_when, lambda: _disconnected(receive))
            tasks.start_soon(end_when, lambda: self._run(emit))
        await write(b"", more=False)

    async def _run(self, emit: Emit) -> None:
        """The producer; what fails after the headers went out can only be told inside the stream."""
        try:
            await self._produce(emit)
        except SidecarError as error:
            await emit("error", {"error": error.to_json()}, None)
        except OSError:
            logger.debug("the client of an event stream went away")
        except Exception:
            logger.exception("an event stream ended")


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def follow_events(control: Control, since: int | None) -> Producer:
    """All events, numbered, from `since` on."""

    async def produce(emit: Emit) -> None:
        async with control.events(since) as events:
            async for numbered in events:
                await emit(numbered.event.name, numbered.event.to_json(), numbered.number)

    return produce


def follow_transfer(control: Control, transfer: str) -> Producer:
    """The states of one transfer: the present one first, the finished one last. A slow reader skips some."""

    async def produce(emit: Emit) -> None:
        changed = anyio.Event()

        async def notice_changes() -> None:
            nonlocal changed
            async for numbered in events:
                if getattr(numbered.event, "transfer", None) == transfer:
                    changed.set()

        async with control.events() as events, anyio.create_task_group() as tasks:
            tasks.start_soon(notice_changes)
            while True:
                info = await control.transfer(transfer)
                await emit("transfer", info.to_json(), None)
                if info.finished:
                    break
                with anyio.move_on_after(LOOK_AGAIN_S):
                    await changed.wait()
                changed = anyio.Event()
            tasks.cancel_scope.cancel()

    return produce
