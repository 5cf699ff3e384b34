"""Orch-Mind's messages: one JSON text in each SecretStream frame (docs/orch-mind.md).

Everything a peer can set has a bound here. What cannot be right is refused frame by frame; what is wrong with one adapter
of a list leaves out that adapter. Fields we have no use for are not read, above all `file_path`, a path on their machine.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sidecar.catalogue.text import clean_line
from sidecar.transfer.chunks import chunk_count, chunk_length

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from hyperdht.buffers import BytesLike

MAX_FRAME_BYTES = 256 * 1024
"""As everywhere. A chunk of 64 KiB is 88 KiB as base64; the rest is what a long list may take."""
MAX_ADAPTERS = 256
"""Listed by one peer. Each takes some 600 bytes of JSON, so a frame holds hardly more; users share a handful."""
MAX_ADAPTER_BYTES = 4 << 30
"""Converting may write twice the size, and 8 GiB is its limit (`ConvertLimits`). Also bounds `index` and `total`."""
MAX_NAME_CHARS = 128
"""Names become part of a table on a terminal."""
MAX_TEXT_CHARS = 256
"""`base_model` and `hf_model`: hub names have at most 96 characters on each side of the slash."""
MAX_ALPHA = 1_000_000.0
MAX_RANK = 4_096
SAFETENSORS = "safetensors"
OWN_NAME = "ollaswarm"

_HEX_32 = re.compile(r"[0-9a-fA-F]{64}")


class FrameInvalid(ValueError):
    """A frame that means nothing to us. `kind` counts it."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.kind = kind


@dataclass(frozen=True, slots=True)
class AdapterFacts:
    """What an offer says about how the adapter was made. All of it is hearsay; texts are safe to show (T9)."""

    base_model: str = ""
    """Name of a base in Ollama, such as `gemma3:latest`."""
    hf_model: str = ""
    file_type: str = ""
    """`safetensors`, or `pytorch` for a pickle, which is never fetched (T3)."""
    rank: int | None = None
    alpha: float | None = None
    """Orch-Mind itself mostly leaves rank and alpha out."""
    rank_stabilised: bool = False


@dataclass(frozen=True, slots=True)
class AdapterOffer:
    """One adapter of a list."""

    name: str
    """For showing only, never a path (T7)."""
    size: int
    checksum: str
    """SHA-256 of the whole file, 64 lower-case hex."""
    topic: str
    """What a request names: 64 hex as the peer wrote them."""
    timestamp: int = 0
    """Milliseconds; only sent, never believed."""
    facts: AdapterFacts = field(default=AdapterFacts())

    @property
    def chunks(self) -> int:
        return chunk_count(self.size)


@dataclass(frozen=True, slots=True)
class AdapterList:
    """What the peer shares now, all of it."""

    offers: tuple[AdapterOffer, ...]
    skipped: int
    """Items left out: without a topic, with impossible values, or too many."""


@dataclass(frozen=True, slots=True)
class ListRequest:
    """The peer would like our list."""


@dataclass(frozen=True, slots=True)
class AdapterRequest:
    """The peer would like a file of ours."""

    topic: str


@dataclass(frozen=True, slots=True)
class AdapterChunk:
    """A part of a file. Its base64 is only looked at when somebody wants it."""

    topic: str
    index: int
    total: int
    text: str = field(repr=False)
    checksum: str

    def data(self, size: int) -> bytes:
        """The bytes, checked to be this chunk of a file of `size` bytes.

        Raises:
            FrameInvalid: Not base64, not the right length, or not of that SHA-256.
        """
        if not 0 <= self.index < chunk_count(size) or self.total != chunk_count(size):
            raise FrameInvalid("chunk-number")
        try:
            data = binascii.a2b_base64(self.text, strict_mode=True)
        except ValueError:
            raise FrameInvalid("chunk-base64") from None
        if len(data) != chunk_length(self.index, size):
            raise FrameInvalid("chunk-length")
        if hashlib.sha256(data).hexdigest() != self.checksum:
            raise FrameInvalid("chunk-checksum")
        return data


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """The peer wants a sign of life."""


@dataclass(frozen=True, slots=True)
class HeartbeatResponse:
    """The peer's sign of life."""


Message = AdapterList | ListRequest | AdapterRequest | AdapterChunk | Heartbeat | HeartbeatResponse


def looks_like_orch_mind(first_message: BytesLike) -> bool:
    """Whether the first message of a connection is Orch-Mind's: JSON objects begin so, Protomux frames with a zero."""
    return bytes(first_message[:1]) == b"{"


# --- reading ---------------------------------------------------------------------------------------------------------


