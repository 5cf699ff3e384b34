"""One blob from one, two and four daemons on loopback, each with an upload cap of its own; then with one of four that lies,
never answers, or stops in the middle.

Timed as `get` is: from the request to the finished file, verified, synced and renamed. The taker is started anew for every
run with the addresses of those it may use, so that a run knows nothing of the one before. The cases are interleaved.
"""

from __future__ import annotations

import contextlib
import os
import signal
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio

from bench.common import MIB, cpu_seconds
from bench.get import adapter_of, load_base, small_base
from tests.journeys.api import Api
from tests.support.processes import Sidecar, free_port, standin, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

CAP = "20MB"
CAP_BYTES = 20_000_000
MOST = 4
STOPS_AT = 0.5
PATIENCE_S = 600.0


@dataclass(frozen=True)
class Case:
    """Which sources there are."""

    name: str
    honest: int
    other: str = ""
    """What the one besides them does: `wrong` chunks, `silent`; or that one of them `stops`."""


CASES = [
    Case("1 source", 1),
    Case("2 sources", 2),
    Case("4 sources", 4),
    Case("4, one sends wrong chunks", 3, "wrong"),
    Case("4, one never answers", 3, "silent"),
    Case("4, one stops half way", 4, "stops"),
]


@dataclass
class Runs:
    """All runs of one case."""

    case: Case
    mb_s: list[float] = field(default_factory=list)
    taker_s_gb: list[float] = field(default_factory=list)
    givers_s_gb: list[float] = field(default_factory=list)
    busy: list[float] = field(default_factory=list)
    """Share of one core that the taker used."""


