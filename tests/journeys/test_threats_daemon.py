"""Threats against daemons as processes: what others on the machine can read of a room's code (T11), and floods (T18)."""

from __future__ import annotations

import contextlib
import json
import random
import re
import socket
import sys
import threading
import time
from contextlib import AsyncExitStack, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import psutil
import pytest
from anyio import to_thread

from hyperdht import HyperDHT
from hyperdht.dht.handshake_limits import HandshakeLimits
from sidecar.cli.client import find_daemon
from sidecar.paths import DataPaths
from sidecar.rooms.key import derive_room_key
from sidecar.rooms.lan import MAX_HANDSHAKES
from sidecar.rooms.network import MAX_UNPROVED
from tests.journeys.api import Api
from tests.journeys.ollama import run_adapter, run_base
from tests.journeys.test_threats_internet import stay
from tests.support.processes import Process, Sidecar, standin, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LABEL = "the-merger-with-acme"
INVENTED = (
    "correct horse battery staple river window garden candle",
    "love love love love love love love love",
    "acme",
)
"""Codes that people think of, which others guess."""


@contextmanager
def local_dht(folder: Path) -> Iterator[list[str]]:
    """A DHT in a process of its own; what to give daemons as bootstrap nodes."""
    with Process([sys.executable, "-m", "sidecar.demo.dht"], folder / "dht.log") as process:

        def told() -> str:
            if not process.alive():
                raise RuntimeError(process.explain())
            return process.log.read_text().partition("\n")[0]

        yield wait_for(told, "a DHT").split(",")


@contextmanager
def two_machines(folder: Path, files: Path) -> Iterator[tuple[Sidecar, Sidecar, list[str]]]:
    """Two sidecars that meet over a DHT, the first one's Ollama with an adapter, and that DHT."""
    with (
        local_dht(folder) as bootstrap,
        standin(folder / "first-store", adapters="accept") as first_ollama,
        standin(folder / "second-store") as second_ollama,
    ):
        run_base(first_ollama, files)
        run_adapter(first_ollama, files, "sql-lora")
        run_base(second_ollama, files)
        with (
            Sidecar(folder / "first", first_ollama, folder / "first-store", bootstrap=bootstrap) as first,
            Sidecar(folder / "second", second_ollama, folder / "second-store", bootstrap=bootstrap) as second,
        ):
            yield first, second, bootstrap


# --- T11: where a code can be read -------------------------------------------------------------------------------------


@contextmanager
def process_titles() -> Iterator[set[str]]:
    """Every command line, name and environment that any process of this user shows while the block runs."""
    seen: set[str] = set()
    stop = threading.Event()

    def look() -> None:
        while not stop.wait(0.05):
            for process in Path("/proc").glob("[0-9]*"):
                for part in ("cmdline", "comm", "environ"):
                    with contextlib.suppress(OSError):
                        seen.add((process / part).read_bytes().decode(errors="replace"))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        stop.set()
        thread.join()


def betrays(text: str, code: str) -> bool:
    """Whether three words of a code stand in a text, in whatever spelling."""
    words = code.split("-")
    runs = (words[place : place + 3] for place in range(len(words) - 2))
    return any(re.search(r"[\W_]*".join(run), text, re.IGNORECASE) for run in runs)


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
def test_t11_code_is_read_nowhere_but_where_it_was_shown(tmp_path: Path, files: Path) -> None:
    told: dict[str, str] = {}
    with process_titles() as titles, two_machines(tmp_path, files) as (first, second, _):
        created = first.ok("room", "create", LABEL, "--json")
        code = created.json["code"]
        assert betrays(created.out, code), "else the scan finds nothing anywhere"
        told["join"] = second.ok("room", "join", "-", "--label", LABEL, stdin=f"{code}\n").out
        first.ok("share", "sql-lora", "--room", LABEL)
        api = Api(second)
        api.got(api.row("sql-lora")["ref"])
        refused = second.run("room", "join", "-", "--label", "other", stdin=f"{INVENTED[0]}\n")
        assert refused.code == 1
        assert not betrays(refused.out + refused.err, INVENTED[0].replace(" ", "-"))
        for attempt in (f"{code}-{code}", code.replace("-", "-x", 1), *INVENTED):
            answer = api.request("POST", "/api/v1/rooms/join", json={"room": attempt})
            assert answer.status_code == 422, answer.text
            assert not betrays(answer.text, attempt.replace(" ", "-"))
            told[f"refusal of {attempt}"] = answer.text
        assert len(api.get("/rooms")) == 1
        told["events of first"] = events_until(first, "entry:added")
        told["events of second"] = events_until(second, "install:complete")
        rotated = first.ok("room", "rotate", LABEL, "--yes", "--json").json["code"]
        for name, side in (("first", Api(first)), ("second", Api(second))):
            for path in ("/status", "/rooms", "/peers", "/adapters", "/transfers", "/sync/rules"):
                told[f"{name} {path}"] = side.request("GET", f"/api/v1{path}").text
            told[f"{name} doctor"] = side.request("POST", "/api/v1/doctor").text
            told[f"{name} metrics"] = side.request("GET", "/metrics").text
    assert "ollaswarm" in "".join(titles)
    for name, text in told.items():
        assert not betrays(text, code), name
        assert not betrays(text, rotated), name
    assert LABEL not in told["first metrics"] + told["second metrics"], "T21: rooms have no names there"
    secrets = [derive_room_key(each).secret.hex() for each in (code, rotated)]
    for title in titles:
        assert not betrays(title, code)
        assert not betrays(title, rotated)
    for file in (each for each in tmp_path.rglob("*") if each.is_file()):
        text = file.read_bytes().decode(errors="replace")
        assert not betrays(text, code), file
        assert not betrays(text, rotated), file
        assert not any(secret in text for secret in secrets), file


