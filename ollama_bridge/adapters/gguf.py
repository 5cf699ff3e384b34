"""Our own GGUF header reader: strict, bounded, forwards only (T2).

Why not the PyPI one: it maps the file, raises five kinds of errors and looped forever on a 43-byte file (llama.cpp PR
27188). The engines that read the file next have had heap over-reads from exactly these fields (CVE-2026-7482), so what
passes here is also a filter for them: nothing overlaps, nothing leaves the file, nothing is counted twice.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, BinaryIO, Final

from ollama_bridge.adapters.ggml_types import GGML_TYPES
from ollama_bridge.adapters.header import HeaderWindow
from ollama_bridge.errors import AdapterFormatError

if TYPE_CHECKING:
    from collections.abc import Mapping

MAGIC: Final = b"GGUF"
VERSIONS: Final = (2, 3)
DEFAULT_ALIGNMENT: Final = 32
MAX_DIMENSIONS: Final = 4  # GGML_MAX_DIMS
MAX_TENSOR_NAME_BYTES: Final = 63  # GGML_MAX_NAME is 64 with its terminating zero
MAX_ELEMENTS: Final = 1 << 48  # far above any tensor, far below where size arithmetic wraps in C

_KEY = re.compile(rb"[A-Za-z0-9_.\-]{1,256}")
FLOAT32_TYPE: Final = 6
_STRING_TYPE = 8
_ARRAY_TYPE = 9
_BOOL_TYPE = 7
_SCALARS = {
    0: struct.Struct("<B"),
    1: struct.Struct("<b"),
    2: struct.Struct("<H"),
    3: struct.Struct("<h"),
    4: struct.Struct("<I"),
    5: struct.Struct("<i"),
    FLOAT32_TYPE: struct.Struct("<f"),
    _BOOL_TYPE: struct.Struct("<B"),
    10: struct.Struct("<Q"),
    11: struct.Struct("<q"),
    12: struct.Struct("<d"),
}
_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")


@dataclass(frozen=True, slots=True)
class GgufLimits:
    """How much of a header we are willing to look at. Every figure is what a file may claim, not what is allocated."""

    header_bytes: int
    keys: int
    tensors: int
    string_bytes: int
    array_items: int
    kept_items: int = 1_024
    """Arrays up to this long become values; longer ones (vocabularies) are walked over and kept as a `LongArray`."""


ADAPTER_LIMITS: Final = GgufLimits(  # real adapters: about 20 keys, two tensors per target, under 1 MiB of header
    header_bytes=8 << 20, keys=256, tensors=16_384, string_bytes=64 << 10, array_items=65_536
)
BASE_LIMITS: Final = GgufLimits(  # largest seen: 262,144 tokens and 515,000 merges, about 16 MiB of header
    header_bytes=64 << 20, keys=4_096, tensors=65_536, string_bytes=4 << 20, array_items=4 << 20
)


@dataclass(frozen=True, slots=True)
class LongArray:
    """Stands for an array that was checked but not kept."""

    item_type: int
    count: int


Scalar = int | float | bool | str
MetadataValue = Scalar | tuple[Scalar, ...] | LongArray


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor's place in the file."""

    name: str
    shape: tuple[int, ...]
    """Elements per dimension in GGUF order: the first is the contiguous one (a matrix is [columns, rows])."""
    type: int
    """ggml type number, a key of `GGML_TYPES`."""
    offset: int
    """Bytes from `GgufHeader.data_offset`."""
    size: int
    """Bytes."""

    @property
    def type_name(self) -> str:
        """ggml's name of the type, for example `F16`."""
        return GGML_TYPES[self.type].name


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """Everything before the tensor data."""

    version: int
    metadata: Mapping[str, MetadataValue]
    value_types: Mapping[str, int]
    """GGUF type number of each value. Engines abort, not fail, on a float of the wrong width."""
    tensors: tuple[TensorInfo, ...]
    data_offset: int
    """Where tensor data starts, bytes."""
    file_size: int
    by_name: Mapping[str, TensorInfo] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "by_name", {tensor.name: tensor for tensor in self.tensors})

    def text(self, key: str) -> str | None:
        """A string value, None if the key is absent or of another type."""
        value = self.metadata.get(key)
        return value if isinstance(value, str) else None

    def number(self, key: str) -> int | float | None:
        """A numeric value, None if the key is absent or of another type."""
        value = self.metadata.get(key)
        return value if isinstance(value, int | float) and not isinstance(value, bool) else None

    @property
    def architecture(self) -> str | None:
        """`general.architecture`."""
        return self.text("general.architecture")

    @property
    def kind(self) -> str:
        """`general.type`; for files older than that key, `adapter` if everything in it is a LoRA tensor, else `model`."""
        declared = self.text("general.type")
        if declared is not None:
            return declared
        lora_only = bool(self.tensors) and all(t.name.endswith((".lora_a", ".lora_b")) for t in self.tensors)
        return "adapter" if lora_only or "adapter.type" in self.metadata else "model"


