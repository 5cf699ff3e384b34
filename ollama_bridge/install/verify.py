"""Did Ollama make what we asked for? Read back both ways: what it says, and what lies in its store (T25)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ollama_bridge.errors import ManifestInvalid, StoreError
from ollama_bridge.install.errors import InstallFailed

if TYPE_CHECKING:
    from ollama_bridge.client import OllamaClient
    from ollama_bridge.install.plan import Plan
    from ollama_bridge.manifest import Layer
    from ollama_bridge.names import ModelName
    from ollama_bridge.store import Store


async def verify_model(client: OllamaClient, store: Store | None, plan: Plan, name: ModelName) -> None:
    """Check that a model is what was planned: the base and exactly our adapter, or the layers of a whole model.

    Raises:
        InstallFailed: It is not.
    """
    shown = await client.show(name)
    if shown.model_blobs[:1] != (plan.model_digest,) or shown.adapter_blobs != plan.adapter_digests:
        raise InstallFailed(
            "Ollama made something else than it was given, so it was removed again. "
            "Look at Ollama's log, and report this with its version."
        )
    if store is None or plan.expected_layers is None:
        return
    try:
        manifest = store.read_manifest(store.find(name) or name)
    except ManifestInvalid as error:
        raise InstallFailed(f"The manifest that Ollama wrote cannot be read: {error}") from None
    except StoreError:
        return  # not this server's store, or of an unknown layout; what the server says has to do
    if _contents(manifest.layers) != _contents(plan.expected_layers):
        raise InstallFailed("The manifest that Ollama wrote has other layers than it was given.")
    config = None if manifest.config is None else manifest.config.digest
    if plan.expected_config is not None and config != plan.expected_config:
        raise InstallFailed("The manifest that Ollama wrote has another config than it was given.")


def _contents(layers: tuple[Layer, ...]) -> list[tuple[str, str, int]]:
    return [(layer.media_type, str(layer.digest), layer.size) for layer in layers]
