"""What is to be shared: found in the store, pushed to us by Ollama, a file, or a PEFT folder; and which base it is for."""

from __future__ import annotations

import os
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from anyio import to_thread

from ollama_bridge.adapters.fit import check_fit
from ollama_bridge.adapters.gguf import BASE_LIMITS, read_gguf
from ollama_bridge.adapters.inspect import describe_adapter
from ollama_bridge.adapters.peft import convert_peft
from ollama_bridge.errors import OllamaBridgeError
from ollama_bridge.names import ModelName
from ollama_bridge.nofollow import open_regular
from ollama_bridge.registry import share_by_push
from ollama_bridge.room_names import is_room_name, public_name

from .catalogue.entry import BaseFacts, suggest_name
from .errors import NotFound, ShareError
from .transfer.chunks import ChunkTable, hash_chunks

if TYPE_CHECKING:
    from collections.abc import Callable

    from ollama_bridge.adapters.inspect import AdapterInfo
    from ollama_bridge.client import OllamaClient
    from ollama_bridge.digests import Digest
    from ollama_bridge.registry import LoopbackRegistry
    from ollama_bridge.store import Store

    from .local_models import LocalModels
    from .paths import DataPaths

UNKNOWN_NAME = "unknown"
"""What a base without a name here is called in an entry; its digest is what counts."""


@dataclass(frozen=True, slots=True)
class Source:
    """An adapter file that is to be shared, and what is known of where it came from."""

    label: str
    """Model name, or absolute path."""
    is_path: bool
    name: str
    """What the entry is called if the user does not say."""
    opener: Callable[[], BinaryIO]
    base: Digest | None
    base_name: str
    kept: Path | None = None
    """A copy of ours, where the original cannot be read again."""


