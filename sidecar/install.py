"""Journey 2: a peer's offer becomes a model of the local Ollama.

`Installer.install` is the story: may we, what base, fetch, is it what was claimed, does it fit, hand it to Ollama, keep.
Each step either succeeds or raises with a cause; nothing is left half done, and what was verified is kept for the next try.
"""

from __future__ import annotations

import logging
import time
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import anyio
from anyio import to_thread

from ollama_bridge import install as bridge_install
from ollama_bridge.adapters.fit import check_fit
from ollama_bridge.adapters.gguf import BASE_LIMITS, read_gguf
from ollama_bridge.adapters.inspect import describe_adapter, describe_header
from ollama_bridge.digests import Digest
from ollama_bridge.errors import AdapterFormatError, BlobMissing
from ollama_bridge.names import ModelName

from .audit import BY_USER
from .bridge_errors import bridge_errors
from .catalogue.rows import NOBODY, InstallRow
from .errors import (
    BaseModelMissing,
    ClaimMismatch,
    FitRefused,
    InstallError,
    KeyChanged,
    NameTaken,
    NotFound,
    NotTrusted,
)
from .events import InstallStarted
from .trust.policy import Enforcement, Level, may_install
from .trust.warnings import key_changed, warnings_about

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ollama_bridge.adapters.gguf import GgufHeader
    from ollama_bridge.adapters.inspect import AdapterInfo
    from ollama_bridge.client import OllamaClient
    from ollama_bridge.registry import LoopbackRegistry
    from ollama_bridge.store import Store

    from .audit import AuditLog
    from .blobs import Blobs
    from .catalogue.entry import SignedEntry
    from .catalogue.journal import Journal
    from .catalogue.journal_thread import JournalThread
    from .control_types import GetOptions
    from .events import Event
    from .local_models import LocalModels
    from .transfer.fetch import Fetch
    from .transfer.fetch_types import Progress
    from .transfer.verified import VerifiedBlob
    from .trust.keyring import Keyring
    from .trust.pins import Pins

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a `get` ended well."""

    installed_as: str | None
    route: str | None
    path: str | None
    """The verified file, where Ollama does not have it."""
    fetched: bool
    """False when the blob was here already."""
    warnings: tuple[str, ...] = ()
    """What the user should know about it."""


@dataclass(frozen=True, slots=True)
class UnsignedFile:
    """An adapter GGUF that we made ourselves of a file nobody signed."""

    path: Path
    digest: Digest
    size: int
    base_digest: Digest
    """Of the base it was made for, which it fits."""
    name: str
    origin: bytes
    """SHA-256 of the file it was made of."""


class Installer:
    """See the module docstring."""

    def __init__(
        self,
        *,
        client: OllamaClient,
        store: Store | None,
        registry: LoopbackRegistry,
        local: LocalModels,
        journal: JournalThread,
        keyring: Keyring,
        blobs: Blobs,
        audit: AuditLog,
        pins: Pins,
        enforcement: Callable[[SignedEntry], Enforcement],
        rooms_of: Callable[[SignedEntry], tuple[bytes, ...]],
        model_with: Callable[[str], SignedEntry | None],
        emit: Callable[[Event], None],
        own_key: bytes,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._client = client
        self._store = store
        self._registry = registry
        self._local = local
        self._journal = journal
        self._keyring = keyring
        self._blobs = blobs
        self._audit = audit
        self._pins = pins
        self._enforcement = enforcement
        self._rooms_of = rooms_of
        self._model_with = model_with
        self._emit = emit
        self._own_key = own_key
        self._wall_clock = wall_clock
        self.ollama_turn = anyio.Lock()
        """Held by whoever changes models in Ollama: its own steps interleave badly, and its routes are probed each time."""

    # --- the story ---------------------------------------------------------------------------------------------------

    async def install(
        self,
        entry: SignedEntry,
        options: GetOptions,
        *,
        transfer: str,
        fetching: Callable[[Fetch], None],
        progress: Callable[[str, Progress | None], None],
    ) -> Outcome:
        """Fetch an entry's adapter, check it, and install it.

        Args:
            transfer: Id for events.
            fetching: Given the running fetch, to cancel it.
            progress: Told the stage (`fetch`, `verify`, `fit`, `install`), and how far the fetch is.
        Raises:
            SidecarError: With the reason. The store is as it was; a partial file is kept.
        """
        warnings = self.check_policy(entry, options)
        base = await self.base_for(entry) if options.install else None
        progress("fetch", None)
        blob, fetched = await self._blobs.obtain(entry, entry.entry.blob, fetching, lambda now: progress("fetch", now))
        progress("verify", None)
        with bridge_errors():
            await to_thread.run_sync(_check_claims, blob.path, entry)
        if base is None:
            await self._blobs.hold(blob)
            return Outcome(None, None, str(blob.path), fetched, warnings)
        progress("fit", None)
        with bridge_errors():
            await to_thread.run_sync(self._check_fit, blob.path, entry)
        progress("install", None)
        installed = await self._hand_over(entry, blob, base, options, transfer)
        await self._blobs.let_ollama_hold(blob)
        await self.pin(entry)
        return Outcome(installed.name.display, installed.route, None, fetched, warnings)

    def check_policy(self, entry: SignedEntry, options: GetOptions) -> tuple[str, ...]:
        """Whether an entry may be installed here, and what the user should know about it.

        Raises:
            NotTrusted: Its publisher is blocked, or the room's policy asks for more trust.
            KeyChanged: Its name belongs to another publisher here. Never solved quietly (T14); a name of the user's own
                choice, and force, say that the user knows.
        """
        own, standing = entry.publisher == self._own_key, self._keyring.standing(entry.publisher)
        enforcement = self._enforcement(entry)
        decision = may_install(entry, standing, own=own, enforcement=enforcement, now=self._wall_clock())
        if not decision.ok:
            raise NotTrusted(decision.reason)
        rooms = self._rooms_of(entry)
        knows = options.as_name is not None or options.force or not options.install or enforcement is Enforcement.OFF
        if not own and not knows and (alarm := key_changed(entry, rooms, self._pins, standing)) is not None:
            raise KeyChanged(alarm)
        warnings = warnings_about(entry, rooms, self._pins, standing, own=own)
        if decision.level is Level.WARN:
            warnings = (decision.reason, *warnings)
        for text in warnings:
            log.warning("%s", text)
        return warnings

    async def pin(self, entry: SignedEntry) -> None:
        """The name belongs to this publisher from now on, in the rooms that offer it so (trust on first use, T14)."""
        rooms, now = self._rooms_of(entry), self._wall_clock()

        def work(_: Journal) -> None:
            self._pins.pin(rooms, entry.name, entry.publisher, now)

        await self._journal.run(work)

    # --- steps -------------------------------------------------------------------------------------------------------

    async def base_for(self, entry: SignedEntry) -> ModelName:
        """The local model with the entry's base, by digest. Asked before a byte is fetched."""
        wanted = entry.entry.base
        with bridge_errors():
            await self._local.settle()
        names = self._local.bases(Digest.parse(wanted.digest))
        if names:
            return names[0]
        similar = [
            f"{model.name.display} is {model.base}"
            for model in self._local.models.values()
            if model.base is not None and not model.adapters and _same_name(model.name, wanted.name)
        ]
        here = f" Here {similar[0]}." if similar else ""
        offered = self._model_with(wanted.digest)
        first = f"ollama pull {wanted.name}" if offered is None else f"ollaswarm get {offered.ref}"
        raise BaseModelMissing(
            f"{entry.name} was made for {wanted.name} with the digest {wanted.digest}, which this Ollama does not have.{here}",
            f"Get the publisher's base first, for example with `{first}`, then run the same `get` again.",
        )

    async def check_file(self, path: Path, entry: SignedEntry) -> None:
        """Whether a verified file is what its entry says and fits the base.

        Raises:
            ClaimMismatch, FitRefused, BaseModelMissing: It is not, or does not.
        """
        with bridge_errors():
            await to_thread.run_sync(_check_claims, path, entry)
            await to_thread.run_sync(self._check_fit, path, entry)

    async def check_header(self, header: GgufHeader, entry: SignedEntry) -> None:
        """The same of a header, while the rest of the file is on its way. Raises as `check_file`."""

        def work() -> None:
            try:
                _compare_claims(describe_header(header), entry)
            except AdapterFormatError as error:
                raise _unfit_for_ollama(entry, error) from error
            self._compare_with_base(header, entry)

        with bridge_errors():
            await to_thread.run_sync(work)

    def _check_fit(self, path: Path, entry: SignedEntry) -> None:
        """Down to tensor names and shapes, wherever the base's own file can be read (T5)."""
        with path.open("rb") as file:
            self._compare_with_base(read_gguf(file), entry)

    def _compare_with_base(self, adapter: GgufHeader, entry: SignedEntry) -> None:
        if self._store is None:
            return
        wanted = entry.entry.base
        try:
            with closing(self._store.open_blob(Digest.parse(wanted.digest))) as file:
                fit = check_fit(adapter, read_gguf(file, limits=BASE_LIMITS))
        except BlobMissing as error:
            raise BaseModelMissing(str(error)) from error
        if not fit.ok:
            raise FitRefused(f"{entry.name} does not fit {wanted.name} ({wanted.digest}): {' '.join(fit.reasons)}")

    async def _hand_over(
        self, entry: SignedEntry, blob: VerifiedBlob, base: ModelName, options: GetOptions, transfer: str
    ) -> bridge_install.Installed:
        with bridge_errors():
            wanted = ModelName.parse(options.as_name or entry.name)
            async with self.ollama_turn:
                route = await bridge_install.choose_route(self._client, self._registry)
                self._emit(InstallStarted(transfer, entry.ref, base.display, route.kind or "none"))
                installed = await bridge_install.install_adapter(
                    self._client,
                    self._registry,
                    adapter=blob.path,
                    digest=blob.digest,
                    size=blob.size,
                    base=base,
                    wanted=wanted,
                    force=options.force or await self._is_ours(wanted, base, entry),
                    store=self._store,
                )
                with anyio.CancelScope(shield=True):  # the model is there: it must be known as ours
                    row = await self.note_installed(entry, installed)
                if options.accept_suggestions:
                    installed = await self._apply_suggestions(entry, installed)
                    row = await self.note_installed(entry, installed)
        await self.write_audit("install", row, options.by)
        return installed

    async def note_installed(self, entry: SignedEntry, installed: bridge_install.Installed) -> InstallRow:
        """Write down that a model is ours."""
        row = InstallRow(
            installed.name.display,
            entry.entry.blob.digest,
            entry.entry.base.digest,
            installed.route,
            entry.id,
            entry.publisher,
            entry.version,
            "" if installed.manifest_digest is None else str(installed.manifest_digest),
            self._wall_clock(),
            entry.name,
        )
        await self._journal.run(lambda journal: journal.save_install(row))
        return row

    async def write_audit(self, action: str, row: InstallRow, by: str) -> None:
        """A log that cannot be written (a full disk) is told of, and does not undo what was done."""
        facts = {
            "model": row.name,
            "publisher": row.publisher.hex(),
            "adapter": row.adapter,
            "entry": row.entry_id.hex(),
        }
        facts |= {"digest": row.digest, "base": row.base_digest, "route": row.route, "by": by}
        try:
            await to_thread.run_sync(partial(self._audit.write, action, version=row.version, **facts))
        except OSError as error:
            log.error("the audit log could not be written: %s", error)

    async def _is_ours(self, wanted: ModelName, base: ModelName, entry: SignedEntry) -> bool:
        """Whether the name may be taken without `--force`: it holds what we installed, unchanged, or the very same thing.

        What we installed must be of the same publisher: another one's adapter of that name does not take its place
        unasked (T10). The very same thing is what a kill between Ollama's last step and our note of it leaves.
        """
        here = {model.name.folded: model for model in await self._client.tags()}
        present = here.get(wanted.folded)
        if present is None:
            return False
        row = await self.row_of(wanted)
        is_unchanged = row is not None and row.manifest_digest == f"sha256:{present.manifest_digest}"
        if row is not None and is_unchanged and row.publisher == entry.publisher:
            return True
        adapter = Digest.parse(entry.entry.blob.digest)
        return await to_thread.run_sync(self._is_base_with, present.name, base, adapter)

    def _is_base_with(self, name: ModelName, base: ModelName, adapter: Digest) -> bool:
        """Whether a model is layer for layer the base and this adapter. Without the store nobody can say."""
        if self._store is None:
            return False
        layers = [layer.digest for layer in self._store.read_manifest(name).layers]
        expected = [layer.digest for layer in self._store.read_manifest(base).layers]
        return sorted(layers) == sorted([*expected, adapter])

    async def _apply_suggestions(
        self, entry: SignedEntry, installed: bridge_install.Installed
    ) -> bridge_install.Installed:
        """Make the model anew from itself with what the user accepted; base and adapter layers are carried over."""
        suggest = entry.entry.suggest
        parameters = {key: list(v) if isinstance(v, tuple) else v for key, v in suggest.parameters.items()}
        if suggest.template is None and suggest.system is None and not parameters:
            return installed
        await self._client.create(
            installed.name,
            from_=installed.name,
            template=suggest.template,
            system=suggest.system,
            parameters=parameters or None,
        )
        here = {model.name.folded: model.manifest_digest for model in await self._client.tags()}
        digest = here.get(installed.name.folded)
        return bridge_install.Installed(installed.name, installed.route, None if digest is None else Digest(digest))

    # --- without a signature -----------------------------------------------------------------------------------------

    async def install_unsigned(
        self, made: UnsignedFile, base: ModelName, options: GetOptions, transfer: str
    ) -> bridge_install.Installed:
        """Hand over a file that has no publisher. A name that is taken stays as it is without `--force` (T10).

        Raises:
            SidecarError: The store is as it was.
        """
        with bridge_errors():
            wanted = ModelName.parse(options.as_name or made.name)
            async with self.ollama_turn:
                route = await bridge_install.choose_route(self._client, self._registry)
                self._emit(InstallStarted(transfer, made.name, base.display, route.kind or "none"))
                installed = await bridge_install.install_adapter(
                    self._client,
                    self._registry,
                    adapter=made.path,
                    digest=made.digest,
                    size=made.size,
                    base=base,
                    wanted=wanted,
                    force=options.force,
                    store=self._store,
                )
                row = InstallRow(
                    installed.name.display,
                    str(made.digest),
                    str(made.base_digest),
                    installed.route,
                    made.origin,
                    NOBODY,
                    0,
                    "" if installed.manifest_digest is None else str(installed.manifest_digest),
                    self._wall_clock(),
                    made.name,
                )
                with anyio.CancelScope(shield=True):  # the model is there: it must be known as ours
                    await self._journal.run(lambda journal: journal.save_install(row))
        await self.write_audit("install", row, options.by)
        return installed

    # --- a second name -----------------------------------------------------------------------------------------------

    async def give_name(self, source: ModelName, name: ModelName, *, by: str) -> None:
        """Let a name that moves, such as `:latest`, mean a model that we installed.

        Raises:
            NameTaken: Under that name is something we did not put there, or the user changed it.
            InstallError: The model is not there as it was installed.
            OllamaError: Ollama is away.
        """
        with bridge_errors():
            async with self.ollama_turn:
                here = {model.name.folded: model for model in await self._client.tags()}
                row, present = await self.row_of(source), here.get(source.folded)
                if row is None or present is None or row.manifest_digest != f"sha256:{present.manifest_digest}":
                    raise InstallError(
                        f"{source} is not in Ollama as it was installed.", "Install it again with `get`."
                    )
                taken, before = here.get(name.folded), await self.row_of(name)
                ours = {row.manifest_digest, "" if before is None else before.manifest_digest}
                if taken is not None and f"sha256:{taken.manifest_digest}" not in ours:
                    raise NameTaken(f"{name} was changed by somebody else than auto-sync, so it stays as it is.")
                with anyio.CancelScope(shield=True):
                    await self._client.copy(present.name, name if taken is None else taken.name)
                    moved = replace(row, name=name.display, installed_at=self._wall_clock())
                    await self._journal.run(lambda journal: journal.save_install(moved))
        await self.write_audit("name", moved, by)

    # --- after a crash -----------------------------------------------------------------------------------------------------

    async def recover(self) -> bridge_install.Recovered:
        """Take back what an install that was killed left in Ollama. Raises the bridge's errors.

        In turn with installs: Ollama may come up long after us, and a one-time name of now is not one that was left.
        """
        async with self.ollama_turn:
            return await bridge_install.recover(self._client, self._store)

    # --- uninstall ---------------------------------------------------------------------------------------------------------

    async def uninstall(self, name: str, *, by: str = BY_USER) -> tuple[InstallRow, bool]:
        """Remove what `install` made. Raises NotFound, InstallError. The second value: whether Ollama still had it."""
        with bridge_errors():
            wanted = ModelName.parse(name)
        row = await self.row_of(wanted)
        if row is None:
            raise NotFound(
                f"Nothing was installed as {wanted}.", "`ollama list` shows all models; remove others with `ollama rm`."
            )
        with bridge_errors():
            async with self.ollama_turn:
                removed = await bridge_install.uninstall(
                    self._client,
                    ModelName.parse(row.name),
                    base_digest=Digest.parse(row.base_digest),
                    adapter_digest=None if row.is_model else Digest.parse(row.digest),
                    manifest_digest=Digest.parse(row.manifest_digest) if row.manifest_digest else None,
                )

        found = row

        def forget(journal: Journal) -> None:
            journal.remove_install(found.name)

        await self._journal.run(forget)
        await self.write_audit("remove", row, by)
        return row, removed

    async def row_of(self, name: ModelName) -> InstallRow | None:
        """Our note of an install."""
        rows = await self._journal.run(lambda journal: journal.installs())
        return next((each for each in rows if ModelName.parse(each.name).folded == name.folded), None)


