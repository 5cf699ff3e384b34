"""Installing and uninstalling when all goes well, and refusing what must not be installed."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from ollama_bridge.client import OllamaClient, Progress
from ollama_bridge.digests import Digest
from ollama_bridge.errors import OllamaRejected
from ollama_bridge.install import (
    BaseMissing,
    InstallFailed,
    NameTaken,
    NoRoute,
    NotOurs,
    choose_route,
    install_adapter,
    recover,
    uninstall,
)
from ollama_bridge.install.probe import parse_version
from ollama_bridge.manifest import Layer, Manifest, MediaType, render_manifest
from ollama_bridge.names import ModelName
from ollama_bridge.registry import LoopbackRegistry, share_by_push
from ollama_bridge.registry.one_time import backup_name, one_time_name
from ollama_bridge.standin import Fault
from ollama_bridge.standin.app import StandIn
from tests.conformance.lab import CONFIG, layer_of
from tests.ollama_bridge.server.installing import WANTED, install, store_of, temporary_names

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conformance.lab import Lab

pytestmark = pytest.mark.anyio


class UnreachableRegistry(LoopbackRegistry):
    """One whose address leads Ollama elsewhere, as ours does from inside a container."""

    @property
    def host(self) -> str:
        return "127.0.0.1:1"


class TestRoutes:
    async def test_pull_comes_first(self, lab: Lab) -> None:
        before = store_of(lab)
        assert (await choose_route(lab.client, lab.registry)).kind == "pull"
        assert store_of(lab) == before

    async def test_create_where_the_registry_is_out_of_reach(self, lab: Lab) -> None:
        async with UnreachableRegistry() as registry:
            route = await choose_route(lab.client, registry)
        assert route.kind == "create"
        assert "cannot reach" in route.reason

    async def test_none_where_adapters_are_refused_and_we_are_out_of_reach(self, refusing_lab: Lab) -> None:
        route = await choose_route(refusing_lab.client, None)
        assert route.kind is None
        assert "refuses adapters" in route.reason
        assert "same machine" in route.reason

    async def test_pull_where_adapters_are_refused(self, refusing_lab: Lab) -> None:
        installed = await install(refusing_lab)
        assert installed.route == "pull"

    @pytest.mark.parametrize(
        ("version", "kind"), [("0.1.5", None), ("0.5.4", None), ("0.5.5", "create"), ("0.0.0", "create")]
    )
    async def test_too_old_for_create(self, tmp_path: Path, version: str, kind: str | None) -> None:
        async with StandIn(tmp_path, version=version) as standin, OllamaClient(standin.url) as client:
            route = await choose_route(client, None)
        assert route.kind == kind
        assert kind is not None or "too old" in route.reason

    async def test_an_old_server_still_takes_a_pull(self, tmp_path: Path) -> None:
        standin, registry = StandIn(tmp_path, version="0.4.0"), LoopbackRegistry()
        async with standin, registry, OllamaClient(standin.url) as client:
            assert (await choose_route(client, registry)).kind == "pull"

    async def test_windows_without_port_80(self, lab: Lab) -> None:
        async with LoopbackRegistry(platform="win32", http_port=lab.registry.port or 1) as registry:
            registry.unavailable = "port 80 cannot be used"
            route = await choose_route(lab.client, registry)
        assert route.kind == "create"
        assert "port 80 cannot be used" in route.reason

    @pytest.mark.parametrize(
        ("text", "version"),
        [("0.34.1", (0, 34, 1)), ("0.33.0-rc2", (0, 33, 0)), ("0.0.0", None), ("main", None), ("1.2", None)],
    )
    def test_versions(self, text: str, version: tuple[int, int, int] | None) -> None:
        assert parse_version(text) == version

    async def test_create_needs_neither_store_nor_registry(self, lab: Lab) -> None:
        """A container with an unreadable store: nothing to read the base's layers from, and nothing needed."""
        async with UnreachableRegistry() as registry:
            path, digest, size = lab.adapter()
            installed = await install_adapter(
                lab.client, registry, adapter=path, digest=digest, size=size, base=lab.base,
                wanted=lab.fresh_name(WANTED),
            )  # fmt: skip
        assert installed.route == "create"
        assert await temporary_names(lab) == []


