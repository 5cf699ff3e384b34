"""Ollama down, restarting, too old, refusing; bases missing and different; stores that cannot be read. Nothing is lost."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any, Literal

import pytest

from ollama_bridge.standin import Fault
from ollama_bridge.standin.tiny_models import Options
from sidecar import local_models
from sidecar.errors import AdapterRefused, NotFound, OllamaError, ShareError, SidecarError
from sidecar.events import AdapterAppeared, OllamaLost, OllamaRestored
from tests.fixtures.make_fixtures import make_fixtures
from tests.journeys.inside import IN_PROCESS, Node, Team, running, team, until
from tests.journeys.ollama import contents, make_adapter, make_base, shown

if TYPE_CHECKING:
    from pathlib import Path

    from sidecar.control_types import AdapterRow, ErrorInfo, TransferInfo

pytestmark = IN_PROCESS

INSTALL_STEPS = ("blob:begin", "blob:stored", "pull:begin", "pull:write", "pull:done", "copy:begin", "copy:done")


async def pair(people: Team, **second: Any) -> tuple[Node, Node, AdapterRow]:
    """A publisher with one adapter, and a receiver that sees it."""
    first = await people.join("first")
    receiver = await people.join("second", **second)
    row = await people.publish(first)
    return first, receiver, await receiver.row(row.name, sources=1)


def error_of(ended: TransferInfo) -> ErrorInfo:
    """The error of a failed transfer, which has cause and next step."""
    assert ended.state == "failed"
    assert ended.error is not None
    assert ended.error.cause
    assert ended.error.next
    return ended.error


async def answering(node: Node) -> None:
    """Return when its Ollama is back."""

    async def answers() -> bool:
        return (await node.control.status()).ollama.reachable

    await until(answers)


def failures(node: Node, code: str) -> float:
    """How often the metrics counted an install that failed for that reason."""
    sample = {"route": "none", "result": code}
    return node.parts.metrics.registry.get_sample_value("ollaswarm_installs_total", sample) or 0


@pytest.fixture
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sidecars ask every moment whether Ollama is there."""
    monkeypatch.setattr(local_models, "ALIVE_CHECK_S", 0.1)


@pytest.mark.usefixtures("looks_often")
async def test_ollama_down_at_get_keeps_what_was_fetched(tmp_path: Path, files: Path) -> None:
    async with team(tmp_path, files) as people:
        first, second, row = await pair(people)
        before = contents(second.store)
        await second.ollama.stop()
        error = error_of(await second.get(row.ref))
        assert error.code == "ollama"
        assert second.ollama.url in error.cause
        assert failures(second, "ollama") == 1
        await second.happened(OllamaLost)
        assert contents(second.store) == before
        await second.ollama.start()
        await second.happened(OllamaRestored)
        await first.control.leave_room("team")  # nobody has it any more, and nobody is needed
        ended = await second.got(row.ref)
        assert ended.result is not None
        assert ended.result.fetched_bytes == 0


async def test_ollama_down_at_share(tmp_path: Path, files: Path) -> None:
    """The store is enough to share from; only what must be asked of Ollama needs it."""
    async with team(tmp_path, files) as people:
        first = await people.join("first")
        await make_adapter(first.ollama.url, files, "sql-lora")
        await first.ollama.stop()
        assert (await first.share("sql-lora")).version == 1
        with pytest.raises(OllamaError):
            await first.share("sql-lora", suggest=True)
        blind = await people.join("blind", store=tmp_path / "elsewhere")
        await blind.ollama.stop()
        with pytest.raises(OllamaError):
            await blind.share("sql-lora")
        error = error_of(await blind.get((await blind.row("sql-lora", sources=1)).ref))
        assert error.code == "ollama"


@pytest.mark.parametrize("step", INSTALL_STEPS)
async def test_ollama_restarts_in_the_middle_of_an_install(tmp_path: Path, files: Path, step: str) -> None:
    async with team(tmp_path, files) as people:
        _, second, row = await pair(people, ollama=await people.ollama("second", adapters="refuse"))
        before = contents(second.store)
        second.ollama.faults.set(step, Fault("restart"))
        ended = await second.get(row.ref)
        if ended.state == "failed":
            assert error_of(ended).code in ("ollama", "install")
            assert contents(second.store) == before, "the old state, whole"
            await answering(second)
            await second.got(row.ref)
        assert (await shown(second.ollama.url, row.name)).adapter_blobs
        assert not [name for name in contents(second.store) if "/p2p/" in name or "install-" in name]
        await second.control.uninstall(row.name)
        assert contents(second.store) == before


@pytest.mark.parametrize("version", ["0.1.0", "0.5.4"])
async def test_old_ollama_installs_by_a_way_it_knows_or_says_why_not(tmp_path: Path, files: Path, version: str) -> None:
    async with team(tmp_path, files) as people:
        _, second, row = await pair(people)
        second.ollama.version = version
        ended = await second.get(row.ref)
        doctor = {line.name: line for line in await second.control.doctor()}
        assert doctor["ollama"].level in ("warn", "fail")
        assert version in doctor["ollama"].cause
        if ended.state == "done":
            await second.control.uninstall(row.name)
        else:
            assert version in error_of(ended).cause


