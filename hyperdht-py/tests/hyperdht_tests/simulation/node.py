"""Runs a machine on a host: feeds it what arrives, sends what it has, wakes it when it wants."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from hyperdht.addresses import Address
from hyperdht.dht.context import StreamPacketHook
from hyperdht.rpc.requests import Datagram
from hyperdht.udx.packet import encode_packet, is_stream_packet, stream_id_of

from .network import Host

if TYPE_CHECKING:
    from collections.abc import Callable

CLIENT_SOCKET, SERVER_SOCKET = 0, 1
PROBE_BYTES = 1
NEVER = float("inf")


class Machine(Protocol):
    """What every node without I/O offers."""

    def receive(self, datagram: bytes, *, sender: Address, socket: int, now: float) -> None: ...

    def datagrams_to_send(self) -> list[Datagram]: ...

    def next_timer(self) -> float | None: ...

    def handle_timer(self, *, now: float) -> None: ...


@dataclass(slots=True)
class SimulatedStreams:
    """`Streams` without streams: packets of reserved ones go through their hooks, and what these take is kept."""

    taken: list[tuple[int, int, Address]] = field(default_factory=list)
    """Stream id, socket and sender of each packet that a hook took."""
    _hooks: dict[int, StreamPacketHook] = field(default_factory=dict)
    _count: int = 0

    def reserve(self, hook: StreamPacketHook) -> int:
        self._count += 1
        self._hooks[self._count] = hook
        return self._count

    def release(self, stream_id: int) -> None:
        self._hooks.pop(stream_id, None)

    def receive(self, datagram: bytes, *, sender: Address, socket: int, now: float) -> None:
        """A packet of a stream arrived."""
        stream_id = stream_id_of(datagram)
        hook = self._hooks.get(stream_id) if stream_id is not None else None
        if stream_id is not None and hook is not None and hook(socket, sender, now):
            self.taken.append((stream_id, socket, sender))


class SimulatedNode:
    """One host with the sockets of a node; it is the `Sockets` of its machine.

    Set `machine`, call it, then `wake`. Hand `port`, `local_addresses` and `streams` to it as it needs them.
    """

    def __init__(self, host: Host, *, server_port: int = 0, demultiplex: bool = True) -> None:
        """
        Args:
            demultiplex: Give packets of streams to `streams`; otherwise the machine gets them too.
        """
        self.host = host
        self.clock = host.clock
        self.machine: Machine | None = None
        self.streams = SimulatedStreams()
        self.on_probe: Callable[[int, Address, float], None] | None = None
        """Called as on_probe(socket, sender, now) in place of the machine's `receive`."""
        self._demultiplex = demultiplex
        self._ports: dict[int, int] = {}
        self._next_socket = CLIENT_SOCKET
        self._armed_at = NEVER
        self.open()
        self.open(server_port)

    @property
    def address(self) -> Address:
        """Where others reach the server socket if no box is in between."""
        return Address(self.host.address, self._ports[SERVER_SOCKET])

    @property
    def now(self) -> float:
        return self.clock.now

    def local_addresses(self) -> tuple[Address, ...]:
        """What peers in the same network may try."""
        return (self.address,)

    def open(self, port: int = 0) -> int:
        """Bind one more socket."""
        socket = self._next_socket

        def handler(data: bytes, sender: Address, now: float) -> None:
            self._receive(data, sender, socket, now)

        self._ports[socket] = self.host.bind(handler, port)
        self._next_socket += 1
        return socket

    def close(self, socket: int) -> None:
        """Close a socket."""
        self.host.close(self._ports.pop(socket))

    def port(self, socket: int) -> int:
        return self._ports[socket]

    @property
    def open_sockets(self) -> int:
        return len(self._ports)

    def send_stream_packet(self, stream_id: int, *, to: Address, socket: int) -> None:
        """An empty packet for a stream of the other side, as the first one after a handshake."""
        packet = encode_packet(0, stream_id=stream_id, rwnd=0, seq=0, ack=0)
        self.host.send(packet, to, port=self._ports[socket])

    def wake(self) -> None:
        """Send what the machine has, and set the timer; to be called after anything was called on the machine."""
        machine = self.machine
        if machine is None:
            return
        for data, to, socket, ttl in machine.datagrams_to_send():
            port = self._ports.get(socket)
            if port is not None:  # a machine may send once more from a socket it then closes
                self.host.send(data, to, port=port, ttl=ttl)
        when = machine.next_timer()
        if when is not None and when < self._armed_at:
            self._armed_at = when
            self.clock.call_at(when, self._ring, when)

    def stop(self) -> None:
        """Vanish without a word."""
        self.machine = None
        self.host.unplug()

    def _receive(self, data: bytes, sender: Address, socket: int, now: float) -> None:
        machine = self.machine
        if machine is None:
            return
        if self.on_probe is not None and len(data) == PROBE_BYTES:
            self.on_probe(socket, sender, now)
        elif self._demultiplex and is_stream_packet(data):
            self.streams.receive(data, sender=sender, socket=socket, now=now)
        else:
            machine.receive(data, sender=sender, socket=socket, now=now)
        self.wake()

    def _ring(self, when: float) -> None:
        """A timer that was set. The machine may by now want a later one, or an earlier one may have been set since."""
        if when != self._armed_at or self.machine is None:
            return
        self._armed_at = NEVER
        wanted = self.machine.next_timer()
        if wanted is not None and wanted <= self.clock.now:
            self.machine.handle_timer(now=self.clock.now)
        self.wake()
