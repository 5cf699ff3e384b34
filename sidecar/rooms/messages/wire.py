"""Numbers and bounds of the room protocol (docs/protocol/room.md), and the checks that several messages share."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

from hyperdht.errors import DecodeError
from sidecar.transfer.chunks import CHUNK_BYTES, MAX_CHUNKS

if TYPE_CHECKING:
    from hyperdht.encoding import Reader

PROTOCOL = "ollaswarm/room"
VERSION = 1
PROOF_BYTES = 32
EPOCH_BYTES = 16
DIGEST_BYTES = 32

MAX_FRAME_BYTES = 262_144
MAX_BODY_BYTES = MAX_FRAME_BYTES - 18
"""Protomux puts a channel and a type in front, each at most 9 bytes."""
MAX_OFFERS = 1_024
MAX_WANTED = 256
MAX_ENTRIES = 256
MAX_BITMAP_BYTES = 131_072
MAX_TABLE_PAGE = 4_096
MAX_CHUNKS_PER_REQUEST = 256
MAX_CHUNKS_PER_MESSAGE = 3
MAX_MESSAGE_DATA_BYTES = MAX_CHUNKS_PER_MESSAGE * CHUNK_BYTES
"""Three chunks fit a frame. Per message there is work that does not grow with its length, so long ones are cheap."""
MAX_PEERS = 64

OFFERS_MORE = 1
OFFERS_ANSWER = 2
OFFER_HELD = 1
PEERS_RELAY = 1
PEERS_RANDOM = 2


class MessageType(IntEnum):
    """Type numbers on the wire."""

    SINCE = 0
    OFFERS = 1
    WANT = 2
    ENTRIES = 3
    QUERY_BLOB = 4
    HOLDINGS = 5
    REQUEST_TABLE = 6
    TABLE = 7
    REQUEST_CHUNKS = 8
    CHUNKS = 9
    CANCEL = 10
    REFUSE = 11
    PEERS = 12
    GOODBYE = 13


class RefuseReason(IntEnum):
    """Why something asked for does not come."""

    OTHER = 0
    NOT_HERE = 1
    BUSY = 2
    CANCELLED = 3
    DAMAGED = 4
    NOT_ALLOWED = 5


class GoodbyeReason(IntEnum):
    """Why a side closes the channel."""

    OTHER = 0
    LEFT_ROOM = 1
    SHUTTING_DOWN = 2
    VERSION = 3
    VIOLATION = 4
    TOO_MANY_PEERS = 5
    NOT_WELCOME = 6


class HoldingState(IntEnum):
    """How much of a blob a peer holds."""

    NOTHING = 0
    COMPLETE = 1
    PARTIAL = 2


class RefuseSubject(IntEnum):
    """What a refusal is about."""

    CHUNKS = 0
    TABLE = 1
    ENTRY = 2


def pull_count(reader: Reader, most: int) -> int:
    """The number of items of a list, refused before anything is allocated for it."""
    count = reader.pull_uint()
    if count > most:
        raise DecodeError(f"a list of {count} items where at most {most} are allowed")
    return count


def check_range(first: int, count: int, most: int) -> None:
    """Refuse an empty run of chunks, a long one, and one past the largest blob."""
    if not 1 <= count <= most or first + count > MAX_CHUNKS:
        raise DecodeError(f"a run of {count} chunks at {first}")
