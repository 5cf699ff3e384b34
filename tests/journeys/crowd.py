"""Members of a room without an Ollama: the network part of a sidecar and its catalogue. Many fit into one process."""

from __future__ import annotations

import hashlib
import secrets
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio

from hyperdht import KeyPair
from sidecar.catalogue.catalogue import Catalogue
from sidecar.catalogue.entry import ADAPTER_MEDIA_TYPE, AdapterFacts, BaseFacts, Blob, Entry, build_entry, sign_entry
from sidecar.catalogue.fields import time_text
from sidecar.catalogue.journal import Journal
from sidecar.catalogue.journal_thread import JournalThread
from sidecar.catalogue.limits import MAX_ENTRIES_PER_PUBLISHER
from sidecar.catalogue.rows import RoomRow
from sidecar.rooms.network import JoinedRoom, RoomNetwork
from sidecar.transfer.provide import Provider
from sidecar.trust.keyring import Keyring

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Sequence
    from pathlib import Path

    from sidecar.catalogue.entry import SignedEntry
    from sidecar.events import Event
    from sidecar.rooms.key import RoomKey

BASE = BaseFacts("llama3.2:1b", "sha256:" + "22" * 32, "llama")
ADAPTER = AdapterFacts("gguf", 8, 16.0, 64, "33" * 32)
DESCRIPTION = "Answers questions about the schema of our warehouse, trained on two years of tickets."


def made_entry(
    number: int, publisher: KeyPair, created: float | None = None, expires: float | None = None
) -> SignedEntry:
    """The offer of an adapter that is like no other one."""
    digest = hashlib.sha256(b"%d" % number).hexdigest()
    blob = Blob(f"sha256:{digest}", 13_631_488, ADAPTER_MEDIA_TYPE, digest)
    entry = Entry(
        name=f"adapter-{number}",
        version=1,
        created=time_text(time.time() if created is None else created),
        expires=None if expires is None else time_text(expires),
        description=DESCRIPTION,
        license="apache-2.0",
        tags=("sql", "de"),
        base=BASE,
        adapter=ADAPTER,
        blobs=(blob,),
    )
    return sign_entry(build_entry(entry), publisher)


def made_entries(count: int, publishers: Sequence[KeyPair] = ()) -> list[SignedEntry]:
    """That many of them, by these publishers in turn, or by as many as it takes."""
    by = publishers or [KeyPair.generate() for _ in range(-(-count // MAX_ENTRIES_PER_PUBLISHER))]
    return [made_entry(number, by[number % len(by)]) for number in range(count)]


@dataclass(eq=False)
class Member:
    """One of them."""

    key_pair: KeyPair
    network: RoomNetwork
    catalogue: Catalogue


@asynccontextmanager
async def member(
    folder: Path,
    room: RoomKey,
    entries: Iterable[SignedEntry] = (),
    *,
    key_pair: KeyPair | None = None,
    emit: Callable[[Event], None] = lambda event: None,
) -> AsyncIterator[Member]:
    """Be in a room, with entries in the catalogue as after a restart; those it published it claims to hold."""
    pair = key_pair or KeyPair.generate()
    epoch, now = secrets.token_bytes(16), time.time()
    journal = _new_journal(folder, RoomRow(room.room_id, "crowd", "private", room.secret, epoch, 0, now))
    try:
        catalogue = Catalogue()
        catalogue.open_room(room.room_id, epoch=epoch)
        for sequence, entry in enumerate(entries, 1):
            held = entry.publisher == pair.public_key
            catalogue.restore(room.room_id, entry, sequence=sequence, held=held)
        network = RoomNetwork(
            catalogue=catalogue,
            journal=JournalThread(journal),
            keyring=Keyring(journal),
            provider=Provider(),
            emit=emit,
        )
        network.join(JoinedRoom(room, "crowd", "private", now))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(network.run)
            yield Member(pair, network, catalogue)
            tasks.cancel_scope.cancel()
    finally:
        journal.close()


def _new_journal(folder: Path, room: RoomRow) -> Journal:
    folder.mkdir(parents=True)
    journal = Journal.open(folder, now=time.time, check_modes=False)
    journal.save_room(room)
    return journal
