"""Machines of the lab with a sidecar each: a network namespace, a stand-in Ollama that has the base model, and a daemon.

    with Lab() as lab, sidecars(lab, folder, files, [Household("consistent", 3), Household("random", 2)]) as machines:
        code = machines[0].create_room()
        for machine in machines[1:]:
            machine.join_room(code)

Everything is a process of its own and is asked as a user or a program of that machine would, from inside its namespace.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, TypeVar

from ollama_bridge.digests import hash_file
from ollama_bridge.standin.tiny_models import pad_file
from ollama_bridge.store import Store
from sidecar.transfer.chunks import ChunkSet, chunk_count
from tests.fixtures.make_fixtures import make_fixtures
from tests.journeys.api import Api
from tests.journeys.ollama import run_adapter, run_base
from tests.support.processes import Process, Sidecar, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    import httpx

    from .kinds import Site
    from .lab import Lab
    from .namespaces import Namespace

T = TypeVar("T")
U = TypeVar("U")
OLLAMA_PORT = 11434
ROOM = "team"
NO_TLS = False
"""Reading the machine's certificates takes longer than the question."""
BITMAP_AT = 48
"""Where the bitmap begins in a `chunks` file, see sidecar/transfer/journal.py."""


@dataclass(frozen=True, slots=True)
class Household:
    """One subscriber line and how many machines are behind it."""

    kind: str
    machines: int = 1
    args: tuple[str, ...] = ()
    """More arguments of their `ollaswarm up`."""


class InsideApi(Api):
    """The API of a daemon that listens on the loopback of a namespace."""

    def __init__(self, sidecar: Sidecar, namespace: Namespace) -> None:
        super().__init__(sidecar)
        self._namespace = namespace

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        ask = super().request
        return self._namespace.inside(lambda: ask(method, path, verify=NO_TLS, **options))


class Machine:
    """One machine; started and ended as a context."""

    def __init__(self, name: str, folder: Path, files: Path, site: Site, host: int, up: Sidecar, adapters: str) -> None:
        self.name = name
        self.site = site
        self.namespace = site.hosts[host]
        self.sidecar = up
        self.api = InsideApi(up, self.namespace)
        self.store = folder / "store"
        self._host = host
        self._files = files
        command = [sys.executable, "-m", "ollama_bridge.standin", "--store", str(self.store)]
        command += ["--port", str(OLLAMA_PORT), "--adapters", adapters]
        self._ollama = Process([*self.namespace.prefix, *command], folder / "ollama.log")

    def __enter__(self) -> Self:
        self.sidecar.folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            stack.enter_context(self._ollama)
            wait_for(self._ollama_answers, "stand-in server")
            self.namespace.inside(lambda: run_base(self.sidecar.ollama, self._files))
            stack.callback(self._stop)  # before the start, which may fail half-way
            self.sidecar.start()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc_info: object) -> None:
        with suppress(ProcessLookupError):
            self.resume()  # one that is stopped would not hear that it should end
        self._stack.close()

    def _stop(self) -> None:
        if self.sidecar.process is not None and self.sidecar.process.child is not None:
            self.sidecar.stop()

    def _ollama_answers(self) -> bool:
        assert self._ollama.alive(), self._ollama.explain()
        with suppress(OSError):
            self.namespace.inside(lambda: socket.create_connection(("127.0.0.1", OLLAMA_PORT), 0.2).close())
            return True
        return False

    # --- what its user does ------------------------------------------------------------------------------------------

    def create_room(self) -> str:
        """Its code."""
        return str(self.sidecar.ok("room", "create", ROOM, "--json").json["code"])

    def join_room(self, code: str) -> None:
        """The code goes in by standard input (T11)."""
        self.sidecar.ok("room", "join", "-", "--label", ROOM, "--yes", stdin=code)

    def share(self, name: str) -> dict[str, Any]:
        """Make a model of the adapter file of that name, and offer it; its row."""
        self.namespace.inside(lambda: run_adapter(self.sidecar.ollama, self._files, name, name))
        row: dict[str, Any] = self.api.post("/shares", what=name, room=ROOM)
        return row

    def suspend(self) -> None:
        """As a laptop whose lid is closed; the clocks go on."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Undo `suspend`."""
        self._signal(signal.SIGCONT)

    def unplug(self) -> None:
        """Take its network away."""
        self.site.unplug(self._host)

    def plug_in(self) -> None:
        """Give it back."""
        self.site.plug_in(self._host)

    def _signal(self, number: signal.Signals) -> None:
        assert self.sidecar.process is not None
        os.kill(self.sidecar.process.pid, number)

    # --- what is seen of it ------------------------------------------------------------------------------------------

    @property
    def key(self) -> str:
        return str(self.api.get("/status")["key"])

    def peers(self) -> list[dict[str, Any]]:
        """Those who proved that they are in the room."""
        return [peer for peer in self.api.get("/peers") if peer["rooms"]]

    def wait_for_offer(self, row: dict[str, Any]) -> None:
        """Return when it knows the offer; whoever holds the adapter need not be connected."""
        wait_for(lambda: any(each["entry"] == row["entry"] for each in self.api.get("/adapters")), "an offer")

    def kept(self, row: dict[str, Any]) -> ChunkSet:
        """The chunks of an offered adapter that are on its disk."""
        count, name = chunk_count(row["size"]), row["digest"].removeprefix("sha256:")
        with suppress(FileNotFoundError):
            journal = (self.sidecar.data_dir / "partial" / name / "chunks").read_bytes()
            return ChunkSet.from_bytes(journal[BITMAP_AT:], count)
        blob = f"sha256-{name}"
        whole = (self.store / "blobs" / blob).exists() or (self.sidecar.data_dir / "blobs" / blob).exists()
        return ChunkSet.full(count) if whole else ChunkSet(count)

    def installed(self, name: str) -> str:
        """Digest of the adapter of a model in its Ollama, by the bytes of the file and not by its name."""
        store = Store(self.store)
        (model,) = (each for each in store.adapters() if each.name.display.removesuffix(":latest") == name)
        return str(hash_file(store.blob_path(model.adapter_layer.digest)))

    def explain(self) -> str:
        """The end of the daemon's log."""
        assert self.sidecar.process is not None
        return self.sidecar.process.explain()


