"""The part of a room session that moves blobs: holdings, chunk tables, chunks."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hyperdht.errors import ConnectionClosed, LocalProtocolError
from sidecar.transfer.chunks import HASH_BYTES, ChunkSet, chunk_count

from . import session_events as events
from .ledger import FetchLedger, ServeLedger, TableFetchLedger, TableServeLedger, Verdict
from .messages import (
    MAX_BITMAP_BYTES,
    Cancel,
    Holdings,
    HoldingState,
    MessageType,
    QueryBlob,
    Refuse,
    RefuseReason,
    RefuseSubject,
    RequestChunks,
    RequestTable,
    Table,
    encode_chunks,
)
from .session_core import SessionCore, State

if TYPE_CHECKING:
    from hyperdht.buffers import BytesLike

MAX_SUBSCRIBED = 64
"""Blobs of which a peer hears changes; each change is one message to each subscriber."""
MAX_QUERIED = 4 * MAX_SUBSCRIBED
"""Our own queries remembered: more than the peer may still be subscribed to, so its updates are never taken for lies."""


@dataclass(slots=True)
class _Query:
    """A blob we asked the peer about: chunks by our own count, and what the peer said."""

    count: int
    bitmap: bytearray


class BlobSession(SessionCore):
    """Both directions at once: what we fetch from the peer, and what we serve it."""

    def __init__(self, *, proof: bytes, expected_proof: bytes) -> None:
        super().__init__(proof=proof, expected_proof=expected_proof)
        self._fetching = FetchLedger()
        self._serving = ServeLedger()
        self._tables = TableFetchLedger()
        self._table_pages = TableServeLedger()
        self._queries: OrderedDict[bytes, _Query] = OrderedDict()
        self._subscribed: OrderedDict[bytes, None] = OrderedDict()

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

    def send_chunks(self, request_id: int, first: int, data: BytesLike) -> bool:
        """Send the next chunks of a request, at most three at a time; only a blob's last may be shorter than the others.

        Returns:
            False if the peer has cancelled the request, so reading on is useless.
        """
        if not self._serving.sending(request_id, first, chunk_count(len(data))) or self.state is not State.OPEN:
            return False
        self._data_lane.append((MessageType.CHUNKS, encode_chunks(request_id, first, data)))
        return True

    def refuse_chunks(self, request_id: int, reason: RefuseReason) -> bool:
        """End a request of the peer's without its remaining chunks; False if it has ended."""
        if not self._serving.end(request_id):
            return False
        self._send(Refuse(RefuseSubject.CHUNKS, reason, request_id=request_id))
        return True

    def _receive_chunks(self, request_id: int, first: int, data: memoryview) -> None:
        verdict = self._fetching.accept(request_id, first, chunk_count(len(data)))
        if verdict is Verdict.DELIVER:
            self._events.append(events.ChunksReceived(request_id, first, data))
        elif verdict is Verdict.UNASKED:
            self._unasked("a chunk")

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

    def _handle_table_request(self, message: RequestTable) -> None:
        if self._table_pages.open(message):
            self._events.append(events.TableRequested(message.digest, message.first, message.count))
        else:
            self._fail("more table requests than allowed")

    def _handle_table(self, message: Table) -> None:
        asked = self._tables.accept(message.digest, message.first, len(message.hashes) // HASH_BYTES)
        self._expect(asked, "a table page", events.TableReceived(message.digest, message.first, message.hashes))
        self._ask_table_pages()

    def _handle_chunks_request(self, message: RequestChunks) -> None:
        if self._serving.open(message):
            request = events.ChunksRequested(message.request_id, message.digest, message.first, message.count)
            self._events.append(request)
        else:
            self._fail("more chunk requests than allowed")

    def _handle_cancel(self, message: Cancel) -> None:
        if self.refuse_chunks(message.request_id, RefuseReason.CANCELLED):
            self._events.append(events.RequestCancelled(message.request_id))

    def _handle_refused_chunks(self, message: Refuse) -> None:
        verdict = self._fetching.refused(message.request_id)
        if verdict is not Verdict.DROP:
            event = events.RequestRefused(message.request_id, message.reason)
            self._expect(verdict is Verdict.DELIVER, "a refusal", event)

    def _handle_refused_table(self, message: Refuse) -> None:
        asked = self._tables.refused(message.digest, message.first)
        self._expect(asked, "a refusal", events.TableRefused(message.digest, message.reason))
        self._ask_table_pages()

    def _ask_table_pages(self) -> None:
        for page in self._tables.next_requests():
            self._send(page)
