"""A model on its way here: first its texts, which are small and need the user's word, then its weights."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from anyio import to_thread

from ollama_bridge.adapters.inspect_model import ModelInfo, describe_model
from ollama_bridge.digests import Digest
from ollama_bridge.errors import AdapterFormatError
from ollama_bridge.install import NewLayer, render_config
from ollama_bridge.manifest import Layer, MediaType
from sidecar.errors import ClaimMismatch, SettingsNotAccepted

from .texts import read_texts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from sidecar.blobs import Blobs
    from sidecar.catalogue.entry import Blob, SignedEntry
    from sidecar.transfer.fetch import Fetch
    from sidecar.transfer.fetch_types import Progress
    from sidecar.transfer.verified import VerifiedBlob

    from .texts import ModelTexts


@dataclass(frozen=True, slots=True)
class ArrivedBlob:
    """One layer, verified."""

    blob: Blob
    file: VerifiedBlob
    fetched: bool
    """Whether peers sent it."""

    @property
    def layer(self) -> NewLayer:
        """As the bridge takes it."""
        return NewLayer(Layer(self.blob.media_type, self.file.digest, self.file.size), self.file.path)


async def obtain_texts(
    blobs: Blobs, entry: SignedEntry, fetching: Callable[[Fetch], None] = lambda fetch: None
) -> tuple[ModelTexts, list[ArrivedBlob]]:
    """Fetch and read the texts of a model's entry. Too small for a progress of their own.

    Raises:
        ModelRefused: One cannot be shown as it is.
        TransferError: One cannot be had now.
    """
    arrived = [await _obtain(blobs, entry, blob, fetching) for blob in entry.entry.blobs if not blob.is_weights]
    contents = await to_thread.run_sync(_read_all, arrived)
    return read_texts(contents), arrived


async def obtain_weights(
    blobs: Blobs, entry: SignedEntry, fetching: Callable[[Fetch], None], progress: Callable[[Progress], None]
) -> ArrivedBlob:
    """Fetch the model file, told as a part of the whole. Raises TransferError."""
    before = entry.entry.size - entry.entry.blob.size

    def report(now: Progress) -> None:
        progress(replace(now, done_bytes=before + now.done_bytes, total_bytes=before + now.total_bytes))

    return await _obtain(blobs, entry, entry.entry.blob, fetching, report)


def check_settings(entry: SignedEntry, texts: ModelTexts, *, accepted: bool) -> None:
    """Raise SettingsNotAccepted unless the user agreed to what the model brings along (T4)."""
    names = [name for name, _ in texts.settings]
    if names and not accepted:
        raise SettingsNotAccepted(
            f"{entry.name} brings settings of its own ({', '.join(names[:6])}), to which you have not agreed."
        )


def check_model_claims(path: Path, entry: SignedEntry) -> bytes:
    """The verified file must be what its entry says (T2, T5). Blocking.

    Returns:
        The config for it, made from its header and the layers of the entry (T4).
    Raises:
        ClaimMismatch: It is not.
    """
    try:
        with path.open("rb") as file:
            info = describe_model(file)
    except AdapterFormatError as error:
        raise ClaimMismatch(f"The file of {entry.name} is not a model Ollama should be given: {error}") from error
    return config_of(info, entry)


def config_of(info: ModelInfo, entry: SignedEntry) -> bytes:
    """The config for a file with that header. Raises ClaimMismatch when it is not what the entry says."""
    claimed = entry.entry.model
    assert claimed is not None
    facts = {
        "architecture": (entry.entry.base.architecture, info.architecture),
        "parameters": (claimed.parameters, info.parameters),
        "quantization": (claimed.quantization, info.quantization),
        "tensors": (claimed.tensors, info.tensors),
        "shapes": (claimed.shapes, info.shapes),
    }
    for name, (said, found) in facts.items():
        if said != found:
            raise ClaimMismatch(f"The entry of {entry.name} says {name} {said}, its file has {found}.")
    return render_config(info, [Digest.parse(blob.digest) for blob in entry.entry.blobs])


def claimed_config(entry: SignedEntry) -> bytes:
    """The same config, from what was signed: for when the file has yet to show that it is so."""
    claimed = entry.entry.model
    assert claimed is not None
    info = ModelInfo(
        architecture=entry.entry.base.architecture,
        parameters=claimed.parameters,
        quantization=claimed.quantization,
        tensors=claimed.tensors,
        shapes=claimed.shapes,
    )
    return config_of(info, entry)


def config_layer(config: bytes, path: Path) -> NewLayer:
    """A config in a file, as the bridge takes it."""
    return NewLayer(Layer(MediaType.CONFIG, Digest.of(config), len(config)), path)


def in_order(entry: SignedEntry, arrived: Iterable[ArrivedBlob]) -> list[NewLayer]:
    """The layers as the manifest has them."""
    layers = {each.blob.digest: each.layer for each in arrived}
    return [layers[blob.digest] for blob in entry.entry.blobs]


async def _obtain(
    blobs: Blobs,
    entry: SignedEntry,
    blob: Blob,
    fetching: Callable[[Fetch], None],
    progress: Callable[[Progress], None] = lambda now: None,
) -> ArrivedBlob:
    file, fetched = await blobs.obtain(entry, blob, fetching, progress)
    return ArrivedBlob(blob, file, fetched)


def _read_all(arrived: list[ArrivedBlob]) -> list[tuple[str, bytes]]:
    return [(each.blob.media_type, each.file.path.read_bytes()) for each in arrived]
