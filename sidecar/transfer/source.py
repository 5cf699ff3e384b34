"""What a fetch needs of a peer. `rooms.session` implements it; tests do it in memory and over plain sockets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from sidecar.transfer.chunks import chunk_count

if TYPE_CHECKING:
    from ollama_bridge.digests import Digest
    from sidecar.transfer.chunks import ChunkSet


@dataclass(frozen=True, slots=True)
class ReceivedChunks:
    """One or more chunks in a row as they came from a peer: nothing of them is checked."""

    request_id: int
    first: int
    data: bytes | bytearray | memoryview

    @property
    def count(self) -> int:
        """How many chunks that is; the last may be shorter than it should be."""
        return chunk_count(len(self.data))


class SourceLost(Exception):
    """The peer is gone, or broke the protocol. Raised by any call of a source."""


class SourceRefused(Exception):
    """The peer refuses one request. The source stays usable.

    Args:
        request_id: Which.
        gone: It does not (or no longer) hold these chunks; otherwise it is busy and may be asked later.
    """

    def __init__(self, request_id: int, *, gone: bool) -> None:
        super().__init__(request_id, gone)
        self.request_id = request_id
        self.gone = gone


class ChunkSource(Protocol):
    """One peer that says it holds (parts of) one blob.

    A fetch calls `next_chunks` from one task only. Whatever a source buffers is bounded by what was requested of it;
    data of a cancelled request may still come and is dropped.
    """

    @property
    def key(self) -> bytes:
        """Public key of the peer; strikes and caps are counted by it."""

    @property
    def room_id(self) -> bytes:
        """The room it is asked in; caps are counted by it."""

    @property
    def is_lan(self) -> bool:
        """Whether it is reached over the local network, which the user may have exempted from caps."""

    async def holdings(self, digest: Digest, count: int) -> ChunkSet:
        """Which of the `count` chunks the peer says it holds now. Raises SourceLost or SourceRefused."""

    async def chunk_table(self, digest: Digest, count: int) -> bytes:
        """The table as the peer sent it, unchecked and at most `32 * count` bytes. Raises SourceLost or SourceRefused."""

    def request(self, digest: Digest, first: int, count: int) -> int:
        """Ask for up to `UNIT_CHUNKS` chunks and return the id their answers will carry. Raises SourceLost."""

    def cancel(self, request_id: int) -> None:
        """Say that a request is no longer needed. Raises nothing."""

    async def next_chunks(self) -> list[ReceivedChunks]:
        """All chunks that came since the last call, at least one. Raises SourceLost or SourceRefused."""
