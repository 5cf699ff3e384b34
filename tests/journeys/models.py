"""A whole model in an Ollama, with everything an ordinary one has: weights, template, parameters, licence."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from ollama_bridge.client import OllamaClient
from ollama_bridge.manifest import MediaType, render_manifest
from ollama_bridge.names import ModelName
from tests.journeys.ollama import BASE, make_base

if TYPE_CHECKING:
    from pathlib import Path

    from ollama_bridge.digests import Digest
    from ollama_bridge.standin import StandIn

TEMPLATE = "{{ .System }} {{ .Prompt }}"
SYSTEM = "Be brief."
PARAMETERS = {"stop": ["</s>"], "temperature": 0.5}
LICENSE = "TINY LICENSE AGREEMENT\n\nDo as you like.\n"


async def make_model(url: str, files: Path, name: str = BASE, **texts: Any) -> Digest:
    """`ollama create` of a model with texts; returns the digest of its weights."""
    digest = await make_base(url, files, name)
    wanted = {"template": TEMPLATE, "system": SYSTEM, "license_": LICENSE, "parameters": PARAMETERS} | texts
    async with OllamaClient(url) as client:
        await client.create(ModelName.parse(name), from_=ModelName.parse(name), **wanted)
    return digest


async def pulled_model(ollama: StandIn, files: Path, name: str) -> None:
    """A model as `ollama pull` leaves one of the library: no `from` in its layers, a config with `rootfs`."""
    store, path = ollama.store, files / "base.gguf"
    layers = [
        store.add_blob(path.read_bytes(), MediaType.MODEL),
        store.add_blob(TEMPLATE.encode(), MediaType.TEMPLATE),
        store.add_blob(LICENSE.encode(), MediaType.LICENSE),
        store.add_blob(b"A second one.", MediaType.LICENSE),
    ]
    config = {
        "model_format": "gguf",
        "model_family": "llama",
        "model_families": ["llama"],
        "model_type": "115K",
        "file_type": "unknown",
        "architecture": "amd64",
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [str(layer.digest) for layer in layers]},
    }
    data = json.dumps(config, separators=(",", ":")).encode() + b"\n"
    await store.write_manifest(ModelName.parse(name), render_manifest(store.add_blob(data, MediaType.CONFIG), layers))


async def add_layer(ollama: StandIn, name: str, media_type: str, data: bytes) -> None:
    """A layer more in a model's manifest, as some other tool might have put there."""
    store, parsed = ollama.store, ModelName.parse(name)
    manifest = store.read(parsed)
    assert manifest is not None
    assert manifest.config is not None
    layers = [*manifest.layers, store.add_blob(data, media_type)]
    await store.write_manifest(parsed, render_manifest(manifest.config, layers))


async def change_config(ollama: StandIn, name: str, **fields: Any) -> None:
    """Other fields in a model's config."""
    store, parsed = ollama.store, ModelName.parse(name)
    manifest = store.read(parsed)
    assert manifest is not None
    config = store.config(manifest) | fields
    layer = store.add_blob(json.dumps(config).encode(), MediaType.CONFIG)
    await store.write_manifest(parsed, render_manifest(layer, list(manifest.layers)))
