"""A base model from a peer instead of the internet, and an adapter that fits it because the digest is the same."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from ollama_bridge.manifest import MediaType
from ollama_bridge.names import ModelName
from sidecar.catalogue.entry import Blob, build_entry, sign_entry
from sidecar.control_types import RuleOptions
from sidecar.errors import BundleError, NotFound, NotTrusted, SidecarError
from sidecar.events import InstallComplete, TransferProgress
from sidecar.transfer.chunks import CHUNK_BYTES, hash_chunks
from tests.journeys.inside import IN_PROCESS, Node, Team, running, team, until
from tests.journeys.models import PARAMETERS, SYSTEM, TEMPLATE, add_layer, change_config, make_model, pulled_model
from tests.journeys.ollama import BASE, contents, listed, make_adapter, remove, shown

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from sidecar.catalogue.entry import Entry

pytestmark = IN_PROCESS
MODEL = "tiny-base"


async def two(people: Team, files: Path) -> tuple[Node, Node]:
    """A machine with a model and an adapter for it, and one whose Ollama is empty."""
    first = await people.join("first")
    await make_model(first.ollama.url, files)
    await make_adapter(first.ollama.url, files, "sql-lora")
    second = await people.join("second", ollama=await people.ollama("second", base=False))
    assert not await listed(second.ollama.url)
    return first, second


async def test_an_empty_ollama_gets_the_base_from_a_peer_and_then_the_adapter_fits(tmp_path: Path, files: Path) -> None:
    async with team(tmp_path, files) as people:
        first, second = await two(people, files)
        adapter = await first.share("sql-lora")
        model = await first.share(BASE, model=True)
        assert (model.kind, model.name, model.license) == ("model", MODEL, "TINY LICENSE AGREEMENT")
        assert model.size > adapter.size
        assert not (await second.row("sql-lora", sources=1)).fits
        refused = await second.get("sql-lora")
        assert refused.error is not None
        assert (refused.error.code, f"ollaswarm get {model.ref}" in refused.error.next) == ("base-missing", True)

        offered = await second.row(MODEL, sources=1)
        assert (offered.kind, offered.digest, offered.base_digest) == ("model", model.digest, model.digest)
        texts = {each.field: each.suggested for each in await second.control.suggestions(MODEL) if each.required}
        assert (texts["template"], texts["system"]) == (TEMPLATE, SYSTEM)
        assert json.loads(texts["parameters.stop"]) == PARAMETERS["stop"]
        done = await second.got(MODEL, as_name="tiny:1b", accept_suggestions=True)
        assert done.result is not None
        assert (done.result.installed_as, done.result.route) == ("tiny:1b", "pull")
        assert done.total_bytes == offered.size

        assert _layers(second, "tiny:1b") == _layers(first, BASE)
        found = await shown(second.ollama.url, "tiny:1b")
        assert (found.template, found.system) == (TEMPLATE, SYSTEM)
        assert adapter.base_digest == str(found.model_blobs[0])
        await second.got("sql-lora")
        assert str((await shown(second.ollama.url, "sql-lora")).adapter_blobs[0]) == adapter.digest
        assert [row["action"] for row in _audit(second)] == ["install", "install"]


def _layers(node: Node, name: str) -> list[tuple[str, str]]:
    manifest = node.ollama.store.read(ModelName.parse(name))
    assert manifest is not None
    return [(layer.media_type, str(layer.digest)) for layer in manifest.layers]


def _audit(node: Node) -> list[dict[str, str]]:
    return [json.loads(line) for line in node.parts.paths.audit_log.read_text().splitlines()]


async def test_uninstall_leaves_the_store_as_it_was(tmp_path: Path, files: Path) -> None:
    async with team(tmp_path, files) as people:
        first, second = await two(people, files)
        before = contents(second.store)
        await first.share(BASE, model=True)
        await second.row(MODEL, sources=1)
        await second.got(MODEL, accept_suggestions=True)
        assert (await second.row(MODEL)).installed_as == "tiny-base:latest"
        removed = await second.control.uninstall(MODEL)
        assert removed.removed
        assert contents(second.store) == before
        assert second.parts.blobs.stored_bytes() == 0, "nothing of it stays in the data folder either"


async def test_what_ollama_has_already_is_not_fetched_and_a_third_gets_it_from_both(
    tmp_path: Path, files: Path
) -> None:
    async with team(tmp_path, files) as people:
        first, second = await two(people, files)
        await first.share(BASE, model=True)
        await second.row(MODEL, sources=1)
        await second.got(MODEL, accept_suggestions=True)
        again = await second.got(MODEL, as_name="again", accept_suggestions=True)
        assert again.result is not None
        assert again.result.fetched_bytes == 0
        third = await people.join("third", ollama=await people.ollama("third", base=False))
        await third.row(MODEL, sources=2)
        await first.control.leave_room("team")
        await third.got(MODEL, accept_suggestions=True)
        assert _layers(third, MODEL) == _layers(second, MODEL)


async def test_a_model_of_which_ollama_had_a_text_is_provided_with_all_its_parts(tmp_path: Path, files: Path) -> None:
    async with team(tmp_path, files) as people:
        first, second = await two(people, files)
        second.ollama.store.add_blob(TEMPLATE.encode(), MediaType.TEMPLATE)
        await first.share(BASE, model=True)
        await second.row(MODEL, sources=1)
        await second.got(MODEL, accept_suggestions=True)
        third = await people.join("third", ollama=await people.ollama("third", base=False))
        await third.row(MODEL, sources=2)
        await first.control.leave_room("team")
        await third.got(MODEL, accept_suggestions=True)


async def test_a_model_as_the_library_serves_it_has_the_same_id_on_both_machines(tmp_path: Path, files: Path) -> None:
    async with team(tmp_path, files) as people:
        first = await people.join("first", ollama=await people.ollama("first", base=False))
        second = await people.join("second", ollama=await people.ollama("second", base=False))
        await pulled_model(first.ollama, files, "tiny:1b")
        await first.share("tiny:1b", model=True)
        await second.row("tiny-1b", sources=1)
        await second.got("tiny-1b", as_name="tiny:1b", accept_suggestions=True)
        assert await _manifest(second, "tiny:1b") == await _manifest(first, "tiny:1b"), "byte for byte"


async def _manifest(node: Node, name: str) -> bytes:
    return await anyio.Path(node.ollama.store.manifest_path(ModelName.parse(name))).read_bytes()


async def test_a_model_is_provided_again_after_a_restart(tmp_path: Path, files: Path) -> None:
    async with team(tmp_path, files) as people:
        ollama = await people.ollama("first")
        await make_model(ollama.url, files)
        async with running(tmp_path / "first", ollama) as first:
            await people.enter(first)
            await first.share(BASE, model=True)
        empty = await people.ollama("second", base=False)
        async with (
            running(tmp_path / "first", ollama) as first,
            running(tmp_path / "second", empty, first.address) as second,
        ):
            await people.enter(second)
            await second.row(MODEL, sources=1)
            await second.got(MODEL, accept_suggestions=True)
            assert [row.name for row in await first.control.unshare(BASE)] == [MODEL]


async def test_rules_leave_models_alone_until_they_say_models(tmp_path: Path, files: Path) -> None:
    async with team(tmp_path, files) as people:
        first, second = await two(people, files)
        await second.control.trust(first.key.hex())
        await second.control.sync_add(RuleOptions("fetch", "team"))
        await first.control.share_all("team", on=True)
        await second.row("sql-lora", sources=1)
        assert [row.kind for row in await second.control.adapters()] == ["adapter"]
        await first.control.share_all("team", on=True, models=True)
        await second.row(MODEL, sources=1)
        report = await second.control.sync_run(dry_run=False)
        assert [(line.action, line.model) for line in report.lines if line.action == "install"] == []
        assert not await listed(second.ollama.url)
        await second.control.sync_add(RuleOptions("fetch", "team", models=True))
        await second.happened(InstallComplete, lambda event: event.installed_as == "team/sql-lora:v1")
        assert {"team/tiny-base:v1", "team/tiny-base:latest", "team/sql-lora:v1"} <= await listed(second.ollama.url)
        assert _layers(second, "team/tiny-base:v1") == _layers(first, BASE)


async def test_a_model_that_left_the_store_is_not_offered_as_held_and_one_that_came_back_is(
    tmp_path: Path, files: Path
) -> None:
    async with team(tmp_path, files) as people:
        first, second = await two(people, files)
        await first.share(BASE, model=True)
        await second.row(MODEL, sources=1)
        await remove(first.ollama.url, "sql-lora")
        await remove(first.ollama.url, BASE)

        async def sources() -> int:
            return (await second.row(MODEL)).sources

        await until(lambda: _is(sources, 0))
        await make_model(first.ollama.url, files)
        await until(lambda: _is(sources, 1))
        await second.got(MODEL, accept_suggestions=True)


async def _is(count: Callable[[], Awaitable[int]], wanted: int) -> bool:
    return await count() == wanted


async def _share_refused(node: Node, name: str = BASE, **options: Any) -> str:
    with pytest.raises(SidecarError) as refused:
        await node.share(name, **({"model": True} | options))
    assert not await node.control.adapters(local=True)
    return f"{refused.value.code}: {refused.value.cause} {refused.value.next_step}"


async def test_a_plain_model_is_not_shared_by_mistake(tmp_path: Path, files: Path) -> None:
    async with team(tmp_path, files) as people:
        first, _ = await two(people, files)
        assert "--model" in await _share_refused(first, model=False)
        assert "leave --model out" in await _share_refused(first, "sql-lora")
        assert "Leave --base" in await _share_refused(first, base=BASE)
        assert "not-found" in await _share_refused(first, "nothing")


@pytest.mark.parametrize(
    "kind", [MediaType.PROJECTOR, MediaType.DRAFT, MediaType.MESSAGES, MediaType.PROMPT, "x.thing"]
)
async def test_t04_a_model_with_a_layer_that_does_not_travel_is_not_shared(
    tmp_path: Path, files: Path, kind: str
) -> None:
    async with team(tmp_path, files) as people:
        first = await people.join("first")
        await make_model(first.ollama.url, files)
        await add_layer(first.ollama, BASE, kind, b"[]")
        assert "incomplete" in await _share_refused(first)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"remote_host": "https://elsewhere.example"}, "remote_host"),
        ({"remote_model": "other"}, "remote_model"),
        ({"renderer": "qwen3-coder"}, "renderer"),
        ({"parser": "harmony"}, "parser"),
        ({"requires": "0.30.0"}, "requires"),
        ({"draft": {"model_format": "gguf"}}, "draft"),
        ({"model_format": "safetensors"}, "no GGUF"),
    ],
)
async def test_t04_a_model_whose_config_says_more_than_its_header_is_not_shared(
    tmp_path: Path, files: Path, fields: dict[str, Any], words: str
) -> None:
    async with team(tmp_path, files) as people:
        first = await people.join("first")
        await make_model(first.ollama.url, files)
        await change_config(first.ollama, BASE, **fields)
        assert words in await _share_refused(first)


@pytest.mark.parametrize(
    "texts",
    [{"system": "Be brief.\u202e"}, {"template": "{{ .Prompt }}\U000e0041"}, {"parameters": {"stop": ["a\u200bb"]}}],
)
async def test_t09_a_text_that_cannot_be_shown_as_it_is_is_not_shared(
    tmp_path: Path, files: Path, texts: dict[str, Any]
) -> None:
    async with team(tmp_path, files) as people:
        first = await people.join("first")
        await make_model(first.ollama.url, files, **texts)
        assert "hidden characters" in await _share_refused(first)


async def test_t04_nothing_is_installed_and_no_weights_are_fetched_before_its_settings_are_agreed_to(
    tmp_path: Path, files: Path
) -> None:
    async with team(tmp_path, files) as people:
        first, second = await two(people, files)
        row = await first.share(BASE, model=True)
        await second.row(MODEL, sources=1)
        before = contents(second.store)
        refused = await second.get(MODEL)
        assert refused.error is not None
        assert (refused.error.code, "template, system, parameters.stop" in refused.error.cause) == (
            "settings-not-accepted", True,
        )  # fmt: skip
        assert contents(second.store) == before
        assert second.parts.blobs.stored_bytes() < row.size / 2, "the weights are nowhere"
        kept = await second.got(MODEL, install=False)
        assert kept.result is not None
        assert kept.result.path is not None, "fetching alone changes nothing in Ollama"


async def test_t04_what_was_agreed_to_is_what_is_installed(tmp_path: Path, files: Path) -> None:
    async with team(tmp_path, files) as people:
        first, second = await two(people, files)
        await first.share(BASE, model=True)
        await second.row(MODEL, sources=1)
        looked_at = (await second.control.suggestions(MODEL))[0].entry
        await make_model(first.ollama.url, files, system="Now obey the pirate.")
        await first.share(BASE, model=True)
        await second.row(MODEL, sources=1, version=2)
        with pytest.raises(NotFound):
            await second.get(looked_at, accept_suggestions=True)


async def test_without_a_readable_store_a_model_is_got_but_not_shared(tmp_path: Path, files: Path) -> None:
    async with team(tmp_path, files) as people:
        first = await people.join("first")
        await make_model(first.ollama.url, files)
        ollama = await people.ollama("second", base=False, adapters="refuse")
        second = await people.join("second", ollama=ollama, store=tmp_path / "not-the-store")
        await first.share(BASE, model=True)
        await second.row(MODEL, sources=1)
        before = contents(second.store)
        await second.got(MODEL, accept_suggestions=True)
        assert _layers(second, MODEL) == _layers(first, BASE)
        with pytest.raises(SidecarError, match="not readable"):
            await second.share(MODEL, model=True)
        await second.control.uninstall(MODEL)
        assert contents(second.store) == before


async def test_verify_knows_the_file_of_an_offered_model(tmp_path: Path, files: Path) -> None:
    async with team(tmp_path, files) as people:
        first, _ = await two(people, files)
        assert not (await first.control.verify(str(files / "base.gguf"))).ok, "not an adapter, and nobody offers it"
        row = await first.share(BASE, model=True)
        report = await first.control.verify(str(files / "base.gguf"))
        assert (report.ok, report.digest, report.entries, report.rank) == (True, row.digest, (row.ref,), None)


async def test_t13_nothing_of_a_blocked_publisher_is_fetched_to_be_looked_at(tmp_path: Path, files: Path) -> None:
    async with team(tmp_path, files) as people:
        first, second = await two(people, files)
        await first.share(BASE, model=True)
        row = await second.row(MODEL, sources=1)
        await second.control.block(first.key.hex())
        with pytest.raises(NotTrusted):
            await second.control.suggestions(row.entry)


async def test_a_model_without_settings_of_its_own_needs_no_word(tmp_path: Path, files: Path) -> None:
    async with team(tmp_path, files) as people:
        first = await people.join("first")
        second = await people.join("second", ollama=await people.ollama("second", base=False))
        await first.share(BASE, model=True)
        await second.row(MODEL, sources=1)
        assert await second.control.suggestions(MODEL) == ()
        await second.got(MODEL)


async def test_t06_quota_and_disk_are_asked_for_all_of_it_before_the_first_byte(
    tmp_path: Path, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with team(tmp_path, files) as people:
        first, second = await two(people, files)
        row = await first.share(BASE, model=True)
        await second.row(MODEL, sources=1)
        monkeypatch.setattr(second.parts.blobs, "_quota_bytes", row.size - 1)
        refused = await second.get(MODEL, accept_suggestions=True)
        assert refused.error is not None
        assert refused.error.code == "quota-exceeded"
        monkeypatch.undo()
        monkeypatch.setattr("sidecar.transfer.files.space", lambda folder: (1 << 40, row.size))
        monkeypatch.setattr(
            "sidecar.transfer.files.check_space.__defaults__", (lambda folder: (1 << 40, row.size), _none)
        )
        refused = await second.get(MODEL, accept_suggestions=True)
        assert refused.error is not None
        assert refused.error.code == "disk-full", "ours and Ollama's copy do not fit"
        assert second.parts.blobs.stored_bytes() == 0


def _none(total: int) -> int:
    return 0


async def test_a_cancelled_model_goes_on_where_it_was(tmp_path: Path, files: Path) -> None:
    async with team(tmp_path, files) as people:
        first = await people.join("first")
        await make_model(first.ollama.url, files)
        ollama = await people.ollama("second", base=False)
        second = await people.join("second", ollama=ollama, download_limit=100_000, lan_exempt=False)
        row = await first.share(BASE, model=True)
        await second.row(MODEL, sources=1)
        begun = await second.begin(MODEL, accept_suggestions=True)
        some = 100_000
        told = await second.happened(TransferProgress, lambda event: event.done_bytes > some)
        assert told.total_bytes == row.size
        await second.control.cancel(begun.id)
        assert (await second.ended(begun)).state == "cancelled"
        assert not await listed(ollama.url)
        done = await second.got(MODEL, accept_suggestions=True)
        assert done.result is not None
        assert done.result.fetched_bytes <= row.size - some + CHUNK_BYTES
        size = row.size
        await second.happened(TransferProgress, lambda event: (event.stage, event.done_bytes) == ("fetch", size))


async def test_a_model_does_not_go_into_a_bundle(tmp_path: Path, files: Path) -> None:
    async with team(tmp_path, files) as people:
        first, _ = await two(people, files)
        row = await first.share(BASE, model=True)
        with pytest.raises(BundleError, match="whole model"):
            await first.control.export_bundle(row.ref, str(tmp_path / "b"), with_base=False, overwrite=False)
        assert not (tmp_path / "b").exists()


async def test_a_taken_name_is_refused_before_anything_is_fetched(tmp_path: Path, files: Path) -> None:
    async with team(tmp_path, files) as people:
        first = await people.join("first")
        await make_model(first.ollama.url, files)
        second = await people.join("second")
        before = contents(second.store)
        await first.share(BASE, model=True)
        await second.row(MODEL, sources=1)
        refused = await second.get(MODEL, accept_suggestions=True)
        assert refused.error is not None
        assert refused.error.code == "name-taken"
        assert contents(second.store) == before
        await second.got(MODEL, accept_suggestions=True, force=True)
        assert _layers(second, BASE) == _layers(first, BASE)


async def test_where_ollama_cannot_pull_from_us_it_says_so(tmp_path: Path, files: Path) -> None:
    async with team(tmp_path, files) as people:
        first, second = await two(people, files)
        await first.share(BASE, model=True)
        await second.row(MODEL, sources=1)
        second.parts.registry.unavailable = "it cannot be reached"
        refused = await second.get(MODEL, accept_suggestions=True)
        assert refused.error is not None
        assert refused.error.code == "no-route"
        assert "by pull" in refused.error.cause


async def _offer(node: Node, entry: Entry) -> None:
    """What a publisher that lies does."""
    signed = sign_entry(build_entry(entry), node.parts.identity.key_pair)
    for room_id in node.parts.network.rooms:
        await node.parts.network.publish(room_id, signed, held=True)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"parameters": 7}, "parameters"),
        ({"quantization": "Q4_K_M"}, "quantization"),
        ({"tensors": 3}, "tensors"),
        ({"shapes": "0" * 64}, "shapes"),
    ],
)
async def test_t02_a_model_that_is_not_what_its_entry_says_never_reaches_ollama(
    tmp_path: Path, files: Path, change: dict[str, Any], words: str
) -> None:
    async with team(tmp_path, files) as people:
        first, second = await two(people, files)
        await first.share(BASE, model=True)
        before = contents(second.store)
        signed = first.parts.catalogue.resolve(MODEL)
        assert signed.entry.model is not None
        lie = replace(signed.entry, version=2, model=replace(signed.entry.model, **change))
        await _offer(first, lie)
        await second.row(MODEL, sources=1, version=2)
        refused = await second.get(MODEL, accept_suggestions=True)
        assert refused.error is not None
        assert (refused.error.code, words in refused.error.cause) == ("claim-mismatch", True)
        assert contents(second.store) == before


@pytest.mark.parametrize(
    ("data", "words"),
    [(b"not a model at all" * 10, "Ollama should be given"), (b"GGUF" + b"\xff" * 200, "Ollama should be given")],
)
async def test_t02_a_hostile_model_file_never_reaches_ollama(
    tmp_path: Path, files: Path, data: bytes, words: str
) -> None:
    async with team(tmp_path, files) as people:
        first, second = await two(people, files)
        await first.share(BASE, model=True)
        before = contents(second.store)
        signed = first.parts.catalogue.resolve(MODEL)
        path = tmp_path / "hostile"
        path.write_bytes(data)
        with path.open("rb") as file:
            digest, table = hash_chunks(file, len(data))
        weights = Blob(str(digest), len(data), MediaType.MODEL, table.root_hex)
        blobs = tuple(weights if blob.is_weights else blob for blob in signed.entry.blobs)
        base = replace(signed.entry.base, digest=str(digest))
        lie = replace(signed.entry, version=2, base=base, blobs=blobs)
        first.parts.provider.register(digest, len(data), table, lambda: path.open("rb"))
        await _offer(first, lie)
        await second.row(MODEL, sources=1, version=2)
        refused = await second.get(MODEL, accept_suggestions=True)
        assert refused.error is not None
        assert (refused.error.code, words in refused.error.cause) == ("claim-mismatch", True)
        assert contents(second.store) == before
