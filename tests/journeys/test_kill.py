"""kill -9 of either side at random points of a transfer and of an install: nothing is lost, nothing is left behind.

`make test` takes a few points; `make soak` takes twenty of each kind and prints the table.
"""

from __future__ import annotations

import random
import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from ollama_bridge.standin.tiny_models import Options
from sidecar.daemon.lifecycle import GAUGES_S
from sidecar.transfer.chunks import CHUNK_BYTES
from sidecar.transfer.scheduler_events import SchedulerLimits
from tests.fixtures.make_fixtures import make_fixtures
from tests.journeys.api import Api
from tests.journeys.ollama import contents, run_adapter, run_base
from tests.support.processes import Sidecar, free_port, standin, wait_for

if TYPE_CHECKING:
    from pathlib import Path

SOAK = [pytest.mark.soak, pytest.mark.timeout(600)]
TRANSFERS = [
    pytest.param((24 << 20, "8MiB"), 4, id="24MiB-4"),
    pytest.param((64 << 20, "8MiB"), 20, id="64MiB-20", marks=SOAK),
]
INSTALLS = [pytest.param((0, ""), 4, id="4"), pytest.param((0, ""), 20, id="20", marks=SOAK)]
"""Size of the adapter and cap of the upload, 0 for the smallest and none; and how often is killed."""
IN_FLIGHT = SchedulerLimits().total_in_flight
"""Chunks asked for and not yet on disk when a receiver dies; only these may be fetched twice."""


@dataclass
class Two:
    """A publisher and a receiver as processes, and the offer between them."""

    first: Sidecar
    second: Sidecar
    ask_first: Api
    ask_second: Api
    row: dict[str, Any]
    store: Path

    @property
    def size(self) -> int:
        return int(self.row["size"])

    def sent_bytes(self) -> float:
        """All that the publisher sent to peers since it started."""
        time.sleep(GAUGES_S + 0.5)  # how old the counter may be
        lines = self.ask_first.request("GET", "/metrics").text.splitlines()
        return next(float(line.split()[1]) for line in lines if line.startswith("ollaswarm_provided_bytes_total "))

    def wait_for_bytes(self, transfer: str, wanted: float) -> None:
        """Return when a running transfer has that many bytes, or is done."""

        def reached() -> bool:
            info = self.ask_second.get(f"/transfers/{transfer}")
            assert info["state"] in ("running", "done"), info
            return bool(info["state"] == "done" or info["done_bytes"] >= wanted)

        try:
            wait_for(reached, f"{wanted / self.size:.0%} of the transfer")
        except TimeoutError as error:
            raise AssertionError(str(self.ask_second.get(f"/transfers/{transfer}"))) from error

    def begin(self) -> str:
        self.ask_second.row(self.row["name"])
        return str(self.ask_second.post("/transfers", ref=self.row["ref"])["id"])


@pytest.fixture
def two(tmp_path: Path, request: pytest.FixtureRequest) -> Any:
    size, limit = request.param
    files, store = tmp_path / "files", tmp_path / "second-store"
    make_fixtures(files, Options(pad_to=size) if size else Options())
    with ExitStack() as exits:
        ollama_a = exits.enter_context(standin(tmp_path / "first-store", adapters="accept"))
        ollama_b = exits.enter_context(standin(store, adapters="refuse"))
        run_base(ollama_a, files)
        run_base(ollama_b, files)
        run_adapter(ollama_a, files, "sql-lora")
        port = free_port()
        address = f"127.0.0.1:{port}"
        capped = ["--upload-limit", limit] if limit else []
        first = Sidecar(tmp_path / "first", ollama_a, tmp_path / "first-store", listen=address, args=capped)
        first = exits.enter_context(first)
        second = exits.enter_context(Sidecar(tmp_path / "second", ollama_b, store, peers=[address]))
        ask_first, ask_second = Api(first), Api(second)
        room = ask_first.post("/rooms", label="team")
        ask_second.post("/rooms/join", room=room["code"], label="team")
        row = ask_first.post("/shares", what="sql-lora", room="team")
        ask_second.row("sql-lora")
        yield Two(first, second, ask_first, ask_second, row, store)


