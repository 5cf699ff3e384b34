"""The pulls under way: what Ollama asks for, answered.

Ollama asks for the manifest, then for the bytes of what it lacks, in parts. They are streamed while peers send them, every
chunk verified; the last one leaves only after the whole file was found to be what was signed and to fit. So a file that is
refused never becomes whole in Ollama's store, which looks at nothing.
"""

from __future__ import annotations

import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import anyio
from anyio import to_thread

from ollama_bridge.digests import Digest
from sidecar.bridge_errors import bridge_errors
from sidecar.control_types import GetOptions
from sidecar.errors import BlobMismatch, NotFound, SidecarError, TransferCancelled, TransferError
from sidecar.transfer.follow import FollowEnded
from sidecar.transfers import Job

from .carry import FINISH_S
from .pull import Pull

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ollama_bridge.client import OllamaClient
    from ollama_bridge.names import ModelName
    from sidecar.catalogue.entry import SignedEntry
    from sidecar.transfers import Transfers

    from .carry import PullCarrier
    from .naming import RoomNames
    from .prepare import Preparer

BY_OLLAMA = "ollama pull"
"""Who asked, in the audit log."""
IDLE_S = 100.0
"""Without anybody reading, a fetch goes on for so long: Ollama pauses for up to 32 s between its tries."""
REFUSED_S = 120.0
"""Ollama tries a part six times within 63 s (facts 6.2). What was refused is not fetched again for each of them."""
MANIFEST_S = 40.0
"""Longest wait with the manifest: a fetch gives up after 30 s without anybody who has the file."""


class Pulls:
    """See the module docstring."""

    def __init__(
        self,
        *,
        client: OllamaClient,
        blobs_folder: Path,
        names: RoomNames,
        preparer: Preparer,
        carrier: PullCarrier,
        transfers: Transfers,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            blobs_folder: Where fetched files are kept until Ollama has them.
        """
        self._client = client
        self._blobs_folder = blobs_folder
        self._names = names
        self._preparer = preparer
        self._carrier = carrier
        self._transfers = transfers
        self._clock = clock
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
        return pull.plan.manifest

    async def blob(self, name: ModelName, digest: Digest) -> Pull:
        """The pull that a blob belongs to, on its way from now on.

        After a restart of ours Ollama goes on with its parts, and asks for no manifest again.

        Raises:
            SidecarError: As `manifest`, or it was refused a moment ago.
        """
        pull = self._asked(name, digest)
        if pull is None:
            async with self._preparing:  # up to 16 parts ask at once
                pull = self._asked(name, digest)
                if pull is None:
                    pull = await self._prepare(self._names.find(name.model, name.tag), name, tag_known=False)
        if pull.size_of(digest) is None:
            raise NotFound(f"{name.model} has no blob {digest}.")
        if pull.transfer is None:
            if pull.failure is not None and self._is_final(pull):
                raise pull.failure
            pull.begin(self._clock())
        self._start(pull)
        return pull

    def size(self, name: ModelName, digest: Digest) -> int | None:
        """Bytes of a blob that is offered under a name; None for any other."""
        pull = self._asked(name, digest)
        if pull is not None:
            return pull.size_of(digest)
        with suppress(SidecarError):
            offered = self._names.find(name.model, name.tag).entry.blobs
            return next((blob.size for blob in offered if blob.digest == str(digest)), None)
        return None

    async def run(self) -> None:
        """Stop fetching what nobody waits for any more, until cancelled."""
        while True:
            await anyio.sleep(IDLE_S / 10)
            now = self._clock()
            for key, pull in list(self._pulls.items()):
                if pull.transfer is None:
                    if now - max(pull.asked_at, pull.failed_at) > FINISH_S:
                        del self._pulls[key]
                elif not pull.settled.is_set() and pull.is_idle(IDLE_S, now):
                    self._transfers.cancel(pull.transfer)

    def end(self) -> None:
        """The registry was switched off: stop what has not come to Ollama."""
        for pull in self._pulls.values():
            if pull.transfer is not None and not pull.settled.is_set():
                self._transfers.cancel(pull.transfer)

    # --- inside --------------------------------------------------------------------------------------------------------

    def _asked(self, name: ModelName, digest: Digest) -> Pull | None:
        """The pull with that blob whose manifest was asked for last, whatever its tag."""
        repository = name.folded[:-1]
        found = [
            pull
            for pull in self._pulls.values()
            if pull.name.folded[:-1] == repository and pull.size_of(digest) is not None
        ]
        return max(found, key=lambda pull: pull.asked_at, default=None)

    async def _prepare(self, entry: SignedEntry, name: ModelName, *, tag_known: bool) -> Pull:
        plan = await self._preparer.plan(entry, name)
        key = plan.name.folded, Digest.parse(entry.entry.blob.digest)
        known = self._pulls.get(key)
        same = known is not None and known.entry.id == entry.id and known.plan.manifest == plan.manifest
        if known is not None and (same or known.transfer is not None):
            known.asked_at = self._clock()
            return known
        pull = self._pulls[key] = Pull(entry, plan, self._clock(), tag_known=tag_known)
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
            await self._preparer.check_header(pull)
        except FollowEnded:
            return
        except SidecarError as error:
            pull.refusal = error
            if pull.transfer is not None:
                self._transfers.cancel(pull.transfer)
                await pull.settled.wait()

    def _start(self, pull: Pull) -> None:
        if pull.transfer is not None:
            return
        entry = pull.entry
        what = entry.id + str(pull.name).encode()  # a `get` of the same entry is another transfer
        carry = partial(self._carrier.carry_out, pull)
        job = Job(what, entry.ref, entry.name, entry.entry.blob.digest, entry.entry.size, carry)
        pull.transfer = self._transfers.begin(job, GetOptions(by=BY_OLLAMA)).id
