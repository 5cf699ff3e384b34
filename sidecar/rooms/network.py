"""All connections and all rooms: who is who, what came in, and what goes to whom.

How statements get into catalogues is in `statements.py`; here is who is told of them. Whoever fetches attaches a pool
and is told which peers hold what.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import anyio

from sidecar.catalogue.block_list import SignedBlockList
from sidecar.catalogue.entry import SignedEntry
from sidecar.catalogue.limits import MAX_ENTRIES_PER_ROOM
from sidecar.catalogue.rows import Standing
from sidecar.events import (
    AdaptersAvailable,
    BlockListChanged,
    EntryAdded,
    EntryWithdrawn,
    PeerConnected,
    PeerDisconnected,
    PeersUpdated,
)
from sidecar.trust.policy import Enforcement

from . import session_events as events
from .acquaintances import Acquaintances
from .meetings import Meetings
from .messages import MAX_OFFERS, GoodbyeReason, Offer
from .peer import PeerConnection
from .statements import Placed, Statements
from .wants import Wants

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from hyperdht import SecretStream
    from hyperdht.buffers import BytesLike
    from ollama_bridge.digests import Digest
    from sidecar.catalogue.catalogue import Catalogue, Outcome, Placement
    from sidecar.catalogue.journal_thread import JournalThread
    from sidecar.catalogue.withdrawal import Statement
    from sidecar.events import Event
    from sidecar.transfer.bandwidth import TokenBucket
    from sidecar.transfer.pool import SourcePool
    from sidecar.transfer.provide import Provider
    from sidecar.transfer.uploads import PeerUploads
    from sidecar.trust.keyring import Keyring

    from .key import RoomKey
    from .link import RoomLink
    from .source import LinkSource

log = logging.getLogger(__name__)

LOCAL_KIND = "local"
PRIVATE_KIND = "private"
MAX_UNPROVED = 32
"""Connections in which nobody proved any room. Strangers can make them for free, so beyond this, or when all places are
taken, one of them goes (T18)."""
MAX_BAD_STATEMENTS = 3
"""Forged or malformed entries from one peer until its connection is closed. Honest members forward only what verified."""
MAX_FAILED_PROOFS = 3
"""Wrong proofs by one key until it is not talked to any more: honest peers never make one (T12)."""
MAX_REMEMBERED_KEYS = 10_000
"""Keys whose failed proofs are remembered; keys are free, so this only has to outlast a person's patience."""
EXPIRY_CHECK_S = 600.0
"""Between looks for entries that ended. They are refused anyway (`trust.policy`); this keeps lists and memory clean."""
MAX_OFFERED = 2 * MAX_ENTRIES_PER_ROOM
"""Offers remembered of one peer in one room: what a room can hold, and as much again that was replaced meanwhile. Offers
cost their sender nothing; an honest peer that comes this far says everything again on its next connection."""


@dataclass(frozen=True, slots=True)
class JoinedRoom:
    """A room we are in."""

    key: RoomKey
    label: str
    kind: str
    joined_at: float
    policy: Enforcement = Enforcement.WARN

    @property
    def is_internet(self) -> bool:
        """Whether its members meet over the DHT, among other ways."""
        return self.kind != LOCAL_KIND

    @property
    def is_private(self) -> bool:
        """Whether only those enter who know its code."""
        return self.kind == PRIVATE_KIND

    @property
    def id_hex(self) -> str:
        """The room id as events and the API show it."""
        return self.key.room_id.hex()


class OtherProtocol(Protocol):
    """Another program's protocol, met in the topics we share with it."""

    def is_spoken(self, first_message: BytesLike) -> bool:
        """Whether a peer that begins so speaks it, and we want to answer."""

    async def run_connection(self, stream: SecretStream, first: Sequence[BytesLike], address: str) -> None:
        """Serve a connection to its end and close it. `first` are the messages read already."""


