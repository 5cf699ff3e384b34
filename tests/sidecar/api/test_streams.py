"""Server-sent events over raw ASGI, so that a client that leaves is one line of the test."""

import json
from collections.abc import AsyncIterator, MutableMapping
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from anyio.streams.memory import MemoryObjectReceiveStream

from sidecar.api.app import create_app
from sidecar.api.auth import hosts_for_port
from sidecar.control_types import GetOptions
from tests.sidecar.api.conftest import PORT, TOKEN
from tests.sidecar.api.fake_control import FakeControl, base_missing, lost_event

pytestmark = pytest.mark.anyio


class OpenStream:
    """One request under way: what came so far, and the switch that hangs up."""

    def __init__(self, messages: MemoryObjectReceiveStream[dict[str, object]]) -> None:
        self._messages = messages
        self._buffer = b""
        self.hang_up = anyio.Event()

    async def status(self) -> object:
        return (await self._messages.receive())["status"]

    async def next_event(self) -> tuple[str, dict[str, object], str | None]:
        """The next event: name, data, id. Heartbeats are skipped."""
        while True:
            while b"\n\n" not in self._buffer:
                message = await self._messages.receive()
                assert isinstance(message["body"], bytes)
                if not message.get("more_body"):
                    raise anyio.EndOfStream
                self._buffer += message["body"]
            block, _, self._buffer = self._buffer.partition(b"\n\n")
            fields = dict(line.split(": ", 1) for line in block.decode().split("\n"))
            if "data" in fields:
                return fields["event"], json.loads(fields["data"]), fields.get("id")


@asynccontextmanager
async def opened(
    control: FakeControl, path: str, *, closing: anyio.Event | None = None, headers: dict[str, str] | None = None
) -> AsyncIterator[OpenStream]:
    app = create_app(control, token=TOKEN, allowed_hosts=hosts_for_port(PORT), closing=closing)
    route, _, query = path.partition("?")
    given = {"host": f"127.0.0.1:{PORT}", "authorization": f"Bearer {TOKEN}"} | (headers or {})
    scope: dict[str, object] = {
        "type": "http",
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": f"/api/v1{route}",
        "raw_path": f"/api/v1{route}".encode(),
        "query_string": query.encode(),
        "headers": [(name.encode(), value.encode("utf-8")) for name, value in given.items()],
        "server": ("127.0.0.1", PORT),
        "client": ("127.0.0.1", 5),
        "root_path": "",
    }
    sender, messages = anyio.create_memory_object_stream[dict[str, object]](100)
    stream = OpenStream(messages)

    async def receive() -> dict[str, object]:
        await stream.hang_up.wait()
        return {"type": "http.disconnect"}

    async def send(message: MutableMapping[str, Any]) -> None:
        await sender.send(dict(message))

    async def run() -> None:
        await app(scope, receive, send)

    async with messages, sender, anyio.create_task_group() as tasks:
        with anyio.fail_after(10):
            tasks.start_soon(run)
            yield stream
            stream.hang_up.set()


async def test_events_arrive_as_they_happen(control: FakeControl) -> None:
    async with opened(control, "/events") as stream:
        assert await stream.status() == 200
        await control.wait_for_subscribers(1)
        control.emit(lost_event())
        name, data, number = await stream.next_event()
    assert (name, number) == ("ollama:lost", "1")
    assert data == {"event": "ollama:lost", "url": "http://127.0.0.1:11434", "cause": "connection refused"}


@pytest.mark.parametrize(("query", "header"), [("?since=1", {}), ("", {"last-event-id": "1"})])
async def test_a_cut_stream_continues(control: FakeControl, query: str, header: dict[str, str]) -> None:
    for _ in range(3):
        control.emit(lost_event())
    async with opened(control, f"/events{query}", headers=header) as stream:
        await stream.status()
        assert [(await stream.next_event())[2] for _ in range(2)] == ["2", "3"]


@pytest.mark.parametrize("last", ["", "x", "-1", "9" * 400, "\u0661"])
async def test_a_senseless_last_event_id_is_ignored(control: FakeControl, last: str) -> None:
    async with opened(control, "/events", headers={"last-event-id": last}) as stream:
        assert await stream.status() == 200
        await control.wait_for_subscribers(1)


async def test_a_client_that_leaves_is_unsubscribed(control: FakeControl) -> None:
    async with opened(control, "/events") as stream:
        await control.wait_for_subscribers(1)
        stream.hang_up.set()
        await control.wait_for_subscribers(0)


async def test_closing_the_daemon_ends_streams(control: FakeControl) -> None:
    closing = anyio.Event()
    async with opened(control, "/events", closing=closing) as stream:
        await stream.status()
        await control.wait_for_subscribers(1)
        closing.set()
        with pytest.raises(anyio.EndOfStream):
            await stream.next_event()
    assert control.subscribers == 0


async def test_peer_text_cannot_forge_an_event(control: FakeControl) -> None:
    event = lost_event()
    object.__setattr__(event, "cause", "x\n\nevent: forged\ndata: {}\r\n\u2028")
    async with opened(control, "/events") as stream:
        await control.wait_for_subscribers(1)
        await stream.status()
        control.emit(event)
        control.emit(lost_event())
        assert (await stream.next_event())[1]["cause"] == event.cause
        assert (await stream.next_event())[0] == "ollama:lost"


async def started(control: FakeControl) -> None:
    await control.get("sql-lora", GetOptions())


async def test_progress_starts_with_now_and_ends_finished(control: FakeControl) -> None:
    await started(control)
    async with opened(control, "/transfers/t1/progress") as stream:
        await stream.status()
        assert (await stream.next_event())[1]["done_bytes"] == 0
        control.advance(65536)
        assert (await stream.next_event())[1]["done_bytes"] == 65536
        control.finish()
        last = (await stream.next_event())[1]
        with pytest.raises(anyio.EndOfStream):
            await stream.next_event()
    assert last["state"] == "done"
    assert isinstance(last["result"], dict)
    assert last["result"]["installed_as"] == "sql-lora:latest"


async def test_progress_of_a_failed_transfer_says_why(control: FakeControl) -> None:
    await started(control)
    async with opened(control, "/transfers/t1/progress") as stream:
        await stream.status()
        await stream.next_event()
        control.finish(base_missing())
        last = (await stream.next_event())[1]
    assert last["error"] == base_missing().to_json()


async def test_a_watcher_that_leaves_does_not_end_the_transfer(control: FakeControl) -> None:
    await started(control)
    async with opened(control, "/transfers/t1/progress") as stream:
        await stream.status()
        await stream.next_event()
        stream.hang_up.set()
        await control.wait_for_subscribers(0)
    control.advance(65536)
    async with opened(control, "/transfers/t1/progress") as again:
        await again.status()
        assert (await again.next_event())[1]["done_bytes"] == 65536
    assert not (await control.transfer("t1")).finished


async def test_progress_of_an_unknown_transfer_is_a_404(control: FakeControl) -> None:
    async with opened(control, "/transfers/nope/progress") as stream:
        assert await stream.status() == 404