def decode_frame(frame: BytesLike) -> Message:
    """Read one frame.

    Raises:
        FrameInvalid: It is none of the messages above.
    """
    if len(frame) > MAX_FRAME_BYTES:
        raise FrameInvalid("frame-size")
    try:
        document = json.loads(bytes(frame).decode("utf-8"), parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise FrameInvalid("not-json") from None
    if not isinstance(document, dict):
        raise FrameInvalid("not-an-object")
    match document.get("type"):
        case "adapter-list":
            return _read_list(document)
        case "request-adapter-list":
            return ListRequest()
        case "adapter-request":
            return AdapterRequest(_hex(_object(document.get("data")).get("topic"), "request-topic"))
        case "adapter-chunk":
            return _read_chunk(_object(document.get("data")))
        case "heartbeat":
            return Heartbeat()
        case "heartbeat-response":
            return HeartbeatResponse()
    raise FrameInvalid("unknown-type")


def _no_constant(text: str) -> object:
    raise ValueError(text)


def _object(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise FrameInvalid("no-data")
    return value


def _hex(value: object, kind: str) -> str:
    if not isinstance(value, str) or not _HEX_32.fullmatch(value):
        raise FrameInvalid(kind)
    return value


def _count(value: object, most: int, kind: str) -> int:
    if type(value) is not int or not 0 <= value <= most:
        raise FrameInvalid(kind)
    return value


def _read_list(document: dict[str, Any]) -> AdapterList:
    # Orch-Mind writes `data` and reads `adapters` first; older builds wrote that.
    items = document.get("adapters")
    if not isinstance(items, list):
        items = document.get("data")
    if not isinstance(items, list):
        raise FrameInvalid("no-list")
    offers: dict[str, AdapterOffer] = {}
    for item in items[:MAX_ADAPTERS]:
        try:
            offer = _read_offer(item)
        except FrameInvalid:
            continue
        offers.setdefault(offer.topic, offer)
    return AdapterList(tuple(offers.values()), len(items) - len(offers))


def _read_offer(item: object) -> AdapterOffer:
    fields = _object(item)
    name = _text(fields.get("name"), MAX_NAME_CHARS)
    size = _count(fields.get("size"), MAX_ADAPTER_BYTES, "size")
    if not name or not size:
        raise FrameInvalid("offer")
    checksum = _hex(fields.get("checksum"), "checksum").lower()
    topic = _hex(fields.get("topic"), "topic")
    metadata = fields.get("metadata")
    return AdapterOffer(name, size, checksum, topic, facts=_read_facts(metadata if isinstance(metadata, dict) else {}))


def _read_facts(fields: dict[str, Any]) -> AdapterFacts:
    rank = fields.get("lora_rank")
    return AdapterFacts(
        base_model=_text(fields.get("base_model"), MAX_TEXT_CHARS),
        hf_model=_text(fields.get("hf_model"), MAX_TEXT_CHARS),
        file_type=_text(fields.get("file_type"), MAX_TEXT_CHARS),
        rank=rank if type(rank) is int and 1 <= rank <= MAX_RANK else None,
        alpha=_alpha(fields.get("lora_alpha")),
        rank_stabilised=fields.get("use_rslora") is True,
    )


def _alpha(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= MAX_ALPHA:
        return None
    return float(value)


def _text(value: object, most: int) -> str:
    """A text safe to show, or nothing if it is none or too long to be meant."""
    if not isinstance(value, str) or len(value) > most:
        return ""
    line = clean_line(value)
    return line if line.isprintable() else ""


def _read_chunk(fields: dict[str, Any]) -> AdapterChunk:
    most = chunk_count(MAX_ADAPTER_BYTES)
    text = fields.get("chunk")
    if not isinstance(text, str) or not text.isascii():
        raise FrameInvalid("chunk-base64")
    return AdapterChunk(
        topic=_hex(fields.get("topic"), "chunk-topic"),
        index=_count(fields.get("index"), most, "chunk-number"),
        total=_count(fields.get("total"), most, "chunk-number"),
        text=text,
        checksum=_hex(fields.get("checksum"), "chunk-checksum").lower(),
    )


# --- writing ---------------------------------------------------------------------------------------------------------


def encode_list(offers: Iterable[AdapterOffer]) -> bytes:
    """Our list, as much of it as a frame holds."""
    frame = _encode_list(chosen := list(offers)[:MAX_ADAPTERS])
    while len(frame) > MAX_FRAME_BYTES:
        frame = _encode_list(chosen := chosen[: len(chosen) * MAX_FRAME_BYTES // len(frame)])
    return frame


def _encode_list(offers: Sequence[AdapterOffer]) -> bytes:
    return _encode("adapter-list", data=[_offer_json(offer) for offer in offers])


def encode_list_request() -> bytes:
    """Ask for the peer's list."""
    return _encode("request-adapter-list")


def encode_request(topic: str) -> bytes:
    """Ask for a file. The peer sends all of it; there is no way to ask for a part or to stop it."""
    return _encode("adapter-request", data={"topic": topic})


def encode_heartbeat_response() -> bytes:
    """The sign of life that was asked for."""
    return _encode("heartbeat-response", **{"from": OWN_NAME})


def encode_chunk(offer: AdapterOffer, index: int, data: BytesLike) -> bytes:
    """A part of a file of ours. Orch-Mind makes room for a file at index 0, from `metadata` there, so that goes first."""
    fields: dict[str, object] = {
        "topic": offer.topic,
        "chunk": base64.b64encode(data).decode("ascii"),
        "index": index,
        "total": offer.chunks,
        "checksum": hashlib.sha256(data).hexdigest(),
    }
    if index == 0:
        fields["metadata"] = _offer_json(offer)
    return _encode("adapter-chunk", data=fields)


def _encode(message_type: str, **fields: object) -> bytes:
    return json.dumps({"type": message_type} | fields, separators=(",", ":")).encode("ascii")


def _offer_json(offer: AdapterOffer) -> dict[str, object]:
    facts = offer.facts
    metadata: dict[str, object] = {
        "base_model": facts.base_model,
        "hf_model": facts.hf_model,
        "file_type": facts.file_type,
    }
    # What Orch-Mind reads for the adapter_config.json it writes; without them it assumes 8 and 16.
    if facts.rank is not None:
        metadata["lora_rank"] = facts.rank
    if facts.alpha is not None:
        metadata["lora_alpha"] = facts.alpha
    if facts.rank_stabilised:
        metadata["use_rslora"] = True
    return {
        "name": offer.name,
        "size": offer.size,
        "checksum": offer.checksum,
        "topic": offer.topic,
        "timestamp": offer.timestamp,
        "metadata": metadata,
    }
