"""UDX streams: recorded conversations and timers, every kind of loss, and peers that do not play by the rules."""

import heapq
import json
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import count
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperdht import LocalProtocolError
from hyperdht.buffers import BytesLike
from hyperdht.udx import (
    CloseReason,
    Event,
    State,
    StreamClosed,
    StreamDelivered,
    StreamEnded,
    StreamMessageReceived,
    StreamReadable,
    StreamRemoteChanged,
    StreamWritable,
    UdxStream,
    is_stream_packet,
    stream_id_of,
)
from hyperdht.udx.packet import DATA, DESTROY, END, HEARTBEAT, MESSAGE, STATE, decode_packet, encode_ack, encode_packet
from hyperdht.udx.stream import LINGER_TIME

from .vectors import VECTORS, assert_bytes, pattern

NAMES = {"STATE": 0, "DATA": 1, "END": 2, "SACK": 4, "HEARTBEAT": 32, "DESTROY": 16}


@cache
def udx() -> Any:
    return json.loads((VECTORS / "udx.json").read_text(encoding="utf-8"))["udx"]


def trace(title: str) -> list[dict[str, Any]]:
    packets: list[dict[str, Any]] = next(t for t in udx()["traces"] if t["title"].startswith(title))["packets"]
    return packets


@dataclass(frozen=True)
class DataReceived:
    """What an owner read when it was told that it can."""

    data: bytes


class EagerStream(UdxStream):
    """Whose owner reads everything at once, unless it is told to stop."""

    def __init__(self, local_id: int, **options: Any) -> None:
        super().__init__(local_id, **options)
        self.reading = True
        self._seen: deque[Event | DataReceived] = deque()

    def receive(self, data: BytesLike, *, now: float, segment_bytes: int | None = None) -> None:
        super().receive(data, now=now, segment_bytes=segment_bytes)
        while (event := super().next_event()) is not None:
            if not isinstance(event, StreamReadable):
                self._seen.append(event)
            elif self.reading:
                self._seen.append(DataReceived(self.read()))

    def happened(self) -> list[Event | DataReceived]:
        """Everything since the last call."""
        seen = list(self._seen)
        seen += iter(self.next_event, None)
        self._seen.clear()
        return seen


def stream_pair(**options: Any) -> tuple[EagerStream, EagerStream]:
    left, right = EagerStream(1, **options), EagerStream(2, **options)
    left.connect(2, now=0.0)
    right.connect(1, now=0.0)
    return left, right


def events(stream: EagerStream) -> list[Event | DataReceived]:
    return stream.happened()


def received(stream: EagerStream) -> bytes:
    return b"".join(event.data for event in events(stream) if isinstance(event, DataReceived))


def datagrams(stream: UdxStream, now: float) -> list[bytes]:
    out = []
    for data, size, _ in stream.datagrams_to_send(now=now):
        out += [data[at : at + size] for at in range(0, len(data), size)]
    return out


def transfer(
    left: UdxStream, right: UdxStream, now: float, drop: Callable[[bytes], bool] = lambda _: False
) -> list[tuple[str, bytes]]:
    """Carry datagrams, each answered before the next arrives, until both are silent; returns what was carried.

    A way takes 5 ms.
    """
    carried: list[tuple[str, bytes]] = []
    while True:
        way, sink, other = "A>B", right, left
        wire = datagrams(left, now)
        if not wire:
            way, sink, other = "B>A", left, right
            wire = datagrams(right, now)
        if not wire:
            return carried
        while wire:
            now += 0.005
            answers: list[bytes] = []
            for datagram in wire:
                carried.append((way, datagram))
                if not drop(datagram):
                    sink.receive(datagram, now=now)
                    answers += datagrams(sink, now)
            wire, sink, other, way = answers, other, sink, "B>A" if way == "A>B" else "A>B"


def run_timers(stream: UdxStream, until: float) -> list[tuple[float, bytes]]:
    """Let time pass for a stream nobody answers; returns what it sent and when."""
    sent = []
    while (timer := stream.next_timer()) is not None and timer <= until:
        stream.handle_timer(now=timer)
        sent += [(timer, datagram) for datagram in datagrams(stream, timer)]
    return sent