@contextmanager
def sidecars(
    lab: Lab, folder: Path, files: Path, households: Sequence[Household], *, first_args: Sequence[str] = ()
) -> Iterator[list[Machine]]:
    """Start machines, named "a1", "a2", "b1" and so on by their line; the first one can make adapter models.

    Args:
        files: Made by `adapter_files`.
        first_args: More arguments of the first one's `ollaswarm up`, after those of its household.
    """
    with ExitStack() as stack:
        machines: list[Machine] = []
        for letter, household in zip("abcdefgh", households, strict=False):
            site = stack.enter_context(lab.site(household.kind, hosts=household.machines))
            for host in range(household.machines):
                name = f"{letter}{host + 1}"
                args = [*household.args, *([] if machines else first_args)]
                up = Sidecar(
                    folder / name,
                    f"http://127.0.0.1:{OLLAMA_PORT}",
                    folder / name / "store",
                    listen="0.0.0.0:0",
                    args=args,
                    bootstrap=lab.bootstrap,
                    prefix=site.hosts[host].prefix,
                )
                adapters = "refuse" if machines else "accept"
                machines.append(Machine(name, folder / name, files, site, host, up, adapters))
        at_once(stack.enter_context, machines)
        yield machines


def adapter_files(folder: Path, size: int, models: Iterable[str]) -> None:
    """Make a base model, and for each name an adapter of that many bytes for it, in a file of that name."""
    make_fixtures(folder)
    for seed, name in enumerate(models):
        shutil.copy(folder / "adapter.gguf", folder / name)
        pad_file(folder / name, size, seed)


def at_once(do: Callable[[U], T], several: Iterable[U]) -> list[T]:
    """The same with several machines at the same time."""
    with ThreadPoolExecutor(16) as pool:
        return list(pool.map(do, several))


class Tally:
    """The bytes of chunks a machine got from each other one, over all its connections, since this was made."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._last: dict[str, int] = {}
        self.bytes: dict[str, int] = {}
        """By the key of the sender. What comes between the last look and the end of a connection is missed."""
        self.look()
        self.bytes.clear()

    def look(self) -> dict[str, int]:
        """Ask now."""
        for peer in self._machine.peers():
            key, now, last = peer["key"], peer["received_bytes"], self._last.get(peer["key"], 0)
            if came := now - last if now >= last else now:  # less than before: a new connection
                self.bytes[key] = self.bytes.get(key, 0) + came
            self._last[key] = now
        return self.bytes
