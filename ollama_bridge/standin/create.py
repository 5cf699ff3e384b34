"""`POST /api/create` as Ollama has it (facts 3.1, 4.2): what it checks, what it does not, and in which order it speaks."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ollama_bridge.adapters.gguf import BASE_LIMITS, GgufHeader, read_gguf
from ollama_bridge.digests import Digest
from ollama_bridge.errors import AdapterFormatError, DigestInvalid, ManifestInvalid
from ollama_bridge.manifest import Layer, Manifest, MediaType
from ollama_bridge.standin.protocol import ApiError, parse_name

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ollama_bridge.names import ModelName
    from ollama_bridge.standin.protocol import Lines
    from ollama_bridge.standin.store import StandInStore

REFUSAL = "LoRA adapters are no longer supported"
GGUF_MAGIC = b"GGUF"
INHERITED_CONFIG = ("renderer", "parser", "requires", "model_format", "capabilities")
SINGLE_TEXTS = (("template", MediaType.TEMPLATE), ("system", MediaType.SYSTEM))


@dataclass(slots=True)
class Creator:
    """One server's way of creating models."""

    store: StandInStore
    refuses_adapters: bool
    reach: Callable[[str], Awaitable[None]]
    """Called at each step; faults happen there."""

    def check(self, body: dict[str, Any]) -> ModelName:
        """What is refused before anything is streamed."""
        adapters = body.get("adapters") or {}
        if adapters and self.refuses_adapters:
            raise ApiError(400, REFUSAL)
        for path, digest in (body.get("files") or {}).items():
            if path.startswith("/") or ".." in path.split("/"):
                raise ApiError(400, "file path must be relative")
            if not digest:
                raise ApiError(400, "invalid digest format")
        if not all(adapters.values()):
            raise ApiError(400, "invalid digest format")
        name = parse_name(body.get("model") or body.get("name"))
        if name is None:
            raise ApiError(400, "invalid model name")
        return self.store.existing_name(name)

    async def create(self, name: ModelName, body: dict[str, Any]) -> Lines:
        """Make the model, one progress line at a time."""
        await self.reach("create:begin")
        replaced = self._old_manifest(name)
        layers: list[Layer] = []
        config: dict[str, Any] = {"architecture": "amd64", "os": "linux"}
        if body.get("from"):
            base_name = parse_name(body["from"])
            if base_name is None:
                raise ApiError(400, "invalid model name")
            base = self.store.read(base_name)
            if base is None:
                yield {"status": "pulling manifest"}
                raise ApiError(500, "pull model manifest: file does not exist")
            layers = self._inherit(base_name, base, config)
            yield {"status": "parsing GGUF"}
        elif body.get("files"):
            yield {"status": "parsing GGUF"}
            layers = [self._file_layer(path, digest) for path, digest in sorted(body["files"].items())]
        else:
            raise ApiError(400, "neither 'from' or 'files' was specified")
        if adapters := body.get("adapters"):
            yield {"status": "parsing GGUF"}
            layers.append(self._adapter_layer(adapters))
        layers = self._with_texts(layers, body)
        self._describe(layers, config)
        config_layer = self.store.add_blob(json.dumps(config).encode() + b"\n", MediaType.CONFIG)
        for layer in layers:
            yield {"status": f"using existing layer {layer.digest}"}
        yield {"status": "writing manifest"}
        await self.reach("create:write")
        await self.store.write_created(name, config_layer, layers)
        if replaced is not None:
            self.store.drop_unused(layer.digest for layer in replaced.blobs)
        await self.reach("create:done")
        yield {"status": "success"}

    def _old_manifest(self, name: ModelName) -> Manifest | None:
        try:
            return self.store.read(name)
        except ManifestInvalid:
            return None

    def _inherit(self, name: ModelName, base: Manifest, config: dict[str, Any]) -> list[Layer]:
        inherited = self.store.config(base)
        config |= {key: inherited[key] for key in INHERITED_CONFIG if inherited.get(key)}
        for layer in base.layers:
            if not self.store.has_blob(layer.digest):
                raise ApiError(500, f"stat {self.store.blob_path(layer.digest)}: no such file or directory")
            self.store.blob_path(layer.digest).touch()
        return [replace(layer, from_=name.display) for layer in base.layers]

    def _adapter_layer(self, adapters: dict[str, str]) -> Layer:
        if len(adapters) > 1:
            raise ApiError(400, "only one adapter is currently supported")
        (path, digest), *_ = adapters.items()
        try:
            return self._gguf_layer(path, digest)
        except ApiError as error:
            raise ApiError(400, error.message) from None

    def _file_layer(self, path: str, digest: str) -> Layer:
        layer = self._gguf_layer(path, digest)
        if layer.media_type == MediaType.ADAPTER and self.refuses_adapters:
            raise ApiError(400, f"{REFUSAL}: {path} is a LoRA adapter")
        if self.store.faults.rewrite_files:
            data = self.store.blob_path(layer.digest).read_bytes() + bytes(32)
            return replace(self.store.add_blob(data, layer.media_type), from_=path)
        return layer

    def _gguf_layer(self, path: str, digest_text: str) -> Layer:
        header = self.open_gguf(path, digest_text)
        digest = Digest.parse(digest_text)
        kind = header.text("general.type")
        media_type = MediaType.ADAPTER if kind == "adapter" else MediaType.MODEL
        return Layer(media_type, digest, header.file_size, from_=path)

    def open_gguf(self, path: str, digest_text: str) -> GgufHeader:
        """Parse a GGUF blob as create does: magic, header and extents, nothing about what it is for."""
        try:
            digest = Digest.parse(digest_text)
        except DigestInvalid:
            raise ApiError(400, "invalid digest format") from None
        blob = self.store.blob_path(digest)
        is_named_gguf = path.endswith(".gguf")
        if not blob.exists():
            raise (
                ApiError(500, f"open {blob}: no such file or directory")
                if is_named_gguf
                else ApiError(400, "unknown type")
            )
        with blob.open("rb") as file:
            magic = file.read(4)
            if magic != GGUF_MAGIC:
                raise ApiError(500, "invalid file magic") if is_named_gguf else ApiError(400, "unknown type")
            file.seek(0)
            try:
                return read_gguf(file, limits=BASE_LIMITS)
            except AdapterFormatError as error:
                raise ApiError(500, f"unexpected EOF: {error}") from None

    def _with_texts(self, layers: list[Layer], body: dict[str, Any]) -> list[Layer]:
        for key, media_type in SINGLE_TEXTS:
            if body.get(key):
                layers = _without(layers, media_type)
                layers.append(self.store.add_blob(body[key].encode(), media_type))
        licenses = body.get("license") or []
        for text in [licenses] if isinstance(licenses, str) else licenses:
            layers.append(self.store.add_blob(text.encode(), MediaType.LICENSE))
        if body.get("parameters"):
            old = [layer for layer in layers if layer.media_type == MediaType.PARAMS]
            merged = json.loads(self.store.blob_path(old[-1].digest).read_bytes()) if old else {}
            merged |= body["parameters"]
            layers = _without(layers, MediaType.PARAMS)
            layers.append(self.store.add_blob(json.dumps(merged).encode() + b"\n", MediaType.PARAMS))
        if body.get("messages"):
            layers = _without(layers, MediaType.MESSAGES)
            layers.append(self.store.add_blob(json.dumps(body["messages"]).encode() + b"\n", MediaType.MESSAGES))
        return layers

    def _describe(self, layers: list[Layer], config: dict[str, Any]) -> None:
        for layer in layers:
            if layer.media_type != MediaType.MODEL:
                continue
            with self.store.blob_path(layer.digest).open("rb") as file:
                header = read_gguf(file, limits=BASE_LIMITS)
            architecture = header.architecture or ""
            config.setdefault("model_format", "gguf")
            config.setdefault("model_family", architecture)
            config.setdefault("model_families", []).append(architecture)
            config.setdefault("model_type", f"{sum(tensor.size for tensor in header.tensors) / 1000:.2f}K")
            config.setdefault("file_type", "F32")


def _without(layers: list[Layer], media_type: str) -> list[Layer]:
    return [layer for layer in layers if layer.media_type != media_type]
