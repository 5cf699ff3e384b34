"""Install by pull: upload the blob, serve one manifest, have Ollama fetch it (facts 6.5). Works on every version."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ollama_bridge.install.errors import NoRoute

if TYPE_CHECKING:
    from collections.abc import Callable

    from ollama_bridge.client import OllamaClient, ProgressCallback
    from ollama_bridge.install.plan import InstallPlan
    from ollama_bridge.names import ModelName
    from ollama_bridge.registry import LoopbackRegistry


async def make_model(
    client: OllamaClient,
    registry: LoopbackRegistry,
    plan: InstallPlan,
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
    if plan.base_manifest is None:
        raise NoRoute(f"The layers of {plan.base} cannot be read, so its manifest cannot be extended.")
    async with registry.offer(plan.render_manifest(), blobs={plan.layer.digest: plan.adapter}) as name:
        announce(name)
        await client.pull(name, insecure=True, progress=progress)
    return name
