"""What is said with one Orch-Mind peer. Sans-I/O: frames in, events and frames out, the time by argument.

Orch-Mind's own handling of messages has faults, so nothing that comes is an error: it is used if it was asked for and is
right, else counted and dropped. Only a peer that does nothing else for long is given up (`PeerGivenUp`). Chunks leave as
events at once, so memory does not grow with the size of a file.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sidecar.transfer.chunks import ChunkSet

from .messages import (
    AdapterChunk,
    AdapterList,
    AdapterOffer,
    AdapterRequest,
    FrameInvalid,
    Heartbeat,
    HeartbeatResponse,
    ListRequest,
    decode_frame,
    encode_heartbeat_response,
    encode_list,
    encode_list_request,
    encode_request,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hyperdht.buffers import BytesLike

STALL_S = 30.0
"""Without one new chunk for that long a file is asked for again: Orch-Mind never says that it is done or cannot."""
MAX_REQUESTS = 3
"""Times a file is asked for. Each sends all of it again, so a peer that cannot do it in three will not (T20)."""
MAX_STRIKES = 3
"""Chunks of a file that were asked for and are wrong, until it is not wanted from this peer any more."""
MAX_USELESS_FRAMES = 1_000
"""Frames we could do nothing with, beyond those a repeated answer explains, until a peer is given up (T20). As chunks
that is 64 MiB of somebody's traffic; honest peers come to a handful."""
LISTS_AT_ONCE = 10
LISTS_PER_S = 1.0
"""Orch-Mind lists every 30 s and after each change. What comes faster is dropped; the next one mends it."""
MAX_UPLOADS = 4
"""Files a peer may be waiting for at once; what it asks beyond is dropped and can be asked again."""
MAX_UPLOADS_OF_ONE = 5
"""Times one file is sent over one connection: a short request costs us a whole file (T20)."""


@dataclass(frozen=True, slots=True)
class OffersChanged:
    """The peer's list is another one now."""

    offers: tuple[AdapterOffer, ...]


@dataclass(frozen=True, slots=True)
class ChunkReceived:
    """A part of a file we asked for: new, of the length and SHA-256 it should have."""

    topic: str
    index: int
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class FileReceived:
    """All parts were received; whether they make the file of the offer, its SHA-256 will show."""

    topic: str


@dataclass(frozen=True, slots=True)
class FileFailed:
    """A file will not come from this peer."""

    topic: str
    reason: str


@dataclass(frozen=True, slots=True)
class FileWanted:
    """The peer asked for a file of ours. Send it, then call `upload_ended`."""

    offer: AdapterOffer


@dataclass(frozen=True, slots=True)
class PeerGivenUp:
    """The peer sends nothing but useless frames: end the connection."""

    reason: str


Event = OffersChanged | ChunkReceived | FileReceived | FileFailed | FileWanted | PeerGivenUp


@dataclass(eq=False, slots=True)
class _Download:
    offer: AdapterOffer
    have: ChunkSet
    last_progress: float
    requests: int = 1
    strikes: int = 0
    new_since_request: bool = False


