"""What a user does with Ollama itself, and what is in its store."""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import anyio

from ollama_bridge.client import OllamaClient
from ollama_bridge.digests import Digest, hash_file
from ollama_bridge.names import ModelName

if TYPE_CHECKING:
    from ollama_bridge.client import ShownModel

BASE = "tiny-base"


async def make_base(url: str, files: Path, name: str = BASE, file: str = "base.gguf") -> Digest:
    """`ollama create` of the base model; returns the digest of its weights."""
    async with OllamaClient(url) as client:
        path = files / file
        digest = hash_file(path)
        await client.push_blob(digest, path, path.stat().st_size)
        await client.create(ModelName.parse(name), files={file: digest})
        return digest


async def make_adapter(url: str, files: Path, name: str, file: str = "adapter.gguf", base: str = BASE) -> Digest:
    """`ollama create` of base plus adapter, which only an Ollama of the "accept" kind does."""
    async with OllamaClient(url) as client:
        path = files / file
        digest = hash_file(path)
        await client.push_blob(digest, path, path.stat().st_size)
        await client.create(ModelName.parse(name), from_=ModelName.parse(base), adapters={file: digest})
        return digest


async def shown(url: str, name: str) -> ShownModel:
    """`ollama show`."""
    async with OllamaClient(url) as client:
        return await client.show(ModelName.parse(name))


async def listed(url: str) -> set[str]:
    """`ollama list`, by name."""
    async with OllamaClient(url) as client:
        return {model.name.display for model in await client.tags()}


async def remove(url: str, name: str) -> None:
    """`ollama rm`."""
    async with OllamaClient(url) as client:
        await client.delete(ModelName.parse(name))


def run_base(url: str, files: Path) -> None:
    """`make_base` for tests without an event loop."""
    anyio.run(make_base, url, files)


def run_adapter(url: str, files: Path, name: str, file: str = "adapter.gguf") -> Digest:
    """`make_adapter` for tests without an event loop."""
    return anyio.run(make_adapter, url, files, name, file)


def contents(store: Path) -> dict[str, str]:
    """Every manifest and blob of a store, by path, with the SHA-256 of what is in it. Files may vanish meanwhile."""
    found = {}
    for folder, _, names in os.walk(store):
        for name in names:
            path = Path(folder, name)
            with suppress(FileNotFoundError):
                found[path.relative_to(store).as_posix()] = hashlib.sha256(path.read_bytes()).hexdigest()
    return dict(sorted(found.items()))
