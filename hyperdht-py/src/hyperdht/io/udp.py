"""UDP sockets that send and receive in batches.

A socket is read when the event loop says so, until it is empty or its turn is over; what belongs together is handed over in
one buffer, whether the kernel put it together (UDP_GRO) or we did. What the kernel cannot take at the moment waits here.
"""

import socket
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from ..addresses import Address
from .direct import shared_read_buffer
from .offload import (
    CONTROL_BYTES,
    DEFAULT_TTL,
    MAX_SEGMENTED_BYTES,
    MAX_SEGMENTS,
    SEGMENTATION_REFUSED,
    Offload,
    segment_control,
    segment_size,
    set_coalescing,
    set_ttl,
)
from .reactor import Reactor

OnDatagrams: TypeAlias = Callable[[bytes, int, Address], object]
"""Called as callback(data, segment_bytes, sender): datagrams of that size one after the other, the last may be shorter."""

MAX_DATAGRAM_BYTES = 65_535
GATHER_BYTES = 65_536
# One turn: half a millisecond to a millisecond of work. Then others have a turn.
TURN_BYTES = 1 << 20
TURN_READS = 256
MAX_TURN_READS = 4096  # once, to empty a socket
# What waits for the kernel. It happens when the network is slower than the congestion control believes; what does not fit
# is lost, and the congestion control learns.
MAX_BACKLOG_BYTES = 2 << 20
# Reads through UDP_GRO cost half as much again when nothing is put together: a peer without UDP_SEGMENT, acknowledgements.
JUDGE_AFTER_READS = 256
MIN_DATAGRAMS_PER_READ = 1.5
RETRY_AFTER_DATAGRAMS = 8192
TRIAL_READS = 32
SEGMENTATION_STRIKES = 3


@dataclass(slots=True)
class UdpCounters:
    """What a socket did and could not do."""

    reads: int = 0
    received: int = 0
    """Datagrams."""
    receive_errors: int = 0
    sends: int = 0
    """System calls."""
    unreachable: int = 0
    """Datagrams the system refused for their destination."""
    dropped: int = 0
    """Datagrams that found the backlog full."""


