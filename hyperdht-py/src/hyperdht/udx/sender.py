"""The sending half of a stream: cuts bytes into packets, paces them, finds losses and repairs them."""

import math
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from ..buffers import BytesLike
from .congestion import MAX_BATCH_PACKETS, Bbr, Pacer, RateSample
from .mtu import IPV4_OVERHEAD, IPV6_OVERHEAD, MtuSearch
from .packet import DATA, END, HEADER_BYTES, encode_packet, pack_run
from .reassembly import HELD_OVERHEAD_BYTES, HELD_WINDOWS
from .recovery import Rack, RecoveryState, RttEstimator
from .sent import SentRun, SentRuns

MAX_TIMEOUTS = 6  # of one packet: 13 seconds without an answer
MAX_BATCHES = 16  # per call: a megabyte, after which acknowledgements should be looked at
CLOCK_SLACK = 1e-6  # a timer may be early by the rounding of a float


class Batch(NamedTuple):
    """Datagrams for one destination, one after the other in one buffer; the last may be shorter than the others."""

    data: bytes
    segment_bytes: int
    path: int = 0
    """Which of the stream's remotes they are for: 0 the first, 1 that after the first change, ..."""


class Envelope(NamedTuple):
    """What the headers of our packets say besides their own number."""

    stream_ids: Sequence[int]
    """Of the peer, by path; new packets take the last."""
    rwnd: int
    ack: int


