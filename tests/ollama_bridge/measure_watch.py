"""Measure a large store, by hand: first scan, snapshot, later looks, time to event, idle cost.

.venv/bin/python tests/ollama_bridge/measure_watch.py [--models 1000] [--seconds 60] [--polling]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import psutil

from ollama_bridge.manifest import MediaType
from ollama_bridge.store import Store
from ollama_bridge.watch import watch_store
from ollama_bridge.watch_events import AdapterAppeared, StoreSnapshot
from tests.fixtures.store_maker import StoreMaker

if TYPE_CHECKING:
    from ollama_bridge.watch import ObserverChoice


def fill(maker: StoreMaker, models: int) -> None:
    """One model in ten has an adapter; each has five or six blobs."""
    for index in range(models):
        add(maker, f"model{index}", with_adapter=index % 10 == 0)


def add(maker: StoreMaker, name: str, *, with_adapter: bool) -> None:
    """One model with the layers models usually have."""
    kinds = [MediaType.MODEL, MediaType.TEMPLATE, MediaType.PARAMS, MediaType.LICENSE]
    layers = [maker.blob(f"{kind} of {name}".encode(), kind) for kind in kinds]
    maker.model(name, *layers, *([maker.blob(name.encode(), MediaType.ADAPTER)] if with_adapter else []))


async def watch(maker: StoreMaker, observer: ObserverChoice, seconds: float) -> None:
    """Snapshot, twenty new adapters, then nothing for a while."""
    process = psutil.Process()
    started = time.perf_counter()
    async with aclosing(watch_store(Store(maker.root), observer=observer)) as events:
        snapshot = await anext(events)
        assert isinstance(snapshot, StoreSnapshot)
        print(f"snapshot           {1e3 * (time.perf_counter() - started):8.1f} ms   {snapshot.observer}")
        delays = []
        for index in range(20):
            started = time.perf_counter()
            add(maker, f"new{index}", with_adapter=True)
            assert isinstance(await anext(events), AdapterAppeared)
            delays.append(1e3 * (time.perf_counter() - started))
        print(f"adapter to event   {statistics.median(delays):8.1f} ms   worst {max(delays):.1f} ms")
        before, started = process.cpu_times(), time.perf_counter()
        with anyio.move_on_after(seconds):
            await anext(events)
        after, passed = process.cpu_times(), time.perf_counter() - started
        used = after.user + after.system - before.user - before.system
        print(f"idle               {100 * used / passed:8.3f} %    of one core over {passed:.0f} s")
        print(f"memory             {process.memory_info().rss / 1e6:8.1f} MB   of this process")


def main() -> None:
    """Build the store, measure, remove it."""
    parser = argparse.ArgumentParser(description="Measure the watcher on a large store.")
    parser.add_argument("--models", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--polling", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        maker = StoreMaker(Path(folder) / "models")
        fill(maker, arguments.models)
        store = Store(maker.root)
        for what in ("first scan", "later scan"):
            started = time.perf_counter()
            store.models()
            print(f"{what}         {1e3 * (time.perf_counter() - started):8.1f} ms")
        anyio.run(watch, maker, "polling" if arguments.polling else "auto", arguments.seconds)


if __name__ == "__main__":
    main()
