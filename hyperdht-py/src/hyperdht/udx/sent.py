"""Packets that were sent and not acknowledged, kept as runs: one record per batch, split only where the network does.

Numbers here never wrap.
"""

from dataclasses import dataclass, replace

from ..buffers import BytesLike


@dataclass(slots=True)
class SentRun:
    """Packets with consecutive numbers, one size and one time of sending."""

    first: int
    count: int
    flags: int
    payload_bytes: int
    source: BytesLike
    """The payloads, one after the other from `offset` on. A retransmission must not cut them differently."""
    offset: int
    sent_at: float
    delivered: int
    """How many packets of the stream had been delivered when this run was sent."""
    delivered_at: float
    first_sent_at: float
    app_limited: bool
    path: int = 0
    """Counts the changes of remote before it was sent. A retransmission goes where the first went, until one timed out."""
    transmissions: int = 1
    timeouts: int = 0
    lost: bool = False
    probe: bool = False
    """Whether this packet is a probe of the path's MTU."""

    @property
    def end(self) -> int:
        """The number after the last packet."""
        return self.first + self.count

    def split(self, count: int) -> "SentRun":
        """Keep the first `count` packets; returns the others."""
        rest = replace(
            self, first=self.first + count, count=self.count - count, offset=self.offset + count * self.payload_bytes
        )
        self.count = count
        return rest


class SentRuns:
    """The runs in the order of their numbers."""

    def __init__(self, first: int = 0) -> None:
        self.runs: list[SentRun] = []
        self.una = first
        """The lowest number not acknowledged."""
        self.nxt = first
        """The number of the next new packet."""
        self.outstanding = 0
        """Packets neither acknowledged nor SACKed."""
        self.lost = 0
        """Those of them that wait to be sent again."""

    @property
    def in_flight(self) -> int:
        """Packets that are believed to be on their way."""
        return self.outstanding - self.lost

    @property
    def sacked(self) -> int:
        """Packets acknowledged beyond a gap."""
        return self.nxt - self.una - self.outstanding

    def append(self, run: SentRun) -> None:
        """A run of new packets was sent."""
        self.runs.append(run)
        self.nxt = run.end
        self.outstanding += run.count

    def acknowledge(self, ack: int) -> list[SentRun]:
        """Remove and return everything below `ack`."""
        runs, taken = self.runs, 0
        while taken < len(runs) and runs[taken].end <= ack:
            taken += 1
        if taken < len(runs) and runs[taken].first < ack:
            self._split(taken, ack - runs[taken].first)
            taken += 1
        self.una = max(self.una, ack)
        return self._remove(0, taken)

    def sack(self, start: int, end: int) -> list[SentRun]:
        """Remove and return what is left of `[start, end)`. SACKed packets are final."""
        low = self._boundary(start)
        return self._remove(low, self._boundary(end))

    def mark_lost(self, run: SentRun) -> None:
        """`run`, one of ours, has to be sent again."""
        run.lost = True
        self.lost += run.count

    def first_packet(self) -> SentRun:
        """The lowest packet as a run of its own."""
        if self.runs[0].count > 1:
            self._split(0, 1)
        return self.runs[0]

    def last_packet(self) -> SentRun:
        """The highest packet as a run of its own."""
        last = self.runs[-1]
        if last.count > 1:
            self._split(len(self.runs) - 1, last.count - 1)
        return self.runs[-1]

    def resend(self, index: int, limit: int) -> SentRun:
        """Take at most `limit` packets of a lost run as no longer lost."""
        run = self.runs[index]
        if run.count > limit:
            self._split(index, limit)
        run.lost = False
        self.lost -= run.count
        return run

    def _boundary(self, number: int) -> int:
        """The index of the first run at or above `number`, after splitting the one that contains it."""
        low, high = 0, len(self.runs)
        while low < high:
            middle = (low + high) // 2
            if self.runs[middle].end <= number:
                low = middle + 1
            else:
                high = middle
        if low < len(self.runs) and self.runs[low].first < number:
            self._split(low, number - self.runs[low].first)
            low += 1
        return low

    def _split(self, index: int, count: int) -> None:
        self.runs.insert(index + 1, self.runs[index].split(count))

    def _remove(self, low: int, high: int) -> list[SentRun]:
        removed = self.runs[low:high]
        del self.runs[low:high]
        for run in removed:
            self.outstanding -= run.count
            if run.lost:
                self.lost -= run.count
        return removed
