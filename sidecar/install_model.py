"""Journey 2 for a whole model: a peer's offer becomes a model of the local Ollama, its layers with the digests they had.

Unlike an adapter it comes with texts that decide how it answers. They are fetched first, and the user agrees to them
before the weights are (T4). The config of the result is made here from the header of the weights (ADR 0012).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
from anyio import to_thread

from ollama_bridge import install as bridge_install
from ollama_bridge.names import ModelName

from .bridge_errors import bridge_errors
from .control_types import GetOptions
from .errors import NameTaken, NoRoute
from .events import InstallStarted
from .install import Outcome
from .models.arrival import (
    check_model_claims,
    check_settings,
    config_layer,
    in_order,
    obtain_texts,
    obtain_weights,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ollama_bridge.client import OllamaClient
    from ollama_bridge.registry import LoopbackRegistry
    from ollama_bridge.store import Store

    from .blobs import Blobs
    from .catalogue.entry import SignedEntry
    from .events import Event
    from .install import Installer
    from .models.arrival import ArrivedBlob
    from .models.texts import ModelTexts
    from .transfer.fetch import Fetch
    from .transfer.fetch_types import Progress
    from .transfer.verified import VerifiedBlob


class ModelInstaller:
    """See the module docstring. What it shares with adapters it asks `Installer` for."""

    def __init__(
        self,
        *,
        client: OllamaClient,
        store: Store | None,
        registry: LoopbackRegistry,
        blobs: Blobs,
        installer: Installer,
        emit: Callable[[Event], None],
    ) -> None:
        self._client = client
        self._store = store
        self._registry = registry
        self._blobs = blobs
        self._installer = installer
        self._emit = emit

    async def install(
        self,
        entry: SignedEntry,
        options: GetOptions,
        *,
        transfer: str,
        fetching: Callable[[Fetch], None],
        progress: Callable[[str, Progress | None], None],
    ) -> Outcome:
        """As `Installer.install`. What can be refused is refused before the weights are fetched.

        Raises:
            SettingsNotAccepted: It brings settings of its own, and the options do not accept them.
            NoRoute: Ollama takes it only by pull, and cannot pull from us.
            SidecarError: As there.
        """
        warnings = self._installer.check_policy(entry, options)
        wanted = await self._check_target(entry, options) if options.install else None
        progress("fetch", None)
        await self._blobs.check_room(entry)
        texts, parts = await obtain_texts(self._blobs, entry, fetching)
        if wanted is not None:
            check_settings(entry, texts, accepted=options.accept_suggestions)
        parts.append(await obtain_weights(self._blobs, entry, fetching, lambda now: progress("fetch", now)))
        weights = parts[-1].file
        fetched = any(part.fetched for part in parts)
        progress("verify", None)
        config = await to_thread.run_sync(check_model_claims, weights.path, entry)
        if wanted is None:
            await self._hold(parts, self._blobs.hold)
            return Outcome(None, None, str(weights.path), fetched, warnings)
        progress("install", None)
        installed = await self._hand_over(entry, parts, config, wanted, options, transfer)
        await self._hold(parts, self._blobs.let_ollama_hold)
        await self._installer.pin(entry)
        return Outcome(installed.name.display, installed.route, None, fetched, warnings)

    async def texts(self, entry: SignedEntry) -> ModelTexts:
        """What a model brings along, for a user to look at; fetched for that if it is not here. Raises SidecarError."""
        self._installer.check_policy(entry, GetOptions(install=False))
        return (await obtain_texts(self._blobs, entry))[0]

    async def _check_target(self, entry: SignedEntry, options: GetOptions) -> ModelName:
        """The name to install a model under, if Ollama takes it by pull and the name is free or ours."""
        with bridge_errors():
            wanted = ModelName.parse(options.as_name or entry.name)
            async with self._installer.ollama_turn:
                route = await bridge_install.choose_route(self._client, self._registry)
                taken = await self._client.find(wanted)
                if route.kind != "pull":
                    raise NoRoute(
                        f"A whole model can only be installed by pull, and here that is not possible: {route.reason}."
                    )
                if taken is not None and not options.force and not await self._is_ours(wanted, entry):
                    raise NameTaken(f"A model named {taken} exists.")
        return wanted

    async def _hand_over(
        self,
        entry: SignedEntry,
        parts: list[ArrivedBlob],
        config: bytes,
        wanted: ModelName,
        options: GetOptions,
        transfer: str,
    ) -> bridge_install.Installed:
        with bridge_errors():
            async with self._installer.ollama_turn, self._blobs.scratch_file(config) as path:
                self._emit(InstallStarted(transfer, entry.ref, entry.entry.base.name, "pull"))
                installed = await bridge_install.install_model(
                    self._client,
                    self._registry,
                    layers=in_order(entry, parts),
                    config=config_layer(config, path),
                    wanted=wanted,
                    force=options.force or await self._is_ours(wanted, entry),
                    store=self._store,
                )
                with anyio.CancelScope(shield=True):
                    row = await self._installer.note_installed(entry, installed)
        await self._installer.write_audit("install", row, options.by)
        return installed

    async def _is_ours(self, wanted: ModelName, entry: SignedEntry) -> bool:
        """Whether the name may be taken without `--force`: it holds what we installed from that publisher, unchanged, or the same layers."""
        here = {model.name.folded: model for model in await self._client.tags()}
        present = here.get(wanted.folded)
        if present is None:
            return False
        row = await self._installer.row_of(wanted)
        if row is not None and row.manifest_digest == f"sha256:{present.manifest_digest}":
            return row.publisher == entry.publisher
        return await to_thread.run_sync(self._has_layers_of, present.name, entry)

    def _has_layers_of(self, name: ModelName, entry: SignedEntry) -> bool:
        if self._store is None:
            return False
        layers = [str(layer.digest) for layer in self._store.read_manifest(name).layers]
        return layers == [blob.digest for blob in entry.entry.blobs]

    async def _hold(self, parts: list[ArrivedBlob], hold: Callable[[VerifiedBlob], Awaitable[None]]) -> None:
        """Provide a model's parts to others from where they are now; the weights, the last, say that it is all here."""
        for part in parts:
            if not part.fetched and not part.blob.is_weights:
                await self._blobs.provide_small(part.file)
            await hold(part.file)
