"""One answer about a model file: what it is, or why Ollama should not be given it (T2)."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, Final

from ollama_bridge.adapters.gguf import BASE_LIMITS, read_gguf
from ollama_bridge.adapters.inspect import shapes_digest
from ollama_bridge.errors import AdapterFormatError

if TYPE_CHECKING:
    from ollama_bridge.adapters.gguf import GgufHeader

UNKNOWN_QUANTIZATION: Final = "unknown"
# general.file_type in the words of Ollama (fs/ggml/type.go at 1f9b1de). 0 would be F32, but Ollama reads it as "none given".
QUANTIZATIONS: Final = {
    1: "F16", 2: "Q4_0", 3: "Q4_1", 4: "MXFP4", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S", 12: "Q3_K_M",
    13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K", 21: "Q2_K_S", 32: "BF16",
}  # fmt: skip

_ARCHITECTURE = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What a model file says about itself, all of it checked."""

    architecture: str
    parameters: int
    """Elements of all tensors, as Ollama counts them."""
    quantization: str
    tensors: int
    shapes: str
    """64 hex digits, see `shapes_digest`."""


def describe_model(file: BinaryIO) -> ModelInfo:
    """Read the GGUF of a plain text model and check all of its header.

    Args:
        file: Seekable, untrusted. Blocking; reads the header only.

    Raises:
        AdapterFormatError: It is damaged, or no model that Ollama runs from this one file.
    """
    header = read_gguf(file, limits=BASE_LIMITS)
    architecture = _check_kind(header)
    return ModelInfo(
        architecture=architecture,
        parameters=sum(math.prod(tensor.shape) for tensor in header.tensors),
        quantization=QUANTIZATIONS.get(int(header.number("general.file_type") or 0), UNKNOWN_QUANTIZATION),
        tensors=len(header.tensors),
        shapes=shapes_digest(header.tensors),
    )


def _check_kind(header: GgufHeader) -> str:
    if header.kind != "model":
        raise AdapterFormatError(f"The file is a GGUF of type {header.kind[:40]!r}, not a model.")
    if not header.tensors:
        raise AdapterFormatError("The model holds no tensors: it is only a vocabulary, or was cut.")
    if (header.number("split.count") or 1) != 1:
        raise AdapterFormatError("The file is one part of a model in several files, which does not run by itself.")
    architecture = header.architecture
    if architecture is None or not _ARCHITECTURE.fullmatch(architecture):
        raise AdapterFormatError("The model does not name its architecture (general.architecture).")
    if architecture == "clip":
        raise AdapterFormatError("The file is the projector of a vision model, not a model.")
    return architecture
