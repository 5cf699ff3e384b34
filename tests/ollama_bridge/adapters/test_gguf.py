"""The GGUF reader: every fixture, every trick of T2, and any bytes at all."""

from __future__ import annotations

import io
import struct
import tracemalloc
from contextlib import suppress
from typing import TYPE_CHECKING, BinaryIO, cast

import gguf
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_bridge.adapters.ggml_types import GGML_TYPES
from ollama_bridge.adapters.gguf import BASE_LIMITS, LongArray, read_gguf
from ollama_bridge.adapters.inspect import describe_adapter
from ollama_bridge.errors import AdapterFormatError
from tests.fixtures.gguf_bytes import (
    ARRAY,
    BOOL,
    F16,
    FLOAT32,
    STRING,
    UINT8,
    UINT32,
    UINT64,
    Tensor,
    adapter_bytes,
    array_key,
    gguf_bytes,
    key,
    lora,
    string,
    text_key,
    u32,
    u64,
)
from tests.fixtures.make_fixtures import EXPECT

if TYPE_CHECKING:
    from pathlib import Path

HUGE = 1 << 60
WRAP = (1 << 64) - 32  # added to a size it wraps around in 64 bits


def refusal(data: bytes) -> str:
    with pytest.raises(AdapterFormatError) as caught:
        read_gguf(io.BytesIO(data))
    return str(caught.value)


@pytest.mark.parametrize("name", EXPECT)
def test_t02_fixtures_parse_or_not_as_other_readers_say(fixture_files: Path, name: str) -> None:
    with (fixture_files / name).open("rb") as file:
        if EXPECT[name].parses:
            header = read_gguf(file, limits=BASE_LIMITS)
            assert header.kind == EXPECT[name].kind
        else:
            with pytest.raises(AdapterFormatError):
                read_gguf(file, limits=BASE_LIMITS)


@pytest.mark.parametrize("name", ["base.gguf", "adapter.gguf", "adapter_b.gguf"])
def test_header_agrees_with_gguf_py(fixture_files: Path, name: str) -> None:
    reader = gguf.GGUFReader(fixture_files / name)
    with (fixture_files / name).open("rb") as file:
        header = read_gguf(file, limits=BASE_LIMITS)
    assert header.data_offset == reader.data_offset
    assert [(t.name, list(t.shape), t.offset + header.data_offset, t.size) for t in header.tensors] == [
        (t.name, [int(n) for n in t.shape], t.data_offset, t.n_bytes) for t in reader.tensors
    ]
    for name_, value in header.metadata.items():
        if not isinstance(value, LongArray):
            contents = reader.fields[name_].contents()
            assert value == (tuple(contents) if isinstance(contents, list) else contents)


def test_type_table_agrees_with_gguf_py() -> None:
    sizes = {int(number): size for number, size in gguf.GGML_QUANT_SIZES.items()}
    for number, layout in GGML_TYPES.items():
        assert gguf.GGMLQuantizationType(number).name == layout.name
        assert sizes[number] == (layout.block_elements, layout.block_bytes)


def test_long_arrays_are_checked_but_not_kept() -> None:
    words = b"".join(string("w" * (i % 50)) for i in range(60_000))
    data = gguf_bytes(
        [
            array_key("tokens", STRING, 60_000, words),
            array_key("scores", FLOAT32, 50_000, bytes(200_000)),
            text_key("z", "end"),
        ]
    )
    header = read_gguf(io.BytesIO(data))
    assert header.metadata == {"tokens": LongArray(STRING, 60_000), "scores": LongArray(FLOAT32, 50_000), "z": "end"}


def test_t02_forty_three_bytes_do_not_loop() -> None:
    # llama.cpp PR 27188: a tiny file announces an endless array of arrays, and gguf-py walks it for ever.
    data = b"GGUF" + u32(3) + u64(0) + u64(1) + string("a") + u32(ARRAY) + u32(ARRAY) + u64(HUGE)
    refusal(data)
    refusal(data[:43])


