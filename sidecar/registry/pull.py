"""One adapter on its way into Ollama by Ollama's own pull: `Pull` is the story, `Pulls` knows those under way.

Ollama asks for the manifest, which is made here from the user's own base (T4), then for the adapter's bytes, in parts.
They are streamed while peers send them, every chunk verified; the last one leaves only after the whole file was found to
be what was signed and to fit. So a file that is refused never becomes whole in Ollama's store, which looks at nothing.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
from anyio import to_thread

from ollama_bridge.digests import Digest
from ollama_bridge.errors import AdapterFormatError, OllamaBridgeError
from ollama_bridge.install.plan import make_plan
from sidecar.bridge_errors import bridge_errors
from sidecar.catalogue.rows import InstallRow
from sidecar.control_types import GetOptions
from sidecar.errors import (
    BlobMismatch,
    ClaimMismatch,
    InstallError,
    NotFound,
    SidecarError,
    TransferCancelled,
    TransferError,
)
from sidecar.events import InstallStarted
from sidecar.install import Outcome
from sidecar.transfer.chunks import hash_chunks
from sidecar.transfer.follow import Followed, FollowEnded
from sidecar.transfers import Job

from .header import read_header

if TYPE_CHECKING:
    from collections.abc import Callable

    from ollama_bridge.client import OllamaClient
    from ollama_bridge.install.plan import InstallPlan
    from ollama_bridge.names import ModelName
    from ollama_bridge.registry import LoopbackRegistry
    from ollama_bridge.store import Store
    from sidecar.blobs import Blobs
    from sidecar.catalogue.entry import SignedEntry
    from sidecar.catalogue.journal import Journal
    from sidecar.catalogue.journal_thread import JournalThread
    from sidecar.events import Event
    from sidecar.install import Installer
    from sidecar.transfer.chunks import ChunkTable
    from sidecar.transfer.fetch import Fetch
    from sidecar.transfer.fetch_types import Progress
    from sidecar.transfer.provide import Provider
    from sidecar.transfer.verified import VerifiedBlob
    from sidecar.transfers import Transfers

    from .naming import RoomNames

BY_OLLAMA = "ollama pull"
"""Who asked, in the audit log."""
IDLE_S = 100.0
"""Without anybody reading, a fetch goes on for so long: Ollama pauses for up to 32 s between its tries."""
FINISH_S = 600.0
"""How long Ollama may take from the last byte to the model: it hashes the file again, and its disk may be slow."""
REFUSED_S = 120.0
"""Ollama tries a part six times within 63 s (facts 6.2). What was refused is not fetched again for each of them."""
MANIFEST_S = 40.0
"""Longest wait with the manifest: a fetch gives up after 30 s without anybody who has the file."""
POLL_S, LONGEST_POLL_S = 0.1, 2.0
"""Between looks whether Ollama has the model."""


class Pull:
    """An adapter, the name it is pulled under, and how far it is."""

    def __init__(self, entry: SignedEntry, plan: InstallPlan, now: float, *, tag_known: bool) -> None:
        self.entry = entry
        self.plan = plan
        self.tag_known = tag_known
        """Requests for blobs do not say which tag is pulled."""
        self.manifest = plan.render_manifest()
        self.manifest_digest = Digest.of(self.manifest)
        self.followed = Followed(plan.layer.size)
        self.transfer: str | None = None
        """The transfer that carries it out, while one does."""
        self.asked_at = now
        self.refusal: SidecarError | None = None
        """Why it was stopped, when it was the header."""
        self.failure: SidecarError | None = None
        self.failed_at = 0.0
        self.settled = anyio.Event()
        """Set when the file was found right, or the pull ended."""

    @property
    def name(self) -> ModelName:
        """As Ollama asked for it."""
        return self.plan.wanted

    @property
    def digest(self) -> Digest:
        """Of the adapter."""
        return self.plan.layer.digest

    def begin(self, now: float) -> None:
        """Try (again)."""
        self.followed = Followed(self.followed.size)
        self.refusal = self.failure = None
        self.asked_at, self.settled = now, anyio.Event()

    def fail(self, error: SidecarError, now: float) -> None:
        """End it; readers are told."""
        self.failure, self.failed_at = error, now
        self.followed.end(error.cause)
        self.settled.set()


class Pulls:
    """See the module docstring."""

    def __init__(
        self,
        *,
        client: OllamaClient,
        store: Store | None,
        one_time: LoopbackRegistry,
        blobs_folder: Path,
        installer: Installer,
        blobs: Blobs,
        provider: Provider,
        journal: JournalThread,
        transfers: Transfers,
        names: RoomNames,
        emit: Callable[[Event], None],
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """
        Args:
            one_time: The registry of installs, by which a base's manifest is learnt where the store cannot be read.
            blobs_folder: Where fetched files are kept until Ollama has them.
        """
        self._client = client
        self._store = store
        self._one_time = one_time
        self._blobs_folder = blobs_folder
        self._installer = installer
        self._blobs = blobs
        self._provider = provider
        self._journal = journal
        self._transfers = transfers
        self._names = names
        self._emit = emit
        self._clock = clock
        self._wall_clock = wall_clock
        self._pulls: dict[tuple[tuple[str, ...], Digest], Pull] = {}
        self._preparing = anyio.Lock()

    # --- what Ollama asks for ------------------------------------------------------------------------------------------

    async def manifest(self, name: ModelName) -> bytes:
        """The manifest to answer with.

        As much as can be known soon is known before: this answer is the only one whose text Ollama shows. So the fetch
        begins, and its header is looked at. And a file that is here already is looked at whole, because Ollama takes
        what it has without a question.

        Raises:
            SidecarError: Nothing is offered under the name, or policy, base or file forbid it, or nobody has it.
        """
        entry = self._names.find(name.model, name.tag)
        async with self._preparing:
            pull = await self._prepare(entry, name, tag_known=True)
        if pull.transfer is None:
            pull.begin(self._clock())
        is_here = await self._is_here(pull.digest)
        self._start(pull)
        if is_here:
            await pull.settled.wait()
        else:
            with anyio.move_on_after(MANIFEST_S):
                await self._look_at_header(pull)
        if pull.failure is not None:
            raise pull.failure
        return pull.manifest

    async def blob(self, name: ModelName, digest: Digest) -> Pull:
        """The pull that a blob belongs to, on its way from now on.

        After a restart of ours Ollama goes on with its parts, and asks for no manifest again.

        Raises:
            SidecarError: As `manifest`, or it was refused a moment ago.
        """
        async with self._preparing:  # up to 16 parts ask at once
            pull = self._asked(name, digest)
            if pull is None:
                entry = self._names.find(name.model, name.tag)
                if entry.entry.blob.digest != str(digest):
                    raise NotFound(f"{name.model} has no blob {digest}.")
                pull = await self._prepare(entry, name, tag_known=False)
        if pull.failure is not None:
            if self._is_final(pull):
                raise pull.failure
            pull.begin(self._clock())
        self._start(pull)
        return pull

    def size(self, name: ModelName, digest: Digest) -> int | None:
        """Bytes of a blob that is offered under a name; None for any other."""
        pull = self._asked(name, digest)
        if pull is not None:
            return pull.followed.size
        with suppress(SidecarError):
            blob = self._names.find(name.model, name.tag).entry.blob
            return blob.size if blob.digest == str(digest) else None
        return None

    async def run(self) -> None:
        """Stop fetching what nobody waits for any more, until cancelled."""
        while True:
            await anyio.sleep(IDLE_S / 10)
            for pull in list(self._pulls.values()):
                if pull.transfer is None:
                    if self._clock() - max(pull.asked_at, pull.failed_at) > FINISH_S:
                        del self._pulls[pull.name.folded, pull.digest]
                elif not pull.settled.is_set() and self._is_idle(pull, IDLE_S):
                    self._transfers.cancel(pull.transfer)

    def end(self) -> None:
        """The registry was switched off: stop what has not come to Ollama."""
        for pull in self._pulls.values():
            if pull.transfer is not None and not pull.settled.is_set():
                self._transfers.cancel(pull.transfer)

    # --- preparing -----------------------------------------------------------------------------------------------------

    def _asked(self, name: ModelName, digest: Digest) -> Pull | None:
        """The pull whose manifest was asked for last, whatever its tag."""
        found = [
            pull for pull in self._pulls.values() if pull.digest == digest and pull.name.folded[:-1] == name.folded[:-1]
        ]
        return max(found, key=lambda pull: pull.asked_at, default=None)

    async def _prepare(self, entry: SignedEntry, name: ModelName, *, tag_known: bool) -> Pull:
        """Everything that is known without the file: policy, base, manifest."""
        self._installer.check_policy(entry, GetOptions())
        base = await self._installer.base_for(entry)
        digest = Digest.parse(entry.entry.blob.digest)
        with bridge_errors():
            plan = await make_plan(
                self._client,
                self._one_time,
                self._store,
                adapter=Path(),  # Ollama fetches it itself
                digest=digest,
                size=entry.entry.blob.size,
                base=base,
                wanted=name,
                force=True,  # whoever pulls a name again wants it anew
            )
        if plan.base_manifest is None:
            raise InstallError(f"The layers of {base} cannot be read, so it cannot be extended.")
        known = self._pulls.get((plan.wanted.folded, digest))
        same = known is not None and known.entry.id == entry.id and known.manifest == plan.render_manifest()
        if known is not None and (same or known.transfer is not None):
            known.asked_at = self._clock()
            return known
        pull = self._pulls[plan.wanted.folded, digest] = Pull(entry, plan, self._clock(), tag_known=tag_known)
        return pull

    async def _is_here(self, digest: Digest) -> bool:
        with bridge_errors():
            in_ollama = await self._client.has_blob(digest)
        return in_ollama or await to_thread.run_sync((self._blobs_folder / digest.file_name).exists)

    def _is_final(self, pull: Pull) -> bool:
        """Whether another try of the same pull would end as this one; what peers may mend is tried again."""
        mendable = isinstance(pull.failure, TransferError)
        mendable = mendable and not isinstance(pull.failure, BlobMismatch | TransferCancelled)
        return not mendable and self._clock() - pull.failed_at < REFUSED_S

    async def _look_at_header(self, pull: Pull) -> None:
        """Stop a pull whose header alone shows that it must not be; else return when that is known."""
        try:
            await self._installer.check_header(await read_header(pull.followed), pull.entry)
        except FollowEnded:
            return
        except AdapterFormatError as error:
            pull.refusal = ClaimMismatch(f"The file of {pull.entry.name} is not an adapter: {error}")
        except SidecarError as error:
            pull.refusal = error
        if pull.refusal is not None and pull.transfer is not None:
            self._transfers.cancel(pull.transfer)
            await pull.settled.wait()

    # --- carrying out --------------------------------------------------------------------------------------------------

    def _start(self, pull: Pull) -> None:
        if pull.transfer is not None:
            return
        entry = pull.entry
        blob = entry.entry.blob
        what = entry.id + str(pull.name).encode()  # a `get` of the same entry is another transfer
        job = Job(what, entry.ref, entry.name, blob.digest, blob.size, partial(self._carry_out, pull))
        pull.transfer = self._transfers.begin(job, GetOptions(by=BY_OLLAMA)).id

    async def _carry_out(
        self,
        pull: Pull,
        options: GetOptions,
        *,
        transfer: str,
        fetching: Callable[[Fetch], None],
        progress: Callable[[str, Progress | None], None],
    ) -> Outcome:
        def follow(fetch: Fetch) -> None:
            fetching(fetch)
            pull.followed.follow(fetch)

        entry = pull.entry
        try:
            progress("fetch", None)
            blob, fetched = await self._blobs.obtain(
                entry, entry.entry.blob, follow, lambda now: progress("fetch", now)
            )
            progress("verify", None)
            await self._installer.check_file(blob.path, entry)
            table = await self._table_of(blob)
            warnings = self._installer.check_policy(entry, GetOptions())  # the publisher may be blocked since
            progress("install", None)
            self._emit(InstallStarted(transfer, entry.ref, pull.plan.base.display, "pull"))
            row = await self._hand_over(pull, blob, table)
            await self._blobs.let_ollama_hold(blob)
            await self._installer.pin(entry)
            await self._installer.write_audit("install", row, options.by)
            return Outcome(row.name, "pull", None, fetched, warnings)
        except SidecarError as error:
            pull.fail(pull.refusal or error, self._clock())
            raise pull.refusal or error from None
        except BaseException:
            pull.fail(pull.refusal or TransferError("The transfer was ended."), self._clock())
            raise
        finally:
            pull.transfer = None

    async def _table_of(self, blob: VerifiedBlob) -> ChunkTable:
        registered = self._provider.blob(blob.digest)
        if registered is not None:
            return registered.table

        def work() -> ChunkTable:
            with blob.path.open("rb") as file:
                return hash_chunks(file, blob.size)[1]

        return await to_thread.run_sync(work)

    async def _hand_over(self, pull: Pull, blob: VerifiedBlob, table: ChunkTable) -> InstallRow:
        """Let Ollama have the rest, and wait until it has made the model.

        The install is noted before: the moment Ollama writes the manifest, a share rule asks whose adapter it is.
        """
        entry = pull.entry
        row = InstallRow(
            pull.name.display,
            entry.entry.blob.digest,
            entry.entry.base.digest,
            "pull",
            entry.id,
            entry.publisher,
            entry.version,
            str(pull.manifest_digest),
            self._wall_clock(),
            entry.name,
        )
        before = await self._journal.run(
            lambda journal: next((each for each in journal.installs() if each.name == row.name), None)
        )
        await self._journal.run(lambda journal: journal.save_install(row))
        pull.followed.release(blob.path, table)
        pull.settled.set()
        made = await self._ollama_made(pull)

        def settle(journal: Journal) -> InstallRow:
            if made is not None and made.folded == pull.name.folded:
                return row
            journal.remove_install(row.name)
            if before is not None:
                journal.save_install(before)
            if made is None:
                raise InstallError("Ollama did not finish its pull.", "Run the same `ollama pull` again.")
            moved = replace(row, name=made.display)
            journal.save_install(moved)
            return moved

        return await self._journal.run(settle)

    async def _ollama_made(self, pull: Pull) -> ModelName | None:
        """The name under which the model appears with exactly our manifest; None once it is clear that it will not."""
        pause = POLL_S
        while not self._is_idle(pull, FINISH_S):
            with suppress(OllamaBridgeError):  # it may be restarting
                listed = [model for model in await self._client.tags() if _is_of(pull, model.name)]
                for model in listed:
                    if model.manifest_digest == pull.manifest_digest.hex:
                        return model.name
            await anyio.sleep(pause)
            pause = min(pause * 1.5, LONGEST_POLL_S)
        return None

    def _is_idle(self, pull: Pull, seconds: float) -> bool:
        if pull.followed.readers:
            pull.asked_at = self._clock()
        return self._clock() - pull.asked_at > seconds


def _is_of(pull: Pull, name: ModelName) -> bool:
    """Whether a model of Ollama's may be what is pulled. Without the tag, any tag may."""
    return name.folded == pull.name.folded or (not pull.tag_known and name.folded[:-1] == pull.name.folded[:-1])
