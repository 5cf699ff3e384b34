"""Where this machine's Ollama keeps its models, for every system and kind of install (facts 1.1).

Our own environment says little about the server's: a systemd drop-in, launchd, the desktop app's settings or a container
can differ. What the server itself says, the `FROM` path of `/api/show`, wins over every guess.
"""

from __future__ import annotations

import os
import sqlite3
import stat
import sys
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING

from ollama_bridge.digests import Digest
from ollama_bridge.errors import StoreError
from ollama_bridge.modelfile import blob_paths
from ollama_bridge.nofollow import open_regular
from ollama_bridge.scan import check_layout

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

SYSTEMD_STORE = PurePosixPath("/usr/share/ollama/.ollama/models")
DOCKER_VOLUME_STORE = PurePosixPath("/var/lib/docker/volumes/ollama/_data/models")


@dataclass(frozen=True, slots=True)
class Machine:
    """The surroundings a search depends on, so that tests on one system can be any other."""

    platform: str = sys.platform
    """As `sys.platform`: `linux`, `darwin`, `win32`."""
    home: Path = field(default_factory=Path.home)
    environment: Mapping[str, str] = field(default_factory=lambda: os.environ)
    filesystem: Path = Path("/")
    """Where absolute POSIX paths start."""

    def absolute(self, path: PurePosixPath) -> Path:
        """An absolute POSIX path on this machine."""
        return self.filesystem / path.relative_to("/")


@dataclass(frozen=True, slots=True)
class StoreLocation:
    """A model store, and whether its files can be read by us."""

    path: Path
    kind: str
    """How it was found: `given`, `server`, `environment`, `app`, `systemd`, `home` or `docker`."""
    readable: bool
    reason: str
    """A sentence: what was found, or why only Ollama's API can be used and what would change that."""


def find_store(
    *, given: Path | None = None, show_modelfile: str | None = None, machine: Machine | None = None
) -> StoreLocation:
    """Find the model store. Blocking, reads a few folders.

    Args:
        given: A path the user chose (`--store`); nothing else is looked at then.
        show_modelfile: `modelfile` of `/api/show` of any local GGUF model, when the server could be asked.
        machine: The surroundings, this machine if not given.
    """
    machine = Machine() if machine is None else machine
    if given is not None:
        return _examine(given, "given")
    if show_modelfile is not None and (paths := blob_paths(show_modelfile)).from_ is not None:
        return _server_store(paths.from_, machine)
    for kind, path in _candidates(machine):
        if _exists(path, behind_closed_doors=kind != "docker"):
            return _examine(path, kind)
    path = machine.home / ".ollama" / "models"
    return StoreLocation(
        path, "home", False, "No Ollama model store was found. Start Ollama once, or give --store PATH."
    )


def _candidates(machine: Machine) -> Iterator[tuple[str, Path]]:
    """Likeliest first. Where a systemd store exists, its server has the port, whatever lies in our home."""
    if override := machine.environment.get("OLLAMA_MODELS", "").strip().strip("\"'").strip():
        yield "environment", Path(override)  # no `~` expansion: the server does none either
    if machine.platform in {"darwin", "win32"}:
        if chosen := _app_setting(machine):
            yield "app", chosen
    else:
        yield "systemd", machine.absolute(SYSTEMD_STORE)
    yield "home", machine.home / ".ollama" / "models"
    yield "docker", machine.absolute(DOCKER_VOLUME_STORE)


def _app_setting(machine: Machine) -> Path | None:
    """The folder chosen in the desktop app, which it gives its server as OLLAMA_MODELS (app/store/store.go)."""
    if machine.platform == "darwin":
        database = machine.home / "Library" / "Application Support" / "Ollama" / "db.sqlite"
    elif local := machine.environment.get("LOCALAPPDATA"):
        database = Path(local) / "Ollama" / "db.sqlite"
    else:
        return None
    if not database.is_file():
        return None
    try:
        with closing(sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True, timeout=1.0)) as connection:
            row = connection.execute("SELECT models FROM settings LIMIT 1").fetchone()
    except sqlite3.Error:  # another version of the app, or busy: the defaults remain
        return None
    if row is None or not isinstance(row[0], str) or not row[0].strip():
        return None
    folder = Path(row[0].strip())
    return folder if _exists(folder) else None  # the app falls back to the default as well


def _server_store(blob: str, machine: Machine) -> StoreLocation:
    """The store of a server that named the path of a blob, which may be a path inside a container."""
    is_windows_path = PureWindowsPath(blob).drive != ""
    pure: PurePosixPath | PureWindowsPath = PureWindowsPath(blob) if is_windows_path else PurePosixPath(blob)
    seen, digest = pure.parent.parent, Digest.parse_file_name(pure.name)
    path = Path(str(seen)) if is_windows_path else machine.absolute(PurePosixPath(seen))
    if _exists(path) and (digest is None or _holds(path, digest) or not _listable(path)):
        return _examine(path, "server")
    for kind, candidate in _candidates(machine):
        if digest is not None and _exists(candidate) and _holds(candidate, digest):
            return _examine(candidate, kind)  # the same files, mounted elsewhere: a container's volume
    return StoreLocation(
        path,
        "server",
        False,
        f"Ollama keeps its models at {seen}, which is not there for us: it runs in a container, in WSL or on another "
        "machine. Sharing goes through its API; give --store PATH if the folder is mounted somewhere.",
    )


def _examine(path: Path, kind: str) -> StoreLocation:
    try:
        check_layout(path)
        for part in ("manifests", "blobs"):
            if (path / part).exists():
                os.listdir(path / part)
        _open_one_blob(path)
    except FileNotFoundError:
        return StoreLocation(path, kind, False, f"There is no folder {path}. Start Ollama once, or give --store PATH.")
    except StoreError as error:
        return StoreLocation(path, kind, False, str(error))
    except OSError as error:
        return StoreLocation(path, kind, False, _refusal(path, error))
    if not (path / "manifests").exists() and not (path / "blobs").exists() and os.listdir(path):
        return StoreLocation(path, kind, False, f"{path} holds files but no manifests and blobs: it is no model store.")
    return StoreLocation(path, kind, True, f"The model store at {path} can be read.")


def _open_one_blob(path: Path) -> None:
    if not (path / "blobs").exists():
        return
    with os.scandir(path / "blobs") as listing:
        names = (entry.name for entry in listing)
        if (first := next((name for name in names if Digest.parse_file_name(name)), None)) is not None:
            open_regular(path, ("blobs", first)).close()


def _refusal(path: Path, error: OSError) -> str:
    if not isinstance(error, PermissionError):
        return (
            f"The model store at {path} cannot be read ({error.strerror or error}). Sharing goes through Ollama's API."
        )
    if path.as_posix().endswith(str(SYSTEMD_STORE)):
        return (
            f"The model store at {path} belongs to the user ollama. Log out and in again if this user is in the group "
            "ollama, or run: sudo usermod -aG ollama $USER. Until then sharing goes through Ollama's API."
        )
    return f"This user may not read the model store at {path}. Sharing goes through Ollama's API."


def _exists(path: Path, *, behind_closed_doors: bool = True) -> bool:
    """Whether the folder is there; the second argument is the answer where we may not look."""
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except PermissionError:
        return behind_closed_doors
    except OSError:
        return False


def _listable(path: Path) -> bool:
    return os.access(path, os.R_OK | os.X_OK) and os.access(path / "blobs", os.X_OK)


def _holds(path: Path, digest: Digest) -> bool:
    try:
        return (path / "blobs" / digest.file_name).is_file()
    except OSError:
        return False
