"""The registry as a user types it: daemons as processes, the command line, and what they leave behind in files."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

from ollama_bridge.client import OllamaClient
from ollama_bridge.names import ModelName
from tests.journeys.api import Api
from tests.journeys.ollama import run_adapter, run_base
from tests.support.processes import Sidecar, free_port, standin, wait_for

if TYPE_CHECKING:
    from pathlib import Path


def ollama_pull(url: str, name: str) -> None:
    """`ollama pull --insecure NAME`."""

    async def work() -> None:
        async with OllamaClient(url) as client:
            await client.pull(ModelName.parse(name), insecure=True)

    anyio.run(work)


def test_t24_from_registry_on_to_a_model_and_the_secret_is_in_no_log(tmp_path: Path, files: Path) -> None:
    """At the level that logs most."""
    port = free_port()
    args = ["--registry-port", str(port), "--log-level", "debug"]
    with (
        standin(tmp_path / "store-a", adapters="accept") as ollama_a,
        standin(tmp_path / "store-b") as ollama_b,
        Sidecar(tmp_path / "a", ollama_a, tmp_path / "store-a") as a,
        Sidecar(tmp_path / "b", ollama_b, tmp_path / "store-b", peers=[a.listening], args=args) as b,
    ):
        run_base(ollama_a, files)
        run_base(ollama_b, files)
        ask_a, ask_b = Api(a), Api(b)
        room = ask_a.post("/rooms", label="team")
        ask_b.post("/rooms/join", room=room["code"], label="team")
        run_adapter(ollama_a, files, "sql-lora")
        share = {"what": "sql-lora", "room": "team"}
        wait_for(lambda: ask_a.request("POST", "/api/v1/shares", json=share).is_success, "the new model can be shared")
        ask_b.row("sql-lora")

        assert "The registry is off." in b.ok("registry").out
        on = b.ok("registry", "on", "--json").json
        assert on["address"] == f"127.0.0.1:{port}"
        shown = b.ok("registry", "show", "--entries").out
        assert on["secret"] in shown
        (pulls,) = [line.strip() for line in shown.splitlines() if line.endswith("/team.sql-lora:latest")]
        name = pulls.removeprefix("ollama pull --insecure ")
        ollama_pull(ollama_b, name)
        wait_for(lambda: ask_b.get("/adapters")[0]["installed_as"] == name, "the note of the install")
        assert b.ok("uninstall", name).code == 0
        b.ok("registry", "off")
        assert b.stop() == 0

        logs = [b.folder / "daemon.log", *(b.data_dir / "logs").iterdir()]
        assert {path.name for path in logs} >= {"daemon.log", "ollaswarm.log", "audit.jsonl"}
        text = "".join(path.read_text() for path in logs)
        assert on["secret"] not in text
        assert "/team.sql-lora:latest" in text, "what happened to which model is told all the same"
