"""Open a file below a root without following any link on the way (T8).

A link in a watched store could point at somebody's secrets and have us share them. So each folder is opened relative to
the one before, links refused, and the open file itself is what gets checked. This is the only place where the systems
differ: Windows has no `openat`, so there the path is examined before, and compared with the open file after.
"""

from __future__ import annotations

import os
import stat
import sys
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

HAS_OPENAT = os.open in os.supports_dir_fd and hasattr(os, "O_NOFOLLOW")


def open_regular(root: Path, parts: Sequence[str], *, openat: bool = HAS_OPENAT) -> BinaryIO:
    """Open the regular file `root/parts…` for reading.

    Args:
        root: Trusted; may itself be a link or lie behind one.
        parts: Single names; none may be `.`, `..`, empty or hold a separator.
        openat: Whether the system can open relative to a folder; only tests pass it.

    Raises:
        OSError: Missing, unreadable, a link anywhere below `root`, or not a regular file.
    """
    for part in parts:
        if part in {"", ".", ".."} or "/" in part or "\0" in part or (sys.platform == "win32" and "\\" in part):
            raise OSError(f"{part!r} is not a file name")
    descriptor = _open_relative(root, parts) if openat else _open_examined(root, parts)
    return os.fdopen(descriptor, "rb")


def _open_relative(root: Path, parts: Sequence[str]) -> int:
    folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for part in parts[:-1]:
            inner = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
            os.close(folder)
            folder = inner
        # Without O_NONBLOCK a named pipe put in place of a blob would hold us until somebody writes to it.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(parts[-1], flags, dir_fd=folder)
    finally:
        os.close(folder)
    return _checked(descriptor, None)


def _open_examined(root: Path, parts: Sequence[str]) -> int:
    path = root
    before: os.stat_result | None = None
    for part in parts:
        path = path / part
        before = os.lstat(path)
        if stat.S_ISLNK(before.st_mode) or getattr(before, "st_reparse_tag", None):
            raise OSError(f"{path} is a link")
    if before is None or not stat.S_ISREG(before.st_mode):
        raise OSError(f"{path} is not a regular file")
    return _checked(os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0)), before)


def _checked(descriptor: int, expected: os.stat_result | None) -> int:
    status = os.fstat(descriptor)
    swapped = expected is not None and (status.st_dev, status.st_ino) != (expected.st_dev, expected.st_ino)
    if swapped or not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise OSError("the file was replaced while it was opened" if swapped else "not a regular file")
    return descriptor
