"""The verbs a user has. API, CLI, tests and the Python facade call these and nothing below."""

from __future__ import annotations

import os
import secrets
import time
from collections import Counter
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
from .catalogue.restore import restore_room
from .catalogue.rows import RoomRow, Standing
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
from .errors import ConsentNeeded, NotFound, RoomError, ShareError, UsageError, as_error
from .events import RoomJoined, RoomLeft
from .identity import read_aloud
from .models.words import model_settings, size_words
from .orch_mind.verbs import GENERAL_CONSENT
from .rooms.code import generate_code, normalise_code, room_link
from .rooms.key import RoomKey, derive_room_key, general_room_key, local_room_key
from .rooms.messages import EPOCH_BYTES
from .rooms.network import JoinedRoom
from .sync.rules import shares_everything
from .sync.verbs import SyncVerbs
from .transfer.chunks import hash_chunks
from .trust.policy import Enforcement
from .trust.warnings import warnings_about

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from contextlib import AbstractAsyncContextManager

    from ollama_bridge.adapters.inspect_model import ModelInfo

    from .catalogue.entry import SignedEntry
    from .catalogue.journal import Journal
    from .catalogue.rows import FollowedListRow
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
        RoomKind,
        RuleInfo,
        RuleOptions,
        ShareOptions,
        SyncReport,
        TransferInfo,
        Trust,
    )
    from .parts import Parts

