"""The verbs a user has. API, CLI, tests and the Python facade call these and nothing below."""

from __future__ import annotations

import os
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from anyio import to_thread
from anyio.lowlevel import checkpoint

from ollama_bridge import install as bridge_install
from ollama_bridge.adapters.inspect import AdapterInfo, describe_adapter
from ollama_bridge.adapters.inspect_model import describe_model
from ollama_bridge.digests import Digest
from ollama_bridge.errors import AdapterFormatError, OllamaBridgeError
from ollama_bridge.nofollow import open_regular

from . import __version__
from .alarms import withdrawn_installs
from .bridge_errors import bridge_errors
from .bundle.export import Exporter
from .bundle.importer import Importer
from .control_types import (
    AdapterRow,
    BlockListInfo,
    OllamaInfo,
    PeerInfo,
    PublisherInfo,
    RoomInfo,
    StatusInfo,
    StoreInfo,
    Suggestion,
    UninstallResult,
    VerifyReport,
)
from .errors import NotFound, ShareError, UsageError, as_error
from .models.words import model_settings, size_words
from .people_verbs import SHOWN_TRUST, PeopleVerbs
from .room_verbs import RoomVerbs
from .rooms.key import general_room_key
from .sync.verbs import SyncVerbs
from .transfer.chunks import hash_chunks
from .trust.warnings import warnings_about

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from contextlib import AbstractAsyncContextManager

    from ollama_bridge.adapters.inspect_model import ModelInfo

    from .catalogue.entry import SignedEntry
    from .control_types import (
        BundleInfo,
        ConnectionsInfo,
        Diagnosis,
        DoctorLine,
        GetOptions,
        ImportInfo,
        NumberedEvent,
        Policy,
        RegistryInfo,
        RollbackInfo,
        RuleInfo,
        RuleOptions,
        ShareOptions,
        SyncReport,
        TransferInfo,
    )
    from .parts import Parts

ROWS_AT_ONCE = 200
"""Of a listing, between two looks at everything else: a full room has 50,000."""


async def ollama_info(parts: Parts) -> OllamaInfo:
    """The Ollama we work for, asked now."""
    try:
        version = await parts.client.version()
        route = await bridge_install.choose_route(parts.client, parts.registry)
    except OllamaBridgeError as error:
        return OllamaInfo(parts.client.url, False, None, None, str(error))
    return OllamaInfo(parts.client.url, True, version, route.kind, route.reason)


def store_info(parts: Parts) -> StoreInfo:
    """Ollama's store as we see it."""
    local, location = parts.local, parts.location
    cause = local.cause or ("" if local.readable else location.reason)
    return StoreInfo(str(location.path), location.kind, local.readable, len(local.models), len(local.adapters), cause)


class ConnectionVerbs(Protocol):
    """What explains connections; see `Control` for the verbs."""

    def overview(self) -> ConnectionsInfo: ...

    def known_keys(self) -> set[bytes]: ...

    def diagnose_room(self, room_id: bytes) -> Diagnosis: ...

    async def diagnose_peer(self, key: bytes, *, dial: bool) -> Diagnosis: ...


