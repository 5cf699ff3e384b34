"""Our half of the room protocol with one peer: docs/protocol/room.md as a machine without I/O or clock.

Driven by its owner: `opened`, `receive` and `closed` for what the channel brings, verbs for what we want, then
`next_event` until None and `messages_to_send`, and again when `next_timer` says. What a peer can cause is an event.
Before the proof verbs raise LocalProtocolError; after the end they do nothing, because a peer may leave at any
moment; only `request_chunks`, for whose answer somebody waits, raises ConnectionClosed.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from hyperdht.crypto import equal
from hyperdht.errors import ConnectionClosed, DecodeError, LocalProtocolError
from sidecar.catalogue.limits import (
    CATALOGUE_BURST,
    CATALOGUE_MESSAGES_PER_S,
    SENDING_BURST,
    SENDING_PER_S,
    TokenBucket,
)
from sidecar.transfer.chunks import HASH_BYTES, ChunkSet

from . import session_events as events
from .catalogue_sync import START, Position, ReceivingSync, SendingSync
from .ledger import FetchLedger, ServeLedger, TableFetchLedger, TableServeLedger, Verdict
from .messages import (
    MAX_BITMAP_BYTES,
    MAX_BODY_BYTES,
    MAX_ENTRIES,
    MAX_OFFERS,
    VERSION,
    Cancel,
    Entries,
    Goodbye,
    GoodbyeReason,
    Holdings,
    HoldingState,
    Message,
    MessageType,
    Offer,
    Offers,
    OpenHandshake,
    PeerHint,
    Peers,
    QueryBlob,
    RawStatement,
    Refuse,
    RefuseReason,
    RefuseSubject,
    RequestChunks,
    RequestTable,
    Since,
    Table,
    Want,
    decode,
    encode,
    encode_chunk,
    split_chunk,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hyperdht.buffers import BytesLike
    from sidecar.catalogue.withdrawal import Statement

    from .key import RoomKey

MAX_SUBSCRIBED = 64
"""Blobs of which a peer hears changes; each change is one message to each subscriber."""
MAX_QUERIED = 4 * MAX_SUBSCRIBED
"""Our own queries remembered: more than the peer may still be subscribed to, so its updates are never taken for lies."""
MAX_VIOLATIONS = 8
"""Unasked-for messages before the channel is closed: a faulty peer should show up in the log, not fill it."""

_UNPACED = frozenset(
    {MessageType.TABLE, MessageType.REQUEST_CHUNKS, MessageType.CHUNK, MessageType.CANCEL, MessageType.REFUSE}
    | {MessageType.GOODBYE}
)
"""Bounded by what was asked for, not by a rate."""

Outgoing = tuple[int, "BytesLike"]


class State(Enum):
    """Where the session is."""

    OPENING = "opening"
    """The other side's proof has not come."""
    OPEN = "open"
    CLOSED = "closed"


@dataclass(slots=True)
class _Query:
    """A blob we asked the peer about: chunks by our own count, and what the peer said."""

    count: int
    bitmap: bytearray


