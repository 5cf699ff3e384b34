"""The data folder: where it is, what is in it, who may read it, and that only one daemon uses it.

The only module that knows file names of the data folder and how the operating systems differ about locks and modes.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from sidecar.errors import ConfigError, DaemonError

if TYPE_CHECKING:
    from types import TracebackType

DATA_DIR_VARIABLE = "OLLASWARM_DATA_DIR"
PRIVATE_FILE_MODE = 0o600
PRIVATE_DIR_MODE = 0o700
TOKEN_BYTES = 32
# The lock is on a byte far behind the file's text: Windows locks are mandatory, and the text (our pid) must stay readable.
LOCK_OFFSET = 1 << 20


def default_data_dir() -> Path:
    """`OLLASWARM_DATA_DIR`, else the place this operating system keeps a user's application data."""
    chosen = os.environ.get(DATA_DIR_VARIABLE)
    if chosen:
        return Path(chosen).expanduser().absolute()
    import platformdirs

    return platformdirs.user_data_path("ollaswarm", appauthor=False)


@dataclass(frozen=True, slots=True)
class DataPaths:
    """Every file of one data folder."""

    root: Path

    @property
    def config(self) -> Path:
        return self.root / "config.toml"

    @property
    def identity(self) -> Path:
        return self.root / "identity"

    @property
    def daemon(self) -> Path:
        return self.root / "daemon.json"

    @property
    def token(self) -> Path:
        return self.root / "token"

    @property
    def registry(self) -> Path:
        return self.root / "registry.json"

    @property
    def lock(self) -> Path:
        return self.root / "daemon.lock"

    @property
    def journal(self) -> Path:
        return self.root / "journal.sqlite"

    @property
    def partial(self) -> Path:
        return self.root / "partial"

    @property
    def blobs(self) -> Path:
        return self.root / "blobs"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def log_file(self) -> Path:
        return self.logs / "ollaswarm.log"

    @property
    def audit_log(self) -> Path:
        return self.logs / "audit.jsonl"

    def prepare(self) -> Self:
        """Make the folder and its subfolders, private to this user.

        Raises:
            ConfigError: It cannot be made or written.
        """
        try:
            for folder in (self.root, self.partial, self.blobs, self.logs):
                folder.mkdir(mode=PRIVATE_DIR_MODE, parents=True, exist_ok=True)
            self.root.chmod(PRIVATE_DIR_MODE)
        except OSError as error:
            raise ConfigError(
                f"The data folder {self.root} cannot be used: {error.strerror or error}.",
                "Choose another one with --data-dir or OLLASWARM_DATA_DIR.",
            ) from error
        return self


def write_private(path: Path, data: bytes) -> None:
    """Write a file that only this user can read, whole or not at all, even if the power goes."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE_FILE_MODE)
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def open_to_others(path: Path) -> bool:
    """Whether group or others may do anything with the file. Windows keeps user folders private by inheritance."""
    return sys.platform != "win32" and bool(path.stat().st_mode & 0o077)


def load_or_create_token(paths: DataPaths) -> str:
    """The API's bearer token. It survives restarts (Prometheus is configured with it).

    A token that others could have read is replaced, not only hidden again.
    """
    with contextlib.suppress(OSError, ValueError):
        token = paths.token.read_text(encoding="ascii").strip()
        if len(token) >= TOKEN_BYTES and not open_to_others(paths.token):
            return token
    token = secrets.token_urlsafe(TOKEN_BYTES)
    write_private(paths.token, token.encode())
    return token


@dataclass(frozen=True, slots=True)
class DaemonRecord:
    """`daemon.json`: how the other verbs find the running daemon."""

    pid: int
    api: str
    """`host:port` it listens on, the port being the real one."""
    version: str
    started: float

    def write(self, paths: DataPaths) -> None:
        write_private(paths.daemon, json.dumps(asdict(self)).encode())

    @classmethod
    def read(cls, paths: DataPaths) -> DaemonRecord | None:
        """The record, or None when there is none that makes sense."""
        try:
            found = json.loads(paths.daemon.read_bytes())
            return cls(int(found["pid"]), str(found["api"]), str(found["version"]), float(found["started"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None


class DataLock:
    """Held by the one daemon of a data folder. The operating system drops it when the process ends, however it ends."""

    def __init__(self, paths: DataPaths) -> None:
        self._paths = paths
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            DaemonError: Another process has it.
        """
        descriptor = os.open(self._paths.lock, os.O_RDWR | os.O_CREAT, PRIVATE_FILE_MODE)
        if not _try_lock(descriptor):
            owner = os.read(descriptor, 32).decode("ascii", "replace").strip()
            os.close(descriptor)
            raise DaemonError(
                f"Another daemon (pid {owner or 'unknown'}) already uses the data folder {self._paths.root}.",
                "Use that one, stop it first, or start this one with another --data-dir.",
            )
        os.ftruncate(descriptor, 0)
        os.write(descriptor, str(os.getpid()).encode())
        self._descriptor = descriptor

    def release(self) -> None:
        """Give it back. The file stays: removing it would let two starters lock two different files."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def is_locked(paths: DataPaths) -> bool:
    """Whether a daemon runs on this data folder now."""
    try:
        descriptor = os.open(paths.lock, os.O_RDWR)
    except OSError:
        return False
    try:
        return not _try_lock(descriptor)
    finally:
        os.close(descriptor)


if sys.platform == "win32":
    import msvcrt

    def _try_lock(descriptor: int) -> bool:
        os.lseek(descriptor, LOCK_OFFSET, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        finally:
            os.lseek(descriptor, 0, os.SEEK_SET)
        return True

else:
    import fcntl

    def _try_lock(descriptor: int) -> bool:
        # flock, not lockf: a POSIX record lock is lost when any descriptor of the file is closed in this process.
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True
