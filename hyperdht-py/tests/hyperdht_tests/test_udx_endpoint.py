"""Many streams on many sockets: who gets which packet, what goes where, and what ends when."""

from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperdht import LocalProtocolError
from hyperdht.addresses import Address
from hyperdht.udx import (
    CloseReason,
    EndpointStream,
    Event,
    StreamClosed,
    StreamDelivered,
    StreamEnded,
    StreamMessageReceived,
    StreamReadable,
    StreamRemoteChanged,
    UdxEndpoint,
)
from hyperdht.udx.bundle import common_stream_id, has_destroy, readdress, split_by_stream
from hyperdht.udx.deadlines import Deadlines
from hyperdht.udx.packet import DATA, DESTROY, END, STATE, encode_packet
from hyperdht.udx.stream import LINGER_TIME

from .vectors import pattern

LEFT, RIGHT, RELAY, OTHER = (Address(f"10.0.0.{n}", 1000 + n) for n in range(1, 5))


def packet(flags: int, stream_id: int, payload: bytes = b"", *, seq: int = 0, ack: int = 0) -> bytes:
    return encode_packet(flags, stream_id=stream_id, rwnd=1 << 22, seq=seq, ack=ack, payload=payload)


class Owner:
    """Of one stream: reads everything and remembers what happened."""

    def __init__(self, stream: EndpointStream) -> None:
        self.stream = stream
        self.data = b""
        self.events: list[Event] = []
        stream.on_event(self._take)

    def _take(self, event: Event) -> None:
        if isinstance(event, StreamReadable):
            self.data += self.stream.read()
        elif not isinstance(event, StreamDelivered):
            self.events.append(event)


class Network:
    """Endpoints by address; socket n of an endpoint has the port plus n."""

    def __init__(self, *addresses: Address) -> None:
        self.random = Random(1)
        self.endpoints = {address: UdxEndpoint(self.random.randbytes) for address in addresses}
        self.now = 0.0
        self.strays: list[bytes] = []
        self.lose: Callable[[bytes], bool] = lambda _: False

    def _find(self, to: Address) -> tuple[UdxEndpoint, int]:
        for address, endpoint in self.endpoints.items():
            if address.host == to.host:
                return endpoint, to.port - address.port
        raise AssertionError(f"nobody is at {to}")

    def run(self, until: float = 0.0) -> None:
        """Deliver until all are silent, then let time pass up to `until`."""
        while True:
            while sum(self._flush(address) for address in self.endpoints):
                pass
            timers = [t for e in self.endpoints.values() if (t := e.next_timer()) is not None and t <= until]
            if not timers:
                self.now = max(self.now, until)
                return
            self.now = max(self.now, min(timers))
            for endpoint in self.endpoints.values():
                endpoint.handle_timer(now=self.now)

    def _flush(self, source: Address) -> bool:
        sent = self.endpoints[source].datagrams_to_send(now=self.now)
        self.now += 0.001
        for data, size, to, socket in sent:
            endpoint, their_socket = self._find(to)
            sender = Address(source.host, source.port + socket)
            if not self.lose(data):
                self.strays += endpoint.receive(data, size, sender, their_socket, now=self.now)
        return bool(sent)


def connected(network: Network, left: Address, right: Address) -> tuple[Owner, Owner]:
    a, b = network.endpoints[left], network.endpoints[right]
    left_id, right_id = a.reserve(None), b.reserve(None)
    return (
        Owner(a.connect(left_id, 0, right, right_id, now=network.now)),
        Owner(b.connect(right_id, 0, left, left_id, now=network.now)),
    )


def test_streams_between_two_endpoints_do_not_mix() -> None:
    network = Network(LEFT, RIGHT)
    pairs = [connected(network, LEFT, RIGHT) for _ in range(5)]
    for index, (left, right) in enumerate(pairs):
        left.stream.write(pattern(50_000 + index))
        right.stream.write(pattern(20_000 + index))
    network.run()
    for index, (left, right) in enumerate(pairs):
        assert right.data == pattern(50_000 + index)
        assert left.data == pattern(20_000 + index)