def events_until(sidecar: Sidecar, last: str) -> str:
    """Everything that has happened since the start, as the stream of events tells it."""
    told = []
    with find_daemon(DataPaths(sidecar.data_dir)) as client:
        for event in client.follow_events(since=0):
            told.append(json.dumps(event))
            if event["event"] == last:
                break
    return "\n".join(told)


# --- T18: floods ---------------------------------------------------------------------------------------------------------


MOST_FILES = MAX_HANDSHAKES + HandshakeLimits().max_open + MAX_UNPROVED + 64
"""Sockets of handshakes on the local network and through the DHT (a client behind a NAT costs one each), of strangers, and
of peers."""
MOST_MEMORY_BYTES = 96 << 20
STRANGERS = 200
JUNK_PER_S = 2000


@contextmanager
def junk(to: list[int]) -> Iterator[list[int]]:
    """Datagrams of noise to UDP ports of loopback, from a hundred addresses. The list counts them."""
    stop, sent = threading.Event(), [0]
    with ExitStack() as stack:
        socks = []
        for number in range(100):
            sock = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            sock.bind((f"127.0.9.{number + 1}", 0))
            socks.append(sock)
        noise = [bytes([first]) + random.randbytes(200) for first in (0x03, 0x13, 0x33, 0xFF, 0x00)]

        def run() -> None:
            started = time.monotonic()
            while not stop.wait(0.005):
                while sent[0] < (time.monotonic() - started) * JUNK_PER_S and not stop.is_set():
                    with contextlib.suppress(OSError):  # the kernel drops it here instead of there
                        socks[sent[0] % 100].sendto(noise[sent[0] % 5], ("127.0.0.1", to[sent[0] % len(to)]))
                    sent[0] += 1

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield sent
        finally:
            stop.set()
            thread.join()


@contextmanager
def idle_sockets(to: str) -> Iterator[None]:
    """TCP connections from fifty addresses that say nothing, as many as the listener takes."""
    host, _, port = to.rpartition(":")
    with ExitStack() as stack:
        for number in range(STRANGERS):
            sock = stack.enter_context(socket.socket())
            sock.bind((f"127.0.10.{number % 50 + 1}", 0))
            sock.setblocking(False)
            sock.connect_ex((host, int(port)))
        yield


async def connect_for_ever(bootstrap: list[str], key: bytes) -> None:
    """Real connections from eight addresses, each by another key, that never say a word."""
    async with AsyncExitStack() as stack:
        nodes = [HyperDHT(bootstrap=bootstrap, host=f"127.0.11.{number + 1}", port=0) for number in range(8)]
        for node in nodes:
            await stack.enter_async_context(node)
        tasks = await stack.enter_async_context(anyio.create_task_group())
        for number in range(STRANGERS):
            tasks.start_soon(stay, nodes[number % len(nodes)], key)


@dataclass
class Most:
    """What a flooded daemon held at most, and how long a member had to wait."""

    files: int = 0
    memory: int = 0
    waited_s: float = 0.0


async def meanwhile(
    daemon: psutil.Process, most: Most, bootstrap: list[str], key: bytes, come: Callable[[], None]
) -> None:
    """Connect for ever, let a member come after a while, and look at the daemon all the time."""

    async def watch() -> None:
        while True:
            most.files = max(most.files, daemon.num_fds())
            most.memory = max(most.memory, daemon.memory_info().rss)
            await anyio.sleep(0.05)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watch)
        tasks.start_soon(connect_for_ever, bootstrap, key)
        await anyio.sleep(5)
        begun = time.monotonic()
        await to_thread.run_sync(come)
        most.waited_s = time.monotonic() - begun
        tasks.cancel_scope.cancel()


@pytest.mark.soak
@pytest.mark.skipif(sys.platform == "win32", reason="loopback has one address there")
def test_t18_flooded_daemon_stays_within_limits_and_serves_a_member(tmp_path: Path, files: Path) -> None:
    """Noise, silent connections over TCP and through the DHT, all at once; then somebody with the code comes."""
    with two_machines(tmp_path, files) as (first, second, bootstrap):
        api, other = Api(first), Api(second)
        code = api.post("/rooms", label="team")["code"]
        api.post("/shares", what="sql-lora", room="team")
        assert first.process is not None
        daemon = psutil.Process(first.process.pid)
        key = bytes.fromhex(api.get("/status")["key"])
        ports = [each.laddr.port for each in daemon.net_connections("udp4")]
        files_before, memory_before = daemon.num_fds(), daemon.memory_info().rss
        most = Most()

        def come() -> None:
            other.post("/rooms/join", room=code, label="team")
            assert other.got(other.row("sql-lora")["ref"])["result"]["installed_as"] == "sql-lora:latest"

        with junk(ports) as sent, idle_sockets(first.listening):
            anyio.run(meanwhile, daemon, most, bootstrap, key, come)
        assert sent[0] > 5000
        more_files, more_memory = most.files - files_before, most.memory - memory_before
        print(f"files +{more_files}, memory +{more_memory >> 20} MiB, member served in {most.waited_s:.1f} s")
        assert more_files <= MOST_FILES
        assert more_memory <= MOST_MEMORY_BYTES
        assert first.process.alive()
