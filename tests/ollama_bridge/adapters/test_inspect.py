"""Describing adapters: what passes, what is refused and in which words."""

from __future__ import annotations

import hashlib
import io
import struct
from typing import TYPE_CHECKING

import pytest

from ollama_bridge.adapters.gguf import read_gguf
from ollama_bridge.adapters.inspect import AdapterInfo, describe_adapter, shapes_digest
from ollama_bridge.errors import AdapterFormatError
from tests.fixtures.gguf_bytes import (
    FLOAT32,
    FLOAT64,
    STRING,
    UINT32,
    Tensor,
    adapter_bytes,
    array_key,
    base_bytes,
    gguf_bytes,
    key,
    lora,
    string,
    text_key,
    u32,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

TARGET = "blk.0.attn_q.weight"


def describe(data: bytes) -> AdapterInfo:
    return describe_adapter(io.BytesIO(data))


def test_fixture_is_described(fixture_files: Path) -> None:
    with (fixture_files / "adapter.gguf").open("rb") as file:
        info = describe_adapter(file)
    assert (info.format, info.architecture, info.rank, info.alpha, info.tensors) == ("gguf", "llama", 4, 8.0, 16)
    assert info.targets == ("attn_k", "attn_output", "attn_q", "attn_v")


def test_shapes_digest_is_of_the_documented_text() -> None:
    header = read_gguf(io.BytesIO(adapter_bytes(lora("blk.1.ffn_up.weight", rows=128) + lora(TARGET, type=1))))
    text = (
        "blk.0.attn_q.weight.lora_a\t64,4\tF16\n"
        "blk.0.attn_q.weight.lora_b\t4,64\tF16\n"
        "blk.1.ffn_up.weight.lora_a\t64,4\tF32\n"
        "blk.1.ffn_up.weight.lora_b\t4,128\tF32\n"
    )
    assert shapes_digest(header.tensors) == hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("base.gguf", "not an adapter"),
        ("adapter_unpaired.gguf", "incomplete"),
        ("adapter_no_type.gguf", "adapter.type"),
        ("adapter_truncated.gguf", "beyond the end"),
        ("empty.gguf", "empty"),
    ],
)
def test_t02_fixtures_that_are_no_adapters(fixture_files: Path, name: str, words: str) -> None:
    with (fixture_files / name).open("rb") as file, pytest.raises(AdapterFormatError, match=words):
        describe_adapter(file)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (adapter_bytes(general__type=text_key("general.type", "model")), "'model', not an adapter"),
        (adapter_bytes(general__type=None), "before `general.type` existed"),
        (adapter_bytes(general__type=key("general.type", UINT32, u32(1))), "before"),
        (adapter_bytes(general__type=text_key("general.type", "\x1b[2Jadapter")), r"'\\x1b\[2Jadapter'"),
        (adapter_bytes(adapter__type=text_key("adapter.type", "control_vector")), "'control_vector'"),
        (adapter_bytes(general__architecture=None), "architecture"),
        (adapter_bytes(general__architecture=text_key("general.architecture", "../x")), "architecture"),
        (adapter_bytes(adapter__lora__alpha=None), "alpha is missing"),
        (adapter_bytes(adapter__lora__alpha=key("adapter.lora.alpha", FLOAT64, struct.pack("<d", 8))), "32-bit"),
        (adapter_bytes(adapter__lora__alpha=key("adapter.lora.alpha", UINT32, u32(8))), "32-bit"),
        (
            adapter_bytes(adapter__lora__alpha=key("adapter.lora.alpha", FLOAT32, struct.pack("<f", float("nan")))),
            "finite",
        ),
        (adapter_bytes(extra=[text_key("tokenizer.ggml.model", "llama")]), "tokenizer.ggml.model"),
        (adapter_bytes(extra=[text_key("tokenizer.chat_template", "{{ x }}")]), "chat_template"),
        (adapter_bytes(extra=[text_key("general.chat_template", "{{ x }}")]), "chat_template"),
        (adapter_bytes(extra=[array_key("tokenizer.ggml.tokens", STRING, 1, string("a"))]), "tokens"),
        (adapter_bytes(extra=[key("split.count", UINT32, u32(2))]), "split.count"),
    ],
)
def test_t02_keys_that_have_no_place_in_an_adapter(data: bytes, words: str) -> None:
    with pytest.raises(AdapterFormatError, match=words):
        describe(data)


