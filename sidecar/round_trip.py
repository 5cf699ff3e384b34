"""The doctor's proof that sharing works here: two sidecar networks in this process, over real TCP on loopback.

One shares a small blob in a throwaway room, the other finds the entry, fetches the blob in verified chunks and writes it.
Nothing of it touches the user's rooms, identity or Ollama.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
from anyio import to_thread

from hyperdht import KeyPair
from ollama_bridge.digests import Digest
from ollama_bridge.nofollow import open_regular

from .catalogue.catalogue import Catalogue
from .catalogue.entry import (
    ADAPTER_MEDIA_TYPE,
    AdapterFacts,
    BaseFacts,
    Blob,
    Entry,
    build_entry,
    sign_entry,
)
from .catalogue.fields import time_text
from .catalogue.journal import Journal
from .catalogue.journal_thread import JournalThread
from .catalogue.rows import RoomRow
from .events import EntryAdded
from .rooms.key import RoomKey
from .rooms.lan import LanNetwork
from .rooms.messages import EPOCH_BYTES
from .rooms.network import JoinedRoom, RoomNetwork
from .transfer.chunks import hash_chunks
from .transfer.fetch import fetch_blob
from .transfer.fetch_types import BlobSpec
from .transfer.pool import SourcePool
from .transfer.provide import Provider
from .trust.keyring import Keyring

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from .catalogue.entry import SignedEntry
    from .events import Event

BLOB_BYTES = 1_000_000
NO_BASE = "sha256:" + "0" * 64


async def round_trip(data_dir: Path) -> float:
    """Share, fetch and verify a blob; the seconds it took.

    Raises:
        SidecarError: The step that failed says why.
    """
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="doctor-", dir=data_dir) as scratch:
        folder = Path(scratch)
        room = JoinedRoom(RoomKey(os.urandom(32)), "doctor", "private", time.time())
        async with _member(folder / "a", room) as giver, _member(folder / "b", room) as taker:
            entry = await _offer(giver, folder / "blob", room)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(taker.lan.keep_connected, giver.address)
                await taker.saw_entry.wait()
                pool = SourcePool()
                blob = entry.entry.blob
                spec = BlobSpec(Digest.parse(blob.digest), blob.size, blob.chunks)
                with taker.network.attached(entry, pool, spec.digest):
                    await fetch_blob(spec, pool, folder / "partial", folder / "blobs")
                tasks.cancel_scope.cancel()
    return time.monotonic() - started


class _Member:
    """One side."""

    def __init__(self, folder: Path) -> None:
        self.key_pair = KeyPair.generate()
        self.provider = Provider()
        self.saw_entry = anyio.Event()
        self.catalogue = Catalogue()
        self.journal = Journal.open(folder, now=time.time)
        self.network = RoomNetwork(
            catalogue=self.catalogue,
            journal=JournalThread(self.journal),
            keyring=Keyring(self.journal),
            provider=self.provider,
            emit=self._heard,
        )
        self.lan = LanNetwork(self.key_pair, self.network.run_connection)
        self.address = ("127.0.0.1", 0)

    def _heard(self, event: Event) -> None:
        if isinstance(event, EntryAdded):
            self.saw_entry.set()


@contextlib.asynccontextmanager
async def _member(folder: Path, room: JoinedRoom) -> AsyncIterator[_Member]:
    await to_thread.run_sync(folder.mkdir)
    member = await to_thread.run_sync(_Member, folder)
    try:
        epoch = os.urandom(EPOCH_BYTES)
        row = RoomRow(room.key.room_id, room.label, room.kind, room.key.secret, epoch, 0, room.joined_at)
        await to_thread.run_sync(member.journal.save_room, row)
        member.catalogue.open_room(room.key.room_id, epoch=epoch)
        member.network.join(room)
        member.address = await member.lan.listen("127.0.0.1", 0)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(member.network.run)
            tasks.start_soon(member.lan.run, [])
            yield member
            tasks.cancel_scope.cancel()
    finally:
        member.journal.close()


async def _offer(giver: _Member, path: Path, room: JoinedRoom) -> SignedEntry:
    await to_thread.run_sync(path.write_bytes, os.urandom(BLOB_BYTES))
    opener = partial(open_regular, path.parent, (path.name,))
    with opener() as file:
        digest, table = await to_thread.run_sync(hash_chunks, file, BLOB_BYTES)
    giver.provider.register(digest, BLOB_BYTES, table, opener)
    entry = Entry(
        name="doctor",
        version=1,
        created=time_text(time.time()),
        base=BaseFacts("none", NO_BASE, "none"),
        adapter=AdapterFacts("gguf", 1, 1.0, 2, "0" * 64),
        blobs=(Blob(str(digest), BLOB_BYTES, ADAPTER_MEDIA_TYPE, table.root_hex),),
    )
    signed = sign_entry(build_entry(entry), giver.key_pair)
    await giver.network.publish(room.key.room_id, signed, held=True)
    return signed