GENERAL, LOCAL = "general", "local"
MAX_LABEL_CHARS = 64
ROWS_AT_ONCE = 200
"""Of a listing, between two looks at everything else: a full room has 50,000."""
CONSENT = (
    "The general room is public. Everybody in it sees your IP address, your public key, the adapters you offer there and which "
    "ones you fetch. What you do not share stays unseen, and you can leave at any time."
)
SHOWN_TRUST: dict[Standing, Trust] = {
    Standing.UNKNOWN: "unknown",
    Standing.TRUSTED: "trusted",
    Standing.BLOCKED: "blocked",
}


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
        self._rooms_changed = rooms_changed
        self._started = time.monotonic()
        self._orch_mind = parts.orch_mind
        self._sync = SyncVerbs(parts.sync, parts.network, room=self._room, publisher=self._publisher_key)

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
        return self._connections.diagnose_room(self._room(room).key.room_id)

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
        rules = {rule.room_id for rule in await self._parts.sync.rules() if shares_everything(rule)}
        rooms = self._parts.network.rooms.values()
        found = tuple(replace(self._room_info(room), share_all=room.key.room_id in rules) for room in rooms)
        return found + self._orch_mind.rooms()

    async def create_room(self, label: str | None) -> RoomInfo:
        """See `Control`."""
        code = generate_code()
        key = await to_thread.run_sync(derive_room_key, code)
        info = await self._enter(key, label or f"room-{key.room_id.hex()[:6]}", "private")
        return replace(info, code=code, link=room_link(code))

    async def join_room(self, room: str, *, label: str | None, consent: bool, orch_mind: bool = False) -> RoomInfo:
        """See `Control`."""
        wanted = room.strip()
        if orch_mind and wanted.lower() != GENERAL:
            if label is not None:
                self._check_label(label)
            info = await self._orch_mind.join(wanted, label, consent=consent)
            await self._rooms_changed()
            return info
        if wanted.lower() == LOCAL:
            return await self._enter(local_room_key(), label or LOCAL, "local")
        if wanted.lower() == GENERAL:
            if not consent:
                text = f"{CONSENT} {GENERAL_CONSENT}" if orch_mind else CONSENT
                raise ConsentNeeded(text, "Agree with --yes, or use a private room or the `local` room instead.")
            info = await self._enter(general_room_key(), label or GENERAL, "general")
            if orch_mind:
                await self._orch_mind.join_general(info.label)
            return replace(info, orch_mind=self._orch_mind.in_general)
        key = await to_thread.run_sync(derive_room_key, normalise_code(wanted))
        return await self._enter(key, label or f"room-{key.room_id.hex()[:6]}", "private")

    async def leave_room(self, room: str) -> RoomInfo:
        """See `Control`."""
        if (theirs := self._orch_mind.find(room)) is not None:
            info = await self._orch_mind.leave(theirs)
            await self._rooms_changed()
            return info
        found = self._room(room)
        info = self._room_info(found)
        if found.kind == GENERAL:
            await self._orch_mind.leave_general()
        room_id = found.key.room_id
        self._parts.network.leave(room_id)
        self._parts.catalogue.close_room(room_id)
        await self._parts.journal.run(lambda journal: journal.remove_room(room_id))
        self._parts.bus.emit(RoomLeft(found.id_hex, found.label))
        await self._rooms_changed()
        return info

    async def rotate_room(self, room: str) -> RoomInfo:
        """See `Control`."""
        parts, old = self._parts, self._room(room)
        if old.kind != "private":
            raise RoomError("Only a private room has a code that can be changed.", "Leave this one instead.")
        code, now = generate_code(), time.time()
        key = await to_thread.run_sync(derive_room_key, code)
        epoch = secrets.token_bytes(EPOCH_BYTES)
        row = RoomRow(key.room_id, old.label, old.kind, key.secret, epoch, 0, now, old.policy.value)
        offering = {entry.publisher for entry in parts.catalogue.entries(old.key.room_id)}
        blocked = [each for each in offering if parts.keyring.standing(each) is Standing.BLOCKED]
        parts.network.leave(old.key.room_id)
        parts.catalogue.close_room(old.key.room_id)

        def work(journal: Journal) -> None:
            journal.replace_room(old.key.room_id, row, without=blocked)
            for each in journal.rooms():
                if each.room_id == row.room_id:
                    restore_room(journal, parts.catalogue, each)
            parts.pins.load()

        await parts.journal.run(work)
        changed = JoinedRoom(key, old.label, old.kind, now, old.policy)
        parts.network.join(changed)
        parts.bus.emit(RoomLeft(old.id_hex, old.label))
        parts.bus.emit(RoomJoined(changed.id_hex, changed.label))
        await self._rooms_changed()
        return replace(self._room_info(changed), code=code, link=room_link(code))

    async def _enter(self, key: RoomKey, label: str, kind: RoomKind) -> RoomInfo:
        if (joined := self._parts.network.rooms.get(key.room_id)) is not None:
            return self._room_info(joined)
        self._check_label(label, everybodys=kind in (GENERAL, LOCAL))
        epoch, now = secrets.token_bytes(EPOCH_BYTES), time.time()
        row = RoomRow(key.room_id, label, kind, key.secret, epoch, 0, now)
        await self._parts.journal.run(lambda journal: journal.save_room(row))
        self._parts.catalogue.open_room(key.room_id, epoch=epoch)
        room = JoinedRoom(key, label, kind, now)
        self._parts.network.join(room)
        self._parts.bus.emit(RoomJoined(room.id_hex, label))
        await self._rooms_changed()
        return self._room_info(room)

    def _check_label(self, label: str, *, everybodys: bool = False) -> None:
        if not label.strip() or len(label) > MAX_LABEL_CHARS or not label.isprintable():
            raise RoomError(f"A label has 1 to {MAX_LABEL_CHARS} printable characters.", "Choose one with --label.")
        if label.lower() in (GENERAL, LOCAL) and not everybodys:
            raise RoomError(f"{label!r} is the name of a room everybody has.", "Choose another one with --label.")
        labels = {room.label.lower() for room in self._parts.network.rooms.values()}
        if label.lower() in labels or self._orch_mind.find(label) is not None:
            raise RoomError(f"Another room is called {label!r}.", "Choose another label with --label.")

    def _room(self, text: str) -> JoinedRoom:
        wanted = text.strip().lower()
        rooms = self._parts.network.rooms.values()
        found = [room for room in rooms if wanted in (room.label.lower(), room.id_hex)]
        if not found:
            labels = ", ".join(sorted({room.label for room in (*rooms, *self._orch_mind.joined)})) or "none"
            raise NotFound(f"We are in no room {text[:80]!r}.", f"Rooms joined: {labels}.")
        return found[0]

    def _room_info(self, room: JoinedRoom) -> RoomInfo:
        network, catalogue = self._parts.network, self._parts.catalogue
        room_id = room.key.room_id
        roads = Counter(link.connection.road for link in network.links(room_id))
        kind: RoomKind = "general" if room.kind == GENERAL else "local" if room.kind == LOCAL else "private"
        return RoomInfo(
            room.id_hex,
            room.label,
            kind,
            len(network.links(room_id)),
            len(catalogue.entries(room_id)),
            room.joined_at,
            policy=room.policy.value,
            orch_mind=kind == GENERAL and self._orch_mind.in_general,
            lan=roads["lan"],
            direct=roads["direct"],
            relayed=roads["relayed"],
        )

    async def set_policy(self, room: str, policy: Policy) -> RoomInfo:
        """See `Control`."""
        found = self._room(room)

        def work(journal: Journal) -> None:
            for row in journal.rooms():
                if row.room_id == found.key.room_id:
                    journal.save_room(replace(row, policy=policy))

        await self._parts.journal.run(work)
        self._parts.network.rooms[found.key.room_id] = changed = replace(found, policy=Enforcement(policy))
        self._parts.sync.wake()
        return self._room_info(changed)

    # --- adapters ------------------------------------------------------------------------------------------------------

    async def adapters(
        self, *, room: str | None = None, fits: bool = False, local: bool = False
    ) -> tuple[AdapterRow, ...]:
        """See `Control`."""
        theirs = None if room is None else self._orch_mind.find(room)
        chosen = None if room is None else set() if theirs is not None else {self._room(room).key.room_id}
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
        joined = self._room(room)
        signed = await self._parts.publisher.share(what, joined, options)
        await self._orch_mind.shared()
        return (await self._rows_of([signed]))[0]

    async def share_all(self, room: str, *, on: bool, models: bool = False) -> RoomInfo:
        """See `Control`."""
        joined = self._room(room)
        await self._parts.sync.share_everything(joined.key.room_id, on=on, models=models)
        return replace(self._room_info(joined), share_all=on)

    async def unshare(self, name: str, room: str | None = None) -> tuple[AdapterRow, ...]:
        """See `Control`."""
        theirs = None if room is None else self._orch_mind.find(room)
        if theirs is not None:
            return await self._orch_mind.unshare(name, theirs)
        joined = None if room is None else self._room(room)
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
        parts = self._parts
        now = time.monotonic()
        found = []
        for connection in parts.network.connections.values():
            rooms = [parts.network.rooms[link.room_id].label for link in connection.proved]
            entries = {short_id for link in connection.proved for short_id in link.offers}
            found.append(
                PeerInfo(
                    key=connection.key.hex(),
                    words=" ".join(read_aloud(connection.key)),
                    address=connection.address,
                    rooms=tuple(sorted(rooms)),
                    trust=SHOWN_TRUST[parts.keyring.standing(connection.key)],
                    entries=len(entries),
                    received_bytes=connection.received_bytes,
                    sent_bytes=connection.sent_bytes,
                    connected_s=now - connection.connected_at,
                    road=connection.road,
                )
            )
        return tuple(found + self._orch_mind.peers(parts.keyring.standing))

    async def trust(self, key: str, *, label: str | None = None, replace_label: bool = False) -> PublisherInfo:
        """See `Control`."""
        if label is not None:
            await self._pin_label(self._publisher_key(key), label, replace_label=replace_label)
        return await self._decide(key, Standing.TRUSTED)

    async def block(self, key: str) -> PublisherInfo:
        """See `Control`."""
        info = await self._decide(key, Standing.BLOCKED)
        connection = self._parts.network.connections.get(bytes.fromhex(info.key))
        if connection is not None:
            await connection.close("the peer is blocked")
        await self._orch_mind.drop(bytes.fromhex(info.key))
        return info

    async def _pin_label(self, key: bytes, label: str, *, replace_label: bool) -> None:
        keyring = self._parts.keyring
        if not label.strip() or len(label) > MAX_LABEL_CHARS or not label.isprintable():
            raise UsageError(f"A name has 1 to {MAX_LABEL_CHARS} printable characters.")

        def work(_: Journal) -> None:
            if replace_label and any(row.label == label for row in keyring.rows()):
                keyring.unpin(label)
            keyring.pin(label, key, time.time())

        await self._parts.journal.run(work)

    async def block_lists(self) -> tuple[BlockListInfo, ...]:
        """See `Control`."""
        return tuple(_list_info(row) for row in self._parts.keyring.lists())

    async def publish_blocks(self, room: str) -> BlockListInfo:
        """See `Control`."""
        parts, joined = self._parts, self._room(room)
        blocked = [row.key for row in parts.keyring.rows() if row.standing is Standing.BLOCKED]
        signed = await parts.publisher.publish_blocks(blocked, joined)
        keys = tuple(key.hex() for key in signed.block_list.blocked)
        return BlockListInfo(signed.publisher.hex(), signed.version, keys)

    async def follow_blocks(self, key: str, *, on: bool) -> BlockListInfo:
        """See `Control`."""
        parts, publisher = self._parts, self._publisher_key(key)
        if not on:
            await parts.journal.run(lambda _: parts.keyring.unfollow(publisher))
            return BlockListInfo(publisher.hex(), 0, ())
        await parts.journal.run(lambda _: parts.keyring.follow(publisher))
        await parts.alarms.look_at_list(publisher)
        return next(_list_info(row) for row in parts.keyring.lists() if row.key == publisher)

    def _publisher_key(self, text: str) -> bytes:
        """The key of a publisher or peer. Raises NotFound."""
        known = {entry.publisher for entry in self._entries(None)} | set(self._parts.network.connections)
        known |= self._orch_mind.peer_keys
        return self._parts.keyring.find(text, known)

    async def _decide(self, text: str, standing: Standing) -> PublisherInfo:
        parts, key = self._parts, self._publisher_key(text)

        def work(_: Journal) -> None:
            decide = parts.keyring.trust if standing is Standing.TRUSTED else parts.keyring.block
            decide(key, time.time())

        await parts.journal.run(work)
        parts.sync.wake()
        return PublisherInfo(key.hex(), " ".join(read_aloud(key)), SHOWN_TRUST[standing], parts.keyring.label(key))


def _list_info(row: FollowedListRow) -> BlockListInfo:
    return BlockListInfo(row.key.hex(), row.version, tuple(sorted(key.hex() for key in row.blocked)))
