"""The child processes of the demo: stand-in servers, sidecars, strangers. All gone when their `with` block ends."""

from __future__ import annotations

import contextlib
import functools
import os
import subprocess
import sys
import threading
import time
from typing import IO, TYPE_CHECKING, Any, Self

from sidecar.cli.client import find_daemon
from sidecar.config import ENVIRONMENT_PREFIX
from sidecar.errors import DaemonError, SidecarError
from sidecar.paths import DataPaths

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path
    from types import TracebackType

    from sidecar.cli.client import ApiClient

START_S = 60.0
"""A busy machine takes long to start a Python process; beyond this it hangs."""
STOP_S = 10.0
EVENT_S = 30.0
LOG_LINES = 12


class Child:
    """A Python module running as a process, which says in its first line of output that it is ready.

    It is started at once and waited for when that line is wanted, so that several can start beside each other.
    """

    def __init__(self, name: str, arguments: Sequence[str], log: Path, *, stdin: str = "") -> None:
        self.name = name
        self._log_path = log
        with log.open("wb") as errors:
            self._process: subprocess.Popen[str] = subprocess.Popen(  # noqa: S603  # our own modules
                [sys.executable, "-m", *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                encoding="utf-8",
                env=_environment(),
                # Ctrl-C is for the demo, which ends its children in order; they must not hear of it first.
                **_own_group(),
            )
        assert self._process.stdin is not None
        with contextlib.suppress(OSError), self._process.stdin as pipe:
            pipe.write(stdin)

    @functools.cached_property
    def first_line(self) -> str:
        """What it said first; waits for it.

        Raises:
            DaemonError: It ended, or said nothing for a minute. The cause has the end of its log.
        """
        assert self._process.stdout is not None
        output: IO[str] = self._process.stdout
        patience = threading.Timer(START_S, self._process.kill)
        patience.start()
        try:
            line = output.readline().strip()
        finally:
            patience.cancel()
        if not line:
            raise DaemonError(f"{self.name} did not start:\n{self.log_tail()}", "Run `ollaswarm demo` again.")
        return line

    def ask_to_end(self) -> None:
        """Do not wait for it: others can be asked meanwhile."""
        if self._process.poll() is None:
            self._process.terminate()

    def stop(self) -> None:
        """Ask it to end, and end it if it does not."""
        if self._process.poll() is None:
            self.ask_to_end()
            try:
                self._process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def log_tail(self) -> str:
        """The last lines it logged."""
        lines = self._log_path.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(lines[-LOG_LINES:])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def start_standin(store: Path, adapters: str, log: Path) -> Child:
    """A stand-in Ollama server; `first_line` is its URL."""
    store.mkdir(parents=True)
    arguments = ["ollama_bridge.standin", "--store", str(store), "--adapters", adapters]
    return Child(f"the stand-in Ollama ({adapters})", arguments, log)


def start_sidecar(name: str, folder: Path, ollama: str, network: Sequence[str], *, store: Path | None) -> Child:
    """A daemon with a data folder of its own; see `running_sidecar`."""
    arguments = ["sidecar.cli.main", "up", "--json", "--data-dir", str(folder), "--ollama", ollama]
    arguments += ["--api", "127.0.0.1:0", "--listen", "127.0.0.1:0", "--no-mdns", *network]
    arguments += [] if store is None else ["--store", str(store)]
    return Child(f"sidecar {name}", arguments, folder.with_suffix(".log"))


@contextlib.contextmanager
def attached(child: Child, folder: Path) -> Iterator[RunningSidecar]:
    """The API of a daemon that was started on a data folder, as soon as it answers. The daemon is stopped at the end."""
    with contextlib.ExitStack() as exits:
        exits.callback(child.stop)
        assert child.first_line, "only then its files are there"
        api = exits.enter_context(find_daemon(DataPaths(folder)))
        sidecar = RunningSidecar(child, api)
        exits.callback(sidecar.join)
        exits.callback(child.stop)  # again, and first: the stream of events must end before its client is closed
        yield sidecar


@contextlib.contextmanager
def running_sidecar(
    name: str, folder: Path, ollama: str, *, store: Path | None, peer: str | None = None
) -> Iterator[RunningSidecar]:
    """A daemon that listens and dials on loopback only.

    Args:
        store: Ollama's store; None: the daemon finds it.
        peer: "host:port" of another one's listener.
    """
    network = ["--no-dht", *([] if peer is None else ["--peer", peer])]
    with attached(start_sidecar(name, folder, ollama, network, store=store), folder) as sidecar:
        yield sidecar


class RunningSidecar:
    """The API of a running daemon, and every event since its start."""

    def __init__(self, child: Child, api: ApiClient) -> None:
        self.api = api
        self._child = child
        self._events: list[dict[str, Any]] = []
        self._news = threading.Condition()
        self._listener = threading.Thread(target=self._listen, name=f"events of {child.name}", daemon=True)
        self._listener.start()
        status = api.get("/status")
        self.listening: str = status["listen"][0]
        self.key: str = status["key"]

    def event(self, name: str, timeout_s: float = EVENT_S, **wanted: object) -> dict[str, Any]:
        """The first event of that name with those fields since the start, with its time under `at`; waits for it.

        Raises:
            DaemonError: It did not happen in time.
        """
        with self._news:
            found = self._news.wait_for(lambda: self._first(name, wanted), timeout_s)
        if found is None:
            cause = f"{self._child.name} told no {name} within {timeout_s:.0f} s:\n{self._child.log_tail()}"
            raise DaemonError(cause, "Run `ollaswarm demo` again.")
        return found

    def join(self) -> None:
        """Wait for the end of the events, after the daemon ended."""
        self._listener.join(STOP_S)

    def _first(self, name: str, wanted: dict[str, object]) -> dict[str, Any] | None:
        for event in self._events:
            if event["event"] == name and all(event[key] == value for key, value in wanted.items()):
                return event
        return None

    def _listen(self) -> None:
        with contextlib.suppress(SidecarError):  # the daemon was stopped
            for event in self.api.follow_events(since=0):
                with self._news:
                    self._events.append(event | {"at": time.monotonic()})
                    self._news.notify_all()


def _environment() -> dict[str, str]:
    """Ours, without settings of the user's own daemon."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ENVIRONMENT_PREFIX)}
    return kept | {"PYTHONUNBUFFERED": "1"}


def _own_group() -> dict[str, Any]:
    if sys.platform == "win32":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
    return {"start_new_session": True}
