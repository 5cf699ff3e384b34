"""A server with a base model in it, and helpers both this suite and the install tests use."""

from __future__ import annotations

import json
import os
import secrets
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import anyio

from ollama_bridge.client import OllamaClient, Timeouts
from ollama_bridge.digests import Digest, hash_file
from ollama_bridge.errors import OllamaBridgeError, OllamaRejected, StoreError
from ollama_bridge.manifest import Layer, MediaType, render_manifest
from ollama_bridge.names import ModelName
from ollama_bridge.registry import LoopbackRegistry
from ollama_bridge.standin import Faults, StandIn
from ollama_bridge.store import Store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

REAL_URL = os.environ.get("OLLAMASWARM_REAL_OLLAMA")
REAL_STORE = os.environ.get("OLLAMASWARM_REAL_STORE")
SERVERS = ["accept", "refuse", *(["real"] if REAL_URL else [])]

CONFIG = json.dumps(
    {
        "model_format": "gguf",
        "model_family": "llama",
        "model_families": ["llama"],
        "model_type": "117K",
        "file_type": "F32",
        "architecture": "amd64",
        "os": "linux",
    }
).encode()
TEMPLATE = b"{{ .Prompt }}"


def layer_of(path: Path, media_type: str) -> Layer:
    return Layer(media_type, hash_file(path), path.stat().st_size)


@dataclass
class Lab:
    """One server under test."""

    client: OllamaClient
    registry: LoopbackRegistry
    files: Path
    """Fixtures."""
    base: ModelName
    kind: str
    """accept, refuse or real."""
    store: Store | None
    standin: StandIn | None = None
    prefix: str = field(default_factory=lambda: f"t{secrets.token_hex(4)}")

    @property
    def base_layer(self) -> Layer:
        return layer_of(self.files / "base.gguf", MediaType.MODEL)

    def fresh_name(self, text: str) -> ModelName:
        """A name nobody else uses; removed at the end."""
        return ModelName.parse(f"{self.prefix}-{text}:latest")

    def adapter(self, name: str = "adapter.gguf") -> tuple[Path, Digest, int]:
        path = self.files / name
        return path, hash_file(path), path.stat().st_size

    async def upload(self, data: bytes, folder: Path) -> Digest:
        """Put bytes into the store as an unreferenced blob."""
        digest = Digest.of(data)
        path = folder / digest.file_name
        path.write_bytes(data)
        if not await self.client.has_blob(digest):
            await self.client.push_blob(digest, path, len(data))
        return digest

    async def pull_model(self, name: ModelName, layers: list[Layer], blobs: dict[Digest, Path]) -> None:
        """Install a model by manifest from our registry, under a name of our choice."""
        config_path = blobs[Digest.of(CONFIG)]
        config = layer_of(config_path, MediaType.CONFIG)
        async with self.registry.offer(render_manifest(config, layers), blobs=blobs) as reference:
            await self.client.pull(reference, insecure=True)
        await self.client.copy(reference, name)
        await self.client.delete(reference)

    async def pull_base(self, name: ModelName, folder: Path) -> None:
        config, template = folder / "config.json", folder / "template.txt"
        config.write_bytes(CONFIG)
        template.write_bytes(TEMPLATE)
        base = self.files / "base.gguf"
        layers = [layer_of(base, MediaType.MODEL), layer_of(template, MediaType.TEMPLATE)]
        blobs = {Digest.of(CONFIG): config, Digest.of(TEMPLATE): template, layers[0].digest: base}
        await self.pull_model(name, layers, blobs)

    async def names(self) -> set[ModelName]:
        return {model.name for model in await self.client.tags()}

    async def clean_up(self) -> None:
        for name in await self.names():
            if self.prefix in name.model or name.namespace == "p2p":
                with suppress(OllamaRejected):
                    await self.client.delete(name)


@asynccontextmanager
async def open_lab(kind: str, files: Path, folder: Path, faults: Faults | None = None) -> AsyncIterator[Lab]:
    """A server of one kind with a base model in it; everything the test made is removed at the end."""
    if kind == "real":
        assert REAL_URL is not None
        async with OllamaClient(REAL_URL) as client, LoopbackRegistry(folder) as registry:
            lab = Lab(client, registry, files, ModelName.parse("unset"), kind, None)
            async with _with_base(lab, folder):
                root = REAL_STORE or (await client.show(lab.base)).store
                lab.store = _open_store(root)
                yield lab
        return
    standin = StandIn(folder / "models", adapters="refuse" if kind == "refuse" else "accept", faults=faults)
    quick = Timeouts(connect=2, answer=5, work=10)
    async with standin, OllamaClient(standin.url, timeouts=quick) as client, LoopbackRegistry(folder) as registry:
        lab = Lab(client, registry, files, ModelName.parse("unset"), kind, Store(folder / "models"), standin)
        lab.base = lab.fresh_name("base")
        await _write_base(standin, lab.base, await anyio.Path(files / "base.gguf").read_bytes())
        yield lab


async def _write_base(standin: StandIn, name: ModelName, model: bytes) -> None:
    """Straight into the store, which is ours: a hundred tests need a base, a few need it pulled."""
    store = standin.store
    layers = [store.add_blob(model, MediaType.MODEL), store.add_blob(TEMPLATE, MediaType.TEMPLATE)]
    await store.write_manifest(name, render_manifest(store.add_blob(CONFIG, MediaType.CONFIG), layers))


def _open_store(root: str | None) -> Store | None:
    """The server's store if it can be read here; else the suite does without, as the program would."""
    if not root or not Path(root, "blobs").is_dir():
        return None
    store = Store(Path(root))
    try:
        store.models()
    except StoreError:
        return None
    return store


@asynccontextmanager
async def _with_base(lab: Lab, folder: Path) -> AsyncIterator[None]:
    lab.base = lab.fresh_name("base")
    await lab.pull_base(lab.base, folder)
    try:
        yield
    finally:
        with suppress(OllamaBridgeError):
            await lab.clean_up()
