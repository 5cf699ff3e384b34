"""What a large store costs: the first scan, a daemon that watches it and has nothing to do, its memory."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from bench.common import cpu_seconds, resident_mb
from ollama_bridge.store import Store
from tests.fixtures.store_maker import StoreMaker
from tests.ollama_bridge.measure_watch import fill
from tests.support.processes import Sidecar, standin, wait_for

if TYPE_CHECKING:
    from pathlib import Path

SETTLE_S = 10.0
"""After the start: what is imported, read and connected once must not count as idle."""


def run(folder: Path, models: int, idle_s: float) -> str:
    """A Markdown table: a daemon on an empty store, and one on a store with that many models."""
    filled = StoreMaker(folder / "filled")
    fill(filled, models)
    begun = time.perf_counter()
    found = len(Store(filled.root).models())
    first_ms = 1e3 * (time.perf_counter() - begun)
    assert found == models, found
    lines = [
        f"first scan of {models} models: {first_ms:.0f} ms\n",
        "| store | start to knowing all | idle, share of one core | resident |",
        "|---|---|---|---|",
    ]
    for store, count in ((folder / "empty", 0), (filled.root, models)):
        with standin(folder / "ollama") as url:
            lines.append(f"| {count} models | {_daemon(folder / f'daemon-{count}', url, store, count, idle_s)} |")
    return "\n".join(lines)


def _daemon(folder: Path, url: str, store: Path, models: int, idle_s: float) -> str:
    (store / "manifests").mkdir(parents=True, exist_ok=True)
    (store / "blobs").mkdir(exist_ok=True)
    begun = time.perf_counter()
    with Sidecar(folder, url, store) as sidecar:
        assert sidecar.process is not None
        wait_for(lambda: sidecar.ok("status", "--json").json["store"]["models"] == models, "the store")
        ready_s = time.perf_counter() - begun
        time.sleep(SETTLE_S)
        pid = sidecar.process.pid
        before = cpu_seconds(pid)
        time.sleep(idle_s)
        used = cpu_seconds(pid) - before
        return f"{ready_s:.1f} s | {100 * used / idle_s:.2f} % | {resident_mb(pid):.0f} MB"
