"""Received packets put back into order.

Numbers here never wrap; whoever reads them off the wire extends them first.
"""

from bisect import bisect_left
from collections.abc import Sequence

from ..buffers import BytesLike

# libudx puts no limit on how far ahead a number may be, so one forged packet per number would fill our memory.
MAX_AHEAD_PACKETS = 65_536
# How much is held beyond a gap. libudx fills the window anew with what was SACKed, so a packet lost twice leaves three there:
# two round trips of data when its loss is repaired, three when the repair is.
HELD_WINDOWS = 3
# What a held packet costs besides its payload: without it a flood of one-byte packets beyond a gap would be free.
HELD_OVERHEAD_BYTES = 64


class HeldMemory:
    """What several streams hold beyond gaps, together."""

    __slots__ = ("limit", "used")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        """Bytes."""
        self.used = 0


class _Range:
    """Packets held without a gap."""

    __slots__ = ("payloads", "start")

    def __init__(self, start: int, payloads: list[bytes]) -> None:
        self.start = start
        self.payloads = payloads

    @property
    def end(self) -> int:
        return self.start + len(self.payloads)


class Reassembly:
    """Which packets arrived. Those in order are given back at once, those beyond a gap are held up to a limit."""

    def __init__(self, max_held_bytes: int, *, first: int = 0, shared: HeldMemory | None = None) -> None:
        """`shared` is a limit for several of these, beside that of each."""
        self.expected = first
        """The number of the next packet in order: what is acknowledged."""
        self.held_bytes = 0
        self._max_held_bytes = max_held_bytes
        self._shared = HeldMemory(max_held_bytes) if shared is None else shared
        self._ranges: list[_Range] = []
        self._end: int | None = None

    @property
    def ended(self) -> bool:
        """Whether everything up to the end was given back."""
        return self._end is not None and self.expected >= self._end

    @property
    def end(self) -> int | None:
        """The number after the last packet, once known."""
        return self._end

    def end_at(self, end: int) -> None:
        """The packet before `end` is the last. The first such word counts; what is held beyond is dropped."""
        if self._end is not None or end < self.expected:
            return
        self._end = end
        for held in self._ranges:
            self._forget(held.payloads[max(end - held.start, 0) :])
            del held.payloads[max(end - held.start, 0) :]
        self._ranges = [held for held in self._ranges if held.payloads]

    def insert(self, first: int, payloads: Sequence[BytesLike]) -> list[BytesLike]:
        """Take packets with consecutive numbers in.

        Args:
            payloads: Copied if they have to be held, otherwise given back as they are.
        Returns:
            The payloads that are in order now, of these packets and of held ones behind them. Duplicates, packets after
            the end and packets beyond the limits are dropped; the peer sends the latter again.
        """
        if first < self.expected:
            payloads = payloads[self.expected - first :]
            first = self.expected
        if self._end is not None:
            payloads = payloads[: max(self._end - first, 0)]
        if not payloads:
            return []
        if first > self.expected:
            self._hold(first, payloads)
            return []
        ready = list(payloads)
        self.expected += len(payloads)
        while self._ranges and self._ranges[0].start <= self.expected:
            held = self._ranges.pop(0)
            self._forget(held.payloads)
            ready += held.payloads[self.expected - held.start :]
            self.expected = max(self.expected, held.end)
        return ready

    def clear(self) -> None:
        """Drop what is held: the stream is over."""
        self._shared.used -= self.held_bytes
        self.held_bytes = 0
        self._ranges.clear()

    def ranges(self, limit: int) -> list[tuple[int, int]]:
        """The lowest `limit` runs of held packets, as `[start, end)`."""
        return [(held.start, held.end) for held in self._ranges[:limit]]

    def _hold(self, first: int, payloads: Sequence[BytesLike]) -> None:
        cost = sum(map(len, payloads)) + HELD_OVERHEAD_BYTES * len(payloads)
        too_far = first + len(payloads) > self.expected + MAX_AHEAD_PACKETS
        if too_far or self.held_bytes + cost > self._max_held_bytes or self._shared.used + cost > self._shared.limit:
            return
        new = [bytes(payload) for payload in payloads]
        last = first + len(new)
        low = bisect_left(self._ranges, first, key=lambda held: held.end)
        high = low
        while high < len(self._ranges) and self._ranges[high].start <= last:
            high += 1
        self.held_bytes += cost
        self._shared.used += cost
        if high - low == 1 and self._ranges[low].end == first:  # the usual case: the next after what is held
            self._ranges[low].payloads += new
            return
        merged: list[bytes] = []
        start = position = min(first, self._ranges[low].start) if high > low else first
        for held in self._ranges[low:high]:
            if position < held.start:
                merged += new[position - first : held.start - first]
            self._forget(new[max(held.start - first, 0) : held.end - first])  # duplicates
            merged += held.payloads
            position = held.end
        merged += new[max(position - first, 0) :]
        self._ranges[low:high] = [_Range(start, merged)]

    def _forget(self, payloads: Sequence[BytesLike]) -> None:
        cost = sum(map(len, payloads)) + HELD_OVERHEAD_BYTES * len(payloads)
        self.held_bytes -= cost
        self._shared.used -= cost
