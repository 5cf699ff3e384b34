"""Entry: one signed offer of an adapter or of a whole model. Format, bounds and their reasons: docs/protocol/entry.md.

`parse_entry` takes exact bytes; whether they were signed is checked before, by `trust.signatures.verify_entry`.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

from ollama_bridge.names import ModelName
from ollama_bridge.room_names import is_room_name, public_name
from sidecar.errors import EntryInvalid, EntryKindUnknown

from .entry_blobs import ADAPTER_BLOBS, MODEL_BLOBS, read_blobs
from .entry_blobs import ADAPTER_MEDIA_TYPE as ADAPTER_MEDIA_TYPE
from .entry_blobs import MAX_BLOB_BYTES as MAX_BLOB_BYTES
from .entry_blobs import Blob as Blob
from .envelope import SHORT_ID_BYTES, StatementKind, sign_raw, statement_id
from .fields import ADAPTER_NAME, MAX_INTEGER, Fields, is_number, is_text, load_object, render, unix_seconds
from .limits import CLOCK_SKEW_S
from .text import clean_line

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hyperdht.crypto import KeyPair

MAX_RANK = 65_536
MAX_TENSORS = 65_536
MAX_ALPHA = 1_000_000.0
MAX_DESCRIPTION_CHARS = 1_000
MAX_LICENSE_CHARS = 128
MAX_CARD_CHARS = 32_768
MAX_SUGGESTED_CHARS = 16_384
MAX_TAGS = 16
MAX_PARAMETERS = 32
MAX_PARAMETER_CHARS = 256
MAX_PARAMETER_ITEMS = 16

_ARCHITECTURE = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_KIND = re.compile(r"[a-z][a-z0-9-]{0,31}")
_QUANTIZATION = re.compile(r"[A-Za-z0-9_]{1,32}")
_TAG = re.compile(r"[a-z0-9][a-z0-9._-]{0,31}")
_PARAMETER = re.compile(r"[a-z_]{1,32}")
_NOT_IN_NAME = re.compile(r"[^A-Za-z0-9_.-]+")

_COMMON_KEYS = frozenset(
    {"v", "name", "version", "created", "expires", "previous", "description", "license", "tags", "kind", "blobs"}
)
_KEYS_OF_KIND = {"adapter": _COMMON_KEYS | {"base", "adapter", "suggest"}, "model": _COMMON_KEYS | {"model"}}
_ANY_KEYS = frozenset({"card"}).union(*_KEYS_OF_KIND.values())
_BASE_KEYS = frozenset({"name", "digest", "architecture"})
_ADAPTER_KEYS = frozenset({"format", "rank", "alpha", "tensors", "shapes"})
_MODEL_KEYS = frozenset({"name", "format", "architecture", "parameters", "quantization", "tensors", "shapes"})
_SUGGEST_KEYS = frozenset({"template", "system", "parameters"})

ParameterValue = str | int | float | bool | tuple[str, ...]


@dataclass(frozen=True, slots=True)
class BaseFacts:
    """The base model an adapter was made for. Of a model: the model itself, so that both are found by one digest."""

    name: str
    """What the publisher calls it: a hint for people."""
    digest: str
    """`sha256:<hex>` of its model layer: what decides."""
    architecture: str


@dataclass(frozen=True, slots=True)
class AdapterFacts:
    """What the adapter file must turn out to be."""

    format: str
    rank: int
    alpha: float
    tensors: int
    shapes: str
    """64 hex: SHA-256 of the sorted name/shape/type table."""


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What the file of a model must turn out to be."""

    format: str
    parameters: int
    """Elements of all its tensors."""
    quantization: str
    """As Ollama words `general.file_type`, for example `Q4_K_M`."""
    tensors: int
    shapes: str
    """64 hex: SHA-256 of the sorted name/shape/type table."""


@dataclass(frozen=True, slots=True)
class Suggestions:
    """What the publisher would like the model to have. Applied only when the user says so (T4)."""

    template: str | None = None
    system: str | None = None
    parameters: Mapping[str, ParameterValue] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One offer, parsed. All text is cleaned (T9)."""

    name: str
    version: int
    created: str
    """`YYYY-MM-DDTHH:MM:SSZ`; shown, never trusted."""
    expires: str | None = None
    previous: str | None = None
    """`sha256:<hex>` of the raw bytes of the version before."""
    description: str = ""
    license: str = ""
    tags: tuple[str, ...] = ()
    card: str = ""
    kind: str = "adapter"
    base: BaseFacts
    adapter: AdapterFacts | None = None
    """Set exactly in an adapter's entry."""
    model: ModelFacts | None = None
    """Set exactly in a model's entry."""
    blobs: tuple[Blob, ...]
    """Of a model: its layers, in the order of its manifest."""
    suggest: Suggestions = field(default_factory=Suggestions)

    @property
    def blob(self) -> Blob:
        """The GGUF: an adapter's only blob, a model's weights."""
        return next(blob for blob in self.blobs if blob.is_weights)

    @property
    def size(self) -> int:
        """Bytes of all blobs."""
        return sum(blob.size for blob in self.blobs)

    @property
    def is_model(self) -> bool:
        """Whether a whole model is offered."""
        return self.model is not None

    def is_expired(self, now: float) -> bool:
        """Whether the offer has ended at Unix time `now`, with `CLOCK_SKEW_S` of tolerance."""
        return self.expires is not None and now > unix_seconds(self.expires) + CLOCK_SKEW_S


