"""The store: what Ollama wrote is found; what somebody planted is not followed (T8)."""

from __future__ import annotations

import os
import socket
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from ollama_bridge.digests import Digest, hash_file
from ollama_bridge.errors import BlobMissing, ManifestInvalid, ModelMissing, StoreError
from ollama_bridge.manifest import MediaType
from ollama_bridge.names import ModelName
from ollama_bridge.nofollow import HAS_OPENAT, open_regular
from ollama_bridge.store import Store
from tests.fixtures.gguf_bytes import adapter_bytes, base_bytes, gguf_bytes, lora
from tests.fixtures.store_maker import StoreMaker

if TYPE_CHECKING:
    from pathlib import Path

posix = pytest.mark.skipif(sys.platform == "win32", reason="symbolic links need a privilege on Windows")
not_root = pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may read everything")


@pytest.fixture
def maker(tmp_path: Path) -> StoreMaker:
    return StoreMaker(tmp_path / "models")


@pytest.fixture
def store(maker: StoreMaker) -> Store:
    return Store(maker.root)


def name(text: str) -> ModelName:
    return ModelName.parse(text)


def test_models_of_every_host_and_namespace(maker: StoreMaker, store: Store) -> None:
    wanted = {name(text): maker.model(text) for text in ("llama3.2:1b", "me/x", "hf.co/org/Model-GGUF:Q4", "_a:b")}
    assert store.models() == wanted
    assert store.read_manifest(name("me/x")) == wanted[name("me/x")]


def test_foreign_and_half_written_files_are_left_out(maker: StoreMaker, store: Store) -> None:
    good = maker.model("good")
    maker.write("cut", b'{"schemaVersion":2,')
    for foreign in (".DS_Store", "registry.ollama.ai/.DS_Store", "registry.ollama.ai/library/good/.DS_Store"):
        (maker.root / "manifests" / foreign).write_bytes(b"x")
    (maker.root / "manifests" / "registry.ollama.ai" / "library" / "good" / "folder").mkdir()
    assert store.models() == {name("good"): good}
    with pytest.raises(ManifestInvalid, match="incomplete"):
        store.read_manifest(name("cut"))
    with pytest.raises(ModelMissing, match="ollama list"):
        store.read_manifest(name("absent"))


def test_tag_rewritten_in_place_is_read_again(maker: StoreMaker, store: Store) -> None:
    maker.model("m")
    before = store.models()[name("m")]
    status = maker.path("m").stat()
    after = maker.model("m", maker.blob(b"other weight", MediaType.MODEL))
    assert maker.path("m").stat().st_ino == status.st_ino
    assert store.models()[name("m")] == after != before


def test_unchanged_manifests_are_parsed_once(maker: StoreMaker, store: Store) -> None:
    maker.model("m")
    assert store.models()[name("m")] is store.models()[name("m")] is store.read_manifest(name("m"))


def test_name_is_found_whatever_its_case(maker: StoreMaker, store: Store) -> None:
    maker.model("Me/Model:V1")
    assert store.find(name("me/model:v1")) == name("Me/Model:V1") == store.find(name("Me/Model:V1"))
    assert store.find(name("me/other:v1")) is None


def test_empty_store_without_manifests_folder(maker: StoreMaker, store: Store) -> None:
    maker.model("only")
    maker.delete("only")
    assert not (maker.root / "manifests").exists()
    assert store.models() == {}


