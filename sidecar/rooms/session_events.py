"""What a room session tells its owner. `MembershipProved` comes before everything else but the refusals of an opening."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sidecar.transfer.chunks import ChunkSet

    from .messages import GoodbyeReason, Offer, PeerHint, RawStatement, RefuseReason


@dataclass(frozen=True, slots=True)
class MembershipProved:
    """The other side knows the room key. Only now anything of the room may be sent."""


@dataclass(frozen=True, slots=True)
class ProofFailed:
    """The other side does not know the room key. Close the channel; count it against the peer (T12)."""


@dataclass(frozen=True, slots=True)
class VersionUnsupported:
    """The other side speaks a version we do not. A goodbye is waiting to be sent; then close the channel."""

    version: int


@dataclass(frozen=True, slots=True)
class ChangesAsked:
    """The peer wants our changes after a position. Answer with `answer_since`."""

    epoch: bytes
    sequence: int


@dataclass(frozen=True, slots=True)
class OffersReceived:
    """The peer has these. Call `want` for the ones we lack; further pages are asked for by the session."""

    offers: tuple[Offer, ...]
    more: bool


@dataclass(frozen=True, slots=True)
class EntriesWanted:
    """The peer asks for statements. Answer each id with `send_entries` or `refuse_entries`."""

    short_ids: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class EntriesReceived:
    """Statements came, wanted or pushed. Nothing in them is verified."""

    statements: tuple[RawStatement, ...]


@dataclass(frozen=True, slots=True)
class EntriesRefused:
    """The peer no longer has something we wanted."""

    short_id: bytes


@dataclass(frozen=True, slots=True)
class BlobQueried:
    """The peer wants to know what we hold of a blob. Answer with `tell_blob`, now and when it changes."""

    digest: bytes


@dataclass(frozen=True, slots=True)
class HoldingsReceived:
    """What the peer holds of a blob we asked about."""

    digest: bytes
    chunks: ChunkSet


@dataclass(frozen=True, slots=True)
class TableRequested:
    """The peer wants a page of a chunk table. Answer with `send_table` or `refuse_table`."""

    digest: bytes
    first: int
    count: int


@dataclass(frozen=True, slots=True)
class TableReceived:
    """A page of a chunk table we asked for; not checked against the entry."""

    digest: bytes
    first: int
    hashes: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class TableRefused:
    """The peer will not give a chunk table; no more pages of it come."""

    digest: bytes
    reason: RefuseReason


@dataclass(frozen=True, slots=True)
class ChunksRequested:
    """The peer wants a run of chunks. Answer with `send_chunks`, in order, or `refuse_chunks`."""

    request_id: int
    digest: bytes
    first: int
    count: int


@dataclass(frozen=True, slots=True)
class ChunksReceived:
    """The next chunks of a request of ours, one to three; not checked against the chunk table."""

    request_id: int
    first: int
    data: memoryview = field(repr=False)
    """A view of the received message: valid as long as that is."""


@dataclass(frozen=True, slots=True)
class RequestCancelled:
    """The peer ended a request of its own. The refusal it expects is already queued."""

    request_id: int


@dataclass(frozen=True, slots=True)
class RequestRefused:
    """The peer ended a request of ours before its last chunk. Not told for requests we cancelled."""

    request_id: int
    reason: RefuseReason


@dataclass(frozen=True, slots=True)
class PeersReceived:
    """The peer itself and other members, as it says."""

    relay: bytes | None
    """Key under which it relays for members."""
    is_random: bool
    """Its NAT gives each destination another port."""
    peers: tuple[PeerHint, ...]


@dataclass(frozen=True, slots=True)
class PeerSaidGoodbye:
    """The peer closes the channel."""

    reason: GoodbyeReason


@dataclass(frozen=True, slots=True)
class ProtocolViolation:
    """The peer broke the protocol. A goodbye is waiting to be sent; then close the channel and count it."""

    reason: str


SessionEvent = (
    MembershipProved
    | ProofFailed
    | VersionUnsupported
    | ChangesAsked
    | OffersReceived
    | EntriesWanted
    | EntriesReceived
    | EntriesRefused
    | BlobQueried
    | HoldingsReceived
    | TableRequested
    | TableReceived
    | TableRefused
    | ChunksRequested
    | ChunksReceived
    | RequestCancelled
    | RequestRefused
    | PeersReceived
    | PeerSaidGoodbye
    | ProtocolViolation
)
