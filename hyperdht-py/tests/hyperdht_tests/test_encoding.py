"""compact-encoding: recorded vectors, round trips, and any bytes at all."""

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperdht.addresses import Address
from hyperdht.encoding import MAX_SAFE_INTEGER, Reader, Writer, encode_uint
from hyperdht.errors import DecodeError

from .vectors import pattern, transport

UINT_BYTES = {"uint40": 5, "uint48": 6, "uint56": 7}


def codec_named(name: str) -> tuple[Callable[[Writer, Any], object], Callable[[Reader], Any]]:
    """How to push and pull what the vectors call by this name."""
    if inner := re.fullmatch(r"array\((.*)\)", name):
        push, pull = codec_named(inner[1])
        return lambda w, items: w.push_array(items, push), lambda r: r.pull_array(pull)
    if inner := re.fullmatch(r"frame\((.*)\)", name):
        push, pull = codec_named(inner[1])
        return lambda w, value: w.push_frame(lambda part: push(part, value)), lambda r: pull(r.pull_frame())
    if inner := re.fullmatch(r"bitfield\((.*)\)", name):
        return lambda w, flags: w.push_bitfield(flags, int(inner[1])), Reader.pull_bitfield
    if size := UINT_BYTES.get(name):
        return lambda w, value: w.push_fixed_uint(value, size), lambda r: r.pull_fixed_uint(size)
    if name in ("uint32be", "uint64be"):
        size = int(name[4:6]) // 8
        return lambda w, value: w.push_uint_be(value, size), lambda r: r.pull_uint_be(size)
    renamed = {
        "raw": "rest",
        "fixed32": "fixed",
        "optionalBuffer": "optional_buffer",
        "date": "int",
        "json": "string",
    }.get(name, re.sub(r"(ip|ipv4|ipv6)Address", r"\1_address", name).removesuffix("(pattern 253)"))
    push = getattr(Writer, f"push_{renamed}")
    pull = getattr(Reader, f"pull_{renamed}")
    return push, (lambda r: pull(r, 32)) if name == "fixed32" else pull


def value_of(codec: str, value: Any) -> Any:
    """The Python value of a recorded JSON value."""
    if codec in ("raw", "fixed32", "buffer", "optionalBuffer") and value is not None:
        return bytes.fromhex(value)
    if codec.startswith("buffer(pattern"):
        return pattern(253)
    if codec == "json":
        return json.dumps(value, separators=(",", ":"))
    if codec == "array(ipv4Address)":
        return [Address(**item) for item in value]
    return Address(**value) if isinstance(value, dict) else value


def with_full_ipv6(codec: str, value: Any) -> Any:
    """The decoder writes all eight groups of an IPv6 address."""
    full = {"2001:db8::1:ff": "2001:db8:0:0:0:0:1:ff", "::1": "0:0:0:0:0:0:0:1"}
    full |= {"fe80::1": "fe80:0:0:0:0:0:0:1", "2001:db8::": "2001:db8:0:0:0:0:0:0"}
    if isinstance(value, Address):
        return Address(full.get(value.host, value.host), value.port)
    return full.get(value, value) if codec == "ipv6" else value


@pytest.mark.parametrize("vector", transport()["compactEncoding"], ids=lambda v: f"{v['codec']}={v['hex'][:16]}")
def test_vector(vector: dict[str, Any]) -> None:
    codec, recorded = vector["codec"], bytes.fromhex(vector["hex"])
    push, pull = codec_named(codec)
    value = value_of(codec, vector["value"])
    writer = Writer()
    push(writer, value)
    assert writer.finish() == recorded
    reader = Reader(recorded)
    assert pull(reader) == with_full_ipv6(codec, value)
    assert reader.remaining == 0


@given(st.integers(0, MAX_SAFE_INTEGER))
def test_uint_round_trip(value: int) -> None:
    assert Reader(encode_uint(value)).pull_uint() == value


@given(st.integers(-(2**52), 2**52 - 1))
def test_int_round_trip(value: int) -> None:
    writer = Writer()
    writer.push_int(value)
    assert Reader(writer.finish()).pull_int() == value


@given(st.text(), st.binary(), st.one_of(st.none(), st.binary(min_size=1)), st.booleans())
def test_fields_round_trip_in_order(text: str, data: bytes, optional: bytes | None, flag: bool) -> None:
    writer = Writer()
    writer.push_string(text)
    writer.push_buffer(data)
    writer.push_optional_buffer(optional)
    writer.push_bool(flag)
    reader = Reader(writer.finish())
    assert reader.pull_string() == text
    assert reader.pull_buffer() == data
    assert reader.pull_optional_buffer() == optional
    assert reader.pull_bool() is flag


def test_longer_forms_than_needed_are_read() -> None:
    assert Reader(bytes.fromhex("fd0500")).pull_uint() == 5
    assert Reader(bytes.fromhex("ff0500000000000000")).pull_uint() == 5


def test_integers_javascript_cannot_hold_are_refused() -> None:
    with pytest.raises(DecodeError):
        Reader(bytes.fromhex("ff0000000000002000")).pull_uint()
    for value in (-1, MAX_SAFE_INTEGER + 1):
        with pytest.raises(ValueError, match="not an integer between"):
            encode_uint(value)


def test_fields_over_their_cap_are_refused_before_reading_them() -> None:
    with pytest.raises(DecodeError, match="at most 4"):
        Reader(b"\x05hello").pull_buffer(max_bytes=4)
    with pytest.raises(DecodeError, match="at most"):
        Reader(bytes.fromhex("fe01001000")).pull_array(Reader.pull_uint)


def test_bool_is_true_only_for_one() -> None:
    assert [Reader(bytes([b])).pull_bool() for b in (0, 1, 2, 255)] == [False, True, False, False]


PULLS: list[Callable[[Reader], object]] = [
    Reader.pull_uint,
    Reader.pull_int,
    Reader.pull_uint16,
    Reader.pull_uint64,
    Reader.pull_float64,
    Reader.pull_bool,
    Reader.pull_buffer,
    Reader.pull_optional_buffer,
    Reader.pull_string,
    Reader.pull_ip_address,
    Reader.pull_ipv6,
    Reader.pull_rest,
    lambda r: r.pull_fixed(5),
    lambda r: r.pull_array(Reader.pull_uint),
    lambda r: r.pull_frame().pull_string(),
]


@given(st.binary(), st.lists(st.sampled_from(PULLS), min_size=1, max_size=8))
def test_any_bytes_decode_or_raise_decode_error(data: bytes, pulls: list[Callable[[Reader], object]]) -> None:
    reader = Reader(data)
    try:
        for pull in pulls:
            pull(reader)
    except DecodeError:
        pass
    assert 0 <= reader.remaining <= len(data)
