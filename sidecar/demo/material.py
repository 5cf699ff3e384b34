"""What the demo plays with: a tiny base model, adapters for it, and getting them into an Ollama."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ollama_bridge.client import OllamaClient, Timeouts, is_loopback_url, ollama_url
from ollama_bridge.digests import Digest, hash_file
from ollama_bridge.errors import OllamaBridgeError
from ollama_bridge.names import ModelName

if TYPE_CHECKING:
    from pathlib import Path

BASE_NAME = "demo-base"
ADAPTER_NAME = "demo-lora"
ADAPTER_BYTES = 48 * 1024 * 1024
"""The adapter itself is 30 KB; padded, so that the progress bar has something to show."""
PROMPT = "Tell me about adapters."
LOOK = Timeouts(connect=1.0, answer=3.0)
"""For asking whether there is an Ollama at all."""


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A GGUF file and its digest."""

    path: Path
    digest: Digest


@dataclass(frozen=True, slots=True)
class Material:
    """The files of the first act."""

    base: ModelFile
    adapter: ModelFile
    small_adapter: ModelFile
    """Not padded: what the liar offers."""


def make_material(folder: Path) -> Material:
    """Make the files; the same bytes each time.

    Raises:
        ConversionFailed: The extra `convert` is not installed.
    """
    base = make_base(folder)
    return Material(base, make_adapter(folder, "demo", ADAPTER_BYTES), make_adapter(folder, "tampered"))


def make_base(folder: Path) -> ModelFile:
    """The base model. Raises ConversionFailed."""
    from ollama_bridge.standin import tiny_models as tiny  # needs the extra `convert`

    path = folder / "base.gguf"
    tiny.write_base(path, tiny.Options())
    return ModelFile(path, hash_file(path))


def make_adapter(folder: Path, training: str, size: int = 0) -> ModelFile:
    """An adapter for that base. Raises ConversionFailed.

    Args:
        training: Whatever it was trained on; another word gives other weights.
        size: Bytes to pad it to.
    """
    from ollama_bridge.standin import tiny_models as tiny

    options, path = tiny.Options(), folder / f"{training}.gguf"
    pairs = tiny.lora_pairs(options, training, tiny.ATTENTION)
    tiny.write_adapter(path, options.dims, pairs, options.alpha, name=training)
    if size:
        tiny.pad_file(path, size, options.seed)
    return ModelFile(path, hash_file(path))


async def find_real_ollama(base: Digest) -> str | None:
    """The URL of the user's own Ollama, if one answers on this machine and has a model that is exactly the base."""
    url = ollama_url(os.environ.get("OLLAMA_HOST"))
    if not is_loopback_url(url):
        return None  # nothing of the demo leaves this machine
    try:
        async with OllamaClient(url, timeouts=LOOK) as client:
            return url if await client.has_blob(base) and await base_model(client, base) is not None else None
    except OllamaBridgeError:
        return None


async def base_model(client: OllamaClient, base: Digest) -> ModelName | None:
    """A model that consists of the base without adapters."""
    for listed in await client.tags():
        shown = await client.show(listed.name)
        if shown.model_blobs == (base,) and not shown.adapter_blobs:
            return listed.name
    return None


async def load_base(url: str, base: ModelFile) -> None:
    """Make the base a model of an Ollama."""
    async with OllamaClient(url) as client:
        await client.push_blob(base.digest, base.path, base.path.stat().st_size)
        await client.create(ModelName.parse(BASE_NAME), files={"base.gguf": base.digest})


async def create_adapter_model(url: str, name: str, adapter: ModelFile) -> None:
    """What somebody does who has trained an adapter, with an Ollama that still takes adapters."""
    async with OllamaClient(url) as client:
        await client.push_blob(adapter.digest, adapter.path, adapter.path.stat().st_size)
        await client.create(
            ModelName.parse(name), from_=ModelName.parse(BASE_NAME), adapters={"adapter.gguf": adapter.digest}
        )


async def shown_lines(url: str, name: str) -> list[str]:
    """The lines of `/api/show` that say what a model consists of."""
    async with OllamaClient(url) as client:
        shown = await client.show(ModelName.parse(name))
    return [line for line in shown.modelfile.splitlines() if line.startswith(("FROM ", "ADAPTER "))]


async def answers(url: str, name: str, base: Digest) -> tuple[str, str]:
    """What a model and its base say to the same prompt."""
    options = {"temperature": 0, "num_predict": 24}
    async with OllamaClient(url) as client:
        plain = await base_model(client, base)
        assert plain is not None, "the demo put it there"
        told = await client.generate(ModelName.parse(name), PROMPT, options=options)
        return told, await client.generate(plain, PROMPT, options=options)


async def models(url: str) -> dict[str, str]:
    """Every model of an Ollama, with its manifest's digest: what must be the same before and after."""
    async with OllamaClient(url) as client:
        return {listed.name.display: listed.manifest_digest for listed in await client.tags()}