async def test_refusing_ollama_that_cannot_reach_our_registry(
    tmp_path: Path, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with team(tmp_path, files) as people:
        _, second, row = await pair(people, ollama=await people.ollama("second", adapters="refuse"))
        before = contents(second.store)
        second.ollama.faults.set(
            "pull:begin", Fault("fail", times=50, message="dial tcp 127.0.0.1: connection refused")
        )
        error = error_of(await second.get(row.ref))
        assert error.code == "no-route"
        assert "cannot reach the sidecar's address" in error.cause
        assert failures(second, "no-route") == 1
        assert contents(second.store) == before
        del second.ollama.faults.at["pull:begin"]
        await second.got(row.ref)


async def test_t05_base_missing_and_base_different(tmp_path: Path, files: Path) -> None:
    """Refused before a byte is fetched; with another model of that name, both digests are shown."""
    other = tmp_path / "other"
    make_fixtures(other, Options(seed=7))
    async with team(tmp_path, files) as people:
        bare = await people.ollama("second", base=False)
        _, second, row = await pair(people, ollama=bare)
        assert row.fits is False
        missing = error_of(await second.get(row.ref))
        assert missing.code == "base-missing"
        assert row.base_digest in missing.cause
        assert "ollama pull tiny-base" in missing.next
        here = await make_base(bare.url, other)
        await until(lambda: "tiny-base:latest" in [name.display for name in second.parts.local.models])
        different = error_of(await second.get(row.ref))
        assert str(here) in different.cause
        assert row.base_digest in different.cause
        assert list(second.parts.paths.partial.iterdir()) == []
        assert failures(second, "base-missing") >= 2


@pytest.mark.parametrize("file", ["adapter_wrong_arch.gguf", "adapter_wrong_shape.gguf", "adapter_truncated.gguf"])
async def test_file_that_is_no_adapter_of_the_base_is_not_shared(tmp_path: Path, files: Path, file: str) -> None:
    async with team(tmp_path, files) as people:
        first = await people.join("first")
        with pytest.raises((ShareError, AdapterRefused)):
            await first.share(str(files / file))
        assert await first.control.adapters() == ()


async def test_share_of_what_is_not_there(tmp_path: Path, files: Path) -> None:
    async with team(tmp_path, files) as people:
        first = await people.join("first")
        with pytest.raises(NotFound):
            await first.share(str(tmp_path / "nothing.gguf"))
        with pytest.raises(NotFound):
            await first.share("no-such-model")
        with pytest.raises(ShareError, match="without an adapter"):
            await first.share("tiny-base")


@pytest.mark.parametrize("trouble", ["manifests-gone", "half-written", "garbage"])
async def test_store_in_trouble_hides_nothing_else(
    tmp_path: Path, files: Path, trouble: Literal["manifests-gone", "half-written", "garbage"]
) -> None:
    async with team(tmp_path, files) as people:
        ollama = await people.ollama("first")
        await make_adapter(ollama.url, files, "sql-lora")
        manifests = ollama.store.root / "manifests"
        bad = manifests / "registry.ollama.ai/library/bad/latest"
        good = (manifests / "registry.ollama.ai/library/sql-lora/latest").read_bytes()
        if trouble == "manifests-gone":
            shutil.move(manifests, tmp_path / "aside")
        else:
            bad.parent.mkdir()
            bad.write_bytes(good[: len(good) // 2] if trouble == "half-written" else b"\xff\x00{")
        first = await people.join("first", ollama=ollama)
        if trouble == "manifests-gone":
            with pytest.raises(NotFound):
                await first.share("sql-lora")
            shutil.move(tmp_path / "aside", manifests)
            await first.happened(AdapterAppeared)
        else:
            with pytest.raises(SidecarError, match="bad"):
                await first.share("bad")
        assert (await first.share("sql-lora")).version == 1
        if trouble == "half-written":
            bad.write_bytes(good)
            await first.happened(AdapterAppeared, lambda event: "bad:latest" in event.to_json().values())
            await first.share("bad")


async def test_name_is_taken_by_a_model_of_the_users(tmp_path: Path, files: Path) -> None:
    async with team(tmp_path, files) as people:
        _, second, row = await pair(people)
        await make_base(second.ollama.url, files, "sql-lora")
        before = contents(second.store)
        error = error_of(await second.get(row.ref))
        assert (error.code, "--as" in error.next) == ("name-taken", True)
        assert contents(second.store) == before
        await second.got(row.ref, as_name="mine/sql-lora:v1")
        await second.control.uninstall("mine/sql-lora:v1")
        with pytest.raises(NotFound):
            await second.control.uninstall("sql-lora")
        assert contents(second.store) == before


async def test_quota_is_refused_before_a_byte_is_fetched(tmp_path: Path, big_files: Path) -> None:
    async with team(tmp_path, big_files) as people:
        _, second, row = await pair(people, quota="1MiB")
        error = error_of(await second.get(row.ref))
        assert error.code == "quota-exceeded"
        assert str(1 << 20) in error.cause
        assert second.parts.blobs.stored_bytes() < 1 << 20


@pytest.mark.usefixtures("looks_often")
async def test_daemon_starts_before_ollama(tmp_path: Path, files: Path) -> None:
    async with team(tmp_path, files) as people:
        ollama = await people.ollama("first")
        await ollama.stop()
        async with running(tmp_path / "first", ollama) as node:
            await people.enter(node)
            status = await node.control.status()
            assert (status.ollama.reachable, status.store.readable) == (False, True)
            await ollama.start()
            await node.happened(OllamaRestored)
            await make_adapter(ollama.url, files, "sql-lora")
            assert (await node.share("sql-lora")).version == 1
