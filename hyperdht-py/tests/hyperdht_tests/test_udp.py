"""UDP sockets: batches in both directions, what the kernel refuses, and what it cannot take at the moment."""

import errno
import socket
import sys
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from hyperdht.addresses import Address
from hyperdht.io.offload import Offload, bind_udp
from hyperdht.io.reactor import Callback
from hyperdht.io.udp import (
    JUDGE_AFTER_READS,
    MAX_BACKLOG_BYTES,
    RETRY_AFTER_DATAGRAMS,
    SEGMENTATION_STRIKES,
    TRIAL_READS,
    UdpSocket,
)

BOTH = Offload(segmentation=True, coalescing=True)
KINDS = [Offload.none(), Offload(True, False), Offload(False, True), BOTH]
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="UDP_SEGMENT and UDP_GRO are Linux's")
THERE = Address("127.0.0.1", 9)


class HandReactor:
    """Called by the test instead of an event loop."""

    def __init__(self) -> None:
        self.readers: dict[Any, Callback] = {}
        self.writers: dict[Any, Callback] = {}

    def now(self) -> float:
        return 0.0

    def watch(self, sock: Any, callback: Callback) -> None:
        self.readers[sock] = callback

    def unwatch(self, sock: Any) -> None:
        self.readers.pop(sock, None)
        self.writers.pop(sock, None)

    def when_writable(self, sock: Any, callback: Callback) -> None:
        self.writers[sock] = callback

    def call_soon(self, callback: Callback) -> None:
        raise NotImplementedError

    def wake_at(self, when: float, callback: Callback) -> None:
        raise NotImplementedError

    def close(self) -> None:
        self.readers.clear()

    def read(self) -> None:
        for callback in list(self.readers.values()):
            callback()

    def write(self) -> None:
        for sock in list(self.writers):
            self.writers.pop(sock)()


class FakeSocket:
    """A kernel that does what the test says. `answers` are errors, or None for success, in the order of the calls."""

    family = socket.AF_INET

    def __init__(self) -> None:
        self.sent: list[tuple[str, bytes, Address]] = []
        self.answers: deque[int | None] = deque()
        self.incoming: deque[tuple[bytes, int | None, tuple[str, int]] | OSError] = deque()
        self.options: list[tuple[int, int, Any]] = []
        self.refused_options: set[int] = set()
        self.closed = False

    def getsockname(self) -> tuple[str, int]:
        return "127.0.0.1", 7

    def setsockopt(self, level: int, option: int, value: Any) -> None:
        if option in self.refused_options:
            raise OSError(errno.ENOPROTOOPT, "no such option")
        self.options.append((level, option, value))

    def close(self) -> None:
        self.closed = True

    def _answer(self) -> None:
        answer = self.answers.popleft() if self.answers else None
        if answer is not None:
            raise OSError(answer, "told to")

    def sendto(self, data: memoryview, address: Address) -> None:
        self._answer()
        self.sent.append(("sendto", bytes(data), address))

    def sendmsg(self, parts: tuple[bytes, ...], _control: Any, _flags: int, address: Address) -> None:
        self._answer()
        self.sent.append(("sendmsg", b"".join(parts), address))

    def _next(self) -> tuple[bytes, int | None, tuple[str, int]]:
        if not self.incoming:
            raise BlockingIOError
        item = self.incoming.popleft()
        if isinstance(item, OSError):
            raise item
        return item

    def recvmsg(self, _size: int, _control: int) -> tuple[bytes, list[tuple[int, int, bytes]], int, tuple[str, int]]:
        data, segment, sender = self._next()
        return data, [] if segment is None else [(17, 104, segment.to_bytes(4, sys.byteorder))], 0, sender

    def recvfrom_into(self, buffer: memoryview) -> tuple[int, tuple[str, int]]:
        data, _, sender = self._next()
        buffer[: len(data)] = data
        return len(data), sender

    def recv_into(self, buffer: memoryview) -> int:
        return self.recvfrom_into(buffer)[0]


Got = list[tuple[bytes, int, Address]]


def fake(offload: Offload = BOTH) -> tuple[FakeSocket, HandReactor, UdpSocket, Got]:
    raw, reactor, got = FakeSocket(), HandReactor(), Got()
    sock = UdpSocket(raw, reactor, lambda *item: got.append(item), offload=offload, turn_over=lambda: None)  # type: ignore[arg-type]
    return raw, reactor, sock, got


