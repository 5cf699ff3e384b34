"""Taking back what an interrupted install left: one-time names, and backups of replaced models.

Run it at start, before any install. It needs no record of ours, because the names say what they are, and so it also
mends what a kill -9 left.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio

from ollama_bridge.errors import OllamaRejected, StoreError
from ollama_bridge.registry.one_time import backed_up, is_one_time

if TYPE_CHECKING:
    from ollama_bridge.client import OllamaClient
    from ollama_bridge.names import ModelName
    from ollama_bridge.store import Store


@dataclass(frozen=True, slots=True)
class Recovered:
    """What was found and mended."""

    removed: tuple[ModelName, ...]
    """One-time names and backups that were deleted."""
    restored: tuple[ModelName, ...]
    """Models that were about to be replaced and stand under their old name again."""


async def recover(client: OllamaClient, store: Store | None = None) -> Recovered:
    """Remove one-time names; restore a backup whose original is gone.

    A backup whose original name is in use is only removed: a model comes to its final name after all checks, so what
    stands there is whole, be it the old one or the new one.

    Args:
        store: When it can be read, also finds names whose manifest was cut by a full disk or a power failure. Ollama
            does not list those, and stops cleaning up after itself as long as one is there (facts 1.5).
    """
    listed = [model.name for model in await client.tags()]
    present = {name.folded for name in listed}
    hidden = [] if store is None else await anyio.to_thread.run_sync(_hidden_names, store, present)
    spare = next((name for name in listed if not is_one_time(name)), None)
    removed: list[ModelName] = []
    restored: list[ModelName] = []
    for name in (*listed, *hidden):
        original = backed_up(name)
        if original is None and not is_one_time(name):
            continue
        if original is not None and original.folded not in present and name.folded in present:
            await client.copy(name, original)
            restored.append(original)
        await delete_surely(client, name, spare)
        removed.append(name)
    return Recovered(tuple(removed), tuple(restored))


def _hidden_names(store: Store, present: set[tuple[str, ...]]) -> list[ModelName]:
    try:
        return [name for name in store.scanner.scan() if name.folded not in present]
    except StoreError:
        return []


async def delete_if_there(client: OllamaClient, name: ModelName) -> bool:
    """Delete a model; False if there was none."""
    try:
        await client.delete(name)
    except OllamaRejected as error:
        if error.status != 404:
            raise
        return False
    return True


async def delete_surely(client: OllamaClient, name: ModelName, spare: ModelName | None) -> bool:
    """Delete a model even if its manifest is cut, which Ollama refuses with a 500: a whole one is copied over it first.

    Args:
        spare: Any whole model.
    """
    try:
        return await delete_if_there(client, name)
    except OllamaRejected as error:
        if error.status < 500 or spare is None:
            raise
    await client.copy(spare, name)
    return await delete_if_there(client, name)
