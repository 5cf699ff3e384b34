"""What the demo plays with: a tiny base model, an adapter for it, and getting both into an Ollama."""

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
class Material:
    """The files of a demo."""

    base: Path
    adapter: Path
    small_adapter: Path
    """Not padded: what the liar offers."""
    base_digest: Digest
    adapter_digest: Digest


def make_material(folder: Path) -> Material:
    """Make the files; the same bytes each time.

    Raises:
        ConversionFailed: The extra `convert` is not installed.
    """
    from ollama_bridge.standin import tiny_models as tiny  # needs the extra `convert`

    options = tiny.Options()
    base, adapter, small = folder / "base.gguf", folder / "adapter.gguf", folder / "small-adapter.gguf"
    tiny.write_base(base, options)
    pairs = tiny.lora_pairs(options, "demo", tiny.ATTENTION)
    tiny.write_adapter(adapter, options.dims, pairs, options.alpha, name=ADAPTER_NAME)
    tiny.pad_file(adapter, ADAPTER_BYTES, options.seed)
    other = tiny.lora_pairs(options, "tampered", tiny.ATTENTION)
    tiny.write_adapter(small, options.dims, other, options.alpha, name="tampered-lora")
    return Material(base, adapter, small, hash_file(base), hash_file(adapter))


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


async def load_base(url: str, material: Material) -> None:
    """Make the base a model of an Ollama."""
    async with OllamaClient(url) as client:
        await client.push_blob(material.base_digest, material.base, material.base.stat().st_size)
        await client.create(ModelName.parse(BASE_NAME), files={"base.gguf": material.base_digest})


async def create_adapter_model(url: str, material: Material) -> None:
    """What somebody does who has trained an adapter, with an Ollama that still takes adapters."""
    async with OllamaClient(url) as client:
        await client.push_blob(material.adapter_digest, material.adapter, material.adapter.stat().st_size)
        await client.create(
            ModelName.parse(ADAPTER_NAME),
            from_=ModelName.parse(BASE_NAME),
            adapters={"adapter.gguf": material.adapter_digest},
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