def test_a_buffer_with_packets_of_several_streams_is_shared_out_and_the_rest_given_back() -> None:
    endpoint = UdxEndpoint(Random(1).randbytes)
    owners = {}
    for stream_id in (7, 8):
        endpoint.reserve(None, stream_id=stream_id)
        owners[stream_id] = Owner(endpoint.connect(stream_id, 0, LEFT, 1, now=0.0))
    datagrams = [
        packet(DATA, 7, b"aa"),
        packet(DATA, 8, b"bb"),
        bytes(22),
        packet(DATA, 9, b"zz"),
        packet(DATA, 7, b"c", seq=1),
    ]
    strays = endpoint.receive(b"".join(datagrams), 22, LEFT, 0, now=0.0)
    assert list(strays) == datagrams[2:4]
    assert owners[7].data == b"aac"
    assert owners[8].data == b"bb"


@given(
    st.lists(st.sampled_from([packet(STATE, 7), packet(STATE, 8), bytes(20), b"\xff\x01" + bytes(18)]), min_size=1),
    st.binary(max_size=19),
)
def test_any_buffer_is_cut_without_losing_a_datagram(datagrams: list[bytes], tail: bytes) -> None:
    data = b"".join(datagrams) + tail
    parts = list(split_by_stream(data, 20))
    assert b"".join(part for _, part in parts) == data
    common = common_stream_id(data, 20)
    assert common is None or parts == [(common, data)]
    assert common is not None or len(parts) > 1 or parts[0][0] is None


def test_packets_of_no_stream_belong_to_the_caller() -> None:
    endpoint = UdxEndpoint(Random(1).randbytes)
    for data in (b"", b"\0", b"\x03query", packet(DATA, 5, b"late"), b"\xff\x02" + bytes(18)):
        assert list(endpoint.receive(data, max(len(data), 1), LEFT, 0, now=0.0)) == [data]
    assert endpoint.counters.unknown == 1


def test_ids_are_unique() -> None:
    endpoint = UdxEndpoint(_once([b"aaaa", b"aaaa", b"bbbb"]))
    first, second = endpoint.reserve(None), endpoint.reserve(None)
    assert first != second
    with pytest.raises(LocalProtocolError):
        endpoint.reserve(None, stream_id=first)


def _once(values: list[bytes]) -> Callable[[int], bytes]:
    left = iter(values)
    return lambda _: next(left)


def test_released_streams_are_gone_and_connected_ones_stay() -> None:
    endpoint = UdxEndpoint(Random(1).randbytes)
    reserved, used = endpoint.reserve(None), endpoint.reserve(None)
    endpoint.connect(used, 0, LEFT, 1, now=0.0)
    endpoint.release(reserved)
    endpoint.release(used)
    endpoint.release(12345)
    endpoint.datagrams_to_send(now=0.0)
    assert len(endpoint) == 1
    with pytest.raises(LocalProtocolError):
        endpoint.connect(reserved, 0, LEFT, 1, now=0.0)


# --- the hook


