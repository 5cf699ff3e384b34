"""Manifests: the list of blobs that make a model. Bytes in, checked values out; no files here.

Ollama compares nothing by manifest digest across machines (create adds a newline, push re-encodes, pull keeps the
registry's bytes), so neither do we: layers are what identifies a model.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from ollama_bridge.digests import Digest
from ollama_bridge.errors import DigestInvalid, ManifestInvalid

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_MANIFEST_BYTES: Final = 4 << 20  # a tensor-per-layer model has some thousands of layers of about 250 bytes each
MAX_LAYERS: Final = 16_384
MAX_TEXT_CHARS: Final = 1_024  # media types, `from` and `name`; Ollama's own stay under 200
MAX_BLOB_BYTES: Final = 1 << 44  # 16 TiB: beyond any model, and far from integer trouble in anybody's code


class MediaType:
    """The media types Ollama writes. Others are kept as they come."""

    MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
    CONFIG: Final = "application/vnd.docker.container.image.v1+json"
    MODEL: Final = "application/vnd.ollama.image.model"
    ADAPTER: Final = "application/vnd.ollama.image.adapter"
    PROJECTOR: Final = "application/vnd.ollama.image.projector"
    DRAFT: Final = "application/vnd.ollama.image.draft"
    TEMPLATE: Final = "application/vnd.ollama.image.template"
    PROMPT: Final = "application/vnd.ollama.image.prompt"
    SYSTEM: Final = "application/vnd.ollama.image.system"
    PARAMS: Final = "application/vnd.ollama.image.params"
    MESSAGES: Final = "application/vnd.ollama.image.messages"
    LICENSE: Final = "application/vnd.ollama.image.license"
    TENSOR: Final = "application/vnd.ollama.image.tensor"
    JSON: Final = "application/vnd.ollama.image.json"


@dataclass(frozen=True, slots=True)
class Layer:
    """One reference to a blob."""

    media_type: str
    digest: Digest
    size: int
    """Bytes."""
    from_: str | None = None
    """Name of the model this layer was inherited from, or the file name it was created from. A hint only."""
    name: str | None = None
    """Name of the tensor or file, in models that keep one tensor per layer."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """A model as a list of layers."""

    config: Layer | None
    layers: tuple[Layer, ...]
    digest: Digest
    """SHA-256 of the manifest's bytes; what `/api/tags` shows. Differs between machines for the same model."""

    @property
    def model_layers(self) -> tuple[Layer, ...]:
        """GGUF layers, in order."""
        return self.of_type(MediaType.MODEL)

    @property
    def model_layer(self) -> Layer | None:
        """The base's weights: the first model layer. Later ones are split parts, or adapters stored by old servers."""
        return next(iter(self.model_layers), None)

    @property
    def adapter_layers(self) -> tuple[Layer, ...]:
        """Layers with the adapter media type."""
        return self.of_type(MediaType.ADAPTER)

    @property
    def has_tensor_layers(self) -> bool:
        """Whether this is a tensor-per-layer (MLX) model, to which Ollama never passes an adapter."""
        return any(layer.media_type == MediaType.TENSOR for layer in self.layers)

    @property
    def blobs(self) -> tuple[Layer, ...]:
        """Every blob the model needs, config last, as Ollama pulls them."""
        return self.layers if self.config is None else (*self.layers, self.config)

    def of_type(self, media_type: str) -> tuple[Layer, ...]:
        """Layers of one media type, in order."""
        return tuple(layer for layer in self.layers if layer.media_type == media_type)


def parse_manifest(data: bytes) -> Manifest:
    """Check and read a manifest.

    Args:
        data: The file or HTTP body, untrusted. An empty or cut text is what a reader sees while Ollama writes.

    Raises:
        ManifestInvalid: Too large, not JSON, or not the shape Ollama writes (facts 2), with what is wrong.
    """
    if len(data) > MAX_MANIFEST_BYTES:
        raise ManifestInvalid(f"The manifest has {len(data)} bytes; at most {MAX_MANIFEST_BYTES} are read.")
    try:
        document = json.loads(data, object_pairs_hook=_object_without_duplicates)
    except (ValueError, RecursionError) as error:
        raise ManifestInvalid(f"The manifest is not complete JSON ({error}).") from None
    if not isinstance(document, dict) or document.get("schemaVersion") != 2:
        raise ManifestInvalid("The manifest is not a JSON object with schemaVersion 2.")
    layers = document.get("layers")
    if not isinstance(layers, list) or "config" not in document:
        raise ManifestInvalid("The manifest has no layers or no config.")
    if len(layers) > MAX_LAYERS:
        raise ManifestInvalid(f"The manifest lists {len(layers)} layers; at most {MAX_LAYERS} are read.")
    config = document["config"]
    return Manifest(
        config=None if config is None else _parse_layer(config),
        layers=tuple(_parse_layer(layer) for layer in layers),
        digest=Digest.of(data),
    )


def render_manifest(config: Layer, layers: Sequence[Layer]) -> bytes:
    """The bytes of a manifest, fields in Ollama's order, no newline at the end (as it pushes and pulls them)."""
    document = {
        "schemaVersion": 2,
        "mediaType": MediaType.MANIFEST,
        "config": _layer_json(config),
        "layers": [_layer_json(layer) for layer in layers],
    }
    return json.dumps(document, separators=(",", ":")).encode()


def _layer_json(layer: Layer) -> dict[str, str | int]:
    document: dict[str, str | int] = {
        "mediaType": layer.media_type,
        "digest": str(layer.digest),
        "size": layer.size,
    }
    if layer.from_ is not None:
        document["from"] = layer.from_
    if layer.name is not None:
        document["name"] = layer.name
    return document


def _parse_layer(document: object) -> Layer:
    if not isinstance(document, dict):
        raise ManifestInvalid("A layer of the manifest is not a JSON object.")
    size = document.get("size")
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= MAX_BLOB_BYTES:
        raise ManifestInvalid("A layer of the manifest has no usable size.")
    try:
        digest = Digest.parse(_text(document, "digest") or "")
    except DigestInvalid as error:
        raise ManifestInvalid(f"A layer of the manifest has no usable digest: {error}") from None
    media_type = _text(document, "mediaType")
    if not media_type:
        raise ManifestInvalid("A layer of the manifest has no media type.")
    return Layer(media_type, digest, size, _text(document, "from") or None, _text(document, "name") or None)


def _text(document: dict[str, Any], key: str) -> str | None:
    value = document.get(key)
    if value is not None and (not isinstance(value, str) or len(value) > MAX_TEXT_CHARS):
        raise ManifestInvalid(f"The field {key!r} of a manifest layer is not a text of at most {MAX_TEXT_CHARS}.")
    return value


def _object_without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # Ollama's decoder takes the last of two equal keys and ignores case; whoever relies on that wants us to see another
    # manifest than Ollama does.
    document = dict(pairs)
    if len({key.lower() for key in document}) != len(pairs):
        raise ValueError("the same key twice")
    return document