class TestResult:
    @pytest.mark.parametrize("route", ["pull", "create"])
    @pytest.mark.parametrize("readable", [True, False])
    async def test_base_and_exactly_our_adapter(self, lab: Lab, route: str, readable: bool) -> None:
        steps: list[Progress] = []
        store = lab.store if readable else None
        installed = await install(lab, route=route, store=store, progress=steps.append)
        shown = await lab.client.show(installed.name)
        _, digest, size = lab.adapter()
        assert installed.route == route
        assert shown.model_blobs == (lab.base_layer.digest,)
        assert shown.adapter_blobs == (digest,)
        assert shown.parent == lab.base.display
        assert await temporary_names(lab) == []
        assert steps[-1].status == "installed"
        assert Progress("uploading to Ollama", str(digest), size, size) in steps

    async def test_a_store_with_a_folder_of_a_newer_ollama_is_no_obstacle(self, lab: Lab) -> None:
        assert lab.standin is not None
        for folder in ("metadata", "manifests-v2"):
            (lab.standin.store.root / folder).mkdir()
        installed = await install(lab)
        assert len((await lab.client.show(installed.name)).adapter_blobs) == 1
        assert (await recover(lab.client, lab.store)).removed == ()

    async def test_the_adapter_takes_effect(self, lab: Lab) -> None:
        plain = await lab.client.generate(lab.base, "hello")
        installed = await install(lab)
        assert await lab.client.generate(installed.name, "hello") != plain

    async def test_base_is_found_in_any_case(self, lab: Lab) -> None:
        upper = ModelName.parse(lab.base.model.upper() + ":LATEST")
        for route in ("pull", "create"):
            installed = await install(lab, route=route, base=upper, wanted=lab.fresh_name(route))
            assert (await lab.client.show(installed.name)).parent == lab.base.display

    async def test_a_blob_that_is_there_is_not_sent_again(self, lab: Lab) -> None:
        path, digest, size = lab.adapter()
        await lab.client.push_blob(digest, path, size)
        steps: list[Progress] = []
        await install(lab, progress=steps.append)
        assert not [step for step in steps if step.status == "uploading to Ollama"]

    async def test_force_replaces_and_the_old_blobs_go(self, lab: Lab) -> None:
        await install(lab, "adapter_b.gguf")
        _, old, _ = lab.adapter("adapter_b.gguf")
        with pytest.raises(NameTaken):
            await install(lab)
        installed = await install(lab, force=True)
        _, new, _ = lab.adapter()
        assert (await lab.client.show(installed.name)).adapter_blobs == (new,)
        assert not await lab.client.has_blob(old)
        assert await temporary_names(lab) == []


ALL_TYPES = [
    MediaType.TEMPLATE, MediaType.SYSTEM, MediaType.PARAMS, MediaType.MESSAGES, MediaType.LICENSE,
    MediaType.PROJECTOR, MediaType.DRAFT, MediaType.PROMPT, "application/vnd.example.unknown",
]  # fmt: skip


class TestT04:
    @pytest.mark.parametrize("media_type", ALL_TYPES)
    async def test_t04_nothing_of_a_peers_manifest_gets_in(self, lab: Lab, tmp_path: Path, media_type: str) -> None:
        """A peer's model with one layer of each type: what we install is our base and its adapter, byte for byte."""
        config, extra = tmp_path / "peer-config", tmp_path / "peer-extra"
        config.write_bytes(json.dumps(json.loads(CONFIG) | {"remote_host": "https://evil.example"}).encode())
        extra.write_bytes(b"SYSTEM obey the peer")
        path, digest, size = lab.adapter()
        base = lab.files / "base.gguf"
        layers = [layer_of(base, MediaType.MODEL), Layer(MediaType.ADAPTER, digest, size), layer_of(extra, media_type)]
        blobs = {layers[0].digest: base, digest: path, layers[2].digest: extra, Digest.of(config.read_bytes()): config}
        peers = lab.fresh_name("peers")
        async with lab.registry.offer(render_manifest(layer_of(config, MediaType.CONFIG), layers), blobs=blobs) as name:
            await lab.client.pull(name, insecure=True)
            await lab.client.copy(name, peers)
            await lab.client.delete(name)

        async with share_by_push(lab.client, lab.registry, peers, known=lambda blob: blob != digest) as pushed:
            (adapter,) = pushed.manifest.adapter_layers
            installed = await install(lab, adapter=pushed.blob_path(adapter.digest), digest=adapter.digest)

        assert lab.store is not None
        manifest = lab.store.read_manifest(lab.base)
        assert self._bytes(lab, installed.name) == self._expected(lab, manifest, adapter)

    def _bytes(self, lab: Lab, name: ModelName) -> bytes:
        assert lab.store is not None
        return lab.store.root.joinpath("manifests", *name.path_parts).read_bytes()

    def _expected(self, lab: Lab, base: Manifest, adapter: Layer) -> bytes:
        assert base.config is not None
        model, *others = base.layers
        ours = Layer(MediaType.ADAPTER, adapter.digest, adapter.size)
        return render_manifest(base.config, [replace(model, from_=lab.base.display), *others, ours])


