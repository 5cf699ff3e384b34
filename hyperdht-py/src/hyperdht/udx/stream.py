"""One end of a UDX stream, as a machine that is fed datagrams and asked for datagrams.

    stream = UdxStream(local_id)
    stream.connect(remote_id, now=now)
    stream.write(b"bytes")                            # False: wait for StreamWritable
    stream.receive(buffer, now=now, segment_bytes=n)  # raises nothing the peer can cause
    while (event := stream.next_event()) is not None: ...
    data = stream.read()                              # after StreamReadable; opens the window again
    for data, segment_bytes, path in stream.datagrams_to_send(now=now): ...
    stream.next_timer(); stream.handle_timer(now=now)

    state       takes                                  then
    OPEN        everything                             LINGERING once both sides ended, CLOSED after destroy, reset, timeout
    LINGERING   DATA and END, answered with the last   CLOSED after 14 s
                acknowledgement
    CLOSED      nothing                                -

There is no handshake: ids travel out of band, and packets that come before `connect` are taken and answered after it.
Call `datagrams_to_send` after every other call, once per turn of the event loop: small writes share a packet that way, and
one acknowledgement answers a whole batch.

Source: docs/protocol/udx.md.
"""

from collections import deque
from enum import Enum, auto

from ..buffers import BytesLike
from ..errors import DecodeError, LocalProtocolError
from .events import (
    CloseReason,
    Event,
    StreamClosed,
    StreamDelivered,
    StreamEnded,
    StreamMessageReceived,
    StreamReadable,
    StreamRemoteChanged,
    StreamWritable,
)
from .mtu import DEFAULT_MAX_MTU, MtuSearch
from .packet import (
    DATA,
    DESTROY,
    END,
    HEADER_BYTES,
    HEARTBEAT,
    MAX_SACK_BLOCKS,
    MESSAGE,
    SEQ_SPACE,
    Packet,
    decode_packet,
    encode_ack,
    encode_packet,
    parse_runs,
    payloads_of_run,
    seq_delta,
)
from .reassembly import HELD_WINDOWS, HeldMemory, Reassembly
from .sender import CLOCK_SLACK, Batch, Envelope, Sender

RECEIVE_WINDOW_BYTES = 4 << 20  # what libudx advertises
# How much beyond the window is taken all the same: packets under way when the window closed, and tail loss probes.
WINDOW_SLACK_BYTES = 64 << 10
WRITE_QUEUE_BYTES = 512 << 10
# libudx has no TIME_WAIT. If the last acknowledgement is lost the peer asks for 13 s, so somebody has to answer that long.
LINGER_TIME = 14.0
MIN_RUN_PACKETS = 2
MAX_UNANSWERED_HEARTBEATS = 4
# An owner that does not look for messages must not collect them; they may be lost anyway.
MAX_WAITING_EVENTS = 1024
# More pieces than these waiting to be read are put together: each costs about 250 bytes, however little is in it.
MAX_PIECES = 4096


class State(Enum):
    """Where a stream is; see the table above."""

    OPEN = auto()
    LINGERING = auto()
    CLOSED = auto()


