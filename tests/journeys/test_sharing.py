"""Every way into a room: a model, a file, a PEFT folder, the rule for everything; and without a readable store."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ollama_bridge.digests import hash_file
from sidecar.errors import ShareError
from sidecar.events import AdapterAppeared, EntryAdded, ShareRefused
from tests.journeys.inside import IN_PROCESS, running, team
from tests.journeys.ollama import contents, make_adapter, make_base, remove, shown

if TYPE_CHECKING:
    from pathlib import Path

    from tests.journeys.inside import Node

pytestmark = IN_PROCESS


async def test_adapter_file_is_shared_by_path(tmp_path: Path, files: Path) -> None:
    async with team(tmp_path, files) as people:
        first = await people.join("first")
        second = await people.join("second")
        row = await first.share(str(files / "adapter.gguf"))
        assert (row.name, row.base, row.digest) == (
            "adapter",
            "tiny-base:latest",
            str(hash_file(files / "adapter.gguf")),
        )
        await second.row("adapter", sources=1)
        ended = await second.got(row.ref, as_name="from-a-file")
        assert ended.result is not None
        assert ended.result.installed_as == "from-a-file:latest"


async def test_peft_folder_is_converted_for_its_base_and_shared(tmp_path: Path, files: Path) -> None:
    async with team(tmp_path, files) as people:
        first = await people.join("first")
        second = await people.join("second")
        with pytest.raises(ShareError, match="base model"):
            await first.share(str(files / "peft"))
        row = await first.share(str(files / "peft"), base="tiny-base", name="from-peft")
        await second.row("from-peft", sources=1)
        await second.got(row.ref)
        made = await shown(second.ollama.url, "from-peft")
        assert [str(digest) for digest in made.adapter_blobs] == [row.digest]
        leftovers = [path.name for path in first.parts.paths.blobs.iterdir() if path.name.startswith(".")]
        assert leftovers == []


async def test_everything_is_shared_by_rule_except_what_came_from_a_peer(tmp_path: Path, files: Path) -> None:
    async with team(tmp_path, files) as people:
        first = await people.join("first")
        second = await people.join("second")
        await make_adapter(first.ollama.url, files, "here-already")
        await first.happened(AdapterAppeared)
        assert (await first.control.share_all("team", on=True)).share_all
        await second.control.share_all("team", on=True)
        await second.row("here-already", sources=1)
        await make_adapter(first.ollama.url, files, "made-later", "adapter_b.gguf")
        row = await second.row("made-later", sources=1)
        await second.got(row.ref)
        refused = await second.happened(ShareRefused)
        assert "made-later" in refused.to_json().values() or "made-later:latest" in refused.to_json().values()
        assert {each.publisher for each in await first.control.adapters()} == {first.key.hex()}

        # A withdrawal by name stands against the rule; ending the rule keeps what is offered.
        await first.control.unshare("made-later")
        assert [room.share_all for room in await first.control.rooms()] == [True]
        assert not (await first.control.share_all("team", on=False)).share_all
        await remove(first.ollama.url, "made-later")
        await make_adapter(first.ollama.url, files, "made-later", "adapter_b.gguf")
        await make_adapter(first.ollama.url, files, "not-offered", "adapter_b.gguf")
        await first.happened(AdapterAppeared, lambda event: "not-offered:latest" in event.to_json().values())
        await first.share("here-already", name="after-all-that")
        assert [each.name for each in await first.control.adapters()] == ["after-all-that", "here-already"]


@pytest.mark.parametrize("made", ["missing", "unknown-layout"])
async def test_without_a_readable_store_everything_goes_through_the_api(tmp_path: Path, files: Path, made: str) -> None:
    """As with a container's store: sharing by copy and push to our loopback registry, installing by pull."""
    elsewhere = tmp_path / "not-the-store"
    if made == "unknown-layout":
        (elsewhere / "models.db").mkdir(parents=True)
    async with team(tmp_path, files) as people:
        first = await people.join("first", store=elsewhere)
        second = await people.join("second", ollama=await people.ollama("second", adapters="refuse"), store=elsewhere)
        for node in (first, second):
            status = await node.control.status()
            assert not status.store.readable
            assert status.store.cause
        row = await people.publish(first)
        assert (row.size, row.base) == ((files / "adapter.gguf").stat().st_size, "tiny-base:latest")
        before = contents(second.store)
        await second.row("sql-lora", sources=1)
        ended = await second.got(row.ref)
        assert ended.result is not None
        assert ended.result.route == "pull"
        await second.control.uninstall("sql-lora")
        assert contents(second.store) == before


async def test_base_pulled_a_moment_ago_is_known_without_a_readable_store(tmp_path: Path, files: Path) -> None:
    async with team(tmp_path, files) as people:
        first = await people.join("first")
        bare = await people.ollama("second", base=False)
        second = await people.join("second", ollama=bare, store=tmp_path / "not-the-store")
        row = await people.publish(first)
        await second.row("sql-lora", sources=1)
        refused = await second.get(row.ref)
        assert refused.error is not None
        assert refused.error.code == "base-missing"
        await make_base(bare.url, files)
        await second.got(row.ref)


async def test_same_file_under_two_names_and_in_two_rooms(tmp_path: Path, files: Path) -> None:
    async with team(tmp_path, files) as people:
        first = await people.join("first")
        second = await people.join("second")
        await people.publish(first)
        other = await first.share("sql-lora", name="other-name")
        assert other.name == "other-name"
        again = await first.share("sql-lora")
        assert again.version == 1, "nothing changed, so there is no new version"
        described = await first.share("sql-lora", description="Now with words.")
        assert described.version == 2
        added = await second.happened(EntryAdded, lambda event: event.version == 2)
        assert added.adapter == "sql-lora"
        assert [(row.name, row.version) for row in await second.control.adapters()] == [
            ("other-name", 1),
            ("sql-lora", 2),
        ]


async def test_chunk_table_of_what_is_gone_and_offered_by_nobody_is_forgotten(tmp_path: Path, files: Path) -> None:
    """Else every version that ever was here would stay in the journal; what is offered still may come back to the store."""
    path = tmp_path / "moved.gguf"
    path.write_bytes((files / "adapter.gguf").read_bytes())
    async with team(tmp_path, files) as people:
        ollama = await people.ollama("first")
        async with running(tmp_path / "first", ollama) as first:
            await people.enter(first)
            row = await first.share(str(path))
        path.unlink()
        async with running(tmp_path / "first", ollama) as first:
            assert [each[0] for each in await held(first)] == [row.digest], "it is still offered"
            await first.control.unshare("moved")
        async with running(tmp_path / "first", ollama) as first:
            assert await held(first) == []


async def held(node: Node) -> list[tuple[str, str, int]]:
    return await node.parts.journal.run(lambda journal: journal.held())