class SidecarControl:
    """Implements `control_types.Control` over the parts of a running daemon."""

    def __init__(
        self,
        parts: Parts,
        *,
        api_address: str,
        listening: Callable[[], tuple[str, ...]],
        examine: Callable[[], Awaitable[tuple[DoctorLine, ...]]],
        connections: ConnectionVerbs,
        rooms_changed: Callable[[], Awaitable[None]],
    ) -> None:
        """
        Args:
            api_address: Where the API listens, "host:port".
            listening: Where peers of the local network connect.
            examine: Runs the doctor's checks.
            connections: Explains connections.
            rooms_changed: Told after a room was joined or left, for announcements.
        """
        self._parts = parts
        self._api_address = api_address
        self._listening = listening
        self._examine = examine
        self._connections = connections
        self._started = time.monotonic()
        self._orch_mind = parts.orch_mind
        self._rooms = RoomVerbs(parts, changed=rooms_changed)
        self._people = PeopleVerbs(parts, entries=lambda: self._entries(None))
        self._sync = SyncVerbs(parts.sync, parts.network, room=self._rooms.find, publisher=self._people.key_of)

    # --- state -------------------------------------------------------------------------------------------------------

    async def status(self) -> StatusInfo:
        """See `Control`."""
        parts = self._parts
        shares, installs = await parts.journal.run(lambda journal: (journal.shares(), journal.installs()))
        return StatusInfo(
            version=__version__,
            pid=os.getpid(),
            uptime_s=time.monotonic() - self._started,
            key=parts.identity.fingerprint,
            words=" ".join(parts.identity.words),
            data_dir=str(parts.paths.root),
            api=self._api_address,
            listen=self._listening(),
            ollama=await ollama_info(parts),
            store=store_info(parts),
            rooms=await self.rooms(),
            peers=sum(1 for each in parts.network.connections.values() if each.proved),
            entries=len({entry.id for room in parts.catalogue.rooms() for entry in parts.catalogue.entries(room)}),
            shared=len(shares),
            transfers=parts.transfers.running,
            fetched_bytes=await to_thread.run_sync(parts.blobs.stored_bytes),
            quota_bytes=parts.settings.quota,
            withdrawn=tuple(row.name for row in withdrawn_installs(installs, parts.catalogue)),
            connections=self._connections.overview(),
        )

    async def doctor(self) -> tuple[DoctorLine, ...]:
        """See `Control`."""
        return await self._examine()

    async def diagnose_room(self, room: str) -> Diagnosis:
        """See `Control`."""
        if (theirs := self._orch_mind.find(room)) is not None:
            return self._orch_mind.diagnose(theirs)
        return self._connections.diagnose_room(self._rooms.find(room).key.room_id)

    async def diagnose_peer(self, peer: str, *, dial: bool) -> Diagnosis:
        """See `Control`."""
        key = self._parts.keyring.find(peer, self._connections.known_keys())
        return await self._connections.diagnose_peer(key, dial=dial)

    def events(self, since: int | None = None) -> AbstractAsyncContextManager[AsyncIterator[NumberedEvent]]:
        """See `Control`."""
        return self._parts.bus.subscribe(since)

    # --- rooms ---------------------------------------------------------------------------------------------------------

    async def rooms(self) -> tuple[RoomInfo, ...]:
        """See `Control`."""
        return await self._rooms.list()

    async def create_room(self, label: str | None) -> RoomInfo:
        """See `Control`."""
        return await self._rooms.create(label)

    async def join_room(self, room: str, *, label: str | None, consent: bool, orch_mind: bool = False) -> RoomInfo:
        """See `Control`."""
        return await self._rooms.join(room, label=label, consent=consent, orch_mind=orch_mind)

    async def leave_room(self, room: str) -> RoomInfo:
        """See `Control`."""
        return await self._rooms.leave(room)

    async def rotate_room(self, room: str) -> RoomInfo:
        """See `Control`."""
        return await self._rooms.rotate(room)

    async def set_policy(self, room: str, policy: Policy) -> RoomInfo:
        """See `Control`."""
        return await self._rooms.set_policy(room, policy)

    # --- adapters ------------------------------------------------------------------------------------------------------

    async def adapters(
        self, *, room: str | None = None, fits: bool = False, local: bool = False
    ) -> tuple[AdapterRow, ...]:
        """See `Control`."""
        theirs = None if room is None else self._orch_mind.find(room)
        chosen = None if room is None else set() if theirs is not None else {self._rooms.find(room).key.room_id}
        installs = await self._parts.journal.run(lambda journal: journal.installs())
        installed = {(row.publisher, row.digest): row.name for row in installs}
        rows = []
        for number, entry in enumerate(self._entries(chosen), 1):
            if number % ROWS_AT_ONCE == 0:
                await checkpoint()
            rows.append(self._row(entry, installed))
        if (
            chosen is None
            or theirs is not None
            or (chosen == {general_room_key().room_id} and self._orch_mind.in_general)
        ):
            rows += self._orch_mind.rows(installs)
        return tuple(
            row for row in rows if (not fits or row.fits) and (not local or row.local) and row.trust != "blocked"
        )

    def _entries(self, room_ids: set[bytes] | None) -> list[SignedEntry]:
        """The newest entry of each adapter, by name."""
        catalogue = self._parts.catalogue
        newest: dict[tuple[bytes, str], SignedEntry] = {}
        for room_id in catalogue.rooms() if room_ids is None else room_ids:
            for entry in catalogue.entries(room_id):
                key = (entry.publisher, entry.name.lower())
                if key not in newest or newest[key].version < entry.version:
                    newest[key] = entry
        return sorted(newest.values(), key=lambda entry: (entry.name.lower(), entry.publisher))

    def _row(self, signed: SignedEntry, installed: dict[tuple[bytes, str], str]) -> AdapterRow:
        parts, entry = self._parts, signed.entry
        own = signed.publisher == parts.identity.key_pair.public_key
        bases = parts.local.bases(Digest.parse(entry.base.digest))
        room_ids = parts.catalogue.rooms_of(signed)
        rooms = [parts.network.rooms[each].label for each in room_ids if each in parts.network.rooms]
        standing = parts.keyring.standing(signed.publisher)
        return AdapterRow(
            ref=signed.ref,
            name=entry.name,
            version=entry.version,
            publisher=signed.publisher.hex(),
            rooms=tuple(sorted(rooms)),
            digest=entry.blob.digest,
            size=entry.size,
            base=entry.base.name,
            base_digest=entry.base.digest,
            fits=(entry.is_model or bool(bases)) if parts.local.known.is_set() else None,
            sources=parts.network.sources(signed),
            trust="own" if own else SHOWN_TRUST[standing],
            installed_as=installed.get((signed.publisher, entry.blob.digest)),
            entry=signed.id.hex(),
            publisher_name=parts.keyring.label(signed.publisher),
            description=entry.description,
            license=entry.license,
            tags=entry.tags,
            architecture=entry.base.architecture,
            created=entry.created,
            local=own,
            kind=entry.kind,
            parameters=size_words(entry.model),
            warnings=warnings_about(signed, room_ids, parts.pins, standing, own=own),
        )

    async def _rows_of(self, entries: list[SignedEntry]) -> tuple[AdapterRow, ...]:
        installs = await self._parts.journal.run(lambda journal: journal.installs())
        installed = {(row.publisher, row.digest): row.name for row in installs}
        return tuple(self._row(entry, installed) for entry in entries)

    async def share(self, what: str, room: str, options: ShareOptions) -> AdapterRow:
        """See `Control`."""
        if not what.strip():
            raise ShareError("Nothing was named.", "Name an adapter model, an adapter file or a PEFT folder.")
        if (theirs := self._orch_mind.find(room)) is not None:
            return await self._orch_mind.share(what, theirs, options)
        joined = self._rooms.find(room)
        signed = await self._parts.publisher.share(what, joined, options)
        await self._orch_mind.shared()
        return (await self._rows_of([signed]))[0]

    async def share_all(self, room: str, *, on: bool, models: bool = False) -> RoomInfo:
        """See `Control`."""
        joined = self._rooms.find(room)
        await self._parts.sync.share_everything(joined.key.room_id, on=on, models=models)
        return replace(self._rooms.info(joined), share_all=on)

    async def unshare(self, name: str, room: str | None = None) -> tuple[AdapterRow, ...]:
        """See `Control`."""
        theirs = None if room is None else self._orch_mind.find(room)
        if theirs is not None:
            return await self._orch_mind.unshare(name, theirs)
        joined = None if room is None else self._rooms.find(room)
        shares = await self._parts.journal.run(lambda journal: journal.shares())
        labels = {each.key.room_id: each.label for each in self._parts.network.rooms.values() if joined in (None, each)}
        told = next((row for row in shares if name.lower() in (row.name.lower(), row.source.lower())), None)
        rooms = () if told is None else tuple(sorted(labels[each] for each in told.rooms if each in labels))
        if told is None and room is None and await self._orch_mind.shares(name):
            return await self._orch_mind.unshare(name, None)
        withdrawn = await self._parts.publisher.unshare(name, joined)
        await self._orch_mind.shared()
        return tuple(replace(row, rooms=rooms) for row in await self._rows_of(withdrawn))

    async def suggestions(self, ref: str) -> tuple[Suggestion, ...]:
        """See `Control`."""
        if self._orch_mind.is_ref(ref):
            return ()
        signed = self._parts.catalogue.resolve(ref)
        if signed.entry.is_model:
            return model_settings(await self._parts.models.texts(signed), signed.id.hex())
        suggest = signed.entry.suggest
        template, system = "", ""
        bases = self._parts.local.bases(Digest.parse(signed.entry.base.digest))
        if bases:
            with bridge_errors():
                shown = await self._parts.client.show(bases[0])
            template, system = shown.template, shown.system
        found = []
        if suggest.template is not None and suggest.template != template:
            found.append(Suggestion("template", template, suggest.template, entry=signed.id.hex()))
        if suggest.system is not None and suggest.system != system:
            found.append(Suggestion("system", system, suggest.system, entry=signed.id.hex()))
        for key, value in suggest.parameters.items():
            text = ", ".join(value) if isinstance(value, tuple) else str(value)
            found.append(Suggestion(f"parameters.{key}", "", text, entry=signed.id.hex()))
        return tuple(found)

    async def get(self, ref: str, options: GetOptions) -> TransferInfo:
        """See `Control`."""
        if (begun := self._orch_mind.get(ref, options)) is not None:
            return begun
        return self._parts.transfers.start(self._parts.catalogue.resolve(ref), options)

    async def transfers(self) -> tuple[TransferInfo, ...]:
        """See `Control`."""
        return self._parts.transfers.list()

    async def transfer(self, transfer: str) -> TransferInfo:
        """See `Control`."""
        return self._parts.transfers.get(transfer)

    async def cancel(self, transfer: str) -> TransferInfo:
        """See `Control`."""
        return self._parts.transfers.cancel(transfer)

    async def uninstall(self, name: str) -> UninstallResult:
        """See `Control`."""
        row, removed = await self._parts.installer.uninstall(name)
        return UninstallResult(row.name, row.digest, removed)

    async def verify(self, path: str) -> VerifyReport:
        """See `Control`."""
        file = Path(path)
        if not file.is_absolute() or not await to_thread.run_sync(file.is_file):
            raise NotFound(f"There is no file {path[:500]}.", "Check the path.")
        return await to_thread.run_sync(self._verify, file)

    def _verify(self, path: Path) -> VerifyReport:
        real = path.resolve()
        problems = []
        info: AdapterInfo | ModelInfo | None = None
        with closing(open_regular(real.parent, (real.name,))) as file:
            size = os.fstat(file.fileno()).st_size
            digest, table = hash_chunks(file, size)
            offered = [entry for entry in self._entries(None) if entry.entry.blob.digest == str(digest)]
            is_model = any(entry.entry.is_model for entry in offered)
            try:
                info = describe_model(file) if is_model else describe_adapter(file)
            except AdapterFormatError as error:
                problems.append(str(error))
        for entry in offered:
            claimed = entry.entry.adapter or entry.entry.model
            if info is not None and claimed is not None and claimed.shapes != info.shapes:
                problems.append(f"{entry.ref} claims other tensors for these bytes.")
            if entry.entry.blob.chunks != table.root_hex:
                problems.append(f"{entry.ref} claims other chunks for these bytes.")
        return VerifyReport(
            path=str(path),
            digest=str(digest),
            size=size,
            ok=not problems,
            format=None if info is None else "gguf",
            architecture=None if info is None else info.architecture,
            rank=info.rank if isinstance(info, AdapterInfo) else None,
            tensors=None if info is None else info.tensors,
            entries=tuple(entry.ref for entry in offered),
            problems=tuple(problems),
        )

    # --- bundles -------------------------------------------------------------------------------------------------------

    async def export_bundle(self, ref: str, path: str, *, with_base: bool, overwrite: bool) -> BundleInfo:
        """See `Control`."""
        parts, file = self._parts, Path(path)
        if not file.is_absolute():
            raise UsageError("The file needs an absolute path.")
        exporter = Exporter(provider=parts.provider, store=parts.store, reserve=parts.settings.reserve_bytes)
        return await exporter.export(parts.catalogue.resolve(ref), file, with_base=with_base, overwrite=overwrite)

    async def import_bundle(self, path: str, options: GetOptions) -> ImportInfo:
        """See `Control`."""
        parts, file = self._parts, Path(path)
        if not file.is_absolute():
            raise UsageError("The file needs an absolute path.")
        importer = Importer(
            client=parts.client,
            local=parts.local,
            catalogue=parts.catalogue,
            journal=parts.journal,
            blobs=parts.blobs,
            installer=parts.installer,
            transfers=parts.transfers,
        )
        info, ended = await importer.load(file, options)
        if ended.error is not None:
            raise as_error(ended.error)
        return replace(info, result=ended.result)

    # --- registry ----------------------------------------------------------------------------------------------------

    async def registry(self, *, entries: bool = False) -> RegistryInfo:
        """See `Control`."""
        return self._parts.room_registry.info(entries=entries)

    async def set_registry(
        self, *, on: bool, new_secret: bool = False, push: bool | None = None, models: bool | None = None
    ) -> RegistryInfo:
        """See `Control`."""
        return await self._parts.room_registry.switch(on=on, new_secret_wanted=new_secret, push=push, models=models)

    # --- auto-sync -----------------------------------------------------------------------------------------------------

    async def sync_rules(self) -> tuple[RuleInfo, ...]:
        """See `Control`."""
        return await self._sync.rules()

    async def sync_add(self, options: RuleOptions) -> RuleInfo:
        """See `Control`."""
        return await self._sync.add(options)

    async def sync_remove(self, rule: str) -> RuleInfo:
        """See `Control`."""
        return await self._sync.remove(rule)

    async def sync_run(self, *, dry_run: bool) -> SyncReport:
        """See `Control`."""
        return await self._sync.run(dry_run=dry_run)

    async def sync_rollback(self, name: str, version: int | None = None) -> RollbackInfo:
        """See `Control`."""
        return await self._sync.roll_back(name, version)

    # --- people ----------------------------------------------------------------------------------------------------------

    async def peers(self) -> tuple[PeerInfo, ...]:
        """See `Control`."""
        return await self._people.peers()

    async def trust(self, key: str, *, label: str | None = None, replace_label: bool = False) -> PublisherInfo:
        """See `Control`."""
        return await self._people.trust(key, label=label, replace_label=replace_label)

    async def forget_publisher(self, key: str) -> PublisherInfo:
        """See `Control`."""
        return await self._people.forget(key)

    async def block(self, key: str) -> PublisherInfo:
        """See `Control`."""
        return await self._people.block(key)

    async def block_lists(self) -> tuple[BlockListInfo, ...]:
        """See `Control`."""
        return await self._people.block_lists()

    async def publish_blocks(self, room: str) -> BlockListInfo:
        """See `Control`."""
        return await self._people.publish_blocks(self._rooms.find(room))

    async def follow_blocks(self, key: str, *, on: bool) -> BlockListInfo:
        """See `Control`."""
        return await self._people.follow_blocks(key, on=on)
