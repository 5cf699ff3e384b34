"""`ollama pull` from a room and `ollama push` into one, as a user of Ollama does it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
import httpx
import pytest

from ollama_bridge.client import OllamaClient
from ollama_bridge.errors import OllamaRejected
from ollama_bridge.names import ModelName
from sidecar.control_types import RegistryInfo
from sidecar.events import AdapterAppeared, EntryAdded, InstallComplete, RegistryRefused, ShareRefused
from tests.journeys.inside import IN_PROCESS, Node, Team, team, until
from tests.journeys.ollama import BASE, contents, make_adapter

if TYPE_CHECKING:
    from pathlib import Path

    from sidecar.control_types import AdapterRow

pytestmark = IN_PROCESS


async def switched_on(node: Node, **options: Any) -> RegistryInfo:
    info = await node.control.set_registry(on=True, **options)
    assert info.listening, info.cause
    return info


async def pull(node: Node, name: str) -> None:
    """`ollama pull --insecure NAME`."""
    async with OllamaClient(node.ollama.url) as client:
        await client.pull(ModelName.parse(name), insecure=True)


async def push(node: Node, name: str) -> None:
    """`ollama push --insecure NAME`."""
    async with OllamaClient(node.ollama.url) as client:
        await client.push(ModelName.parse(name), insecure=True)


async def copy(node: Node, source: str, name: str) -> None:
    """`ollama cp SOURCE NAME`."""
    async with OllamaClient(node.ollama.url) as client:
        await client.copy(ModelName.parse(source), ModelName.parse(name))


async def two(people: Team, **options: Any) -> tuple[Node, Node, AdapterRow, RegistryInfo]:
    """A publisher, and somebody with the registry switched on who knows of the offer."""
    first = await people.join("first")
    second = await people.join("second", registry_port=0)
    row = await people.publish(first, **options)
    await second.row(row.name, sources=1)
    return first, second, row, await switched_on(second)


async def test_a_pull_makes_a_model_that_is_known_as_installed_and_uninstall_removes_it(
    tmp_path: Path, files: Path
) -> None:
    async with team(tmp_path, files) as people:
        _, second, row, info = await two(people)
        before = contents(second.store)
        (listed,) = (await second.control.registry(entries=True)).entries
        assert listed.model == f"{info.prefix}team.sql-lora:latest"
        assert listed.fits
        await pull(second, listed.model)
        complete = await second.happened(InstallComplete)
        assert complete.installed_as == f"{info.address}/…/team.sql-lora:latest"
        (installed,) = await second.control.adapters()
        assert installed.installed_as == listed.model
        assert (second.store / "blobs" / f"sha256-{row.digest[7:]}").read_bytes() == (
            files / "adapter.gguf"
        ).read_bytes()
        assert (await second.control.uninstall(listed.model)).removed
        assert contents(second.store) == before