A, B = Tensor(f"{TARGET}.lora_a", (64, 4)), Tensor(f"{TARGET}.lora_b", (4, 64))


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ([], "no tensors"),
        ([A], "incomplete"),
        ([B], "incomplete"),
        ([A, B, Tensor("blk.0.attn_q.weight", (64, 64))], "not a LoRA factor"),
        ([A, B, Tensor("output_norm.weight", (64,))], "not a LoRA factor"),
        ([A, Tensor(B.name, (5, 64))], "rank 4 on one side and 5"),
        ([Tensor(A.name, (64,)), Tensor(B.name, (64,))], "two matrices"),
        ([Tensor(A.name, (64, 4, 2)), B], "two matrices"),
        ([Tensor(A.name, (64, 4, 2)), Tensor(B.name, (4, 64, 3))], "two matrices"),
        ([Tensor(A.name, (8, 5000)), Tensor(B.name, (5000, 8))], "rank 5000"),
        ([Tensor(A.name, (64, 4), 26), B], "I32"),
    ],
)
def test_t02_tensors_that_make_no_lora(tensors: Sequence[Tensor], words: str) -> None:
    with pytest.raises(AdapterFormatError, match=words):
        describe(adapter_bytes(tensors))


def test_ranks_may_differ_between_pairs() -> None:
    assert describe(adapter_bytes([A, B, *lora("blk.1.attn_q.weight", rank=16)])).rank == 16


def test_embedding_factors_come_transposed() -> None:
    tensors = [Tensor("token_embd.weight.lora_a", (4, 320)), Tensor("token_embd.weight.lora_b", (4, 64))]
    assert describe(adapter_bytes(tensors)).targets == ("token_embd",)


def test_expert_tensors_have_a_third_dimension() -> None:
    name = "blk.0.ffn_up_exps.weight"
    info = describe(adapter_bytes([Tensor(f"{name}.lora_a", (64, 4, 8)), Tensor(f"{name}.lora_b", (4, 128, 8))]))
    assert info.targets == ("ffn_up_exps",)


@pytest.mark.parametrize(
    ("type_", "bad"),
    [
        (0, struct.pack("<f", float("inf"))),
        (0, struct.pack("<f", float("nan"))),
        (1, b"\x00\x7c"),
        (30, b"\x80\x7f"),
        (8, b"\x00\x7e"),
    ],
    ids=["F32 inf", "F32 nan", "F16 inf", "BF16 inf", "Q8_0 scale nan"],
)
@pytest.mark.parametrize("at_end", [False, True])
def test_t02_numbers_that_are_none_are_noticed(type_: int, bad: bytes, at_end: bool) -> None:
    tensors = lora(TARGET, rank=32, rows=64, type=type_)
    size = sum(tensor.size for tensor in tensors)
    assert describe(adapter_bytes(tensors, data=bytes(size))).tensors == 2
    position = size - 34 if at_end and type_ == 8 else size - len(bad) if at_end else 0
    data = bytes(position) + bad
    with pytest.raises(AdapterFormatError, match="not numbers"):
        describe(adapter_bytes(tensors, data=data + bytes(size - len(data))))


def test_large_tensors_are_sampled_at_both_ends_and_between() -> None:
    tensors = lora(TARGET, columns=1 << 20, rank=8, rows=64)
    size = sum(tensor.size for tensor in tensors)
    data = bytearray(size)
    end = tensors[0].size
    for start in (0, end // 2 - (64 << 10), end - 4096):
        damaged = bytearray(data)
        stretch = slice(start, min(start + (128 << 10), end))
        damaged[stretch] = b"\xff" * (stretch.stop - stretch.start)
        with pytest.raises(AdapterFormatError, match="not numbers"):
            describe(adapter_bytes(tensors, data=bytes(damaged)))


def test_base_is_not_an_adapter_even_without_type() -> None:
    with pytest.raises(AdapterFormatError, match="'model'"):
        describe(gguf_bytes([], [Tensor("output.weight", (4, 4))]))
    with pytest.raises(AdapterFormatError, match="'model'"):
        describe(base_bytes())
