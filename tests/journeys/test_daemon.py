"""The daemon as a process: what it refuses at its start and at its API, and what a stop and a second start do."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.journeys.api import Api
from tests.journeys.ollama import contents, run_adapter, run_base
from tests.support.processes import COMMAND, Sidecar, standin, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NOWHERE = "http://127.0.0.1:9"
DISK_BYTES = 24 << 20


def up(folder: Path, *args: str, ollama: str = NOWHERE, api: str = "127.0.0.1:0") -> subprocess.CompletedProcess[str]:
    """`ollaswarm up` that is expected to end by itself."""
    argv = [COMMAND, "up", "--ollama", ollama, "--data-dir", str(folder), "--api", api, "--no-mdns", "--no-dht"]
    listen = [] if "--listen" in args else ["--listen", "127.0.0.1:0"]
    return subprocess.run(
        [*argv, *listen, *args], capture_output=True, text=True, timeout=30, check=False, stdin=subprocess.DEVNULL
    )


def test_second_daemon_on_the_same_data_folder_is_refused(tmp_path: Path) -> None:
    with Sidecar(tmp_path, NOWHERE, tmp_path / "store") as running:
        second = up(running.data_dir)
        assert second.returncode == 1
        assert str(running.data_dir) in second.stderr
        assert "next" in second.stderr.lower() or "--data-dir" in second.stderr
        assert running.ok("status", "--json").json["pid"] == running.process.pid  # type: ignore[union-attr]
    assert not (running.data_dir / "daemon.json").exists()


@pytest.mark.parametrize("flag", ["--api", "--listen"])
def test_port_that_is_taken_is_named(tmp_path: Path, flag: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        ended = up(tmp_path, api=address) if flag == "--api" else up(tmp_path, "--listen", address)
    assert ended.returncode == 1
    assert address in ended.stderr
    assert flag in ended.stderr
    assert not (tmp_path / "daemon.json").exists()


@pytest.mark.parametrize("flag", ["--data-dir", "--api"])
def test_setting_that_cannot_be_used_is_named(tmp_path: Path, flag: str) -> None:
    if flag == "--api":
        ended = up(tmp_path, api="0.0.0.0:0")
        assert "loopback" in ended.stderr
    else:
        (tmp_path / "file").write_text("")
        ended = up(tmp_path / "file")
        assert str(tmp_path / "file") in ended.stderr
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr


def test_t25_ollama_on_another_machine_is_not_used_without_consent(tmp_path: Path) -> None:
    ended = up(tmp_path, ollama="http://192.0.2.1:11434")
    assert ended.returncode == 1
    assert "192.0.2.1" in ended.stderr
    assert "--allow-remote-ollama" in ended.stderr
    assert not (tmp_path / "journal.sqlite").exists()


def test_t23_the_daemons_api_answers_only_its_owner(tmp_path: Path) -> None:
    with Sidecar(tmp_path, NOWHERE, tmp_path / "store") as running:
        api = Api(running)
        assert api.request("GET", "/api/v1/status").status_code == 200
        refused: list[dict[str, str]] = [
            {"Authorization": "Bearer " + "0" * 64},
            {"Authorization": ""},
            {"Host": "attacker.example"},
            {"Host": "localhost:1"},
            {"Origin": "https://attacker.example"},
            {"Origin": "null"},
        ]
        for headers in refused:
            for method, path in (("GET", "/api/v1/status"), ("POST", "/api/v1/rooms"), ("GET", "/metrics")):
                response = api.request(method, path, headers=headers)
                assert response.status_code in (401, 403, 421), (headers, path, response.text)
                assert set(response.json()["error"]) == {"code", "cause", "next"}
        assert api.get("/rooms") == []
        assert (running.data_dir / "token").stat().st_mode & 0o077 == 0


def test_stop_says_goodbye_and_leaves_nothing_running(tmp_path: Path, files: Path) -> None:
    with standin(tmp_path / "store") as ollama, Sidecar(tmp_path / "a", ollama, tmp_path / "store") as first:
        run_base(ollama, files)
        with Sidecar(tmp_path / "b", ollama, tmp_path / "store", peers=[first.listening]) as second:
            room = Api(first).post("/rooms", label="team")
            Api(second).post("/rooms/join", room=room["code"], label="team")
            wait_for(lambda: Api(first).get("/peers"), "the peer")
            begun = time.monotonic()
            assert second.stop() == 0
            assert time.monotonic() - begun < 5
            wait_for(lambda: not Api(first).get("/peers"), "the goodbye", timeout_s=2)
        assert first.process is not None
        assert first.process.child is not None
        first.process.child.send_signal(signal.SIGINT)
        assert first.process.child.wait(10) == 0


def test_a_start_after_a_crash_mends_what_it_finds(tmp_path: Path) -> None:
    with Sidecar(tmp_path, NOWHERE, tmp_path / "store") as running:
        Api(running).post("/rooms", label="team")
        running.kill()
        assert (running.data_dir / "daemon.json").exists()
        told = running.run("status")
        assert told.code == 1
        assert "ollaswarm up" in told.err
        running.start()
        assert [room["label"] for room in Api(running).get("/rooms")] == ["team"]


def fill(path: Path) -> None:
    """Write until the disk is full."""
    with path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1 << 20))


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A file system of its own, mounted at `folder`."""
    folder.mkdir(parents=True)
    if sys.platform != "linux" or shutil.which("mount") is None:
        pytest.skip("small file systems are mounted on Linux only")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"a tmpfs cannot be mounted here: {mounted.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_t20_full_disk_is_refused_before_and_survived_during_a_transfer(tmp_path: Path, big_files: Path) -> None:
    """The data folder is a disk of 24 MiB, the adapter has 12."""
    with (
        small_disk(tmp_path / "second"),
        standin(tmp_path / "first-store", adapters="accept") as ollama_a,
        standin(tmp_path / "second-store") as ollama_b,
        Sidecar(tmp_path / "first", ollama_a, tmp_path / "first-store", args=["--upload-limit", "4MiB"]) as first,
        Sidecar(tmp_path / "second", ollama_b, tmp_path / "second-store", peers=[first.listening]) as second,
    ):
        run_base(ollama_a, big_files)
        run_base(ollama_b, big_files)
        before = contents(tmp_path / "second-store")
        run_adapter(ollama_a, big_files, "sql-lora")
        ask_first, ask = Api(first), Api(second)
        room = ask_first.post("/rooms", label="team")
        ask.post("/rooms/join", room=room["code"], label="team")
        ask_first.post("/shares", what="sql-lora", room="team")
        row = ask.row("sql-lora")
        filler = tmp_path / "second" / "filler"

        filler.write_bytes(bytes(15 << 20))
        refused = ask.finished(ask.post("/transfers", ref=row["ref"])["id"])
        assert refused["error"]["code"] == "disk-full"
        assert refused["error"]["next"]
        assert refused["done_bytes"] == 0

        filler.unlink()
        begun = ask.post("/transfers", ref=row["ref"])["id"]
        wait_for(lambda: ask.get(f"/transfers/{begun}")["done_bytes"] > 5 << 20, "a part of it")
        with pytest.raises(OSError, match="space"):
            fill(filler)
        ended = ask.finished(begun)
        if ended["state"] == "failed":  # else all of it was reserved before, which is better still
            assert ended["error"]["code"] == "disk-full"
        filler.unlink()
        again = ask.got(row["ref"])
        assert again["result"]["digest"] == row["digest"]
        ask.post("/uninstall", name="sql-lora")
        assert contents(tmp_path / "second-store") == before
