"""How much to send and how fast: BBR version 1, in packets and seconds.

It follows the bandwidth and round-trip time it measures instead of backing off at every loss: at 50 ms and 1 % loss the
official stack keeps 250 to 280 Mbit/s this way, which a loss-based controller would not.

    mode        pacing gain                  until
    STARTUP     2.885                        three rounds without 25 % more bandwidth
    DRAIN       1/2.885                      no more in flight than the path holds
    PROBE_BW    1.25, 0.75, then six 1.0     ten seconds without a smaller round-trip time
    PROBE_RTT   1.0, four packets            200 ms and one round

Source: libudx `src/udx_bbr.c` and Linux `net/ipv4/tcp_bbr.c`; docs/protocol/udx.md.
"""

import math
from dataclasses import dataclass
from enum import Enum, auto

from .windowed import WindowedMax

INITIAL_CWND = 10
MIN_CWND = 4
HIGH_GAIN = 2.88539
CWND_GAIN = 2.0
CYCLE = (1.25, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0)
FIRST_PHASE = 4
PACING_MARGIN = 0.99
BANDWIDTH_ROUNDS = 10
FULL_BANDWIDTH_GROWTH = 1.25
FULL_BANDWIDTH_ROUNDS = 3
MIN_RTT_WINDOW = 10.0
PROBE_RTT_TIME = 0.2
EXTRA_ACKED_ROUNDS = 5
EXTRA_ACKED_MAX_TIME = 0.1
INITIAL_TOKENS = 25_000
# A paced sender that wakes late may catch up this much. An event loop under load is a few milliseconds late.
BURST_TIME = 0.004
MAX_BATCH_PACKETS = 44  # 64 KiB of full packets, what one system call takes


class Mode(Enum):
    """See the table above."""

    STARTUP = auto()
    DRAIN = auto()
    PROBE_BW = auto()
    PROBE_RTT = auto()


@dataclass(frozen=True, slots=True)
class RateSample:
    """What one acknowledgement tells."""

    delivered: int
    """Packets delivered over the life of the stream, these included."""
    prior_delivered: int
    """The same count when the newest packet acknowledged here was sent."""
    interval: float
    """Seconds in which the difference was delivered; 0 when unknown."""
    acked: int
    """Packets newly delivered."""
    lost: int
    """Packets newly found lost."""
    in_flight: int
    prior_in_flight: int
    rtt: float | None
    app_limited: bool
    """The sender had less to send than it could have."""