TRICKS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "empty"),
    "short magic": (b"GG", "not a GGUF"),
    "other magic": (b"GGML" + bytes(100), "not a GGUF"),
    "version 1": (gguf_bytes(version=1), "version 1"),
    "version 4": (gguf_bytes(version=4), "version 4"),
    "big-endian": (b"GGUF" + struct.pack(">I", 3) + bytes(16), "big-endian"),
    "huge key count": (gguf_bytes(key_count=HUGE), "metadata keys"),
    "huge tensor count": (gguf_bytes(tensor_count=HUGE), "tensors"),
    "keys that are not there": (gguf_bytes(key_count=200)[:24], "cut or lies"),
    "tensors that are not there": (gguf_bytes(tensor_count=10_000)[:24], "cut or lies"),
    "key length bomb": (gguf_bytes([u64(HUGE)]), "string of"),
    "key length past the end": (gguf_bytes([u64(60_000)]), "cut or lies"),
    "empty key": (gguf_bytes([text_key("", "x")]), "plain name"),
    "key with a zero byte": (gguf_bytes([key(b"a\0b", UINT8, b"\1")]), "plain name"),
    "key that is no text": (gguf_bytes([key(b"\xff\xfe", UINT8, b"\1")]), "plain name"),
    "same key twice": (gguf_bytes([text_key("a", "1"), text_key("a", "2")]), "twice"),
    "unknown value type": (gguf_bytes([key("a", 13, bytes(8))]), "value type 13"),
    "string value bomb": (gguf_bytes([key("a", STRING, u64(HUGE))]), "string of"),
    "bool that is neither": (gguf_bytes([key("a", BOOL, b"\2")]), "true or false"),
    "array count bomb": (gguf_bytes([array_key("a", UINT64, HUGE)]), "items"),
    "array count wraps": (gguf_bytes([array_key("a", UINT64, 1 << 61)]), "items"),
    "array of many nothing": (gguf_bytes([array_key("a", STRING, 60_000)]), "cut or lies"),
    "array inside array": (gguf_bytes([array_key("a", ARRAY, 1, u32(UINT8) + u64(0))]), "inside an array"),
    "array of unknown": (gguf_bytes([array_key("a", 99, 1, bytes(8))]), "unknown type 99"),
    "string bomb in a long array": (
        gguf_bytes([array_key("a", STRING, 2_000, string("x") * 1_999 + u64(HUGE))]),
        "string of",
    ),
    "long array ends outside": (
        gguf_bytes([array_key("a", STRING, 2_000, string("x") * 1_999 + u64(9_999))]),
        "cut or",
    ),
    "alignment 0": (gguf_bytes([key("general.alignment", UINT32, u32(0))]), "alignment"),
    "alignment 4": (gguf_bytes([key("general.alignment", UINT32, u32(4))]), "alignment"),
    "alignment 48": (gguf_bytes([key("general.alignment", UINT32, u32(48))]), "alignment"),
    "alignment 2 MiB": (gguf_bytes([key("general.alignment", UINT32, u32(2 << 20))]), "alignment"),
    "alignment as float": (gguf_bytes([key("general.alignment", FLOAT32, struct.pack("<f", 32))]), "alignment"),
    "alignment as bool": (gguf_bytes([key("general.alignment", BOOL, b"\1")]), "alignment"),
    "no dimensions": (gguf_bytes(tensors=[Tensor("t", ())]), "0 dimensions"),
    "five dimensions": (gguf_bytes(tensors=[Tensor("t", (1, 1, 1, 1, 1))]), "5 dimensions"),
    "dimension 0": (gguf_bytes(tensors=[Tensor("t", (4, 0))]), "impossible shape"),
    "elements wrap to 0": (
        gguf_bytes(tensors=[Tensor("t", (1 << 32, 1 << 32), offset=0)], data=b""),
        "impossible shape",
    ),
    "size wraps": (gguf_bytes(tensors=[Tensor("t", ((1 << 62) + 1,), offset=0)], data=b""), "impossible shape"),
    "unknown tensor type": (gguf_bytes(tensors=[Tensor("t", (32,), type=200)]), "unknown type 200"),
    "removed tensor type": (gguf_bytes(tensors=[Tensor("t", (32,), type=4)]), "unknown type 4"),
    "half a block": (gguf_bytes(tensors=[Tensor("t", (33,), type=8)]), "whole blocks"),
    "offset not aligned": (gguf_bytes(tensors=[Tensor("t", (4,), offset=8)], data=bytes(64)), "multiple of 32"),
    "offset outside": (gguf_bytes(tensors=[Tensor("t", (4,), offset=4096)], data=bytes(64)), "beyond the end"),
    "offset wraps": (gguf_bytes(tensors=[Tensor("t", (64,), offset=WRAP)], data=bytes(256)), "beyond the end"),
    "one byte short": (gguf_bytes(tensors=[Tensor("t", (8,))], data=bytes(31)), "1 bytes beyond"),
    "overlap": (
        gguf_bytes(tensors=[Tensor("t", (16,), offset=0), Tensor("u", (16,), offset=32)], data=bytes(128)),
        "overlap",
    ),
    "same place": (
        gguf_bytes(tensors=[Tensor("t", (8,), offset=0), Tensor("u", (8,), offset=0)], data=bytes(64)),
        "overlap",
    ),
    "same tensor twice": (gguf_bytes(tensors=[Tensor("t", (8,)), Tensor("t", (8,))]), "twice"),
    "tensor name too long": (gguf_bytes(tensors=[Tensor("t" * 64, (8,))]), "string of 64"),
    "tensor name with zero": (gguf_bytes(tensors=[Tensor("a\0b", (8,))]), "plain name"),
    "empty tensor name": (gguf_bytes(tensors=[Tensor("", (8,))]), "plain name"),
    "data starts behind the file": (gguf_bytes(tensors=[Tensor("t", (8,))])[:70], "beyond the end"),
}


