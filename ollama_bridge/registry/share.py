"""Getting a model out of an Ollama whose store we cannot read: copy it to a name in our registry, push, delete the copy.

There is no call that reads blob bytes (facts 0.3); a push to ourselves is how Ollama hands them over (facts 6.4).
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio

from ollama_bridge.errors import OllamaBridgeError, OllamaRejected

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from ollama_bridge.client import OllamaClient, ProgressCallback
    from ollama_bridge.digests import Digest
    from ollama_bridge.manifest import Manifest
    from ollama_bridge.names import ModelName
    from ollama_bridge.registry.server import LoopbackRegistry
    from ollama_bridge.registry.uploads import PushedModel


@asynccontextmanager
async def share_by_push(
    client: OllamaClient,
    registry: LoopbackRegistry,
    model: ModelName,
    *,
    known: Callable[[Digest], bool] = lambda digest: False,
    progress: ProgressCallback | None = None,
) -> AsyncIterator[PushedModel]:
    """Have a model pushed to us; its blobs are files while the block lasts.

    Args:
        known: Blobs that need not travel, such as the layers of a base both sides have.

    Raises:
        OllamaRejected: No such model, or the push failed.
    """
    async with registry.expect_push(known=known) as expected:
        try:
            await client.copy(model, expected.name)
            await client.push(expected.name, insecure=True, progress=progress)
        finally:
            with anyio.CancelScope(shield=True):
                await _delete_if_there(client, expected.name)
        if expected.model is None:
            raise OllamaBridgeError(f"Ollama said it pushed {model}, but nothing arrived here. Try again.")
        yield expected.model


async def learn_manifest(client: OllamaClient, registry: LoopbackRegistry, model: ModelName) -> Manifest:
    """The manifest of a model in a store we cannot read. Every blob is said to be here already, so none is sent."""
    async with share_by_push(client, registry, model, known=lambda digest: True) as pushed:
        return pushed.manifest


async def _delete_if_there(client: OllamaClient, name: ModelName) -> None:
    try:
        await client.delete(name)
    except OllamaRejected as error:
        if error.status != 404:
            raise