class Bbr:
    """Congestion window and pacing rate of one stream."""

    def __init__(self, payload_bytes: int) -> None:
        self.cwnd = INITIAL_CWND
        """Packets."""
        self.payload_bytes = payload_bytes
        """Of a full packet; the owner changes it when it learns more about the path."""
        self.mode = Mode.STARTUP
        self.pacing_gain = self.cwnd_gain = HIGH_GAIN
        self.min_rtt: float | None = None
        self.pacing_rate = INITIAL_CWND * payload_bytes * HIGH_GAIN / 0.001
        """Bytes per second."""
        self._min_rtt_at = 0.0
        self._bandwidth = WindowedMax(BANDWIDTH_ROUNDS)
        self._round = 0
        self._round_start = False
        self._round_ends_at_delivered = 0
        self._full_bandwidth = 0.0
        self._full_rounds = 0
        self._phase = 0
        self._phase_at = 0.0
        self._prior_cwnd = 0
        self._conserving = False
        self._repairing = False
        self._idle_restart = False
        self._probe_rtt_until: float | None = None
        self._probe_rtt_round_done = False
        self._extra_acked = WindowedMax(EXTRA_ACKED_ROUNDS)
        self._ack_epoch_at = 0.0
        self._ack_epoch_acked = 0
        self._rate_from_rtt = False

    @property
    def bandwidth(self) -> float:
        """Packets per second."""
        return self._bandwidth.value or 0.0

    @property
    def filled_pipe(self) -> bool:
        """Whether the bandwidth stopped growing."""
        return self._full_rounds >= FULL_BANDWIDTH_ROUNDS

    def acknowledged(self, sample: RateSample, now: float) -> None:
        """Learn from an acknowledgement that delivered something."""
        self._update_bandwidth(sample)
        self._update_extra_acked(sample, now)
        self._update_phase(sample, now)
        self._check_full_pipe(sample)
        self._check_drain(sample, now)
        self._update_min_rtt(sample, now)
        self._set_gains()
        self._set_pacing_rate()
        self._set_cwnd(sample)

    def restarted(self) -> None:
        """Sending begins again after the application had nothing to send."""
        self._idle_restart = True

    def entered_recovery(self, sample: RateSample) -> None:
        """The first loss: for one round send no more than arrives, but keep a window that can repair several losses."""
        self._save_cwnd()
        self._repairing = self._conserving = True
        self._round_ends_at_delivered = sample.delivered
        self.cwnd = max(sample.in_flight + sample.acked, MIN_CWND)

    def timed_out(self, in_flight: int) -> None:
        """Nothing arrived for a whole timeout."""
        self._save_cwnd()
        self._repairing = True
        self._conserving = False
        self._full_bandwidth = 0.0
        self.cwnd = in_flight + 1

    def left_recovery(self) -> None:
        """All losses are repaired."""
        self._repairing = self._conserving = False
        self.cwnd = max(self.cwnd, self._prior_cwnd)

    def _save_cwnd(self) -> None:
        fresh = not self._repairing and self.mode is not Mode.PROBE_RTT
        self._prior_cwnd = self.cwnd if fresh else max(self._prior_cwnd, self.cwnd)

    def _update_bandwidth(self, sample: RateSample) -> None:
        self._round_start = False
        if sample.interval <= 0:
            return
        if sample.prior_delivered >= self._round_ends_at_delivered:
            self._round_ends_at_delivered = sample.delivered
            self._round += 1
            self._round_start = True
            self._conserving = False
        bandwidth = (sample.delivered - sample.prior_delivered) / sample.interval
        if not sample.app_limited or bandwidth >= self.bandwidth:
            self._bandwidth.update(self._round, bandwidth)

    def _update_extra_acked(self, sample: RateSample, now: float) -> None:
        """Acknowledgements that come in bursts need a larger window, or the pipe runs dry between two."""
        expected = self.bandwidth * (now - self._ack_epoch_at)
        if self._ack_epoch_acked <= expected:
            self._ack_epoch_at = now
            self._ack_epoch_acked = 0
            expected = 0.0
        self._ack_epoch_acked += sample.acked
        extra = min(self._ack_epoch_acked - expected, self.cwnd, self.bandwidth * EXTRA_ACKED_MAX_TIME)
        self._extra_acked.update(self._round, extra)

    def _update_phase(self, sample: RateSample, now: float) -> None:
        if self.mode is not Mode.PROBE_BW or self.min_rtt is None:
            return
        done = now - self._phase_at > self.min_rtt
        if self.pacing_gain > 1:
            done = done and (sample.lost > 0 or sample.prior_in_flight >= self._target(self.pacing_gain))
        elif self.pacing_gain < 1:
            done = done or sample.prior_in_flight <= self._target(1.0)
        if done:
            self._phase = (self._phase + 1) % len(CYCLE)
            self._phase_at = now

    def _check_full_pipe(self, sample: RateSample) -> None:
        if self.filled_pipe or not self._round_start or sample.app_limited:
            return
        if self.bandwidth >= self._full_bandwidth * FULL_BANDWIDTH_GROWTH:
            self._full_bandwidth = self.bandwidth
            self._full_rounds = 0
        else:
            self._full_rounds += 1

    def _check_drain(self, sample: RateSample, now: float) -> None:
        if self.mode is Mode.STARTUP and self.filled_pipe:
            self.mode = Mode.DRAIN
        if self.mode is Mode.DRAIN and sample.in_flight <= self._target(1.0):
            self._enter_probe_bw(now)

    def _enter_probe_bw(self, now: float) -> None:
        self.mode = Mode.PROBE_BW
        self._phase = FIRST_PHASE
        self._phase_at = now

    def _update_min_rtt(self, sample: RateSample, now: float) -> None:
        expired = self.min_rtt is not None and now > self._min_rtt_at + MIN_RTT_WINDOW
        if sample.rtt is not None and (self.min_rtt is None or sample.rtt <= self.min_rtt or expired):
            self.min_rtt = sample.rtt
            self._min_rtt_at = now
        if expired and not self._idle_restart and self.mode is not Mode.PROBE_RTT:
            self._save_cwnd()
            self.mode = Mode.PROBE_RTT
            self._probe_rtt_until = None
        if self.mode is Mode.PROBE_RTT:
            self._probe_rtt(sample, now)
        self._idle_restart = False

    def _probe_rtt(self, sample: RateSample, now: float) -> None:
        if self._probe_rtt_until is None:
            if sample.in_flight <= MIN_CWND:
                self._probe_rtt_until = now + PROBE_RTT_TIME
                self._probe_rtt_round_done = False
                self._round_ends_at_delivered = sample.delivered
            return
        self._probe_rtt_round_done = self._probe_rtt_round_done or self._round_start
        if self._probe_rtt_round_done and now > self._probe_rtt_until:
            self._min_rtt_at = now
            self.cwnd = max(self.cwnd, self._prior_cwnd)
            if self.filled_pipe:
                self._enter_probe_bw(now)
            else:
                self.mode = Mode.STARTUP

    def _set_gains(self) -> None:
        if self.mode is Mode.STARTUP:
            self.pacing_gain = self.cwnd_gain = HIGH_GAIN
        elif self.mode is Mode.DRAIN:
            self.pacing_gain, self.cwnd_gain = 1 / HIGH_GAIN, HIGH_GAIN
        elif self.mode is Mode.PROBE_BW:
            self.pacing_gain, self.cwnd_gain = CYCLE[self._phase], CWND_GAIN
        else:
            self.pacing_gain = self.cwnd_gain = 1.0

    def _set_pacing_rate(self) -> None:
        if not self._rate_from_rtt and self.min_rtt:
            self._rate_from_rtt = True
            self.pacing_rate = self.cwnd * self.payload_bytes * HIGH_GAIN / self.min_rtt
        rate = self.bandwidth * self.payload_bytes * self.pacing_gain * PACING_MARGIN
        if rate and (self.filled_pipe or rate > self.pacing_rate):
            self.pacing_rate = rate

    def _target(self, gain: float) -> int:
        """How many packets fill the path `gain` times, and the batches that are being made or taken at both ends."""
        if self.min_rtt is None or not self.bandwidth:
            return INITIAL_CWND
        batch = min(MAX_BATCH_PACKETS, math.ceil(self.bandwidth / 1000))
        return math.ceil(self.bandwidth * self.min_rtt * gain) + 3 * batch

    def _set_cwnd(self, sample: RateSample) -> None:
        if sample.lost:
            self.cwnd = max(self.cwnd - sample.lost, MIN_CWND)
        if self._conserving:
            self.cwnd = max(self.cwnd, sample.in_flight + sample.acked)
        else:
            extra = math.ceil(self._extra_acked.value or 0.0) if self.filled_pipe else 0
            target = self._target(self.cwnd_gain) + extra
            if self.filled_pipe:
                self.cwnd = min(self.cwnd + sample.acked, target)
            elif self.cwnd < target or sample.delivered < INITIAL_CWND:
                self.cwnd += sample.acked
            self.cwnd = max(self.cwnd, MIN_CWND)
        if self.mode is Mode.PROBE_RTT:
            self.cwnd = min(self.cwnd, MIN_CWND)


class Pacer:
    """A bucket of bytes that fills at the pacing rate. Sending is allowed while it is not empty; it may go into debt."""

    def __init__(self) -> None:
        self._tokens: float = INITIAL_TOKENS
        self._filled_at: float | None = None

    def available(self, rate: float, now: float) -> int:
        """How many bytes may be sent; 0 or less for none.

        Args:
            rate: Bytes per second.
        """
        if self._filled_at is not None:
            burst = max(INITIAL_TOKENS, rate * BURST_TIME)
            self._tokens = min(self._tokens + (now - self._filled_at) * rate, burst)
        self._filled_at = now
        return math.ceil(self._tokens)

    def spend(self, size: int) -> None:
        """So many bytes were sent."""
        self._tokens -= size

    def ready_at(self, rate: float, now: float, wanted: int) -> float:
        """When `wanted` bytes, or a millisecond's worth if that is less, may be sent."""
        missing = min(wanted, rate * 0.001) - self._tokens
        return now + max(missing / rate, 0.0)
