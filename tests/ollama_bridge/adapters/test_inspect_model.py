"""A model file as we let Ollama have it, and what we refuse (T2)."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from ollama_bridge.adapters.inspect_model import describe_model
from ollama_bridge.digests import Digest
from ollama_bridge.errors import AdapterFormatError
from ollama_bridge.install.model_config import human_number, render_config
from ollama_bridge.manifest import Layer, MediaType, render_manifest
from tests.fixtures.gguf_bytes import (
    UINT32,
    Tensor,
    adapter_bytes,
    base_bytes,
    gguf_bytes,
    key,
    text_key,
    u32,
)

if TYPE_CHECKING:
    from ollama_bridge.adapters.inspect_model import ModelInfo

WEIGHTS = [Tensor("token_embd.weight", (64, 320)), Tensor("output.weight", (64, 320))]
ARCHITECTURE = text_key("general.architecture", "llama")

# llama3.2:1b as Ollama's library serves it.
LLAMA_LAYERS = (
    (MediaType.MODEL, "74701a8c35f6c8d9a4b91f3f3497643001d63e0c7a84e085bed452548fa88d45", 1_321_082_688),
    (MediaType.TEMPLATE, "966de95ca8a62200913e3f8bfbf84c8494536f1b94b49166851e76644e966396", 1_429),
    (MediaType.LICENSE, "fcc5a6bec9daf9b561a68827b67ab6088e1dba9d1fa2a50d7bbcc8384e0a265d", 7_711),
    (MediaType.LICENSE, "a70ff7e570d97baaf4e62ac6e6ad9975e04caa6d900d3742d37698494479e0cd", 6_016),
)
LLAMA_CONFIG = "4f659a1e86d7f5a33c389f7991e7224b7ee6ad0358b53437d54c02d2e1b1118d"
LLAMA_ID = "baf6a787fdff"


def describe(data: bytes) -> ModelInfo:
    return describe_model(io.BytesIO(data))


def test_a_model_is_described_by_its_header() -> None:
    info = describe(gguf_bytes([ARCHITECTURE, key("general.file_type", UINT32, u32(15))], WEIGHTS))
    assert (info.architecture, info.parameters, info.quantization, info.tensors) == ("llama", 2 * 64 * 320, "Q4_K_M", 2)
    assert len(info.shapes) == 64


@pytest.mark.parametrize("file_type", [None, 0, 5, 33, 2**32 - 1])
def test_a_quantisation_that_ollama_has_no_word_for_is_unknown(file_type: int | None) -> None:
    keys = [] if file_type is None else [key("general.file_type", UINT32, u32(file_type))]
    assert describe(gguf_bytes([ARCHITECTURE, *keys], WEIGHTS)).quantization == "unknown"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (adapter_bytes(), "not a model"),
        (gguf_bytes([ARCHITECTURE]), "no tensors"),
        (gguf_bytes([], WEIGHTS), "architecture"),
        (gguf_bytes([text_key("general.architecture", "../x")], WEIGHTS), "architecture"),
        (gguf_bytes([text_key("general.architecture", "clip")], WEIGHTS), "projector"),
        (gguf_bytes([ARCHITECTURE, text_key("general.type", "mmproj")], WEIGHTS), "not a model"),
        (gguf_bytes([ARCHITECTURE, key("split.count", UINT32, u32(3))], WEIGHTS), "one part"),
        (gguf_bytes([ARCHITECTURE], WEIGHTS, data=b"short"), "beyond the end"),
        (gguf_bytes([ARCHITECTURE], [WEIGHTS[0], Tensor("output.weight", (64, 320), offset=32)]), "overlap"),
        (gguf_bytes([ARCHITECTURE], WEIGHTS, tensor_count=2**40), "announced|claims|tensors"),
        (gguf_bytes([ARCHITECTURE], WEIGHTS, key_count=2**40), "announced|claims|keys"),
        (b"GGUF", "cut"),
        (b"", "."),
        (base_bytes()[:200], "cut"),
    ],
)
def test_t02_what_is_no_whole_model_is_refused(data: bytes, words: str) -> None:
    with pytest.raises(AdapterFormatError, match=words):
        describe(data)


def test_t04_the_config_made_here_is_the_one_of_ollamas_library_byte_for_byte() -> None:
    info = _info(1_235_814_432, "Q8_0")
    layers = [Layer(media_type, Digest(digest), size) for media_type, digest, size in LLAMA_LAYERS]
    config = render_config(info, [layer.digest for layer in layers])
    assert (Digest.of(config).hex, len(config)) == (LLAMA_CONFIG, 485)
    manifest = render_manifest(Layer(MediaType.CONFIG, Digest.of(config), len(config)), layers)
    assert Digest.of(manifest).hex.startswith(LLAMA_ID), "the id that `ollama ls` shows"


def _info(parameters: int, quantization: str) -> ModelInfo:
    data = gguf_bytes([ARCHITECTURE, key("general.file_type", UINT32, u32(7))], WEIGHTS)
    return replace(describe(data), parameters=parameters, quantization=quantization)


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (999, "999"),
        (117_000, "117K"),
        (134_515_008, "134.52M"),
        (22_000_000, "22M"),
        (8_030_261_312, "8.0B"),
        (7_000_000_000, "7B"),
        (70_553_706_560, "70.6B"),
    ],
)
def test_sizes_are_worded_as_ollama_does(number: int, text: str) -> None:
    assert human_number(number) == text