class SourceFinder:
    """Finds what a user or a rule wants to share. Raises the bridge's errors and `ShareError`."""

    def __init__(
        self,
        *,
        paths: DataPaths,
        client: OllamaClient,
        store: Store | None,
        registry: LoopbackRegistry,
        local: LocalModels,
    ) -> None:
        self._paths = paths
        self._client = client
        self._store = store
        self._registry = registry
        self._local = local

    async def find(self, what: str, base: str | None) -> Source:
        path = Path(what)
        if path.is_absolute():
            return await self._find_path(path, base)
        name = ModelName.parse(what)
        if self._store is not None and self._local.readable:
            return await to_thread.run_sync(self._find_in_store, self._store, name)
        return await self._find_by_push(name)

    def _find_in_store(self, store: Store, name: ModelName) -> Source:
        stored = store.find(name) or name
        manifest = store.read_manifest(stored)
        model = store.describe(stored, manifest)
        if model is None:
            raise ShareError(
                f"{stored} is a model without an adapter, and whole models are shared only when you say so.",
                "Share all of it with --model, if its licence lets you.",
            )
        if model.is_stacked:
            raise ShareError(f"{stored} applies several adapters together, so no single file is its adapter.")
        digest = model.adapter_layer.digest
        base_name = model.base_names[0].display if model.base_names else model.base_layer.from_ or UNKNOWN_NAME
        if not ModelName.is_valid(base_name):
            base_name = UNKNOWN_NAME
        return Source(
            stored.display,
            False,
            suggest_name(stored.display),
            partial(store.open_blob, digest),
            model.base_layer.digest,
            base_name,
        )

    async def _find_by_push(self, name: ModelName) -> Source:
        """The store cannot be read, so Ollama is asked to push the adapter to us."""
        if await self._client.find(name) is None:
            raise NotFound(f"This Ollama has no model {name}.", "`ollama list` shows what there is.")
        shown = await self._client.show(name)
        if len(shown.adapter_blobs) != 1 or not shown.model_blobs:
            raise ShareError(f"{name} is not a model with exactly one adapter, so it has no adapter file to share.")
        digest, base = shown.adapter_blobs[0], shown.model_blobs[0]
        kept = self._paths.blobs / digest.file_name
        async with share_by_push(self._client, self._registry, name, known=lambda each: each != digest) as pushed:
            await to_thread.run_sync(os.replace, pushed.blob_path(digest), kept)
        bases = self._local.bases(base)
        base_name = bases[0].display if bases else UNKNOWN_NAME
        return Source(
            name.display,
            False,
            suggest_name(name.display),
            partial(open_regular, kept.parent, (kept.name,)),
            base,
            base_name,
            kept,
        )

    async def _find_path(self, path: Path, base: str | None) -> Source:
        if await to_thread.run_sync(path.is_dir):
            return await self._convert(path, base)
        if not await to_thread.run_sync(path.is_file):
            raise NotFound(f"There is no file {path}.", "Check the path, or name an adapter model of your Ollama.")
        real = await to_thread.run_sync(path.resolve)
        opener = partial(open_regular, real.parent, (real.name,))
        return Source(str(path), True, suggest_name(path.stem), opener, None, "")

    async def _convert(self, folder: Path, base: str | None) -> Source:
        """A PEFT folder: converted for its base in a process of its own (T27), the result kept by us."""
        if self._store is None or base is None:
            raise ShareError(
                "A PEFT folder is converted for one base model, so that model's file must be known.",
                "Name it with --base MODEL; the store must be readable (`ollaswarm doctor`).",
            )
        store = self._store
        base_digest = await to_thread.run_sync(self._plain_model, store, base)
        out = self._paths.blobs / f".convert-{os.getpid()}.gguf"
        await to_thread.run_sync(partial(convert_peft, folder, store.blob_path(base_digest), out))
        digest, _, _ = await to_thread.run_sync(hash_path, out)
        kept = self._paths.blobs / digest.file_name
        await to_thread.run_sync(os.replace, out, kept)
        return Source(
            str(folder),
            True,
            suggest_name(folder.name),
            partial(open_regular, kept.parent, (kept.name,)),
            base_digest,
            base,
            kept,
        )

    def _plain_model(self, store: Store, name: str) -> Digest:
        stored = store.find(ModelName.parse(name))
        layer = store.read_manifest(stored).model_layer if stored is not None else None
        if layer is None:
            raise ShareError(f"The base model {name!r} is not in this Ollama.", "`ollama list` shows what there is.")
        return layer.digest

    async def base_of(self, source: Source, given: str | None) -> BaseFacts:
        """The base by digest, checked to carry the adapter wherever its file can be read."""
        if self._store is None:
            if source.base is None:
                raise ShareError("The base of a file cannot be checked without reading the store.")
            architecture = (await to_thread.run_sync(describe_source, source)).architecture
            return BaseFacts(_public(source.base_name), str(source.base), architecture)
        return await to_thread.run_sync(self._fitting_base, self._store, source, given)

    def _fitting_base(self, store: Store, source: Source, given: str | None) -> BaseFacts:
        name = given or source.base_name
        if given is not None:
            wanted = [(self._plain_model(store, given), name)]
        elif source.base is not None:
            wanted = [(source.base, name)]
        else:
            wanted = list(
                {
                    each.base: (each.base, each.name.display)
                    for each in self._local.models.values()
                    if each.base is not None and not each.adapters
                }.values()
            )
        fitting, reasons = [], []
        with closing(source.opener()) as file:
            adapter = read_gguf(file)
        for digest, base_name in wanted:
            try:
                with closing(store.open_blob(digest)) as file:
                    fit = check_fit(adapter, read_gguf(file, limits=BASE_LIMITS))
            except OllamaBridgeError as error:
                reasons.append(str(error))
                continue
            if fit.ok:
                fitting.append((digest, base_name))
            else:
                reasons.append(f"{base_name}: {' '.join(fit.reasons)}")
        if not fitting:
            raise ShareError(
                "The adapter fits " + (f"not its base. {reasons[0]}" if reasons else "no model of this Ollama."),
                "Share it from a machine that has its base, or name the base with --base MODEL.",
            )
        if len(fitting) > 1:
            names = ", ".join(sorted(name for _, name in fitting)[:8])
            raise ShareError(
                f"The adapter fits several models: {names}.", "Say which it was trained on with --base MODEL."
            )
        digest, base_name = fitting[0]
        return BaseFacts(_public(base_name), str(digest), adapter.architecture or "")


def _public(base_name: str) -> str:
    """The name of a base without the secret by which it was pulled, should it have no other (T24)."""
    if ModelName.is_valid(base_name) and is_room_name(pulled := ModelName.parse(base_name)):
        return public_name(pulled)
    return base_name


def describe_source(source: Source) -> AdapterInfo:
    """What the adapter file says about itself, checked. Blocking."""
    with closing(source.opener()) as file:
        return describe_adapter(file)


def hash_source(source: Source) -> tuple[Digest, int, ChunkTable]:
    """Digest, size and chunk table. Blocking."""
    with closing(source.opener()) as file:
        return _hash_file(file)


def hash_path(path: Path) -> tuple[Digest, int, ChunkTable]:
    """The same for a file of ours."""
    with path.open("rb") as file:
        return _hash_file(file)


def _hash_file(file: BinaryIO) -> tuple[Digest, int, ChunkTable]:
    size = os.fstat(file.fileno()).st_size
    file.seek(0)
    digest, table = hash_chunks(file, size)
    return digest, size, table