class Sender:
    """What a stream has to send and has sent. Its owner tells it what arrives and asks it for packets."""

    def __init__(self, mtu: MtuSearch, *, first: int = 0) -> None:
        self.sent = SentRuns(first)
        self.rwnd = 1 << 22
        """What the peer can take, bytes. libudx assumes 4 MiB until it is told."""
        self.state = RecoveryState.OPEN
        self.rtt = RttEstimator()
        self.timed_out = False
        """A packet was sent seven times without an answer: the stream is dead."""
        self.probe_window = False
        """The owner is to send a HEARTBEAT, to learn whether a closed window is open again."""
        self.has_more = False
        """The last `packets_to_send` stopped only because it had given much already."""
        self.retransmitted = 0
        """Packets sent again."""
        self.queued_bytes = 0
        self.ending = False
        self.end_sent = False
        self._mtu = mtu
        self._bbr = Bbr(mtu.payload_bytes)
        self._pacer = Pacer()
        self._rack = Rack()
        self._queue: deque[BytesLike] = deque()
        self._head_offset = 0
        self._first = first
        self._first_ack = True
        self._known_sacks: set[tuple[int, int]] = set()
        self._delivered = 0
        self._delivered_at = 0.0
        self._first_sent_at = 0.0
        self._app_limited_until = 0
        self._high_seq = first
        self._tail_probe_allowed = True
        self._tail_probe_due = False
        self._rto_at: float | None = None
        self._reorder_at: float | None = None
        self._tail_probe_at: float | None = None
        self._window_probe_at: float | None = None
        self._pace_at: float | None = None

    @property
    def idle(self) -> bool:
        """Whether nothing is queued or unacknowledged."""
        return not self.sent.outstanding and not self.queued_bytes and self.ending == self.end_sent

    @property
    def finished(self) -> bool:
        """Whether the end was sent and everything is acknowledged."""
        return self.end_sent and not self.sent.outstanding

    @property
    def only_end_unacknowledged(self) -> bool:
        """Whether the peer lacks nothing but our END."""
        return self.sent.outstanding == 1 and bool(self.sent.runs[0].flags & END)

    def statistics(self) -> dict[str, float | str]:
        """See `UdxStream.statistics`."""
        return {
            "mtu": self._mtu.mtu,
            "cwnd": self._bbr.cwnd,
            "mode": self._bbr.mode.name,
            "bandwidth_mb_s": self._bbr.bandwidth * self._bbr.payload_bytes / 1e6,
            "min_rtt": self._bbr.min_rtt or 0.0,
            "packets": self.sent.nxt - self._first,
            "retransmitted": self.retransmitted,
        }

    def write(self, data: BytesLike) -> None:
        """Queue bytes. The buffer must not change until it is acknowledged."""
        if len(data):
            self._queue.append(data)
            self.queued_bytes += len(data)

    def path_changed(self) -> None:
        """The owner changed the size of packets in its MTU search; probes under way say nothing about the new path."""
        for run in self.sent.runs:
            run.probe = False
        self._bbr.payload_bytes = self._mtu.payload_bytes
        if not self._first_ack:
            self._mtu.start()

    def next_timer(self) -> float | None:
        """When `handle_timer` wants to be called."""
        timers = (self._rto_at, self._reorder_at, self._tail_probe_at, self._window_probe_at, self._pace_at)
        return min((timer for timer in timers if timer is not None), default=None)

    def handle_timer(self, now: float) -> None:
        """Do what is due; packets come out of `packets_to_send` afterwards."""
        now += CLOCK_SLACK
        if self._pace_at is not None and now >= self._pace_at:
            self._pace_at = None
        if self._reorder_at is not None and now >= self._reorder_at:
            prior = self.sent.in_flight
            self._after_losses(self._find_losses(now), prior, now)
        if self._rto_at is not None and now >= self._rto_at:
            self._retransmission_timeout(now)
        elif self._tail_probe_at is not None and now >= self._tail_probe_at:
            self._tail_probe_at = None
            self._tail_probe_allowed = False
            self._tail_probe_due = True
        if self._window_probe_at is not None and now >= self._window_probe_at:
            self.probe_window = True
            self._window_probe_at = now + 2 * self.rtt.rto

    # --- what arrives

    def acknowledged(self, ack: int, sacks: Sequence[tuple[int, int]], now: float) -> None:
        """The peer has everything below `ack` and what `sacks` name; the owner checked that we sent as much."""
        sent = self.sent
        prior_in_flight = sent.in_flight
        runs = sent.acknowledge(ack) if ack > sent.una else []
        known, self._known_sacks = self._known_sacks, set(sacks)
        for start, end in sacks:
            if (start, end) in known:
                continue  # a peer repeats all it holds with every packet
            if sent.una <= start < end <= sent.nxt:  # a bad block is skipped alone
                runs += sent.sack(start, end)
        if not runs:
            return
        if self._first_ack:
            self._first_ack = False
            self._mtu.start()
        newest = self._take_delivered(runs, now)
        rtt = now - newest.sent_at if newest.transmissions == 1 else None
        if rtt is not None:
            self.rtt.sample(rtt, now)
            self._tail_probe_allowed = True
        lost = self._find_losses(now)
        if self.state is not RecoveryState.OPEN and sent.una >= self._high_seq:
            self.state = RecoveryState.OPEN
            self._bbr.left_recovery()
        sample = self._rate_sample(newest, sum(run.count for run in runs), lost, prior_in_flight, rtt, now)
        if lost:
            self._enter_recovery(sample)
        self._bbr.acknowledged(sample, now)
        self._rto_at = now + self.rtt.rto if sent.outstanding else None
        self._arm_tail_probe(now)

    def _take_delivered(self, runs: list[SentRun], now: float) -> SentRun:
        newest = runs[0]
        for run in runs:
            self._delivered += run.count
            retransmitted = run.transmissions > 1
            self._rack.delivered(
                run.sent_at,
                run.end - 1,
                retransmitted=retransmitted,
                first=run.first,
                now=now,
                min_rtt=self.rtt.min_rtt,
            )
            if run.probe:
                self._mtu.succeeded()
                self._bbr.payload_bytes = self._mtu.payload_bytes
            if (run.sent_at, run.end) > (newest.sent_at, newest.end):
                newest = run
        self._delivered_at = now
        self._first_sent_at = newest.sent_at
        if self._delivered > self._app_limited_until:
            self._app_limited_until = 0
        return newest

    def _rate_sample(
        self, newest: SentRun, acked: int, lost: int, prior_in_flight: int, rtt: float | None, now: float
    ) -> RateSample:
        interval = max(newest.sent_at - newest.first_sent_at, now - newest.delivered_at)
        if self.rtt.min_rtt is not None and interval < self.rtt.min_rtt:
            interval = 0.0  # an acknowledgement of the first transmission, not of the newest
        return RateSample(
            delivered=self._delivered, prior_delivered=newest.delivered, interval=interval, acked=acked, lost=lost,
            in_flight=self.sent.in_flight, prior_in_flight=prior_in_flight, rtt=rtt, app_limited=newest.app_limited,
        )  # fmt: skip

    # --- losses

    def _find_losses(self, now: float) -> int:
        """Mark what RACK calls lost and set the timer for what it may call lost later; returns how many count as losses."""
        self._reorder_at = None
        window = self._rack.rtt + self._rack.reordering_window(self.rtt, self.state, self.sent.sacked)
        lost = 0
        for run in self.sent.runs:
            if not self._rack.overtaken(run.sent_at, run.end - 1):
                if run.transmissions == 1:
                    break  # everything behind it was sent later still
                continue
            if run.lost:
                continue
            deadline = run.sent_at + window
            if now + CLOCK_SLACK >= deadline:
                lost += self._lose(run)
            elif self._reorder_at is None or deadline < self._reorder_at:
                self._reorder_at = deadline
        return lost

    def _lose(self, run: SentRun) -> int:
        self.sent.mark_lost(run)
        if not run.probe:
            return run.count
        run.probe = False  # its size was the trouble, not the path: it is sent again without padding
        self._mtu.lost()
        return 0

    def _after_losses(self, lost: int, prior_in_flight: int, now: float) -> None:
        if lost:
            self._enter_recovery(
                RateSample(
                    self._delivered, self._delivered, 0.0, 0, lost, self.sent.in_flight, prior_in_flight, None, False
                )
            )

    def _enter_recovery(self, sample: RateSample) -> None:
        if self.state is RecoveryState.OPEN:
            self.state = RecoveryState.RECOVERY
            self._high_seq = self.sent.nxt
            self._tail_probe_at = None
            self._bbr.entered_recovery(sample)

    def _retransmission_timeout(self, now: float) -> None:
        if not self.sent.runs:
            self._rto_at = None
            return
        first = self.sent.first_packet()
        if first.timeouts >= MAX_TIMEOUTS:
            self.timed_out = True
            return
        first.timeouts += 1
        window = self._rack.rtt + self._rack.reordering_window(self.rtt, self.state, self.sent.sacked)
        for run in self.sent.runs:
            if not run.lost and (run is first or now - run.sent_at > window):
                self._lose(run)
        self.state = RecoveryState.LOSS
        self._high_seq = self.sent.nxt
        self._reorder_at = self._tail_probe_at = None
        self._bbr.timed_out(self.sent.in_flight)
        self._rto_at = now + 2 * self.rtt.rto

    def _arm_tail_probe(self, now: float) -> None:
        """libudx probes only while nothing is missing. But a repair that is lost too leaves nobody to tell, if nothing can follow it."""
        self._tail_probe_at = None
        if self.state is RecoveryState.LOSS or not self.sent.outstanding:
            return
        at = now + self.rtt.probe_delay(self.sent.in_flight)
        if self._tail_probe_allowed and self._rto_at is not None and at < self._rto_at:
            self._tail_probe_at = at

    # --- what goes out

    def packets_to_send(self, envelope: Envelope, now: float) -> list[Batch]:
        """Everything that may go out now: losses first, then new data."""
        batches: list[Batch] = []
        self.has_more = False
        if self._tail_probe_due:
            self._send_tail_probe(batches, envelope, now)
        if self._pace_at is None or now + CLOCK_SLACK >= self._pace_at:
            self._pace_at = None
            self._send_lost(batches, envelope, now)
            self._send_new(batches, envelope, now)
        return batches

    def _budget(self, room: int, now: float) -> int:
        """How many packets may go into the next batch; 0 sets the timer when it is the pacing that forbids more."""
        size = self._bbr.payload_bytes
        if room <= 0:
            return 0
        tokens = self._pacer.available(self._bbr.pacing_rate, now)
        if tokens <= 0:
            wanted = min(room, MAX_BATCH_PACKETS) * size
            self._pace_at = self._pacer.ready_at(self._bbr.pacing_rate, now, wanted)
            return 0
        return min(room, MAX_BATCH_PACKETS, math.ceil(tokens / size))

    def _send_lost(self, batches: list[Batch], envelope: Envelope, now: float) -> None:
        index = 0
        while self.sent.lost and index < len(self.sent.runs):
            if self.sent.runs[index].lost:
                if len(batches) >= MAX_BATCHES:
                    self.has_more = True
                    return
                limit = self._budget(self._bbr.cwnd - self.sent.in_flight, now)
                if not limit:
                    return
                run = self.sent.resend(index, limit)
                batches.append(self._send_again(run, envelope, now))
            index += 1

    def _send_again(self, run: SentRun, envelope: Envelope, now: float) -> Batch:
        self._stamp(run, now)
        run.transmissions += 1
        if self.state is RecoveryState.LOSS:
            run.path = len(envelope.stream_ids) - 1  # the way it went before may be gone, as a relay that was left
        self.retransmitted += run.count
        self._pacer.spend(run.count * run.payload_bytes)
        if self._rto_at is None:
            self._rto_at = now + self.rtt.rto
        return self._pack(run, envelope)

    def _send_tail_probe(self, batches: list[Batch], envelope: Envelope, now: float) -> None:
        """New data if there is any, else the last packet again: its acknowledgement shows what else was lost."""
        self._tail_probe_due = False
        if not self.sent.outstanding:
            return
        if self._something_new and self.state is RecoveryState.OPEN:
            self._send_piece(batches, 1, envelope, now, may_probe=False)
        else:
            last = self.sent.last_packet()
            if not last.lost:
                if last.probe:
                    last.probe = False
                    self._mtu.lost()
                batches.append(self._send_again(last, envelope, now))
        self._rto_at = now + self.rtt.rto

    @property
    def _something_new(self) -> bool:
        return bool(self.queued_bytes) or (self.ending and not self.end_sent)

    def _send_new(self, batches: list[Batch], envelope: Envelope, now: float) -> None:
        window = max(1, self.rwnd // self._mtu.payload_bytes) if self.rwnd else 0
        span = max(window, HELD_WINDOWS * self.rwnd // (self._mtu.payload_bytes + HELD_OVERHEAD_BYTES))
        sent_any = False
        while self._something_new:
            if len(batches) >= MAX_BATCHES:
                self.has_more = True
                break
            # What the peer holds beyond a gap is not in flight, but fills its memory. libudx looks at the flight alone;
            # one window for both would make a packet that is lost twice stop the stream.
            room = min(min(self._bbr.cwnd, window) - self.sent.in_flight, span - (self.sent.nxt - self.sent.una))
            limit = self._budget(room, now)
            if not limit:
                break
            self._send_piece(batches, limit, envelope, now, may_probe=True)
            sent_any = True
        if sent_any:
            self._arm_tail_probe(now)
        if not self._something_new and self.sent.in_flight < self._bbr.cwnd:
            self._app_limited_until = self._delivered + self.sent.in_flight or 1
        self._watch_window(now)

    def _watch_window(self, now: float) -> None:
        closed = not self.rwnd and self._something_new and not self.sent.outstanding
        if not closed:
            self._window_probe_at = None
        elif self._window_probe_at is None:
            self.probe_window = True
            self._window_probe_at = now + self.rtt.rto

    def _send_piece(self, batches: list[Batch], limit: int, envelope: Envelope, now: float, *, may_probe: bool) -> None:
        """Cut at most `limit` new packets: full ones, then a shorter one if the queue is empty after it."""
        size = self._mtu.payload_bytes
        if self.sent.nxt == self._first:
            size -= IPV6_OVERHEAD - IPV4_OVERHEAD  # libudx cuts the first before it knows the address family
            limit = 1
        padding = self._mtu.padding_for(min(size, self.queued_bytes)) if may_probe and self.queued_bytes else None
        if padding is not None:
            limit = 1
        if not self.sent.outstanding:
            self._first_sent_at = self._delivered_at = now
            if self._app_limited_until:
                self._bbr.restarted()
        source, offset, taken = self._take(limit * size)
        ends = self.ending and not self.queued_bytes
        full, tail = divmod(taken, size)
        if ends and not tail and full:
            full, tail = full - 1, size
        parts: list[bytes] = []
        path = len(envelope.stream_ids) - 1
        for count, length, flags in ((full, size, DATA), (1, tail, DATA | (END if ends else 0))):
            if not count or (not length and not ends):
                continue
            run = self._new_run(count, flags if length else END, length, source, offset, now)
            run.path = path
            run.probe = padding is not None and bool(length)
            if run.probe:
                self._mtu.sent()
            self.sent.append(run)
            self._pacer.spend(count * length)
            parts.append(self._pack(run, envelope, padding or 0).data)
            offset += count * length
        self.end_sent = self.end_sent or ends
        data = b"".join(parts)
        batches.append(Batch(data, HEADER_BYTES + size if full and padding is None else len(data), path))
        if self._rto_at is None:
            self._rto_at = now + self.rtt.rto

    def _new_run(self, count: int, flags: int, size: int, source: BytesLike, offset: int, now: float) -> SentRun:
        return SentRun(
            self.sent.nxt, count, flags, size, source, offset, now, self._delivered, self._delivered_at,
            self._first_sent_at, bool(self._app_limited_until),
        )  # fmt: skip

    def _stamp(self, run: SentRun, now: float) -> None:
        run.sent_at = now
        run.delivered = self._delivered
        run.delivered_at = self._delivered_at
        run.first_sent_at = self._first_sent_at
        run.app_limited = bool(self._app_limited_until)

    def _pack(self, run: SentRun, envelope: Envelope, padding: int = 0) -> Batch:
        stream_ids, rwnd, ack = envelope
        stream_id = stream_ids[run.path]
        size = run.payload_bytes
        if run.count == 1:
            payload = memoryview(run.source)[run.offset : run.offset + size]
            data = encode_packet(
                run.flags, stream_id=stream_id, rwnd=rwnd, seq=run.first, ack=ack, payload=payload, padding=padding
            )
            return Batch(data, len(data), run.path)
        data = pack_run(
            run.flags, run.count, size, run.source, run.offset,
            stream_id=stream_id, rwnd=rwnd, first_seq=run.first, ack=ack,
        )  # fmt: skip
        return Batch(data, HEADER_BYTES + size, run.path)

    def _take(self, limit: int) -> tuple[BytesLike, int, int]:
        """The next bytes of the queue in one buffer: that buffer, where they start, how many. Joins only across buffers."""
        wanted = min(limit, self.queued_bytes)
        if not wanted:
            return b"", 0, 0
        self.queued_bytes -= wanted
        head, offset = self._queue[0], self._head_offset
        if len(head) - offset >= wanted:
            self._skip(wanted)
            return head, offset, wanted
        parts: list[BytesLike] = []
        missing = wanted
        while missing:
            part = memoryview(self._queue[0])[self._head_offset : self._head_offset + missing]
            parts.append(part)
            missing -= len(part)
            self._skip(len(part))
        return b"".join(parts), 0, wanted

    def _skip(self, size: int) -> None:
        self._head_offset += size
        if self._head_offset == len(self._queue[0]):
            self._queue.popleft()
            self._head_offset = 0