# --- recorded


def test_a_recorded_conversation_with_a_half_close() -> None:
    left, right = stream_pair()
    carried: list[tuple[str, bytes]] = []
    left.write(b"hello")
    carried += transfer(left, right, 0.0)
    right.write(b"world")
    carried += transfer(left, right, 0.04)
    left.send_message(b"unordered")
    carried += transfer(left, right, 0.08)
    left.write(b"bye")
    left.end()
    carried += transfer(left, right, 0.12)
    assert left.state is right.state is State.OPEN
    right.end()
    carried += transfer(left, right, 0.18)
    assert [(way, data.hex()) for way, data in carried] == [(p["dir"], p["hex"]) for p in trace("data, ack")]
    closed = StreamClosed(CloseReason.FINISHED)
    assert events(left) == [DataReceived(b"world"), StreamDelivered(), StreamEnded(), closed]
    assert events(right) == [
        DataReceived(b"hello"),
        StreamMessageReceived(b"unordered"),
        DataReceived(b"bye"),
        StreamEnded(),
        StreamDelivered(),
        closed,
    ]


@pytest.mark.parametrize(("title", "size"), [("one packet lost", 1132 + 1152 * 4), ("two gaps", 1132 + 1152 * 5)])
def test_recorded_losses_are_repaired_with_the_same_packets(title: str, size: int) -> None:
    left, right = stream_pair()
    recording = trace(title)
    dropped = {p["seq"] for p in recording if p.get("dropped")}

    def drop(datagram: bytes) -> bool:
        packet = decode_packet(datagram)
        if not packet.flags & DATA or packet.seq not in dropped:
            return False
        dropped.remove(packet.seq)
        return True

    left.write(pattern(size))
    log = transfer(left, right, 0.0, drop)
    assert received(right) == pattern(size)
    assert [way for way, _ in log] == [p["dir"] for p in recording]
    for (_, actual), expected in zip(log, recording, strict=True):
        if "header" in expected:
            assert actual[:20].hex() == expected["header"]
        assert_bytes(actual, expected)


def test_mtu_probes_are_the_same_packets_of_the_same_size_as_recorded() -> None:
    left, right = stream_pair()
    probes = []
    for step in range(3):
        left.write(pattern(20_000))
        probes += [data for way, data in transfer(left, right, step * 0.1) if way == "A>B" and data[3]]
    recording = trace("MTU")
    assert [(decode_packet(data).seq, len(data)) for data in probes] == [(p["seq"], p["length"]) for p in recording]
    assert_bytes(probes[0], recording[0])  # of the second libudx pads more: it uses a new size one packet later
    assert received(right) == pattern(20_000) * 3


def test_a_recorded_heartbeat() -> None:
    left, right = stream_pair(heartbeat_interval=0.2)
    assert datagrams(left, 0.0) == []
    (sent,) = run_timers(left, 0.33)
    assert sent[0] == pytest.approx(0.2)
    right.receive(sent[1], now=0.2)
    (answer,) = datagrams(right, 0.2)
    assert [sent[1].hex(), answer.hex()] == [p["hex"] for p in trace("keepalive")]


def test_a_peer_that_answers_no_heartbeat_is_dead() -> None:
    left, right = stream_pair()
    left.watch_peer(5.0, now=0.0)
    right.receive(run_timers(left, 5.0)[0][1], now=5.1)
    (answer,) = datagrams(right, 5.1)
    left.receive(answer, now=5.2)
    beats = run_timers(left, 60.0)
    assert [round(at, 1) for at, _ in beats] == [10.2, 15.2, 20.2, 25.2]
    assert events(left) == [StreamClosed(CloseReason.TIMED_OUT)]
    assert left.next_timer() is None


def test_a_recorded_destroy() -> None:
    left, right = stream_pair()
    left.write(b"hello")
    carried = transfer(left, right, 0.0)
    left.destroy()
    carried += transfer(left, right, 0.1)
    assert [data.hex() for _, data in carried] == [p["hex"] for p in trace("destroy")]
    assert events(left) == [StreamClosed(CloseReason.DESTROYED)]
    assert events(right) == [DataReceived(b"hello"), StreamClosed(CloseReason.RESET)]
    assert left.next_timer() is right.next_timer() is None


