"""Requests on their way: numbers, timeouts, retransmissions and the congestion window."""

from collections import deque
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import NamedTuple, TypeAlias

from ..addresses import Address
from ..errors import LocalProtocolError
from .messages import Request, encode_request
from .routing_table import Node, Probe
from .window import CongestionWindow

TIMEOUT_S = 1.0  # per transmission
RETRIES = 3
QUERY_RETRIES = 5
MAX_REQUESTS = 16384  # a quarter of all tids, so that a free one is found at once and a stray reply seldom hits

Purpose: TypeAlias = Probe | Node | None
"""Why the endpoint itself asks: a probe for the table, a node said to be down; None for the owner's own requests."""


class Datagram(NamedTuple):
    """One UDP payload to send."""

    data: bytes
    to: Address
    socket: int
    ttl: int | None = None
    """Of the IP packet, for hole punching; None leaves it to the socket."""


@dataclass(slots=True, eq=False)
class PendingRequest:
    """A request that was neither answered nor given up."""

    handle: int
    tid: int
    datagram: Datagram
    retries: int
    timeout_s: float
    force: bool
    purpose: Purpose
    proves_down: bool
    """Whether silence means that nobody is there."""
    sent: int = 0
    deadline: float = field(default=float("inf"))


class Requests:
    """All pending requests of one node."""

    def __init__(self, *, first_tid: int) -> None:
        """`first_tid` is a random number of 16 bits."""
        self.window = CongestionWindow()
        self.paused = False
        """Whether nothing may be sent: all requests wait."""
        self._next_tid = first_tid
        self._next_handle = 1
        self._by_tid: dict[int, PendingRequest] = {}
        self._by_handle: dict[int, PendingRequest] = {}
        self._queue: deque[PendingRequest] = deque()  # waiting for room in the window
        self._deadlines: list[tuple[float, int]] = []  # a heap of deadline and handle; outdated ones are skipped
        self._outgoing: list[Datagram] = []

    def __len__(self) -> int:
        return len(self._by_handle)

    @property
    def waits_for_room(self) -> bool:
        """Whether a request waits for the window to move on."""
        return bool(self._queue) and not self.paused

    def start(
        self,
        request: Request,
        *,
        socket: int,
        now: float,
        retries: int,
        timeout_s: float,
        force: bool,
        proves_down: bool = False,
        purpose: Purpose = None,
    ) -> int:
        """Send a request whose tid came from `take_tid`, or queue it while the window is full. Returns its handle."""
        handle = self._next_handle
        self._next_handle += 1
        datagram = Datagram(encode_request(request), request.to, socket)
        pending = PendingRequest(handle, request.tid, datagram, retries, timeout_s, force, purpose, proves_down)
        self._by_tid[request.tid] = self._by_handle[handle] = pending
        self._transmit(pending, now)
        return handle

    def ensure_room(self) -> None:
        """Refuse to pile up requests without end.

        Raises:
            LocalProtocolError: 16,384 requests are pending.
        """
        if len(self._by_tid) >= MAX_REQUESTS:
            raise LocalProtocolError(f"{MAX_REQUESTS} requests are pending; wait for some of them first")

    def take_tid(self) -> int:
        """A number no pending request has."""
        while self._next_tid in self._by_tid:
            self._next_tid = (self._next_tid + 1) & 0xFFFF
        tid = self._next_tid
        self._next_tid = (tid + 1) & 0xFFFF
        return tid

    def settle_tid(self, tid: int) -> PendingRequest | None:
        """The request a reply belongs to, which is over now; None for a reply nobody waits for."""
        pending = self._by_tid.get(tid)
        if pending is not None:
            self._remove(pending)
        return pending

    def cancel(self, handle: int) -> None:
        """Forget a request. Nothing happens if it is already over."""
        pending = self._by_handle.get(handle)
        if pending is not None:
            self._remove(pending)

    def abandon(self) -> list[PendingRequest]:
        """End all requests. Returns them."""
        abandoned = list(self._by_handle.values())
        for pending in abandoned:
            self._remove(pending)
        self._outgoing.clear()
        return abandoned

    def expire(self, now: float) -> tuple[list[PendingRequest], list[PendingRequest]]:
        """Send again what was not answered in time. Returns the requests that became slow, and those given up."""
        slow: list[PendingRequest] = []
        given_up: list[PendingRequest] = []
        while self._deadlines and self._deadlines[0][0] <= now:
            deadline, handle = heappop(self._deadlines)
            pending = self._by_handle.get(handle)
            if pending is None or pending.deadline != deadline:
                continue
            if pending.sent > pending.retries:
                self._remove(pending)
                given_up.append(pending)
                continue
            if pending.sent == 1:
                slow.append(pending)
            self._transmit(pending, now)
        return slow, given_up

    def release(self, now: float) -> None:
        """Send from the queue what the window has room for."""
        while self.waits_for_room and not self.window.is_full:
            pending = self._queue.popleft()
            if pending.handle in self._by_handle:
                self._send(pending, now)

    def next_deadline(self) -> float | None:
        """When `expire` has something to do, at the earliest."""
        while self._deadlines:
            deadline, handle = self._deadlines[0]
            pending = self._by_handle.get(handle)
            if pending is not None and pending.deadline == deadline:
                return deadline
            heappop(self._deadlines)
        return None

    def datagrams_to_send(self) -> list[Datagram]:
        """What is to be sent now, each once."""
        outgoing, self._outgoing = self._outgoing, []
        return outgoing

    def _transmit(self, pending: PendingRequest, now: float) -> None:
        if self.paused or ((self.window.is_full or self._queue) and not pending.force):
            pending.deadline = float("inf")
            self._queue.append(pending)
        else:
            self._send(pending, now)

    def _send(self, pending: PendingRequest, now: float) -> None:
        self.window.sent()
        pending.sent += 1
        pending.deadline = now + pending.timeout_s
        heappush(self._deadlines, (pending.deadline, pending.handle))
        self._outgoing.append(pending.datagram)

    def _remove(self, pending: PendingRequest) -> None:
        del self._by_tid[pending.tid]
        del self._by_handle[pending.handle]
        if pending.sent:
            self.window.settled()