@dataclass(eq=False, slots=True)
class _Attachment:
    """A running fetch and the sources it was given."""

    entry: SignedEntry
    pool: SourcePool
    digest: Digest
    """The blob of the entry that is fetched."""
    sources: dict[RoomLink, LinkSource] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _News:
    """A change of a catalogue that a room is told of."""

    place: Placement
    statement: Statement
    held: bool
    origin: RoomLink | None = None
    """Who told us. It need not be told that we know it too, unless we hold the blobs."""

    @property
    def offer(self) -> Offer:
        return Offer(self.statement.short_id, self.held)


class RoomNetwork:
    """See the module docstring. One per daemon; everything runs in the event loop's thread."""

    def __init__(
        self,
        *,
        catalogue: Catalogue,
        journal: JournalThread,
        keyring: Keyring,
        provider: Provider,
        emit: Callable[[Event], None],
        max_peers: int = 64,
        room_cap: Callable[[bytes], TokenBucket | None] = lambda room_id: None,
        lan_exempt: bool = False,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.rooms: dict[bytes, JoinedRoom] = {}
        self.connections: dict[bytes, PeerConnection] = {}
        self.bad_input: Counter[str] = Counter()
        """What peers did wrong, by kind; shown in metrics."""
        self.other: OtherProtocol | None = None
        """What is spoken with peers on the internet that do not speak ours."""
        self._sent_before = 0
        self._catalogue = catalogue
        self._keyring = keyring
        self._provider = provider
        self._emit = emit
        self._max_peers = max_peers
        self._room_cap = room_cap
        self._lan_exempt = lan_exempt
        self._clock = clock
        self._statements = Statements(
            catalogue=catalogue,
            journal=journal,
            keyring=keyring,
            provider=provider,
            bad_input=self.bad_input,
            forged=self._forged,
            wall_clock=wall_clock,
        )
        self.acquaintances = Acquaintances(
            journal=journal,
            keyring=keyring,
            is_internet=lambda room_id: room_id in self.rooms and self.rooms[room_id].is_internet,
            is_private=lambda room_id: room_id in self.rooms and self.rooms[room_id].is_private,
            connections=lambda: len(self.connections),
            max_peers=max_peers,
            wall_clock=wall_clock,
        )
        """Members of rooms on the internet, and whom to dial."""
        self.meetings = Meetings(clock)
        """Connections that are over."""
        self._wants = Wants(links=self.links, missing=self._is_missing)
        self._attachments: list[_Attachment] = []
        self._failed_proofs: Counter[bytes] = Counter()
        self._tasks: anyio.abc.TaskGroup | None = None

    # --- life ----------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Work until cancelled."""
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            self._provider.withdrawn = self._blob_withdrawn
            tasks.start_soon(self._forget_expired)
            tasks.start_soon(self._wants.run)
            tasks.start_soon(self.acquaintances.members.run)
            await self._statements.run(self._placed)

    async def _forget_expired(self) -> None:
        while True:
            await self._statements.forget_expired()
            await anyio.sleep(EXPIRY_CHECK_S)

    async def run_connection(self, stream: SecretStream, address: str, *, is_lan: bool = True) -> bool:
        """Serve one connection to its end, unless the peer is connected already or not wanted.

        Returns:
            Whether the peer proved to be a member of a room of ours.
        """
        connection = PeerConnection(stream, address, self, clock=self._clock, is_lan=is_lan)
        if not await self._admit(connection):
            await stream.aclose()
            return False
        self.connections[connection.key] = connection
        for room in self.rooms.values():
            connection.open_room(room.key)
        try:
            reason = await connection.run()
            log.info("peer %s at %s: %s", connection.key.hex()[:12], address, reason)
            if self.connections.get(connection.key) is connection and not connection.foreign:  # else it was replaced
                self.meetings.end(connection, reason)
            if connection.foreign and self.other is not None:
                self._forget(connection)
                await self.other.run_connection(stream, connection.foreign, address)
        except Exception:  # as in `_serve`
            log.exception("connection with %s at %s", connection.key.hex()[:12], address)
        finally:
            self._forget(connection)
        return connection.had_member

    def _forget(self, connection: PeerConnection) -> None:
        if self.connections.get(connection.key) is connection:
            del self.connections[connection.key]
        self._sent_before += connection.sent_bytes
        connection.sent_bytes = 0

    async def close(self) -> None:
        """Say goodbye everywhere."""
        connections = list(self.connections.values())
        for connection in connections:
            for room_id in list(connection.links):
                connection.leave_room(room_id, GoodbyeReason.SHUTTING_DOWN)
        async with anyio.create_task_group() as tasks:
            for connection in connections:
                tasks.start_soon(connection.close, "we are shutting down")

    async def part_with(self, keys: Iterable[bytes]) -> None:
        """Close the connections with those of some peers that are blocked now."""
        for key in keys:
            connection = self.connections.get(key)
            if connection is not None and self._keyring.standing(key) is Standing.BLOCKED:
                await connection.close("the peer is blocked")

    @property
    def sent_bytes(self) -> int:
        """Bytes sent to all peers since the start."""
        return self._sent_before + sum(connection.sent_bytes for connection in self.connections.values())

    def is_connected(self, address: str) -> bool:
        """Whether a connection to or from that "host:port" stands."""
        return any(connection.address == address for connection in self.connections.values())

    # --- rooms -----------------------------------------------------------------------------------------------------------

    def join(self, room: JoinedRoom) -> None:
        """Be in a room whose catalogue is open."""
        self.rooms[room.key.room_id] = room
        for connection in self.connections.values():
            connection.open_room(room.key)

    def leave(self, room_id: bytes) -> None:
        """Say goodbye in a room."""
        del self.rooms[room_id]
        for connection in list(self.connections.values()):
            connection.leave_room(room_id)
        self.acquaintances.left(room_id)

    def links(self, room_id: bytes) -> list[RoomLink]:
        """Peers that proved membership of a room."""
        found = (connection.links.get(room_id) for connection in self.connections.values())
        return [link for link in found if link is not None and link.proved]

    async def publish(self, room_id: bytes, statement: Statement, *, held: bool) -> Outcome:
        """Put a statement of our own into a room and tell everybody there."""
        outcome = await self._statements.place_own(room_id, statement, held=held)
        for place in outcome.placements:
            self._push(place.room_id, statement)
        self._tell([_News(place, statement, held) for place in outcome.placements])
        self._emit_counts([outcome])
        return outcome

    async def set_held(self, digest: Digest, held: bool) -> None:
        """We hold a blob whole now, or no longer; rooms are told."""
        changed = await self._statements.set_held(digest, held)
        self._offer([_News(place, entry, held) for place, entry in changed])
        self.holdings_changed(digest)

    def _blob_withdrawn(self, digest: Digest, reason: str) -> None:
        """A file is no longer what was shared: nobody is told any more that it can be had here (T8)."""
        log.warning("%s is no longer served: %s", digest, reason)
        if self._tasks is not None:
            self._tasks.start_soon(self.set_held, digest, False)

    def holdings_changed(self, digest: Digest) -> None:
        """Tell those who asked what we hold of a blob now."""
        raw = bytes.fromhex(digest.hex)
        for connection in self.connections.values():
            for link in connection.proved:
                link.tell_blob(raw, self._provider)
            connection.flush()

    def enforcement(self, entry: SignedEntry) -> Enforcement:
        """The strictest policy among the rooms that offer an entry; a warning for one that comes from no room."""
        found = [self.rooms[each].policy for each in self._catalogue.rooms_of(entry) if each in self.rooms]
        return max(found, key=list(Enforcement).index, default=Enforcement.WARN)

    # --- sources -----------------------------------------------------------------------------------------------------------

    def sources(self, entry: SignedEntry) -> int:
        """Connected peers that say they hold the entry's blobs."""
        return len({link.peer_key for link in self._links_of(entry) if link.offers.get(entry.short_id)})

    @contextlib.contextmanager
    def attached(self, entry: SignedEntry, pool: SourcePool, digest: Digest) -> Iterator[None]:
        """Keep the pool of a fetch of one of an entry's blobs filled with the peers that have the entry."""
        attachment = _Attachment(entry, pool, digest)
        self._attachments.append(attachment)
        for link in self._links_of(entry):
            self._consider(attachment, link)
        try:
            yield
        finally:
            self._attachments.remove(attachment)
            for link, source in attachment.sources.items():
                link.drop_source(source, digest)

    def _links_of(self, entry: SignedEntry) -> Iterator[RoomLink]:
        for room_id in self._catalogue.rooms_of(entry):
            yield from self.links(room_id)

    def _consider(self, attachment: _Attachment, link: RoomLink) -> None:
        """Give a fetch a peer that has its entry. One that does not hold all may hold parts, and is asked."""
        entry = attachment.entry
        known = any(source.key == link.peer_key for source in attachment.sources.values())
        if entry.short_id in link.offers and not known:
            source = link.source(attachment.digest)
            attachment.sources[link] = source
            attachment.pool.add(source)

    # --- what a connection asks and tells (ConnectionHandler) -------------------------------------------------------------

    def room_by_channel(self, connection: PeerConnection, channel_id: bytes) -> RoomKey | None:
        """See `ConnectionHandler`."""
        handshake_hash = connection.stream.handshake_hash
        for room in self.rooms.values():
            if room.key.channel_id(handshake_hash) == channel_id:
                return room.key
        return None

    def may_have(self, room_id: bytes, digest: Digest) -> bool:
        """See `ConnectionHandler`: what one room offers is not served to another."""
        return room_id in self.rooms and self._catalogue.offers_blob(room_id, str(digest))

    def is_foreign(self, connection: PeerConnection, first_message: BytesLike) -> bool:
        """See `ConnectionHandler`."""
        return not connection.is_lan and self.other is not None and self.other.is_spoken(first_message)

    async def breathe(self) -> None:
        """See `ConnectionHandler`."""
        await self._statements.breathe()

    def link_lost(self, link: RoomLink, reason: str) -> None:
        """See `ConnectionHandler`."""
        for attachment in self._attachments:
            if attachment.sources.pop(link, None) is not None:
                attachment.pool.remove(link.peer_key)
                for other in self._links_of(attachment.entry):
                    self._consider(attachment, other)
        if link.proved:
            link.proved = False
            self._wants.lost(link)
            self.acquaintances.lost(link, gone=not self._is_member(link.peer_key))
            room = self.rooms.get(link.room_id)
            room_hex = link.room_id.hex()
            self._emit(PeerDisconnected(link.peer_key.hex(), room_hex, reason))
            if room is not None:
                self._emit(PeersUpdated(room_hex, len(self.links(link.room_id))))

    def link_event(self, link: RoomLink, event: events.SessionEvent) -> None:
        """See `ConnectionHandler`."""
        if link.handle(event, self._provider):
            return
        match event:
            case events.MembershipProved():
                self._proved(link)
            case events.ChangesAsked():
                self._answer(link, event)
            case events.OffersReceived():
                self._offered(link, event)
            case events.EntriesWanted():
                self._wanted(link, event)
            case events.EntriesReceived():
                self._wants.arrived(link, (each.short_id for each in event.statements))
                self._statements.add(link, event.statements)
            case events.EntriesRefused():
                self._wants.refused(link, event.short_id)
            case events.ProofFailed():
                self._proof_failed(link)
            case events.ProtocolViolation():
                self.bad_input["protocol"] += 1
                log.warning("peer %s broke the room protocol: %s", link.peer_key.hex()[:12], event.reason)
                link.connection.end_link(link, None, event.reason)
            case events.VersionUnsupported():
                link.connection.end_link(link, None, f"the peer speaks version {event.version} of the room protocol")
            case events.PeerSaidGoodbye():
                link.connection.end_link(link, None, "the peer said goodbye")
            case events.PeersReceived():
                self.acquaintances.heard(link, event)
            case _:  # refused entries need no answer
                pass

    # --- membership ----------------------------------------------------------------------------------------------------------

    async def _admit(self, connection: PeerConnection) -> bool:
        if connection.key == connection.stream.public_key:
            return False  # our own listener, found by mDNS or given with --peer
        if self._failed_proofs[connection.key] >= MAX_FAILED_PROOFS:
            self.meetings.refuse(connection, "proofs")
            return False
        if self._keyring.standing(connection.key) is Standing.BLOCKED:
            self.meetings.refuse(connection, "blocked")
            return False
        if (old := self.connections.get(connection.key)) is not None:
            return await self._replace(old, connection)
        unproved = [each for each in self.connections.values() if not each.proved]
        is_full = len(self.connections) >= self._max_peers
        if unproved and (is_full or len(unproved) >= MAX_UNPROVED):
            self._drop(_most_dispensable(unproved))
        elif is_full:
            self.meetings.refuse(connection, "full")
            return False
        return True

    def _drop(self, stranger: PeerConnection) -> None:
        """Give up a connection in which nobody proved any room. Its place is free at once, however long its end takes."""
        self._forget(stranger)
        if self._tasks is not None:
            self._tasks.start_soon(stranger.give_up, "no room in common")

    async def _replace(self, old: PeerConnection, new: PeerConnection) -> bool:
        """Two connections with one peer: both sides must keep the same one.

        One in the local network before one over the internet. Of two over the internet the newer: the swarm has chosen
        already, and the older is the one it ends. In the local network, dialled by the same side, the newer one (the
        older is probably dead); dialled by both, the one that the side with the greater key dialled.
        """
        if old.is_lan != new.is_lan:
            if old.is_lan:
                return False
        elif old.is_lan and old.stream.is_initiator != new.stream.is_initiator:
            ours_wins = new.stream.public_key > new.key
            if new.stream.is_initiator != ours_wins:
                return False
        del self.connections[old.key]
        await old.close("replaced by another connection")
        return True

    def _proved(self, link: RoomLink) -> None:
        link.proved = link.connection.had_member = True
        room_hex = link.room_id.hex()
        link.session.ask_since()
        assert self._tasks is not None
        uploads = self._provider.peer(
            link.peer_key,
            may_have=lambda digest: self.may_have(link.room_id, digest),
            cap=self._room_cap(link.room_id),
            exempt=self._lan_exempt and link.is_lan,
        )
        self._tasks.start_soon(self._serve, link, uploads)
        self.acquaintances.proved(link)
        self._emit(PeerConnected(link.peer_key.hex(), room_hex, link.connection.address))
        self._emit(PeersUpdated(room_hex, len(self.links(link.room_id))))

    def _is_member(self, key: bytes) -> bool:
        """Whether a peer is connected and proved to be a member of any room."""
        connection = self.connections.get(key)
        return connection is not None and bool(connection.proved)

    async def _serve(self, link: RoomLink, uploads: PeerUploads) -> None:
        try:
            await link.serve(uploads)
        except Exception:  # a fault of ours with one peer must not end the daemon for all
            log.exception("serving %s", link.peer_key.hex()[:12])
            link.connection.end_link(link, GoodbyeReason.OTHER, "serving failed")

    def _proof_failed(self, link: RoomLink) -> None:
        self.bad_input["proof"] += 1
        if len(self._failed_proofs) < MAX_REMEMBERED_KEYS or link.peer_key in self._failed_proofs:
            self._failed_proofs[link.peer_key] += 1
        link.connection.end_link(link, None, "the peer does not know the room's key")

    # --- catalogue -----------------------------------------------------------------------------------------------------------

    def _answer(self, link: RoomLink, asked: events.ChangesAsked) -> None:
        changes = self._catalogue.changes_since(link.room_id, asked.epoch, asked.sequence, MAX_OFFERS)
        offers = [Offer(record.statement.short_id, record.held) for record in changes.records]
        link.session.answer_since(changes.epoch, changes.sequence, offers, more=changes.more)

    def _is_missing(self, room_id: bytes, short_id: bytes) -> bool:
        return room_id in self.rooms and self._catalogue.get(room_id, short_id) is None

    def _offered(self, link: RoomLink, event: events.OffersReceived) -> None:
        if len(link.offers) > MAX_OFFERED:
            link.connection.end_link(link, GoodbyeReason.OTHER, "the peer offered more than a room can hold")
            return
        unknown = []
        for offer in event.offers:
            link.offers[offer.short_id] = offer.held
            if self._catalogue.get(link.room_id, offer.short_id) is None:
                unknown.append(offer.short_id)
        self._wants.ask(link, unknown)
        offered = {offer.short_id for offer in event.offers}
        for attachment in self._attachments:
            if attachment.entry.short_id in offered:
                if link in attachment.sources:
                    attachment.pool.refresh(link.peer_key)
                else:
                    self._consider(attachment, link)

    def _wanted(self, link: RoomLink, event: events.EntriesWanted) -> None:
        statements, gone = [], []
        for short_id in event.short_ids:
            statement = self._catalogue.get(link.room_id, short_id)
            if statement is None:
                gone.append(short_id)
            else:
                statements.append(statement)
        link.session.send_entries(statements)
        link.session.refuse_entries(gone)

    def _placed(self, placed: list[Placed]) -> None:
        self._tell(
            [
                _News(place, each.outcome.statement, each.held, each.origin)
                for each in placed
                for place in each.outcome.placements
            ]
        )
        self._emit_counts(each.outcome for each in placed)

    def _forged(self, link: RoomLink) -> None:
        connection = link.connection
        connection.bad_statements += 1
        if connection.bad_statements >= MAX_BAD_STATEMENTS and self._tasks is not None:
            self._tasks.start_soon(connection.close, "the peer sends forged entries")

    def _tell(self, news: Sequence[_News]) -> None:
        self._offer(news)
        for each in news:
            self._emit_placed(each.place.room_id, each.statement)

    def _push(self, room_id: bytes, statement: Statement) -> None:
        """Our own new statement goes out at once, without waiting to be wanted."""
        for link in self.links(room_id):
            if link.session.pushes:
                link.session.send_entries([statement])

    def _offer(self, news: Sequence[_News]) -> None:
        """Many in one message: a newcomer that takes a room in passes on each entry to each of the others."""
        for start in range(0, len(news), MAX_OFFERS):
            part = news[start : start + MAX_OFFERS]
            for room_id in {each.place.room_id for each in part}:
                self._offer_in(room_id, [each for each in part if each.place.room_id == room_id])

    def _offer_in(self, room_id: bytes, news: Sequence[_News]) -> None:
        epoch, _ = self._catalogue.position(room_id)
        last = max(each.place.sequence for each in news)
        for link in self.links(room_id):
            if offers := [each.offer for each in news if each.held or each.origin is not link]:
                link.session.offer(epoch, last, offers)
            link.flush()

    def _emit_placed(self, room_id: bytes, statement: Statement) -> None:
        room = room_id.hex()
        publisher = statement.publisher.hex()
        if isinstance(statement, SignedEntry):
            entry, version = statement.entry, statement.version
            self._emit(EntryAdded(room, statement.ref, entry.name, version, publisher, entry.blob.digest, entry.size))
        elif isinstance(statement, SignedBlockList):
            self._emit(BlockListChanged(room, publisher, statement.version, len(statement.block_list.blocked)))
        else:
            self._emit(EntryWithdrawn(room, statement.name, statement.version, publisher))

    def _emit_counts(self, outcomes: Iterable[Outcome]) -> None:
        for room_id in {place.room_id for outcome in outcomes for place in outcome.placements}:
            self._emit(AdaptersAvailable(room_id.hex(), len(self._catalogue.entries(room_id))))


def _most_dispensable(strangers: Sequence[PeerConnection]) -> PeerConnection:
    """The oldest of those from the machine that has most: a member that has not spoken yet is likely alone at its own."""
    hosts = Counter(each.host for each in strangers)
    return min(strangers, key=lambda each: (-hosts[each.host], each.connected_at))
