"""Everything Orch-Mind of one daemon: the rooms joined, the peers met there, what they share and what we offer them.

A connection does not say which room it is for, and Orch-Mind's own code tells every peer everything it shares. So we offer a
peer only what is shared in all of the Orch-Mind rooms we are in, and what we list is of all rooms together.
"""

from __future__ import annotations

import logging
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from anyio import to_thread

from ollama_bridge.digests import Digest
from ollama_bridge.errors import OllamaBridgeError
from sidecar.catalogue.entry import SignedEntry
from sidecar.catalogue.rows import OrchMindRoomRow, OrchMindShareRow
from sidecar.catalogue.text import clean_line
from sidecar.errors import BlobMismatch, NotFound, ShareError
from sidecar.events import AdaptersAvailable
from sidecar.rooms.key import GENERAL_TOPIC, RoomKey, general_room_key
from sidecar.rooms.network import JoinedRoom

from .board import Board
from .exchange import Exchange
from .folders import is_peft_folder, open_tensors, read_folder
from .messages import AdapterOffer, looks_like_orch_mind

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hyperdht import SecretStream
    from hyperdht.buffers import BytesLike
    from sidecar.catalogue.catalogue import Catalogue
    from sidecar.catalogue.journal import Journal
    from sidecar.catalogue.journal_thread import JournalThread
    from sidecar.events import Event
    from sidecar.transfer.bandwidth import TokenBucket
    from sidecar.transfer.provide import Provider

log = logging.getLogger(__name__)

KIND = "orch-mind"
MAX_PEERS = 32
"""Strangers may connect for free, and each may list 256 adapters and hold an upload slot."""


@dataclass(frozen=True, slots=True)
class OrchMindInfo:
    """In numbers, for `doctor` and metrics."""

    rooms: int
    peers: int
    offered: int
    """Adapters of ours that its users are offered now."""


