"""When a packet counts as lost: round-trip times, the retransmission timeout, RACK and the tail loss probe.

Source: docs/protocol/udx.md, RFC 6298 and RFC 8985 where libudx follows them.
"""

from enum import Enum, auto

from .windowed import WindowedMax

INITIAL_RTO = 1.0
MIN_RTO = 1.0
MAX_RTO = 30.0
SUSPICIOUS_RTT = 5.0  # a longer sample is more likely a stalled process than a path
MIN_RTT_WINDOW = 300.0
REORDERING_THRESHOLD = 3  # SACKed packets that make up for a missing reordering window
LONE_PACKET_DELAY = 0.002  # what libudx allows the acknowledgement of a single packet


class RecoveryState(Enum):
    """Whether losses are being repaired."""

    OPEN = auto()
    RECOVERY = auto()
    """RACK found losses."""
    LOSS = auto()
    """The retransmission timeout fired."""


class RttEstimator:
    """Smoothed round-trip time and the timeout that follows from it. All in seconds."""

    def __init__(self) -> None:
        self.srtt: float | None = None
        self.rttvar = 0.0
        self.rto = INITIAL_RTO
        self._min_rtt = WindowedMax(MIN_RTT_WINDOW)

    @property
    def min_rtt(self) -> float | None:
        """The smallest sample of the last 300 s."""
        value = self._min_rtt.value
        return None if value is None else -value

    def sample(self, rtt: float, now: float) -> None:
        """Take the round-trip time of a packet that was sent once."""
        if self.srtt is None:
            rtt = min(rtt, MAX_RTO)
            self.srtt = rtt
            self.rttvar = rtt / 2
        else:
            ceiling = self.srtt + 5 * self.rttvar
            if rtt > SUSPICIOUS_RTT and rtt > ceiling:
                rtt = min(ceiling, MAX_RTO)
            self.rttvar = (3 * self.rttvar + abs(self.srtt - rtt)) / 4
            self.srtt = (7 * self.srtt + rtt) / 8
        self._min_rtt.update(now, -rtt)
        self.rto = min(max(self.srtt + 4 * self.rttvar, MIN_RTO), MAX_RTO)

    def probe_delay(self, in_flight: int) -> float:
        """How long after the last packet a tail loss probe goes out."""
        if self.srtt is None:
            return INITIAL_RTO
        return 2 * self.srtt + (LONE_PACKET_DELAY if in_flight == 1 else 0.0)


class Rack:
    """RACK: a packet is lost when one sent later arrived, and the path had time enough to reorder the two."""

    def __init__(self) -> None:
        self.rtt = 0.0
        self.reordering_seen = False
        self._latest: tuple[float, int] = (float("-inf"), -1)
        self._highest = -1

    def delivered(
        self, sent_at: float, seq: int, *, retransmitted: bool, first: int, now: float, min_rtt: float | None
    ) -> None:
        """Packets `first..seq` of one transmission arrived."""
        if first < self._highest and not retransmitted:
            self.reordering_seen = True
        self._highest = max(self._highest, seq)
        if retransmitted and min_rtt is not None and now - sent_at < min_rtt:
            return  # an acknowledgement of the first transmission
        if (sent_at, seq) > self._latest:
            self._latest = (sent_at, seq)
            self.rtt = now - sent_at

    def reordering_window(self, rtt: RttEstimator, state: RecoveryState, sacked: int) -> float:
        """How much later than the path's round-trip time a packet may still arrive.

        Args:
            sacked: How many packets are acknowledged beyond a gap now.
        """
        if not self.reordering_seen and (state is not RecoveryState.OPEN or sacked >= REORDERING_THRESHOLD):
            return 0.0
        if rtt.srtt is None or rtt.min_rtt is None:
            return 0.0
        return min(rtt.min_rtt / 4, rtt.srtt)

    def overtaken(self, sent_at: float, seq: int) -> bool:
        """Whether a packet sent later has arrived."""
        return (sent_at, seq) < self._latest
