"""Auto-sync between whole sidecars: what one shares is installed on the other by a rule, and nothing else is."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from ollama_bridge.client import OllamaClient
from ollama_bridge.names import ModelName
from sidecar import local_models
from sidecar.catalogue.rows import SyncState
from sidecar.control_types import RuleOptions
from sidecar.errors import NotFound
from sidecar.events import InstallComplete, OllamaLost, SyncPlanned
from sidecar.sync import runner
from tests.journeys.inside import IN_PROCESS, Node, Team, running, team, until
from tests.journeys.liar import liar
from tests.journeys.ollama import listed, make_adapter, make_base, remove, shown
from tests.journeys.test_liars import room_key

if TYPE_CHECKING:
    from pathlib import Path

    from sidecar.catalogue.rows import SyncedRow
    from sidecar.control_types import RuleInfo

pytestmark = IN_PROCESS


async def follow(node: Node, publisher: Node, **options: Any) -> RuleInfo:
    """A rule that installs what a node publishes in the room."""
    return await node.control.sync_add(RuleOptions("fetch", "team", publisher.key.hex(), **options))


async def has(node: Node, *names: str) -> None:
    """Return when a node's Ollama has these models."""

    async def there() -> bool:
        return set(names) <= await listed(node.ollama.url)

    await until(there)


async def synced(node: Node) -> list[SyncedRow]:
    return await node.parts.journal.run(lambda journal: journal.synced())


async def waits(node: Node) -> dict[str, str]:
    """Why auto-sync does not do what its rules are about, by REF."""
    report = await node.control.sync_run(dry_run=True)
    return {line.what: line.reason for line in report.lines if line.action == "wait"}


async def adapter_of(node: Node, name: str) -> str:
    return str((await shown(node.ollama.url, name)).adapter_blobs[0])


async def pair(people: Team, **settings: Any) -> tuple[Node, Node]:
    return await people.join("first"), await people.join("second", **settings)


async def test_what_is_shared_is_installed_by_a_rule_and_new_versions_come_and_go_back(
    tmp_path: Path, files: Path
) -> None:
    async with team(tmp_path, files) as people:
        first, second = await pair(people)
        await follow(second, first)
        one = await people.publish(first)
        await has(second, "team/sql-lora:v1", "team/sql-lora:latest")
        two = await people.publish(first, "sql-lora", "adapter_b.gguf")
        assert two.version == 2

        async def moved() -> bool:
            return await adapter_of(second, "team/sql-lora") == two.digest

        await has(second, "team/sql-lora:v2")
        await until(moved)
        assert await adapter_of(second, "team/sql-lora:v1") == one.digest, "the old one stays beside the new one"

        back = await second.control.sync_rollback("sql-lora")
        assert (back.version, back.was) == (1, 2)
        assert await adapter_of(second, "team/sql-lora") == one.digest
        assert (await second.control.sync_run(dry_run=False)).fetch_bytes == 0
        assert await adapter_of(second, "team/sql-lora") == one.digest, "what was set aside does not come again"
        three = await first.share("sql-lora", description="Better.")

        async def at_three() -> bool:
            return {row.version: row.state for row in await synced(second)}.get(3) is SyncState.INSTALLED

        await until(at_three)
        await until(moved)
        assert three.digest == two.digest
        with pytest.raises(NotFound):
            await second.control.sync_rollback("sql-lora", 9)

        audit = [json.loads(line) for line in second.parts.paths.audit_log.read_text().splitlines()]
        installs = [(line["model"], line["version"]) for line in audit if line["action"] == "install"]
        assert installs == [("team/sql-lora:v1", 1), ("team/sql-lora:v2", 2), ("team/sql-lora:v3", 3)]
        assert {line["publisher"] for line in audit} == {first.key.hex()}
        assert all(line["by"] for line in audit)


async def test_dry_run_says_what_it_would_do_and_does_nothing(tmp_path: Path, files: Path) -> None:
    async with team(tmp_path, files) as people:
        first, second = await pair(people, sync_window="00:00-00:01")
        second.parts.sync._gatherer._opens_at = lambda now: now + 3600  # type: ignore[method-assign]
        row = await people.publish(first)
        await second.row(row.name, sources=1)
        await follow(second, first)
        before = await listed(second.ollama.url)
        said = await second.control.sync_run(dry_run=True)
        assert [(line.action, line.what) for line in said.lines] == [("wait", row.ref)]
        assert said.lines[0].until is not None
        assert "schedule" in said.lines[0].reason
        assert await listed(second.ollama.url) == before
        done = await second.control.sync_run(dry_run=False)
        assert [(line.action, line.model, line.bytes, line.error) for line in done.lines] == [
            ("install", "team/sql-lora:v1", row.size, None)
        ]
        await has(second, "team/sql-lora:v1", "team/sql-lora:latest")
        assert (await second.happened(SyncPlanned, lambda event: event.installs == 1)).fetch_bytes == row.size


