"""What the local Ollama has: its models and adapters, kept current, and whether it answers.

With a readable store this is a watch. Without one (another user's store, a container) it is a look at Ollama's API every
so often: `/api/show` tells base and adapters of a model by their digests.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import anyio
from anyio import to_thread

from ollama_bridge import watch_events as changes
from ollama_bridge.errors import OllamaBridgeError, OllamaUnavailable
from ollama_bridge.registry.one_time import backed_up, is_one_time
from ollama_bridge.watch import watch_store

from .errors import SidecarError
from .events import AdapterAppeared, AdapterRemoved, OllamaLost, OllamaRestored

if TYPE_CHECKING:
    from ollama_bridge.client import OllamaClient
    from ollama_bridge.digests import Digest
    from ollama_bridge.manifest import Manifest
    from ollama_bridge.names import ModelName
    from ollama_bridge.store import Store

    from .events import Event

log = logging.getLogger(__name__)

API_LOOK_S = 15.0
"""Between looks when only the API can be asked: a look is one call, and one more for each model that changed."""
FIRST_LOOK_S = 10.0
"""Patience with the first scan of the store; one of 1,000 models takes about a second."""
ALIVE_CHECK_S = 5.0
"""Between questions whether Ollama still answers."""


@dataclass(frozen=True, slots=True)
class LocalModel:
    """One model of the local Ollama, by what makes it."""

    name: ModelName
    base: Digest | None
    """Its weights; None for remote and tensor models."""
    adapters: tuple[Digest, ...]
    size: int
    """Bytes of the first adapter, or of the weights where there is none; 0 where unknown."""


ModelHandler = Callable[[LocalModel], Awaitable[None]]


async def _tell_nobody(model: LocalModel) -> None:
    pass


class LocalModels:
    """See the module docstring. Read it any time; `run` keeps it current."""

    def __init__(
        self,
        client: OllamaClient,
        store: Store | None,
        emit: Callable[[Event], None],
        *,
        observer: Literal["auto", "polling"] = "auto",
    ) -> None:
        self.models: dict[ModelName, LocalModel] = {}
        self.known = anyio.Event()
        """Set once the first look is done."""
        self.readable = store is not None
        self.cause = ""
        """Why the store cannot be read now."""
        self.ollama_up: bool | None = None
        self.ollama_version = ""
        """What it said last; empty before it said anything."""
        self._client = client
        self._store = store
        self._emit = emit
        self._observer = observer
        self._shown: dict[ModelName, tuple[str, LocalModel]] = {}
        self._changed = anyio.Event()
        """Set when a model came or changed."""
        self._looking = anyio.Lock()
        self._appeared: ModelHandler = _tell_nobody
        self._removed_from: ModelHandler = _tell_nobody

    @property
    def adapters(self) -> list[LocalModel]:
        """Adapter models, by name."""
        return sorted((model for model in self.models.values() if model.adapters), key=lambda model: model.name)

    @property
    def plain(self) -> list[LocalModel]:
        """Models with weights and no adapter, by name."""
        models = (model for model in self.models.values() if model.base is not None and not model.adapters)
        return sorted(models, key=lambda model: model.name)

    def bases(self, digest: Digest) -> list[ModelName]:
        """Plain models with exactly these weights, shortest name first."""
        names = [model.name for model in self.models.values() if model.base == digest and not model.adapters]
        return sorted(names, key=lambda name: (len(name.display), name.display))

    def uses(self, digest: Digest) -> bool:
        """Whether any model has this adapter or these weights."""
        return any(digest == model.base or digest in model.adapters for model in self.models.values())

    def holds_adapter(self, digest: Digest) -> bool:
        """Whether any model uses this adapter."""
        return any(digest in model.adapters for model in self.models.values())

    async def run(self, appeared: ModelHandler, removed: ModelHandler) -> None:
        """Look and watch until cancelled.

        Args:
            appeared: Told each model, those that are there at the start included; plain ones only where the store is read.
            removed: Told each that is gone.
        """
        self._appeared, self._removed_from = appeared, removed
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._check_alive)
            if self._store is not None:
                await self._watch(self._store)
            else:
                await self._poll()

    async def wait_for_base(self, digest: Digest) -> None:
        """Wait a while until a base that was just made is known. Raises the bridge's errors."""
        if self._store is None:
            await self.look()
        with anyio.move_on_after(FIRST_LOOK_S):
            while not self.bases(digest):
                self._changed = anyio.Event()
                await self._changed.wait()

    async def settle(self) -> None:
        """Wait until the models are known, and without a watch ask for those of this moment.

        Raises:
            OllamaBridgeError: They are not known, because Ollama does not answer.
        """
        if self._store is None:
            await self.look()
            return
        with anyio.move_on_after(FIRST_LOOK_S):
            await self.known.wait()

    # --- with a readable store ---------------------------------------------------------------------------------------

    async def _watch(self, store: Store) -> None:
        async with contextlib.aclosing(watch_store(store, observer=self._observer)) as events:
            async for event in events:
                if _is_passing(event):
                    continue
                match event:
                    case changes.StoreSnapshot():
                        for name, manifest in event.models.items():
                            if _is_temporary(name):
                                continue
                            self._set(store, name, manifest, is_adapter=name in event.adapters)
                        self.known.set()
                        for model in (*self.adapters, *self.plain):
                            await self._tell(self._appeared, model)
                    case changes.AdapterAppeared():
                        model = self._set(store, event.name, event.manifest, is_adapter=True)
                        self._emit(AdapterAppeared(event.name.display, str(model.adapters[0]), model.size))
                        await self._tell(self._appeared, model)
                    case changes.AdapterRemoved() | changes.ModelRemoved():
                        await self._removed(event.name)
                    case changes.ModelAppeared() | changes.ModelChanged():
                        is_adapter = await to_thread.run_sync(store.is_adapter_model, event.manifest)
                        model = self._set(store, event.name, event.manifest, is_adapter=is_adapter)
                        if not model.adapters:
                            await self._tell(self._appeared, model)
                    case changes.StoreUnreadable():
                        self.readable, self.cause = False, event.reason
                        log.warning("the store cannot be read: %s", event.reason)
                    case changes.StoreReadable():
                        self.readable, self.cause = True, ""
                    case changes.ManifestIncomplete():
                        log.warning("%s: %s", event.name, event.reason)

    def _set(self, store: Store, name: ModelName, manifest: Manifest, *, is_adapter: bool) -> LocalModel:
        layers = store.adapter_layers(manifest) if is_adapter else ()
        base = manifest.model_layer
        adapters = tuple(layer.digest for layer in layers)
        size = layers[0].size if layers else 0 if base is None else base.size
        model = LocalModel(name, None if base is None else base.digest, adapters, size)
        self.models[name] = model
        self._changed.set()
        return model

    async def _removed(self, name: ModelName) -> None:
        model = self.models.pop(name, None)
        if model is None:
            return
        if model.adapters:
            self._emit(AdapterRemoved(name.display, str(model.adapters[0])))
        await self._tell(self._removed_from, model)

    async def _tell(self, handler: ModelHandler, model: LocalModel) -> None:
        """What goes wrong with one adapter (its file vanished, the disk is full) must not end the watching of all."""
        try:
            await handler(model)
        except (SidecarError, OSError, sqlite3.Error) as error:
            log.warning("%s: %s", model.name, error)

    # --- through the API only ------------------------------------------------------------------------------------------

    async def _poll(self) -> None:
        while True:
            with contextlib.suppress(OllamaBridgeError):
                await self.look()
            await anyio.sleep(API_LOOK_S)

    async def look(self) -> None:
        """One look through the API. Raises the bridge's errors."""
        async with self._looking:
            await self._look()

    async def _look(self) -> None:
        first = not self.known.is_set()
        present = set()
        for listed in await self._client.tags():
            if _is_temporary(listed.name):
                continue
            present.add(listed.name)
            known = self._shown.get(listed.name)
            if known is not None and known[0] == listed.manifest_digest:
                continue
            shown = await self._client.show(listed.name)
            base = shown.model_blobs[0] if shown.model_blobs else None
            model = LocalModel(listed.name, base, shown.adapter_blobs, 0)
            self._shown[listed.name] = (listed.manifest_digest, model)
            self.models[listed.name] = model
            if model.adapters:
                if not first:
                    self._emit(AdapterAppeared(listed.name.display, str(model.adapters[0]), 0))
                await self._tell(self._appeared, model)
        for name in set(self.models) - present:
            self._shown.pop(name, None)
            await self._removed(name)
        self.known.set()

    # --- whether Ollama answers ----------------------------------------------------------------------------------------

    async def _check_alive(self) -> None:
        while True:
            try:
                version = await self._client.version()
            except OllamaBridgeError as error:
                if self.ollama_up is not False:
                    self._emit(OllamaLost(self._client.url, str(error)))
                self.ollama_up = False
                if not isinstance(error, OllamaUnavailable):
                    log.warning("Ollama answers strangely: %s", error)
            else:
                if self.ollama_up is False:
                    self._emit(OllamaRestored(self._client.url, version))
                self.ollama_up, self.ollama_version = True, version
            await anyio.sleep(ALIVE_CHECK_S)


def _is_temporary(name: ModelName) -> bool:
    """Whether a name is one an install uses for a moment: not a model of the user's."""
    return is_one_time(name) or backed_up(name) is not None


def _is_passing(event: changes.StoreEvent) -> bool:
    return not isinstance(event, changes.StoreSnapshot | changes.StoreUnreadable | changes.StoreReadable) and (
        _is_temporary(event.name)
    )
