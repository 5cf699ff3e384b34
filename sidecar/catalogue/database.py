"""The journal's SQLite file: private, checked when opened, moved aside when damaged, one transaction at a time."""

from __future__ import annotations

import os
import sqlite3
import stat
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

from sidecar.errors import ConfigError

from .schema import migrate

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BUSY_TIMEOUT_S = 5.0
"""A backup tool may hold the file for a moment; the daemon's own lock keeps a second daemon away."""


def open_database(path: Path, *, check_modes: bool, now: int) -> tuple[sqlite3.Connection, str | None]:
    """Open the file, making it or bringing it up to date; a damaged one is moved aside.

    Args:
        check_modes: Whether file modes mean anything here.
        now: Unix time, for the name of a file moved aside.
    Returns:
        The connection, and what the user must be told if a damaged file was moved aside.
    Raises:
        ConfigError: The file cannot be opened, or a newer version of ollaswarm made it.
    """
    try:
        return _connect(path, check_modes=check_modes), None
    except sqlite3.OperationalError as error:  # locked, disk full, no permission: the file may be sound
        raise ConfigError(f"The journal {path} cannot be opened: {error}.") from error
    except sqlite3.DatabaseError as error:
        aside = _move_aside(path, now)
        notice = (
            f"The journal was damaged ({error}) and was moved to {aside}; a new one was begun. Join your rooms again. "
            "Until publishers are heard again, an older version of an adapter would not be recognised as old."
        )
        return _connect(path, check_modes=check_modes), notice


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All or nothing of what the body writes."""
    # IMMEDIATE takes the write lock at once, so a busy file is found before anything is half done.
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def _connect(path: Path, *, check_modes: bool) -> sqlite3.Connection:
    """Open, check and migrate. sqlite3.DatabaseError if the file is damaged."""
    _make_private(path, check_modes=check_modes)
    connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        with closing(connection.execute("PRAGMA quick_check(1)")) as check:
            (result,) = check.fetchone()
        if result != "ok":
            raise sqlite3.DatabaseError(result)
        if not migrate(connection):
            raise ConfigError(
                f"The journal {path} was made by a newer version of ollaswarm.",
                "Install that version again, or use another data folder with --data-dir.",
            )
    except BaseException:
        connection.close()
        raise
    return connection


def _make_private(path: Path, *, check_modes: bool) -> None:
    """The file holds room keys: create it 0600 before SQLite does; its log and index files copy the mode."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise ConfigError(f"The journal {path} cannot be opened: {error.strerror}.") from error
    try:
        if check_modes and stat.S_IMODE(os.fstat(descriptor).st_mode) & 0o077:
            os.fchmod(descriptor, 0o600)
    finally:
        os.close(descriptor)


def _move_aside(path: Path, now: int) -> Path:
    aside = path.with_name(f"{path.name}.damaged-{now}")
    for suffix in ("-shm", "-wal", ""):  # the file itself last: a log left alone could be replayed into its successor
        source = path.with_name(path.name + suffix)
        if source.exists():
            source.replace(aside.with_name(aside.name + suffix))
    return aside