@dataclass(frozen=True, slots=True)
class SignedEntry:
    """An entry with the exact bytes, key and signature it came with. Made by `sign_entry` and `verify_entry` only."""

    raw: bytes = field(repr=False)
    publisher: bytes
    """32 bytes."""
    signature: bytes = field(repr=False)
    entry: Entry
    id: bytes = field(init=False)
    """32 bytes over all of it: the entry digest people see in hex."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "id", statement_id(self.raw, self.publisher, self.signature))

    @property
    def kind(self) -> StatementKind:
        return StatementKind.ENTRY

    @property
    def name(self) -> str:
        return self.entry.name

    @property
    def version(self) -> int:
        return self.entry.version

    @property
    def short_id(self) -> bytes:
        """The 16 bytes that name it on the wire."""
        return self.id[:SHORT_ID_BYTES]

    @property
    def raw_digest(self) -> str:
        """`sha256:<hex>` of the raw bytes: what the next version puts into `previous`."""
        return f"sha256:{hashlib.sha256(self.raw).hexdigest()}"

    @property
    def ref(self) -> str:
        """`publisher/name` with the short publisher key: says whose, and survives a new version."""
        return f"{self.publisher.hex()[:12]}/{self.name}"


def parse_entry(raw: bytes) -> Entry:
    """Read the exact bytes that were signed.

    Raises:
        EntryInvalid: Anything docs/protocol/entry.md does not allow; the message names the field.
        EntryKindUnknown: It offers a kind of thing that a later version knows.
    """
    fields = load_object(raw)
    kind = _read_kind(fields)
    fields.only(_KEYS_OF_KIND[kind], frozenset({"card"}))
    fields.integer("v", 1, 1)
    created = fields.time("created")
    expires = None if fields.is_null("expires") else fields.time("expires")
    if expires is not None and expires <= created:
        fields.refuse("expires", "after 'created'")
    blobs = read_blobs(fields, MODEL_BLOBS if kind == "model" else ADAPTER_BLOBS)
    base, adapter, model, suggest = _read_subject(fields, kind, blobs)
    return Entry(
        name=read_name(fields, "name"),
        version=fields.integer("version", 1, MAX_INTEGER),
        created=created,
        expires=expires,
        previous=None if fields.is_null("previous") else fields.digest("previous"),
        description=fields.line("description", MAX_DESCRIPTION_CHARS),
        license=fields.line("license", MAX_LICENSE_CHARS),
        tags=_read_tags(fields),
        card=fields.text("card", MAX_CARD_CHARS) if "card" in fields else "",
        kind=kind,
        base=base,
        adapter=adapter,
        model=model,
        blobs=blobs,
        suggest=suggest,
    )


def build_entry(entry: Entry) -> bytes:
    """The bytes to sign for an offer of ours.

    Raises:
        EntryInvalid: A field is not what peers accept; found here instead of at every peer.
    """
    value: dict[str, object] = {
        "v": 1,
        "name": entry.name,
        "version": entry.version,
        "created": entry.created,
        "expires": entry.expires,
        "previous": entry.previous,
        "description": entry.description,
        "license": entry.license,
        "tags": list(entry.tags),
        "card": entry.card,
        "kind": entry.kind,
        **_subject(entry),
        "blobs": [_slots(blob) for blob in entry.blobs],
    }
    if entry.adapter is not None:
        parameters = dict(entry.suggest.parameters)
        value["suggest"] = {
            "template": entry.suggest.template,
            "system": entry.suggest.system,
            "parameters": parameters,
        }
    try:
        raw = render(value)
    except ValueError as error:  # NaN, or a lone surrogate out of a file name
        raise EntryInvalid("A field of the entry holds a value that JSON cannot carry.") from error
    parse_entry(raw)
    return raw


def sign_entry(raw: bytes, key_pair: KeyPair) -> SignedEntry:
    """Sign the bytes of `build_entry`. Raises EntryInvalid for bytes that peers would refuse."""
    signature = sign_raw(StatementKind.ENTRY, raw, key_pair)
    return SignedEntry(raw, key_pair.public_key, signature, parse_entry(raw))


def suggest_name(text: str) -> str:
    """An adapter name close to a model or file name, for entries made without a name given."""
    if ModelName.is_valid(text) and is_room_name(pulled := ModelName.parse(text)):
        text = public_name(pulled)  # as it stands it holds a secret of this machine (T24)
    name = _NOT_IN_NAME.sub("-", text.strip().removesuffix(":latest")).strip("-.")[:80]
    return name if ADAPTER_NAME.fullmatch(name) else "adapter"


def read_name(fields: Fields, key: str) -> str:
    """An adapter name: the MODEL part of Ollama's rules."""
    return fields.matching(key, ADAPTER_NAME, "a model name without '/' and ':', at most 80 characters")