def _check_claims(path: Path, entry: SignedEntry) -> None:
    """The verified file must be what its entry says (T2, T5)."""
    try:
        with path.open("rb") as file:
            info = describe_adapter(file)
    except AdapterFormatError as error:
        raise _unfit_for_ollama(entry, error) from error
    _compare_claims(info, entry)


def _unfit_for_ollama(entry: SignedEntry, error: AdapterFormatError) -> ClaimMismatch:
    return ClaimMismatch(f"The file of {entry.name} is not an adapter Ollama should be given: {error}")


def _compare_claims(info: AdapterInfo, entry: SignedEntry) -> None:
    claimed = entry.entry.adapter
    assert claimed is not None
    facts = {
        "architecture": (entry.entry.base.architecture, info.architecture),
        "rank": (claimed.rank, info.rank),
        "alpha": (claimed.alpha, info.alpha),
        "tensors": (claimed.tensors, info.tensors),
        "shapes": (claimed.shapes, info.shapes),
    }
    for name, (said, found) in facts.items():
        if said != found:
            raise ClaimMismatch(f"The entry of {entry.name} says {name} {said}, its file has {found}.")


def _same_name(name: ModelName, text: str) -> bool:
    return ModelName.is_valid(text) and ModelName.parse(text).folded == name.folded
