"""`ollama push` into a room: the name says which room and what to call it, and then it is a `share` like any other.

Nothing is uploaded. The Ollama that pushes is the one we work for, so its store has every layer, and what is shared is
read from there; a push tells us no more than which model is meant.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ollama_bridge.errors import ManifestInvalid, OllamaBridgeError, OllamaRejected
from ollama_bridge.manifest import MAX_MANIFEST_BYTES, parse_manifest
from sidecar.bridge_errors import translate
from sidecar.control_types import ShareOptions
from sidecar.errors import ShareError

if TYPE_CHECKING:
    from collections.abc import Callable

    from ollama_bridge.client import OllamaClient
    from ollama_bridge.digests import Digest
    from ollama_bridge.loopback_http import Request
    from ollama_bridge.manifest import Manifest
    from ollama_bridge.names import ModelName
    from sidecar.publish import Publisher

    from .naming import RoomNames

ONLY_ADAPTERS = "Only models with exactly one adapter are shared by push."
NOT_OURS = "This registry takes models only from the Ollama that its sidecar works for."


class Pushes:
    """See the module docstring."""

    def __init__(
        self, *, client: OllamaClient, publisher: Publisher, names: RoomNames, allowed: Callable[[], bool]
    ) -> None:
        """
        Args:
            allowed: Whether the user wants pushes.
        """
        self._client = client
        self._publisher = publisher
        self._names = names
        self._allowed = allowed

    async def accept(self, request: Request, name: ModelName) -> Digest:
        """Share the model that was pushed under a name; the digest of its manifest.

        Raises:
            SidecarError: Nothing was shared.
        """
        if not self._allowed():
            raise ShareError("Pushing into rooms is switched off.", "`ollaswarm registry on --push` allows it.")
        try:
            manifest = parse_manifest(await request.read(MAX_MANIFEST_BYTES))
        except ManifestInvalid as error:
            raise ShareError(str(error)) from None
        room, called = self._names.room(name.model)
        if len(manifest.adapter_layers) != 1:
            raise ShareError(f"{ONLY_ADAPTERS} This one has {len(manifest.adapter_layers)}.")
        await self._check_ours(name, manifest)
        await self._publisher.share(name.display, room, ShareOptions(name=called))
        return manifest.digest

    def nothing_is_uploaded(self) -> ShareError:
        """What an Ollama is told that has layers which ours has not."""
        return ShareError(NOT_OURS, "Push from that one, or share the file with `ollaswarm share`.")

    async def _check_ours(self, name: ModelName, manifest: Manifest) -> None:
        """The model of that name in our Ollama must be the one that was pushed: it is what gets shared."""
        try:
            shown = await self._client.show(name)
        except OllamaRejected as error:
            raise (self.nothing_is_uploaded() if error.status == 404 else translate(error)) from None
        except OllamaBridgeError as error:
            raise translate(error) from None
        pushed = (
            tuple(layer.digest for layer in manifest.model_layers),
            tuple(layer.digest for layer in manifest.adapter_layers),
        )
        if (shown.model_blobs, shown.adapter_blobs) != pushed:
            raise self.nothing_is_uploaded()