def _read_tags(fields: Fields) -> tuple[str, ...]:
    items = fields.items("tags", MAX_TAGS)
    tags = tuple(item for item in items if isinstance(item, str) and _TAG.fullmatch(item))
    if len(set(tags)) != len(items):
        fields.refuse("tags", "a list of different tags of a-z, 0-9, '.', '_' and '-', at most 32 characters each")
    return tags


def _subject(entry: Entry) -> dict[str, object]:
    """What is offered, as the fields of its kind."""
    if entry.model is not None:
        named = {"name": entry.base.name, "architecture": entry.base.architecture}
        return {"model": named | _slots(entry.model)}
    facts = {} if entry.adapter is None else {"adapter": _slots(entry.adapter)}
    return {"base": _slots(entry.base), **facts}


def _slots(facts: Blob | BaseFacts | AdapterFacts | ModelFacts) -> dict[str, object]:
    return {slot: getattr(facts, slot) for slot in facts.__slots__}


def _read_kind(fields: Fields) -> str:
    if "kind" not in fields:
        fields.only(_COMMON_KEYS, _ANY_KEYS)
    kind = fields.matching("kind", _KIND, "a word")
    if kind not in _KEYS_OF_KIND:
        raise EntryKindUnknown(f"The entry offers a {kind!r}, which this version of ollaswarm does not know.")
    return kind


def _read_subject(
    fields: Fields, kind: str, blobs: tuple[Blob, ...]
) -> tuple[BaseFacts, AdapterFacts | None, ModelFacts | None, Suggestions]:
    if kind == "model":
        model = fields.nested("model").only(_MODEL_KEYS)
        weights = next(blob for blob in blobs if blob.is_weights)
        return _read_base(model, weights.digest), None, _read_model(model), Suggestions()
    base = fields.nested("base").only(_BASE_KEYS)
    adapter = _read_adapter(fields.nested("adapter"))
    return _read_base(base, base.digest("digest")), adapter, None, _read_suggestions(fields.nested("suggest"))


def _read_base(fields: Fields, digest: str) -> BaseFacts:
    name = fields.line("name", 700)
    if not ModelName.is_valid(name):
        fields.refuse("name", "a model name")
    return BaseFacts(name, digest, fields.matching("architecture", _ARCHITECTURE, "an architecture"))


def _read_adapter(fields: Fields) -> AdapterFacts:
    fields.only(_ADAPTER_KEYS)
    return AdapterFacts(
        format=fields.choice("format", "gguf"),
        rank=fields.integer("rank", 1, MAX_RANK),
        alpha=fields.number("alpha", 0.0, MAX_ALPHA),
        tensors=fields.integer("tensors", 1, MAX_TENSORS),
        shapes=fields.hex64("shapes"),
    )


def _read_model(fields: Fields) -> ModelFacts:
    return ModelFacts(
        format=fields.choice("format", "gguf"),
        parameters=fields.integer("parameters", 1, MAX_INTEGER),
        quantization=fields.matching("quantization", _QUANTIZATION, "a kind of quantisation"),
        tensors=fields.integer("tensors", 1, MAX_TENSORS),
        shapes=fields.hex64("shapes"),
    )


def _read_suggestions(fields: Fields) -> Suggestions:
    fields.only(_SUGGEST_KEYS)
    parameters: dict[str, ParameterValue] = {}
    for key, value in fields.mapping("parameters", MAX_PARAMETERS).items():
        if not _PARAMETER.fullmatch(key):
            fields.refuse("parameters", "an object whose keys are parameter names")
        parameters[key] = _read_parameter(fields, value)
    return Suggestions(
        template=None if fields.is_null("template") else fields.text("template", MAX_SUGGESTED_CHARS),
        system=None if fields.is_null("system") else fields.text("system", MAX_SUGGESTED_CHARS),
        parameters=MappingProxyType(parameters),
    )


def _read_parameter(fields: Fields, value: object) -> ParameterValue:
    if isinstance(value, bool) or is_number(value):
        return value
    if is_text(value, MAX_PARAMETER_CHARS):
        return clean_line(value)
    if isinstance(value, list) and len(value) <= MAX_PARAMETER_ITEMS:
        items = tuple(clean_line(item) for item in value if is_text(item, MAX_PARAMETER_CHARS))
        if len(items) == len(value):
            return items
    fields.refuse("parameters", "an object of texts, numbers, booleans and lists of texts")