def test_recorded_answers_of_one_stream_to_any_packet() -> None:
    recording = udx()["stimulusResponse"]
    stream = EagerStream(recording["localId"])
    for step in recording["steps"]:
        if step["input"] is None:
            stream.connect(recording["remoteId"], now=0.0)
        elif step["input"] == "" or stream.state is State.CLOSED or stream_id_of(bytes.fromhex(step["input"])) != 77:
            assert step["result"] == [{"socketMessage": step["input"]}], step["label"]
            continue
        else:
            data = bytes.fromhex(step["input"])
            assert is_stream_packet(data)
            stream.receive(data, now=0.0)
        happened = events(stream)
        expected = [item for item in step["result"] if "firewall" not in item]
        data = b"".join(e.data for e in happened if isinstance(e, DataReceived))
        assert data.hex() == "".join(item.get("streamData", "") for item in expected), step["label"]
        messages = [e.data.hex() for e in happened if isinstance(e, StreamMessageReceived)]
        assert messages == [item["streamMessage"] for item in expected if "streamMessage" in item], step["label"]
        closed = [e.reason for e in happened if isinstance(e, StreamClosed)]
        assert closed == [CloseReason.RESET for item in expected if "close" in item], step["label"]
        sent = [item["sent"]["hex"] for item in expected if "sent" in item]
        assert [datagram.hex() for datagram in datagrams(stream, 0.0)] == sent, step["label"]


def peer_packet(flags: int, seq: int, ack: int, *, rwnd: int = 4 << 20, payload: bytes = b"") -> bytes:
    return encode_packet(flags, stream_id=1, rwnd=rwnd, seq=seq, ack=ack, payload=payload)


Answer = Callable[[float, bytes], tuple[float, bytes] | None]


def play(writes: dict[float, bytes], answer: Answer, until: float) -> list[tuple[float, int, int, int]]:
    """One stream against a scripted peer: `(milliseconds, flags, seq, ack)` of what it sends."""
    stream, _ = stream_pair()
    queue: list[tuple[float, int, bytes | None]] = []
    order = count()
    for at in writes:
        heapq.heappush(queue, (at, next(order), None))
    log: list[tuple[float, int, int, int]] = []
    while True:
        timer = stream.next_timer()
        now = min([at for at, *_ in queue[:1]] + ([timer] if timer is not None else []), default=until + 1)
        if now > until:
            return log
        if queue and queue[0][0] <= now:
            _, _, datagram = heapq.heappop(queue)
            if datagram is None:
                stream.write(writes[now])
            else:
                stream.receive(datagram, now=now)
        else:
            stream.handle_timer(now=now)
        for datagram in datagrams(stream, now):
            packet = decode_packet(datagram)
            log.append((now * 1000, packet.flags, packet.seq, packet.ack))
            if reply := answer(now, datagram):
                heapq.heappush(queue, (reply[0], next(order), reply[1]))


def assert_schedule(name: str, log: list[tuple[float, int, int, int]]) -> None:
    recording = [e for e in udx()["timers"][name]["events"] if "flags" in e and e["flags"] != "DESTROY"]
    assert [(flags, seq, ack) for _, flags, seq, ack in log] == [
        (NAMES[e["flags"]], e["seq"], e["ack"]) for e in recording
    ]
    for (at, *_), expected in zip(log, recording, strict=True):
        assert at == pytest.approx(expected["ms"], abs=15)


def test_recorded_retransmissions_until_the_timeout() -> None:
    assert_schedule("rtoUntilTimeout", play({0.0: b"one"}, lambda _now, _data: None, 20.0))
    stream, _ = stream_pair()
    stream.write(b"one")
    datagrams(stream, 0.0)
    assert run_timers(stream, 12.9)
    assert events(stream) == []
    run_timers(stream, 13.1)
    assert events(stream) == [StreamClosed(CloseReason.TIMED_OUT)]


