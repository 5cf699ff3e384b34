"""Adapter and base: the matrix of near misses (T5)."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import pytest

from ollama_bridge.adapters.fit import Fit, check_fit
from ollama_bridge.adapters.gguf import BASE_LIMITS, read_gguf
from tests.fixtures.gguf_bytes import Tensor, adapter_bytes, base_bytes, gguf_bytes, key, lora, text_key
from tests.fixtures.make_fixtures import EXPECT

if TYPE_CHECKING:
    from pathlib import Path

TARGETS = [*lora("blk.0.attn_q.weight"), *lora("blk.1.attn_k.weight", rows=32)]


def fit(adapter: bytes, base: bytes) -> Fit:
    return check_fit(read_gguf(io.BytesIO(adapter)), read_gguf(io.BytesIO(base), limits=BASE_LIMITS))


@pytest.mark.parametrize("name", [name for name, expected in EXPECT.items() if expected.kind == "adapter"])
def test_t05_verdict_agrees_with_llama_cpp(fixture_files: Path, name: str) -> None:
    from ollama_bridge.adapters.inspect import describe_adapter
    from ollama_bridge.errors import AdapterFormatError

    with (fixture_files / name).open("rb") as adapter, (fixture_files / "base.gguf").open("rb") as base:
        try:
            describe_adapter(adapter)
        except AdapterFormatError:
            loads = False
        else:
            loads = check_fit(read_gguf(adapter), read_gguf(base, limits=BASE_LIMITS)).ok
    assert loads is EXPECT[name].loads


def test_t05_right_base_fits_without_warnings() -> None:
    assert fit(adapter_bytes(TARGETS), base_bytes()) == Fit(True)


@pytest.mark.parametrize(
    ("base", "words"),
    [
        (base_bytes(architecture="qwen2"), "'llama', the base is 'qwen2'"),
        (base_bytes(blocks=1), "changes block 1, but this base has only 1 blocks"),
        (
            base_bytes(embd=128, kv=64),
            "blk.0.attn_q.weight is 128 x 128 in this base, the adapter was made for 64 x 64",
        ),
        (base_bytes(kv=64), "blk.1.attn_k.weight is 64 x 64 in this base, the adapter was made for 64 x 32"),
        (base_bytes(fused=True), "keeps attn_qkv in one tensor"),
        (adapter_bytes(), "itself a GGUF of type 'adapter'"),
        (gguf_bytes([text_key("general.architecture", "llama")], [Tensor("x.weight", (4, 4))]), "has only 0 blocks"),
    ],
    ids=["family", "fewer blocks", "wider", "other kv heads", "fused", "adapter as base", "no blocks"],
)
def test_t05_near_misses_are_refused_with_the_reason(base: bytes, words: str) -> None:
    verdict = fit(adapter_bytes(TARGETS), base)
    assert not verdict.ok
    assert any(words in reason for reason in verdict.reasons), verdict.reasons


def test_t05_output_of_a_base_with_tied_embeddings() -> None:
    verdict = fit(adapter_bytes(lora("output.weight", rows=320)), base_bytes(output=False))
    assert not verdict.ok
    assert "token embedding as output" in verdict.reasons[0]


def test_t05_deeper_base_of_the_family_fits_by_shape() -> None:
    """Why the base's digest must be compared as well: shapes cannot tell these apart."""
    assert fit(adapter_bytes(TARGETS), base_bytes(blocks=8)).ok


def test_t05_another_quantisation_fits_by_shape() -> None:
    base = base_bytes()
    quantised = gguf_bytes(
        [text_key("general.type", "model"), text_key("general.architecture", "llama")],
        [Tensor(t.name, t.shape, 8) for t in read_gguf(io.BytesIO(base)).tensors],
    )
    assert fit(adapter_bytes(TARGETS), quantised).ok


def test_embedding_and_expert_targets() -> None:
    embedding = [Tensor("token_embd.weight.lora_a", (4, 320)), Tensor("token_embd.weight.lora_b", (4, 64))]
    assert fit(adapter_bytes(embedding), base_bytes()).ok
    name = "blk.0.ffn_up_exps.weight"
    experts = [Tensor(f"{name}.lora_a", (64, 4, 8)), Tensor(f"{name}.lora_b", (4, 128, 8))]
    keys = [text_key("general.type", "model"), text_key("general.architecture", "llama")]
    assert fit(adapter_bytes(experts), gguf_bytes(keys, [Tensor(name, (64, 128, 8))])).ok
    assert not fit(adapter_bytes(experts), gguf_bytes(keys, [Tensor(name, (64, 128, 4))])).ok


def test_many_misfits_make_few_sentences() -> None:
    tensors = [tensor for block in range(50) for tensor in lora(f"blk.{block}.attn_q.weight")]
    verdict = fit(adapter_bytes(tensors), base_bytes(blocks=50, embd=128))
    assert len(verdict.reasons) == 5
    assert "46 more" in verdict.reasons[-1]


@pytest.mark.parametrize(
    ("adapter", "words"),
    [
        (adapter_bytes(TARGETS, adapter__lora__alpha=key("adapter.lora.alpha", 6, bytes(4))), "alpha is 0"),
        (adapter_bytes(TARGETS, adapter__lora__alpha=key("adapter.lora.alpha", 6, b"\0\0\x7a\x45")), "scale"),
        (adapter_bytes(TARGETS, extra=[text_key("general.base_model.0.name", "Other 7B")]), "'Other 7B'"),
    ],
)
def test_what_does_not_stop_the_engine_is_a_warning(adapter: bytes, words: str) -> None:
    verdict = fit(adapter, base_bytes())
    assert verdict.ok
    assert words in verdict.warnings[0]
