"""What README.md has its readers type is typed here, on two machines that meet over a DHT. Only `ollama` is left out."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import pytest

from tests.journeys.api import Api
from tests.journeys.ollama import listed, make_adapter, make_base
from tests.journeys.test_threats_daemon import local_dht
from tests.sidecar.cli.test_docs_commands import commands
from tests.support.processes import Sidecar, free_port, standin, wait_for

if TYPE_CHECKING:
    from tests.support.processes import Outcome

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
PROMPT = re.compile(r"^(ada|bob)\$ ollaswarm ([^#\n]+)", re.MULTILINE)
BASE = "llama3.2:1b"
LATER = {
    "status": "ada",
    "doctor": "bob",
    "doctor --room team": "bob",
    "sync rollback sql-lora": "bob",
    "room policy team enforce": "bob",
    "share llama3.2:1b --room team --model": "ada",
    "registry on": "bob",
    "export sql-lora sql.swarm": "ada",
    "import sql.swarm": "bob",
    "blocklist follow KEY": "bob",
    "uninstall sql-lora": "bob",
    "block KEY": "bob",
    "room rotate team": "ada",
}
"""What stands in the text, and who types it; in an order in which each has a chance."""
ELSEWHERE = re.compile(r"^(up|service|bootstrap)\b|^room join (general|--orch-mind)$")
"""Daemons and public rooms: tried by their own tests."""
EXTRA = {"room join --label team": ["-"], "room rotate team": ["--yes"], "import sql.swarm": ["--as", "imported"]}
"""A code is asked for on a terminal only, and so are questions; the name is taken here, as it was installed before."""


@pytest.mark.soak
def test_commands_of_the_readme_do_what_it_says(tmp_path: Path, files: Path) -> None:
    with (
        local_dht(tmp_path) as bootstrap,
        standin(tmp_path / "ada-store", adapters="accept") as ada_ollama,
        standin(tmp_path / "bob-store") as bob_ollama,
    ):
        for url in (ada_ollama, bob_ollama):
            anyio.run(make_base, url, files, BASE)
        anyio.run(make_adapter, ada_ollama, files, "sql-lora", "adapter.gguf", BASE)
        port = ["--registry-port", str(free_port())]
        with (
            Sidecar(tmp_path / "ada", ada_ollama, tmp_path / "ada-store", bootstrap=bootstrap) as ada,
            Sidecar(tmp_path / "bob", bob_ollama, tmp_path / "bob-store", bootstrap=bootstrap, args=port) as bob,
        ):
            people = {"ada": ada, "bob": bob}
            secrets = {"KEY": Api(ada).get("/status")["key"], "sql.swarm": str(tmp_path / "sql.swarm")}
            code = ""

            def typed(who: str, command: str) -> Outcome:
                words = [secrets.get(word, word) for word in shlex.split(command)]
                return people[who].ok(*words, *EXTRA.get(command, ()), stdin=f"{code}\n")

            done = []
            for who, command in PROMPT.findall(README[README.index("## First share") :]):
                outcome = typed(who, command.strip())
                done.append(command.strip())
                if command.startswith("room create"):
                    code = next(line.split()[1] for line in outcome.out.splitlines() if line.startswith("  code"))
                if command.startswith("room join"):
                    Api(bob).row("sql-lora")
            has(bob_ollama, "sql-lora:latest", "team/sql-lora:v1", "team/sql-lora:latest")
            anyio.run(make_adapter, ada_ollama, files, "sql-lora", "adapter_b.gguf", BASE)
            has(bob_ollama, "team/sql-lora:v2")
            wait_for(lambda: not Api(bob).post("/sync/run", dry_run=True)["lines"], "the moving name")
            for command, who in LATER.items():
                typed(who, command)
                done.append(command)
            assert set(anyio.run(listed, bob_ollama)).isdisjoint({"sql-lora:latest"})
            has(bob_ollama, "imported:latest")
        assert {each for each in commands(README) if not ELSEWHERE.search(each)} == set(done)


def has(ollama: str, *names: str) -> None:
    """Return when an Ollama has these models."""
    wait_for(lambda: set(names) <= anyio.run(listed, ollama), f"{names}")