def test_recorded_probes_of_a_closed_window() -> None:
    seen = count(1)

    def answer(now: float, datagram: bytes) -> tuple[float, bytes]:
        packet, n = decode_packet(datagram), next(seen)
        if packet.flags & DATA and n == 1:
            return now, peer_packet(STATE, 0, 1, rwnd=0)
        if packet.flags & HEARTBEAT:
            return now, peer_packet(STATE, 0, 1, rwnd=4 << 20 if n >= 4 else 0)
        return now, peer_packet(STATE, 0, packet.seq + 1)

    assert_schedule("zeroWindow", play({0.0: b"one", 0.1: b"two"}, answer, 10.0))


def test_a_recorded_tail_loss_probe() -> None:
    seen = count(1)

    def answer(now: float, datagram: bytes) -> tuple[float, bytes] | None:
        if next(seen) > 3:
            return None
        return now + 0.05, peer_packet(STATE, 0, decode_packet(datagram).seq + 1)

    writes = {0.0: b"one", 0.1: b"two", 0.2: b"three", 0.3: b"four"}
    assert_schedule("tailLossProbe", play(writes, answer, 1.5))


def test_a_recorded_retransmission_carries_the_current_ack() -> None:
    stream, _ = stream_pair()
    stream.write(b"one")
    log = [(0.0, datagrams(stream, 0.0)[0])]
    stream.receive(peer_packet(DATA, 0, 0, payload=b"data"), now=0.1)
    log += [(0.1, datagram) for datagram in datagrams(stream, 0.1)]
    log += run_timers(stream, 1.0)
    packets = [(at * 1000, decode_packet(datagram)) for at, datagram in log]
    assert_schedule("retransmitRefreshesAck", [(at, p.flags, p.seq, p.ack) for at, p in packets])


# --- a link that loses, reorders and repeats


