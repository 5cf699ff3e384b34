"""Install by create with `from` and `adapters`: for Ollama 0.5.5 to 0.34.0 where it cannot reach our registry."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ollama_bridge.registry.one_time import BACKUP_HOST, one_time_name

if TYPE_CHECKING:
    from collections.abc import Callable

    from ollama_bridge.client import OllamaClient, ProgressCallback
    from ollama_bridge.install.plan import InstallPlan
    from ollama_bridge.names import ModelName

ADAPTER_FILE = "adapter.gguf"  # Ollama goes by this ending, and writes the name into the layer's `from`


async def make_model(
    client: OllamaClient,
    plan: InstallPlan,
    *,
    announce: Callable[[ModelName], None],
    progress: ProgressCallback | None = None,
) -> ModelName:
    """Make the model under a one-time name.

    Args:
        announce: Told the name before Ollama is, so that whatever happens next can be taken back.

    Raises:
        OllamaRejected, OllamaUnavailable: From the create.
    """
    name = one_time_name(BACKUP_HOST, "install")
    announce(name)
    await client.create(name, from_=plan.base, adapters={ADAPTER_FILE: plan.layer.digest}, progress=progress)
    return name
