"""The data folder: private, and used by one daemon at a time."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sidecar.errors import ConfigError, DaemonError
from sidecar.paths import (
    DaemonRecord,
    DataLock,
    DataPaths,
    default_data_dir,
    is_locked,
    load_or_create_token,
    open_to_others,
    write_private,
)

posix = pytest.mark.skipif(sys.platform == "win32", reason="POSIX modes")
HOLDER = """
import sys, pathlib
from sidecar.paths import DataLock, DataPaths
DataLock(DataPaths(pathlib.Path(sys.argv[1]))).acquire()
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def paths(tmp_path: Path) -> DataPaths:
    return DataPaths(tmp_path / "data").prepare()


def test_default_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OLLASWARM_DATA_DIR", str(tmp_path))
    assert default_data_dir() == tmp_path
    monkeypatch.delenv("OLLASWARM_DATA_DIR")
    assert default_data_dir().name == "ollaswarm"


@posix
def test_prepare_makes_it_private(paths: DataPaths) -> None:
    assert not any(open_to_others(folder) for folder in (paths.root, paths.partial, paths.blobs, paths.logs))


def test_a_folder_that_cannot_be_made_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be used"):
        DataPaths(tmp_path / "file" / "data").prepare()


@posix
def test_private_files_replace_whole_and_private(paths: DataPaths) -> None:
    paths.token.write_text("old")
    paths.token.chmod(0o644)
    write_private(paths.token, b"new")
    assert paths.token.read_bytes() == b"new"
    assert not open_to_others(paths.token)
    assert [file.name for file in paths.root.iterdir() if file.name.startswith(".")] == []


def test_token_survives_restarts(paths: DataPaths) -> None:
    token = load_or_create_token(paths)
    assert len(token) >= 43
    assert load_or_create_token(paths) == token


@posix
def test_a_token_others_could_read_is_replaced(paths: DataPaths) -> None:
    token = load_or_create_token(paths)
    paths.token.chmod(0o644)
    assert load_or_create_token(paths) != token
    assert not open_to_others(paths.token)


@pytest.mark.parametrize("content", [b"", b"short", b"\xff" * 50])
def test_a_damaged_token_is_replaced(paths: DataPaths, content: bytes) -> None:
    write_private(paths.token, content)
    assert len(load_or_create_token(paths)) >= 43


def test_daemon_record(paths: DataPaths) -> None:
    record = DaemonRecord(7, "127.0.0.1:1", "0.1.0", 5.0)
    record.write(paths)
    assert DaemonRecord.read(paths) == record


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"pid":"x","api":1,"version":1,"started":1}', b"\xff"])
def test_a_damaged_record_is_none(paths: DataPaths, content: bytes) -> None:
    paths.daemon.write_bytes(content)
    assert DaemonRecord.read(paths) is None


def test_second_daemon_is_told_about_the_first(paths: DataPaths) -> None:
    assert not is_locked(paths)
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(paths.root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline().strip() == b"held"
        assert is_locked(paths)
        with pytest.raises(DaemonError) as caught:
            DataLock(paths).acquire()
        assert str(holder.pid) in caught.value.cause
        assert "--data-dir" in caught.value.next_step
        holder.kill()
    assert holder.returncode in (-signal.SIGTERM, -9, 1)
    # kill -9 left the file, not the lock
    assert paths.lock.exists()
    assert not is_locked(paths)
    with DataLock(paths):
        assert is_locked(paths)
    assert not is_locked(paths)
