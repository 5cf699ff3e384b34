"""A bounded reader for safetensors headers (T3): the rules of the format's own validator, plus caps.

Layout: header length (u64, little-endian), that many bytes of JSON, then tensor data. The JSON maps each tensor name to
`{"dtype", "shape", "data_offsets": [begin, end]}` and may hold `__metadata__`, a map of texts.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from ollama_bridge.adapters.header import HeaderWindow
from ollama_bridge.errors import AdapterFormatError

if TYPE_CHECKING:
    from collections.abc import Mapping

# A LoRA of 16,384 tensors needs about 2.5 MiB. The format allows 100 MB, which as JSON objects is a memory bomb.
MAX_HEADER_BYTES: Final = 4 << 20
MAX_TENSORS: Final = 16_384
MAX_DIMENSIONS: Final = 8
MAX_ELEMENTS: Final = 1 << 48

DTYPE_BYTES: Final[Mapping[str, int]] = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E5M2": 1, "F8_E4M3": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4, "F64": 8, "I64": 8, "U64": 8,
}  # fmt: skip

_NAME = re.compile(r"[A-Za-z0-9_.\-]{1,512}")


@dataclass(frozen=True, slots=True)
class SafetensorInfo:
    """One tensor's place in the file."""

    name: str
    dtype: str
    """A key of `DTYPE_BYTES`."""
    shape: tuple[int, ...]
    """Row-major: a matrix is (rows, columns)."""
    offset: int
    """Bytes from the start of the file."""
    size: int
    """Bytes."""


@dataclass(frozen=True, slots=True)
class SafetensorsHeader:
    """Everything before the tensor data."""

    metadata: Mapping[str, str]
    tensors: tuple[SafetensorInfo, ...]
    """In file order; together they cover the data exactly."""
    data_offset: int
    file_size: int


def read_safetensors(file: BinaryIO) -> SafetensorsHeader:
    """Read and check the header of a safetensors file.

    Args:
        file: Seekable, untrusted. Tensor data is not read.

    Raises:
        AdapterFormatError: With the first thing that is wrong.
    """
    window = HeaderWindow(file, max_bytes=8 + MAX_HEADER_BYTES, what="safetensors")
    length = int.from_bytes(window.take(8), "little")
    if length > MAX_HEADER_BYTES:
        raise AdapterFormatError(
            f"The safetensors header claims {length} bytes; at most {MAX_HEADER_BYTES} make sense."
        )
    document = _parse_json(window.take(length))
    metadata = _check_metadata(document.pop("__metadata__", {}))
    if len(document) > MAX_TENSORS:
        raise AdapterFormatError(f"The file lists {len(document)} tensors; at most {MAX_TENSORS} make sense.")
    data_offset = 8 + length
    tensors = sorted((_tensor(name, item, data_offset) for name, item in document.items()), key=lambda t: t.offset)
    _check_coverage(tensors, data_offset, window.file_size)
    return SafetensorsHeader(metadata, tuple(tensors), data_offset, window.file_size)


def _parse_json(data: bytes) -> dict[str, Any]:
    # The format demands `{` first, so that a file cannot be something else to another program at the same time.
    if not data.startswith(b"{"):
        raise AdapterFormatError("The safetensors header is not a JSON object.")
    try:
        document = json.loads(data, object_pairs_hook=_without_duplicates, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise AdapterFormatError(f"The safetensors header is not valid JSON ({error}).") from None
    if not isinstance(document, dict):
        raise AdapterFormatError("The safetensors header is not a JSON object.")
    return document


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise ValueError("the same name twice")
    return document


def _no_constant(text: str) -> object:
    raise ValueError(f"{text} is not JSON")


def _check_metadata(document: object) -> dict[str, str]:
    if not isinstance(document, dict) or not all(isinstance(value, str) for value in document.values()):
        raise AdapterFormatError("The safetensors metadata is not a map of texts.")
    return document


def _tensor(name: str, document: object, data_offset: int) -> SafetensorInfo:
    if not _NAME.fullmatch(name):
        raise AdapterFormatError(f"A tensor name is not a plain name: {name[:40]!r}.")
    if not isinstance(document, dict) or set(document) != {"dtype", "shape", "data_offsets"}:
        raise AdapterFormatError(f"The tensor {name!r} is not described by dtype, shape and data_offsets.")
    dtype, shape, offsets = document["dtype"], document["shape"], document["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BYTES:
        raise AdapterFormatError(f"The tensor {name!r} has the unknown type {str(dtype)[:20]!r}.")
    if not _are_counts(shape) or not 1 <= len(shape) <= MAX_DIMENSIONS:
        raise AdapterFormatError(f"The tensor {name!r} has no usable shape.")
    if not _are_counts(offsets) or len(offsets) != 2:
        raise AdapterFormatError(f"The tensor {name!r} has no usable data_offsets.")
    elements = 1
    for dimension in shape:
        elements *= dimension
    if not 1 <= elements <= MAX_ELEMENTS:
        raise AdapterFormatError(f"The tensor {name!r} claims an impossible shape.")
    begin, end = offsets
    if end - begin != elements * DTYPE_BYTES[dtype]:
        raise AdapterFormatError(f"The tensor {name!r} has a place in the file that does not match its shape.")
    return SafetensorInfo(name, dtype, tuple(shape), data_offset + begin, end - begin)


def _are_counts(values: object) -> bool:
    return isinstance(values, list) and all(type(value) is int and 0 <= value <= 1 << 62 for value in values)


def _check_coverage(tensors: list[SafetensorInfo], data_offset: int, file_size: int) -> None:
    """Every byte of data belongs to exactly one tensor: no gaps to hide another file in, no overlaps."""
    position = data_offset
    for tensor in tensors:
        if tensor.offset != position:
            raise AdapterFormatError(f"Before the tensor {tensor.name!r} the data has a gap or an overlap.")
        position += tensor.size
    if position != file_size:
        what = "cut" if position > file_size else "followed by bytes that belong to no tensor"
        raise AdapterFormatError(f"The tensor data is {what}. Get the file again from its source.")