@pytest.mark.parametrize(("two", "points"), TRANSFERS, indirect=["two"])
def test_t20_receiver_killed_during_a_transfer_resumes(two: Two, points: int) -> None:
    rng = random.Random(11)
    kept, table = 0, []
    for left in range(points, 0, -1):
        goal = (kept + rng.uniform(0, 2 / (left + 1)) * (two.size // CHUNK_BYTES - kept)) * CHUNK_BYTES / two.size
        goal = min(goal, 0.85)  # nearer the end a busy machine kills what has finished
        transfer = two.begin()
        two.wait_for_bytes(transfer, goal * two.size)
        two.second.kill()
        before = kept
        kept = chunks_kept(two)
        table.append((goal, before, kept))
        assert kept >= before, "what was verified stays"
        two.second.start()
    end = two.ask_second.got(two.row["ref"])
    sent = two.sent_bytes()
    twice = sent / CHUNK_BYTES - two.size / CHUNK_BYTES
    print(f"\nreceiver killed {points} times, resumed {points} times")
    print("killed at   chunks kept before   after")
    for goal, before, after in table:
        print(f"{goal:9.1%}   {before:18}   {after:5}")
    print(
        f"sent in all {sent / two.size:.3f} times the file; {twice:.0f} chunks twice, {twice / points:.1f} for each kill"
    )
    assert end["result"]["digest"] == two.row["digest"]
    assert twice <= points * IN_FLIGHT
    installed(two)


@pytest.mark.parametrize(("two", "points"), TRANSFERS, indirect=["two"])
def test_t20_sender_killed_during_a_transfer_is_found_again(two: Two, points: int) -> None:
    """The receiver's `get` goes on by itself once the sender is back."""
    rng = random.Random(12)
    transfer = two.begin()
    gaps = []
    for goal in sorted(rng.uniform(0.02, 0.97) for _ in range(points)):
        two.wait_for_bytes(transfer, goal * two.size)
        two.first.kill()
        at = time.monotonic()
        before = two.ask_second.get(f"/transfers/{transfer}")["done_bytes"]
        two.first.start()
        two.wait_for_bytes(transfer, before + 1)
        gaps.append((goal, time.monotonic() - at))
        assert gaps[-1][1] < 15, "it is dialled again soon, not after a growing pause"
    end = two.ask_second.finished(transfer)
    print(f"\nsender killed {points} times; the same get went on each time")
    for goal, gap in gaps:
        print(f"{goal:6.1%}   went on {gap:.2f} s after the kill, start of the daemon included")
    assert end["state"] == "done", end["error"]
    assert end["result"]["fetched_bytes"] <= two.size
    installed(two)


@pytest.mark.parametrize(("two", "points"), INSTALLS, indirect=["two"])
def test_receiver_killed_during_an_install_leaves_old_or_new(two: Two, points: int) -> None:
    """After a restart the store has the old state or the whole model, and nothing of ours besides."""
    rng = random.Random(13)
    before = contents(two.store)
    whole = two.ask_second.got(two.row["ref"])["result"]["seconds"]
    after = contents(two.store)
    two.ask_second.post("/uninstall", name="sql-lora")
    assert contents(two.store) == before
    seen = {"old": 0, "new": 0}
    for _ in range(points):
        two.begin()
        time.sleep(rng.uniform(0, whole * 1.3))
        two.second.kill()
        two.second.start()
        wait_for(lambda: "recovered" in state(two, before, after), "the store is mended")
        now = state(two, before, after)
        seen["new" if "new" in now else "old"] += 1
        if "new" in now:
            two.ask_second.got(two.row["ref"])  # what stands is recognised as ours
            two.ask_second.post("/uninstall", name="sql-lora")
            assert contents(two.store) == before
    print(
        f"\nkilled {points} times within {whole * 1.3:.2f} s: {seen['old']} times the old state, {seen['new']} times the new"
    )
    two.ask_second.got(two.row["ref"])
    assert contents(two.store) == after


def state(two: Two, before: dict[str, str], after: dict[str, str]) -> str:
    """What the store is: the old state or the new one, "recovered" when it is exactly that.

    A blob without a manifest is not a state of its own: Ollama drops it at a start, and a next install uses it.
    """
    now = {path: digest for path, digest in contents(two.store).items() if path.startswith("manifests")}
    for name, known in (("old", before), ("new", after)):
        if now == {path: digest for path, digest in known.items() if path.startswith("manifests")}:
            return f"recovered {name}"
    return "between"


def chunks_kept(two: Two) -> int:
    """Chunks that the bitmap of the partial file has."""
    (folder,) = (two.second.data_dir / "partial").iterdir()
    return int.from_bytes((folder / "chunks").read_bytes()[48:], "little").bit_count()


def installed(two: Two) -> None:
    """The adapter is in the receiving store, whole, and nothing partial is left."""
    blob = two.store / "blobs" / two.row["digest"].replace(":", "-")
    sent = two.store.parent / "first-store" / "blobs" / blob.name
    assert blob.read_bytes() == sent.read_bytes()
    assert list((two.second.data_dir / "partial").iterdir()) == []
