"""The bus hands events on as they are, but for one secret."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.audit import AuditLog
from sidecar.bus import EventBus
from sidecar.catalogue.entry import suggest_name
from sidecar.events import AdapterAppeared, Event, PeersUpdated

if TYPE_CHECKING:
    from pathlib import Path

SECRET = "0123456789abcdef" * 2
NAME = f"127.0.0.1:11471/{SECRET}/team.sql-lora:latest"


def test_t24_no_event_carries_the_secret_of_a_pulled_model() -> None:
    bus = EventBus()
    heard: list[Event] = []
    bus.listen(heard.append)
    bus.emit(AdapterAppeared(NAME, f"sha256:{'ab' * 32}", 7))
    assert heard == [AdapterAppeared("127.0.0.1:11471/…/team.sql-lora:latest", f"sha256:{'ab' * 32}", 7)]
    untouched = PeersUpdated("ab" * 16, 3)
    bus.emit(untouched)
    assert heard[-1] is untouched


def test_t24_nor_the_audit_log_nor_what_an_adapter_is_called_in_a_room(tmp_path: Path) -> None:
    AuditLog(tmp_path / "audit.jsonl").write("install", model=NAME)
    written = (tmp_path / "audit.jsonl").read_text()
    assert SECRET not in written
    assert "team.sql-lora:latest" in written
    assert suggest_name(NAME) == "sql-lora"
