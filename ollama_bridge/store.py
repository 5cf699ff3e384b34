"""A read-only view of Ollama's model store (facts 1.2). We never write here: Ollama prunes what it does not know.

What a name or digest leads to is opened without following links and must be a regular file inside the root (T8); its
content is still only a claim until it was hashed.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

from ollama_bridge.adapters.gguf import BASE_LIMITS, read_gguf
from ollama_bridge.errors import AdapterFormatError, BlobMissing, ManifestInvalid, ModelMissing
from ollama_bridge.nofollow import open_regular
from ollama_bridge.scan import ManifestScanner

if TYPE_CHECKING:
    from pathlib import Path

    from ollama_bridge.digests import Digest
    from ollama_bridge.manifest import Layer, Manifest
    from ollama_bridge.names import ModelName

MAX_CONFIG_BYTES = 1 << 20  # Ollama's config blobs have some hundred bytes


@dataclass(frozen=True, slots=True)
class AdapterModel:
    """A model in the store that is a base plus LoRA adapters."""

    name: ModelName
    manifest: Manifest
    adapter_layers: tuple[Layer, ...]
    """At least one; Ollama applies them all."""
    base_layer: Layer
    base_names: tuple[ModelName, ...]
    """Models with the same base layer and no adapter, likeliest first; empty if the base has no name here."""

    @property
    def adapter_layer(self) -> Layer:
        """The first adapter layer; the only one unless `is_stacked`."""
        return self.adapter_layers[0]

    @property
    def is_stacked(self) -> bool:
        """Whether several adapters are applied together, so that no single file is this model's adapter."""
        return len(self.adapter_layers) > 1


_BaseIndex = dict["Digest", list[tuple["ModelName", "Manifest"]]]


def _by_base(models: dict[ModelName, Manifest]) -> _BaseIndex:
    index: _BaseIndex = {}
    for name, manifest in models.items():
        if (base := manifest.model_layer) is not None:
            index.setdefault(base.digest, []).append((name, manifest))
    return index


class Store:
    """The store at `root`. Every method blocks on the disk: call them in a worker thread."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self.scanner = ManifestScanner(self.root)
        self._kinds: dict[Digest, str] = {}
        self._configs: dict[Digest, dict[str, Any]] = {}

    def models(self) -> dict[ModelName, Manifest]:
        """Every model whose manifest is whole.

        Raises:
            StoreError: The store cannot be listed.
        """
        scanned = self.scanner.scan()
        return {name: found.manifest for name, found in scanned.items() if found.manifest is not None}

    def read_manifest(self, name: ModelName) -> Manifest:
        """The manifest of one model, spelled exactly so.

        Raises:
            ModelMissing: There is none.
            ManifestInvalid: There is one, and it is not whole.
        """
        scanned = self.scanner.read(name)
        if scanned is None:
            raise ModelMissing(f"There is no model {name} in the store. `ollama list` shows what there is.")
        if scanned.manifest is None:
            raise ManifestInvalid(f"The manifest of {name} is incomplete: {scanned.problem} Try again in a moment.")
        return scanned.manifest

    def find(self, name: ModelName) -> ModelName | None:
        """The stored spelling of a name. Ollama ignores case when it looks a model up, except in `from`."""
        models = self.models()
        if name in models:
            return name
        return next((stored for stored in models if stored.folded == name.folded), None)

    def blob_path(self, digest: Digest) -> Path:
        """Where the blob is, if it is there. For showing and for `stat`; read through `open_blob`."""
        return self.root / "blobs" / digest.file_name

    def open_blob(self, digest: Digest) -> BinaryIO:
        """Open a blob for reading; the handle stays good if Ollama deletes the file (on Windows it blocks that).

        Raises:
            BlobMissing: Not there, not readable, a link, or not a regular file.
        """
        try:
            return open_regular(self.root, ("blobs", digest.file_name))
        except OSError as error:
            raise BlobMissing(
                f"The blob {digest} cannot be opened in {self.root} ({error.strerror or error}). Pull or create the "
                "model again if it should be there."
            ) from error

    def has_blob(self, digest: Digest, size: int | None = None) -> bool:
        """Whether a regular, readable file of that name (and size, if given) is there. Its content is not read."""
        try:
            with self.open_blob(digest) as file:
                return size is None or os.fstat(file.fileno()).st_size == size
        except BlobMissing:
            return False

    def adapters(self) -> list[AdapterModel]:
        """Every adapter model, by name."""
        models = self.models()
        index = _by_base(models)
        found = (self._describe(name, manifest, index) for name, manifest in sorted(models.items()))
        return [adapter for adapter in found if adapter is not None]

    def describe(self, name: ModelName, manifest: Manifest) -> AdapterModel | None:
        """The adapter model a manifest makes, None if it is none we can share: plain, remote, tensor, without a base."""
        return self._describe(name, manifest, _by_base(self.models()))

    def is_adapter_model(self, manifest: Manifest) -> bool:
        """Whether the manifest is a base plus adapters that Ollama applies."""
        return (
            bool(self.adapter_layers(manifest)) and manifest.model_layer is not None and self._runs_adapters(manifest)
        )

    def bases(self, digest: Digest) -> list[ModelName]:
        """Models whose weights are that blob and that have no adapter, shortest name first."""
        return list(self._bases(digest, None, _by_base(self.models())))

    def adapter_layers(self, manifest: Manifest) -> tuple[Layer, ...]:
        """Layers that hold an adapter, whatever their media type says.

        Ollama chose the media type by `general.type`; a LoRA file older than that key sits in a second model layer.
        """
        late_models = manifest.model_layers[1:]
        misfiled = {layer.digest for layer in late_models if self._kind(layer.digest) == "adapter"}
        typed = set(manifest.adapter_layers)
        return tuple(layer for layer in manifest.layers if layer in typed or layer.digest in misfiled)

    def _describe(self, name: ModelName, manifest: Manifest, index: _BaseIndex) -> AdapterModel | None:
        base = manifest.model_layer
        if base is None or not self.is_adapter_model(manifest):
            return None
        names = self._bases(base.digest, base.from_, index)
        return AdapterModel(name, manifest, self.adapter_layers(manifest), base, names)

    def _bases(self, digest: Digest, hint: str | None, index: _BaseIndex) -> tuple[ModelName, ...]:
        names = [
            name
            for name, manifest in index.get(digest, ())
            if not self.adapter_layers(manifest) and self._runs_adapters(manifest)
        ]
        return tuple(sorted(names, key=lambda name: (name.display != hint, len(name.display), name.display)))

    def _runs_adapters(self, manifest: Manifest) -> bool:
        config = self._config(manifest)
        remote = config.get("remote_host") or config.get("remote_model")
        return not remote and config.get("model_format") != "safetensors" and not manifest.has_tensor_layers

    def _config(self, manifest: Manifest) -> dict[str, Any]:
        if manifest.config is None:
            return {}
        digest = manifest.config.digest
        if digest not in self._configs:
            try:
                with self.open_blob(digest) as file:
                    document = json.loads(file.read(MAX_CONFIG_BYTES))
            except (BlobMissing, ValueError, RecursionError):
                return {}  # not remembered: the blob may still be on its way
            self._configs[digest] = document if isinstance(document, dict) else {}
        return self._configs[digest]

    def _kind(self, digest: Digest) -> str:
        if digest not in self._kinds:
            try:
                with self.open_blob(digest) as file:
                    self._kinds[digest] = read_gguf(file, limits=BASE_LIMITS).kind
            except BlobMissing:
                return "missing"
            except AdapterFormatError:
                self._kinds[digest] = "unreadable"
        return self._kinds[digest]
