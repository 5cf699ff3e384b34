"""Positional reads and writes, syncing and locking: the one place where operating systems differ."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import sys
from typing import TYPE_CHECKING

from sidecar.errors import DiskFull

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    Buffer = bytes | bytearray | memoryview

RESERVE_SHARE = 0.05
RESERVE_BYTES = 2 * 1024**3
"""What a fetch leaves free: this share of the disk or this much, whichever is less (T20)."""

_NO_SPACE = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}
_OPEN_FLAGS = getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
_SYNC_FILE_RANGE_WRITE = 2
_LOCK_OFFSET = 1 << 30  # Windows locks are mandatory, so the locked byte lies where nobody reads


def open_private(path: Path) -> int:
    """Open a file of ours for reading and writing, made if missing, only for this user, never through a symlink."""
    return os.open(path, os.O_RDWR | os.O_CREAT | _OPEN_FLAGS, 0o600)


def space(folder: Path) -> tuple[int, int]:
    """Bytes in total and free on the disk of `folder`."""
    usage = shutil.disk_usage(folder)
    return usage.total, usage.free


def default_reserve(total: int) -> int:
    """Bytes to leave free on a disk of `total` bytes."""
    return min(int(total * RESERVE_SHARE), RESERVE_BYTES)


def check_space(
    folder: Path,
    needed: int,
    measure: Callable[[Path], tuple[int, int]] = space,
    reserve_of: Callable[[int], int] = default_reserve,
) -> None:
    """Refuse what does not fit beside the reserve.

    Raises:
        DiskFull: With the figures.
    """
    total, free = measure(folder)
    reserve = reserve_of(total)
    if free - reserve < needed:
        raise DiskFull(
            f"{needed} more bytes are needed in {folder}, and of {free} free bytes {reserve} are kept as a reserve."
        )


def write_at(fd: int, buffers: Sequence[Buffer], offset: int) -> None:
    """Write all of `buffers` one after the other from `offset` on.

    Raises:
        DiskFull: No space left, or over a quota or size limit. What was written before stays.
    """
    try:
        written = _write_some(fd, buffers, offset)
        if written < sum(map(len, buffers)):  # near a limit: what is left either fits or gives the reason
            rest = memoryview(b"".join(buffers))
            while written < len(rest):
                written += _write_some(fd, [rest[written:]], offset + written)
    except OSError as error:
        if error.errno in _NO_SPACE:
            raise DiskFull(f"The disk is full: {error.strerror}.") from error
        raise


def read_at(fd: int, length: int, offset: int) -> bytes:
    """Up to `length` bytes from `offset` on; fewer only where the file ends."""
    data = _read_some(fd, length, offset)
    while 0 < len(data) < length:
        more = _read_some(fd, length - len(data), offset + len(data))
        if not more:
            break
        data += more
    return data


def sync_directory(folder: Path) -> None:
    """Make names in `folder` survive a power loss, where the system can (Windows does it by itself)."""
    if sys.platform == "win32":
        return
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def lock(fd: int) -> bool:
    """Take the exclusive lock of an open file, without waiting; False when somebody else has it.

    It ends with the descriptor, so also with the process, however that dies.
    """
    try:
        if sys.platform == "win32":
            import msvcrt

            os.lseek(fd, _LOCK_OFFSET, os.SEEK_SET)
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _find_sync_file_range() -> Callable[[int, int, int, int], int] | None:
    if not sys.platform.startswith("linux"):
        return None
    call = getattr(ctypes.CDLL(None), "sync_file_range", None)
    if call is None:
        return None
    call.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
    call.restype = ctypes.c_int
    return call  # type: ignore[no-any-return]  # ctypes functions are untyped


_sync_file_range = _find_sync_file_range()


def start_write_back(fd: int, offset: int, length: int) -> None:
    """Ask the system to begin writing a range to the disk, so that the sync at the end is short. Only a hint."""
    if _sync_file_range is not None:
        _sync_file_range(fd, offset, length, _SYNC_FILE_RANGE_WRITE)


def drop_cached(fd: int, length: int) -> None:
    """Tell the system that the first `length` bytes need not stay in its page cache. Only a hint; unwritten ones stay."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(fd, 0, length, os.POSIX_FADV_DONTNEED)


if hasattr(os, "pwritev"):

    def _write_some(fd: int, buffers: Sequence[Buffer], offset: int) -> int:
        return os.pwritev(fd, buffers, offset)

    def _read_some(fd: int, length: int, offset: int) -> bytes:
        return os.pread(fd, length, offset)

else:

    def _write_some(fd: int, buffers: Sequence[Buffer], offset: int) -> int:
        os.lseek(fd, offset, os.SEEK_SET)
        return os.write(fd, b"".join(buffers))

    def _read_some(fd: int, length: int, offset: int) -> bytes:
        os.lseek(fd, offset, os.SEEK_SET)
        return os.read(fd, length)
