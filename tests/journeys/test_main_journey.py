"""The main journey as a new user types it: two machines, the command line, and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import pytest

from tests.journeys.ollama import contents, listed, run_adapter, run_base, shown
from tests.support.processes import Sidecar, standin, wait_for

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("receiving", ["refuse", "accept"])
def test_adapter_of_one_ollama_becomes_a_model_of_another(tmp_path: Path, files: Path, receiving: str) -> None:
    """Without `--peer`: the two find each other by mDNS, which `--listen 127.0.0.1:0` keeps on loopback."""
    store_a, store_b = tmp_path / "store-a", tmp_path / "store-b"
    with (
        standin(store_a, adapters="accept") as ollama_a,
        standin(store_b, adapters=receiving) as ollama_b,
        Sidecar(tmp_path / "a", ollama_a, store_a, mdns=True) as a,
        Sidecar(tmp_path / "b", ollama_b, store_b, mdns=True) as b,
    ):
        run_base(ollama_a, files)
        run_base(ollama_b, files)
        before = contents(store_b)
        room = a.ok("room", "create", "team", "--json").json
        assert len(room["code"].split("-")) == 8
        joined = b.ok("room", "join", "-", "--label", "team", "--json", stdin=room["code"] + "\n").json
        assert (joined["label"], joined["code"]) == ("team", None)

        adapter = run_adapter(ollama_a, files, "sql-lora")
        shared = wait_for(lambda: _shared(a, "sql-lora"), "the new model can be shared")
        assert "Shared sql-lora version 1" in shared

        offered = wait_for(lambda: [row for row in b.ok("adapters", "--json").json if row["sources"]], "offer at b")
        (row,) = offered
        expected = {
            "name": "sql-lora",
            "version": 1,
            "rooms": ["team"],
            "digest": str(adapter),
            "base": "tiny-base:latest",
        }
        assert row | expected == row
        assert (row["fits"], row["sources"], row["trust"], row["installed_as"]) == (True, 1, "unknown", None)

        lines = b.ok("get", "sql-lora", "--json").lines
        assert {line["event"] for line in lines[:-1]} == {"transfer:progress"}
        expected = {"ok": True, "digest": str(adapter), "installed_as": "sql-lora:latest", "route": "pull"}
        assert lines[-1] | expected == lines[-1]
        made = anyio.run(shown, ollama_b, "sql-lora")
        assert made.adapter_blobs == (adapter,)
        assert str(made.model_blobs[0]) == row["base_digest"]
        assert b.ok("adapters", "--json").json[0]["installed_as"] == "sql-lora:latest"

        assert b.ok("uninstall", "sql-lora").out.strip() == "Removed sql-lora:latest."
        assert contents(store_b) == before
        assert anyio.run(listed, ollama_a) == {"tiny-base:latest", "sql-lora:latest"}

        assert (b.stop(), a.stop()) == (0, 0)
        assert room["code"] not in (tmp_path / "a/daemon.log").read_text() + (tmp_path / "b/daemon.log").read_text()


def _shared(sidecar: Sidecar, name: str) -> str:
    outcome = sidecar.run("share", name, "--room", "team")
    return outcome.out if outcome.code == 0 else ""
