"""Our half of the room protocol with one peer: docs/protocol/room.md as a machine without I/O or clock.

Driven by its owner: `opened`, `receive` and `closed` for what the channel brings, verbs for what we want, then
`next_event` until None and `messages_to_send`, and again when `next_timer` says. What a peer can cause is an event.
Before the proof verbs raise LocalProtocolError; after the end they do nothing, because a peer may leave at any
moment; only `request_chunks`, for whose answer somebody waits, raises ConnectionClosed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hyperdht.errors import DecodeError

from . import session_events as events
from .messages import (
    MAX_BODY_BYTES,
    Cancel,
    Entries,
    Goodbye,
    Holdings,
    Message,
    MessageType,
    Offers,
    PeerHint,
    Peers,
    QueryBlob,
    Refuse,
    RefuseSubject,
    RequestChunks,
    RequestTable,
    Since,
    Table,
    Want,
    decode,
    split_chunks,
)
from .session_blobs import BlobSession
from .session_catalogue import CatalogueSession
from .session_core import UNPACED, State

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .key import RoomKey

__all__ = ["RoomSession", "State"]


class RoomSession(CatalogueSession, BlobSession):
    """One room with one peer. The verbs are those of the two halves, `goodbye`, and `share_peers`."""

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
            room_key: Used here for the two proofs, and not kept.
            is_initiator: Whether we opened the connection (not the channel).
            handshake_hash: 64 bytes, of the connection.
            public_key: Ours, 32 bytes.
            remote_public_key: The peer's.
        """
        super().__init__(
            proof=room_key.proof(
                is_initiator=is_initiator,
                handshake_hash=handshake_hash,
                public_key=public_key,
                remote_public_key=remote_public_key,
            ),
            expected_proof=room_key.proof(
                is_initiator=not is_initiator,
                handshake_hash=handshake_hash,
                public_key=remote_public_key,
                remote_public_key=public_key,
            ),
        )

    def receive(self, message_type: int, body: memoryview, now: float) -> None:
        """Take in one channel message. Chunks stay views of `body`; everything else is copied."""
        if self.state is not State.OPEN:
            if self.state is State.OPENING:
                self._fail("a message before the proof")
            return
        try:
            if message_type == MessageType.CHUNKS:
                self._receive_chunks(*split_chunks(body))
            elif len(body) > MAX_BODY_BYTES:
                self._fail(f"a message of {len(body)} bytes")
            elif message_type not in UNPACED and not self._incoming.take(now):
                self._fail("more catalogue messages than allowed")
            elif (message := decode(message_type, body)) is not None:
                self._handle(message, now)
        except DecodeError as error:
            self._fail(f"message type {message_type}: {error}")

    def share_peers(self, peers: Iterable[PeerHint], *, relay: bytes | None = None, is_random: bool = False) -> None:
        """Tell of ourselves and of other members, at most 64; which ones is the owner's decision (T21).

        Args:
            relay: Key under which we relay for members.
            is_random: Whether our NAT gives each destination another port.
        """
        self._send(Peers(relay, is_random, tuple(peers)))

    def _handle(self, message: Message, now: float) -> None:
        match message:
            case Since():
                self._handle_since(message)
            case Offers():
                self._handle_offers(message)
            case Want():
                self._handle_want(message)
            case Entries(statements):
                self._handle_entries(statements, now)
            case QueryBlob(digest):
                self._handle_query(digest)
            case Holdings():
                self._handle_holdings(message)
            case RequestTable():
                self._handle_table_request(message)
            case Table():
                self._handle_table(message)
            case RequestChunks():
                self._handle_chunks_request(message)
            case Cancel():
                self._handle_cancel(message)
            case Refuse():
                self._handle_refuse(message)
            case Peers(relay, is_random, peers):
                self._events.append(events.PeersReceived(relay, is_random, peers))
            case Goodbye(reason):
                self.closed()
                self._events.append(events.PeerSaidGoodbye(reason))

    def _handle_refuse(self, message: Refuse) -> None:
        if message.subject is RefuseSubject.CHUNKS:
            self._handle_refused_chunks(message)
        elif message.subject is RefuseSubject.TABLE:
            self._handle_refused_table(message)
        else:
            self._handle_refused_entry(message)
