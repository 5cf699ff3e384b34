"""The files of an offer: which kinds there are, and how many of each an adapter or a model has."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from .fields import Fields

MAX_BLOB_BYTES = 2**21 * 65_536
"""128 GiB: the size whose chunk table is 64 MiB, the most that is held in memory (T6)."""
MAX_TEXT_BLOB_BYTES = 256 * 1024
"""Template, system text, parameters and licences are read whole and shown; the longest of Ollama's library is 40 KiB."""
MAX_LICENSES = 8
"""Models of Ollama's library have two at most; each costs a chunk table and a round of questions to all sources."""

ADAPTER_MEDIA_TYPE = "application/vnd.ollama.image.adapter"
MODEL_MEDIA_TYPE = "application/vnd.ollama.image.model"
TEMPLATE_MEDIA_TYPE = "application/vnd.ollama.image.template"
SYSTEM_MEDIA_TYPE = "application/vnd.ollama.image.system"
PARAMS_MEDIA_TYPE = "application/vnd.ollama.image.params"
LICENSE_MEDIA_TYPE = "application/vnd.ollama.image.license"

ADAPTER_BLOBS = {ADAPTER_MEDIA_TYPE: 1}
MODEL_BLOBS = {
    MODEL_MEDIA_TYPE: 1,
    TEMPLATE_MEDIA_TYPE: 1,
    SYSTEM_MEDIA_TYPE: 1,
    PARAMS_MEDIA_TYPE: 1,
    LICENSE_MEDIA_TYPE: MAX_LICENSES,
}
"""What travels of a model, and how often. Nothing else does: no config, projector, draft or messages (T4, ADR 0012)."""

_WEIGHTS = (ADAPTER_MEDIA_TYPE, MODEL_MEDIA_TYPE)
_BLOB_KEYS = frozenset({"digest", "size", "media_type", "chunks"})


@dataclass(frozen=True, slots=True)
class Blob:
    """One file of an offer, fixed down to its chunks before the first byte is fetched."""

    digest: str
    """`sha256:<hex>`."""
    size: int
    media_type: str
    chunks: str
    """64 hex: SHA-256 of the concatenated SHA-256 of each 64 KiB chunk."""

    @property
    def is_weights(self) -> bool:
        """Whether it is the GGUF; the others are texts."""
        return self.media_type in _WEIGHTS


def read_blobs(fields: Fields, allowed: dict[str, int]) -> tuple[Blob, ...]:
    """The list `blobs`: exactly one GGUF, and of the rest at most as many as `allowed` says."""
    items = fields.items("blobs", sum(allowed.values()))
    blobs = tuple(_read_blob(Fields(item, "'blobs'").only(_BLOB_KEYS), allowed) for item in items)
    counts = Counter(blob.media_type for blob in blobs)
    if sum(blob.is_weights for blob in blobs) != 1 or any(counts[each] > allowed[each] for each in counts):
        fields.refuse("blobs", "a list of exactly one GGUF and the texts that belong to it")
    if len({blob.digest for blob in blobs}) != len(blobs):
        fields.refuse("blobs", "a list of different blobs")
    return blobs


def _read_blob(fields: Fields, allowed: dict[str, int]) -> Blob:
    media_type = fields.one_of("media_type", frozenset(allowed))
    most = MAX_BLOB_BYTES if media_type in _WEIGHTS else MAX_TEXT_BLOB_BYTES
    return Blob(
        digest=fields.digest("digest"),
        size=fields.integer("size", 1, most),
        media_type=media_type,
        chunks=fields.hex64("chunks"),
    )
