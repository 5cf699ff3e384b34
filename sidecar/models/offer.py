"""A model of the local store as something to offer: which of its layers travel, and why it may not at all."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, BinaryIO

from ollama_bridge.adapters.inspect_model import describe_model
from sidecar.catalogue.entry import BaseFacts, Blob, ModelFacts, suggest_name
from sidecar.catalogue.entry_blobs import MAX_TEXT_BLOB_BYTES, MODEL_BLOBS, MODEL_MEDIA_TYPE
from sidecar.errors import BlobMismatch, NotFound, ShareError
from sidecar.transfer.chunks import hash_chunks

from .texts import ModelTexts, read_texts

if TYPE_CHECKING:
    from collections.abc import Callable

    from ollama_bridge.digests import Digest
    from ollama_bridge.manifest import Layer, Manifest
    from ollama_bridge.names import ModelName
    from ollama_bridge.store import Store
    from sidecar.transfer.chunks import ChunkTable

MAX_CONFIG_BYTES = 1 << 20
"""Ollama's have some hundred bytes."""
CONFIG_FIELDS = {
    "model_format", "model_family", "model_families", "model_type", "file_type", "architecture", "os", "rootfs",
    "capabilities", "context_length", "embedding_length", "base_name",
}  # fmt: skip
"""What a config may say: what is made anew from the model file's header, and hints that Ollama finds out by itself."""


@dataclass(frozen=True, slots=True)
class OfferedBlob:
    """A layer to offer, hashed."""

    blob: Blob
    digest: Digest
    table: ChunkTable
    opener: Callable[[], BinaryIO]


@dataclass(frozen=True, slots=True)
class ModelOffer:
    """Everything an entry says of a model, and what is provided for it."""

    label: str
    """As Ollama calls it."""
    name: str
    """What the entry is called if the user does not say."""
    base: BaseFacts
    facts: ModelFacts
    blobs: tuple[OfferedBlob, ...]
    texts: ModelTexts


def read_offer(
    store: Store,
    name: ModelName,
    *,
    known: Callable[[Digest], ChunkTable | None],
    stopped: Callable[[], bool] = lambda: False,
) -> ModelOffer:
    """Look at a model and hash what of it travels. Blocking, about 10 s for each GB that is not known.

    Args:
        known: The chunk table of a blob that is provided already; what leaves is checked against it again anyway.
        stopped: Whether nobody waits for it any more.

    Raises:
        ShareError, ModelRefused: It is not shared, with the reason.
        NotFound: There is no such model.
        OllamaBridgeError: It cannot be read.
    """
    stored = store.find(name)
    if stored is None:
        raise NotFound(f"This Ollama has no model {name}.", "`ollama list` shows what there is.")
    manifest = store.read_manifest(stored)
    _check_layers(stored, manifest)
    _check_config(stored, store, manifest)
    weights = next(layer for layer in manifest.layers if layer.media_type == MODEL_MEDIA_TYPE)
    with closing(store.open_blob(weights.digest)) as file:
        info = describe_model(file)
    texts = read_texts(
        (layer.media_type, _read_text(store, layer)) for layer in manifest.layers if layer is not weights
    )
    return ModelOffer(
        label=stored.display,
        name=suggest_name(stored.display),
        base=BaseFacts(stored.display, str(weights.digest), info.architecture),
        facts=ModelFacts("gguf", info.parameters, info.quantization, info.tensors, info.shapes),
        blobs=tuple(_hash(store, layer, known(layer.digest), stopped) for layer in manifest.layers),
        texts=texts,
    )


def _check_layers(name: ModelName, manifest: Manifest) -> None:
    if manifest.adapter_layers:
        raise ShareError(f"{name} carries an adapter.", "Share the adapter: leave --model out.")
    counts: dict[str, int] = {}
    for layer in manifest.layers:
        counts[layer.media_type] = counts.get(layer.media_type, 0) + 1
        if layer.media_type not in MODEL_BLOBS:
            kind = layer.media_type.rpartition(".")[2][:40]
            raise ShareError(
                f"{name} has a layer of the kind {kind!r}, which is not passed on, so it would be incomplete."
            )
        if layer.media_type != MODEL_MEDIA_TYPE and not 1 <= layer.size <= MAX_TEXT_BLOB_BYTES:
            raise ShareError(f"{name} has a text of {layer.size} bytes; up to {MAX_TEXT_BLOB_BYTES} are passed on.")
    if counts.get(MODEL_MEDIA_TYPE) != 1:
        raise ShareError(f"{name} does not consist of one model file; only such models are passed on.")
    if any(counts[kind] > MODEL_BLOBS[kind] for kind in counts):
        raise ShareError(f"{name} has more texts of a kind than are passed on.")


def _check_config(name: ModelName, store: Store, manifest: Manifest) -> None:
    """The config stays here. What the other side could not make anew from the header must not be in it."""
    document: object = None
    if manifest.config is not None:
        with closing(store.open_blob(manifest.config.digest)) as file:
            try:
                document = json.loads(file.read(MAX_CONFIG_BYTES))
            except (ValueError, RecursionError):
                document = None
    if not isinstance(document, dict):
        raise ShareError(f"The config of {name} cannot be read.", "Pull the model again.")
    if document.get("model_format") not in (None, "", "gguf"):
        raise ShareError(f"{name} is no GGUF model; only those are passed on.")
    needed = sorted(key for key, value in document.items() if value and key not in CONFIG_FIELDS)
    if needed:
        raise ShareError(
            f"{name} needs {needed[0][:40]!r} of its config to answer as it should, and configs are not passed on."
        )


def _read_text(store: Store, layer: Layer) -> bytes:
    with closing(store.open_blob(layer.digest)) as file:
        return file.read(MAX_TEXT_BLOB_BYTES)


def _hash(store: Store, layer: Layer, table: ChunkTable | None, stopped: Callable[[], bool]) -> OfferedBlob:
    if table is None:
        with closing(store.open_blob(layer.digest)) as file:
            digest, table = hash_chunks(file, layer.size, cancelled=stopped)
        if digest != layer.digest:
            raise BlobMismatch(f"The blob {layer.digest.short} of the store is damaged.", "Pull the model again.")
    blob = Blob(str(layer.digest), layer.size, layer.media_type, table.root_hex)
    return OfferedBlob(blob, layer.digest, table, partial(store.open_blob, layer.digest))
