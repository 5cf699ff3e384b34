"""What we rely on in Ollama, asked of the stand-in and of a real server alike.

Not asserted, because versions differ (facts 8.10): optional progress lines, manifest digests, absolute paths, texts of
Go's decoder.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from ollama_bridge.adapters.inspect_model import describe_model
from ollama_bridge.digests import Digest
from ollama_bridge.errors import OllamaRejected
from ollama_bridge.install import (
    NewLayer,
    choose_route,
    install_adapter,
    install_model,
    render_config,
    uninstall,
)
from ollama_bridge.manifest import MediaType, render_manifest
from ollama_bridge.names import ModelName
from ollama_bridge.registry import learn_manifest, share_by_push
from tests.conformance.lab import CONFIG, TEMPLATE, Lab, layer_of

if TYPE_CHECKING:
    from pathlib import Path

    from ollama_bridge.client import Progress, ShownModel

pytestmark = pytest.mark.anyio

MISSING = Digest("0" * 63 + "1")


async def request(lab: Lab, method: str, path: str, **arguments: Any) -> httpx.Response:
    async with httpx.AsyncClient(trust_env=False, timeout=30) as http:
        return await http.request(method, lab.client.url + path, **arguments)


async def adapter_model(lab: Lab, name: str, folder: Path, adapter: str = "adapter.gguf") -> tuple[ModelName, Digest]:
    """A base plus adapter, put there by pull: possible on every version."""
    path, digest, size = lab.adapter(adapter)
    wanted = lab.fresh_name(name)
    await install_adapter(
        lab.client, lab.registry, adapter=path, digest=digest, size=size, base=lab.base, wanted=wanted,
        probe_load=False, store=lab.store,
    )  # fmt: skip
    return wanted, digest


async def needs_engine(lab: Lab) -> None:
    """Skip unless the server can run models; one built without llama-server cannot."""
    try:
        await lab.client.load(lab.base)
    except OllamaRejected as error:
        pytest.skip(f"this server cannot run models: {error}")


class TestPlainAnswers:
    async def test_root_and_version(self, lab: Lab) -> None:
        root = await request(lab, "GET", "/")
        assert (root.status_code, root.text) == (200, "Ollama is running")
        assert await lab.client.version()

    async def test_unknown_path_and_wrong_method_are_plain_text(self, lab: Lab) -> None:
        unknown = await request(lab, "GET", "/api/no-such-thing")
        wrong = await request(lab, "GET", "/api/copy")
        assert unknown.status_code == 404
        assert wrong.status_code == 405
        assert unknown.headers["content-type"].startswith("text/plain")

    async def test_empty_body_is_refused(self, lab: Lab) -> None:
        for method, path in [("POST", "/api/show"), ("POST", "/api/copy"), ("POST", "/api/create")]:
            answer = await request(lab, method, path)
            assert (answer.status_code, answer.json()) == (400, {"error": "missing request body"})

    async def test_foreign_host_and_origin_get_an_empty_403(self, lab: Lab) -> None:
        for headers in [{"host": "evil.example"}, {"origin": "https://evil.example"}]:
            answer = await request(lab, "GET", "/api/tags", headers=headers)
            assert (answer.status_code, answer.content) == (403, b"")

    async def test_local_host_and_origin_are_welcome(self, lab: Lab) -> None:
        for headers in [{"host": "localhost"}, {"host": "box.local"}, {"origin": "http://localhost:3000"}]:
            assert (await request(lab, "GET", "/api/tags", headers=headers)).status_code == 200


class TestBlobs:
    async def test_upload_then_head(self, lab: Lab, tmp_path: Path) -> None:
        data = lab.prefix.encode() * 1000
        digest = Digest.of(data)
        assert not await lab.client.has_blob(digest)
        first = await request(lab, "POST", f"/api/blobs/{digest}", content=data)
        again = await request(lab, "POST", f"/api/blobs/{digest}", content=data)
        assert (first.status_code, again.status_code) == (201, 200)
        assert await lab.client.has_blob(digest)

    async def test_bad_digest_is_refused(self, lab: Lab) -> None:
        answer = await request(lab, "POST", "/api/blobs/sha256:abc", content=b"x")
        assert (answer.status_code, answer.json()) == (400, {"error": "invalid digest format"})

    async def test_mismatch_is_refused_and_keeps_the_bytes_under_their_own_digest(self, lab: Lab) -> None:
        data = f"{lab.prefix} mismatch".encode()
        answer = await request(lab, "POST", f"/api/blobs/{MISSING}", content=data)
        assert answer.status_code == 400
        assert answer.json()["error"].startswith("digest mismatch, expected ")
        assert await lab.client.has_blob(Digest.of(data))

    async def test_blobs_cannot_be_read(self, lab: Lab) -> None:
        assert (await request(lab, "GET", f"/api/blobs/{lab.base_layer.digest}")).status_code in {404, 405}

    async def test_our_upload_is_cut_when_the_file_is_another(self, lab: Lab, tmp_path: Path) -> None:
        path = tmp_path / "blob"
        path.write_bytes(f"{lab.prefix} changed".encode() * 200_000)
        with pytest.raises(OllamaRejected, match="is another or changed"):
            await lab.client.push_blob(MISSING, path, path.stat().st_size)
        assert not await lab.client.has_blob(MISSING)
        assert not await lab.client.has_blob(Digest.of(path.read_bytes()))


class TestNames:
    async def test_show_of_a_missing_model(self, lab: Lab) -> None:
        with pytest.raises(OllamaRejected, match="not found") as caught:
            await lab.client.show(lab.fresh_name("nothing"))
        assert caught.value.status == 404

    async def test_case_is_ignored(self, lab: Lab) -> None:
        upper = ModelName.parse(lab.base.model.upper() + ":LATEST")
        assert (await lab.client.show(upper)).model_blobs == (lab.base_layer.digest,)
        assert await lab.client.find(upper) == lab.base

    async def test_copy_then_delete_keeps_shared_blobs(self, lab: Lab) -> None:
        copy = lab.fresh_name("copy")
        await lab.client.copy(lab.base, copy)
        assert copy in await lab.names()
        await lab.client.delete(copy)
        assert copy not in await lab.names()
        assert await lab.client.has_blob(lab.base_layer.digest)

    async def test_copy_and_delete_of_a_missing_model(self, lab: Lab) -> None:
        nothing = lab.fresh_name("nothing")
        with pytest.raises(OllamaRejected) as copied:
            await lab.client.copy(nothing, lab.fresh_name("copy"))
        with pytest.raises(OllamaRejected) as deleted:
            await lab.client.delete(nothing)
        assert (copied.value.status, deleted.value.status) == (404, 404)

    async def test_bad_names_are_refused(self, lab: Lab) -> None:
        answer = await request(lab, "POST", "/api/copy", json={"source": "a b", "destination": "x"})
        assert answer.status_code == 400
        answer = await request(lab, "POST", "/api/create", json={"model": "a b", "from": lab.base.display})
        assert (answer.status_code, answer.json()) == (400, {"error": "invalid model name"})

    async def test_delete_drops_what_only_this_model_used(self, lab: Lab, tmp_path: Path) -> None:
        wanted, digest = await adapter_model(lab, "gone", tmp_path)
        assert await lab.client.has_blob(digest)
        await lab.client.delete(wanted)
        assert not await lab.client.has_blob(digest)
        assert await lab.client.has_blob(lab.base_layer.digest)

    async def test_a_manifest_put_there_by_hand_is_listed_at_once(self, lab: Lab) -> None:
        if lab.store is None:
            pytest.skip("the store of this server cannot be written here")
        by_hand = lab.fresh_name("by-hand")
        folder = lab.store.root / "manifests"
        target = folder.joinpath(*by_hand.path_parts)
        target.parent.mkdir(parents=True)
        shutil.copy(folder.joinpath(*lab.base.path_parts), target)
        assert by_hand in await lab.names()

    async def test_a_cut_manifest_is_skipped(self, lab: Lab) -> None:
        if lab.store is None:
            pytest.skip("the store of this server cannot be written here")
        cut = lab.fresh_name("cut")
        path = lab.store.root.joinpath("manifests", *cut.path_parts)
        path.parent.mkdir(parents=True)
        path.write_bytes(b'{"schemaVersion":2,"lay')
        try:
            assert cut not in await lab.names()
            assert lab.base in await lab.names()
        finally:
            path.unlink()
            path.parent.rmdir()


class TestPull:
    async def test_pulled_blobs_are_byte_for_byte_ours(self, lab: Lab, tmp_path: Path) -> None:
        text, config = tmp_path / "text", tmp_path / "config"
        text.write_bytes(f"{lab.prefix} license ".encode() * 100_000)
        config.write_bytes(CONFIG)
        layers = [lab.base_layer, layer_of(text, MediaType.LICENSE)]
        blobs = {layers[1].digest: text, Digest.of(CONFIG): config}
        pulled = lab.fresh_name("pulled")
        await lab.pull_model(pulled, layers, blobs)
        assert (await lab.client.show(pulled)).model_blobs == (lab.base_layer.digest,)
        assert await lab.client.has_blob(layers[1].digest)
        if lab.store is not None:
            with lab.store.open_blob(layers[1].digest) as file:
                assert file.read() == text.read_bytes()

    async def test_progress_ends_with_success(self, lab: Lab, tmp_path: Path) -> None:
        lines: list[Progress] = []
        manifest = await learn_manifest(lab.client, lab.registry, lab.base)
        assert manifest.config is not None
        async with lab.registry.offer(render_manifest(manifest.config, manifest.layers)) as name:
            await lab.client.pull(name, insecure=True, progress=lines.append)
            await lab.client.delete(name)
        assert lines[0].status == "pulling manifest"
        assert lines[-1].status == "success"

    async def test_without_insecure_a_plain_http_registry_is_not_reached(self, lab: Lab) -> None:
        async with lab.registry.probe() as probe:
            with pytest.raises(OllamaRejected, match="pull model manifest"):
                await lab.client.pull(probe.name)
        assert not probe.seen

    async def test_unknown_model_writes_nothing(self, lab: Lab) -> None:
        before = await lab.names()
        async with lab.registry.probe() as probe:
            with pytest.raises(OllamaRejected, match="pull model manifest: file does not exist"):
                await lab.client.pull(probe.name, insecure=True)
        assert probe.seen
        assert await lab.names() == before

    async def test_adapter_that_comes_by_pull_is_shown(self, lab: Lab, tmp_path: Path) -> None:
        wanted, digest = await adapter_model(lab, "pulled", tmp_path)
        shown = await lab.client.show(wanted)
        assert shown.model_blobs == (lab.base_layer.digest,)
        assert shown.adapter_blobs == (digest,)
        assert shown.parent == lab.base.display

    async def test_manifest_is_kept_verbatim(self, lab: Lab, tmp_path: Path) -> None:
        if lab.store is None:
            pytest.skip("the store of this server cannot be read here")
        data = b'{ "schemaVersion": 2,  "config": null, "layers": [] }'
        async with lab.registry.offer(data) as name:
            try:
                await lab.client.pull(name, insecure=True)
            except OllamaRejected:
                pytest.skip("this server wants a config")
            stored = lab.store.root.joinpath("manifests", *name.path_parts).read_bytes()
            await lab.client.delete(name)
        assert stored == data


class TestCreate:
    async def test_probe_agrees_with_what_create_does(self, lab: Lab, tmp_path: Path) -> None:
        path, digest, size = lab.adapter()
        await lab.client.push_blob(digest, path, size)
        wanted = lab.fresh_name("created")
        if await lab.client.adapters_mode() == "refuse":
            with pytest.raises(OllamaRejected, match="LoRA adapters are no longer supported") as caught:
                await lab.client.create(wanted, from_=lab.base, adapters={"adapter.gguf": digest})
            assert caught.value.status == 400
            assert wanted not in await lab.names()
            return
        await lab.client.create(wanted, from_=lab.base, adapters={"adapter.gguf": digest})
        shown = await lab.client.show(wanted)
        assert (shown.model_blobs, shown.adapter_blobs) == ((lab.base_layer.digest,), (digest,))
        assert shown.parent == lab.base.display

    async def test_probe_writes_nothing(self, lab: Lab) -> None:
        before = await lab.names()
        await lab.client.adapters_mode()
        assert await lab.names() == before

    async def test_from_an_adapter_model_carries_the_adapter_over(self, lab: Lab, tmp_path: Path) -> None:
        source, digest = await adapter_model(lab, "source", tmp_path)
        wanted = lab.fresh_name("derived")
        await lab.client.create(wanted, from_=source, system="Answer in SQL.")
        shown = await lab.client.show(wanted)
        assert shown.adapter_blobs == (digest,)
        assert shown.system == "Answer in SQL."

    async def test_texts_and_parameters(self, lab: Lab) -> None:
        first, second = lab.fresh_name("first"), lab.fresh_name("second")
        await lab.client.create(first, from_=lab.base, parameters={"temperature": 0, "seed": 1}, license_="mine")
        await lab.client.create(second, from_=first, parameters={"seed": 2}, template="{{ .Prompt }}!")
        shown = await lab.client.show(second)
        assert shown.template == "{{ .Prompt }}!"
        assert shown.parent == first.display
        if lab.store is not None:
            (params,) = lab.store.read_manifest(second).of_type(MediaType.PARAMS)
            with lab.store.open_blob(params.digest) as file:
                assert file.read().strip() in {b'{"seed":2,"temperature":0}', b'{"temperature": 0, "seed": 2}'}

    async def test_neither_from_nor_files(self, lab: Lab) -> None:
        name = lab.fresh_name("nothing").display
        answer = await request(lab, "POST", "/api/create", json={"model": name, "stream": False})
        assert answer.status_code == 400
        assert answer.json() == {"error": "neither 'from' or 'files' was specified"}

    async def test_from_files(self, lab: Lab) -> None:
        wanted = lab.fresh_name("from-files")
        try:
            await lab.client.create(wanted, files={"base.gguf": lab.base_layer.digest})
        except OllamaRejected as error:
            if "llama-quantize" in error.message:
                pytest.skip("this server validates with llama-quantize and has none")
            raise
        assert len((await lab.client.show(wanted)).model_blobs) == 1

    @pytest.mark.parametrize("file", ["adapter_bad_magic.gguf", "adapter_truncated.gguf", "adapter_cut_header.gguf"])
    async def test_damaged_adapters_are_refused(self, lab: Lab, file: str) -> None:
        path, digest, size = lab.adapter(file)
        await lab.client.push_blob(digest, path, size)
        wanted = lab.fresh_name("damaged")
        with pytest.raises(OllamaRejected):
            await lab.client.create(wanted, from_=lab.base, adapters={"adapter.gguf": digest})
        assert wanted not in await lab.names()

    async def test_errors_after_the_first_line_come_with_status_200(self, lab: Lab) -> None:
        if await lab.client.adapters_mode() == "refuse":
            pytest.skip("refused before anything is streamed")
        path, digest, size = lab.adapter("adapter_truncated.gguf")
        await lab.client.push_blob(digest, path, size)
        body = {"model": lab.fresh_name("x").display, "from": lab.base.display, "adapters": {"a.gguf": str(digest)}}
        streamed = await request(lab, "POST", "/api/create", json=body)
        waited = await request(lab, "POST", "/api/create", json={**body, "stream": False})
        assert streamed.status_code == 200
        assert '"error"' in streamed.text.splitlines()[-1]
        assert waited.status_code == 400

    async def test_two_adapters_are_one_too_many(self, lab: Lab) -> None:
        files = {name: lab.adapter(name) for name in ("adapter.gguf", "adapter_b.gguf")}
        for path, digest, size in files.values():
            await lab.client.push_blob(digest, path, size)
        adapters = {name: digest for name, (_, digest, _) in files.items()}
        with pytest.raises(OllamaRejected, match=r"only one adapter|no longer supported"):
            await lab.client.create(lab.fresh_name("two"), from_=lab.base, adapters=adapters)

    async def test_what_the_adapter_is_for_is_not_checked(self, lab: Lab) -> None:
        if await lab.client.adapters_mode() == "refuse":
            pytest.skip("this server takes no adapters at create")
        path, digest, size = lab.adapter("adapter_wrong_arch.gguf")
        await lab.client.push_blob(digest, path, size)
        wanted = lab.fresh_name("wrong-arch")
        await lab.client.create(wanted, from_=lab.base, adapters={"adapter.gguf": digest})
        assert (await lab.client.show(wanted)).adapter_blobs == (digest,)


class TestPush:
    async def test_whole_model_arrives(self, lab: Lab, tmp_path: Path) -> None:
        wanted, digest = await adapter_model(lab, "pushed", tmp_path)
        async with share_by_push(lab.client, lab.registry, wanted) as pushed:
            assert [layer.digest for layer in pushed.manifest.adapter_layers] == [digest]
            assert digest in pushed.held
            assert lab.base_layer.digest in pushed.held
            assert pushed.blob_path(digest).read_bytes() == (lab.files / "adapter.gguf").read_bytes()
        assert not pushed.blobs.exists()
        assert not [name for name in await lab.names() if name.namespace == "p2p"]

    async def test_known_layers_do_not_travel(self, lab: Lab, tmp_path: Path) -> None:
        wanted, digest = await adapter_model(lab, "pushed", tmp_path)
        async with share_by_push(lab.client, lab.registry, wanted, known=lambda blob: blob != digest) as pushed:
            assert pushed.held == {digest}

    async def test_manifest_is_learnt_without_the_store(self, lab: Lab) -> None:
        manifest = await learn_manifest(lab.client, lab.registry, lab.base)
        assert manifest.model_layer is not None
        assert manifest.model_layer.digest == lab.base_layer.digest
        if lab.store is not None:
            assert manifest.layers == lab.store.read_manifest(lab.base).layers


class TestInstall:
    @pytest.mark.parametrize("through_store", [True, False])
    async def test_by_pull_and_back(self, lab: Lab, through_store: bool) -> None:
        path, digest, size = lab.adapter()
        before = await lab.names()
        assert (await choose_route(lab.client, lab.registry)).kind == "pull"
        installed = await install_adapter(
            lab.client, lab.registry, adapter=path, digest=digest, size=size, base=lab.base,
            wanted=lab.fresh_name("ours"), probe_load=False, store=lab.store if through_store else None,
        )  # fmt: skip
        assert installed.route == "pull"
        assert await lab.names() == before | {installed.name}
        await self._take_back(lab, installed.name, digest, installed.manifest_digest, before)

    async def test_by_create_and_back(self, lab: Lab) -> None:
        if await lab.client.adapters_mode() == "refuse":
            pytest.skip("this server takes no adapters at create")
        path, digest, size = lab.adapter()
        before = await lab.names()
        installed = await install_adapter(
            lab.client, None, adapter=path, digest=digest, size=size, base=lab.base,
            wanted=lab.fresh_name("ours"), probe_load=False, store=lab.store,
        )  # fmt: skip
        assert installed.route == "create"
        await self._take_back(lab, installed.name, digest, installed.manifest_digest, before)

    async def _take_back(
        self, lab: Lab, name: ModelName, digest: Digest, manifest: Digest | None, before: set[ModelName]
    ) -> None:
        shown: ShownModel = await lab.client.show(name)
        assert (shown.model_blobs, shown.adapter_blobs) == ((lab.base_layer.digest,), (digest,))
        assert manifest is not None
        assert await uninstall(
            lab.client, name, base_digest=lab.base_layer.digest, adapter_digest=digest, manifest_digest=manifest
        )
        assert await lab.names() == before
        assert not await lab.client.has_blob(digest)
        assert await lab.client.has_blob(lab.base_layer.digest)


class TestEngine:
    async def test_adapter_takes_effect_and_a_zero_one_does_not(self, lab: Lab, tmp_path: Path) -> None:
        await needs_engine(lab)
        options = {"temperature": 0, "seed": 1, "num_predict": 16}
        plain = await lab.client.generate(lab.base, "the", options=options)
        adapted, _ = await adapter_model(lab, "adapted", tmp_path)
        assert await lab.client.generate(adapted, "the", options=options) != plain
        if lab.kind == "real":
            zero, _ = await adapter_model(lab, "zero", tmp_path, "adapter_zero.gguf")
            assert await lab.client.generate(zero, "the", options=options) == plain

    @pytest.mark.parametrize(
        "file", ["adapter_wrong_arch.gguf", "adapter_wrong_shape.gguf", "adapter_wrong_block.gguf",
                 "adapter_unpaired.gguf", "adapter_no_type.gguf"],
    )  # fmt: skip
    async def test_what_llama_cpp_refuses_fails_to_load(self, lab: Lab, tmp_path: Path, file: str) -> None:
        await needs_engine(lab)
        wanted, _ = await adapter_model(lab, "refused", tmp_path, file)
        with pytest.raises(OllamaRejected) as caught:
            await lab.client.load(wanted)
        assert caught.value.status == 500

    async def test_loaded_models_are_listed(self, lab: Lab) -> None:
        await needs_engine(lab)
        listed = (await request(lab, "GET", "/api/ps")).json()["models"]
        assert listed  # under which of its names depends on the version: equal models share one runner since 0.34
        assert lab.kind == "real" or listed[0]["name"] == lab.base.display


class TestWholeModels:
    async def test_a_model_by_pull_keeps_its_layers_and_our_config(self, lab: Lab, tmp_path: Path) -> None:
        """The base digest is what adapters are bound to, so it must come out as it went in (ADR 0012)."""
        model = lab.files / "base.gguf"
        texts = {MediaType.TEMPLATE: TEMPLATE, MediaType.LICENSE: f"{lab.prefix} license".encode()}
        layers = [NewLayer(layer_of(model, MediaType.MODEL), model)]
        for media_type, data in texts.items():
            path = tmp_path / media_type.rpartition(".")[2]
            path.write_bytes(data)
            layers.append(NewLayer(layer_of(path, media_type), path))
        with model.open("rb") as file:
            config = render_config(describe_model(file), [new.layer.digest for new in layers])
        path = tmp_path / "config"
        path.write_bytes(config)
        wanted = lab.fresh_name("whole")
        installed = await install_model(
            lab.client, lab.registry, layers=layers, config=NewLayer(layer_of(path, MediaType.CONFIG), path),
            wanted=wanted, store=lab.store,
        )  # fmt: skip
        expected = render_manifest(layer_of(path, MediaType.CONFIG), [new.layer for new in layers])
        assert installed.manifest_digest == Digest.of(expected), "pull keeps the bytes, copy too"
        shown = await lab.client.show(wanted)
        assert (shown.model_blobs, shown.adapter_blobs) == ((lab.base_layer.digest,), ())
        answer = (await request(lab, "POST", "/api/show", json={"model": wanted.display})).json()
        assert (answer["template"], answer["license"]) == (TEMPLATE.decode(), f"{lab.prefix} license")
        assert answer["details"]["family"] == "llama"
        assert await uninstall(
            lab.client, wanted, base_digest=lab.base_layer.digest, adapter_digest=None,
            manifest_digest=installed.manifest_digest,
        )  # fmt: skip
        assert wanted not in await lab.names()
