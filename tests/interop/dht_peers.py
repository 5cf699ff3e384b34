"""Drives dht_peer.mjs and dht_peer.py: the official stack and ours behind one interface, each in a process of its own.

    with Peer("js") as left, Peer("py") as right:
        bootstrap = left.testnet()
        right.call("init", bootstrap=bootstrap)
        server = right.call("listen")
        opened = right.begin("receive", conn=0, bytes=1 << 20)      # a Future: several requests may be under way
        right.event("connection")                                   # the oldest one nobody took yet

Every wait has a limit. What a process says on stderr is part of the error when it does not answer.
"""

from __future__ import annotations

import collections
import contextlib
import json
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Kind = Literal["js", "py"]
HERE = Path(__file__).parent
PROGRAMS: dict[Kind, list[str]] = {
    "js": ["node", str(HERE / "dht_peer.mjs")],
    "py": [sys.executable, str(HERE / "dht_peer.py")],
}
WAIT_S = 20.0
EXIT_S = 10.0
STDERR_LINES = 50


class PeerError(Exception):
    """The peer answered a request with an error."""

    def __init__(self, message: str, code: str | None) -> None:
        super().__init__(message if code is None else f"{code}: {message}")
        self.code = code


class PeerSilent(Exception):
    """The peer did not say in time what was waited for, or its process is gone."""


class Peer:
    """One process. Thread-safe."""

    def __init__(self, kind: Kind, *, prefix: Sequence[str] = (), options: Sequence[str] = ()) -> None:
        """
        Args:
            kind: The official packages or ours.
            prefix: A command that runs the program, for instance in a network namespace.
            options: More arguments of the program.
        """
        self.kind: Kind = kind
        self._process = subprocess.Popen(
            [*prefix, *PROGRAMS[kind], *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._news = threading.Condition()
        self._next_id = 0
        self._waiting: dict[int, Future[Any]] = {}
        self._events: list[dict[str, Any]] = []
        self._stderr: collections.deque[str] = collections.deque(maxlen=STDERR_LINES)
        self._gone = False
        self._threads = [self._thread(self._read), self._thread(self._read_errors)]

    @property
    def pid(self) -> int:
        return self._process.pid

    # ------------------------------------------------------------ requests

    def begin(self, verb: str, **arguments: Any) -> Future[Any]:
        """Send a request; `wait` for its answer."""
        future: Future[Any] = Future()
        with self._news:
            self._next_id += 1
            number = self._next_id
            self._waiting[number] = future
        with contextlib.suppress(OSError):  # it is gone: the future is told by the reader
            print(json.dumps({"id": number, "verb": verb, **arguments}), file=self._stdin, flush=True)
        if self._gone:
            self._abandon()
        return future

    def wait(self, future: Future[Any], timeout_s: float = WAIT_S) -> Any:
        """The answer.

        Raises:
            PeerError: It is an error.
            PeerSilent: None came in time.
        """
        try:
            return future.result(timeout_s)
        except TimeoutError:
            raise PeerSilent(f"{self.kind} peer: no answer in {timeout_s} s{self._said()}") from None

    def call(self, verb: str, timeout_s: float = WAIT_S, **arguments: Any) -> Any:
        """Send a request and wait for its answer."""
        return self.wait(self.begin(verb, **arguments), timeout_s)

    # ------------------------------------------------------------ events

    def event(self, name: str, timeout_s: float = WAIT_S, **fields: Any) -> dict[str, Any]:
        """The oldest event of that name, with these values, that nobody took yet."""

        def take() -> dict[str, Any] | None:
            for event in self._events:
                if event["event"] == name and all(event.get(key) == value for key, value in fields.items()):
                    self._events.remove(event)
                    return event
            return None

        with self._news:
            taken = self._until(take, timeout_s)
        if taken is None:
            raise PeerSilent(
                f"{self.kind} peer: no {name!r}{f' with {fields}' if fields else ''} in {timeout_s} s{self._said()}"
            )
        return taken

    def events(self, name: str) -> list[dict[str, Any]]:
        """What came of that name so far and was not taken."""
        with self._news:
            return [event for event in self._events if event["event"] == name]

    def _until(self, take: Callable[[], dict[str, Any] | None], timeout_s: float) -> dict[str, Any] | None:
        deadline = time.monotonic() + timeout_s
        while (taken := take()) is None:
            left = deadline - time.monotonic()
            if self._gone or left <= 0:
                return None
            self._news.wait(left)
        return taken

    # ------------------------------------------------------------ what several tests do

    def testnet(self, size: int = 5) -> list[str]:
        """Start a DHT in that process; its bootstrap list."""
        return list(self.call("testnet", size=size)["bootstrap"])

    def data(self, conn: int, timeout_s: float = WAIT_S) -> bytes:
        """The next message of a connection that neither echoes nor receives in bulk."""
        return bytes.fromhex(self.event("data", timeout_s, conn=conn)["hex"])

    # ------------------------------------------------------------ the end

    def terminate(self, timeout_s: float = EXIT_S) -> int:
        """Ask the process to leave in order (SIGTERM); its exit code."""
        self._process.terminate()
        return self._process.wait(timeout_s)

    def kill(self) -> None:
        """It has no time for goodbyes."""
        self._process.kill()
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.kill()
        for thread in self._threads:
            thread.join()
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            with contextlib.suppress(OSError):
                assert pipe is not None
                pipe.close()

    # ------------------------------------------------------------ inside

    @property
    def _stdin(self) -> IO[str]:
        assert self._process.stdin is not None
        return self._process.stdin

    def _thread(self, run: Callable[[], None]) -> threading.Thread:
        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        return thread

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._understand(json.loads(line))
        with self._news:
            self._gone = True
            self._news.notify_all()
        self._abandon()

    def _understand(self, message: dict[str, Any]) -> None:
        if "event" in message:
            with self._news:
                self._events.append(message)
                self._news.notify_all()
            return
        with self._news:
            future = self._waiting.pop(message["id"])
        if "error" in message:
            future.set_exception(PeerError(message["error"], message.get("code")))
        else:
            future.set_result(message["ok"])

    def _read_errors(self) -> None:
        assert self._process.stderr is not None
        self._stderr.extend(self._process.stderr)

    def _abandon(self) -> None:
        with self._news:
            abandoned, self._waiting = list(self._waiting.values()), {}
        for future in abandoned:
            future.set_exception(PeerSilent(f"{self.kind} peer: its process ended{self._said()}"))

    def _said(self) -> str:
        return "".join(["\n", *self._stderr]) if self._stderr else ""


def transfer(
    sender: Peer, conn: int, receiver: Peer, remote_conn: int, size: int, timeout_s: float = WAIT_S, **options: Any
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Send `size` bytes over a connection; what the sender and the receiver measured."""
    received = receiver.begin("receive", conn=remote_conn, bytes=size, **options)
    sent = sender.begin("send", conn=conn, bytes=size, **options)
    return sender.wait(sent, timeout_s), receiver.wait(received, timeout_s)