class UdxStream:
    """Two of these, joined by their datagrams, are a whole stream."""

    def __init__(
        self,
        local_id: int,
        *,
        max_mtu: int = DEFAULT_MAX_MTU,
        window_bytes: int = RECEIVE_WINDOW_BYTES,
        heartbeat_interval: float | None = None,
        first_seq: int = 0,
        first_ack: int = 0,
        held: HeldMemory | None = None,
    ) -> None:
        """
        Args:
            local_id: What the peer writes into its packets. Unique among the streams of a socket.
            max_mtu: Of the route; 1200 turns the search for larger packets off.
            window_bytes: How much may wait to be read. A peer can make us hold three times as many again beyond a gap.
            heartbeat_interval: See `watch_peer`.
            first_seq, first_ack: Numbers to start at; both sides of a stream must agree.
            held: A limit for what this stream and others hold beyond gaps.
        """
        self.local_id = local_id
        self.state = State.OPEN
        self.close_reason: CloseReason | None = None
        """Once both sides ended, or it was broken off."""
        self.remote_ended = False
        """Nothing comes after what can be read now."""
        self.writable = True
        """Whether `write` would find room."""
        self.forged = 0
        """Packets that made no sense: damaged, forged, or sent by a program with a bug."""
        self._mtu = MtuSearch(max_mtu)
        self._sender = Sender(self._mtu, first=first_seq)
        self._received = Reassembly(HELD_WINDOWS * window_bytes, first=first_ack, shared=held)
        self._window_bytes = window_bytes
        self._advertised = window_bytes
        self._unread: list[BytesLike] = []
        self._unread_bytes = 0
        self._window_seq, self._window_ack = first_ack, first_seq
        self._events: deque[Event] = deque()
        self._control: list[bytes] = []
        self._messages: list[bytes] = []
        self._ack_due = False
        self._heartbeat_due = False
        self._local_ended = False
        self._discarding = False
        self._remote_ids: list[int] = []  # by path
        self._change_done_at: int | None = None
        self._heartbeat_interval = heartbeat_interval
        self._heartbeat_at: float | None = None
        self._unanswered_heartbeats = 0
        self._linger_until: float | None = None

    @property
    def remote_id(self) -> int | None:
        """The peer's id, where packets go now; None before `connect`."""
        return self._remote_ids[-1] if self._remote_ids else None

    @property
    def path(self) -> int:
        """How often the remote was changed."""
        return max(len(self._remote_ids) - 1, 0)

    @property
    def unread_bytes(self) -> int:
        """How much can be read."""
        return self._unread_bytes

    @property
    def queued_bytes(self) -> int:
        """How much was written and not sent once."""
        return self._sender.queued_bytes

    @property
    def idle(self) -> bool:
        """Whether the peer acknowledged everything."""
        return self._sender.idle

    @property
    def has_more(self) -> bool:
        """Whether the last `datagrams_to_send` gave only a part of what may go out."""
        return self.state is State.OPEN and self._sender.has_more

    @property
    def acknowledgement_due(self) -> bool:
        """Whether the peer waits to hear something."""
        return self._ack_due

    @property
    def delivered(self) -> bool:
        """Whether the peer has all our bytes and knows that no more follow."""
        return self._local_ended

    @property
    def rtt(self) -> float | None:
        """Smoothed round-trip time in seconds, once measured."""
        return self._sender.rtt.srtt

    def statistics(self) -> dict[str, float | str]:
        """Numbers for people: how the path looks from here, and what that cost."""
        return self._sender.statistics()

    @property
    def max_message_bytes(self) -> int:
        """What fits into one unordered message."""
        return self._mtu.payload_bytes

    # --- what the owner wants

    def connect(self, remote_id: int, *, now: float, ipv6: bool = False) -> None:
        """The peer's id is known: sending may begin."""
        if self._remote_ids or self.state is not State.OPEN:
            raise LocalProtocolError("the stream is connected or closed already")
        self._use_remote(remote_id, ipv6)
        self._rest_heartbeat(now)

    def change_remote(self, remote_id: int, *, ipv6: bool = False) -> None:
        """Let everything new go to another place, where the peer is known by `remote_id`.

        What was sent before is repeated to the old place, should it be lost, until nothing comes back: then all goes to the new
        one. `StreamRemoteChanged` follows once none of it is missing.
        """
        if not self._remote_ids or self.state is not State.OPEN:
            raise LocalProtocolError("the stream is not connected, or closed already")
        self._use_remote(remote_id, ipv6)
        self._change_done_at = self._sender.sent.nxt
        self._check_change()

    def _use_remote(self, remote_id: int, ipv6: bool) -> None:
        self._remote_ids.append(remote_id)
        self._mtu.restart(ipv6=ipv6)
        self._sender.path_changed()

    def _check_change(self) -> None:
        if self._change_done_at is not None and self._sender.sent.una >= self._change_done_at:
            self._change_done_at = None
            self._events.append(StreamRemoteChanged())

    def write(self, data: BytesLike) -> bool:
        """Queue bytes to be sent. They must not change until the peer has them.

        Returns:
            Whether there is room for more; if not, `StreamWritable` follows once there is.
        Raises:
            LocalProtocolError: Not connected, ended or closed.
        """
        if self.state is not State.OPEN or self.remote_id is None or self._sender.ending:
            raise LocalProtocolError("the stream cannot be written to")
        self._sender.write(data)
        self.writable = self._sender.queued_bytes <= WRITE_QUEUE_BYTES
        return self.writable

    def end(self) -> None:
        """No more data follows what was written. The peer may still send."""
        if self.remote_id is None and self.state is State.OPEN:
            raise LocalProtocolError("the stream is not connected")
        self._sender.ending = True

    def watch_peer(self, heartbeat_interval: float, *, now: float) -> None:
        """After so many idle seconds, send a packet that the peer answers. It is dead when it answers none of four."""
        self._heartbeat_interval = heartbeat_interval
        self._rest_heartbeat(now)

    def destroy(self, *, silent: bool = False) -> None:
        """Give the stream up. The peer is told once, without being heard, or not at all."""
        if self.state is not State.OPEN:
            self.state = State.CLOSED
            return
        if self._remote_ids and not silent:
            self._control.append(self._bare(DESTROY))
        self._close(CloseReason.DESTROYED)

    def discard(self) -> None:
        """Read nothing any more: drop what waits and what comes. The window stays open, so that the peer can end."""
        self._discarding = True
        self.read()

    def reset(self) -> None:
        """End the stream as a DESTROY of the peer would."""
        if self.state is State.OPEN:
            self._close(CloseReason.RESET)

    def send_message(self, data: BytesLike) -> None:
        """Send an unordered message: neither repeated nor paced, and dropped while the stream is not connected.

        Raises:
            LocalProtocolError: Longer than `max_message_bytes`.
        """
        if len(data) > self.max_message_bytes:
            raise LocalProtocolError(f"a message of {len(data)} bytes, at most {self.max_message_bytes} fit")
        if self.remote_id is not None and self.state is State.OPEN:
            self._messages.append(self._bare(MESSAGE, data))

    def read(self) -> bytes:
        """All bytes that are in order and were not read yet, which may be none."""
        data = b"".join(self._unread)
        self._unread.clear()
        self._unread_bytes = 0
        reopened = self._window() - self._advertised
        if self._advertised < self._window_bytes // 2 and reopened >= self._window_bytes // 4:
            self._ack_due = True  # libudx would wait for the peer to ask
        return data

    def next_event(self) -> Event | None:
        """The oldest event not taken yet."""
        return self._events.popleft() if self._events else None

    # --- what arrives

    def receive(self, data: BytesLike, *, now: float, segment_bytes: int | None = None) -> None:
        """Take in datagrams of this stream. `data` must not change afterwards: its payloads are kept until they are read.

        Args:
            segment_bytes: The size of each datagram in `data`; the last may be shorter. Without it `data` is one.
        """
        if self.state is State.CLOSED:
            return
        self._unanswered_heartbeats = 0
        pieces, unread = len(self._unread), self._unread_bytes
        size = segment_bytes or len(data)
        count = len(data) // size if size else 0
        start = 0
        if self.state is State.OPEN and count >= MIN_RUN_PACKETS and size >= HEADER_BYTES:
            start = self._receive_runs(data, size, count, now)
        if start < len(data):
            view = memoryview(data)
            for at in range(start, len(data), size):
                self._receive_datagram(view[at : at + size], now)
        if self._unread_bytes - unread < len(data) // 2 and pieces < len(self._unread):
            self._unread[pieces:] = [
                b"".join(self._unread[pieces:])
            ]  # lest a little payload keeps a large buffer alive
        self._check_end(now)
        self._rest_heartbeat(now)

    def _receive_runs(self, data: BytesLike, size: int, count: int, now: float) -> int:
        """Take `count` packets in a few steps if they are alike; returns how many bytes were taken."""
        runs = parse_runs(data, size, count, stream_id=self.local_id)
        if runs is None:
            return 0
        last = runs[-1]
        if last.flags != DATA:
            self._receive_datagram(memoryview(data)[last.start * size : (last.start + 1) * size], now)
            return count * size
        first = 0
        for run in runs:
            expected = self._received.expected
            first = expected + seq_delta(run.first_seq, expected % SEQ_SPACE)
            self._insert(first, payloads_of_run(data, size, run.packets, run.start))
        self._ack_due = True
        self._receive_ack(first + last.packets - 1, last.ack, last.rwnd, (), now)
        return count * size

    def _receive_datagram(self, datagram: memoryview, now: float) -> None:
        try:
            packet = decode_packet(datagram)
        except DecodeError:
            self.forged += 1
            return
        if packet.stream_id != self.local_id or self.state is State.CLOSED:
            return
        if self.state is State.LINGERING:
            self._ack_due = self._ack_due or bool(packet.flags & (DATA | END | HEARTBEAT))
        elif packet.flags & HEARTBEAT:
            self._ack_due = True
        else:
            self._receive_packet(packet, now)

    def _receive_packet(self, packet: Packet, now: float) -> None:
        expected = self._received.expected
        seq = expected + seq_delta(packet.seq, expected % SEQ_SPACE)
        flags = packet.flags
        if seq >= expected:
            if flags & END:
                self._received.end_at(seq + 1)
            if flags & (DATA | END):
                self._insert(seq, [packet.payload if flags & DATA else packet.payload[:0]])
            if flags & DESTROY:
                self._close(CloseReason.RESET)
                return
        if flags & MESSAGE and len(self._events) < MAX_WAITING_EVENTS:
            self._events.append(StreamMessageReceived(bytes(packet.payload)))
        if flags & (DATA | END):
            self._ack_due = True
        self._receive_ack(seq, packet.ack, packet.rwnd, packet.sacks, now)

    def _insert(self, first: int, payloads: list[memoryview]) -> None:
        if sum(map(len, payloads)) > self._window_bytes + WINDOW_SLACK_BYTES - self._unread_bytes:
            return  # a peer that does not look at the window; it will have to send this again
        ready = self._received.insert(first, payloads)
        size = sum(map(len, ready))
        if not size or self._discarding:
            return
        if not self._unread_bytes:
            self._events.append(StreamReadable())
        self._unread += ready
        self._unread_bytes += size
        if len(self._unread) > MAX_PIECES:
            self._unread = [b"".join(self._unread)]

    def _receive_ack(self, seq: int, wire_ack: int, rwnd: int, sacks: tuple[tuple[int, int], ...], now: float) -> None:
        sent = self._sender.sent
        ack = sent.una + seq_delta(wire_ack, sent.una % SEQ_SPACE)
        if ack > sent.nxt:
            self.forged += 1  # or of another stream: we never sent that
            return
        if ack >= sent.una and (seq > self._window_seq or (seq == self._window_seq and ack >= self._window_ack)):
            self._window_seq, self._window_ack = seq, ack
            self._sender.rwnd = rwnd
        blocks = (
            []
            if not sacks
            else [
                (sent.una + seq_delta(start, sent.una % SEQ_SPACE), sent.una + seq_delta(end, sent.una % SEQ_SPACE))
                for start, end in sacks
            ]
        )
        self._sender.acknowledged(ack, blocks, now)
        self._check_change()
        if self._sender.finished and not self._local_ended:
            self._local_ended = True
            self._events.append(StreamDelivered())
            self._ack_due = self._ack_due or not self._received.ended  # an extra one, as libudx sends

    def _check_end(self, now: float) -> None:
        if self.state is not State.OPEN:
            return
        if self._received.ended and not self.remote_ended:
            self.remote_ended = True
            self._events.append(StreamEnded())
        if self.remote_ended and self._local_ended:
            self._finish(now)

    # --- time

    def next_timer(self) -> float | None:
        """When `handle_timer` wants to be called, in the owner's seconds."""
        if self.state is State.CLOSED:
            return None
        timers = (
            self._sender.next_timer() if self.state is State.OPEN else None,
            self._heartbeat_at,
            self._linger_until,
        )
        return min((timer for timer in timers if timer is not None), default=None)

    def handle_timer(self, *, now: float) -> None:
        """Do what is due. Calling it early does no harm."""
        if self.state is State.LINGERING and self._linger_until is not None and now + CLOCK_SLACK >= self._linger_until:
            self.state = State.CLOSED
        if self.state is not State.OPEN:
            return
        self._sender.handle_timer(now)
        if self._sender.timed_out:
            if self.remote_ended and self._sender.only_end_unacknowledged:
                self._finish(now)  # the peer had everything to close, and forgot us
            else:
                self._close(CloseReason.TIMED_OUT)
        elif self._heartbeat_at is not None and now + CLOCK_SLACK >= self._heartbeat_at:
            self._beat(now)

    def _beat(self, now: float) -> None:
        if not self._sender.idle:
            pass  # what is under way wants an answer too
        elif self._unanswered_heartbeats >= MAX_UNANSWERED_HEARTBEATS:
            self._close(CloseReason.TIMED_OUT)
        else:
            self._unanswered_heartbeats += 1
            self._heartbeat_due = True
        self._rest_heartbeat(now)

    def _rest_heartbeat(self, now: float) -> None:
        if self._heartbeat_interval is not None and self.remote_id is not None and self.state is State.OPEN:
            self._heartbeat_at = now + self._heartbeat_interval

    # --- what goes out

    def datagrams_to_send(self, *, now: float) -> list[Batch]:
        """What may go out now, in order. Whatever the owner cannot send is lost like any datagram."""
        if not self._remote_ids:
            return []
        path = self.path
        out = [Batch(data, len(data), path) for data in self._control]
        self._control.clear()
        if self.state is State.CLOSED:
            return out
        if self._ack_due:
            out.append(self._acknowledgement())
        out += [Batch(data, len(data), path) for data in self._messages]
        self._messages.clear()
        if self.state is State.OPEN:
            envelope = Envelope(self._remote_ids, self._window(), self._received.expected)
            packets = self._sender.packets_to_send(envelope, now)
            if self._sender.probe_window or self._heartbeat_due:
                self._sender.probe_window = self._heartbeat_due = False
                heartbeat = self._bare(HEARTBEAT)
                out.append(Batch(heartbeat, len(heartbeat), path))
            out += packets
            if not self.writable and self._sender.queued_bytes <= WRITE_QUEUE_BYTES:
                self.writable = True
                self._events.append(StreamWritable())
        if out:
            self._rest_heartbeat(now)
        return out

    def _acknowledgement(self) -> Batch:
        self._ack_due = False
        self._advertised = self._window()
        data = encode_ack(
            self._received.ranges(MAX_SACK_BLOCKS), stream_id=self._remote_ids[-1], rwnd=self._advertised,
            seq=self._sender.sent.nxt, ack=self._received.expected,
        )  # fmt: skip
        return Batch(data, len(data), self.path)

    def _bare(self, flags: int, payload: BytesLike = b"") -> bytes:
        return encode_packet(
            flags, stream_id=self._remote_ids[-1], rwnd=self._window(), seq=self._sender.sent.nxt,
            ack=self._received.expected, payload=payload,
        )  # fmt: skip

    def _window(self) -> int:
        return max(self._window_bytes - self._unread_bytes, 0)

    def _finish(self, now: float) -> None:
        self.state = State.LINGERING
        self._linger_until = now + LINGER_TIME
        self._heartbeat_at = None
        self.close_reason = CloseReason.FINISHED
        self._events.append(StreamClosed(CloseReason.FINISHED))

    def _close(self, reason: CloseReason) -> None:
        self.state = State.CLOSED
        self._received.clear()
        self._heartbeat_at = None
        self.close_reason = reason
        self._events.append(StreamClosed(reason))
