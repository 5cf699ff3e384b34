"""From a file of an Orch-Mind user to a model of the local Ollama, at the user's word only.

`Adopter.get` is the story: which base, fetch into quarantine, look at it, convert it for that base, hand it over, clear up.
What is said of such a file is hearsay and nobody signed it. That it fits is checked down to the shape of each tensor (T5),
by our own readers (T3) and in the limited process of every conversion (T27).
"""

from __future__ import annotations

import shutil
import time
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import anyio
from anyio import to_thread

from ollama_bridge.adapters.peft import convert_peft
from ollama_bridge.digests import Digest, hash_file
from ollama_bridge.names import ModelName
from sidecar.bridge_errors import bridge_errors
from sidecar.errors import AdapterRefused, BaseModelMissing, BlobMismatch, InstallError, NoProviders, TransferError
from sidecar.install import Outcome, UnsignedFile
from sidecar.transfer.fetch_types import Progress, SpeedMeter
from sidecar.transfer.verified import verify_file

from .download import TENSOR_FILE, Download
from .folders import write_config
from .messages import SAFETENSORS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ollama_bridge.store import Store
    from sidecar.blobs import Blobs
    from sidecar.control_types import GetOptions
    from sidecar.install import Installer
    from sidecar.local_models import LocalModels
    from sidecar.paths import DataPaths
    from sidecar.transfer.fetch import Fetch
    from sidecar.transfer.verified import VerifiedBlob

    from .board import UnsignedAdapter
    from .exchange import Exchange
    from .service import OrchMind

FOLDER = "orch-mind"
"""The quarantine, in the folder of partial files: it counts against the quota like them."""
MADE_FILE = "adapter.gguf"