class OrchMind:
    """See the module docstring. Implements `rooms.network.OtherProtocol`."""

    def __init__(
        self,
        *,
        catalogue: Catalogue,
        journal: JournalThread,
        provider: Provider,
        own_key: bytes,
        emit: Callable[[Event], None],
        cap: TokenBucket | None = None,
    ) -> None:
        """
        Args:
            cap: For all that is fetched.
        """
        self.rooms: dict[bytes, JoinedRoom] = {}
        """By topic; the general room's too, if it was joined so."""
        self.exchanges: dict[bytes, Exchange] = {}
        """By key of the peer."""
        self._catalogue = catalogue
        self._journal = journal
        self._provider = provider
        self._own_key = own_key
        self._emit = emit
        self._cap = cap
        self._offers: dict[tuple[str, str], AdapterOffer] = {}
        """What we offer now, by source and base: hashed once in a run of the daemon."""

    # --- rooms -----------------------------------------------------------------------------------------------------------

    async def restore(self) -> None:
        """Be in the rooms again that were joined before."""
        for row in await self._journal.run(lambda journal: journal.orch_mind_rooms()):
            self.rooms[row.topic] = _joined(row)
        await self.refresh()

    async def join(self, topic: bytes, label: str, now: float) -> JoinedRoom:
        """Be in a room. Raises RoomError for a label that another has."""
        if topic not in self.rooms:
            row = OrchMindRoomRow(topic, label, now)
            await self._journal.run(lambda journal: journal.save_orch_mind_room(row))
            self.rooms[topic] = _joined(row)
            await self.refresh()
        return self.rooms[topic]

    async def leave(self, topic: bytes) -> None:
        """Be in it no longer. With the last one every connection ends."""
        if self.rooms.pop(topic, None) is None:
            return
        await self._journal.run(lambda journal: journal.remove_orch_mind_room(topic))
        if self.rooms:
            await self.refresh()
            return
        for exchange in list(self.exchanges.values()):
            await exchange.close("we left its room")

    def find(self, text: str) -> JoinedRoom | None:
        """A room by label or id. The general room is found with the others, as it is one of them."""
        wanted = text.strip().lower()
        rooms = (room for topic, room in self.rooms.items() if topic != GENERAL_TOPIC)
        return next((room for room in rooms if wanted in (room.label.lower(), room.id_hex)), None)

    # --- peers -----------------------------------------------------------------------------------------------------------

    def is_spoken(self, first_message: BytesLike) -> bool:
        """See `OtherProtocol`."""
        return bool(self.rooms) and looks_like_orch_mind(first_message)

    async def run_connection(self, stream: SecretStream, first: Sequence[BytesLike], address: str) -> None:
        """See `OtherProtocol`."""
        key = stream.remote_public_key
        if (old := self.exchanges.get(key)) is not None:
            await old.close("replaced by another connection")
        elif len(self.exchanges) >= MAX_PEERS or not self.rooms:
            await stream.aclose()
            return
        exchange = Exchange(
            stream,
            address,
            offers=tuple(self._offers.values()),
            uploads=self._provider.peer(key, may_have=lambda digest: digest in self._offered()),
            changed=self._changed,
            lost=self._lost,
            cap=self._cap,
        )
        log.info("Orch-Mind peer %s at %s", key.hex()[:12], address)
        self.exchanges[key] = exchange
        try:
            reason = await exchange.run(first)
            log.info("Orch-Mind peer %s at %s: %s %s", key.hex()[:12], address, reason, exchange.ignored or "")
        finally:
            if self.exchanges.get(key) is exchange:
                del self.exchanges[key]
            self._changed()

    async def drop(self, key: bytes) -> None:
        """End the connection with a peer, if there is one."""
        if (exchange := self.exchanges.get(key)) is not None:
            await exchange.close("the peer is blocked")

    def board(self) -> Board:
        """What its users share now."""
        return Board({key: exchange.listed for key, exchange in self.exchanges.items()})

    def _changed(self) -> None:
        count = len(self.board().adapters)
        for room in self.rooms.values():
            self._emit(AdaptersAvailable(room.id_hex, count))

    # --- what we offer -----------------------------------------------------------------------------------------------------

    async def share(self, folder: Path, room: JoinedRoom, name: str, base: str) -> AdapterOffer:
        """Offer a PEFT folder to a room that is only Orch-Mind's.

        Raises:
            ShareError: It is none, or cannot be read.
        """
        if not await to_thread.run_sync(is_peft_folder, folder):
            raise ShareError(
                "Orch-Mind knows adapters as PEFT folders only.",
                "Share a folder with adapter_config.json and adapter_model.safetensors; a GGUF cannot be turned back.",
            )
        offer = await self._read(str(folder), name, base)
        row = OrchMindShareRow(room.key.topic, name, str(folder), base)
        await self._journal.run(lambda journal: journal.save_orch_mind_share(row))
        await self.refresh()
        return offer

    async def unshare(self, name: str, room: JoinedRoom | None) -> list[OrchMindShareRow]:
        """Take back what is offered under a name, from one room or all. Raises NotFound."""
        rows = await self._journal.run(lambda journal: journal.orch_mind_shares())
        found = [
            row
            for row in rows
            if name.lower() in (row.name.lower(), row.source.lower()) and (room is None or row.topic == room.key.topic)
        ]
        if not found:
            raise NotFound(f"Nothing is shared as {name!r}{'' if room is None else f' in {room.label}'}.")

        def work(journal: Journal) -> None:
            for row in found:
                journal.remove_orch_mind_share(row.topic, row.name)

        await self._journal.run(work)
        await self.refresh()
        return found

    async def refresh(self) -> None:
        """Offer what is shared now in all rooms; called whenever that may have changed."""
        wanted = await self._wanted()
        offers = {}
        for (source, base), name in wanted.items():
            offer = self._offers.get((source, base))
            try:
                offers[source, base] = offer or await self._read(source, name, base)
            except ShareError as error:
                log.warning("%s is not offered to Orch-Mind peers: %s", source, error.cause)
        self._offers = offers
        for exchange in self.exchanges.values():
            exchange.offer(offers.values())

    async def _wanted(self) -> dict[tuple[str, str], str]:
        """Folder and base of what every room has, and the name it goes by."""
        if not self.rooms:
            return {}
        names: dict[tuple[str, str], str] = {}
        rooms: dict[tuple[str, str], set[bytes]] = {}
        for row in [*await self._journal.run(lambda journal: journal.orch_mind_shares()), *await self._general()]:
            names.setdefault((row.source, row.base), row.name)
            rooms.setdefault((row.source, row.base), set()).add(row.topic)
        return {key: names[key] for key, topics in rooms.items() if topics >= set(self.rooms)}

    async def _general(self) -> list[OrchMindShareRow]:
        """What we share in the general room and still have as a PEFT folder."""
        general = general_room_key().room_id
        if general not in self._catalogue.rooms():
            return []
        shares = await self._journal.run(lambda journal: journal.shares())
        found = []
        for share in shares:
            entry = self._catalogue.find(general, self._own_key, share.name)
            if not share.is_path or general not in share.rooms or not isinstance(entry, SignedEntry):
                continue
            if await to_thread.run_sync(is_peft_folder, Path(share.source)):
                found.append(OrchMindShareRow(GENERAL_TOPIC, share.name, share.source, entry.entry.base.name))
        return found

    async def _read(self, source: str, name: str, base: str) -> AdapterOffer:
        folder = Path(source)

        def work() -> AdapterOffer:
            offer, digest, table = read_folder(folder, name=name, base=base, topic=secrets.token_hex(32))
            self._provider.register(digest, offer.size, table, lambda: open_tensors(folder))
            return offer

        try:
            return await to_thread.run_sync(work)
        except (OSError, OllamaBridgeError, BlobMismatch) as error:
            raise ShareError(clean_line(f"{source} cannot be offered: {error}")) from error

    @property
    def offered(self) -> int:
        """Adapters that its users are offered now."""
        return len(self._offers)

    def _offered(self) -> set[Digest]:
        return {Digest(offer.checksum) for offer in self._offers.values()}

    def _lost(self, offer: AdapterOffer) -> None:
        """A file of ours changed or vanished: not offered any more in this run, unless it is shared anew."""
        self._offers = {key: each for key, each in self._offers.items() if each.topic != offer.topic}
        for exchange in self.exchanges.values():
            exchange.offer(self._offers.values())


def _joined(row: OrchMindRoomRow) -> JoinedRoom:
    # The topic is all there is: no key that only members know, so none of our own protocol is spoken there (T11, T12).
    key = general_room_key() if row.topic == GENERAL_TOPIC else RoomKey(row.topic, row.topic)
    return JoinedRoom(key, row.label, KIND, row.joined_at)
