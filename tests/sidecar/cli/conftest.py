"""A daemon for the command line: the real API on a real port, found through a real data folder; only `Control` is a fake."""

import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import anyio.from_thread
import pytest
import uvicorn
from typer.testing import CliRunner, Result

from sidecar.api.app import create_app
from sidecar.api.auth import hosts_for_port
from sidecar.cli.main import root_application
from sidecar.paths import DaemonRecord, DataLock, DataPaths, load_or_create_token
from tests.sidecar.api.fake_control import FakeControl

Run = Callable[..., Result]


@pytest.fixture
def paths(tmp_path: Path) -> DataPaths:
    return DataPaths(tmp_path / "data").prepare()


@pytest.fixture
def control() -> FakeControl:
    return FakeControl()


@pytest.fixture
def daemon(paths: DataPaths, control: FakeControl) -> Iterator[FakeControl]:
    """A running daemon on `paths`."""
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    closing = anyio.Event()
    app = create_app(control, token=load_or_create_token(paths), allowed_hosts=hosts_for_port(port), closing=closing)
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", access_log=False, lifespan="off", ws="none"))
    with DataLock(paths), listener, anyio.from_thread.start_blocking_portal() as portal:
        DaemonRecord(1, f"127.0.0.1:{port}", "0.1.0", time.time()).write(paths)
        served = portal.start_task_soon(server.serve, [listener])
        yield control
        portal.call(closing.set)
        server.should_exit = True
        served.result(timeout=10)


@pytest.fixture
def run(paths: DataPaths, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Type a command. Standard output and standard error are kept apart."""
    monkeypatch.setenv("OLLASWARM_DATA_DIR", str(paths.root))

    def typed(*words: str, answer: str | None = None) -> Result:
        return CliRunner().invoke(root_application(), list(words), input=answer)

    return typed
