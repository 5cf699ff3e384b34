"""Taking back what an interrupted install left: one-time names, and backups of replaced models.

Run it at start, before any install. It needs no record of ours, because the names say what they are, and so it also
mends what a kill -9 left.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ollama_bridge.errors import OllamaRejected
from ollama_bridge.registry.one_time import backed_up, is_one_time

if TYPE_CHECKING:
    from ollama_bridge.client import OllamaClient
    from ollama_bridge.names import ModelName


@dataclass(frozen=True, slots=True)
class Recovered:
    """What was found and mended."""

    removed: tuple[ModelName, ...]
    """One-time names and backups that were deleted."""
    restored: tuple[ModelName, ...]
    """Models that were about to be replaced and stand under their old name again."""


async def recover(client: OllamaClient) -> Recovered:
    """Remove one-time names; restore a backup whose original is gone.

    A backup whose original name is in use is only removed: a model comes to its final name after all checks, so what
    stands there is whole, be it the old one or the new one.
    """
    names = [model.name for model in await client.tags()]
    present = {name.folded for name in names}
    removed: list[ModelName] = []
    restored: list[ModelName] = []
    for name in names:
        original = backed_up(name)
        if original is None and not is_one_time(name):
            continue
        if original is not None and original.folded not in present:
            await client.copy(name, original)
            restored.append(original)
        await delete_if_there(client, name)
        removed.append(name)
    return Recovered(tuple(removed), tuple(restored))


async def delete_if_there(client: OllamaClient, name: ModelName) -> bool:
    """Delete a model; False if there was none."""
    try:
        await client.delete(name)
    except OllamaRejected as error:
        if error.status != 404:
            raise
        return False
    return True
