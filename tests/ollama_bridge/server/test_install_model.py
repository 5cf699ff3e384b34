"""Whole models by pull: the layers as they were, a config of ours, all or nothing."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from ollama_bridge.adapters.inspect_model import describe_model
from ollama_bridge.digests import Digest
from ollama_bridge.errors import OllamaBridgeError
from ollama_bridge.install import (
    Installed,
    InstallFailed,
    NameTaken,
    NewLayer,
    NoRoute,
    NotOurs,
    install_adapter,
    install_model,
    render_config,
    rollback,
    uninstall,
)
from ollama_bridge.manifest import Layer, MediaType, render_manifest
from ollama_bridge.standin import Fault
from tests.conformance.lab import layer_of
from tests.ollama_bridge.server.installing import store_of, temporary_names

if TYPE_CHECKING:
    from pathlib import Path

    from ollama_bridge.names import ModelName
    from ollama_bridge.standin.faults import FaultKind
    from tests.conformance.lab import Lab

pytestmark = pytest.mark.anyio

TEXTS = {MediaType.TEMPLATE: b"{{ .Prompt }}!", MediaType.PARAMS: b'{"stop":["x"]}\n', MediaType.LICENSE: b"Be kind."}


@pytest.fixture(autouse=True)
def quick_rollback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollback, "SETTLE_S", 0.02)


@pytest.fixture
async def empty(lab: Lab) -> Lab:
    """An Ollama with no model at all."""
    await lab.client.delete(lab.base)
    assert not await lab.names()
    return lab


def parts(lab: Lab, folder: Path) -> tuple[list[NewLayer], NewLayer]:
    model = lab.files / "base.gguf"
    layers = [NewLayer(layer_of(model, MediaType.MODEL), model)]
    for media_type, data in TEXTS.items():
        layers.append(_new(folder, media_type, data))
    with model.open("rb") as file:
        config = render_config(describe_model(file), [new.layer.digest for new in layers])
    return layers, _new(folder, MediaType.CONFIG, config)


def _new(folder: Path, media_type: str, data: bytes) -> NewLayer:
    path = folder / Digest.of(data).file_name
    path.write_bytes(data)
    return NewLayer(Layer(media_type, Digest.of(data), len(data)), path)


async def install(lab: Lab, folder: Path, **changes: Any) -> Installed:
    layers, config = parts(lab, folder)
    arguments: dict[str, Any] = {
        "layers": layers, "config": config, "wanted": lab.fresh_name("whole"), "store": lab.store,
    }  # fmt: skip
    return await install_model(lab.client, lab.registry, **(arguments | changes))


async def test_the_layers_keep_their_digests_and_order(empty: Lab, tmp_path: Path) -> None:
    layers, config = parts(empty, tmp_path)
    installed = await install(empty, tmp_path)
    assert installed.route == "pull"
    assert empty.store is not None
    manifest = empty.store.read_manifest(installed.name)
    assert manifest.layers == tuple(new.layer for new in layers)
    assert manifest.digest == installed.manifest_digest
    assert manifest.digest == Digest.of(render_manifest(config.layer, [new.layer for new in layers]))
    assert await empty.names() == {installed.name}
    path, digest, size = empty.adapter()
    adapted = await install_adapter(
        empty.client, empty.registry, adapter=path, digest=digest, size=size, base=installed.name,
        wanted=empty.fresh_name("adapted"), store=empty.store,
    )  # fmt: skip
    assert (await empty.client.show(adapted.name)).model_blobs == (layers[0].layer.digest,)


async def test_t04_the_config_names_no_other_host_and_nothing_a_header_cannot_say(empty: Lab, tmp_path: Path) -> None:
    installed = await install(empty, tmp_path)
    assert empty.store is not None
    config = empty.store.read_manifest(installed.name).config
    assert config is not None
    with empty.store.open_blob(config.digest) as file:
        document = json.load(file)
    assert set(document) == {
        "model_format", "model_family", "model_families", "model_type", "file_type", "architecture", "os", "rootfs",
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["fail", "restart"])
@pytest.mark.parametrize(
    ("step", "after"),
    [("tags", 0), ("blob:begin", 0), ("blob:begin", 2), ("blob:begin", 4), ("blob:stored", 1), ("blob:stored", 4),
     ("pull:begin", 1), ("pull:write", 0), ("pull:done", 0), ("show", 0), ("show", 1), ("copy:begin", 0),
     ("copy:done", 0)],
)  # fmt: skip
async def test_a_fault_at_any_step_leaves_an_empty_store_empty(
    empty: Lab, tmp_path: Path, step: str, after: int, kind: FaultKind
) -> None:
    assert empty.standin is not None
    before = store_of(empty)
    fault = empty.standin.faults.set(step, Fault(kind, after=after, seconds=0.1))
    with pytest.raises(OllamaBridgeError):
        await install(empty, tmp_path)
    assert fault.reached.is_set()
    assert store_of(empty) == before


async def test_t25_a_config_that_is_another_is_rolled_back(
    empty: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that points the model at another host."""
    assert empty.standin is not None
    other = empty.standin.store.add_blob(b'{"remote_host":"https://elsewhere.example"}', MediaType.CONFIG)
    write = empty.standin.store.write_manifest

    async def write_other(name: ModelName, data: bytes) -> None:
        document: dict[str, Any] = json.loads(data)
        document["config"] = {"mediaType": other.media_type, "digest": str(other.digest), "size": other.size}
        await write(name, json.dumps(document).encode())

    monkeypatch.setattr(empty.standin.store, "write_manifest", write_other)
    with pytest.raises(InstallFailed, match="another config"):
        await install(empty, tmp_path)
    monkeypatch.undo()
    assert not [path for path in store_of(empty) if path.startswith("manifests")]


async def test_a_taken_name_stays_unless_forced(lab: Lab, tmp_path: Path) -> None:
    before = store_of(lab)
    with pytest.raises(NameTaken):
        await install(lab, tmp_path, wanted=lab.base)
    assert store_of(lab) == before
    await install(lab, tmp_path, wanted=lab.base, force=True)
    assert lab.store is not None
    assert len(lab.store.read_manifest(lab.base).layers) == 1 + len(TEXTS)
    assert await temporary_names(lab) == []


async def test_where_only_create_works_it_says_so(lab: Lab, tmp_path: Path) -> None:
    lab.registry.unavailable = "it cannot be reached"
    before = store_of(lab)
    with pytest.raises(NoRoute, match="only be installed by pull"):
        await install(lab, tmp_path)
    assert store_of(lab) == before


async def test_uninstall_takes_what_was_installed_and_nothing_else(empty: Lab, tmp_path: Path) -> None:
    before = store_of(empty)
    installed = await install(empty, tmp_path)
    digest = empty.base_layer.digest
    path, adapter, size = empty.adapter()
    await install_adapter(
        empty.client, empty.registry, adapter=path, digest=adapter, size=size, base=installed.name,
        wanted=empty.fresh_name("adapted"), store=empty.store,
    )  # fmt: skip
    with pytest.raises(NotOurs):
        await uninstall(empty.client, empty.fresh_name("adapted"), base_digest=digest, adapter_digest=None)
    assert await uninstall(
        empty.client, installed.name, base_digest=digest, adapter_digest=None, manifest_digest=installed.manifest_digest
    )
    assert await empty.client.has_blob(digest), "the adapter's model still uses it"
    await empty.client.delete(empty.fresh_name("adapted"))
    assert store_of(empty) == before
