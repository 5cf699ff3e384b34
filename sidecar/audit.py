"""The audit log: one JSON line for everything that we changed in Ollama, and why. Formats: docs/sync.md."""

from __future__ import annotations

import json
import os
import threading
import time
from typing import TYPE_CHECKING

from ollama_bridge.room_names import hidden

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MAX_BYTES = 1 << 20
"""Of one file: about 2,000 lines."""
KEPT = 4
"""Older files, `.1` being the newest. A disk must not fill because a room is busy."""
BY_USER = "user"


class AuditLog:
    """Appends lines to a file that only the user can read, and starts a new one when it is long. Blocking, short."""

    def __init__(self, path: Path, *, max_bytes: int = MAX_BYTES, wall_clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._wall_clock = wall_clock
        self._turn = threading.Lock()

    def write(self, action: str, **facts: str | int | None) -> None:
        """Note one change. `action` is `install`, `name`, `remove`…; facts are keys, names, digests, never a secret.

        Raises:
            OSError: It cannot be written.
        """
        moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self._wall_clock()))
        shown = {key: hidden(value) if isinstance(value, str) else value for key, value in facts.items()}
        line = json.dumps({"time": moment, "action": action} | shown).encode() + b"\n"
        with self._turn:
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            try:
                os.write(descriptor, line)  # one call: a line is whole or not there
                is_long = os.fstat(descriptor).st_size >= self._max_bytes
            finally:
                os.close(descriptor)
            if is_long:
                self._rotate()

    def _rotate(self) -> None:
        for number in range(KEPT, 0, -1):
            newer = self._numbered(number - 1) if number > 1 else self._path
            if newer.exists():
                os.replace(newer, self._numbered(number))

    def _numbered(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")
