"""A machine on a simulated host: what arrives, what is sent, when it is woken, and its further sockets."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from hyperdht.addresses import Address
from hyperdht.rpc.requests import Datagram
from hyperdht.rpc.timers import Timers

from .simulation import Network, SimulatedNode
from .simulation.node import CLIENT_SOCKET, SERVER_SOCKET

if TYPE_CHECKING:
    from hyperdht.dht.context import Sockets, Streams


@dataclass
class Recorder:
    """A machine that writes down what is done with it, and sends what it is told to."""

    timers: Timers = field(default_factory=Timers)
    outgoing: list[Datagram] = field(default_factory=list)
    heard: list[tuple[bytes, Address, int, float]] = field(default_factory=list)
    woken: list[float] = field(default_factory=list)

    def receive(self, datagram: bytes, *, sender: Address, socket: int, now: float) -> None:
        self.heard.append((datagram, sender, socket, now))

    def datagrams_to_send(self) -> list[Datagram]:
        outgoing, self.outgoing = self.outgoing, []
        return outgoing

    def next_timer(self) -> float | None:
        return self.timers.next_timer()

    def handle_timer(self, *, now: float) -> None:
        self.woken.append(now)
        self.timers.handle_timer(now=now)


def recorder_on(network: Network) -> tuple[SimulatedNode, Recorder]:
    node, machine = SimulatedNode(network.host()), Recorder()
    node.machine = machine
    return node, machine


def test_datagrams_leave_from_their_socket_and_arrive_at_the_one_they_were_sent_to() -> None:
    network = Network(1)
    left, sender = recorder_on(network)
    right, receiver = recorder_on(network)
    extra = right.open()
    for socket in (CLIENT_SOCKET, SERVER_SOCKET, extra):
        to = Address(right.host.address, right.port(socket))
        sender.outgoing.append(Datagram(b"x", to, CLIENT_SOCKET))
    left.wake()
    network.clock.run(1)
    source = Address(left.host.address, left.port(CLIENT_SOCKET))
    assert [heard[:3] for heard in receiver.heard] == [(b"x", source, socket) for socket in (0, 1, extra)]
    assert [heard[3] for heard in receiver.heard] == pytest.approx([0.02] * 3)


def test_a_machine_is_woken_at_its_times_also_when_these_change() -> None:
    network = Network(1)
    node, machine = recorder_on(network)
    late = machine.timers.call_at(5.0, lambda now: None)
    node.wake()

    def again(now: float) -> None:
        machine.timers.call_at(now + 1, lambda _: None)

    machine.timers.call_at(2.0, again)
    node.wake()
    late.cancel()
    network.clock.run(4)
    assert machine.woken == [2.0, 3.0]
    earlier = machine.timers.call_at(6.0, lambda now: None)
    node.wake()
    machine.timers.call_at(7.0, lambda now: None)
    earlier.cancel()
    network.clock.run(10)
    assert machine.woken == [2.0, 3.0, 7.0]


def test_probes_and_stream_packets_have_their_own_ways() -> None:
    network = Network(1)
    left, sender = recorder_on(network)
    right, receiver = recorder_on(network)
    probes: list[tuple[int, Address]] = []
    right.on_probe = lambda socket, address, _: probes.append((socket, address))
    taken, refused = (right.streams.reserve(lambda *_, answer=answer: answer) for answer in (True, False))
    sender.outgoing.append(Datagram(b"\0", right.address, CLIENT_SOCKET))
    left.wake()
    for stream_id in (taken, refused, 99):
        left.send_stream_packet(stream_id, to=right.address, socket=SERVER_SOCKET)
    network.clock.run(1)
    assert probes == [(SERVER_SOCKET, Address(left.host.address, left.port(CLIENT_SOCKET)))]
    assert right.streams.taken == [(taken, SERVER_SOCKET, left.address)]
    assert receiver.heard == []
    right.streams.release(taken)
    left.send_stream_packet(taken, to=right.address, socket=SERVER_SOCKET)
    network.clock.run(1)
    assert len(right.streams.taken) == 1


def test_sockets_are_numbered_once() -> None:
    node, machine = recorder_on(Network(1))
    sockets: Sockets = node
    streams: Streams = node.streams
    first = sockets.open()
    port = sockets.port(first)
    sockets.close(first)
    assert sockets.open() == first + 1
    assert node.open_sockets == 3
    node.open(port)
    machine.outgoing.append(Datagram(b"too late", node.address, first))
    node.wake()
    assert node.host.sent == 0
    assert streams.reserve(lambda *_: True) != streams.reserve(lambda *_: True)


def test_a_stopped_node_does_nothing() -> None:
    network = Network(1)
    left, sender = recorder_on(network)
    right, receiver = recorder_on(network)
    receiver.timers.call_at(1.0, lambda now: None)
    right.wake()
    sender.outgoing.append(Datagram(b"x", right.address, CLIENT_SOCKET))
    left.wake()
    right.stop()
    network.clock.run(5)
    assert receiver.heard == []
    assert receiver.woken == []
