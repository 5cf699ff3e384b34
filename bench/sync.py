"""From `share` to the adapter being installed at a peer by a rule: two daemons and two stand-ins as processes."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING

from tests.fixtures.make_fixtures import make_fixtures
from tests.journeys.api import Api
from tests.journeys.ollama import run_adapter, run_base
from tests.support.processes import Sidecar, standin

if TYPE_CHECKING:
    from pathlib import Path

PATIENCE_S = 30.0


def run(folder: Path, times: int) -> str:
    """Share that many adapters one after the other; median, worst and all."""
    files = folder / "files"
    make_fixtures(files)
    stores = folder / "a-store", folder / "b-store"
    with (
        standin(stores[0], adapters="accept") as ollama_a,
        standin(stores[1]) as ollama_b,
        Sidecar(folder / "a", ollama_a, stores[0]) as a,
        Sidecar(folder / "b", ollama_b, stores[1], peers=[a.listening]) as b,
    ):
        for url in (ollama_a, ollama_b):
            run_base(url, files)
        ask_a, ask_b = Api(a), Api(b)
        room = ask_a.post("/rooms", label="team")
        ask_b.post("/rooms/join", room=room["code"], label="team")
        key = ask_a.get("/status")["key"]
        ask_b.post("/sync/rules", direction="fetch", room="team", publisher=key)
        manifests = stores[1] / "manifests" / "registry.ollama.ai" / "team"
        seconds = []
        for number in range(times):
            name = f"lora-{number}"
            run_adapter(ollama_a, files, name, "adapter.gguf" if number % 2 else "adapter_b.gguf")
            time.sleep(1.0)  # the store watch has seen it, and nothing is in step with anything
            seconds.append(_one(ask_a, name, manifests / name / "latest"))
    all_of_them = " ".join(f"{each:.3f}" for each in sorted(seconds))
    return f"median {statistics.median(seconds):.3f} s, worst {max(seconds):.3f} s, {times} times\n{all_of_them}"


def _one(publisher: Api, name: str, manifest: Path) -> float:
    """Seconds from the request to share until the moving name is in the other Ollama's store."""
    begun = time.perf_counter()
    publisher.post("/shares", what=name, room="team")
    while not manifest.exists():
        if time.perf_counter() - begun > PATIENCE_S:
            raise RuntimeError(f"{name} was not installed within {PATIENCE_S:.0f} s")
        time.sleep(0.002)
    return time.perf_counter() - begun
