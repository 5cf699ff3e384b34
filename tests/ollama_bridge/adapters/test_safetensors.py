"""The safetensors reader: T3's tricks, agreement with the reference implementation, any bytes."""

from __future__ import annotations

import io
import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from ollama_bridge.adapters.safetensors import DTYPE_BYTES, MAX_HEADER_BYTES, MAX_TENSORS, read_safetensors
from ollama_bridge.errors import AdapterFormatError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


def framed(header: bytes, data: bytes = b"") -> bytes:
    return len(header).to_bytes(8, "little") + header + data


def tensor(begin: int = 0, end: int = 16, *, dtype: str = "F32", shape: Any = (2, 2)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def written(document: object, data: bytes = bytes(16)) -> bytes:
    return framed(json.dumps(document).encode(), data)


TRICKS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "cut or lies"),
    "seven bytes": (bytes(7), "cut or lies"),
    "length bomb": ((1 << 63).to_bytes(8, "little") + b"{}", "claims"),
    "length over the cap": ((MAX_HEADER_BYTES + 1).to_bytes(8, "little") + b"{" + bytes(100), "claims"),
    "length past the end": ((1000).to_bytes(8, "little") + b"{}", "cut or lies"),
    "length 0": (framed(b""), "not a JSON object"),
    "array": (framed(b"[]"), "not a JSON object"),
    "space first": (framed(b" {}"), "not a JSON object"),
    "zip polyglot": (b"PK\x03\x04" + bytes(100), "claims"),
    "pickle": (b"\x80\x04\x95" + bytes(100), "claims"),
    "cut JSON": (framed(b'{"a":'), "not valid JSON"),
    "not UTF-8": (framed(b'{"\xff":1}'), "not valid JSON"),
    "deep JSON": (framed(b'{"a":' * 50_000), "not valid JSON"),
    "NaN": (framed(b'{"a":NaN}'), "not valid JSON"),
    "name twice": (framed(b'{"a":%s,"a":%s}' % ((json.dumps(tensor()).encode(),) * 2), bytes(16)), "twice"),
    "field twice": (framed(b'{"a":{"dtype":"F32","dtype":"F32"}}'), "twice"),
    "unknown field": (written({"a": tensor() | {"x": 1}}), "described by"),
    "missing field": (written({"a": {"dtype": "F32", "shape": [4]}}), "described by"),
    "tensor is a number": (written({"a": 1}), "described by"),
    "metadata is a list": (written({"__metadata__": []}), "map of texts"),
    "metadata of numbers": (written({"__metadata__": {"a": 1}}), "map of texts"),
    "unknown dtype": (written({"a": tensor(dtype="F4")}), "unknown type"),
    "dtype is a list": (written({"a": tensor() | {"dtype": ["F32"]}}), "unknown type"),
    "negative dimension": (written({"a": tensor(shape=[-2, -2])}), "usable shape"),
    "fractional dimension": (written({"a": tensor(shape=[2.0, 2])}), "usable shape"),
    "true as dimension": (written({"a": tensor(shape=[True, 4])}), "usable shape"),
    "no dimensions": (written({"a": tensor(0, 4, shape=[])}), "usable shape"),
    "nine dimensions": (written({"a": tensor(0, 4, shape=[1] * 9)}), "usable shape"),
    "empty tensor": (written({"a": tensor(0, 0, shape=[0])}, b""), "impossible shape"),
    "elements wrap": (written({"a": tensor(0, 0, shape=[1 << 32, 1 << 32])}, b""), "impossible shape"),
    "size does not match": (written({"a": tensor(0, 12)}), "does not match"),
    "offsets reversed": (written({"a": tensor(16, 0)}), "does not match"),
    "negative offset": (written({"a": tensor(-16, 0)}), "data_offsets"),
    "three offsets": (written({"a": tensor() | {"data_offsets": [0, 8, 16]}}), "data_offsets"),
    "gap at the start": (written({"a": tensor(4, 20)}, bytes(20)), "gap or an overlap"),
    "gap between": (written({"a": tensor(), "b": tensor(20, 36)}, bytes(36)), "gap or an overlap"),
    "overlap": (written({"a": tensor(), "b": tensor(8, 24)}, bytes(24)), "gap or an overlap"),
    "same place": (written({"a": tensor(), "b": tensor()}), "gap or an overlap"),
    "data cut": (written({"a": tensor()}, bytes(15)), "cut"),
    "bytes behind the data": (written({"a": tensor()}, bytes(16) + b"PK\x05\x06"), "belong to no tensor"),
    "name with a slash": (written({"../a": tensor()}), "plain name"),
    "name with an escape": (written({"\x1b[2J": tensor()}), "plain name"),
    "too many tensors": (written({f"t{i}": 0 for i in range(MAX_TENSORS + 1)}), "lists"),
}


@pytest.mark.parametrize("trick", TRICKS)
def test_t03_tricks_are_refused(trick: str) -> None:
    data, words = TRICKS[trick]
    with pytest.raises(AdapterFormatError, match=words) as caught:
        read_safetensors(io.BytesIO(data))
    assert str(caught.value).endswith(".")


def test_header_agrees_with_the_reference(tmp_path: Path) -> None:
    arrays: dict[str, NDArray[Any]] = {
        "b.w": np.ones((3, 5), np.float16),
        "a.w": np.zeros((2, 2), np.float32),
        "c": np.arange(7, dtype=np.int64),
    }
    safetensors.numpy.save_file(arrays, tmp_path / "f.safetensors", metadata={"format": "pt"})
    raw = (tmp_path / "f.safetensors").read_bytes()
    header = read_safetensors(io.BytesIO(raw))
    assert header.metadata == {"format": "pt"}
    assert {t.name: (t.dtype, t.shape) for t in header.tensors} == {
        "a.w": ("F32", (2, 2)),
        "b.w": ("F16", (3, 5)),
        "c": ("I64", (7,)),
    }
    for info in header.tensors:
        assert raw[info.offset : info.offset + info.size] == arrays[info.name].tobytes()


@given(st.binary(max_size=120), st.booleans())
def test_t03_any_bytes_parse_or_are_refused(data: bytes, with_length: bool) -> None:
    with suppress(AdapterFormatError):
        read_safetensors(io.BytesIO(framed(b"{" + data) if with_length else data))


@given(st.lists(st.tuples(st.sampled_from(["F32", "BF16", "U8"]), st.lists(st.integers(0, 3), max_size=3)), max_size=4),
       st.integers(-1, 1), st.integers(-1, 1))  # fmt: skip
def test_t03_what_we_accept_the_reference_accepts(parts: list[tuple[str, list[int]]], shift: int, tail: int) -> None:
    document, position = {}, 0
    for index, (dtype, shape) in enumerate(parts):
        size = int(np.prod(shape)) * DTYPE_BYTES[dtype]
        begin = max(position + (shift if index == 1 else 0), 0)
        document[f"t{index}"] = tensor(begin, begin + size, dtype=dtype, shape=shape)
        position = begin + size
    raw = written(document, bytes(max(position + tail, 0)))
    try:
        header = read_safetensors(io.BytesIO(raw))
    except AdapterFormatError:
        return
    assert len(safetensors.deserialize(raw)) == len(header.tensors)  # type: ignore[no-untyped-call]