def test_the_hook_is_asked_before_connect_and_for_packets_through_another_socket() -> None:
    endpoint = UdxEndpoint(Random(1).randbytes)
    asked: list[tuple[int, Address]] = []
    answer = False

    def hook(socket: int, sender: Address, _now: float) -> bool:
        asked.append((socket, sender))
        return answer

    stream_id = endpoint.reserve(hook)
    endpoint.receive(packet(DATA, stream_id, b"a"), 21, OTHER, 3, now=0.0)
    assert endpoint.counters.rejected == 1
    answer = True
    assert list(endpoint.receive(packet(DATA, stream_id, b"a"), 21, LEFT, 1, now=0.0)) == []
    assert endpoint.datagrams_to_send(now=0.0) == []  # who it should go to is not known
    owner = Owner(endpoint.connect(stream_id, 1, LEFT, 9, now=0.0))
    assert owner.data == b"a"
    ((_, _, to, socket),) = endpoint.datagrams_to_send(now=0.0)
    assert (to, socket) == (LEFT, 1)
    assert asked == [(3, OTHER), (1, LEFT)]
    endpoint.receive(packet(DATA, stream_id, b"b", seq=1), 21, OTHER, 1, now=0.0)  # the stream's socket: from anywhere
    assert asked == [(3, OTHER), (1, LEFT)]
    endpoint.receive(packet(DATA, stream_id, b"c", seq=2), 21, OTHER, 0, now=0.0)
    assert asked[2:] == [(0, OTHER)]
    assert owner.data == b"abc"
    assert owner.stream.address == LEFT


def test_a_hook_may_connect_and_may_destroy() -> None:
    endpoint = UdxEndpoint(Random(1).randbytes)

    def accept(socket: int, sender: Address, now: float) -> bool:
        endpoint.connect(first, socket, sender, 9, now=now)
        return True

    def give_up(_socket: int, _sender: Address, _now: float) -> bool:
        endpoint.release(second)
        return True

    first, second = endpoint.reserve(accept), endpoint.reserve(give_up)
    endpoint.receive(packet(DATA, first, b"a"), 21, LEFT, 1, now=0.0)
    endpoint.receive(packet(DATA, second, b"a"), 21, LEFT, 1, now=0.0)
    assert [t.address for t in endpoint.datagrams_to_send(now=0.0)] == [LEFT]
    assert len(endpoint) == 1


def test_t17_without_a_hook_and_from_port_0_nothing_is_taken() -> None:
    endpoint = UdxEndpoint(Random(1).randbytes)
    without, willing = endpoint.reserve(None), endpoint.reserve(lambda *_: True)
    endpoint.receive(packet(DATA, without, b"a"), 21, LEFT, 0, now=0.0)
    endpoint.receive(packet(DATA, willing, b"a"), 21, Address("10.0.0.1", 0), 0, now=0.0)
    assert endpoint.counters.rejected == 2


# --- work and time


def test_idle_streams_are_not_looked_at() -> None:
    network = Network(LEFT, RIGHT)
    pairs = [connected(network, LEFT, RIGHT) for _ in range(50)]
    network.run()
    endpoint = network.endpoints[LEFT]
    assert not endpoint.has_work
    looked: list[int] = []
    for left, _ in pairs:
        machine = left.stream.machine
        machine.datagrams_to_send = _counting(machine.datagrams_to_send, looked, machine.local_id)  # type: ignore[method-assign]
    pairs[7][0].stream.write(b"x")
    network.run()
    assert set(looked) == {pairs[7][0].stream.local_id}
    assert pairs[7][1].data == b"x"
    assert endpoint.next_timer() is None or endpoint.next_timer() > network.now  # type: ignore[operator]


def _counting(call: Callable[..., Any], log: list[int], name: int) -> Callable[..., Any]:
    def counted(**arguments: Any) -> Any:
        log.append(name)
        return call(**arguments)

    return counted


def test_lost_packets_are_repaired_by_the_endpoints_timer() -> None:
    network = Network(LEFT, RIGHT)
    left, right = connected(network, LEFT, RIGHT)
    network.lose = lambda _: network.random.random() < 0.3
    left.stream.write(pattern(30_000))
    network.run(until=60.0)
    assert right.data == pattern(30_000)


def test_a_socket_that_is_full_holds_up_its_own_streams_only() -> None:
    network = Network(LEFT, RIGHT)
    endpoint = network.endpoints[LEFT]
    for socket in (0, 1):
        stream_id = endpoint.reserve(None)
        endpoint.connect(stream_id, socket, RIGHT, 1, now=0.0).write(b"x")
    assert [t.socket for t in endpoint.datagrams_to_send(now=0.0, blocked={0})] == [1]
    assert [t.socket for t in endpoint.datagrams_to_send(now=0.0)] == [0]


