"""Manifests: whole ones are read, everything else is one error."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_bridge.digests import Digest
from ollama_bridge.errors import ManifestInvalid
from ollama_bridge.manifest import (
    MAX_LAYERS,
    MAX_MANIFEST_BYTES,
    Layer,
    MediaType,
    parse_manifest,
    render_manifest,
)

MODEL = Layer(MediaType.MODEL, Digest.of(b"model"), 5, from_="base:latest")
ADAPTER = Layer(MediaType.ADAPTER, Digest.of(b"adapter"), 7)
UNKNOWN = Layer("application/vnd.ollama.image.something-new", Digest.of(b"new"), 3)
CONFIG = Layer(MediaType.CONFIG, Digest.of(b"{}"), 2)


def document(**changes: Any) -> bytes:
    return json.dumps(json.loads(render_manifest(CONFIG, [MODEL, ADAPTER])) | changes).encode()


def layer(**changes: Any) -> list[dict[str, Any]]:
    return [{"mediaType": MediaType.MODEL, "digest": str(MODEL.digest), "size": 5} | changes]


def test_render_and_parse_agree_and_keep_unknown_layers() -> None:
    data = render_manifest(CONFIG, [MODEL, ADAPTER, UNKNOWN])
    manifest = parse_manifest(data)
    assert manifest.config == CONFIG
    assert manifest.layers == (MODEL, ADAPTER, UNKNOWN)
    assert manifest.model_layer == MODEL
    assert manifest.adapter_layers == (ADAPTER,)
    assert manifest.blobs[-1] == CONFIG
    assert manifest.digest == Digest.of(data) != parse_manifest(data + b"\n").digest


def test_first_model_layer_is_the_base() -> None:
    second = Layer(MediaType.MODEL, Digest.of(b"second"), 6)
    assert parse_manifest(render_manifest(CONFIG, [MODEL, second])).model_layer == MODEL


def test_rendered_as_ollama_writes() -> None:
    assert render_manifest(CONFIG, [MODEL]).decode() == (
        '{"schemaVersion":2,"mediaType":"application/vnd.docker.distribution.manifest.v2+json",'
        '"config":{"mediaType":"application/vnd.docker.container.image.v1+json",'
        f'"digest":"{CONFIG.digest}","size":2}},'
        f'"layers":[{{"mediaType":"application/vnd.ollama.image.model","digest":"{MODEL.digest}","size":5,'
        '"from":"base:latest"}]}'
    )


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b"{",
        document()[:-10],
        b"\xff\xfe",
        b"[" * 100_000,
        document(schemaVersion=1),
        document(layers=None),
        document(layers=[1]),
        document(layers=layer(size=-1)),
        document(layers=layer(size=1.5)),
        document(layers=layer(size=True)),
        document(layers=layer(size=1 << 60)),
        document(layers=layer(digest="sha256:../../etc/passwd")),
        document(layers=layer(digest=str(MODEL.digest).upper())),
        document(layers=layer(digest=None)),
        document(layers=layer(mediaType="")),
        document(layers=layer(mediaType="x" * 2_000)),
        document(layers=layer(**{"from": 1})),
        document(layers=layer() * (MAX_LAYERS + 1)),
        document().replace(b'"layers"', b'"Layers":[],"layers"'),
        document()[:-1] + b',"config":null}',
        b'{"schemaVersion":2,"layers":[]}',
        b" " * (MAX_MANIFEST_BYTES + 1),
    ],
    ids=lambda data: repr(data[:30]),
)
def test_t07_half_written_and_hostile_manifests_are_invalid(data: bytes) -> None:
    with pytest.raises(ManifestInvalid):
        parse_manifest(data)


@given(st.integers(0, 400))
def test_every_cut_is_invalid(length: int) -> None:
    data = document()
    if length < len(data):
        with pytest.raises(ManifestInvalid):
            parse_manifest(data[:length])


@given(st.binary(max_size=300) | st.text(max_size=300).map(str.encode) | st.recursive(
    st.none() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8
).map(lambda value: json.dumps(value).encode()))  # fmt: skip
def test_any_bytes_parse_or_are_invalid(data: bytes) -> None:
    with suppress(ManifestInvalid):
        parse_manifest(data)
