"""`ollaswarm up`: settings in, daemon started, said so."""

import json
import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest

from sidecar.config import Settings, settings_table
from tests.sidecar.cli.conftest import Run


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Settings]:
    """The settings `run_daemon` was started with."""
    found: list[Settings] = []
    module = types.ModuleType("sidecar.daemon.app")

    def run_daemon(settings: Settings, *, ready: Callable[[str], None] | None = None) -> int:
        found.append(settings)
        assert ready is not None
        ready("127.0.0.1:5555")
        return 3

    module.run_daemon = run_daemon  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "sidecar.daemon", types.ModuleType("sidecar.daemon"))
    monkeypatch.setitem(sys.modules, "sidecar.daemon.app", module)
    for name in ("OLLAMA_HOST", "OLLASWARM_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    return found


def test_flags_become_settings(run: Run, started: list[Settings], tmp_path: Path) -> None:
    words = ["--data-dir", str(tmp_path / "d"), "--no-dht", "--quota", "1GiB", "--api", "127.0.0.1:5555"]
    told = run("up", *words, "--peer", "10.0.0.1:1", "--peer", "10.0.0.2:2", "--bootstrap", "10.0.0.3:3,10.0.0.4:4")
    assert told.exit_code == 3, told.stderr
    (settings,) = started
    assert (settings.data_dir, settings.no_dht, settings.no_mdns, settings.quota) == (
        tmp_path / "d",
        True,
        False,
        1 << 30,
    )
    assert [str(peer) for peer in settings.peers] == ["10.0.0.1:1", "10.0.0.2:2"]
    assert [str(node) for node in settings.bootstrap] == ["10.0.0.3:3", "10.0.0.4:4"]
    assert "ollaswarm runs: 127.0.0.1:5555" in told.stdout


def test_ready_as_json(run: Run, started: list[Settings]) -> None:
    said = json.loads(run("up", "--json").stdout)
    assert (said["ok"], said["api"], said["data_dir"]) == (True, "127.0.0.1:5555", str(started[0].data_dir))


def test_every_setting_is_a_flag(run: Run) -> None:
    shown = run("up", "--help").stdout
    assert [row.flag for row in settings_table() if f"  {row.flag}" not in shown] == []


def test_a_bad_setting_is_refused_before_anything_starts(run: Run, started: list[Settings]) -> None:
    told = run("up", "--api", "0.0.0.0:11470")
    assert (told.exit_code, started) == (1, [])
    assert "loopback only" in told.stderr


def test_t25_remote_ollama_needs_agreement(run: Run, started: list[Settings], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_HOST", "http://ollama.example:11434")
    refused = run("up")
    assert (refused.exit_code, started) == (1, [])
    assert "without encryption" in refused.stderr
    assert run("up", "--yes").exit_code == 3
    assert run("up", "--allow-remote-ollama").exit_code == 3
    monkeypatch.setenv("OLLASWARM_ALLOW_REMOTE_OLLAMA", "1")
    assert run("up").exit_code == 3
