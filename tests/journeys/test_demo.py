"""`ollaswarm demo`, as `make demo` runs it: what it promises, and what it leaves behind, which is nothing."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import anyio
import psutil
import pytest

from tests.journeys.ollama import BASE, contents, listed, run_base
from tests.support.processes import standin

if TYPE_CHECKING:
    from pathlib import Path

FIRST_ACT = [
    "set up",
    "base model in both",
    "two sidecars up",
    "private room made and joined",
    "A shares '*': all that will come",
    "adapter put into A's Ollama, noticed",
    "announced to the room",
    "listed by B",
    "fetched",
    "verified",
    "fit checked",
    "installed",
    "/api/show of the result",
    "answer differs from the base's",
    "uninstalled",
    "tampered copy refused",
]
SECOND_ACT = [
    "a DHT, and three Ollamas",
    "three sidecars up",
    "private room, found by its code",
    "C's rule: follow whom I trust",
    "A and B share '*', and train",
    "C: sync run --dry-run",
    "C trusts A and B; both came",
    "A trains again; C follows",
    "C goes back to version 1",
    "a stranger with the topic, no code",
]
STEPS = FIRST_ACT + SECOND_ACT
NO_EXTRA = "import sys; sys.modules['gguf'] = None; from sidecar.cli.main import main; main()"
NO_DHT = """
from sidecar.demo import processes, second_act
start = second_act.start_sidecar
second_act.start_sidecar = lambda *args, store: start(*args[:-1], ["--no-dht"], store=store)
processes.RunningSidecar.event.__defaults__ = (2.0,)
from sidecar.cli.main import main
main()
"""
"""The second act with sidecars that have no way to find each other."""
NO_OLLAMA = "127.0.0.1:9"
"""Nothing answers there: both sides are stand-ins, whatever this machine runs."""


def environment(scratch: Path, ollama: str = NO_OLLAMA) -> dict[str, str]:
    # A setting of the user's own daemon must not reach the demo's.
    own = {"OLLASWARM_STORE": str(scratch / "none"), "OLLASWARM_DOWNLOAD_LIMIT": "1"}
    return os.environ | own | {"TMPDIR": str(scratch), "OLLAMA_HOST": ollama, "PYTHONIOENCODING": "utf-8"}


def run(scratch: Path, *argv: str, ollama: str = NO_OLLAMA) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, *argv],
        capture_output=True,
        text=True,
        encoding="utf-8",
        env=environment(scratch, ollama),
        timeout=120,
        check=False,
    )
    assert list(scratch.iterdir()) == [], "the demo left files behind"
    return done


def last_line(output: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(output.splitlines()[-1])
    return found


@pytest.mark.timeout(150)  # both acts; about 20 s on two quiet processors
def test_demo_keeps_its_promises(tmp_path: Path) -> None:
    done = run(tmp_path, "-m", "sidecar.cli.main", "demo", "--json")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1
    answer = last_line(done.stdout)
    assert set(answer) == {"ok", "digest", "size", "route", "installed_as", "auto_sync", "steps"}
    assert answer["ok"] is True
    assert answer["digest"].startswith("sha256:")
    assert answer["size"] == 48 << 20
    assert answer["route"] == "pull", "the receiving Ollama refuses adapters, as today's does"
    assert answer["installed_as"] == "demo-lora:latest"
    assert [step["name"] for step in answer["steps"]] == STEPS
    assert all(step["ok"] and step["seconds"] >= 0 for step in answer["steps"])
    assert sum(step["seconds"] for step in answer["steps"]) < 80
    shown = done.stderr
    assert shown.count("✔") == len(STEPS)
    digest = answer["digest"].removeprefix("sha256:")
    assert f"sha256-{digest}" in next(line for line in shown.splitlines() if "ADAPTER" in line)
    assert "FROM" in shown
    assert "chunk-mismatch: Peers sent wrong data" in shown
    assert set(answer["auto_sync"]["installed"]) == {"lab/sql-lora:v1", "lab/style-lora:v1", "lab/sql-lora:v2"}
    assert 0 < answer["auto_sync"]["update_s"] < 20
    assert shown.count("Its publisher is not trusted") == 2
    assert "connected with all 3, was told" in shown


def test_demo_installs_into_the_ollama_of_this_machine_if_it_has_the_base(tmp_path: Path, files: Path) -> None:
    scratch, store = tmp_path / "scratch", tmp_path / "store"
    scratch.mkdir()
    with standin(store) as ollama:
        run_base(ollama, files)
        base_name = f"{BASE}:latest"
        before = contents(store)
        done = run(scratch, "-m", "sidecar.cli.main", "demo", "--act", "1", "--json", ollama=ollama)
        assert done.returncode == 0, done.stderr
        assert ollama in done.stderr
        assert f"for {BASE}" not in done.stderr, "the publisher's name for the base is another one"
        assert re.fullmatch(r"demo-lora-[0-9a-f]{6}:latest", last_line(done.stdout)["installed_as"])
        assert contents(store) == before
        assert anyio.run(listed, ollama) == {base_name}


def test_demo_without_the_extra_names_it(tmp_path: Path) -> None:
    done = run(tmp_path, "-c", NO_EXTRA, "demo", "--json")
    assert done.returncode == 1
    answer = last_line(done.stdout)
    assert answer["ok"] is False
    assert "ollaswarm[convert]" in answer["error"]["cause"]
    assert [(step["name"], step["ok"]) for step in answer["steps"]] == [("set up", False)]


@pytest.mark.soak
def test_demo_of_members_that_do_not_meet_fails_with_the_cause(tmp_path: Path) -> None:
    done = run(tmp_path, "-c", NO_DHT, "demo", "--act", "2", "--json")
    assert done.returncode == 1
    answer = last_line(done.stdout)
    assert answer["ok"] is False
    assert "told no peer:connected" in answer["error"]["cause"]
    assert [(step["name"], step["ok"]) for step in answer["steps"]][-1] == (SECOND_ACT[2], False)


def test_demo_failure_is_told_to_people_too(tmp_path: Path) -> None:
    done = run(tmp_path, "-c", NO_EXTRA, "demo")
    assert done.returncode == 1
    assert "✘ set up" in done.stdout
    assert "ollaswarm[convert]" in done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for one process")
@pytest.mark.parametrize(
    ("number", "act", "running"),
    [(signal.SIGINT, "1", 4), (signal.SIGTERM, "2", 7)],
    ids=["ctrl-c in act 1", "kill in act 2"],
)
def test_interrupted_demo_leaves_nothing(tmp_path: Path, number: signal.Signals, act: str, running: int) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "sidecar.cli.main", "demo", "--act", act, "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        env=environment(tmp_path),
    ) as demo:
        assert demo.stderr is not None
        assert any("sidecars up" in line for line in demo.stderr)
        children = psutil.Process(demo.pid).children(recursive=True)
        assert len(children) == running
        demo.send_signal(number)
        output, _ = demo.communicate(timeout=30)
    assert demo.returncode == 1
    answer = last_line(output)
    assert answer["ok"] is False
    assert "interrupted" in answer["error"]["cause"]
    assert not any(child.is_running() for child in children)
    assert list(tmp_path.iterdir()) == []