def segments(got: Got) -> list[bytes]:
    return [data[at : at + size] for data, size, _ in got for at in range(0, len(data), size)]


# --- real sockets


@pytest.fixture(params=KINDS, ids=lambda kind: f"gso={kind.segmentation},gro={kind.coalescing}")
def real(request: pytest.FixtureRequest) -> Iterator[tuple[UdpSocket, UdpSocket, Got, HandReactor]]:
    """Two sockets, what the second got, and the reactor that makes it read."""
    got, reactor = Got(), HandReactor()
    offload = request.param if sys.platform.startswith("linux") else Offload.none()
    pair = [
        UdpSocket(bind_udp("127.0.0.1", 0), reactor, on_datagrams, offload=offload, turn_over=lambda: None)
        for on_datagrams in (lambda *_: None, lambda *item: got.append(item))
    ]
    yield pair[0], pair[1], got, reactor
    for sock in pair:
        sock.close()


def test_batches_arrive_as_the_datagrams_they_were(
    real: tuple[UdpSocket, UdpSocket, Got, HandReactor],
) -> None:
    left, right, got, reactor = real
    sizes = [(1, 1200), (44, 1472), (1, 20), (3, 20), (100, 600), (2, 1), (64, 1000)]
    sent = []
    for count, size in sizes:
        batch = [bytes([n % 251]) * size for n in range(count)]
        batch[-1] = batch[-1][: max(size // 2, 1)]
        sent += batch
        left.send(b"".join(batch), size, right.address)
    for _ in range(10):
        reactor.read()
    assert segments(got) == sent
    assert {sender for _, _, sender in got} == {left.address}


def test_the_datagrams_of_two_senders_are_kept_apart(real: tuple[UdpSocket, UdpSocket, Got, HandReactor]) -> None:
    left, right, got, reactor = real
    other = UdpSocket(
        bind_udp("127.0.0.1", 0), reactor, lambda *_: None, offload=Offload.none(), turn_over=lambda: None
    )
    for n in range(10):
        (left, other)[n % 2].send(bytes([n]) * 100, 100, right.address)
    reactor.read()
    assert sorted((sender.port, data) for data, _, sender in got) == sorted(
        ((left, other)[n % 2].address.port, bytes([n]) * 100) for n in range(10)
    )
    other.close()


def test_a_turn_ends_although_more_is_there_and_the_next_goes_on(
    real: tuple[UdpSocket, UdpSocket, Got, HandReactor],
) -> None:
    left, right, got, reactor = real
    for n in range(1000):
        left.send(n.to_bytes(2, "big") * 10, 20, right.address)
    reactor.read()
    assert len(segments(got)) < 1000
    for _ in range(100):
        reactor.read()
    assert segments(got) == [n.to_bytes(2, "big") * 10 for n in range(1000)]


@linux
def test_packets_are_never_fragmented_and_probes_have_their_own_ttl() -> None:
    raw = bind_udp("127.0.0.1", 0)
    assert raw.getsockopt(socket.IPPROTO_IP, 10) == 3  # IP_MTU_DISCOVER, IP_PMTUDISC_PROBE
    sink = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sink.bind(("127.0.0.1", 0))
    sink.setsockopt(socket.IPPROTO_IP, 12, 1)  # IP_RECVTTL
    sock = UdpSocket(raw, HandReactor(), lambda *_: None, offload=BOTH, turn_over=lambda: None)
    ttls = []
    for ttl in (5, None):
        sock.send(b"\0", 1, Address(*sink.getsockname()), ttl=ttl)
        _, control, _, _ = sink.recvmsg(10, 100)
        ttls.append(int.from_bytes(control[0][2], sys.byteorder))
    assert ttls == [5, 64]
    sock.close()
    sink.close()


@linux
def test_this_kernel_has_what_the_fast_path_uses() -> None:
    assert Offload.probe() == BOTH


def test_a_port_that_is_taken_is_an_error_and_leaks_nothing() -> None:
    with bind_udp("127.0.0.1", 0) as sock, pytest.raises(OSError, match="in use"):
        bind_udp("127.0.0.1", sock.getsockname()[1])


# --- what the kernel refuses


@pytest.mark.parametrize("code", [errno.EIO, errno.EINVAL, errno.ENOPROTOOPT])
def test_a_kernel_that_refuses_batches_gets_single_datagrams_and_is_not_asked_for_ever(code: int) -> None:
    raw, _, sock, _ = fake()
    for _ in range(SEGMENTATION_STRIKES):
        raw.answers += [code, None, None, None]
        sock.send(b"aabbc", 2, THERE)
    assert [data for _, data, _ in raw.sent] == [b"aa", b"bb", b"c"] * SEGMENTATION_STRIKES
    assert not sock.offload.segmentation
    sock.send(b"aabb", 2, THERE)
    assert [call for call, _, _ in raw.sent[-2:]] == ["sendto", "sendto"]


def test_a_destination_that_refuses_everything_does_not_cost_the_batches() -> None:
    raw, _, sock, _ = fake()
    for _ in range(10):
        raw.answers += [errno.EINVAL, errno.EMSGSIZE, None]
        sock.send(b"aaaab", 4, THERE)
    assert sock.offload.segmentation
    assert sock.counters.unreachable == 10


@pytest.mark.parametrize(
    "code", [errno.ECONNREFUSED, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EPERM, errno.ENOBUFS]
)
@pytest.mark.parametrize("data", [b"aa", b"aabb"])
def test_an_unreachable_destination_is_counted_and_forgotten(code: int, data: bytes) -> None:
    raw, _, sock, _ = fake()
    raw.answers.append(code)
    sock.send(data, 2, THERE)
    sock.send(data, 2, THERE)
    assert sock.counters.unreachable == len(data) // 2
    assert [data for _, data, _ in raw.sent] == [data]


def test_large_batches_are_cut_into_what_one_call_takes() -> None:
    raw, _, sock, _ = fake()
    data = bytes(n % 251 for n in range(20 * 150))
    sock.send(data, 20, THERE)
    sock.send(bytes(1472 * 60), 1472, THERE)
    assert b"".join(data for _, data, _ in raw.sent) == data + bytes(1472 * 60)
    assert [len(data) for _, data, _ in raw.sent] == [1280, 1280, 440, 1472 * 44, 1472 * 16]


# --- what the kernel cannot take now


@pytest.mark.parametrize("offload", [BOTH, Offload.none()])
def test_a_full_kernel_loses_nothing(offload: Offload) -> None:
    raw, reactor, sock, _ = fake(offload)
    batch = b"".join(bytes([n]) * 1000 for n in range(100))
    raw.answers += [None, errno.EAGAIN]
    sock.send(batch, 1000, THERE)
    assert sock.blocked
    sock.send(b"behind", 6, THERE)
    raw.answers += [None, errno.EAGAIN]
    reactor.write()
    assert sock.blocked
    reactor.write()
    assert not sock.blocked
    assert b"".join(data for _, data, _ in raw.sent) == batch + b"behind"


def test_the_backlog_is_bounded() -> None:
    raw, reactor, sock, _ = fake()
    raw.answers.append(errno.EAGAIN)
    for _ in range(100):
        sock.send(bytes(60_000), 1000, THERE)
    reactor.write()
    assert sum(len(data) for _, data, _ in raw.sent) <= MAX_BACKLOG_BYTES
    assert sock.counters.dropped == 60 * (100 - MAX_BACKLOG_BYTES // 60_000)


def test_the_ttl_of_a_probe_that_waited_is_still_its_own() -> None:
    raw, reactor, sock, _ = fake()
    raw.answers.append(errno.EAGAIN)
    sock.send(b"\0", 1, THERE, ttl=5)
    raw.options.clear()
    reactor.write()
    assert [value for _, _, value in raw.options] == [5, 64]


# --- receiving


def test_errors_while_receiving_are_old_news() -> None:
    for offload in (BOTH, Offload.none()):
        raw, reactor, sock, got = fake(offload)
        raw.incoming += [ConnectionResetError(), (b"a", None, ("1.2.3.4", 5)), OSError(errno.EIO, "?")]
        reactor.read()
        assert segments(got) == [b"a"]
        assert sock.counters.receive_errors == 2


def test_an_empty_datagram_is_no_end() -> None:
    for offload in (BOTH, Offload.none()):
        raw, reactor, _, got = fake(offload)
        raw.incoming += [(b"", None, ("1.2.3.4", 5)), (b"a", None, ("1.2.3.4", 5)), (b"", None, ("1.2.3.4", 5))]
        reactor.read()
        assert [data for data in segments(got) if data] == [b"a"]


@pytest.mark.parametrize("offload", [BOTH, Offload.none()])
def test_a_socket_may_be_closed_by_what_arrives(offload: Offload) -> None:
    raw, reactor = FakeSocket(), HandReactor()
    raw.incoming += [(bytes([n]), None, ("1.2.3.4", n)) for n in range(1, 9)]
    got: Got = []

    def close(*item: Any) -> None:
        got.append(item)
        sock.close()

    sock = UdpSocket(raw, reactor, close, offload=offload, turn_over=lambda: None)  # type: ignore[arg-type]
    reactor.read()
    assert len(got) == 1
    assert raw.closed
    sock.send(b"x", 1, THERE)
    assert raw.sent == []


def feed(raw: FakeSocket, reactor: HandReactor, datagrams: int, *, together: int) -> None:
    """`together` datagrams of 100 bytes arrive in each read of a socket that can put them together."""
    for _ in range(datagrams // together):
        raw.incoming.append((bytes(100 * together), 100, ("1.2.3.4", 5)))
    while raw.incoming:
        reactor.read()
    reactor.read()


def test_coalescing_goes_when_it_is_of_no_use_and_is_tried_again() -> None:
    raw, reactor, sock, _ = fake()
    feed(raw, reactor, 40 * JUDGE_AFTER_READS, together=40)
    assert sock.offload.coalescing
    feed(raw, reactor, 2 * JUDGE_AFTER_READS, together=1)
    assert not sock.offload.coalescing
    feed(raw, reactor, RETRY_AFTER_DATAGRAMS, together=1)
    assert sock.offload.coalescing
    feed(raw, reactor, 2 * TRIAL_READS, together=1)
    assert not sock.offload.coalescing
    feed(raw, reactor, RETRY_AFTER_DATAGRAMS, together=1)
    feed(raw, reactor, 400 * TRIAL_READS, together=40)
    assert sock.offload.coalescing


def test_what_was_put_together_without_a_word_of_its_size_is_dropped() -> None:
    raw, reactor, sock, got = fake()
    feed(raw, reactor, JUDGE_AFTER_READS - 1, together=1)
    before = len(got)
    set_option = raw.setsockopt

    def switch(level: int, option: int, value: Any) -> None:
        set_option(level, option, value)
        raw.incoming.append((bytes(4000), None, ("1.2.3.4", 5)))  # coalesced before the switch, read after it

    raw.setsockopt = switch  # type: ignore[method-assign]
    raw.incoming.append((bytes(100), None, ("1.2.3.4", 5)))
    reactor.read()
    assert not sock.offload.coalescing
    assert len(got) == before + 1
    assert sock.counters.receive_errors == 1


def test_what_arrives_while_the_last_datagram_is_looked_at_is_not_dropped() -> None:
    """Handing over may take milliseconds, a handshake for instance; the switch must not cost what comes meanwhile."""
    raw, reactor, got = FakeSocket(), HandReactor(), Got()
    late = [(bytes([n]) * 100, None, ("1.2.3.4", 5)) for n in range(10)]

    def look_at(*item: Any) -> None:
        got.append(item)
        if not raw.incoming and late:
            raw.incoming.append(late.pop())

    sock = UdpSocket(raw, reactor, look_at, offload=BOTH, turn_over=lambda: None)  # type: ignore[arg-type]
    feed(raw, reactor, JUDGE_AFTER_READS, together=1)
    assert not sock.offload.coalescing
    assert not late
    assert [segment for segment in segments(got) if segment[0]] == [bytes([n]) * 100 for n in range(9, 0, -1)]
    assert sock.counters.receive_errors == 0


def test_a_kernel_without_the_options_is_used_without_them() -> None:
    raw, reactor, got = FakeSocket(), HandReactor(), Got()
    raw.refused_options.add(104)
    on_datagrams: Callable[..., None] = lambda *item: got.append(item)  # noqa: E731
    sock = UdpSocket(raw, reactor, on_datagrams, offload=BOTH, turn_over=lambda: None)  # type: ignore[arg-type]
    assert sock.offload == Offload(segmentation=True, coalescing=False)
    raw.incoming.append((b"a", None, ("1.2.3.4", 5)))
    reactor.read()
    assert segments(got) == [b"a"]
