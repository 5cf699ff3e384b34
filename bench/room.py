"""What a room costs a sidecar, by the number of its entries and members: to come into it, and to sit in it.

One real daemon, alone in a network namespace with a stand-in Ollama. On the other side of a cable are the other members
and, unless it is a local room, a DHT of 20 nodes, each on an address of its own, all in one process. Bytes are the
kernel's counters of that cable, both directions added: everything the daemon says to and hears from anybody, with every
header down to Ethernet's; the API and Ollama are on loopback and not in it. CPU is the daemon's process, user and system.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import httpx

from bench.common import cpu_seconds, resident_mb
from sidecar.paths import DaemonRecord, DataPaths
from sidecar.rooms.code import generate_code
from sidecar.rooms.key import derive_room_key
from tests.journeys.api import Api
from tests.natlab.namespaces import Namespace, why_not
from tests.support.processes import Process, Sidecar, free_port, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

NODES = 20
"""As many as a walk of the DHT asks at most: in a larger one the steps are more, their width is the same."""
ENTRIES = (10, 100, 1000)
MEMBERS = (2, 10, 50)
READY_S = 180.0
CATCH_UP_S = 60.0
SETTLE_S = 20.0
"""After everybody is there: what a join leaves behind, such as the walks that look for the last ones, is over then."""
HOUR_S = 3600.0
DAY_HOURS = 24
CABLE = "cable"


@dataclass(frozen=True, slots=True)
class Reading:
    """The counters at one moment."""

    at: float
    cpu_s: float
    wire_bytes: int
    packets: int

    def since(self, before: Reading) -> Reading:
        return Reading(
            self.at - before.at,
            self.cpu_s - before.cpu_s,
            self.wire_bytes - before.wire_bytes,
            self.packets - before.packets,
        )


@dataclass(frozen=True, slots=True)
class Arrival:
    """How coming into the room went, in seconds since the request to join."""

    first_s: float
    all_entries_s: float
    all_members_s: float


@dataclass(frozen=True, slots=True)
class Network:
    """Who is where."""

    name: str
    prefix: int
    daemon: str
    nodes: tuple[str, ...]

    def members(self, count: int) -> list[str]:
        first = self.daemon.partition(".")[0]
        return [f"{first}.2.{number}.1" for number in range(1, count + 1)]


INTERNET = Network("Hyperswarm", 8, "11.3.0.1", tuple(f"11.1.{number}.1" for number in range(1, NODES + 1)))
"""Public addresses, and no two of one /24, because a DHT takes few nodes of one network."""
LOCAL = Network("local network", 8, "10.3.0.1", ())


class Machine:
    """The measured daemon and its Ollama in a namespace."""

    def __init__(self, folder: Path, namespace: Namespace, network: Network, bootstrap: list[str]) -> None:
        port = free_port()
        store = folder / "store"
        self._namespace = namespace
        self._ollama = f"http://127.0.0.1:{port}"
        argv = [sys.executable, "-m", "ollama_bridge.standin", "--store", str(store), "--port", str(port)]
        self._standin = Process([*namespace.prefix, *argv], folder / "ollama.log")
        self._side = Sidecar(
            folder,
            self._ollama,
            store,
            listen=f"{network.daemon}:0",
            bootstrap=bootstrap,
            mdns=not bootstrap,
            prefix=namespace.prefix,
        )
        store.mkdir(parents=True)

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self._standin)
            wait_for(lambda: self._namespace.inside(self._answers), "the stand-in")
            stack.enter_context(self._side)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def _answers(self) -> bool:
        with suppress(httpx.HTTPError):
            return httpx.get(f"{self._ollama}/api/version").status_code == 200
        return False

    @property
    def pid(self) -> int:
        assert self._side.process is not None
        return self._side.process.pid

    def read(self) -> Reading:
        """The counters now."""
        for line in Path(f"/proc/{self.pid}/net/dev").read_text().splitlines():
            name, _, rest = line.partition(":")
            if name.strip() == CABLE:
                numbers = [int(each) for each in rest.split()]
                # received bytes, packets, six others; sent bytes, packets, ...
                return Reading(
                    time.monotonic(), cpu_seconds(self.pid), numbers[0] + numbers[8], numbers[1] + numbers[9]
                )
        raise RuntimeError("the cable is gone")

    def enter(self, code: str, entries: int, members: int) -> Arrival:
        """Join, and wait until everything and everybody is there."""
        return self._namespace.inside(lambda: self._enter(code, entries, members))

    def _enter(self, code: str, entries: int, members: int) -> Arrival:
        begun = time.monotonic()
        Api(self._side).post("/rooms/join", room=code, label="team")
        connected: dict[str, float] = {}
        complete = 0.0
        for name, data in self._events():
            now = time.monotonic() - begun
            if now > CATCH_UP_S:
                there = "all" if complete else "not all"
                raise RuntimeError(f"after {now:.0f} s {len(connected)} of {members} members and {there} entries")
            if name == "peer:connected":
                connected.setdefault(data["peer"], now)  # two who dial each other connect twice, and keep one
            elif name == "adapters:available" and data["adapters"] == entries:
                complete = complete or now
            if complete and len(connected) == members:
                break
        return Arrival(min(connected.values()), complete, max(connected.values()))

    def _events(self) -> Iterator[tuple[str, dict[str, Any]]]:
        paths = DataPaths(self._side.data_dir)
        record = DaemonRecord.read(paths)
        assert record is not None
        headers = {"Authorization": f"Bearer {paths.token.read_text().strip()}"}
        url = f"http://{record.api}/api/v1/events?since=0"
        with httpx.stream("GET", url, headers=headers, timeout=CATCH_UP_S) as answer:
            name = ""
            for line in answer.iter_lines():
                if line.startswith("event: "):
                    name = line[7:]
                elif line.startswith("data: "):
                    yield name, json.loads(line[6:])
                elif line.startswith(":"):
                    yield "", {}  # a sign of life, at which the time can be looked at


@contextmanager
def members(folder: Path, network: Network, room: bytes, count: int, entries: int) -> Iterator[tuple[Machine, Any]]:
    """The other members, and the machine that does not run yet."""
    with ExitStack() as stack:
        here, there = stack.enter_context(Namespace()), stack.enter_context(Namespace())
        here.link(CABLE, there, CABLE)
        hosts = network.members(count)
        here.ip(f"address add {network.daemon}/{network.prefix} dev {CABLE}")
        there.ip(*(f"address add {host}/{network.prefix} dev {CABLE}" for host in (*network.nodes, *hosts)))
        for each in (here, there):
            each.ip(f"route add 224.0.0.0/4 dev {CABLE}")
        wanted = {
            "room": room.hex(),
            "members": hosts,
            "nodes": network.nodes,
            "entries": entries,
            "folder": str(folder / "members"),
            "daemon": network.daemon,
        }
        process = subprocess.Popen(
            [*there.prefix, sys.executable, "-m", "bench.room_members"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        stack.enter_context(process)
        stack.callback(process.terminate)
        assert process.stdin is not None
        assert process.stdout is not None
        print(json.dumps(wanted), file=process.stdin, flush=True)
        told = json.loads(process.stdout.readline())
        assert json.loads(process.stdout.readline()) == {"ready": True}
        yield Machine(folder / "daemon", here, network, told["bootstrap"]), process


@dataclass(frozen=True, slots=True)
class Row:
    """One cell of the table."""

    network: str
    members: int
    entries: int
    arrival: Arrival
    joined: Reading
    idle: Reading
    resident_mb: float

    @property
    def mb_a_day(self) -> float:
        return self.idle.wire_bytes / self.idle.at * HOUR_S * DAY_HOURS / 1e6

    @property
    def core(self) -> float:
        return self.idle.cpu_s / self.idle.at

    def line(self) -> str:
        arrival, idle = self.arrival, self.idle
        columns = (
            self.network,
            f"{self.members}",
            f"{self.entries}",
            f"{arrival.first_s:.2f}",
            f"{arrival.all_entries_s - arrival.first_s:.2f}",
            f"{arrival.all_members_s:.1f}",
            f"{self.joined.wire_bytes / 1e6:.2f}",
            f"{self.joined.cpu_s:.2f}",
            f"{self.resident_mb:.0f}",
            f"{idle.packets / idle.at:.1f}",
            f"{idle.wire_bytes / idle.at * HOUR_S / 1e6:.2f}",
            f"{self.mb_a_day:.0f}",
            f"{self.core * HOUR_S:.1f}",
            f"{self.core:.2%}",
        )
        return f"| {' | '.join(columns)} |"


HEAD = (
    "| over | members | entries | join to first member, s | from there to all entries, s | join to all members, s "
    "| join: MB | join: CPU s | resident MB | idle: packets/s | idle: MB an hour | idle: MB a day | idle: CPU s an hour "
    "| idle: of a core |\n" + "|---" * 14 + "|"
)


def measure(folder: Path, network: Network, count: int, entries: int, idle_s: float) -> Row:
    """One cell."""
    code = generate_code()
    room = derive_room_key(code)
    with members(folder, network, room.secret, count, entries) as (machine, others):
        with machine:
            before = machine.read()
            arrival = machine.enter(code, entries, count)
            time.sleep(SETTLE_S)
            settled = machine.read()
            time.sleep(idle_s)
            idle = machine.read().since(settled)
            resident = resident_mb(machine.pid)
            if others.poll() is not None:
                raise RuntimeError("the other members are gone")
        return Row(network.name, count, entries, arrival, settled.since(before), idle, resident)


def run(scratch: Path, entries: list[int] | None, counts: list[int] | None, idle_s: float) -> str:
    """All cells of both networks; the local one has the middle number of entries only."""
    if (reason := why_not()) is not None:
        return f"skipped: {reason}"
    sizes, crowds = entries or list(ENTRIES), counts or list(MEMBERS)
    cells = [(INTERNET, count, size) for count in crowds for size in sizes]
    cells += [(LOCAL, count, sizes[len(sizes) // 2]) for count in crowds]
    rows = []
    for number, (network, count, size) in enumerate(cells):
        folder = scratch / f"cell-{number}"
        rows.append(measure(folder, network, count, size, idle_s))
        print(rows[-1].line(), file=sys.stderr, flush=True)
        shutil.rmtree(folder)
    return "\n".join([HEAD, *(row.line() for row in rows)])
