"""Whose name is it: what `get` may put in place of what stands there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ollama_bridge.client import OllamaClient
from ollama_bridge.names import ModelName
from tests.journeys.inside import IN_PROCESS, team
from tests.journeys.ollama import contents

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = IN_PROCESS

NAME = ModelName.parse("sql-lora")


async def test_install_whose_note_was_lost_is_no_taken_name(tmp_path: Path, files: Path) -> None:
    """As a kill between Ollama's last step and our note of it leaves things."""
    async with team(tmp_path, files) as people:
        giver, taker = await people.join("giver"), await people.join("taker")
        row = await people.publish(giver)
        await taker.row("sql-lora", sources=1)
        await taker.got(row.ref)
        await taker.parts.journal.run(lambda journal: journal.remove_install("sql-lora:latest"))
        await taker.got(row.ref)
        removed = await taker.control.uninstall("sql-lora")
        assert removed.removed


async def test_model_the_user_changed_is_left_alone(tmp_path: Path, files: Path) -> None:
    async with team(tmp_path, files) as people:
        giver, taker = await people.join("giver"), await people.join("taker")
        row = await people.publish(giver)
        await taker.row("sql-lora", sources=1)
        await taker.got(row.ref)
        async with OllamaClient(taker.ollama.url) as client:
            await client.create(NAME, from_=NAME, system="Speak like a pirate.")
        before = contents(taker.store)
        refused = await taker.get(row.ref)
        assert refused.error is not None
        assert refused.error.code == "name-taken"
        assert "--force" in refused.error.next
        assert contents(taker.store) == before
        forced = await taker.got(row.ref, force=True)
        assert forced.result is not None
        assert forced.result.installed_as == "sql-lora:latest"