def test_one_call_gives_a_bounded_part_and_says_that_there_is_more() -> None:
    network = Network(LEFT, RIGHT)
    left, right = connected(network, LEFT, RIGHT)
    left.stream.write(pattern(20_000_000))
    network.run(until=0.5)
    endpoint, sent = network.endpoints[LEFT], list[int]()
    while not sent or endpoint.has_work:
        sent.append(sum(len(t.data) for t in endpoint.datagrams_to_send(now=network.now)))
        assert sent[-1] <= 17 * 65536
        assert len(sent) < 100
    assert right.data


def test_deadlines_move_to_earlier_times_and_fire_early_rather_than_late() -> None:
    deadlines: Deadlines[str] = Deadlines()
    deadlines.set("a", 5.0)
    deadlines.set("a", 9.0)
    assert deadlines.next() == 5.0
    deadlines.set("a", 2.0)
    deadlines.set("b", 3.0)
    deadlines.set("c", 1.0)
    deadlines.set("c", None)
    assert deadlines.due(2.5) == ["a"]
    assert deadlines.due(10.0) == ["b"]
    assert deadlines.next() is None


# --- ending


def end_both(network: Network, left: Owner, right: Owner) -> None:
    left.stream.end()
    right.stream.end()
    network.run()
    for owner in (left, right):
        assert owner.events == [StreamEnded(), StreamClosed(CloseReason.FINISHED)]


def test_a_finished_stream_answers_for_14_s_and_leaves_its_socket_then() -> None:
    network = Network(LEFT, RIGHT)
    unused: list[int] = []
    endpoint = network.endpoints[LEFT]
    endpoint.on_socket_unused = unused.append
    left, right = connected(network, LEFT, RIGHT)
    left.stream.write(b"hello")
    end_both(network, left, right)
    start = network.now
    network.run(until=start + LINGER_TIME - 1)
    again = packet(END, left.stream.local_id, seq=0)
    endpoint.receive(again, 20, RIGHT, 0, now=network.now)
    assert len(endpoint.datagrams_to_send(now=network.now)) == 1
    assert (len(endpoint), unused) == (1, [])
    network.run(until=start + LINGER_TIME + 1)
    assert (len(endpoint), unused, endpoint.streams_on(0)) == (0, [0], 0)
    assert list(endpoint.receive(again, 20, RIGHT, 0, now=network.now)) == [again]


def test_t18_finished_streams_do_not_pile_up() -> None:
    network = Network(LEFT, RIGHT)
    endpoint = network.endpoints[LEFT] = UdxEndpoint(network.random.randbytes, max_lingering=10)
    for _ in range(30):
        end_both(network, *connected(network, LEFT, RIGHT))
    network.run()
    assert len(endpoint) == 10
    assert len(network.endpoints[RIGHT]) == 30


def test_destroy_resets_the_other_side_at_once() -> None:
    network = Network(LEFT, RIGHT)
    left, right = connected(network, LEFT, RIGHT)
    left.stream.destroy()
    network.run()
    assert left.events == [StreamClosed(CloseReason.DESTROYED)]
    assert right.events == [StreamClosed(CloseReason.RESET)]
    assert [len(endpoint) for endpoint in network.endpoints.values()] == [0, 0]


def test_t18_many_peers_with_a_gap_do_not_fill_the_memory() -> None:
    network = Network(LEFT, RIGHT)
    endpoint = network.endpoints[LEFT]
    streams = [connected(network, LEFT, RIGHT)[0].stream for _ in range(10)]
    for stream in streams:
        for batch in range(200):
            data = b"".join(packet(DATA, stream.local_id, bytes(1000), seq=1 + 50 * batch + n) for n in range(50))
            endpoint.receive(data, 1020, RIGHT, 0, now=0.0)
    held = sum(stream.machine._received.held_bytes for stream in streams)
    assert 60 << 20 < held == endpoint._held.used <= 64 << 20
    for stream in streams:
        stream.destroy()
    network.run()
    assert endpoint._held.used == 0


