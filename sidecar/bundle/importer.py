"""`import`: one file into Ollama. Everything a peer's offer has to pass, a bundle has to pass, in the same order."""

from __future__ import annotations

import logging
import time
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING

from anyio import to_thread

from ollama_bridge.adapters.gguf import BASE_LIMITS, read_gguf
from ollama_bridge.digests import Digest
from ollama_bridge.errors import AdapterFormatError
from ollama_bridge.names import ModelName
from ollama_bridge.nofollow import open_regular
from sidecar.bridge_errors import bridge_errors
from sidecar.control_types import ImportInfo
from sidecar.errors import BundleError, CatalogueError, NotFound

from .format import Section, hash_section, read_bundle

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import BinaryIO

    from ollama_bridge.client import OllamaClient
    from sidecar.blobs import Blobs
    from sidecar.catalogue.catalogue import Catalogue
    from sidecar.catalogue.entry import SignedEntry
    from sidecar.catalogue.journal_thread import JournalThread
    from sidecar.control_types import GetOptions, TransferInfo
    from sidecar.install import Installer
    from sidecar.local_models import LocalModels
    from sidecar.transfers import Transfers

    from .format import Bundle

log = logging.getLogger(__name__)


class Importer:
    """See the module docstring."""

    def __init__(
        self,
        *,
        client: OllamaClient,
        local: LocalModels,
        catalogue: Catalogue,
        journal: JournalThread,
        blobs: Blobs,
        installer: Installer,
        transfers: Transfers,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._client = client
        self._local = local
        self._catalogue = catalogue
        self._journal = journal
        self._blobs = blobs
        self._installer = installer
        self._transfers = transfers
        self._wall_clock = wall_clock

    async def load(self, path: Path, options: GetOptions) -> tuple[ImportInfo, TransferInfo]:
        """Verify a bundle and install what is in it; a base only where it is missing.

        Returns:
            What the file was, and the ended transfer, which says how the install went.
        Raises:
            BundleError, TrustError, CatalogueError, TransferError: Nothing of the file was given to Ollama.
            InstallError, OllamaError: The base could not be installed.
        """
        file = await to_thread.run_sync(_open, path)
        with closing(file):
            bundle = await to_thread.run_sync(read_bundle, file)
            signed = bundle.signed
            self._installer.check_policy(signed, options)
            self._check_version(signed)
            blob = signed.entry.blob
            await self._blobs.take_in(signed, bundle.table, partial(_read, file, bundle.adapter_at, blob.size))
            await self._remember(signed)
            base = await self._install_base(path, file, bundle) if options.install and bundle.base_size else None
        started = self._transfers.start(signed, options)
        ended = await self._transfers.finish(started.id)
        return ImportInfo(signed.ref, signed.version, signed.publisher.hex(), blob.digest, base), ended

    def _check_version(self, signed: SignedEntry) -> None:
        """A file can be years old: what was seen since counts (T15)."""
        outcome = self._catalogue.see(signed, now=self._wall_clock())
        if outcome.reason:
            raise CatalogueError(outcome.reason, "Ask for a bundle of the newest version.")

    async def _remember(self, signed: SignedEntry) -> None:
        await self._journal.run(
            lambda journal: journal.remember_version(signed.publisher, signed.name, signed.version, signed.id)
        )

    async def _install_base(self, path: Path, file: BinaryIO, bundle: Bundle) -> str | None:
        """Make the base model from its weights, unless a local model has them; returns its name."""
        wanted = bundle.signed.entry.base
        digest = Digest.parse(wanted.digest)
        with bridge_errors():
            await self._local.settle()
            if self._local.bases(digest):
                return None
        await to_thread.run_sync(_check_base, file, bundle)
        name = self._free_name(wanted.name, digest)
        with bridge_errors():
            if not await self._client.has_blob(digest):
                await self._client.push_blob(digest, path, bundle.base_size, offset=bundle.base_at)
            await self._client.create(name, files={"model.gguf": digest})
            await self._local.wait_for_base(digest)
        log.info("made the base model %s from a bundle", name)
        return name.display

    def _free_name(self, text: str, digest: Digest) -> ModelName:
        name = ModelName.parse(text)
        if name.folded not in {model.name.folded for model in self._local.models.values()}:
            return name
        return ModelName(name.host, name.namespace, name.model, f"{name.tag[:60]}-{digest.hex[:12]}")


def _open(path: Path) -> BinaryIO:
    try:
        real = path.resolve(strict=True)
        return open_regular(real.parent, (real.name,))
    except OSError as error:
        raise NotFound(f"There is no readable file {str(path)[:500]}.", "Check the path.") from error


def _read(file: BinaryIO, start: int, size: int, offset: int, length: int) -> bytes:
    """Bytes of the adapter; a file that became shorter meanwhile gives fewer."""
    file.seek(start + offset)
    return file.read(min(length, size - offset))


def _check_base(file: BinaryIO, bundle: Bundle) -> None:
    """The weights must be those the entry was signed for, and a file that our own reader takes (T2)."""
    if hash_section(file, bundle.base_at, bundle.base_size) != bundle.signed.entry.base.digest:
        raise BundleError("The base in the bundle is not the one the entry was signed for.")
    try:
        read_gguf(Section(file, bundle.base_at, bundle.base_size), limits=BASE_LIMITS)  # type: ignore[arg-type]
    except AdapterFormatError as error:
        raise BundleError(f"The base in the bundle is not a model Ollama should be given: {error}") from error
