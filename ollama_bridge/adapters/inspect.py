"""One answer about an adapter file: what it is, or why we do not touch it.

Only what passes here is shared or given to Ollama, so the list is of what may be in the file, not of what may not (T2).
"""

from __future__ import annotations

import hashlib
import math
import re
from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, Final, NamedTuple

from ollama_bridge.adapters.ggml_types import GGML_TYPES
from ollama_bridge.adapters.gguf import ADAPTER_LIMITS, FLOAT32_TYPE, GgufHeader, TensorInfo, read_gguf
from ollama_bridge.errors import AdapterFormatError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

LORA_A: Final = ".lora_a"
LORA_B: Final = ".lora_b"
MAX_RANK: Final = 4_096  # a LoRA wider than most models is a mistake or an attack on the engine's memory
SAMPLE_BYTES: Final = 4 << 20  # per file: enough to notice a broken training run, 50 ms of Python at most
SAMPLE_BLOCK_BYTES: Final = 4 << 10

_ARCHITECTURE = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")
_EMBEDDING = "token_embd.weight"
_INTEGER_TYPES = {"I8", "I16", "I32", "I64", "F64"}
_EXPONENT_BITS = {"F32": ("I", 0x7F800000), "F16": ("H", 0x7C00), "BF16": ("H", 0x7F80)}
_SCALE_FIRST = {"Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "IQ4_NL"}  # blocks that begin with a half-precision scale


@dataclass(frozen=True, slots=True)
class AdapterInfo:
    """What an adapter file says about itself, all of it checked."""

    format: str
    """Always `gguf`."""
    architecture: str
    """The base's `general.architecture`."""
    rank: int
    """Largest rank of any pair; ranks may differ between pairs."""
    alpha: float
    tensors: int
    """Number of tensors, two per target."""
    shapes: str
    """64 hex digits, see `shapes_digest`."""
    targets: tuple[str, ...]
    """Kinds of base tensors it changes, sorted, for example `attn_q`."""


class LoraPair(NamedTuple):
    """The two factors that change one base tensor: rows x columns = (rows x rank) times (rank x columns)."""

    target: str
    rank: int
    columns: int
    rows: int
    experts: tuple[int, ...]
    """Further dimensions of the base tensor, empty for a plain matrix."""


def describe_adapter(file: BinaryIO) -> AdapterInfo:
    """Read an adapter GGUF, check all of its header and a sample of its numbers.

    Args:
        file: Seekable, untrusted. Blocking; reads the header and at most `SAMPLE_BYTES` of tensor data.

    Raises:
        AdapterFormatError: The first thing that is not as an adapter should be.
    """
    header = read_gguf(file, limits=ADAPTER_LIMITS)
    info = describe_header(header)
    _check_numbers(file, header)
    return info


def describe_header(header: GgufHeader) -> AdapterInfo:
    """What a header alone tells, for when the rest of the file is yet to come. Raises AdapterFormatError."""
    architecture = _check_kind(header)
    alpha = _check_alpha(header)
    _check_keys(header, architecture)
    pairs = lora_pairs(header)
    return AdapterInfo(
        format="gguf",
        architecture=architecture,
        rank=max(pair.rank for pair in pairs),
        alpha=alpha,
        tensors=len(header.tensors),
        shapes=shapes_digest(header.tensors),
        targets=tuple(sorted({_target_kind(pair.target) for pair in pairs})),
    )


def shapes_digest(tensors: Iterable[TensorInfo]) -> str:
    """SHA-256, as 64 hex digits, of the table of tensors.

    The table is ASCII text, one line per tensor, lines sorted by tensor name (byte order), each line
    `NAME TAB DIMENSIONS TAB TYPE LF`: dimensions in decimal in GGUF order (contiguous one first) joined by commas, type
    as ggml names it. Example: `blk.0.attn_q.weight.lora_a\\t64,4\\tF32\\n`.
    """
    lines = (
        f"{tensor.name}\t{','.join(map(str, tensor.shape))}\t{tensor.type_name}\n"
        for tensor in sorted(tensors, key=lambda tensor: tensor.name)
    )
    return hashlib.sha256("".join(lines).encode("ascii")).hexdigest()


def lora_pairs(header: GgufHeader) -> tuple[LoraPair, ...]:
    """The pairs of an adapter, in the order of their first tensors.

    Raises:
        AdapterFormatError: A tensor that is no LoRA factor, a missing half, or halves that do not belong together.
    """
    if not header.tensors:
        raise AdapterFormatError("The adapter holds no tensors. Export it again.")
    targets: dict[str, None] = {}
    for tensor in header.tensors:
        if not tensor.name.endswith((LORA_A, LORA_B)):
            raise AdapterFormatError(f"The tensor {tensor.name!r} is not a LoRA factor; an adapter holds nothing else.")
        if tensor.type_name in _INTEGER_TYPES:
            raise AdapterFormatError(
                f"The tensor {tensor.name!r} holds {tensor.type_name} numbers, which no LoRA does."
            )
        targets[tensor.name[: -len(LORA_A)]] = None
    return tuple(_pair(target, header) for target in targets)


def _pair(target: str, header: GgufHeader) -> LoraPair:
    a, b = header.by_name.get(target + LORA_A), header.by_name.get(target + LORA_B)
    if a is None or b is None:
        missing = LORA_A if a is None else LORA_B
        raise AdapterFormatError(f"The pair for {target!r} is incomplete: {target + missing!r} is missing.")
    if not 2 <= len(a.shape) <= 3 or len(a.shape) != len(b.shape) or a.shape[2:] != b.shape[2:]:
        raise AdapterFormatError(f"The pair for {target!r} does not consist of two matrices of the same kind.")
    # The embedding is looked up by row, so its A comes transposed (llama.cpp, llama_adapter_lora_init_impl).
    columns, a_rank = (b.shape[1], a.shape[0]) if target == _EMBEDDING else (a.shape[0], a.shape[1])
    rows = a.shape[1] if target == _EMBEDDING else b.shape[1]
    if a_rank != b.shape[0]:
        raise AdapterFormatError(
            f"The pair for {target!r} has rank {a_rank} on one side and {b.shape[0]} on the other."
        )
    if a_rank > MAX_RANK:
        raise AdapterFormatError(f"The pair for {target!r} claims rank {a_rank}; at most {MAX_RANK} make sense.")
    return LoraPair(target, a_rank, columns, rows, a.shape[2:])


def _check_kind(header: GgufHeader) -> str:
    declared = header.text("general.type")
    if declared is None and header.kind == "adapter":
        raise AdapterFormatError(
            "The file is an adapter from before `general.type` existed, which current engines refuse. Convert it again."
        )
    if declared != "adapter":
        raise AdapterFormatError(
            f"The file is a GGUF of type {_shown(declared or 'model')}, not an adapter. Share the LoRA, not the model."
        )
    adapter_type = header.text("adapter.type")
    if adapter_type != "lora":
        found = "none" if adapter_type is None else _shown(adapter_type)
        raise AdapterFormatError(f"The key adapter.type should be 'lora' but is {found}. Engines refuse such a file.")
    architecture = header.architecture
    if architecture is None or not _ARCHITECTURE.fullmatch(architecture):
        raise AdapterFormatError("The adapter does not name the architecture of its base (general.architecture).")
    return architecture


def _check_alpha(header: GgufHeader) -> float:
    alpha = header.number("adapter.lora.alpha")
    if alpha is None or header.value_types["adapter.lora.alpha"] != FLOAT32_TYPE:
        raise AdapterFormatError(
            "The key adapter.lora.alpha is missing or not a 32-bit float. Export the adapter again."
        )
    if not math.isfinite(alpha):
        raise AdapterFormatError("The key adapter.lora.alpha is not a finite number. Export the adapter again.")
    return float(alpha)


def _check_keys(header: GgufHeader, architecture: str) -> None:
    # A tokenizer or chat template in an adapter has no use but to reach an engine's parser, or its prompts (T2, T4).
    allowed = ("general.", "adapter.", "quantize.", f"{architecture}.")
    for key in header.metadata:
        if not key.startswith(allowed) or "chat_template" in key:
            raise AdapterFormatError(f"The adapter carries the key {key!r}, which has no place in an adapter.")


def _check_numbers(file: BinaryIO, header: GgufHeader) -> None:
    per_tensor = max(SAMPLE_BYTES // len(header.tensors), 256)
    for tensor in header.tensors:
        for block in _sample(file, header.data_offset + tensor.offset, tensor, per_tensor):
            if not _all_finite(block, tensor):
                raise AdapterFormatError(
                    f"The tensor {tensor.name!r} holds numbers that are infinite or not numbers. The training broke."
                )


def _sample(file: BinaryIO, start: int, tensor: TensorInfo, budget: int) -> Iterator[bytes]:
    """Evenly spaced pieces of a tensor, whole ggml blocks each, the first and the last block among them."""
    unit = GGML_TYPES[tensor.type].block_bytes
    piece = max(min(SAMPLE_BLOCK_BYTES, budget) // unit, 1) * unit
    count = max(min(budget, tensor.size) // piece, 1)
    if count * piece >= tensor.size - piece:
        positions: Iterable[int] = range(0, tensor.size, piece)
    else:
        step = (tensor.size - piece) / max(count - 1, 1)
        positions = (int(index * step) // unit * unit for index in range(count))
    for position in positions:
        file.seek(start + position)
        yield file.read(min(piece, tensor.size - position))


def _all_finite(block: bytes, tensor: TensorInfo) -> bool:
    name = tensor.type_name
    if name in _EXPONENT_BITS:
        code, exponent = _EXPONENT_BITS[name]
        words = array(code, block)
    elif name in _SCALE_FIRST:
        exponent = _EXPONENT_BITS["F16"][1]
        words = array(
            "H", b"".join(block[i : i + 2] for i in range(0, len(block), GGML_TYPES[tensor.type].block_bytes))
        )
    else:
        return True  # super-block types: their scales sit at other places, and no trainer writes them
    return not any(word & exponent == exponent for word in words)


def _target_kind(target: str) -> str:
    """`blk.3.attn_q.weight` -> `attn_q`, `output.weight` -> `output`."""
    parts = target.removesuffix(".weight").split(".")
    return ".".join(parts[2:] if parts[0] == "blk" and len(parts) > 2 else parts)


def _shown(text: str) -> str:
    return repr(text[:40])