def read_gguf(file: BinaryIO, *, limits: GgufLimits = ADAPTER_LIMITS) -> GgufHeader:
    """Read and check the header of a GGUF file, version 2 or 3, little-endian.

    Layout, integers little-endian:
        magic "GGUF", version u32, tensor count u64, key count u64
        per key: name (u64 length + bytes), value type u32, value; arrays are item type u32, count u64, items
        per tensor: name, dimension count u32, dimensions u64 each, ggml type u32, offset u64 from the data start
        zero bytes up to the alignment (key `general.alignment`, else 32), then tensor data

    Args:
        file: Seekable, untrusted. Blocking reads; tensor data is not read.
        limits: `ADAPTER_LIMITS` for anything a peer sent, `BASE_LIMITS` for a base model's file.

    Raises:
        AdapterFormatError: With the first thing that is wrong.
    """
    window = HeaderWindow(file, max_bytes=limits.header_bytes, what="GGUF")
    version, tensor_count, key_count = _read_preamble(window, limits)
    metadata, value_types = _read_metadata(window, key_count, limits)
    alignment = _alignment(metadata)
    tensors = _read_tensor_infos(window, tensor_count)
    data_offset = -(-window.offset // alignment) * alignment
    _check_extents(tensors, alignment, window.file_size - data_offset)
    return GgufHeader(version, metadata, value_types, tensors, data_offset, window.file_size)


def _read_preamble(window: HeaderWindow, limits: GgufLimits) -> tuple[int, int, int]:
    if window.file_size == 0:
        raise AdapterFormatError("The file is empty. Get it again from its source.")
    if window.remaining < len(MAGIC) or window.take(4) != MAGIC:
        raise AdapterFormatError("This is not a GGUF file: it does not start with the letters GGUF.")
    version = _u32(window)
    if version not in VERSIONS:
        swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
        if swapped in VERSIONS:
            raise AdapterFormatError(
                "This is a big-endian GGUF file, which Ollama's engines on this machine do not read."
            )
        raise AdapterFormatError(f"GGUF version {version} is not supported; convert the file again to version 3.")
    tensor_count, key_count = _u64(window), _u64(window)
    if key_count > limits.keys:
        raise AdapterFormatError(f"The header claims {key_count} metadata keys; at most {limits.keys} make sense.")
    if tensor_count > limits.tensors:
        raise AdapterFormatError(f"The header claims {tensor_count} tensors; at most {limits.tensors} make sense.")
    return version, tensor_count, key_count


def _read_metadata(
    window: HeaderWindow, count: int, limits: GgufLimits
) -> tuple[dict[str, MetadataValue], dict[str, int]]:
    metadata: dict[str, MetadataValue] = {}
    value_types: dict[str, int] = {}
    for _ in range(count):
        raw_key = _raw_string(window, limits.string_bytes)
        if not _KEY.fullmatch(raw_key):
            raise AdapterFormatError(f"A metadata key is not a plain name: {raw_key[:40]!r}.")
        key = raw_key.decode("ascii")
        if key in metadata:
            raise AdapterFormatError(f"The metadata key {key!r} appears twice.")
        value_type = value_types[key] = _u32(window)
        if value_type == _ARRAY_TYPE:
            metadata[key] = _read_array(window, key, limits)
        else:
            metadata[key] = _read_scalar(window, key, value_type, limits)
    return metadata, value_types


def _read_scalar(window: HeaderWindow, key: str, value_type: int, limits: GgufLimits) -> Scalar:
    if value_type == _STRING_TYPE:
        # Engines do not insist on UTF-8 in values; what we act on is compared with plain words anyway.
        return _raw_string(window, limits.string_bytes).decode("utf-8", "replace")
    layout = _SCALARS.get(value_type)
    if layout is None:
        raise AdapterFormatError(f"The metadata key {key!r} has the unknown value type {value_type}.")
    value: int | float = layout.unpack(window.take(layout.size))[0]
    if value_type != _BOOL_TYPE:
        return value
    if value not in (0, 1):
        raise AdapterFormatError(f"The metadata key {key!r} holds {value} where only true or false fits.")
    return bool(value)


def _read_array(window: HeaderWindow, key: str, limits: GgufLimits) -> MetadataValue:
    item_type, count = _u32(window), _u64(window)
    if count > limits.array_items:
        raise AdapterFormatError(
            f"The metadata key {key!r} claims {count} items; at most {limits.array_items} make sense."
        )
    if item_type == _ARRAY_TYPE:
        raise AdapterFormatError(f"The metadata key {key!r} holds arrays inside an array, which no engine needs.")
    layout = _SCALARS.get(item_type)
    if layout is None and item_type != _STRING_TYPE:
        raise AdapterFormatError(f"The metadata key {key!r} has items of the unknown type {item_type}.")
    window.require(count * (8 if layout is None else layout.size))
    if count <= limits.kept_items:
        return tuple(_read_scalar(window, key, item_type, limits) for _ in range(count))
    if layout is None:
        _skip_strings(window, count, limits.string_bytes)
    else:
        window.skip(count * layout.size)
    return LongArray(item_type, count)


def _skip_strings(window: HeaderWindow, count: int, max_bytes: int) -> None:
    """Walk over `count` strings. A vocabulary has half a million, so the loop stays inside the window where it can."""
    left = count
    unpack = _U64.unpack_from
    while left:
        window.fill(8)
        data, position = window.data, window.position
        last = len(data) - 8
        while left and position <= last:
            length = unpack(data, position)[0]
            if length > max_bytes:
                raise AdapterFormatError(f"A string of {length} bytes is announced; at most {max_bytes} make sense.")
            position += 8 + length
            left -= 1
        overshoot = max(0, position - len(data))
        window.position = position - overshoot
        window.skip(overshoot)


def _read_tensor_infos(window: HeaderWindow, count: int) -> tuple[TensorInfo, ...]:
    tensors: list[TensorInfo] = []
    seen: set[str] = set()
    for _ in range(count):
        tensor = _read_tensor_info(window)
        if tensor.name in seen:
            raise AdapterFormatError(f"The tensor {tensor.name!r} appears twice.")
        seen.add(tensor.name)
        tensors.append(tensor)
    return tuple(tensors)


def _read_tensor_info(window: HeaderWindow) -> TensorInfo:
    raw_name = _raw_string(window, MAX_TENSOR_NAME_BYTES)
    if not _KEY.fullmatch(raw_name):
        raise AdapterFormatError(f"A tensor name is not a plain name: {raw_name[:40]!r}.")
    name = raw_name.decode("ascii")
    dimensions = _u32(window)
    if not 1 <= dimensions <= MAX_DIMENSIONS:
        raise AdapterFormatError(
            f"The tensor {name!r} has {dimensions} dimensions; 1 to {MAX_DIMENSIONS} are possible."
        )
    shape = tuple(_u64(window) for _ in range(dimensions))
    type_number, offset = _u32(window), _u64(window)
    return TensorInfo(name, shape, type_number, offset, _tensor_bytes(name, shape, type_number))


def _tensor_bytes(name: str, shape: tuple[int, ...], type_number: int) -> int:
    ggml_type = GGML_TYPES.get(type_number)
    if ggml_type is None:
        raise AdapterFormatError(f"The tensor {name!r} has the unknown type {type_number}.")
    elements = 1
    for dimension in shape:
        elements *= dimension
    if not 1 <= elements <= MAX_ELEMENTS:
        raise AdapterFormatError(f"The tensor {name!r} claims the impossible shape {list(shape)}.")
    if shape[0] % ggml_type.block_elements:
        raise AdapterFormatError(
            f"The tensor {name!r} has rows of {shape[0]}, which {ggml_type.name} cannot store in whole blocks."
        )
    return elements // ggml_type.block_elements * ggml_type.block_bytes


def _alignment(metadata: Mapping[str, MetadataValue]) -> int:
    alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    if type(alignment) is not int or not 8 <= alignment <= 1 << 20 or alignment & (alignment - 1):
        raise AdapterFormatError("The alignment is not a power of two between 8 bytes and 1 MiB.")
    return alignment


def _check_extents(tensors: tuple[TensorInfo, ...], alignment: int, data_bytes: int) -> None:
    for tensor in tensors:
        if tensor.offset % alignment:
            raise AdapterFormatError(f"The tensor {tensor.name!r} does not start at a multiple of {alignment} bytes.")
        if tensor.offset + tensor.size > data_bytes:
            raise AdapterFormatError(
                f"The tensor {tensor.name!r} reaches {tensor.offset + tensor.size - data_bytes} bytes beyond the end of "
                "the file. The file is cut; get it again from its source."
            )
    in_order = sorted(tensors, key=lambda tensor: tensor.offset)
    for before, after in pairwise(in_order):
        if before.offset + before.size > after.offset:
            raise AdapterFormatError(f"The tensors {before.name!r} and {after.name!r} overlap in the file.")


def _raw_string(window: HeaderWindow, max_bytes: int) -> bytes:
    length = _u64(window)
    if length > max_bytes:
        raise AdapterFormatError(f"A string of {length} bytes is announced; at most {max_bytes} make sense.")
    return window.take(length)


def _u32(window: HeaderWindow) -> int:
    value: int = _U32.unpack(window.take(4))[0]
    return value


def _u64(window: HeaderWindow) -> int:
    value: int = _U64.unpack(window.take(8))[0]
    return value
