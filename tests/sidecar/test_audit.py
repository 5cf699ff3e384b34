from __future__ import annotations

import json
import os
import stat
from typing import TYPE_CHECKING

from sidecar.audit import KEPT, AuditLog

if TYPE_CHECKING:
    from pathlib import Path


def test_lines_are_json_private_and_rotated(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit.jsonl", max_bytes=300, wall_clock=lambda: 0.0)
    for number in range(60):
        log.write("install", model=f"model-{number}", version=number)
    files = sorted(tmp_path.iterdir())
    assert 1 < len(files) <= 1 + KEPT
    assert all(path.stat().st_size < 400 for path in files)
    lines = [json.loads(line) for path in files for line in path.read_text().splitlines()]
    assert lines[-1] == {"time": "1970-01-01T00:00:00Z", "action": "install"} | {
        "model": lines[-1]["model"],
        "version": lines[-1]["version"],
    }
    newest = (tmp_path / "audit.jsonl.1").read_text().splitlines()
    assert json.loads(newest[-1])["version"] >= 59 - 5
    if os.name == "posix":
        assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