def test_t17_forged_packets_are_counted() -> None:
    network = Network(LEFT, RIGHT)
    left, _ = connected(network, LEFT, RIGHT)
    network.endpoints[LEFT].receive(packet(STATE, left.stream.local_id, ack=5), 20, OTHER, 0, now=0.0)
    left.stream.destroy()
    network.run()
    assert network.endpoints[LEFT].counters.forged == 1


def test_an_abandoned_stream_delivers_everything_and_waits_a_while_for_the_peer_to_end() -> None:
    network = Network(LEFT, RIGHT)
    left, right = connected(network, LEFT, RIGHT)
    left.stream.write(pattern(100_000))
    left.stream.abandon(10.0)
    right.stream.write(pattern(200_000))  # nobody reads it, and it does not stand in the way
    network.run(until=5.0)
    assert right.data == pattern(100_000)
    assert right.events == [StreamEnded()]
    assert left.data == b""
    right.stream.end()
    network.run(until=6.0)
    assert left.events == right.events == [StreamEnded(), StreamClosed(CloseReason.FINISHED)]


def test_an_abandoned_stream_is_destroyed_in_the_end() -> None:
    network = Network(LEFT, RIGHT)
    left, right = connected(network, LEFT, RIGHT)
    left.stream.abandon(10.0)
    network.run(until=9.0)
    assert left.events == []
    network.run(until=10.5)
    assert left.events == [StreamClosed(CloseReason.DESTROYED)]
    assert right.events == [StreamEnded(), StreamClosed(CloseReason.RESET)]


# --- another remote, and relays


def test_a_stream_moves_to_another_socket_and_address() -> None:
    network = Network(LEFT, RIGHT)
    unused: list[int] = []
    left_endpoint = network.endpoints[LEFT]
    left_endpoint.on_socket_unused = unused.append
    left, right = connected(network, LEFT, RIGHT)
    right.stream.hook = lambda *_: True
    left.stream.write(b"one")
    left_endpoint.datagrams_to_send(now=0.0)  # lost
    left_endpoint.change_remote(left.stream.local_id, 4, Address(RIGHT.host, RIGHT.port + 2), right.stream.local_id)
    assert unused == [0]
    left.stream.write(b"two")
    ((_, _, to, socket),) = left_endpoint.datagrams_to_send(now=0.0)
    assert (to.port, socket) == (RIGHT.port + 2, 4)
    left_endpoint.handle_timer(now=1.0)
    ((_, _, to, socket),) = left_endpoint.datagrams_to_send(now=1.0)
    assert (to.port, socket) == (RIGHT.port + 2, 4)  # the old way may be gone
    left.stream.hook = lambda *_: True  # the answers still go to the old socket
    network.now = 1.0
    network.run(until=10.0)
    assert right.data == b"onetwo"
    assert left.events == [StreamRemoteChanged()]


def relayed(network: Network, **options: Any) -> tuple[Owner, Owner, int, int]:
    """Streams of LEFT and RIGHT through RELAY, and the relay's own two."""
    left, for_left = connected(network, LEFT, RELAY)
    right, for_right = connected(network, RIGHT, RELAY)
    relay = network.endpoints[RELAY]
    one, other = for_left.stream.local_id, for_right.stream.local_id
    relay.relay(one, other, **options)
    relay.relay(other, one, **options)
    return left, right, one, other


