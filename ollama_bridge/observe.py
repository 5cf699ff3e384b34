"""Being told by the system that something under `manifests/` moved. Only ever a reason to look, never a fact.

Two watches: the store's root, not recursive, because Ollama removes `manifests/` itself with the last model; and
`manifests/` with everything below. `blobs/` is left out: a pull writes gigabytes there and each write would be an event.
"""

from __future__ import annotations

import os
import sys
import warnings
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from watchdog.events import (
    DirCreatedEvent,
    DirDeletedEvent,
    DirMovedEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileDeletedEvent,
    FileModifiedEvent,
    FileMovedEvent,
    FileSystemEventHandler,
)
from watchdog.observers import Observer

if TYPE_CHECKING:
    from collections.abc import Callable

    from watchdog.events import FileSystemEvent
    from watchdog.observers.api import ObservedWatch

# watchdog 7 warns when a folder made during `schedule` is met twice, by the walk and by its event. It then keeps one.
DOUBLE_MEETING = "Callback with id "
warnings.filterwarnings("ignore", message=DOUBLE_MEETING, category=RuntimeWarning)

MOUNT_TABLE = Path("/proc/self/mountinfo")

# Opening and reading are left out: our own scans open every folder, and would wake us again.
_EVENTS: list[type[FileSystemEvent]] = [
    DirCreatedEvent, DirDeletedEvent, DirMovedEvent,
    FileClosedEvent, FileCreatedEvent, FileDeletedEvent, FileModifiedEvent, FileMovedEvent,
]  # fmt: skip
# File systems whose changes are made elsewhere, so that this system never hears of them.
_REMOTE_TYPES = {
    "9p", "afs", "ceph", "cifs", "drvfs", "glusterfs", "lustre", "ncpfs", "nfs", "nfs4", "prl_fs", "smb3", "smbfs",
    "vboxsf", "virtiofs", "vmhgfs",
}  # fmt: skip


class StoreObserver(FileSystemEventHandler):
    """Calls `wake` from a thread of its own whenever something happened."""

    def __init__(self, root: Path, wake: Callable[[], None]) -> None:
        """Start observing.

        Raises:
            OSError: The system refuses, for example because its inotify limits are used up.
        """
        self._manifests = root / "manifests"
        self._wake = wake
        self._replaced = True
        self._watch: ObservedWatch | None = None
        self._observer = Observer()
        self._observer.start()
        try:
            self._observer.schedule(self, str(root), recursive=False, event_filter=_EVENTS)
            self.follow()
        except OSError:
            self.close()
            raise

    def follow(self) -> None:
        """Watch the `manifests/` there is now. To be called before each scan, so that nothing falls in between.

        Raises:
            OSError: As for the constructor.
        """
        if not self._replaced:
            return
        self._replaced = False
        if self._watch is not None:
            self._observer.unschedule(self._watch)
            self._watch = None
        if self._manifests.is_dir():
            with suppress(FileNotFoundError):  # removed this moment; its event will bring us back
                self._watch = self._observer.schedule(self, str(self._manifests), recursive=True, event_filter=_EVENTS)

    def close(self) -> None:
        """Stop and wait for the threads. Blocking."""
        self._observer.stop()
        self._observer.join()

    def on_any_event(self, event: FileSystemEvent) -> None:
        """Called by watchdog."""
        # Comparing inodes would not do: a folder made right after another was removed often gets its number.
        if event.is_directory and str(self._manifests) in (event.src_path, event.dest_path):
            self._replaced = True
        self._wake()


def remote_filesystem(path: Path, *, mount_table: Path = MOUNT_TABLE) -> str | None:
    """The type of the network or host-shared file system `path` lies on, None if local or unknown.

    Linux lists mounts with their types; on Windows a network share shows in the path. macOS tells neither, there the
    reconcile interval is the net.
    """
    if sys.platform == "win32":
        return "network share" if str(path).startswith("\\\\") else None
    try:
        lines = mount_table.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    target = os.path.join(path, "")
    best = max((mount for mount in map(_mount, lines) if mount and target.startswith(mount[0])), default=None)
    if best is None or not (best[1] in _REMOTE_TYPES or best[1].startswith("fuse")):
        return None
    return best[1]


def _mount(line: str) -> tuple[str, str] | None:
    """Mount point (with a separator at its end) and type of one line of `mountinfo`, see proc(5)."""
    fields, separator, rest = line.partition(" - ")
    words = fields.split()
    if not separator or len(words) < 5 or not rest:
        return None
    point = words[4].replace("\\040", " ").replace("\\134", "\\")
    return os.path.join(point, ""), rest.split()[0]
