"""`ollaswarm get` of a blob between two daemons on loopback, verified and on disk, beside scp and an rsync daemon.

Wall time of `get` is the time from the request to the finished transfer, as the daemon reports it: fetch, chunk hashes,
whole-file hash, fsync, rename. CPU is that of both daemons. Cases are interleaved in every round.
"""

from __future__ import annotations

import shutil
import time
from contextlib import ExitStack
from pathlib import Path

import anyio

from bench import by_hand
from bench.common import MIB, Row, cpu_seconds, peak_mb, reset_peak, resident_mb
from ollama_bridge.client import OllamaClient
from ollama_bridge.digests import hash_file
from ollama_bridge.names import ModelName
from ollama_bridge.standin.tiny_models import Options
from tests.fixtures.make_fixtures import make_fixtures
from tests.support.processes import Sidecar, standin

CASE = "ollaswarm get"


def adapter_of(folder: Path, mib: int) -> Path:
    """A real adapter GGUF of that size: padding after the tensors, as readers allow."""
    make_fixtures(folder, Options(pad_to=mib * MIB))
    return folder / "adapter.gguf"


async def load_base(url: str, base: Path) -> None:
    async with OllamaClient(url) as client:
        digest = hash_file(base)
        await client.push_blob(digest, base, base.stat().st_size)
        await client.create(ModelName.parse("tiny-base"), files={"base.gguf": digest})


class Pair:
    """Two daemons in a room, one of them sharing the file."""

    def __init__(self, folder: Path, adapter: Path, base: Path, stack: ExitStack) -> None:
        url = stack.enter_context(standin(folder / "store"))
        anyio.run(load_base, url, base)
        self.giver = stack.enter_context(Sidecar(folder / "giver", url, folder / "store"))
        self.taker = stack.enter_context(Sidecar(folder / "taker", url, folder / "store", peers=[self.giver.listening]))
        code = self.giver.ok("room", "create", "bench", "--json").json["code"]
        self.taker.ok("room", "join", "-", "--label", "bench", stdin=code)
        row = self.giver.ok("share", str(adapter), "--room", "bench", "--base", "tiny-base", "--json").json
        self.ref, self.size = row["ref"], row["size"]
        while not any(each["sources"] for each in self.taker.ok("adapters", "--json").json):
            time.sleep(0.1)
        self._idle_mb = [resident_mb(pid) for pid in self._pids]
        """Before the first transfer: a process keeps some of the memory it once used."""

    @property
    def _pids(self) -> list[int]:
        return [side.process.pid for side in (self.giver, self.taker) if side.process is not None]

    def get(self) -> tuple[float, float, str]:
        """Fetch once; seconds, CPU seconds of both daemons, and a note about memory."""
        pids = self._pids
        for pid in pids:
            reset_peak(pid)
        before = sum(map(cpu_seconds, pids))
        result = self.taker.ok("get", self.ref, "--no-install", "--json").lines[-1]
        cpu = sum(map(cpu_seconds, pids)) - before
        assert result["ok"] and result["fetched_bytes"] == self.size, result
        peaks = [peak_mb(pid) for pid in pids]
        note = ", ".join(f"{peak:.0f} (+{peak - idle:.0f})" for peak, idle in zip(peaks, self._idle_mb, strict=True))
        Path(result["path"]).unlink()
        return result["seconds"], cpu, f"peak RSS (over idle before the first run) of giver and taker: {note} MB"


def run(folder: Path, mib: int, rounds: int) -> list[Row]:
    """All cases, interleaved."""
    made = folder / f"files-{mib}"
    adapter = adapter_of(made, mib)
    small = small_base(folder)
    rows = {case: Row(case) for case in [*by_hand.available(), CASE]}
    with ExitStack() as stack:
        pair = Pair(folder / f"pair-{mib}", adapter, small, stack)
        for _ in range(rounds):
            for tool in by_hand.available():
                rows[tool].add(pair.size, *by_hand.copy(tool, adapter, folder / "copy.bin", folder))
            rows[CASE].add(pair.size, *pair.get())
    shutil.rmtree(made)
    return list(rows.values())


def small_base(folder: Path) -> Path:
    make_fixtures(folder / "base", Options())
    return folder / "base" / "base.gguf"