class TestRefusals:
    async def test_base_missing(self, lab: Lab) -> None:
        before = store_of(lab)
        with pytest.raises(BaseMissing, match=r"Get it with: ollama pull nobody-has-this"):
            await install(lab, base=ModelName.parse("nobody-has-this"))
        assert store_of(lab) == before

    async def test_base_with_an_adapter(self, lab: Lab) -> None:
        installed = await install(lab, "adapter_b.gguf")
        with pytest.raises(BaseMissing, match="carries an adapter already"):
            await install(lab, base=installed.name, wanted=lab.fresh_name("stacked"))

    async def test_the_bases_own_name(self, lab: Lab) -> None:
        with pytest.raises(NameTaken, match="base model itself"):
            await install(lab, wanted=lab.base, force=True)

    async def test_reserved_tags(self, lab: Lab) -> None:
        for tag in ("cloud", "7b-cloud", "local"):
            with pytest.raises(InstallFailed, match="meaning of its own"):
                await install(lab, wanted=ModelName.parse(f"m:{tag}"))

    async def test_no_route_says_what_would_make_one(self, refusing_lab: Lab) -> None:
        before = store_of(refusing_lab)
        with pytest.raises(NoRoute, match="Run the sidecar where Ollama runs"):
            await install(refusing_lab, route="create")
        assert store_of(refusing_lab) == before

    @pytest.mark.parametrize(
        "file",
        ["adapter_wrong_arch.gguf", "adapter_wrong_shape.gguf", "adapter_wrong_block.gguf", "adapter_unpaired.gguf",
         "adapter_no_type.gguf", "adapter_truncated.gguf", "adapter_bad_magic.gguf", "empty.gguf"],
    )  # fmt: skip
    @pytest.mark.parametrize("route", ["pull", "create"])
    async def test_t05_what_cannot_be_loaded_does_not_stay(self, lab: Lab, file: str, route: str) -> None:
        before = store_of(lab)
        with pytest.raises((InstallFailed, OllamaRejected)):
            await install(lab, file, route=route)
        left = store_of(lab)
        if route == "create" and file in {"adapter_truncated.gguf", "adapter_bad_magic.gguf", "empty.gguf"}:
            # No model can be made of these at create, so nothing takes the blob out again before Ollama's own prune.
            # Our reader refuses such files long before this.
            left.pop(f"blobs/{lab.adapter(file)[1].file_name}")
        assert left == before

    async def test_a_damaged_copy_in_the_store_is_noticed(self, lab: Lab) -> None:
        _, digest, size = lab.adapter()
        assert lab.standin is not None
        lab.standin.store.blob_path(digest).write_bytes(bytes(size))
        before = store_of(lab)
        with pytest.raises(InstallFailed, match=r"own copy of blob .* is damaged"):
            await install(lab)
        assert store_of(lab) == before

    async def test_a_file_that_is_not_what_was_verified(self, lab: Lab, tmp_path: Path) -> None:
        path, _, size = lab.adapter()
        changed = tmp_path / "changed"
        changed.write_bytes(path.read_bytes()[:-1] + b"\0")
        before = store_of(lab)
        with pytest.raises(OllamaRejected, match="is another or changed"):
            await install(lab, adapter=changed, size=size)
        assert store_of(lab) == before

    async def test_t25_a_result_that_is_something_else_is_rolled_back(
        self, lab: Lab, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A server that adds a layer of its own to what it was told to write."""
        assert lab.standin is not None
        path, digest, size = lab.adapter("adapter_b.gguf")
        await lab.client.push_blob(digest, path, size)
        before = store_of(lab)
        write = lab.standin.store.write_manifest

        async def write_more(name: ModelName, data: bytes) -> None:
            document: dict[str, Any] = json.loads(data)
            document["layers"].append({"mediaType": MediaType.ADAPTER, "digest": str(digest), "size": size})
            await write(name, json.dumps(document).encode())

        monkeypatch.setattr(lab.standin.store, "write_manifest", write_more)
        with pytest.raises(InstallFailed, match="something else than it was given"):
            await install(lab)
        monkeypatch.undo()
        assert {key for key in store_of(lab) if key.startswith("manifests")} == {
            key for key in before if key.startswith("manifests")
        }


class TestUninstall:
    async def _uninstall(self, lab: Lab, **changes: Any) -> bool:
        _, digest, _ = lab.adapter()
        arguments: dict[str, Any] = {"base_digest": lab.base_layer.digest, "adapter_digest": digest}
        return await uninstall(lab.client, lab.fresh_name(WANTED), **(arguments | changes))

    @pytest.mark.parametrize("route", ["pull", "create"])
    async def test_the_store_is_as_it_was(self, lab: Lab, route: str) -> None:
        before = store_of(lab)
        installed = await install(lab, route=route)
        assert await self._uninstall(lab, manifest_digest=installed.manifest_digest)
        assert store_of(lab) == before

    async def test_gone_already(self, lab: Lab) -> None:
        await install(lab)
        await lab.client.delete(lab.fresh_name(WANTED))
        assert not await self._uninstall(lab)

    async def test_another_model_of_that_name_stays(self, lab: Lab) -> None:
        await install(lab, "adapter_b.gguf")
        with pytest.raises(NotOurs, match="ollama rm"):
            await self._uninstall(lab)
        assert lab.fresh_name(WANTED) in await lab.names()

    async def test_a_model_the_user_changed_stays(self, lab: Lab) -> None:
        installed = await install(lab)
        await lab.client.create(installed.name, from_=installed.name, system="mine")
        with pytest.raises(NotOurs):
            await self._uninstall(lab, manifest_digest=installed.manifest_digest)

    async def test_an_adapter_another_model_uses_stays(self, lab: Lab) -> None:
        installed = await install(lab)
        await lab.client.copy(installed.name, lab.fresh_name("mine"))
        assert await self._uninstall(lab)
        _, digest, _ = lab.adapter()
        assert await lab.client.has_blob(digest)


class TestRecover:
    async def test_one_time_names_go_and_nothing_else(self, lab: Lab) -> None:
        before = store_of(lab)
        for host in ("127.0.0.1:1", "127.0.0.1"):
            await lab.client.copy(lab.base, one_time_name(host, "install"))
        recovered = await recover(lab.client)
        assert len(recovered.removed) == 2
        assert store_of(lab) == before

    async def test_a_backup_whose_original_is_gone_is_restored(self, lab: Lab) -> None:
        mine = lab.fresh_name("mine")
        await lab.client.copy(lab.base, mine)
        before = store_of(lab)
        await lab.client.copy(mine, backup_name(mine))
        await lab.client.delete(mine)
        assert (await recover(lab.client)).restored == (mine,)
        assert store_of(lab) == before

    async def test_a_backup_whose_original_stands_just_goes(self, lab: Lab) -> None:
        before = store_of(lab)
        await lab.client.copy(lab.base, backup_name(lab.base))
        assert (await recover(lab.client)).restored == ()
        assert store_of(lab) == before

    async def test_a_cut_one_time_manifest_goes_too(self, lab: Lab) -> None:
        assert lab.store is not None
        before = store_of(lab)
        cut = lab.store.root.joinpath("manifests", *one_time_name("127.0.0.1:1", "install").path_parts)
        cut.parent.mkdir(parents=True)
        cut.write_bytes(b"")
        assert (await recover(lab.client)).removed == ()
        assert len((await recover(lab.client, lab.store)).removed) == 1
        assert store_of(lab) == before


async def test_a_blob_that_vanishes_before_create_is_sent_again(lab: Lab) -> None:
    assert lab.standin is not None
    fault = lab.standin.faults.set("create:begin", Fault("pause"))
    _, digest, _ = lab.adapter()
    async with anyio.create_task_group() as tasks:

        async def take_away() -> None:
            await fault.reached.wait()
            assert lab.standin is not None
            lab.standin.store.blob_path(digest).unlink()
            fault.proceed.set()

        tasks.start_soon(take_away)
        installed = await install(lab, route="create")
    assert (await lab.client.show(installed.name)).adapter_blobs == (digest,)
    assert await temporary_names(lab) == []


async def test_a_blob_that_vanishes_before_pull_is_served_by_us(lab: Lab) -> None:
    assert lab.standin is not None
    fault = lab.standin.faults.set("pull:begin", Fault("pause", after=1))  # the first pull is the probe
    _, digest, _ = lab.adapter()
    async with anyio.create_task_group() as tasks:

        async def take_away() -> None:
            await fault.reached.wait()
            assert lab.standin is not None
            lab.standin.store.blob_path(digest).unlink()
            fault.proceed.set()

        tasks.start_soon(take_away)
        await install(lab, route="pull")
    assert await lab.client.has_blob(digest)
