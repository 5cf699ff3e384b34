"""A real Ollama in the place of a stand-in, for who has one: `OLLAMASWARM_REAL_OLLAMA` is its URL, `_STORE` its folder."""

from __future__ import annotations

import os
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ollama_bridge.client import OllamaClient
from ollama_bridge.digests import Digest
from ollama_bridge.errors import OllamaBridgeError
from ollama_bridge.manifest import Layer, MediaType, render_manifest
from ollama_bridge.names import ModelName
from ollama_bridge.registry import LoopbackRegistry
from tests.conformance.lab import CONFIG, layer_of
from tests.journeys.ollama import BASE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

REAL_URL = os.environ.get("OLLAMASWARM_REAL_OLLAMA")
REAL_STORE = os.environ.get("OLLAMASWARM_REAL_STORE")


@dataclass(frozen=True)
class RealStore:
    root: Path


@dataclass(frozen=True)
class RealOllama:
    """What a `Node` asks of its Ollama."""

    url: str
    store: RealStore


@asynccontextmanager
async def real_ollama(files: Path, folder: Path, *, base: bool = True) -> AsyncIterator[RealOllama]:
    """The server, with the base model in it unless not wanted; what a test adds is removed at the end."""
    assert REAL_URL is not None
    assert REAL_STORE is not None
    async with OllamaClient(REAL_URL) as client:
        before = {model.name for model in await client.tags()}
        if base:
            await _pull_base(client, files / "base.gguf", folder)
        try:
            yield RealOllama(REAL_URL, RealStore(Path(REAL_STORE)))
        finally:
            for model in await client.tags():
                if model.name not in before:
                    with suppress(OllamaBridgeError):
                        await client.delete(model.name)


async def _pull_base(client: OllamaClient, base: Path, folder: Path) -> None:
    """By pull and not by create, which gives the file another digest in 0.30 to 0.34 (facts 2.1)."""
    config = folder / "config.json"
    config.write_bytes(CONFIG)
    layer = layer_of(base, MediaType.MODEL)
    manifest = render_manifest(Layer(MediaType.CONFIG, Digest.of(CONFIG), len(CONFIG)), [layer])
    async with LoopbackRegistry(folder) as registry:
        async with registry.offer(manifest, blobs={layer.digest: base, Digest.of(CONFIG): config}) as name:
            await client.pull(name, insecure=True)
        await client.copy(name, ModelName.parse(BASE))
        await client.delete(name)
