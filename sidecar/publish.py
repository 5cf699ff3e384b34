"""Journey 1: an adapter in the store, a file or a PEFT folder becomes a signed offer in a room.

`Publisher.share` is the story: find the file, read it, fit it, hash it, sign it, keep it, tell the room.
"""

from __future__ import annotations

import logging
import os
import time
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import anyio
from anyio import to_thread

from ollama_bridge.digests import Digest
from ollama_bridge.errors import OllamaBridgeError
from ollama_bridge.modelfile import parse_modelfile
from ollama_bridge.names import ModelName
from ollama_bridge.nofollow import open_regular

from .bridge_errors import bridge_errors
from .catalogue.block_list import BLOCK_LIST_NAME, SignedBlockList, build_block_list, sign_block_list
from .catalogue.entry import (
    ADAPTER_MEDIA_TYPE,
    MAX_LICENSE_CHARS,
    AdapterFacts,
    Blob,
    Entry,
    SignedEntry,
    Suggestions,
    build_entry,
    sign_entry,
    suggest_name,
)
from .catalogue.fields import time_text
from .catalogue.rows import HeldRow, ShareRow
from .catalogue.withdrawal import SignedWithdrawal, build_withdrawal, sign_withdrawal
from .control_types import ShareOptions
from .errors import NotFound, ShareError, SidecarError
from .events import ShareRefused
from .models.offer import read_offer
from .share_source import describe_source, hash_source
from .transfer.chunks import ChunkTable
from .transfer.stoppable import run_stoppable
from .trust.policy import ShareFacts, may_share

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ollama_bridge.client import OllamaClient
    from ollama_bridge.store import Store

    from .catalogue.catalogue import Catalogue
    from .catalogue.entry import BaseFacts, ModelFacts
    from .catalogue.journal import Journal
    from .catalogue.journal_thread import JournalThread
    from .events import Event
    from .identity import Identity
    from .local_models import LocalModel, LocalModels
    from .paths import DataPaths
    from .rooms.network import JoinedRoom, RoomNetwork
    from .share_source import Source, SourceFinder
    from .transfer.provide import Provider

log = logging.getLogger(__name__)