@pytest.mark.parametrize("trick", TRICKS)
def test_t02_header_tricks_are_refused(trick: str) -> None:
    data, words = TRICKS[trick]
    message = refusal(data)
    assert words in message
    assert message.endswith(".")


def test_t02_header_cap_holds_even_if_every_field_is_modest() -> None:
    keys = [key(f"k{i}", STRING, string(b"x" * 60_000)) for i in range(200)]
    assert "header bytes" in refusal(gguf_bytes(keys))


def test_t02_memory_does_not_follow_claims() -> None:
    vocabulary = array_key("tokens", STRING, 65_536, string("w" * 100) * 65_536)
    files = [data for data, _ in TRICKS.values()] + [gguf_bytes([vocabulary])]
    tracemalloc.start()
    try:
        for data in files:
            with suppress(AdapterFormatError):
                read_gguf(io.BytesIO(data))
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def test_t02_file_that_shrinks_while_read_is_refused() -> None:
    class Shrinking(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            return super().read(size)[:10] if self.tell() == 0 else b""

    with pytest.raises(AdapterFormatError, match="shorter"):
        read_gguf(cast("BinaryIO", Shrinking(gguf_bytes())))


def test_version_2_and_other_alignments_are_read() -> None:
    aligned = [key("general.alignment", UINT32, u32(256))]
    header = read_gguf(io.BytesIO(gguf_bytes(aligned, lora("blk.0.attn_q.weight"), version=2, alignment=256)))
    assert header.version == 2
    assert header.data_offset % 256 == 0
    assert header.tensors[1].offset == 1024


def test_kind_of_files_older_than_general_type() -> None:
    assert read_gguf(io.BytesIO(gguf_bytes([], lora("blk.0.attn_q.weight")))).kind == "adapter"
    assert read_gguf(io.BytesIO(gguf_bytes([], [Tensor("output.weight", (4, 4))]))).kind == "model"


@given(st.binary(max_size=200))
def test_t02_any_bytes_behind_the_magic_parse_or_are_refused(data: bytes) -> None:
    with suppress(AdapterFormatError):
        read_gguf(io.BytesIO(b"GGUF\x03\0\0\0" + data))


@given(st.data())
def test_t02_any_damage_parses_or_is_refused(data: st.DataObject) -> None:
    whole = bytearray(adapter_bytes(lora("blk.0.attn_q.weight", type=F16)))
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, min(len(whole) - 9, 420)))
        width = data.draw(st.sampled_from([1, 4, 8]))
        whole[position : position + width] = data.draw(st.binary(min_size=width, max_size=width))
    with suppress(AdapterFormatError):
        describe_adapter(io.BytesIO(whole[: data.draw(st.sampled_from([len(whole), len(whole) // 2, 100]))]))