async def test_t01_only_trusted_publishers_are_installed_by_a_rule_for_a_room(tmp_path: Path, files: Path) -> None:
    async with team(tmp_path, files) as people:
        first, second = await pair(people)
        await second.control.sync_add(RuleOptions("fetch", "team"))
        row = await people.publish(first)
        await second.row(row.name, sources=1)
        reason = (await waits(second))[row.ref]
        assert "not trusted" in reason
        assert first.key.hex()[:12] in reason
        assert not [name for name in await listed(second.ollama.url) if "sql-lora" in name]
        await second.control.trust(first.key.hex())
        await has(second, "team/sql-lora:v1")


async def test_model_the_user_changed_is_not_touched(tmp_path: Path, files: Path) -> None:
    async with team(tmp_path, files) as people:
        first, second = await pair(people)
        await follow(second, first)
        await people.publish(first)
        await has(second, "team/sql-lora:v1", "team/sql-lora:latest")
        async with OllamaClient(second.ollama.url) as client:
            mine = ModelName.parse("team/sql-lora")
            await client.create(mine, from_=mine, system="Speak like a pirate.")
        await people.publish(first, "sql-lora", "adapter_b.gguf")
        await has(second, "team/sql-lora:v2")

        async def said() -> bool:
            return any("changed by you" in reason for reason in (await waits(second)).values())

        await until(said)
        assert (await shown(second.ollama.url, "team/sql-lora")).system == "Speak like a pirate."
        # What the user removes stays removed.
        await remove(second.ollama.url, "team/sql-lora:v2")

        async def noted() -> bool:
            second.parts.sync.wake()
            return [row.state for row in await synced(second)][-1] is SyncState.REMOVED

        await until(noted)
        await second.control.sync_run(dry_run=False)
        assert "team/sql-lora:v2" not in await listed(second.ollama.url)


async def test_name_that_is_taken_by_the_users_own_model_is_left_alone(tmp_path: Path, files: Path) -> None:
    async with team(tmp_path, files) as people:
        first, second = await pair(people)
        await make_base(second.ollama.url, files, "team/sql-lora:v1")
        await follow(second, first)
        await people.publish(first)
        mark = first.key.hex()[:12]
        await has(second, f"team/sql-lora.{mark}:v1")
        assert (await shown(second.ollama.url, "team/sql-lora:v1")).adapter_blobs == ()


async def test_t10_two_publishers_of_one_name_get_two_names(tmp_path: Path, files: Path) -> None:
    async with team(tmp_path, files) as people:
        first, second = await pair(people)
        third = await people.join("third")
        await follow(third, first)
        one = await people.publish(first)
        await has(third, "team/sql-lora:latest")
        await follow(third, second)
        other = await people.publish(second, "sql-lora", "adapter_b.gguf")
        name = f"team/sql-lora.{second.key.hex()[:12]}"
        await has(third, f"{name}:latest")
        assert await adapter_of(third, "team/sql-lora") == one.digest
        assert await adapter_of(third, name) == other.digest


