"""Which way an adapter can get into this Ollama: asked, never guessed from a version alone.

Since 0.34.1 `create` refuses adapters but models that arrive by `pull` keep theirs, so pull comes first: it works on
every version, as long as Ollama can reach our loopback registry (it cannot from inside a container).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import anyio

from ollama_bridge.errors import OllamaRejected, OllamaUnavailable

if TYPE_CHECKING:
    from ollama_bridge.client import OllamaClient
    from ollama_bridge.registry import LoopbackRegistry

RouteKind = Literal["pull", "create"]

REACH_S = 10.0  # a pull of a name that does not exist takes milliseconds; a firewall that drops would take minutes
FIRST_JSON_CREATE = (0, 5, 5)  # older servers want a Modelfile and answer "path or Modelfile are required"
FIRST_BLOBS = (0, 1, 10)  # before it, nothing can be uploaded at all

SAFE_VERSION = (0, 17, 1)  # before it Ollama's own GGUF reader can be made to read outside its buffers (T2)

_VERSION = re.compile(r"(\d+)\.(\d+)\.(\d+)")


@dataclass(frozen=True, slots=True)
class Route:
    """The way found. With kind None, `reason` says what would make one possible."""

    kind: RouteKind | None
    reason: str


def parse_version(text: str) -> tuple[int, int, int] | None:
    """Major, minor and patch; None for texts without them and for 0.0.0, which development builds report."""
    match = _VERSION.match(text)
    version = (int(match[1]), int(match[2]), int(match[3])) if match else (0, 0, 0)
    return None if version == (0, 0, 0) else version


async def choose_route(client: OllamaClient, registry: LoopbackRegistry | None) -> Route:
    """Find the way in. Writes nothing to the store.

    Raises:
        OllamaUnavailable: No Ollama answers.
    """
    version_text = await client.version()
    version = parse_version(version_text)
    if version is not None and version < FIRST_BLOBS:
        return Route(None, f"Ollama {version_text} is too old to take files. Update Ollama.")
    obstacle = await _obstacle_to_pull(client, registry)
    if obstacle is None:
        return Route("pull", "Ollama reaches our loopback registry")
    if version is not None and version < FIRST_JSON_CREATE:
        return Route(None, f"Ollama {version_text} is too old for adapters by `create`, and {obstacle}. Update Ollama.")
    if await client.adapters_mode() == "accept":
        return Route("create", f"this Ollama still takes adapters by `create`; not by pull, because {obstacle}")
    return Route(
        None,
        f"Ollama {version_text} refuses adapters at `create`, and {obstacle}. Run the sidecar where Ollama runs: "
        "same machine, same container or a shared network namespace.",
    )


async def _obstacle_to_pull(client: OllamaClient, registry: LoopbackRegistry | None) -> str | None:
    """Have Ollama pull a name that does not exist; None if it came to us to ask for it."""
    if registry is None:
        return "no loopback registry runs"
    if registry.unavailable:
        return registry.unavailable
    async with registry.probe() as probe:
        with anyio.move_on_after(REACH_S):
            try:
                await client.pull(probe.name, insecure=True)
            except (OllamaRejected, OllamaUnavailable):
                if not probe.seen:
                    await client.version()  # an Ollama that went away is that error, not an obstacle
        return None if probe.seen else "it cannot reach the sidecar's address 127.0.0.1 (does it run in a container?)"
