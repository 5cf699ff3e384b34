"""Carries a pull out: fetch, check, let Ollama have the rest, and know the model as installed when it is one."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import anyio
from anyio import to_thread

from ollama_bridge import install as bridge_install
from ollama_bridge.errors import OllamaBridgeError
from sidecar.control_types import GetOptions
from sidecar.errors import InstallError, SidecarError, TransferError
from sidecar.events import InstallStarted
from sidecar.install import Outcome
from sidecar.models.arrival import ArrivedBlob, check_model_claims, obtain_texts, obtain_weights
from sidecar.transfer.chunks import hash_chunks

if TYPE_CHECKING:
    from collections.abc import Callable

    from ollama_bridge.client import OllamaClient
    from ollama_bridge.names import ModelName
    from sidecar.blobs import Blobs
    from sidecar.catalogue.journal import Journal
    from sidecar.catalogue.journal_thread import JournalThread
    from sidecar.catalogue.rows import InstallRow
    from sidecar.events import Event
    from sidecar.install import Installer
    from sidecar.transfer.chunks import ChunkTable
    from sidecar.transfer.fetch import Fetch
    from sidecar.transfer.fetch_types import Progress
    from sidecar.transfer.provide import Provider
    from sidecar.transfer.verified import VerifiedBlob

    from .pull import Pull

FINISH_S = 600.0
"""How long Ollama may take from the last byte to the model: it hashes the file again, and its disk may be slow."""
POLL_S, LONGEST_POLL_S = 0.1, 2.0
"""Between looks whether Ollama has the model."""


class PullCarrier:
    """See the module docstring."""

    def __init__(
        self,
        *,
        client: OllamaClient,
        installer: Installer,
        blobs: Blobs,
        provider: Provider,
        journal: JournalThread,
        emit: Callable[[Event], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._installer = installer
        self._blobs = blobs
        self._provider = provider
        self._journal = journal
        self._emit = emit
        self._clock = clock

    async def carry_out(
        self,
        pull: Pull,
        options: GetOptions,
        *,
        transfer: str,
        fetching: Callable[[Fetch], None],
        progress: Callable[[str, Progress | None], None],
    ) -> Outcome:
        """From the first chunk to the model.

        Raises:
            SidecarError: With the reason; Ollama has no whole file then, or did not finish.
        """
        entry = pull.entry
        try:
            progress("fetch", None)
            parts = await self._obtain(pull, fetching, progress)
            warnings = self._installer.check_policy(entry, GetOptions())  # the publisher may be blocked since
            progress("install", None)
            self._emit(InstallStarted(transfer, entry.ref, pull.plan.base, "pull"))
            row = await self._hand_over(pull, parts[-1].file)
            await self._let_ollama_hold(parts)
            await self._installer.pin(entry)
            await self._installer.write_audit("install", row, options.by)
            return Outcome(row.name, "pull", None, any(part.fetched for part in parts), warnings)
        except SidecarError as error:
            raise pull.fail(error, self._clock()) from None
        except BaseException:
            pull.fail(TransferError("The transfer was ended."), self._clock())
            raise
        finally:
            pull.transfer = None

    async def _obtain(
        self, pull: Pull, fetching: Callable[[Fetch], None], progress: Callable[[str, Progress | None], None]
    ) -> list[ArrivedBlob]:
        """Every file of the entry, checked, the streamed one last."""

        def follow(fetch: Fetch) -> None:
            fetching(fetch)
            pull.followed.follow(fetch)

        def report(now: Progress) -> None:
            progress("fetch", now)

        entry = pull.entry
        if not entry.entry.is_model:
            file, fetched = await self._blobs.obtain(entry, entry.entry.blob, follow, report)
            progress("verify", None)
            await self._installer.check_file(file.path, entry)
            return [ArrivedBlob(entry.entry.blob, file, fetched)]
        _, parts = await obtain_texts(self._blobs, entry, fetching)
        parts.append(await obtain_weights(self._blobs, entry, follow, report))
        progress("verify", None)
        await to_thread.run_sync(check_model_claims, parts[-1].file.path, entry)
        return parts

    async def _let_ollama_hold(self, parts: list[ArrivedBlob]) -> None:
        for part in parts:
            if not part.fetched and not part.blob.is_weights:
                await self._blobs.provide_small(part.file)
            await self._blobs.let_ollama_hold(part.file)

    async def _table_of(self, blob: VerifiedBlob) -> ChunkTable:
        registered = self._provider.blob(blob.digest)
        if registered is not None:
            return registered.table

        def work() -> ChunkTable:
            with blob.path.open("rb") as file:
                return hash_chunks(file, blob.size)[1]

        return await to_thread.run_sync(work)

    async def _hand_over(self, pull: Pull, blob: VerifiedBlob) -> InstallRow:
        """Let Ollama have the rest, and wait until it has made the model.

        The install is noted before: the moment Ollama writes the manifest, a share rule asks whose adapter it is.
        """
        table = await self._table_of(blob)
        before = await self._installer.row_of(pull.name)
        made = bridge_install.Installed(pull.name, "pull", pull.manifest_digest)
        row = await self._installer.note_installed(pull.entry, made)
        pull.followed.release(blob.path, table)
        pull.settled.set()
        name = await self._name_in_ollama(pull)

        def settle(journal: Journal) -> InstallRow:
            if name is not None and name.folded == pull.name.folded:
                return row
            journal.remove_install(row.name)
            if before is not None:
                journal.save_install(before)
            if name is None:
                raise InstallError("Ollama did not finish its pull.", "Run the same `ollama pull` again.")
            moved = replace(row, name=name.display)
            journal.save_install(moved)
            return moved

        return await self._journal.run(settle)

    async def _name_in_ollama(self, pull: Pull) -> ModelName | None:
        """The name under which the model appears with exactly our manifest; None once it is clear that it will not."""
        pause = POLL_S
        while not pull.is_idle(FINISH_S, self._clock()):
            with suppress(OllamaBridgeError):  # it may be restarting
                for model in await self._client.tags():
                    if model.manifest_digest == pull.manifest_digest.hex and pull.may_be(model.name):
                        return model.name
            await anyio.sleep(pause)
            pause = min(pause * 1.5, LONGEST_POLL_S)
        return None
