"""Install by pull: upload the blob, serve one manifest, have Ollama fetch it (facts 6.5). Works on every version."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from ollama_bridge.client import OllamaClient, ProgressCallback
    from ollama_bridge.digests import Digest
    from ollama_bridge.install.plan import Plan
    from ollama_bridge.names import ModelName
    from ollama_bridge.registry import LoopbackRegistry


async def make_model(
    client: OllamaClient,
    registry: LoopbackRegistry,
    plan: Plan,
    *,
    announce: Callable[[ModelName], None],
    progress: ProgressCallback | None = None,
) -> ModelName:
    """Make the model under a one-time name; every blob is in the store already, so only the manifest is fetched.

    Should a blob vanish in between, Ollama asks us for it and gets it, checked block by block.

    Args:
        announce: Told the name before Ollama is, so that whatever happens next can be taken back.

    Raises:
        NoRoute: The base's manifest is not known.
        OllamaRejected, OllamaUnavailable: From the pull.
    """
    files = {new.layer.digest: new.path for new in plan.new_layers}
    async with registry.offer(plan.render_manifest(), blobs=files) as name:
        announce(name)
        await client.pull(name, insecure=True, progress=progress)
    return name


async def make_remnant(
    client: OllamaClient,
    registry: LoopbackRegistry,
    plan: Plan,
    present: Collection[Digest],
    *,
    announce: Callable[[ModelName], None],
) -> None:
    """Make a model of what an install uploaded before it failed, so that deleting it takes the blobs along."""
    async with registry.offer(plan.render_remnant(present)) as name:
        announce(name)
        await client.pull(name, insecure=True)