class RoomSession:
    """One room with one peer."""

    def __init__(
        self,
        room_key: RoomKey,
        *,
        is_initiator: bool,
        handshake_hash: bytes,
        public_key: bytes,
        remote_public_key: bytes,
    ) -> None:
        """
        Args:
            is_initiator: Whether we opened the connection (not the channel).
            handshake_hash: 64 bytes, of the connection.
            public_key: Ours, 32 bytes.
            remote_public_key: The peer's.
        """
        self._proof = room_key.proof(
            is_initiator=is_initiator,
            handshake_hash=handshake_hash,
            public_key=public_key,
            remote_public_key=remote_public_key,
        )
        self._expected_proof = room_key.proof(
            is_initiator=not is_initiator,
            handshake_hash=handshake_hash,
            public_key=remote_public_key,
            remote_public_key=public_key,
        )
        self.state = State.OPENING
        self.violations = 0
        """Unasked-for messages so far."""
        self._events: deque[events.SessionEvent] = deque()
        self._catalogue_lane: deque[tuple[int, bytes, float]] = deque()
        self._data_lane: deque[Outgoing] = deque()
        self._incoming = TokenBucket(CATALOGUE_MESSAGES_PER_S, CATALOGUE_BURST, 0.0)
        self._outgoing = TokenBucket(SENDING_PER_S, SENDING_BURST, 0.0)
        self._receiving = ReceivingSync()
        self._sending = SendingSync()
        self._fetching = FetchLedger()
        self._serving = ServeLedger()
        self._tables = TableFetchLedger()
        self._table_pages = TableServeLedger()
        self._queries: OrderedDict[bytes, _Query] = OrderedDict()
        self._subscribed: OrderedDict[bytes, None] = OrderedDict()

    # What the channel brings

    def open_handshake(self) -> bytes:
        """What to pass to `Channel.open`."""
        return OpenHandshake(VERSION, self._proof).encode()

    def opened(self, handshake: BytesLike, now: float) -> None:
        """The channel is open on both sides; `handshake` is the peer's. Judges its proof."""
        if self.state is not State.OPENING:
            raise LocalProtocolError("a room session is opened once")
        try:
            remote = OpenHandshake.decode(handshake)
        except DecodeError:
            self._end(events.ProofFailed())
            return
        if remote.version != VERSION:
            self._end(events.VersionUnsupported(remote.version), GoodbyeReason.VERSION)
        elif not equal(remote.proof, self._expected_proof):
            self._end(events.ProofFailed())
        else:
            self.state = State.OPEN
            self._incoming = TokenBucket(CATALOGUE_MESSAGES_PER_S, CATALOGUE_BURST, now)
            self._outgoing = TokenBucket(SENDING_PER_S, SENDING_BURST, now)
            self._events.append(events.MembershipProved())

    def receive(self, message_type: int, body: memoryview, now: float) -> None:
        """Take in one channel message. Chunks stay views of `body`; everything else is copied."""
        if self.state is not State.OPEN:
            if self.state is State.OPENING:
                self._fail("a message before the proof")
            return
        try:
            if message_type == MessageType.CHUNK:
                self._receive_chunk(*split_chunk(body))
            elif len(body) > MAX_BODY_BYTES:
                self._fail(f"a message of {len(body)} bytes")
            elif message_type not in _UNPACED and not self._incoming.take(now):
                self._fail("more catalogue messages than allowed")
            elif (message := decode(message_type, body)) is not None:
                self._handle(message, now)
        except DecodeError as error:
            self._fail(f"message type {message_type}: {error}")

    def closed(self) -> None:
        """The channel is closed; nothing more comes or goes."""
        self.state = State.CLOSED
        self._catalogue_lane.clear()
        self._data_lane.clear()

    def next_event(self) -> events.SessionEvent | None:
        """What happened, oldest first; None when there is no more."""
        return self._events.popleft() if self._events else None

    def messages_to_send(self, now: float) -> list[Outgoing]:
        """Type and body of the messages that may go now, in order; each is handed out once."""
        ready: list[Outgoing] = []
        while self._catalogue_lane and self._outgoing.take(now, self._catalogue_lane[0][2]):
            message_type, body, _ = self._catalogue_lane.popleft()
            ready.append((message_type, body))
        ready += self._data_lane
        self._data_lane.clear()
        return ready

    def next_timer(self) -> float | None:
        """When held-back messages may go, on the owner's clock; None if there are none."""
        return self._outgoing.ready_at(self._catalogue_lane[0][2]) if self._catalogue_lane else None

    # Catalogue

    @property
    def position(self) -> Position:
        """Where in the peer's changes we are, for `ask_since` of a later session. Read it with all events drained."""
        return self._receiving.position

    @property
    def pushes(self) -> bool:
        """Whether the peer has caught up with our changes, so that `offer` sends."""
        return self._sending.caught_up

    def ask_since(self, position: Position = START) -> None:
        """Ask for the peer's changes; once, right after MembershipProved."""
        self._send(self._receiving.ask(position))

    def answer_since(self, epoch: bytes, sequence: int, offers: Iterable[Offer], *, more: bool) -> None:
        """Answer ChangesAsked with a page of at most 1,024 offers.

        Args:
            sequence: Our position after this page.
            more: Whether the peer should ask again.
        """
        if self.state is State.OPEN and not self._sending.asked:
            raise LocalProtocolError("an answer to no question")
        self._sending.answered(more=more)
        self._send(Offers(epoch, sequence, more, True, _page(offers)))

    def offer(self, epoch: bytes, sequence: int, offers: Iterable[Offer]) -> bool:
        """Tell of changes as they happen. False if the peer has not caught up; it will ask for them itself."""
        if not self._sending.caught_up:
            return False
        self._send(Offers(epoch, sequence, False, False, _page(offers)))
        return True

    def want(self, short_ids: Iterable[bytes]) -> None:
        """Ask for statements by 16-byte id; asked in portions, each id once."""
        self._receiving.want(tuple(short_ids))
        self._ask_wanted()

    def send_entries(self, statements: Iterable[Statement]) -> None:
        """Send statements: wanted ones, or a new one of our own at once."""
        batch: list[RawStatement] = []
        size = 9
        for statement in statements:
            raw = RawStatement(statement.kind, statement.publisher, statement.signature, statement.raw)
            if batch and (size + raw.size > MAX_BODY_BYTES or len(batch) == MAX_ENTRIES):
                self._send_batch(tuple(batch))
                batch, size = [], 9
            batch.append(raw)
            size += raw.size
        if batch:
            self._send_batch(tuple(batch))

    def refuse_entries(self, short_ids: Iterable[bytes]) -> None:
        """Tell the peer that statements it wanted are gone."""
        for short_id in short_ids:
            if self._sending.refused(short_id):
                self._send(Refuse(RefuseSubject.ENTRY, RefuseReason.NOT_HERE, short_id=short_id))

    # Blobs

    def query_blob(self, digest: bytes, count: int) -> None:
        """Ask what the peer holds of a blob of `count` chunks, now and as it changes."""
        if count < 1:
            raise LocalProtocolError(f"a blob of {count} chunks")
        self._queries[digest] = _Query(count, bytearray((count + 7) // 8))
        self._queries.move_to_end(digest)
        if len(self._queries) > MAX_QUERIED:
            self._queries.popitem(last=False)
        self._send(QueryBlob(digest))

    def tell_blob(self, digest: bytes, chunks: ChunkSet | None) -> bool:
        """Tell what we hold of a blob (None: nothing); False if the peer is not interested."""
        if digest not in self._subscribed:
            return False
        if chunks is None or chunks.count == 0:
            self._send(Holdings(digest, 0 if chunks is None else chunks.total, HoldingState.NOTHING))
        elif chunks.complete:
            self._send(Holdings(digest, chunks.total, HoldingState.COMPLETE))
        else:
            bitmap = chunks.to_bytes()
            for start in range(0, len(bitmap), MAX_BITMAP_BYTES):
                part = bitmap[start : start + MAX_BITMAP_BYTES]
                self._send(Holdings(digest, chunks.total, HoldingState.PARTIAL, start * 8, part))
        return True

    def request_table(self, digest: bytes, count: int) -> None:
        """Ask for a whole chunk table of `count` hashes; its pages come as TableReceived, in order from honest peers."""
        self._tables.open(digest, count)
        self._ask_table_pages()

    def send_table(self, digest: bytes, first: int, hashes: bytes) -> bool:
        """Answer TableRequested; False if it was answered already."""
        if not self._table_pages.answer(digest, first, len(hashes) // HASH_BYTES):
            return False
        self._send(Table(digest, first, hashes))
        return True

    def refuse_table(self, digest: bytes, first: int, reason: RefuseReason) -> bool:
        """Refuse TableRequested; False if it was answered already."""
        if not self._table_pages.answer(digest, first, None):
            return False
        self._send(Refuse(RefuseSubject.TABLE, reason, digest=digest, first=first))
        return True

    @property
    def free_requests(self) -> int:
        """How many chunk requests can be made now; none when the session is not open."""
        return self._fetching.free if self.state is State.OPEN else 0

    def request_chunks(self, digest: bytes, first: int, count: int) -> int:
        """Ask for 1 to 256 chunks; returns the request id. LocalProtocolError without `free_requests`.

        Raises:
            ConnectionClosed: The session has ended; an answer would never come.
        """
        if self.state is State.CLOSED:
            raise ConnectionClosed("the peer has left the room")
        request_id = self._fetching.open(first, count)
        self._send(RequestChunks(request_id, digest, first, count))
        return request_id

    def cancel(self, request_id: int) -> None:
        """End a request of ours early. Its chunks are dropped from now on; it counts until the peer has answered."""
        if self._fetching.cancel(request_id):
            self._send(Cancel(request_id))

    def send_chunk(self, request_id: int, index: int, data: BytesLike) -> bool:
        """Send the next chunk of a request; False if the peer has cancelled it, so reading on is useless."""
        if not self._serving.sending(request_id, index) or self.state is not State.OPEN:
            return False
        self._data_lane.append((MessageType.CHUNK, encode_chunk(request_id, index, data)))
        return True

    def refuse_chunks(self, request_id: int, reason: RefuseReason) -> bool:
        """End a request of the peer's without its remaining chunks; False if it has ended."""
        if not self._serving.end(request_id):
            return False
        self._send(Refuse(RefuseSubject.CHUNKS, reason, request_id=request_id))
        return True

    # Peers and goodbye

    def share_peers(self, peers: Iterable[PeerHint]) -> None:
        """Tell of other members; which ones and which of their addresses is the owner's decision (T19, T21)."""
        self._send(Peers(tuple(peers)))

    def goodbye(self, reason: GoodbyeReason) -> None:
        """Say the last word; what is not sent yet is dropped. Then close the channel."""
        if self.state is not State.CLOSED:
            self.closed()
            self._data_lane.append((MessageType.GOODBYE, encode(Goodbye(reason))))

    # Inside

    def _handle(self, message: Message, now: float) -> None:
        match message:
            case Since():
                self._expect(self._sending.since(), "a second question", events.ChangesAsked(*_position(message)))
            case Offers():
                self._handle_offers(message)
            case Want(short_ids):
                if self._sending.wanted(short_ids):
                    self._events.append(events.EntriesWanted(short_ids))
                else:
                    self._fail("more wanted entries than allowed")
            case Entries(statements):
                self._handle_entries(statements, now)
            case QueryBlob(digest):
                self._handle_query(digest)
            case Holdings():
                self._handle_holdings(message)
            case RequestTable(digest, first, count):
                if self._table_pages.open(message):
                    self._events.append(events.TableRequested(digest, first, count))
                else:
                    self._fail("more table requests than allowed")
            case Table(digest, first, hashes):
                asked = self._tables.accept(digest, first, len(hashes) // HASH_BYTES)
                self._expect(asked, "a table page", events.TableReceived(digest, first, hashes))
                self._ask_table_pages()
            case RequestChunks(request_id, digest, first, count):
                if self._serving.open(message):
                    self._events.append(events.ChunksRequested(request_id, digest, first, count))
                else:
                    self._fail("more chunk requests than allowed")
            case Cancel(request_id):
                if self.refuse_chunks(request_id, RefuseReason.CANCELLED):
                    self._events.append(events.RequestCancelled(request_id))
            case Refuse():
                self._handle_refuse(message)
            case Peers(peers):
                self._events.append(events.PeersReceived(peers))
            case Goodbye(reason):
                self.closed()
                self._events.append(events.PeerSaidGoodbye(reason))

    def _receive_chunk(self, request_id: int, index: int, data: memoryview) -> None:
        verdict = self._fetching.accept(request_id, index)
        if verdict is Verdict.DELIVER:
            self._events.append(events.ChunkReceived(request_id, index, data))
        elif verdict is Verdict.UNASKED:
            self._unasked("a chunk")

    def _handle_offers(self, message: Offers) -> None:
        try:
            next_page = self._receiving.offers(message)
        except ValueError:
            self._unasked("offers")
            return
        self._events.append(events.OffersReceived(message.offers, message.more))
        if next_page is not None:
            self._send(next_page)

    def _handle_entries(self, statements: tuple[RawStatement, ...], now: float) -> None:
        pushed = sum(not self._receiving.arrived(statement.short_id) for statement in statements)
        if pushed and not self._incoming.take(now, pushed):
            self._fail("more pushed entries than allowed")
            return
        self._events.append(events.EntriesReceived(statements))
        self._ask_wanted()

    def _handle_query(self, digest: bytes) -> None:
        self._subscribed[digest] = None
        self._subscribed.move_to_end(digest)
        if len(self._subscribed) > MAX_SUBSCRIBED:
            self._subscribed.popitem(last=False)
        self._events.append(events.BlobQueried(digest))

    def _handle_holdings(self, message: Holdings) -> None:
        query = self._queries.get(message.digest)
        # A wrong count is a lie about the size, which our entry fixes (T6).
        if query is None or (message.state is not HoldingState.NOTHING and message.count != query.count):
            self._unasked("holdings")
            return
        if message.state is HoldingState.PARTIAL:
            start = message.first // 8
            query.bitmap[start : start + len(message.bitmap)] = message.bitmap
        else:
            chunks = ChunkSet.full(query.count) if message.state is HoldingState.COMPLETE else ChunkSet(query.count)
            query.bitmap[:] = chunks.to_bytes()
        chunks = ChunkSet.from_bytes(bytes(query.bitmap), query.count)
        self._events.append(events.HoldingsReceived(message.digest, chunks))

    def _handle_refuse(self, message: Refuse) -> None:
        if message.subject is RefuseSubject.CHUNKS:
            verdict = self._fetching.refused(message.request_id)
            if verdict is not Verdict.DROP:
                event = events.RequestRefused(message.request_id, message.reason)
                self._expect(verdict is Verdict.DELIVER, "a refusal", event)
        elif message.subject is RefuseSubject.TABLE:
            asked = self._tables.refused(message.digest, message.first)
            self._expect(asked, "a refusal", events.TableRefused(message.digest, message.reason))
            self._ask_table_pages()
        else:
            asked = self._receiving.arrived(message.short_id)
            self._expect(asked, "a refusal", events.EntriesRefused(message.short_id))
            self._ask_wanted()

    def _expect(self, asked: bool, what: str, event: events.SessionEvent) -> None:
        if asked:
            self._events.append(event)
        else:
            self._unasked(what)

    def _unasked(self, what: str) -> None:
        self.violations += 1
        if self.violations >= MAX_VIOLATIONS:
            self._fail(f"{what} that nobody asked for, {self.violations} times")

    def _fail(self, reason: str) -> None:
        self._end(events.ProtocolViolation(reason), GoodbyeReason.VIOLATION)

    def _end(self, event: events.SessionEvent, goodbye: GoodbyeReason | None = None) -> None:
        self._events.append(event)
        self.closed()
        if goodbye is not None:
            self._data_lane.append((MessageType.GOODBYE, encode(Goodbye(goodbye))))

    def _send_batch(self, statements: tuple[RawStatement, ...]) -> None:
        self._send(Entries(statements), 1.0 + self._sending.sent(statements))

    def _ask_wanted(self) -> None:
        while (message := self._receiving.next_want()) is not None:
            self._send(message)

    def _ask_table_pages(self) -> None:
        for page in self._tables.next_requests():
            self._send(page)

    def _send(self, message: Message, cost: float = 1.0) -> None:
        if self.state is State.OPENING:
            raise LocalProtocolError("nothing may be sent before the peer has proved membership")
        if self.state is State.CLOSED:
            return
        if message.TYPE in _UNPACED:
            self._data_lane.append((message.TYPE, encode(message)))
        else:
            self._catalogue_lane.append((message.TYPE, encode(message), cost))


def _page(offers: Iterable[Offer]) -> tuple[Offer, ...]:
    page = tuple(offers)
    if len(page) > MAX_OFFERS:
        raise LocalProtocolError(f"{len(page)} offers in one message")
    return page


def _position(message: Since) -> Position:
    return message.epoch, message.sequence
