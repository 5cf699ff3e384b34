"""What the install tests share: one call, and the store as bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ollama_bridge.install import Installed, install_adapter
from ollama_bridge.registry.one_time import backed_up, is_one_time

if TYPE_CHECKING:
    from pathlib import Path

    from ollama_bridge.names import ModelName
    from tests.conformance.lab import Lab

WANTED = "sql-lora"


def snapshot(root: Path) -> dict[str, bytes]:
    """Every file of a store. Two equal ones mean that nothing is left of what happened between."""
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def store_of(lab: Lab) -> dict[str, bytes]:
    assert lab.store is not None
    return snapshot(lab.store.root)


async def install(lab: Lab, file: str = "adapter.gguf", *, route: str = "pull", **changes: Any) -> Installed:
    path, digest, size = lab.adapter(file)
    arguments: dict[str, Any] = {
        "adapter": path, "digest": digest, "size": size, "base": lab.base, "wanted": lab.fresh_name(WANTED),
        "store": lab.store,
    }  # fmt: skip
    return await install_adapter(lab.client, lab.registry if route == "pull" else None, **(arguments | changes))


async def temporary_names(lab: Lab) -> list[ModelName]:
    return [name for name in await lab.names() if is_one_time(name) or backed_up(name)]
