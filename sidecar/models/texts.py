"""The texts of a model: template, system text, parameters, licences.

What is not shown exactly as it will be installed is not passed on: a text with hidden characters would be one thing to
the person who agreed to it and another to the model (T4, T9).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

from sidecar.catalogue.entry_blobs import (
    LICENSE_MEDIA_TYPE,
    PARAMS_MEDIA_TYPE,
    SYSTEM_MEDIA_TYPE,
    TEMPLATE_MEDIA_TYPE,
)
from sidecar.catalogue.fields import is_number, is_text
from sidecar.catalogue.text import clean_line, clean_text
from sidecar.errors import ModelRefused

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

MAX_PARAMETERS = 64
"""Ollama knows about 30."""
MAX_ITEMS = 64
"""Stop words of one model; its library has 10 at most."""
MAX_VALUE_CHARS = 1_024

_PARAMETER = re.compile(r"[a-z_]{1,32}")

Value = str | int | float | bool | tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ModelTexts:
    """What a model brings along besides its weights."""

    template: str | None = None
    system: str | None = None
    parameters: Mapping[str, Value] = field(default_factory=lambda: MappingProxyType({}))
    licenses: tuple[str, ...] = ()
    """Cleaned: they are shown and read by people only."""

    @property
    def settings(self) -> tuple[tuple[str, str], ...]:
        """What changes how the model answers, by name: what a user has to agree to."""
        texts = [("template", self.template), ("system", self.system)]
        found = [(name, text) for name, text in texts if text is not None]
        found += [
            (f"parameters.{name}", json.dumps(value, ensure_ascii=False)) for name, value in self.parameters.items()
        ]
        return tuple(found)

    @property
    def license_title(self) -> str:
        """The first line of the first licence."""
        lines = (clean_line(line) for text in self.licenses for line in text.splitlines())
        return next((line for line in lines if line), "")


def read_texts(blobs: Iterable[tuple[str, bytes]]) -> ModelTexts:
    """Read the texts of a model.

    Args:
        blobs: Media type and content of each, untrusted; sizes are bounded by the entry.

    Raises:
        ModelRefused: One is not what its media type says, or cannot be shown as it is.
    """
    found: dict[str, str] = {}
    parameters: Mapping[str, Value] = MappingProxyType({})
    licenses = []
    for media_type, data in blobs:
        if media_type == LICENSE_MEDIA_TYPE:
            licenses.append(clean_text(data.decode("utf-8", "replace")))
        elif media_type == PARAMS_MEDIA_TYPE:
            parameters = _read_parameters(data)
        else:
            found[media_type] = _read_plain(data, media_type.rpartition(".")[2])
    return ModelTexts(found.get(TEMPLATE_MEDIA_TYPE), found.get(SYSTEM_MEDIA_TYPE), parameters, tuple(licenses))


def _read_plain(data: bytes, what: str) -> str:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise ModelRefused(f"The {what} of the model is not UTF-8 text.") from None
    return _require_visible(text, what)


def _require_visible(text: str, what: str) -> str:
    lines = text.replace("\r\n", "\n")
    if clean_text(lines) != lines:
        raise ModelRefused(f"The {what} of the model holds hidden characters, so nobody could see what they agree to.")
    return lines


def _read_parameters(data: bytes) -> Mapping[str, Value]:
    try:
        document = json.loads(data.decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError):
        raise ModelRefused("The parameters of the model are not one JSON object.") from None
    if not isinstance(document, dict) or len(document) > MAX_PARAMETERS:
        raise ModelRefused(f"The parameters of the model are not one JSON object of at most {MAX_PARAMETERS} fields.")
    return MappingProxyType({_check_name(name): _read_value(name, value) for name, value in document.items()})


def _check_name(name: str) -> str:
    if not _PARAMETER.fullmatch(name):
        raise ModelRefused("A parameter of the model has a name that Ollama's parameters do not have.")
    return name


def _read_value(name: str, value: object) -> Value:
    if isinstance(value, bool) or is_number(value):
        return value
    if is_text(value, MAX_VALUE_CHARS):
        return _require_visible(value, f"parameter {name}")
    if isinstance(value, list) and len(value) <= MAX_ITEMS and all(is_text(each, MAX_VALUE_CHARS) for each in value):
        return tuple(_require_visible(each, f"parameter {name}") for each in value)
    raise ModelRefused(f"The parameter {name} of the model is no text, number, boolean or list of texts.")


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    document = dict(pairs)
    if len({name.lower() for name in document}) != len(pairs):
        raise ValueError("the same key twice")  # Ollama would take the last one, whatever its case
    return document
