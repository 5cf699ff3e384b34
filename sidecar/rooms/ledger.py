"""Who asked whom for which chunks and table pages on one channel, so that anything unasked for is known as such (T6)."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import Enum

from hyperdht.errors import LocalProtocolError
from sidecar.transfer.chunks import MAX_CHUNKS

from .messages import MAX_CHUNKS_PER_MESSAGE, MAX_CHUNKS_PER_REQUEST, MAX_TABLE_PAGE, RequestChunks, RequestTable

MAX_REQUESTS = 64
"""Unfinished chunk requests in each direction. Without it a peer makes a provider keep records without end."""
MAX_TABLE_REQUESTS = 8
"""Unanswered table pages in each direction: 1 MiB of answers is all a peer can make us queue."""


class Verdict(Enum):
    """What to do with something that came."""

    DELIVER = "deliver"
    DROP = "drop"
    """It belongs to a request we cancelled."""
    UNASKED = "unasked"
    """Nobody asked: a violation."""


@dataclass(slots=True)
class _Run:
    """Chunks that are still to come, `next` first."""

    next: int
    end: int
    cancelled: bool = False


class FetchLedger:
    """Our own chunk requests, until their last chunk or a refusal."""

    def __init__(self) -> None:
        self._runs: dict[int, _Run] = {}
        self._last_id = 0

    @property
    def free(self) -> int:
        """How many more requests can be made now."""
        return MAX_REQUESTS - len(self._runs)

    def open(self, first: int, count: int) -> int:
        """Note a new request and return its id."""
        if not self.free or not 1 <= count <= MAX_CHUNKS_PER_REQUEST:
            raise LocalProtocolError(f"request of {count} chunks with {self.free} of {MAX_REQUESTS} requests free")
        while True:
            self._last_id = (self._last_id + 1) & 0xFFFFFFFF
            if self._last_id not in self._runs:
                self._runs[self._last_id] = _Run(first, first + count)
                return self._last_id

    def accept(self, request_id: int, first: int, count: int) -> Verdict:
        """Judge chunks that came together; their request ends with its last one."""
        run = self._runs.get(request_id)
        if run is None or first != run.next or first + count > run.end:
            return Verdict.UNASKED
        run.next = first + count
        if run.next == run.end:
            del self._runs[request_id]
        return Verdict.DROP if run.cancelled else Verdict.DELIVER

    def cancel(self, request_id: int) -> bool:
        """Stop delivering a request's chunks; False if it ended already."""
        run = self._runs.get(request_id)
        if run is None or run.cancelled:
            return False
        run.cancelled = True
        return True

    def refused(self, request_id: int) -> Verdict:
        """End a request the peer refused."""
        run = self._runs.pop(request_id, None)
        if run is None:
            return Verdict.UNASKED
        return Verdict.DROP if run.cancelled else Verdict.DELIVER


class ServeLedger:
    """The peer's chunk requests, until we sent the last chunk or refused."""

    def __init__(self) -> None:
        self._runs: dict[int, _Run] = {}

    def open(self, request: RequestChunks) -> bool:
        """Note a request; False if the peer has too many or uses an id twice."""
        if len(self._runs) >= MAX_REQUESTS or request.request_id in self._runs:
            return False
        self._runs[request.request_id] = _Run(request.first, request.first + request.count)
        return True

    def sending(self, request_id: int, first: int, count: int) -> bool:
        """Note that chunks go out; False if the request has ended."""
        if not 1 <= count <= MAX_CHUNKS_PER_MESSAGE:
            raise LocalProtocolError(f"{count} chunks in one message")
        run = self._runs.get(request_id)
        if run is None:
            return False
        if first != run.next or first + count > run.end:
            raise LocalProtocolError(f"chunks {first} to {first + count} sent where chunk {run.next} is next")
        run.next = first + count
        if run.next == run.end:
            del self._runs[request_id]
        return True

    def end(self, request_id: int) -> bool:
        """End a request before its last chunk; False if it had ended."""
        return self._runs.pop(request_id, None) is not None


class TableFetchLedger:
    """Chunk tables we are asking for, page by page."""

    def __init__(self) -> None:
        self._asked: dict[tuple[bytes, int], int] = {}
        self._waiting: deque[RequestTable] = deque()

    def open(self, digest: bytes, count: int) -> None:
        """Plan the pages of a table of `count` hashes; nothing is planned twice."""
        if not 1 <= count <= MAX_CHUNKS:
            raise LocalProtocolError(f"a chunk table of {count} hashes")
        if any(asked == digest for asked, _ in self._asked) or any(page.digest == digest for page in self._waiting):
            return
        pages = range(0, count, MAX_TABLE_PAGE)
        self._waiting.extend(RequestTable(digest, first, min(MAX_TABLE_PAGE, count - first)) for first in pages)

    def next_requests(self) -> list[RequestTable]:
        """The pages to ask for now."""
        ready: list[RequestTable] = []
        while self._waiting and len(self._asked) < MAX_TABLE_REQUESTS:
            page = self._waiting.popleft()
            self._asked[page.digest, page.first] = page.count
            ready.append(page)
        return ready

    def accept(self, digest: bytes, first: int, count: int) -> bool:
        """Whether exactly that page was asked for."""
        if self._asked.get((digest, first)) != count:
            return False
        del self._asked[digest, first]
        return True

    def refused(self, digest: bytes, first: int) -> bool:
        """Drop the pages of a table not asked for yet; False if nobody asked for that page."""
        if self._asked.pop((digest, first), None) is None:
            return False
        self._waiting = deque(page for page in self._waiting if page.digest != digest)
        return True


class TableServeLedger:
    """Table pages the peer asked for and we have not answered."""

    def __init__(self) -> None:
        self._asked: dict[tuple[bytes, int], int] = {}

    def open(self, request: RequestTable) -> bool:
        """Note a request; False if there are too many or it is there twice."""
        key = (request.digest, request.first)
        if len(self._asked) >= MAX_TABLE_REQUESTS or key in self._asked:
            return False
        self._asked[key] = request.count
        return True

    def answer(self, digest: bytes, first: int, count: int | None) -> bool:
        """End a request with a page of `count` hashes, or a refusal (None); False if there is no such request."""
        asked = self._asked.pop((digest, first), None)
        if asked is not None and count not in (None, asked):
            raise LocalProtocolError(f"{count} hashes sent where {asked} were asked for")
        return asked is not None
