"""Drives peer.mjs, or another program that is spoken with in the same way, from a test."""

import json
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
from anyio.streams.buffered import BufferedByteReceiveStream

PEER = Path(__file__).with_name("peer.mjs")
WAIT_S = 30.0
MAX_LINE_BYTES = 1 << 22


class JsPeer:
    """One Node process. Requests are answered in any order; events are kept until somebody waits for them."""

    def __init__(self, process: anyio.abc.Process) -> None:
        self._process = process
        self._next_id = 0
        self._answers: dict[int, dict[str, Any]] = {}
        self._events: list[dict[str, Any]] = []
        self._news = anyio.Condition()

    async def request(self, verb: str, **arguments: Any) -> Any:
        """Send a verb and wait for its answer; an error of the peer is an AssertionError here."""
        self._next_id += 1
        number = self._next_id
        line = json.dumps({"id": number, "verb": verb, **arguments}) + "\n"
        assert self._process.stdin is not None
        await self._process.stdin.send(line.encode())
        with anyio.fail_after(WAIT_S):
            async with self._news:
                while number not in self._answers:
                    await self._news.wait()
        answer = self._answers.pop(number)
        assert "error" not in answer, f"{verb}: {answer['error']}"
        return answer["ok"]

    async def event(self, name: str) -> dict[str, Any]:
        """The oldest event of that name nobody took yet."""
        with anyio.fail_after(WAIT_S):
            async with self._news:
                while True:
                    for event in self._events:
                        if event["event"] == name:
                            self._events.remove(event)
                            return event
                    await self._news.wait()

    def events(self, name: str) -> list[dict[str, Any]]:
        """What came of that name so far and was not taken."""
        return [event for event in self._events if event["event"] == name]

    async def read(self) -> None:
        """Runs beside the test."""
        assert self._process.stdout is not None
        lines = BufferedByteReceiveStream(self._process.stdout)
        while True:
            try:
                message = json.loads(await lines.receive_until(b"\n", MAX_LINE_BYTES))
            except (anyio.IncompleteRead, anyio.EndOfStream):
                return
            async with self._news:
                if "event" in message:
                    self._events.append(message)
                else:
                    self._answers[message["id"]] = message
                self._news.notify_all()


@asynccontextmanager
async def js_peer(program: Path = PEER) -> AsyncIterator[JsPeer]:
    """A running peer; it is gone when the block ends."""
    async with await anyio.open_process(["node", str(program)], stderr=None) as process:
        peer = JsPeer(process)
        async with anyio.create_task_group() as task_group:
            task_group.start_soon(peer.read)
            try:
                yield peer
            finally:
                with anyio.CancelScope(shield=True), anyio.move_on_after(math.inf):
                    process.kill()
                    await process.wait()
                task_group.cancel_scope.cancel()
