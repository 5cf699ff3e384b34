"""A model as a user reads of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ollama_bridge.install import human_number
from sidecar.control_types import Suggestion

if TYPE_CHECKING:
    from sidecar.catalogue.entry import ModelFacts

    from .texts import ModelTexts

SHOWN_LICENSE_CHARS = 600
"""Enough to see which licence it is; whole ones fill screens, and Ollama shows them once the model is there."""


def size_words(facts: ModelFacts | None) -> str:
    """Size and quantisation, such as `1.2B Q8_0`; nothing for an adapter."""
    return "" if facts is None else f"{human_number(facts.parameters)} {facts.quantization}"


def model_settings(texts: ModelTexts, entry: str) -> tuple[Suggestion, ...]:
    """What a model brings along, licences last."""
    settings = [Suggestion(name, "", text, required=True, entry=entry) for name, text in texts.settings]
    return (*settings, *(Suggestion("license", "", _beginning(text), entry=entry) for text in texts.licenses))


def _beginning(text: str) -> str:
    if len(text) <= SHOWN_LICENSE_CHARS:
        return text
    left = len(text) - SHOWN_LICENSE_CHARS
    return f"{text[:SHOWN_LICENSE_CHARS].rstrip()}\n… and {left} more characters, which `ollama show --license` shows later."
