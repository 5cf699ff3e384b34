"""Removing what we installed, and only that."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ollama_bridge.errors import OllamaRejected
from ollama_bridge.install.errors import NotOurs
from ollama_bridge.install.recover import delete_if_there

if TYPE_CHECKING:
    from ollama_bridge.client import OllamaClient
    from ollama_bridge.digests import Digest
    from ollama_bridge.names import ModelName


async def uninstall(
    client: OllamaClient,
    name: ModelName,
    *,
    base_digest: Digest,
    adapter_digest: Digest | None,
    manifest_digest: Digest | None = None,
) -> bool:
    """Delete an installed model if it is still what we made. Ollama drops the blobs that no other model uses with it.

    Args:
        base_digest: Of the base's model layer at install.
        adapter_digest: Of the adapter installed; None for a whole model.
        manifest_digest: From `Installed`; when given, also a changed template or parameter makes it the user's own.

    Returns:
        False if there is no such model any more.

    Raises:
        NotOurs: Somebody made another model of that name; it is left alone.
    """
    try:
        shown = await client.show(name)
    except OllamaRejected as error:
        if error.status == 404:
            return False
        raise
    adapters = () if adapter_digest is None else (adapter_digest,)
    is_ours = shown.model_blobs[:1] == (base_digest,) and shown.adapter_blobs == adapters
    if is_ours and manifest_digest is not None:
        here = {model.name.folded: model.manifest_digest for model in await client.tags()}
        is_ours = here.get(name.folded) == manifest_digest.hex
    if not is_ours:
        raise NotOurs(f"{name} is not what was installed any more, so it stays. Remove it with: ollama rm {name}")
    return await delete_if_there(client, name)
