"""Real daemons and real stand-in servers as child processes, driven the way a user drives them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Iterator

COMMAND = str(Path(sys.executable).with_name("ollaswarm"))
START_TIMEOUT_S = 30.0
READY_POLL_S = 0.02


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def wait_for(condition: Any, what: str, timeout_s: float = START_TIMEOUT_S) -> Any:
    """Poll a condition of another process, which offers nothing to await."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(READY_POLL_S)
    raise TimeoutError(f"{what}: not within {timeout_s:.0f} s")


@dataclass
class Outcome:
    """What one command printed and how it ended."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[dict[str, Any]]:
        """The output of a `--json` command that prints one object per line."""
        return [json.loads(line) for line in self.out.splitlines() if line.strip()]

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Process:
    """A child process with its output kept, ended at the latest when the context ends."""

    def __init__(self, argv: list[str], log: Path, env: dict[str, str] | None = None) -> None:
        self.argv = argv
        self.log = log
        self._env = os.environ | (env or {})
        self.child: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.child = subprocess.Popen(self.argv, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=self._env)

    @property
    def pid(self) -> int:
        assert self.child is not None
        return self.child.pid

    def alive(self) -> bool:
        return self.child is not None and self.child.poll() is None

    def stop(self, timeout_s: float = 10.0) -> int:
        """SIGTERM, and the exit code. Kills when it does not end in time, which the caller can see by -9."""
        assert self.child is not None
        if self.alive():
            self.child.terminate()
            try:
                self.child.wait(timeout_s)
            except subprocess.TimeoutExpired:
                self.child.kill()
        return self.child.wait()

    def kill(self) -> None:
        """kill -9."""
        assert self.child is not None
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.child.pid, signal.SIGKILL)
        self.child.wait()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self.child is not None:
            self.stop()

    def explain(self) -> str:
        return self.log.read_text(errors="replace")[-4000:]


@dataclass
class Sidecar:
    """One sidecar with its own data folder, Ollama and store, started and asked through the command line only."""

    folder: Path
    ollama: str
    store: Path | None = None
    peers: list[str] = field(default_factory=list)
    listen: str = "127.0.0.1:0"
    args: list[str] = field(default_factory=list)
    mdns: bool = False
    """Only with `listen` on loopback, which keeps the multicast there too."""
    bootstrap: list[str] = field(default_factory=list)
    """Nodes of a DHT of the test's own; without any the daemon uses none."""
    prefix: list[str] = field(default_factory=list)
    """Put before every command, for instance to run it in a network namespace. It must become the command (exec)."""
    process: Process | None = None

    @property
    def data_dir(self) -> Path:
        return self.folder / "data"

    @property
    def env(self) -> dict[str, str]:
        return {"OLLASWARM_DATA_DIR": str(self.data_dir), "NO_COLOR": "1", "COLUMNS": "200"}

    def start(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        argv = [*self.prefix, COMMAND, "up", "--ollama", self.ollama, "--api", "127.0.0.1:0", "--listen", self.listen]
        argv += ["--bootstrap", ",".join(self.bootstrap)] if self.bootstrap else ["--no-dht"]
        argv += [] if self.mdns else ["--no-mdns"]
        if self.store is not None:
            argv += ["--store", str(self.store)]
        for peer in self.peers:
            argv += ["--peer", peer]
        self.process = Process([*argv, *self.args], self.folder / "daemon.log", self.env)
        self.process.start()
        wait_for(self._ready, f"daemon in {self.folder}\n{self.process.explain()}")
        return self

    def _ready(self) -> bool:
        assert self.process is not None
        if not self.process.alive():
            raise RuntimeError(f"the daemon ended:\n{self.process.explain()}")
        try:
            state = json.loads((self.data_dir / "daemon.json").read_text())
        except (OSError, ValueError):
            return False
        return bool(state.get("pid") == self.process.pid)

    def stop(self) -> int:
        assert self.process is not None
        return self.process.stop()

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()

    def run(self, *args: str, stdin: str | None = None, timeout_s: float = 120.0) -> Outcome:
        """`ollaswarm ARGS` with this sidecar's data folder."""
        done = subprocess.run(
            [*self.prefix, COMMAND, *args],
            input=stdin,
            capture_output=True,
            text=True,
            env=os.environ | self.env,
            timeout=timeout_s,
            check=False,
        )
        return Outcome(done.returncode, done.stdout, done.stderr)

    def ok(self, *args: str, stdin: str | None = None) -> Outcome:
        """The same, which must succeed."""
        outcome = self.run(*args, stdin=stdin)
        assert outcome.code == 0, f"ollaswarm {' '.join(args)}: {outcome.code}\n{outcome.out}\n{outcome.err}"
        return outcome

    @property
    def listening(self) -> str:
        """`host:port` of its LAN listener."""
        return str(self.ok("status", "--json").json["listen"][0])

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        if self.process is not None:
            self.stop()


@contextlib.contextmanager
def standin(
    store: Path, *, adapters: str = "refuse", log: Path | None = None, args: tuple[str, ...] = ()
) -> Iterator[str]:
    """A stand-in Ollama server as a process of its own; yields its URL."""
    port = free_port()
    store.mkdir(parents=True, exist_ok=True)
    argv = [sys.executable, "-m", "ollama_bridge.standin", "--store", str(store), "--port", str(port)]
    argv += ["--adapters", adapters, *args]
    with Process(argv, log or store.parent / f"{store.name}.log") as process:

        def answers() -> bool:
            if not process.alive():
                raise RuntimeError(f"the stand-in ended:\n{process.explain()}")
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.2):
                return True
            return False

        wait_for(answers, "stand-in server")
        yield f"http://127.0.0.1:{port}"