async def test_t20_quota_is_kept_by_evicting_what_was_not_used(tmp_path: Path, files: Path) -> None:
    size = max((files / name).stat().st_size for name in ("adapter.gguf", "adapter_b.gguf"))
    async with team(tmp_path, files) as people:
        first, second = await pair(people, sync_quota=size + size // 2)
        await follow(second, first)
        await people.publish(first, "one")
        await has(second, "team/one:v1", "team/one:latest")
        two = await people.publish(first, "two", "adapter_b.gguf")
        await second.row("two", sources=1)

        async def full() -> bool:
            return "quota" in (await waits(second)).get(two.ref, "")

        await until(full)  # what was used a moment ago is not evicted
        assert "team/one:latest" in await listed(second.ollama.url)

        def age(journal: Any) -> None:
            journal.save_synced([replace(row, used_at=0.0) for row in journal.synced()])

        await second.parts.journal.run(age)
        said = await second.control.sync_run(dry_run=True)
        assert [line.action for line in said.lines] == ["evict", "install"]
        await second.control.sync_run(dry_run=False)
        names = await listed(second.ollama.url)
        assert {"team/two:v1", "team/two:latest"} <= names
        assert not {"team/one:v1", "team/one:latest"} & names
        assert "make room" in (await waits(second))[f"{first.key.hex()[:12]}/one"]
        assert [row.state for row in await synced(second)] == [SyncState.EVICTED, SyncState.INSTALLED]


async def test_quota_of_the_data_folder_reached_in_the_middle_loses_nothing(
    tmp_path: Path, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "FIRST_DELAY_S", 0.3)
    async with team(tmp_path, files) as people:
        first, second = await pair(people, quota=1)
        await follow(second, first)
        row = await people.publish(first)
        await second.row(row.name, sources=1)

        async def refused() -> bool:
            return "quota is 1" in (await waits(second)).get(row.ref, "")

        await until(refused)
        second.parts.blobs._quota_bytes = 1 << 30
        await has(second, "team/sql-lora:v1")


async def test_last_use_is_what_ollama_had_loaded(tmp_path: Path, files: Path) -> None:
    async with team(tmp_path, files) as people:
        first, second = await pair(people)
        await follow(second, first)
        await people.publish(first)
        await has(second, "team/sql-lora:latest")
        (before,) = await synced(second)
        async with OllamaClient(second.ollama.url) as client:
            await client.load(ModelName.parse("team/sql-lora"))
        await second.parts.sync.note_use()
        (after,) = await synced(second)
        assert after.used_at > before.used_at


async def test_ollama_lost_during_auto_sync_and_back(
    tmp_path: Path, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long it is away: nothing is forgotten, and its return ends the waiting."""
    monkeypatch.setattr(local_models, "ALIVE_CHECK_S", 0.1)
    monkeypatch.setattr(runner, "FIRST_DELAY_S", 3600.0)
    async with team(tmp_path, files) as people:
        first, second = await pair(people)
        await follow(second, first)
        await second.ollama.stop()
        await second.happened(OllamaLost)
        row = await people.publish(first)
        other = await people.publish(first, "other", "adapter_b.gguf")
        await second.row("other", sources=1)
        reasons = await waits(second)
        assert set(reasons) == {row.ref, other.ref}
        assert all(second.ollama.url in reason for reason in reasons.values())
        await second.ollama.start()
        await has(second, "team/sql-lora:latest", "team/other:latest")


async def test_t15_replay_after_a_restart_installs_nothing_old(tmp_path: Path, files: Path) -> None:
    async with team(tmp_path, files) as people:
        first = await people.join("first")
        ollama = await people.ollama("second")
        async with running(tmp_path / "second", ollama, first.address) as second:
            await people.enter(second)
            await follow(second, first)
            await people.publish(first)
            await has(second, "team/sql-lora:v1")
            old = second.parts.catalogue.resolve("sql-lora")
            await people.publish(first, "sql-lora", "adapter_b.gguf")
            await has(second, "team/sql-lora:v2")
            room = room_key(second)
            newest = await adapter_of(second, "team/sql-lora:v2")
        await remove(ollama.url, "team/sql-lora:v1")
        async with running(tmp_path / "second", ollama) as second, liar(second.address, room) as member:
            await member.say(old)
            await until(lambda: second.parts.network.bad_input["entry-older"] == 1)
            await second.control.sync_run(dry_run=False)
            assert await adapter_of(second, "team/sql-lora") == newest
            assert "team/sql-lora:v1" not in await listed(ollama.url)
            assert [row.version for row in await synced(second)] == [1, 2]


async def test_rules_survive_a_restart_and_end_with_their_room(tmp_path: Path, files: Path) -> None:
    async with team(tmp_path, files) as people:
        first = await people.join("first")
        ollama = await people.ollama("second")
        async with running(tmp_path / "second", ollama) as second:
            await people.enter(second)
            made = await follow(second, first, name="sql-*", tag="sql", max_bytes=1 << 30, per_hour=5)
        await people.publish(first, tags=("sql",))
        async with running(tmp_path / "second", ollama, first.address) as second:
            assert await second.control.sync_rules() == (made,)
            await second.happened(InstallComplete)
            await has(second, "team/sql-lora:v1", "team/sql-lora:latest")
            await second.control.leave_room("team")
            assert await second.control.sync_rules() == ()
            assert "team/sql-lora:latest" in await listed(ollama.url), "what was installed stays"


async def test_share_rule_offers_what_its_filters_let_through(tmp_path: Path, files: Path) -> None:
    async with team(tmp_path, files) as people:
        first, second = await pair(people)
        await first.control.sync_add(RuleOptions("share", "team", name="sql-*", base="tiny-base"))
        await make_adapter(first.ollama.url, files, "private")
        await make_adapter(first.ollama.url, files, "sql-lora", "adapter_b.gguf")
        await second.row("sql-lora", sources=1)
        assert [row.name for row in await second.control.adapters()] == ["sql-lora"]
        assert [room.share_all for room in await first.control.rooms()] == [False]