class Adopter:
    """See the module docstring."""

    def __init__(
        self,
        *,
        service: OrchMind,
        paths: DataPaths,
        store: Store | None,
        local: LocalModels,
        blobs: Blobs,
        installer: Installer,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._service = service
        self._quarantine = paths.partial / FOLDER
        self._store = store
        self._local = local
        self._blobs = blobs
        self._installer = installer
        self._clock = clock
        self._under_way: set[str] = set()

    async def get(
        self,
        adapter: UnsignedAdapter,
        options: GetOptions,
        *,
        transfer: str,
        fetching: Callable[[Fetch], None],
        progress: Callable[[str, Progress | None], None],
    ) -> Outcome:
        """Fetch a file, check it and install it; as `Installer.install` does for signed ones.

        Raises:
            SidecarError: With the reason. Ollama's store is as it was, and nothing is kept of a file that was wrong.
        """
        if adapter.facts.file_type not in ("", SAFETENSORS):
            raise AdapterRefused(
                f"{adapter.name} is a {adapter.facts.file_type} file, a pickle, which can run code and is never fetched.",
                "Ask its owner to save it as safetensors.",
            )
        base = await self._base_for(adapter, options) if options.install else None
        with self._alone(adapter):
            progress("fetch", None)
            blob, fetched = await self._obtain(adapter, progress)
            home = blob.path.parent
            progress("verify", None)
            try:
                with bridge_errors():
                    await to_thread.run_sync(write_config, home, adapter.facts)
                if base is None:
                    return Outcome(None, None, str(home), fetched)
                progress("fit", None)
                made = await self._convert(adapter, home, *base)
                progress("install", None)
                installed = await self._installer.install_unsigned(made, base[0], options, transfer)
            except BaseException:
                await self._clear(home)
                raise
            await self._clear(home)
        return Outcome(installed.name.display, installed.route, None, fetched)

    # --- steps -------------------------------------------------------------------------------------------------------

    async def _base_for(self, adapter: UnsignedAdapter, options: GetOptions) -> tuple[ModelName, Digest]:
        """The local model it is for: the one the user names, else the one its owner named. Asked before a byte comes."""
        if self._store is None or not self._local.readable:
            raise InstallError(
                "A PEFT file is converted for one base model, whose file cannot be read here.",
                "See `ollaswarm doctor` about the store, or fetch with --no-install and convert it elsewhere.",
            )
        with bridge_errors():
            await self._local.settle()
        named = options.base or adapter.facts.base_model
        if ModelName.is_valid(named):
            wanted = ModelName.parse(named).folded
            for model in self._local.models.values():
                if model.name.folded == wanted and model.base is not None and not model.adapters:
                    return model.name, model.base
        said = f"{adapter.name} was made for {named}" if named else f"Nobody says what base {adapter.name} was made for"
        raise BaseModelMissing(
            f"{said}{', which is no base model of this Ollama' if named else ''}.",
            "Pull that base, or say with --base MODEL which of yours it is.",
        )

    async def _obtain(
        self, adapter: UnsignedAdapter, progress: Callable[[str, Progress | None], None]
    ) -> tuple[VerifiedBlob, bool]:
        """The whole file in its quarantine, from the first peer that can send it."""
        kept = self._quarantine / adapter.checksum / TENSOR_FILE
        if (blob := await to_thread.run_sync(_verified, kept, adapter)) is not None:
            return blob, False
        failure: TransferError = NoProviders("No Orch-Mind user we are connected with has that file any more.")
        for key, topic in adapter.sources:
            exchange = self._service.exchanges.get(key)
            if exchange is None:
                continue
            try:
                return await self._fetch(adapter, exchange, topic, progress), True
            except (NoProviders, BlobMismatch) as error:
                failure = error
            except TransferError as error:
                if type(error) is not TransferError:
                    raise  # a full disk or the quota is no fault of the peer
                failure = error
        raise failure

    async def _fetch(
        self,
        adapter: UnsignedAdapter,
        exchange: Exchange,
        topic: str,
        progress: Callable[[str, Progress | None], None],
    ) -> VerifiedBlob:
        meter = SpeedMeter()

        def came(done: int) -> None:
            if meter.due(done, self._clock()):
                progress("fetch", Progress(done, adapter.size, meter.speed, 1))

        policy = await self._blobs.disk_policy()
        make = partial(Download, self._quarantine, adapter.checksum, adapter.size, policy)
        with await to_thread.run_sync(make) as download:
            came(0)
            await exchange.fetch(topic, download.write, came)
            progress("fetch", Progress(adapter.size, adapter.size, meter.speed, 1))
            return await to_thread.run_sync(download.finish)

    async def _convert(
        self, adapter: UnsignedAdapter, home: Path, base: ModelName, base_digest: Digest
    ) -> UnsignedFile:
        assert self._store is not None
        out = home / MADE_FILE
        with bridge_errors():
            await to_thread.run_sync(partial(convert_peft, home, self._store.blob_path(base_digest), out))
        digest = await to_thread.run_sync(hash_file, out)
        size = (await to_thread.run_sync(out.stat)).st_size
        return UnsignedFile(out, digest, size, base_digest, adapter.label, bytes.fromhex(adapter.checksum))

    async def _clear(self, home: Path) -> None:
        with anyio.CancelScope(shield=True):
            await to_thread.run_sync(partial(shutil.rmtree, home, ignore_errors=True))

    @contextmanager
    def _alone(self, adapter: UnsignedAdapter) -> Iterator[None]:
        if adapter.checksum in self._under_way:
            raise TransferError(f"{adapter.name} is being fetched already.", "Wait for that transfer, or cancel it.")
        self._under_way.add(adapter.checksum)
        try:
            yield
        finally:
            self._under_way.discard(adapter.checksum)


def _verified(path: Path, adapter: UnsignedAdapter) -> VerifiedBlob | None:
    """What an earlier `get --no-install` left, if it is still the file."""
    try:
        return verify_file(path, Digest(adapter.checksum), adapter.size)
    except (BlobMismatch, OSError):
        return None
