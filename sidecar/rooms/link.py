"""One room with one peer, alive: the session machine, its Protomux channel, and the chunks that go both ways.

The link answers what concerns blobs by itself (from the provider, to the fetches that asked). What concerns the
catalogue and membership it hands to the network as events.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import anyio

from ollama_bridge.digests import Digest
from sidecar.transfer.chunks import HASH_BYTES, chunk_count
from sidecar.transfer.source import SourceLost
from sidecar.transfer.uploads import Refusal

from . import session_events as events
from .messages import MAX_CHUNKS_PER_MESSAGE, MAX_MESSAGE_DATA_BYTES, RefuseReason
from .session import RoomSession, State
from .source import LinkSource

if TYPE_CHECKING:
    from hyperdht.protomux import Channel
    from sidecar.transfer.provide import Provider
    from sidecar.transfer.uploads import PeerUploads, UploadBatch

    from .key import RoomKey
    from .peer import PeerConnection

UPLOAD_ENDS = (anyio.ClosedResourceError, anyio.BrokenResourceError, anyio.EndOfStream)


class RoomLink:
    """See the module docstring. Made by `PeerConnection` for each room both sides may share."""

    def __init__(self, connection: PeerConnection, room: RoomKey, channel: Channel) -> None:
        self.connection = connection
        self.room = room
        self.room_id = room.room_id
        self.channel = channel
        stream = connection.stream
        self.session = RoomSession(
            room,
            is_initiator=stream.is_initiator,
            handshake_hash=stream.handshake_hash,
            public_key=stream.public_key,
            remote_public_key=stream.remote_public_key,
        )
        self.offers: dict[bytes, bool] = {}
        """Statements the peer has, by short id; whether it holds all their blobs."""
        self.proved = False
        self._sources: dict[bytes, list[LinkSource]] = {}
        self._requests: dict[int, tuple[LinkSource, int]] = {}
        """Our unfinished requests: who asked, and the index of the last chunk."""
        self._uploads: PeerUploads | None = None

    @property
    def peer_key(self) -> bytes:
        """Public key of the peer."""
        return self.connection.key

    @property
    def is_lan(self) -> bool:
        """Whether the peer is reached over the local network."""
        return self.connection.is_lan

    def flush(self) -> None:
        """Send what the session wants to say."""
        self.connection.flush()

    # --- fetching ----------------------------------------------------------------------------------------------------

    def source(self, digest: Digest) -> LinkSource:
        """This peer as a source of a blob, until `drop_source` or the end of the link."""
        source = LinkSource(self, digest)
        self._sources.setdefault(bytes.fromhex(digest.hex), []).append(source)
        return source

    def drop_source(self, source: LinkSource, digest: Digest) -> None:
        """The fetch that used it is over."""
        raw = bytes.fromhex(digest.hex)
        with contextlib.suppress(ValueError):
            self._sources.get(raw, []).remove(source)
        if not self._sources.get(raw):
            self._sources.pop(raw, None)
        for request_id in [each for each, (owner, _) in self._requests.items() if owner is source]:
            self.session.cancel(request_id)
            del self._requests[request_id]
        source.lose()
        self.flush()

    def request_chunks(self, source: LinkSource, raw_digest: bytes, first: int, count: int) -> int | None:
        """Ask for chunks on behalf of a source; None when no request is free. Raises SourceLost when the room is over."""
        if self.session.state is not State.OPEN:
            raise SourceLost
        if not self.session.free_requests:
            return None
        request_id = self.session.request_chunks(raw_digest, first, count)
        self._requests[request_id] = (source, first + count - 1)
        self.flush()
        return request_id

    # --- events ------------------------------------------------------------------------------------------------------

    def handle(self, event: events.SessionEvent, provider: Provider) -> bool:
        """Take care of an event if it is about blobs; False if it is for the network."""
        match event:
            case events.ChunksReceived():
                self._chunks_arrived(event)
            case events.ChunksRequested():
                if self._uploads is not None:
                    digest = Digest(event.digest.hex())
                    self._uploads.request(event.request_id, digest, event.first, event.count)
                else:
                    self.session.refuse_chunks(event.request_id, RefuseReason.BUSY)
            case events.RequestCancelled():
                if self._uploads is not None:
                    self._uploads.cancel(event.request_id)
            case events.RequestRefused():
                if (request := self._requests.pop(event.request_id, None)) is not None:
                    request[0].request_refused(event.request_id, event.reason)
            case events.HoldingsReceived():
                for source in self._sources.get(event.digest, ()):
                    source.holdings_arrived(event.chunks)
            case events.TableReceived():
                for source in self._sources.get(event.digest, ()):
                    source.table_arrived(event.first, event.hashes)
            case events.TableRefused():
                for source in self._sources.get(event.digest, ()):
                    source.table_refused(event.reason)
            case events.BlobQueried():
                self.tell_blob(event.digest, provider)
            case events.TableRequested():
                self._send_table(event, provider)
            case _:
                return False
        return True

    def _chunks_arrived(self, event: events.ChunksReceived) -> None:
        request = self._requests.get(event.request_id)
        if request is None:
            return
        source, last = request
        if event.first + chunk_count(len(event.data)) > last:
            del self._requests[event.request_id]
        self.connection.received_bytes += len(event.data)
        source.chunks_arrived(event.request_id, event.first, event.data)

    def tell_blob(self, raw_digest: bytes, provider: Provider) -> None:
        """Tell the peer what we hold of a blob, if it asked."""
        digest = Digest(raw_digest.hex())
        blob = provider.blob(digest) if self.connection.may_have(self.room_id, digest) else None
        self.session.tell_blob(raw_digest, None if blob is None else blob.holdings())

    def _send_table(self, event: events.TableRequested, provider: Provider) -> None:
        digest = Digest(event.digest.hex())
        blob = provider.blob(digest) if self.connection.may_have(self.room_id, digest) else None
        end = event.first + event.count
        if blob is None or end > blob.table.count:
            self.session.refuse_table(event.digest, event.first, RefuseReason.NOT_HERE)
        else:
            hashes = blob.table.hashes[event.first * HASH_BYTES : end * HASH_BYTES]
            self.session.send_table(event.digest, event.first, hashes)

    # --- providing ---------------------------------------------------------------------------------------------------

    async def serve(self, uploads: PeerUploads) -> None:
        """Send what the peer asks for, until the link ends. Run it in a task of its own."""
        with contextlib.suppress(*UPLOAD_ENDS):
            async with uploads:
                self._uploads = uploads
                try:
                    while True:
                        batch = await uploads.next_batch()
                        if isinstance(batch, Refusal):
                            reason = RefuseReason.NOT_HERE if batch.gone else RefuseReason.BUSY
                            self.session.refuse_chunks(batch.request_id, reason)
                            self.flush()
                            continue
                        self._send_batch(batch)
                        await self.connection.send_now()
                finally:
                    self._uploads = None

    def _send_batch(self, batch: UploadBatch) -> None:
        first = batch.first
        for start in range(0, len(batch.data), MAX_MESSAGE_DATA_BYTES):
            data = batch.data[start : start + MAX_MESSAGE_DATA_BYTES]
            if not self.session.send_chunks(batch.request_id, first, data):
                return
            first += MAX_CHUNKS_PER_MESSAGE

    # --- end -----------------------------------------------------------------------------------------------------------

    def lose(self) -> None:
        """The channel or the connection is over."""
        self.session.closed()
        for sources in self._sources.values():
            for source in sources:
                source.lose()
        self._sources.clear()
        self._requests.clear()
