"""The config blob of a whole model, made here from the model file's own header; a peer's never gets in (T4).

It has the fields and the order of what Ollama wrote for years and what its library serves, so that the manifest of an
ordinary model comes out byte for byte as `ollama pull` would have it: checked with llama3.2:1b, whose config is
4f659a1e86d7 and whose id in `ollama ls` is baf6a787fdff.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ollama_bridge.adapters.inspect_model import ModelInfo
    from ollama_bridge.digests import Digest

BILLION, MILLION, THOUSAND = 10**9, 10**6, 10**3


def render_config(info: ModelInfo, layers: Iterable[Digest]) -> bytes:
    """The config for a model of these layers, in their order.

    Only what a header can say is in it: no remote host, renderer, parser or capabilities.
    """
    document = {
        "model_format": "gguf",
        "model_family": info.architecture,
        "model_families": [info.architecture],
        "model_type": human_number(info.parameters),
        "file_type": info.quantization,
        "architecture": "amd64",
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [str(digest) for digest in layers]},
    }
    return json.dumps(document, separators=(",", ":")).encode() + b"\n"  # Go's encoder ends with a newline


def human_number(number: int) -> str:
    """A count in Ollama's words, such as `1.2B`. Source: format/format.go `HumanNumber`."""
    for unit, letter, digits in ((BILLION, "B", 1), (MILLION, "M", 2)):
        if number >= unit:
            return f"{number / unit:.{digits if number % unit else 0}f}{letter}"
    return f"{number / THOUSAND:.0f}K" if number >= THOUSAND else str(number)
