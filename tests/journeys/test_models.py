"""A base model from a peer instead of the internet, and an adapter that fits it because the digest is the same."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from ollama_bridge.digests import Digest
from ollama_bridge.manifest import MediaType
from ollama_bridge.names import ModelName
from sidecar.control_types import GetOptions
from sidecar.errors import ShareError, SidecarError
from sidecar.events import TransferProgress
from tests.journeys.inside import IN_PROCESS, Node, Team, team
from tests.journeys.models import LICENSE, PARAMETERS, SYSTEM, TEMPLATE, add_layer, change_config, make_model
from tests.journeys.ollama import BASE, contents, listed, make_adapter, shown

if TYPE_CHECKING:
    from pathlib import Path

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
        assert refused.error.code == "base-missing"

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


async def test_what_ollama_has_already_is_not_fetched_and_a_third_gets_it_from_both(tmp_path: Path, files: Path) -> None:
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