class Publisher:
    """See the module docstring."""

    def __init__(
        self,
        *,
        identity: Identity,
        paths: DataPaths,
        client: OllamaClient,
        store: Store | None,
        finder: SourceFinder,
        local: LocalModels,
        catalogue: Catalogue,
        journal: JournalThread,
        network: RoomNetwork,
        provider: Provider,
        emit: Callable[[Event], None],
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._identity = identity
        self._paths = paths
        self._client = client
        self._store = store
        self._finder = finder
        self._local = local
        self._catalogue = catalogue
        self._journal = journal
        self._network = network
        self._provider = provider
        self._emit = emit
        self._wall_clock = wall_clock
        self._turn = anyio.Lock()

    # --- share -------------------------------------------------------------------------------------------------------

    async def share(self, what: str, room: JoinedRoom, options: ShareOptions, *, asked: bool = True) -> SignedEntry:
        """Offer an adapter to a room.

        Args:
            what: Model name, or absolute path of an adapter GGUF or a PEFT folder.
            asked: Whether the user named it, rather than the standing rule.
        Raises:
            ShareError, AdapterRefused, NotFound, OllamaError: Nothing was offered.
        """
        if options.model:
            return await self._share_model(what, room, options, asked=asked)
        async with self._turn:
            with bridge_errors():
                source = await self._finder.find(what, options.base)
                info = await to_thread.run_sync(describe_source, source)
                base = await self._finder.base_of(source, options.base)
                digest, size, table = await to_thread.run_sync(hash_source, source)
            await self._check_policy(source.label, digest, asked=asked)
            suggest = await self._suggestions(source) if options.suggest else Suggestions()
            facts = AdapterFacts("gguf", info.rank, info.alpha, info.tensors, info.shapes)
            blob = Blob(str(digest), size, ADAPTER_MEDIA_TYPE, table.root_hex)
            name = options.name or source.name
            signed = self._sign(self._entry(name, options, base=base, adapter=facts, blobs=(blob,), suggest=suggest))
            path = str(source.kept or (source.label if source.is_path else ""))
            share = ShareRow(signed.name, str(digest), size, source.label, source.is_path, signed.id, ())
            await self._keep(share, [HeldRow(str(digest), path, size, table.hashes)], room)
            self._provider.register(digest, size, table, source.opener)
            await self._tell(signed, room)
            return signed

    async def _share_model(self, what: str, room: JoinedRoom, options: ShareOptions, *, asked: bool) -> SignedEntry:
        """Offer a whole model of the store, each layer that travels as a blob of its own (ADR 0012)."""
        if options.base or options.suggest:
            raise ShareError(
                "A whole model has no base, and its settings belong to it.", "Leave --base and --suggest out."
            )
        if self._store is None or not self._local.readable:
            raise ShareError("A whole model is read from Ollama's store, which is not readable here.")
        with bridge_errors():
            store, name = self._store, ModelName.parse(what)
            offer = await run_stoppable(
                lambda stopped: read_offer(store, name, known=self._known_table, stopped=stopped)
            )
        async with self._turn:  # after the hashing, which takes minutes: adapters are shared meanwhile
            await self._check_policy(offer.label, Digest.parse(offer.base.digest), asked=asked)
            options = replace(options, license=options.license or offer.texts.license_title[:MAX_LICENSE_CHARS])
            blobs = tuple(each.blob for each in offer.blobs)
            entry = self._entry(options.name or offer.name, options, base=offer.base, model=offer.facts, blobs=blobs)
            signed = self._sign(entry)
            held = [HeldRow(each.blob.digest, "", each.blob.size, each.table.hashes) for each in offer.blobs]
            share = ShareRow(signed.name, offer.base.digest, signed.entry.blob.size, offer.label, False, signed.id, ())
            await self._keep(share, held, room)
            for each in offer.blobs:
                self._provider.register(each.digest, each.blob.size, each.table, each.opener)
            await self._tell(signed, room)
            return signed

    def _known_table(self, digest: Digest) -> ChunkTable | None:
        blob = self._provider.blob(digest)
        return None if blob is None or blob.have is not None else blob.table

    async def hold_again(self, model: LocalModel) -> None:
        """An adapter or model we know came (back) into the store: serve it from there."""
        if not model.adapters and model.base is not None and self._provider.blob(model.base) is None:
            key = str(model.base)
            if await self._journal.run(lambda journal: journal.held_blob(key)) is not None:
                await self.restore()  # its texts too
        for digest in model.adapters:
            if self._provider.blob(digest) is not None or self._store is None:
                continue
            row = await self._journal.run(lambda journal, key=str(digest): journal.held_blob(key))  # type: ignore[misc]
            if row is not None:
                self._provider.register(digest, row.size, ChunkTable(row.table), partial(self._store.open_blob, digest))
                await self._network.set_held(digest, True)

    async def adapter_removed(self, model: LocalModel) -> None:
        """An adapter or model left the store: it is no longer served from there."""
        weights = [] if model.base is None or self._provider.blob(model.base) is None else [model.base]
        for digest in (*model.adapters, *weights):
            if not self._local.uses(digest) and not self._kept_copy(digest).exists():
                self._provider.withdraw(digest)
                await self._network.set_held(digest, False)

    async def restore(self) -> None:
        """Serve again what we held when the daemon stopped, where it still is."""
        gone = []
        for digest_text, path, size in await self._journal.run(lambda journal: journal.held()):
            row = await self._journal.run(lambda journal, key=digest_text: journal.held_blob(key))  # type: ignore[misc]
            if row is None:
                continue
            digest = Digest.parse(digest_text)
            opener = self._opener_of(digest, Path(path))
            if await to_thread.run_sync(_can_open, opener, size):
                self._provider.register(digest, size, ChunkTable(row.table), opener)
                await self._network.set_held(digest, True)
            else:
                gone.append(digest)
        for digest in gone:  # last, because a model without any of its parts is not held
            await self._network.set_held(digest, False)
        rooms = self._catalogue.rooms()
        forgotten = [str(each) for each in gone if not any(self._catalogue.offers_blob(r, str(each)) for r in rooms)]

        def forget(journal: Journal) -> None:
            for each in forgotten:
                journal.remove_held(each)

        await self._journal.run(forget)

    # --- by rule -----------------------------------------------------------------------------------------------------

    async def share_by_rule(self, model: LocalModel, room: JoinedRoom) -> bool:
        """Offer an adapter of the store because a rule of auto-sync says so; whether it is offered then.

        A refusal is told as an event: nobody waits for an answer.
        """
        if room.key.room_id in self.settled_in(model):
            return True
        try:
            await self.share(model.name.display, room, ShareOptions(model=not model.adapters), asked=False)
        except SidecarError as error:
            self._emit(ShareRefused(model.name.display, error.cause))
        except OSError as error:  # its file vanished or cannot be read; the next change of the store tries again
            self._emit(ShareRefused(model.name.display, f"It cannot be read: {error}."))
        else:
            return True
        return False

    def settled_in(self, model: LocalModel) -> frozenset[bytes]:
        """Rooms in which a rule has nothing to do for an adapter: it is offered, or the user took it back by name."""
        name = suggest_name(model.name.display)
        found = set()
        for room_id in self._catalogue.rooms():
            stands = self._catalogue.find(room_id, self._identity.key_pair.public_key, name)
            is_offered = isinstance(stands, SignedEntry) and self._is_offered(stands, model)
            if isinstance(stands, SignedWithdrawal) or is_offered:
                found.add(room_id)
        return frozenset(found)

    # --- block list --------------------------------------------------------------------------------------------------

    async def publish_blocks(self, blocked: Iterable[bytes], room: JoinedRoom) -> SignedBlockList:
        """Sign the keys that we block, and tell a room and those that have an earlier list of ours."""
        own = self._identity.key_pair.public_key
        async with self._turn:
            version = self._next_version(BLOCK_LIST_NAME)
            raw = build_block_list(blocked, version, time_text(self._wall_clock()))
            statement = sign_block_list(raw, self._identity.key_pair)
            told = {each for each in self._catalogue.rooms() if self._catalogue.find(each, own, BLOCK_LIST_NAME)}
            for room_id in sorted(told | {room.key.room_id}):
                await self._network.publish(room_id, statement, held=False)
        return statement

    # --- unshare -------------------------------------------------------------------------------------------------------

    async def unshare(self, name: str, room: JoinedRoom | None) -> list[SignedEntry]:
        """Take back what we offer under a name, from one room or all. Raises NotFound.

        A withdrawal holds in all rooms, because it is the publisher's word about the adapter. Taking it from one room
        of several therefore withdraws it and offers it to the others again, under a higher version.
        """
        async with self._turn:
            shares = await self._journal.run(lambda journal: journal.shares())
            share = next((each for each in shares if name.lower() in (each.name.lower(), each.source.lower())), None)
            if share is None or (room is not None and room.key.room_id not in share.rooms):
                raise NotFound(f"Nothing is shared as {name!r}{'' if room is None else f' in {room.label}'}.")
            own = self._own_entry(share.name)
            left = [] if room is None else [each for each in share.rooms if each != room.key.room_id]
            version = self._next_version(share.name)
            raw = build_withdrawal(share.name, version, time_text(self._wall_clock()))
            statement = sign_withdrawal(raw, self._identity.key_pair)
            await self._journal.run(lambda journal: journal.remove_share(share.name))
            for room_id in share.rooms:
                if room_id in self._network.rooms:
                    await self._network.publish(room_id, statement, held=False)
            if own is not None and left:
                again = sign_entry(
                    build_entry(replace(own.entry, version=version + 1, previous=own.raw_digest)),
                    self._identity.key_pair,
                )
                row = replace(share, rooms=tuple(left), entry_id=again.id)
                await self._journal.run(lambda journal: journal.save_share(row))
                for room_id in left:
                    await self._network.publish(room_id, again, held=True)
            return [] if own is None else [own]

    # --- steps of sharing ------------------------------------------------------------------------------------------------

    def _is_offered(self, entry: SignedEntry, model: LocalModel) -> bool:
        """Whether an entry of ours offers exactly this adapter or model, and we serve it: nothing to hash again."""
        digest = Digest.parse(entry.entry.blob.digest)
        is_same = model.base == digest and not model.adapters if entry.entry.is_model else model.adapters == (digest,)
        return is_same and self._provider.blob(digest) is not None

    async def _check_policy(self, label: str, digest: Digest, *, asked: bool) -> None:
        installs = await self._journal.run(lambda journal: journal.installs())
        publisher = next((row.publisher for row in installs if row.digest == str(digest)), None)
        facts = ShareFacts(label, str(digest), publisher, asked)
        decision = may_share(facts, self._identity.key_pair.public_key)
        if not decision.ok:
            raise ShareError(decision.reason)

    async def _suggestions(self, source: Source) -> Suggestions:
        """The model's own template, system text and parameters, for others to look at (T4)."""
        if source.is_path:
            raise ShareError("Only a model of your Ollama has a template and parameters to suggest, a file has not.")
        with bridge_errors():
            shown = await self._client.show(ModelName.parse(source.label))
            parameters = parse_modelfile(shown.modelfile).parameters
        values = {key: each[0] if len(each) == 1 else each for key, each in parameters.items()}
        return Suggestions(shown.template or None, shown.system or None, values)

    def _entry(
        self,
        name: str,
        options: ShareOptions,
        *,
        base: BaseFacts,
        adapter: AdapterFacts | None = None,
        model: ModelFacts | None = None,
        blobs: tuple[Blob, ...],
        suggest: Suggestions | None = None,
    ) -> Entry:
        return Entry(
            name=name,
            version=self._next_version(name),
            created=time_text(self._wall_clock()),
            description=options.description,
            license=options.license,
            tags=options.tags,
            card=options.card or "",
            kind="adapter" if model is None else "model",
            base=base,
            adapter=adapter,
            model=model,
            blobs=blobs,
            suggest=suggest or Suggestions(),
        )

    def _sign(self, entry: Entry) -> SignedEntry:
        """The entry to offer: the one we offer already if nothing changed, else the next version."""
        current = self._own_entry(entry.name)
        if current is not None:
            old = current.entry
            if replace(entry, version=old.version, created=old.created, previous=old.previous) == old:
                return current
            entry = replace(entry, previous=current.raw_digest)
        return sign_entry(build_entry(entry), self._identity.key_pair)

    async def _keep(self, share: ShareRow, held: list[HeldRow], room: JoinedRoom) -> None:
        """Note what we offer, in this room and those that had it, and the blobs that we provide for it."""
        shares = await self._journal.run(lambda journal: journal.shares())
        rooms = {room.key.room_id, *(each for row in shares if row.name == share.name for each in row.rooms)}

        def work(journal: Journal) -> None:
            for row in held:
                journal.save_held(row)
            journal.save_share(replace(share, rooms=tuple(sorted(rooms))))

        await self._journal.run(work)

    async def _tell(self, signed: SignedEntry, room: JoinedRoom) -> None:
        """Offer it to the room, and a new version to the rooms that have the old one."""
        shares = await self._journal.run(lambda journal: journal.shares())
        rooms = {room.key.room_id, *(each for row in shares if row.name == signed.name for each in row.rooms)}
        for room_id in sorted(rooms):
            if room_id in self._network.rooms:
                outcome = await self._network.publish(room_id, signed, held=True)
                if outcome.reason:
                    raise ShareError(outcome.reason)
        await self._network.set_held(Digest.parse(signed.entry.blob.digest), True)

    # --- small things ------------------------------------------------------------------------------------------------------

    def _next_version(self, name: str) -> int:
        return self._catalogue.highest(self._identity.key_pair.public_key, name) + 1

    def _own_entry(self, name: str) -> SignedEntry | None:
        """What we offer under a name, in whichever room."""
        found = (
            self._catalogue.find(room, self._identity.key_pair.public_key, name) for room in self._catalogue.rooms()
        )
        return next((each for each in found if isinstance(each, SignedEntry)), None)

    def _kept_copy(self, digest: Digest) -> Path:
        return self._paths.blobs / digest.file_name

    def _opener_of(self, digest: Digest, path: Path) -> Callable[[], BinaryIO]:
        """From our own copy or the user's file if there was one, else from the store."""
        if path != Path() and path.is_absolute():
            return partial(open_regular, path.parent, (path.name,))
        kept = self._kept_copy(digest)
        if self._store is None or kept.exists():
            return partial(open_regular, kept.parent, (kept.name,))
        return partial(self._store.open_blob, digest)


def _can_open(opener: Callable[[], BinaryIO], size: int) -> bool:
    try:
        with closing(opener()) as file:
            return os.fstat(file.fileno()).st_size == size
    except (OSError, OllamaBridgeError):
        return False