class UdpSocket:
    """One bound socket."""

    def __init__(
        self,
        sock: socket.socket,
        reactor: Reactor,
        on_datagrams: OnDatagrams,
        *,
        offload: Offload,
        turn_over: Callable[[], object],
    ) -> None:
        """Take over `sock` and begin to receive.

        Args:
            turn_over: Called after the datagrams of one turn were handed over.
        """
        self.counters = UdpCounters()
        self.address = Address(*sock.getsockname()[:2])
        """Ours. The host is that we bound to."""
        self._sock = sock
        self._reactor = reactor
        self._on_datagrams = on_datagrams
        self._turn_over = turn_over
        self._segmentation = offload.segmentation
        self._may_coalesce = offload.coalescing
        self._coalescing = offload.coalescing and set_coalescing(sock, True)
        self._strikes = 0
        self._controls: dict[int, list[tuple[int, int, bytes]]] = {}
        self._backlog: deque[tuple[bytes, int, Address, int | None]] = deque()
        self._backlog_bytes = 0
        self._judged_reads = self._judged_datagrams = 0
        self._trial = self._useless = False
        self._plain_datagrams = 0
        self._sender_raw: object = None
        self._sender = Address("", 0)
        self._closed = False
        reactor.watch(sock, self._readable)

    @property
    def blocked(self) -> bool:
        """Whether datagrams wait for the kernel; more of them would only wait behind."""
        return bool(self._backlog)

    @property
    def offload(self) -> Offload:
        """What is used at the moment."""
        return Offload(self._segmentation, self._coalescing)

    def close(self) -> None:
        """Close it. What waits to be sent is lost."""
        if not self._closed:
            self._closed = True
            self._reactor.unwatch(self._sock)
            self._backlog.clear()
            self._sock.close()

    # --- receiving

    def _readable(self) -> None:
        if self._coalescing:
            self._receive_coalesced()
        else:
            self._receive_single()
        self._turn_over()

    def _sender_of(self, raw: tuple[str, int]) -> Address:
        if raw != self._sender_raw:
            self._sender_raw, self._sender = raw, Address(raw[0], raw[1])
        return self._sender

    def _receive_coalesced(self) -> None:
        """Read what the kernel put together; what it did not, we put together."""
        parts: list[bytes] = []
        sender, segment_bytes = ("", 0), 0
        left, emptied = TURN_BYTES, False
        for _ in range(MAX_TURN_READS if self._useless else TURN_READS):
            if left <= 0:
                break
            try:
                data, control, _, raw = self._sock.recvmsg(MAX_DATAGRAM_BYTES, CONTROL_BYTES)
            except (BlockingIOError, InterruptedError):
                emptied = True
                self._judge(emptied)  # before anything is handed over, which takes time in which more would arrive
                break
            except OSError:
                self.counters.receive_errors += 1
                continue
            size = len(data)
            left -= size
            single = segment_size(control, size)
            self._judged_reads += 1
            self._judged_datagrams += -(-size // single) if size else 0
            if parts and (single != size or size > segment_bytes or raw != sender):
                self._deliver(parts, segment_bytes, sender)
                parts = []
            if single != size:
                self._deliver([data], single, raw)
            elif size:
                if not parts:
                    segment_bytes, sender = size, raw
                parts.append(data)
                if size < segment_bytes or len(parts) * segment_bytes >= GATHER_BYTES:
                    self._deliver(parts, segment_bytes, sender)
                    parts = []
            if self._closed:
                return
        if parts:
            self._deliver(parts, segment_bytes, sender)
        if not emptied:
            self._judge(emptied)

    def _deliver(self, parts: list[bytes], segment_bytes: int, sender: tuple[str, int]) -> None:
        if not self._closed:
            self._on_datagrams(parts[0] if len(parts) == 1 else b"".join(parts), segment_bytes, self._sender_of(sender))

    def _judge(self, emptied: bool) -> None:
        """Go without UDP_GRO when it does not put anything together, at a moment when the socket is empty."""
        if self._judged_reads >= (TRIAL_READS if self._trial else JUDGE_AFTER_READS):
            self._useless = self._judged_datagrams < MIN_DATAGRAMS_PER_READ * self._judged_reads
            self.counters.reads += self._judged_reads
            self.counters.received += self._judged_datagrams
            self._judged_reads = self._judged_datagrams = 0
            self._trial = False
        if self._useless and emptied and not self._closed:
            self._useless = False
            self._coalescing = set_coalescing(self._sock, False)
            self._plain_datagrams = 0
            self._discard_uncertain()

    def _discard_uncertain(self) -> None:
        """What came since the socket was empty, before the switch, may be put together, and nothing says of what size. It counts as lost."""
        for _ in range(TURN_READS):
            try:
                self._sock.recv_into(shared_read_buffer())
                self.counters.receive_errors += 1
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                self.counters.receive_errors += 1

    def _receive_single(self) -> None:
        """Read one by one, but hand over together what has one sender and one size."""
        buffer = shared_read_buffer()
        filled = segment_bytes = count = 0
        sender = ("", 0)
        while count < TURN_READS:
            try:
                size, raw = self._sock.recvfrom_into(buffer[filled:])
            except (BlockingIOError, InterruptedError):
                break
            except OSError:  # Windows tells us here that an earlier datagram found nobody
                self.counters.receive_errors += 1
                count += 1
                continue
            count += 1
            if filled and (size > segment_bytes or raw != sender):
                before = bytes(buffer[:filled])
                buffer[:size] = buffer[filled : filled + size]
                self._on_datagrams(before, segment_bytes, self._sender_of(sender))
                if self._closed:
                    return
                filled = 0
            if not filled:
                segment_bytes, sender = size, raw
            filled += size
            if filled and (size < segment_bytes or filled >= GATHER_BYTES):
                self._on_datagrams(bytes(buffer[:filled]), segment_bytes, self._sender_of(raw))
                if self._closed:
                    return
                filled = 0
        if filled:
            self._on_datagrams(bytes(buffer[:filled]), segment_bytes, self._sender_of(sender))
        self.counters.reads += count
        self.counters.received += count
        self._plain_datagrams += count
        if self._may_coalesce and self._plain_datagrams >= RETRY_AFTER_DATAGRAMS and not self._closed:
            self._coalescing = self._trial = set_coalescing(self._sock, True)
            self._plain_datagrams = 0

    # --- sending

    def send(self, data: bytes, segment_bytes: int, address: Address, *, ttl: int | None = None) -> None:
        """Send the datagrams in `data`. Nothing is awaited: what the kernel cannot take waits until it can.

        Args:
            ttl: How many routers they may pass; without it 64.
        """
        if self._closed:
            return
        if self._backlog:
            self._wait_behind(data, segment_bytes, address, ttl)
            return
        sent = self._transmit(data, segment_bytes, address, ttl)
        if sent < len(data):
            self._wait_behind(data[sent:], segment_bytes, address, ttl)
            self._reactor.when_writable(self._sock, self._writable)

    def _wait_behind(self, data: bytes, segment_bytes: int, address: Address, ttl: int | None) -> None:
        if self._backlog_bytes + len(data) > MAX_BACKLOG_BYTES:
            self.counters.dropped += -(-len(data) // segment_bytes)
            return
        self._backlog.append((data, segment_bytes, address, ttl))
        self._backlog_bytes += len(data)

    def _writable(self) -> None:
        while self._backlog:
            data, segment_bytes, address, ttl = self._backlog.popleft()
            self._backlog_bytes -= len(data)
            sent = self._transmit(data, segment_bytes, address, ttl)
            if sent < len(data):
                self._backlog.appendleft((data[sent:], segment_bytes, address, ttl))
                self._backlog_bytes += len(data) - sent
                self._reactor.when_writable(self._sock, self._writable)
                return
        self._turn_over()

    def _transmit(self, data: bytes, segment_bytes: int, address: Address, ttl: int | None) -> int:
        """How many bytes are done with: sent, or lost for good. Fewer than all mean that the kernel's buffer is full."""
        if ttl is not None:
            set_ttl(self._sock, ttl)
        try:
            if self._segmentation and len(data) > segment_bytes:
                return self._send_segmented(data, segment_bytes, address)
            return self._send_single(data, segment_bytes, address)
        finally:
            if ttl is not None:
                set_ttl(self._sock, DEFAULT_TTL)

    def _send_segmented(self, data: bytes, segment_bytes: int, address: Address) -> int:
        control = self._controls.get(segment_bytes)
        if control is None:
            control = self._controls[segment_bytes] = segment_control(segment_bytes)
        step = min(MAX_SEGMENTS, MAX_SEGMENTED_BYTES // segment_bytes) * segment_bytes
        for at in range(0, len(data), step):
            part = data if len(data) <= step else data[at : at + step]
            try:
                self._sock.sendmsg((part,), control, 0, address)
                self.counters.sends += 1
            except (BlockingIOError, InterruptedError):
                return at
            except OSError as error:
                if error.errno not in SEGMENTATION_REFUSED:
                    self._refused(part, segment_bytes)
                    continue
                sent = self._send_refused(part, segment_bytes, address)
                if sent < len(part):
                    return at + sent
        return len(data)

    def _send_refused(self, data: bytes, segment_bytes: int, address: Address) -> int:
        """Was it the destination, or the batch? If single datagrams go, batches are given up after a few such cases."""
        refused = self.counters.unreachable
        sent = self._send_single(data, segment_bytes, address)
        if self.counters.unreachable == refused:
            self._strikes += 1
            self._segmentation = self._strikes < SEGMENTATION_STRIKES
        return sent

    def _send_single(self, data: bytes, segment_bytes: int, address: Address) -> int:
        sendto = self._sock.sendto
        view = memoryview(data)
        for at in range(0, len(data), segment_bytes):
            try:
                sendto(view[at : at + segment_bytes], address)
                self.counters.sends += 1
            except (BlockingIOError, InterruptedError):
                return at
            except OSError:
                self._refused(view[at : at + segment_bytes], segment_bytes)
        return len(data)

    def _refused(self, data: bytes | memoryview, segment_bytes: int) -> None:
        """One destination more or less: the socket is as good as before, and what was sent counts as lost."""
        self.counters.unreachable += -(-len(data) // segment_bytes)