def test_a_relay_carries_both_directions_without_touching_them() -> None:
    network = Network(LEFT, RIGHT, RELAY)
    left, right, one, other = relayed(network)
    left.stream.write(pattern(200_000))
    right.stream.write(pattern(100_000))
    left.stream.send_message(b"beside")
    network.run()
    assert right.data == pattern(200_000)
    assert left.data == pattern(100_000)
    assert right.events == [StreamMessageReceived(b"beside")]
    assert network.endpoints[RELAY].counters.relayed_bytes > 300_000
    left.stream.end()
    right.stream.end()
    network.run()
    assert left.events == [StreamEnded(), StreamClosed(CloseReason.FINISHED)]
    with pytest.raises(LocalProtocolError):
        network.endpoints[RELAY].relay(one, other)


def test_a_destroy_through_a_relay_ends_all_four_streams() -> None:
    network = Network(LEFT, RIGHT, RELAY)
    left, right, _, _ = relayed(network)
    left.stream.destroy()
    network.run()
    assert right.events == [StreamClosed(CloseReason.RESET)]
    assert [len(endpoint) for endpoint in network.endpoints.values()] == [0, 0, 0]


def test_a_relay_that_gives_up_one_side_tells_the_other() -> None:
    network = Network(LEFT, RIGHT, RELAY)
    _, right, one, _ = relayed(network)
    relay = network.endpoints[RELAY]
    relay.stream(one).destroy()
    network.run()
    assert right.events == [StreamClosed(CloseReason.RESET)]
    assert len(relay) == 0


def test_t18_a_relay_carries_no_more_than_its_hook_allows() -> None:
    network = Network(LEFT, RIGHT, RELAY)
    seen: list[tuple[int, int]] = []

    def allow(packets: int, size: int) -> bool:
        seen.append((packets, size))
        return sum(size for _, size in seen) < 100_000

    left, right, _, _ = relayed(network, hook=allow)
    left.stream.write(pattern(300_000))
    network.run()
    assert len(right.data) < 100_000
    assert network.endpoints[RELAY].counters.relayed_bytes < 100_000
    assert network.endpoints[RELAY].counters.not_relayed > 0
    assert max(packets for packets, _ in seen) > 1


def test_packets_for_a_relayed_stream_that_is_not_connected_are_dropped() -> None:
    endpoint = UdxEndpoint(Random(1).randbytes)
    one, other = endpoint.reserve(None), endpoint.reserve(None)
    endpoint.connect(one, 0, LEFT, 5, now=0.0)
    endpoint.relay(one, other)
    endpoint.receive(packet(DATA, one, b"x"), 21, LEFT, 0, now=0.0)
    assert endpoint.datagrams_to_send(now=0.0) == []
    assert endpoint.counters.not_relayed == 1


def test_after_the_relay_a_direct_path_takes_over() -> None:
    network = Network(LEFT, RIGHT, RELAY)
    left, right, _, _ = relayed(network)
    left.stream.write(b"relayed ")
    network.run()
    for owner, address, peer in ((left, RIGHT, right), (right, LEFT, left)):
        endpoint = network.endpoints[LEFT if owner is left else RIGHT]
        endpoint.change_remote(owner.stream.local_id, 0, address, peer.stream.local_id)
        owner.stream.send_message(b"")  # as hyperdht does, so that the other side sees the direct path
    carried = network.endpoints[RELAY].counters.relayed_bytes
    left.stream.write(b"direct")
    network.run()
    assert right.data == b"relayed direct"
    assert network.endpoints[RELAY].counters.relayed_bytes == carried
    assert StreamRemoteChanged() in left.events


def test_readdressing_changes_the_ids_alone() -> None:
    datagrams = [packet(DATA, 7, bytes([n]) * 5, seq=n) for n in range(9)] + [packet(DESTROY, 7)]
    data = readdress(b"".join(datagrams), 25, 0xDDCCBBAA)
    for n in range(9):
        assert data[n * 25 : n * 25 + 25] == packet(DATA, 0xDDCCBBAA, bytes([n]) * 5, seq=n)
    assert has_destroy(data, 25)
    assert not has_destroy(data[:225], 25)
