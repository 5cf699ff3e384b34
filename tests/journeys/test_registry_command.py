"""The registry as a user types it: daemons as processes, the command line, and what they leave behind in files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio

from ollama_bridge.client import OllamaClient
from ollama_bridge.names import ModelName
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
        room = a.ok("room", "create", "team", "--json").json
        b.ok("room", "join", "-", "--label", "team", stdin=room["code"] + "\n")
        run_adapter(ollama_a, files, "sql-lora")
        wait_for(lambda: a.run("share", "sql-lora", "--room", "team").code == 0, "the new model can be shared")

        assert "The registry is off." in b.ok("registry").out
        on = b.ok("registry", "on", "--json").json
        assert on["address"] == f"127.0.0.1:{port}"
        assert on["secret"] in b.ok("registry").out

        def line() -> Any:
            shown = b.ok("registry", "show", "--entries").out.splitlines()
            return next((each.strip() for each in shown if each.endswith("/team.sql-lora:latest")), None)

        pulls = wait_for(line, "the offer's line")
        name = pulls.removeprefix("ollama pull --insecure ")
        ollama_pull(ollama_b, name)
        wait_for(lambda: b.ok("adapters", "--json").json[0]["installed_as"] == name, "the note of the install")
        assert b.ok("uninstall", name).code == 0
        b.ok("registry", "off")
        assert b.stop() == 0

        logs = [b.folder / "daemon.log", *(b.data_dir / "logs").iterdir()]
        assert {path.name for path in logs} >= {"daemon.log", "ollaswarm.log", "audit.jsonl"}
        text = "".join(path.read_text() for path in logs)
        assert on["secret"] not in text
        assert "/team.sql-lora:latest" in text, "what happened to which model is told all the same"