class Link:
    """Both directions of a path with delay; every packet by itself, or whole batches when nothing is lost."""

    def __init__(self, left: EagerStream, right: EagerStream, *, seed: int, loss: float, delay: float = 0.01) -> None:
        self.left, self.right, self.loss, self.delay = left, right, loss, delay
        self.random = Random(seed)
        self.now = 0.0
        self.received = {1: bytearray(), 2: bytearray()}
        self.closed: dict[int, CloseReason] = {}
        self.sent_packets = 0
        self._queue: list[tuple[float, int, UdxStream, bytes, int]] = []
        self._order = count()

    def _put(self, sink: UdxStream, data: bytes, size: int) -> None:
        copies = 2 if self.loss and self.random.random() < 0.02 else 1
        for _ in range(copies):
            late = self.random.random() * self.delay if self.loss and self.random.random() < 0.05 else 0.0
            if self.random.random() >= self.loss:
                heapq.heappush(self._queue, (self.now + self.delay + late, next(self._order), sink, data, size))

    def pump(self) -> None:
        for source, sink in ((self.left, self.right), (self.right, self.left)):
            for data, size, _ in source.datagrams_to_send(now=self.now):
                self.sent_packets += -(-len(data) // size)
                pieces = [data] if not self.loss else [data[at : at + size] for at in range(0, len(data), size)]
                for piece in pieces:
                    self._put(sink, piece, size)
            for event in events(source):
                if isinstance(event, DataReceived):
                    self.received[source.local_id] += event.data
                elif isinstance(event, StreamClosed):
                    self.closed[source.local_id] = event.reason

    def run(self, until: Callable[[], bool], limit: float = 200.0) -> None:
        self.pump()
        while not until():
            timers = [t for s in (self.left, self.right) if (t := s.next_timer()) is not None]
            timers += [self._queue[0][0]] if self._queue else []
            assert timers, "both streams wait for ever"
            self.now = max(self.now, min(timers))
            assert self.now < limit, "no end in sight"
            while self._queue and self._queue[0][0] <= self.now:
                _, _, sink, data, size = heapq.heappop(self._queue)
                sink.receive(data, now=self.now, segment_bytes=size)
            for stream in (self.left, self.right):
                if (timer := stream.next_timer()) is not None and timer <= self.now:
                    stream.handle_timer(now=self.now)
            self.pump()


@pytest.mark.parametrize(("seed", "loss"), [(1, 0.0), (2, 0.01), (3, 0.05), (4, 0.2), (5, 0.2), (6, 0.4)])
def test_everything_arrives_over_a_bad_path(seed: int, loss: float) -> None:
    left, right = stream_pair(first_seq=2**32 - 50, first_ack=2**32 - 50)  # the numbers wrap on the way
    link = Link(left, right, seed=seed, loss=loss)
    there, back = pattern(2_000_000 if loss < 0.1 else 200_000), pattern(70_001)
    for at in range(0, len(there), 65_556):
        left.write(there[at : at + 65_556])
    right.write(back)
    left.end()
    right.end()
    link.run(lambda: len(link.closed) == 2)
    assert bytes(link.received[2]) == there
    assert bytes(link.received[1]) == back
    assert set(link.closed.values()) == {CloseReason.FINISHED}


def test_a_clean_path_needs_no_packet_twice() -> None:
    left, right = stream_pair()
    link = Link(left, right, seed=1, loss=0.0)
    left.write(pattern(1_000_000) * 20)
    link.run(lambda: len(link.received[2]) == 20_000_000)
    assert left.max_message_bytes == 1452  # the search ended at 1500
    assert link.now < 1.0
    assert link.sent_packets < 20_000_000 / 1400 * 1.1


def test_one_percent_loss_does_not_collapse_the_rate() -> None:
    left, right = stream_pair()
    link = Link(left, right, seed=7, loss=0.01, delay=0.025)
    left.write(pattern(8_000_000))
    link.run(lambda: len(link.received[2]) == 8_000_000)
    assert link.now < 3.0  # a loss-based controller takes about 20 s


def test_a_path_that_drops_large_packets_keeps_small_ones() -> None:
    left, right = stream_pair()
    link = Link(left, right, seed=1, loss=0.0)
    put = link._put
    link._put = lambda sink, data, size: put(sink, data, size) if size <= 1300 else None  # type: ignore[method-assign]
    left.write(pattern(500_000))
    link.run(lambda: len(link.received[2]) == 500_000)
    assert 1200 < left.max_message_bytes + 48 <= 1300 + 28


def test_a_repair_that_is_lost_too_is_noticed_in_a_few_round_trips() -> None:
    left, right = stream_pair()
    link = Link(left, right, seed=1, loss=0.0)
    left.write(pattern(200_000))
    link.run(lambda: len(link.received[2]) == 200_000)
    left.write(pattern(200_000))
    lost: list[float] = []
    put = link._put

    def lose_one_packet_twice(sink: UdxStream, data: bytes, size: int) -> None:
        sizes = range(0, len(data), size)
        for packet in (data[at : at + size] for at in sizes):
            if sink is right and decode_packet(packet).seq == 180 and len(lost) < 2:
                lost.append(link.now)
            else:
                put(sink, packet, len(packet))

    link._put = lose_one_packet_twice  # type: ignore[method-assign]
    link.run(lambda: len(link.received[2]) == 400_000)
    assert len(lost) == 2
    assert link.now - lost[1] < 0.2  # by a tail loss probe; a timeout takes a second


# --- flow control


def test_a_reader_that_stops_holds_the_writer_up_and_lets_it_go_on() -> None:
    left, right = stream_pair(window_bytes=100_000)
    right.reading = False
    assert not left.write(pattern(800_000))
    now = 0.0
    for step in range(200):
        now = step * 0.01
        left.handle_timer(now=now)
        for datagram in datagrams(left, now):
            right.receive(datagram, now=now)
        for datagram in datagrams(right, now):
            left.receive(datagram, now=now)
    unread = right.unread_bytes
    assert 90_000 < unread <= 100_000 + 64 * 1024
    right.reading = True
    got = right.read()
    (reopened,) = datagrams(right, now)
    assert decode_packet(reopened).rwnd == 100_000
    left.receive(reopened, now=now)
    link = Link(left, right, seed=1, loss=0.0)
    link.now = now
    link.run(lambda: len(link.received[2]) == 800_000 - unread)
    assert got + bytes(link.received[2]) == pattern(800_000)


def test_the_writer_hears_when_there_is_room() -> None:
    left, right = stream_pair()
    assert left.write(bytes(1000))
    assert not left.write(bytes(600_000))
    for step in range(100):
        left.handle_timer(now=step * 0.1)
        transfer(left, right, step * 0.1)
        received(right)
    assert StreamWritable() in events(left)


def test_t17_a_peer_that_ignores_the_window_does_not_fill_the_memory() -> None:
    stream = UdxStream(1, window_bytes=50_000)
    stream.connect(2, now=0.0)
    for seq in range(1000):
        stream.receive(peer_packet(DATA, seq, 0, payload=bytes(1000)), now=0.0)
        stream.receive(peer_packet(DATA, 5000 + 2 * seq, 0, payload=bytes(1000)), now=0.0)
    assert stream.unread_bytes <= 50_000 + 64 * 1024
    assert stream._received.held_bytes <= 150_000


# --- ending


def test_the_last_acknowledgement_lost_is_sent_again_while_lingering() -> None:
    left, right = stream_pair()
    left.end()
    right.end()
    for datagram in datagrams(left, 0.0):
        right.receive(datagram, now=0.0)
    for datagram in datagrams(right, 0.0):  # its END, which left has not seen when its own comes
        left.receive(datagram, now=0.0)
    assert events(left)[-1] == StreamClosed(CloseReason.FINISHED)
    datagrams(left, 0.0)  # lost
    ((at, again), *_) = run_timers(right, 1.5)
    left.receive(again, now=at)
    for datagram in datagrams(left, at):
        right.receive(datagram, now=at)
    assert events(right)[-1] == StreamClosed(CloseReason.FINISHED)
    left.handle_timer(now=LINGER_TIME + 1)
    assert left.state is State.CLOSED


def test_a_peer_that_forgot_a_finished_stream_is_no_error() -> None:
    left, _ = stream_pair()
    left.receive(peer_packet(END, 0, 0), now=0.0)
    left.end()
    datagrams(left, 0.0)
    run_timers(left, 13.5)
    assert events(left) == [StreamEnded(), StreamClosed(CloseReason.FINISHED)]


def test_misuse_is_refused() -> None:
    stream = UdxStream(1)
    with pytest.raises(LocalProtocolError):
        stream.write(b"x")
    with pytest.raises(LocalProtocolError):
        stream.end()
    stream.send_message(b"dropped")
    stream.connect(2, now=0.0)
    assert datagrams(stream, 0.0) == []
    with pytest.raises(LocalProtocolError):
        stream.connect(2, now=0.0)
    with pytest.raises(LocalProtocolError):
        stream.send_message(bytes(1153))
    stream.end()
    with pytest.raises(LocalProtocolError):
        stream.write(b"x")


def test_destroy_before_connect_is_silent() -> None:
    stream = EagerStream(1)
    stream.destroy()
    assert datagrams(stream, 0.0) == []
    assert events(stream) == [StreamClosed(CloseReason.DESTROYED)]


def test_t17_an_owner_that_ignores_messages_does_not_collect_them() -> None:
    stream = UdxStream(1)
    for _ in range(10_000):
        stream.receive(peer_packet(MESSAGE, 0, 0, payload=b"message"), now=0.0)
    assert len(list(iter(stream.next_event, None))) < 2000


def test_t17_tiny_packets_that_nobody_reads_are_put_together() -> None:
    stream = UdxStream(1)
    for seq in range(10_000):
        stream.receive(peer_packet(DATA, seq, 0, payload=b"x"), now=0.0)
    assert len(stream._unread) <= 4096
    assert stream.read() == b"x" * 10_000


# --- another remote


def paths(stream: UdxStream, now: float) -> list[tuple[int, int, int]]:
    """`(path, stream id, seq)` of what goes out."""
    out = []
    for data, size, path in stream.datagrams_to_send(now=now):
        packets = [decode_packet(data[at : at + size]) for at in range(0, len(data), size)]
        out += [(path, packet.stream_id, packet.seq) for packet in packets]
    return out


def test_after_a_change_of_remote_what_was_sent_before_is_repeated_to_the_old_one() -> None:
    stream, _ = stream_pair()
    stream.write(b"before")
    paths(stream, 0.0)
    stream.change_remote(9)
    stream.write(b"after")
    paths(stream, 0.0)
    sack = encode_ack([(1, 2)], stream_id=1, rwnd=4 << 20, seq=0, ack=0)
    stream.receive(sack, now=0.1)
    stream.handle_timer(now=0.2)
    assert paths(stream, 0.2) == [(0, 2, 0)]  # as libudx: to the old place, under the old id


def test_after_a_timeout_everything_goes_to_the_new_remote() -> None:
    """A relay that was left may be gone; libudx would repeat what it lost there until it gives the stream up."""
    stream, _ = stream_pair()
    stream.write(b"before")
    assert paths(stream, 0.0) == [(0, 2, 0)]
    stream.change_remote(9)
    stream.write(b"after")
    assert paths(stream, 0.0) == [(1, 9, 1)]
    assert events(stream) == []
    stream.handle_timer(now=1.0)
    assert paths(stream, 1.0) == [(1, 9, 0)]
    stream.receive(peer_packet(STATE, 0, 1), now=1.1)
    assert events(stream) == [StreamRemoteChanged()]
    stream.receive(peer_packet(DATA, 0, 1, payload=b"x"), now=1.2)
    assert paths(stream, 1.2)[0] == (1, 9, 2)


def test_an_idle_stream_changes_its_remote_at_once() -> None:
    stream, _ = stream_pair()
    stream.change_remote(9)
    assert events(stream) == [StreamRemoteChanged()]


def test_the_search_for_larger_packets_begins_anew_on_another_path() -> None:
    left, right = stream_pair()
    link = Link(left, right, seed=1, loss=0.0)
    left.write(pattern(1_000_000) * 20)
    link.run(lambda: len(link.received[2]) == 20_000_000)
    assert left.max_message_bytes == 1452
    left.change_remote(2, ipv6=True)
    assert left.max_message_bytes == 1200 - 68
    left.write(pattern(1_000_000) * 20)
    link.run(lambda: len(link.received[2]) == 40_000_000)
    assert 1200 - 68 < left.max_message_bytes <= 1500 - 68


# --- forged


packets = st.builds(
    lambda flags, seq, ack, payload, offset, rwnd: (
        lambda data: data[:3] + bytes([offset]) + data[4:]
    )(encode_packet(flags, stream_id=1, rwnd=rwnd, seq=seq, ack=ack, payload=payload)),
    st.sampled_from([STATE, DATA, END, DATA | END, 4, 5, MESSAGE, HEARTBEAT, 255]) | st.just(DESTROY),
    st.integers(-3, 30) | st.integers(0, 2**32 - 1),
    st.integers(-3, 30) | st.integers(0, 2**32 - 1),
    st.binary(max_size=40) | st.lists(st.integers(0, 30), max_size=10).map(
        lambda numbers: b"".join(number.to_bytes(4, "little") for number in numbers)
    ),
    st.just(0) | st.integers(0, 255),
    st.integers(0, 2**32 - 1),
)  # fmt: skip


@given(st.lists(packets | st.binary(max_size=40), max_size=40), st.sampled_from([None, 20, 28]))
def test_t17_forged_packets_never_raise_and_never_break_the_counts(forged: list[bytes], segment: int | None) -> None:
    stream, _ = stream_pair()
    stream.write(pattern(40_000))
    for step, datagram in enumerate(forged):
        now = step * 0.3
        stream.receive(datagram, now=now, segment_bytes=segment)
        stream.handle_timer(now=now)
        datagrams(stream, now)
        events(stream)
        sent = stream._sender.sent
        assert sent.outstanding == sum(run.count for run in sent.runs)
        assert sent.lost == sum(run.count for run in sent.runs if run.lost)
        assert sent.sacked >= 0
        assert all(run.first >= sent.una for run in sent.runs)