def test_missing_store_is_an_error_not_an_empty_store(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot be read"):
        Store(tmp_path / "nowhere").models()


@pytest.mark.parametrize("folder", ["manifests-v2", "models", "cache"])
def test_unknown_layout_is_left_alone(maker: StoreMaker, store: Store, folder: str) -> None:
    (maker.root / folder).mkdir()
    with pytest.raises(StoreError, match=folder):
        store.models()


@pytest.mark.parametrize("folder", [".cache", "lost+found", "ollama-safetensors123"])
def test_harmless_folders_are_no_layout(maker: StoreMaker, store: Store, folder: str) -> None:
    (maker.root / folder).mkdir()
    (maker.root / "notes.txt").touch()
    assert store.models() == {}


@not_root
def test_unreadable_store_says_so(maker: StoreMaker, store: Store) -> None:
    maker.model("m")
    (maker.root / "manifests" / "registry.ollama.ai").chmod(0)
    try:
        with pytest.raises(StoreError, match="read access"):
            store.models()
    finally:
        (maker.root / "manifests" / "registry.ollama.ai").chmod(0o755)


def test_blobs(maker: StoreMaker, store: Store) -> None:
    layer = maker.blob(b"content", MediaType.MODEL)
    with store.open_blob(layer.digest) as file:
        assert hash_file(file) == layer.digest
    assert store.has_blob(layer.digest)
    assert store.has_blob(layer.digest, 7)
    assert not store.has_blob(layer.digest, 8)
    assert not store.has_blob(Digest.of(b"absent"))
    with pytest.raises(BlobMissing, match="Pull or create"):
        store.open_blob(Digest.of(b"absent"))


def test_open_blob_survives_its_deletion(maker: StoreMaker, store: Store) -> None:
    if sys.platform == "win32":
        pytest.skip("Windows does not let Ollama delete an open file")
    layer = maker.blob(b"content", MediaType.MODEL)
    with store.open_blob(layer.digest) as file:
        store.blob_path(layer.digest).unlink()
        assert file.read() == b"content"


class TestAdapters:
    def test_adapter_model_and_its_bases(self, maker: StoreMaker, store: Store) -> None:
        weights = maker.blob(b"weights", MediaType.MODEL)
        for text in ("llama3.2:1b", "my-copy-of-it", "a/b:c"):
            maker.model(text, weights)
        maker.model("other")
        adapter = maker.blob(adapter_bytes(), MediaType.ADAPTER)
        manifest = maker.model("sql", maker.blob(b"weights", MediaType.MODEL, from_="my-copy-of-it:latest"), adapter)
        (found,) = store.adapters()
        assert found.name == name("sql")
        assert found.manifest == manifest
        assert (found.adapter_layer, found.is_stacked) == (adapter, False)
        assert found.base_layer.digest == weights.digest
        assert found.base_names == (name("my-copy-of-it"), name("a/b:c"), name("llama3.2:1b"))
        assert store.bases(weights.digest) == [name("a/b:c"), name("llama3.2:1b"), name("my-copy-of-it")]
        assert store.describe(name("sql"), manifest) == found

    def test_base_without_a_name(self, maker: StoreMaker, store: Store) -> None:
        maker.model("sql", maker.blob(b"w", MediaType.MODEL), maker.blob(adapter_bytes(), MediaType.ADAPTER))
        assert store.adapters()[0].base_names == ()

    def test_stacked_adapters_are_one_model(self, maker: StoreMaker, store: Store) -> None:
        layers = [maker.blob(adapter_bytes(lora(f"blk.{i}.attn_q.weight")), MediaType.ADAPTER) for i in range(2)]
        maker.model("both", maker.blob(b"w", MediaType.MODEL), *layers)
        (found,) = store.adapters()
        assert found.adapter_layers == tuple(layers)
        assert found.is_stacked

    def test_old_adapter_in_a_second_model_layer(self, maker: StoreMaker, store: Store) -> None:
        """Before `general.type` existed, Ollama stored a LoRA as one more model layer (facts 2)."""
        old = maker.blob(gguf_bytes([], lora("blk.0.attn_q.weight")), MediaType.MODEL)
        maker.model("old", maker.blob(base_bytes(), MediaType.MODEL), old)
        (found,) = store.adapters()
        assert found.adapter_layer == old
        assert found.base_layer.digest == Digest.of(base_bytes())

    def test_split_model_is_no_adapter(self, maker: StoreMaker, store: Store) -> None:
        parts = [maker.blob(base_bytes(blocks=blocks), MediaType.MODEL) for blocks in (1, 2)]
        maker.model("split", *parts)
        assert store.adapters() == []

    def test_damaged_second_layer_is_no_adapter(self, maker: StoreMaker, store: Store) -> None:
        maker.model("m", maker.blob(base_bytes(), MediaType.MODEL), maker.blob(b"GGUF", MediaType.MODEL))
        assert store.adapters() == []

    @pytest.mark.parametrize(
        "config", [{"remote_host": "https://ollama.com"}, {"remote_model": "x"}, {"model_format": "safetensors"}]
    )
    def test_remote_and_safetensors_models_are_skipped(
        self, maker: StoreMaker, store: Store, config: dict[str, object]
    ) -> None:
        layers = maker.blob(b"w", MediaType.MODEL), maker.blob(adapter_bytes(), MediaType.ADAPTER)
        maker.model("skipped", *layers, config=config)
        assert store.adapters() == []

    def test_tensor_models_and_models_without_weights_are_skipped(self, maker: StoreMaker, store: Store) -> None:
        adapter = maker.blob(adapter_bytes(), MediaType.ADAPTER)
        maker.model("tensors", maker.blob(b"w", MediaType.MODEL), maker.blob(b"t", MediaType.TENSOR), adapter)
        maker.model("bare", adapter)
        assert store.adapters() == []

    def test_t08_config_blob_that_is_a_bomb_or_missing_changes_nothing(self, maker: StoreMaker, store: Store) -> None:
        layers = maker.blob(b"w", MediaType.MODEL), maker.blob(adapter_bytes(), MediaType.ADAPTER)
        manifest = maker.model("m", *layers)
        assert manifest.config is not None
        store.blob_path(manifest.config.digest).write_bytes(b"[" * 2_000_000)
        assert len(store.adapters()) == 1
        store.blob_path(manifest.config.digest).unlink()
        assert len(Store(maker.root).adapters()) == 1


def refuses(root: Path, parts: tuple[str, ...], *, openat: bool) -> bool:
    try:
        open_regular(root, parts, openat=openat).close()
    except OSError:
        return True
    return False


OPENERS = [pytest.param(True, marks=pytest.mark.skipif(not HAS_OPENAT, reason="no openat here")), False]


@posix
@pytest.mark.parametrize("openat", OPENERS, ids=["openat", "examined"])
class TestPlantedFiles:
    @pytest.fixture
    def secret(self, tmp_path: Path) -> Path:
        path = tmp_path / "secret"
        path.write_bytes(b"secret")
        return path

    def test_t08_link_in_place_of_a_blob(self, maker: StoreMaker, secret: Path, openat: bool) -> None:
        (maker.root / "blobs" / "link").symlink_to(secret)
        assert refuses(maker.root, ("blobs", "link"), openat=openat)

    def test_t08_link_to_another_blob(self, maker: StoreMaker, openat: bool) -> None:
        layer = maker.blob(b"x", MediaType.MODEL)
        (maker.root / "blobs" / "link").symlink_to(layer.digest.file_name)
        assert refuses(maker.root, ("blobs", "link"), openat=openat)

    def test_t08_link_in_place_of_a_folder(self, maker: StoreMaker, secret: Path, openat: bool) -> None:
        (maker.root / "blobs").rmdir()
        (maker.root / "blobs").symlink_to(secret.parent)
        assert refuses(maker.root, ("blobs", "secret"), openat=openat)

    def test_t08_pipes_sockets_and_folders_do_not_hold_us(
        self, maker: StoreMaker, tmp_path: Path, openat: bool
    ) -> None:
        blobs = maker.root / "blobs"
        os.mkfifo(blobs / "pipe")
        (blobs / "folder").mkdir()
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(os.path.relpath(blobs / "socket"))
            for planted in ("pipe", "folder", "socket"):
                assert refuses(maker.root, ("blobs", planted), openat=openat)

    @pytest.mark.usefixtures("secret")
    @pytest.mark.parametrize("part", ["..", ".", "", "a/b", "../secret", "a\0b"])
    def test_t07_parts_that_are_no_names(self, maker: StoreMaker, part: str, openat: bool) -> None:
        assert refuses(maker.root, ("blobs", part), openat=openat)
        assert refuses(maker.root, (part, "secret"), openat=openat)

    def test_t08_swap_while_opening_never_yields_the_secret(
        self, maker: StoreMaker, secret: Path, openat: bool
    ) -> None:
        target, spare = maker.root / "blobs" / "target", maker.root / "spare"
        target.write_bytes(b"honest")
        stop = threading.Event()

        def swap() -> None:
            while not stop.is_set():
                spare.symlink_to(secret)
                os.replace(spare, target)
                spare.write_bytes(b"honest")
                os.replace(spare, target)

        thread = threading.Thread(target=swap)
        thread.start()
        outcomes = {"opened": 0, "refused": 0}
        try:
            while min(outcomes.values()) < 20:
                try:
                    with open_regular(maker.root, ("blobs", "target"), openat=openat) as file:
                        content = file.read()
                        assert content in {b"honest", b""}
                        outcomes["opened"] += 1
                except OSError:
                    outcomes["refused"] += 1
        finally:
            stop.set()
            thread.join()


@posix
def test_t08_links_in_the_store_are_not_followed(maker: StoreMaker, store: Store, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    digest = Digest.of(b"secret")
    store.blob_path(digest).symlink_to(secret)
    assert not store.has_blob(digest)
    with pytest.raises(BlobMissing):
        store.open_blob(digest)
    real = maker.model("real")
    maker.path("linked").parent.mkdir()
    maker.path("linked").symlink_to(maker.path("real"))
    assert store.models() == {name("real"): real}
    with pytest.raises(ModelMissing):
        store.read_manifest(name("linked"))


@posix
@pytest.mark.parametrize("folder", ["blobs", "manifests"])
def test_t08_linked_folder_means_api_only(tmp_path: Path, folder: str) -> None:
    maker = StoreMaker(tmp_path / "models")
    (maker.root / folder).rename(tmp_path / "elsewhere")
    (maker.root / folder).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreError, match="link"):
        Store(maker.root).models()


@posix
def test_root_itself_may_be_a_link(tmp_path: Path) -> None:
    maker = StoreMaker(tmp_path / "disk")
    manifest = maker.model("m")
    (tmp_path / "models").symlink_to(maker.root)
    assert Store(tmp_path / "models").models() == {name("m"): manifest}