class OrchMindSession:
    """See the module docstring.

    Args:
        offers: What we offer this peer at the start.
        now: Seconds, on any clock that only goes forward.
    """

    def __init__(self, offers: Iterable[AdapterOffer], now: float) -> None:
        self.ignored: Counter[str] = Counter()
        """Frames and parts of frames that were dropped, by kind."""
        self.offers: tuple[AdapterOffer, ...] = ()
        """What the peer offers now."""
        self._ours = {offer.topic: offer for offer in offers}
        self._events: deque[Event] = deque()
        self._frames: deque[bytes] = deque()
        self._downloads: dict[str, _Download] = {}
        self._uploads: set[str] = set()
        self._uploaded: Counter[str] = Counter()
        self._patience = MAX_USELESS_FRAMES
        self._list_tokens = float(LISTS_AT_ONCE)
        self._list_filled_at = now
        self._must_list = bool(self._ours)
        self._must_beat = self._given_up = False
        self._frames.append(encode_list_request())

    # --- what the owner does ---------------------------------------------------------------------------------------------

    def receive(self, frame: BytesLike, now: float) -> None:
        """Take one frame. Raises nothing a peer can cause."""
        if self._given_up:
            return
        try:
            message = decode_frame(frame)
        except FrameInvalid as error:
            self._useless(error.kind)
            return
        match message:
            case AdapterChunk():
                self._chunk(message, now)
            case AdapterList():
                self._list(message, now)
            case AdapterRequest():
                self._wanted(message.topic)
            case ListRequest():
                self._must_list = True
            case Heartbeat():
                self._must_beat = True
            case HeartbeatResponse():
                pass  # we never ask

    def next_event(self) -> Event | None:
        """What happened, one by one."""
        return self._events.popleft() if self._events else None

    def frames_to_send(self) -> list[bytes]:
        """What is to be sent now. Answers do not pile up: however often a peer asked, there is one of each kind."""
        frames = list(self._frames)
        self._frames.clear()
        if self._must_beat:
            frames.append(encode_heartbeat_response())
        if self._must_list:
            frames.append(encode_list(self._ours.values()))
        self._must_beat = self._must_list = False
        return frames

    def offer(self, offers: Iterable[AdapterOffer]) -> None:
        """Offer these from now on, and nothing else."""
        ours = {offer.topic: offer for offer in offers}
        if ours != self._ours:
            self._ours, self._must_list = ours, True

    def upload_ended(self, topic: str) -> None:
        """A file the peer wanted was sent, or could not be: it may ask again."""
        self._uploads.discard(topic)

    def request(self, topic: str, now: float) -> AdapterOffer | None:
        """Ask for a file the peer lists now.

        Returns:
            The offer that bounds what is accepted; None if the peer does not list it, or it is on its way already.
        """
        offer = next((each for each in self.offers if each.topic == topic), None)
        if offer is None or topic in self._downloads:
            return None
        self._downloads[topic] = _Download(offer, ChunkSet(offer.chunks), now)
        self._ask(offer)
        return offer

    def cancel(self, topic: str) -> bool:
        """Want a file no longer. The peer cannot be told; what it still sends is dropped.

        Returns:
            Whether more of it may be on its way.
        """
        return self._downloads.pop(topic, None) is not None

    def next_timer(self) -> float | None:
        """When to call `handle_timer`."""
        return min((each.last_progress + STALL_S for each in self._downloads.values()), default=None)

    def handle_timer(self, now: float) -> None:
        """Ask again for what stopped coming, or give it up."""
        for topic, download in list(self._downloads.items()):
            if now < download.last_progress + STALL_S:
                continue
            if not download.new_since_request or download.requests >= MAX_REQUESTS:
                missing = download.have.total - download.have.count
                self._fail(topic, f"the peer stopped sending with {missing} of {download.have.total} chunks missing")
                continue
            download.requests += 1
            download.last_progress, download.new_since_request = now, False
            self._ask(download.offer)

    # --- what the peer does ------------------------------------------------------------------------------------------------

    def _list(self, message: AdapterList, now: float) -> None:
        tokens = self._list_tokens + (now - self._list_filled_at) * LISTS_PER_S
        self._list_tokens, self._list_filled_at = min(float(LISTS_AT_ONCE), tokens), now
        if self._list_tokens < 1:
            self._useless("list-flood")
            return
        self._list_tokens -= 1
        if message.skipped:
            self.ignored["list-item"] += message.skipped
        if message.offers != self.offers:
            self.offers = message.offers
            self._events.append(OffersChanged(message.offers))

    def _wanted(self, topic: str) -> None:
        offer = self._ours.get(topic)
        if offer is None:
            self._useless("request-unknown")
        elif topic in self._uploads:
            self._useless("request-repeated")
        elif len(self._uploads) >= MAX_UPLOADS or self._uploaded[topic] >= MAX_UPLOADS_OF_ONE:
            self._useless("request-too-many")
        else:
            self._uploads.add(topic)
            self._uploaded[topic] += 1
            self._events.append(FileWanted(offer))

    def _chunk(self, chunk: AdapterChunk, now: float) -> None:
        download = self._downloads.get(chunk.topic)
        if download is None:
            self._useless("chunk-unsolicited")
            return
        if download.have.has(chunk.index):
            self._useless("chunk-repeated")
            return
        try:
            data = chunk.data(download.offer.size)
        except FrameInvalid as error:
            self._useless(error.kind)
            download.strikes += 1
            if download.strikes >= MAX_STRIKES:
                self._fail(chunk.topic, "the peer sent wrong chunks")
            return
        download.have.add(chunk.index)
        download.last_progress, download.new_since_request = now, True
        self._events.append(ChunkReceived(chunk.topic, chunk.index, data))
        if download.have.complete:
            del self._downloads[chunk.topic]
            self._events.append(FileReceived(chunk.topic))

    def _ask(self, offer: AdapterOffer) -> None:
        self._patience += offer.chunks  # an answer may come twice, or after it was given up
        self._frames.append(encode_request(offer.topic))

    def _fail(self, topic: str, reason: str) -> None:
        del self._downloads[topic]
        self._events.append(FileFailed(topic, reason))

    def _useless(self, kind: str) -> None:
        self.ignored[kind] += 1
        self._patience -= 1
        if self._patience <= 0:
            self._given_up = True
            most = self.ignored.most_common(1)[0][0]
            self._events.append(PeerGivenUp(f"the peer sent more than we can use, mostly {most}"))
