"""How long from an adapter's appearance in the store to `entry:added` at a peer, with `share '*'`.

Two daemons and two stand-ins as processes; the clock starts when the manifest is written. Run it by hand:
`.venv/bin/python -m tests.journeys.measure_appearing [times]`.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import httpx

from ollama_bridge.names import ModelName
from sidecar.paths import DaemonRecord, DataPaths
from tests.fixtures.make_fixtures import make_fixtures
from tests.journeys.api import Api
from tests.journeys.ollama import run_adapter, run_base
from tests.support.processes import Sidecar, standin


def main(times: int = 20) -> None:
    """Measure and print."""
    folder = Path(tempfile.mkdtemp(prefix="appearing-"))
    make_fixtures(folder / "files")
    stores = folder / "a-store", folder / "b-store"
    with (
        standin(stores[0], adapters="accept") as ollama_a,
        standin(stores[1]) as ollama_b,
        Sidecar(folder / "a", ollama_a, stores[0]) as a,
        Sidecar(folder / "b", ollama_b, stores[1], peers=[a.listening]) as b,
    ):
        run_base(ollama_a, folder / "files")
        ask_a, ask_b = Api(a), Api(b)
        room = ask_a.post("/rooms", label="team")
        ask_b.post("/rooms/join", room=room["code"], label="team")
        ask_a.post("/shares/all", room="team", on=True)
        run_adapter(ollama_a, folder / "files", "first")
        ask_b.row("first")
        manifests = stores[0] / "manifests"
        template = manifests.joinpath(*ModelName.parse("first").path_parts).read_bytes()
        print_figures([one(ask_b, manifests, template, b, f"lora-{number}") for number in range(times)])


def one(ask: Api, manifests: Path, template: bytes, sidecar: Sidecar, name: str) -> float:
    """Seconds for one adapter model that appears."""
    paths = DataPaths(sidecar.data_dir)
    record = DaemonRecord.read(paths)
    assert record is not None
    headers = {"Authorization": f"Bearer {paths.token.read_text().strip()}"}
    with httpx.stream("GET", f"http://{record.api}/api/v1/events", headers=headers, timeout=30) as events:
        time.sleep(0.7)  # not in step with anything
        place = manifests.joinpath(*ModelName.parse(name).path_parts)
        place.parent.mkdir(parents=True)
        begun = time.perf_counter()
        place.write_bytes(template)  # in place, as Ollama does
        for line in events.iter_lines():
            if line.startswith("data:"):
                event = json.loads(line[5:])
                if event.get("event") == "entry:added" and event["adapter"] == name:
                    return time.perf_counter() - begun
    raise RuntimeError("the events ended")


def print_figures(seconds: list[float]) -> None:
    """Median, worst and all."""
    print(f"median {statistics.median(seconds):.3f} s, worst {max(seconds):.3f} s, {len(seconds)} times")
    print(" ".join(f"{each:.3f}" for each in sorted(seconds)))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20)