class Room:
    """Four daemons that hold one file, and how to start a fifth that wants it."""

    def __init__(self, folder: Path, mib: int, stack: ExitStack) -> None:
        folder.mkdir()
        self.folder, self.stack = folder, stack
        adapter, base = adapter_of(folder / "files", mib), small_base(folder)
        self.ollama = stack.enter_context(standin(folder / "store"))
        anyio.run(load_base, self.ollama, base)
        self.ports = [free_port() for _ in range(MOST)]
        first = self._giver(0).start()
        self.code = first.ok("room", "create", "bench", "--json").json["code"]
        self.row: dict[str, Any] = first.ok(
            "share", str(adapter), "--room", "bench", "--base", "tiny-base", "--json"
        ).json
        for number in range(1, MOST):
            with self._giver(number, [first.listening]) as giver:
                giver.ok("room", "join", "-", "--label", "bench", stdin=self.code)
                wait_for(lambda giver=giver: _sources(giver, 1), "the first source")
                giver.ok("get", self.row["ref"], "--no-install", "--json")
        first.stop()
        self.givers = [stack.enter_context(self._giver(number, capped=True)) for number in range(MOST)]

    def _giver(self, number: int, peers: list[str] | None = None, *, capped: bool = False) -> Sidecar:
        listen = f"127.0.0.1:{self.ports[number]}"
        args = ["--upload-limit", CAP] if capped else []
        folder = self.folder / f"giver-{number}"
        return Sidecar(folder, self.ollama, self.folder / "store", peers=peers or [], listen=listen, args=args)

    def run(self, case: Case, runs: Runs) -> None:
        """One transfer to a new taker."""
        givers = self.givers[: case.honest]
        taker = Sidecar(
            self.folder / "taker",
            self.ollama,
            self.folder / "store",
            peers=[f"127.0.0.1:{port}" for port in self.ports[: case.honest]],
        )
        with taker, ExitStack() as others:
            if not _rooms(taker):
                taker.ok("room", "join", "-", "--label", "bench", stdin=self.code)
            wait_for(lambda: _sources(taker, case.honest), f"{case.honest} sources")
            if case.other in ("wrong", "silent"):
                others.enter_context(self._liar(taker, case.other))
                wait_for(lambda: _sources(taker, case.honest + 1), "the liar")
            processes = [side.process.pid for side in (taker, *givers) if side.process is not None]
            before = [cpu_seconds(pid) for pid in processes]
            result = self._get(taker, givers[-1] if case.other == "stops" else None)
            used = [cpu_seconds(pid) - at for pid, at in zip(processes, before, strict=True)]
        gigabytes, seconds = self.row["size"] / 1e9, result["seconds"]
        runs.mb_s.append(gigabytes * 1e3 / seconds)
        runs.taker_s_gb.append(used[0] / gigabytes)
        runs.givers_s_gb.append(sum(used[1:]) / gigabytes)
        runs.busy.append(used[0] / seconds)
        Path(result["path"]).unlink()

    def _get(self, taker: Sidecar, stops: Sidecar | None) -> dict[str, Any]:
        ask = Api(taker)
        transfer = ask.post("/transfers", ref=self.row["ref"], install=False)["id"]
        if stops is not None and stops.process is not None:
            wait_for(
                lambda: ask.get(f"/transfers/{transfer}")["done_bytes"] > STOPS_AT * self.row["size"],
                "half",
                PATIENCE_S,
            )
            os.kill(stops.process.pid, signal.SIGSTOP)
        try:
            ended = ask.finished(transfer, PATIENCE_S)
        finally:
            if stops is not None and stops.process is not None:
                os.kill(stops.process.pid, signal.SIGCONT)
        assert ended["state"] == "done", ended["error"]
        assert ended["result"]["fetched_bytes"] == self.row["size"]
        result: dict[str, Any] = ended["result"]
        return result

    @contextlib.contextmanager
    def _liar(self, taker: Sidecar, how: str) -> Iterator[None]:
        chunks = -(-self.row["size"] // 65_536)
        argv = [sys.executable, "-m", "bench.liar", taker.listening, self.row["entry"][:32], str(chunks), how]
        with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(self.code + "\n")
            process.stdin.flush()
            assert process.stdout.readline() == "offered\n"
            try:
                yield
            finally:
                process.kill()


def _sources(side: Sidecar, wanted: int) -> bool:
    return any(row["sources"] >= wanted for row in Api(side).get("/adapters"))


def _rooms(side: Sidecar) -> bool:
    return bool(Api(side).get("/rooms"))


def run(folder: Path, mib: int, rounds: int, only: list[str] | None = None) -> str:
    """All cases in turn, that many times; a Markdown table."""
    cases = [case for case in CASES if only is None or case.name in only]
    runs = [Runs(case) for case in cases]
    with ExitStack() as stack:
        room = Room(folder / f"sources-{mib}", mib, stack)
        for _ in range(rounds):
            for each in runs:
                room.run(each.case, each)
                time.sleep(0.5)  # upload caps are as they were
        assert room.row["size"] >= mib * MIB
    return _table(runs)


def _table(runs: list[Runs]) -> str:
    lines = [
        f"| sources with {CAP}/s each | MB/s min / median / max | to 1 source | of what the useful ones may send | "
        "taker CPU s/GB, share of a core | sources CPU s/GB |",
        "|---|---|---|---|---|---|",
    ]
    one = next((each.mb_s for each in runs if each.case.name == "1 source"), None)
    for each in runs:
        median = statistics.median(each.mb_s)
        ratio = f"{statistics.median(a / b for a, b in zip(each.mb_s, one, strict=True)):.2f}" if one else ""
        lines.append(
            f"| {each.case.name} | {min(each.mb_s):.1f} / {median:.1f} / {max(each.mb_s):.1f} | {ratio} "
            f"| {median / (each.case.honest * CAP_BYTES / 1e6):.0%} "
            f"| {statistics.median(each.taker_s_gb):.2f}, {statistics.median(each.busy):.0%} "
            f"| {statistics.median(each.givers_s_gb):.2f} |"
        )
    return "\n".join(lines)
