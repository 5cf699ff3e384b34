"""The UDP side of one node: its sockets, the UDX streams on them, and the one timer behind both.

    async with UdxTransport(host="0.0.0.0") as transport:
        socket = transport.open(port=49737)
        transport.attach(machine)                     # what is no stream packet goes there; its datagrams leave from here
        stream_id = transport.endpoint.reserve(hook)
        transport.endpoint.connect(stream_id, socket, address, remote_id, now=transport.now())
        stream = UdxByteStream(transport, stream_id)

A turn is always the same: take in what one socket has, let the machines answer, send, set the timer.
"""

import os
from collections.abc import Callable, Iterable
from typing import Protocol

import anyio
from anyio.abc import TaskGroup

from ..addresses import Address
from ..udx import UdxEndpoint
from .offload import Offload, bind_udp
from .reactor import Reactor, reactor_for
from .udp import UdpSocket


class OutgoingDatagram(Protocol):
    """`rpc.Datagram`, for instance."""

    @property
    def data(self) -> bytes: ...

    @property
    def to(self) -> Address: ...

    @property
    def socket(self) -> int: ...

    @property
    def ttl(self) -> int | None: ...


class DatagramMachine(Protocol):
    """A machine beside the streams, such as a whole DHT node."""

    def receive(self, datagram: bytes, *, sender: Address, socket: int, now: float) -> object: ...

    def datagrams_to_send(self) -> Iterable[OutgoingDatagram]: ...

    def next_timer(self) -> float | None: ...

    def handle_timer(self, *, now: float) -> object: ...


class UdxTransport:
    """An async context manager; everything but that is called from within its event loop and returns at once.

    Sockets are numbers, counted from 0 in the order they are opened and never used twice.
    """

    def __init__(
        self,
        *,
        host: str = "0.0.0.0",  # noqa: S104  # a node is there to be reached
        offload: Offload | None = None,
        randbytes: Callable[[int], bytes] = os.urandom,
        reactor: Callable[[TaskGroup], Reactor] = reactor_for,
    ) -> None:
        """
        Args:
            host: What sockets are bound to.
            offload: Which batches the kernel is asked to make; without it what it can. `Offload.none()` switches both off.
            reactor: How sockets and time are watched; `TaskReactor` works with every event loop.
        """
        self.host = host
        self.endpoint = UdxEndpoint(randbytes)
        self.on_datagram: Callable[[bytes, Address, int], object] = lambda data, sender, socket: None
        """Called with every datagram that is for no stream, unless a machine is attached."""
        self.on_socket_closed: Callable[[int], object] = lambda socket: None
        """Called with the number of each socket that was closed before the transport was."""
        self._offload = Offload.probe() if offload is None else offload
        self._make_reactor = reactor
        self._machine: DatagramMachine | None = None
        self._sockets: dict[int, UdpSocket] = {}
        self._blocked: set[int] = set()
        self._leaving: set[int] = set()
        self._opened = 0
        self._flush_scheduled = False
        self._alarm_at = float("inf")
        self._closed = False

    async def __aenter__(self) -> "UdxTransport":
        self._task_group = anyio.create_task_group()
        await self._task_group.__aenter__()
        self._reactor = self._make_reactor(self._task_group)
        self.endpoint.on_work = self.wake
        self.endpoint.on_socket_unused = self._socket_unused
        return self

    async def __aexit__(self, *_: object) -> None:
        self.shut_down()
        self._task_group.cancel_scope.cancel()
        await self._task_group.__aexit__(None, None, None)  # not told of the block's own error, it wraps it in no group

    def shut_down(self) -> None:
        """Give all streams up, tell their peers, and close the sockets. The end of the context does it too."""
        if self._closed:
            return
        self.endpoint.destroy_all()
        self._flush()
        self._closed = True
        self._reactor.close()
        for sock in self._sockets.values():
            sock.close()
        self._sockets.clear()

    def now(self) -> float:
        """The clock of everything here."""
        return self._reactor.now()

    def attach(self, machine: DatagramMachine) -> None:
        """Drive `machine` too. Call `wake` after asking something of it from outside."""
        self._machine = machine
        self.wake()

    def wake(self) -> None:
        """There is something to send, or a timer changed: have a turn soon."""
        if not self._flush_scheduled and not self._closed:
            self._flush_scheduled = True
            self._reactor.call_soon(self._flush)

    # --- sockets

    def open(self, port: int = 0) -> int:
        """Bind a socket; see `dht.context.Sockets`.

        Raises:
            OSError: The port is taken, or no file descriptor is left.
        """
        number = self._opened
        raw = bind_udp(self.host, port)

        def on_datagrams(data: bytes, segment_bytes: int, sender: Address) -> None:
            self._received(data, segment_bytes, sender, number)

        self._sockets[number] = UdpSocket(
            raw, self._reactor, on_datagrams, offload=self._offload, turn_over=self._flush
        )
        self._opened += 1
        return number

    def close(self, socket: int) -> None:
        """Close it once no stream uses it any more."""
        if self.endpoint.streams_on(socket):
            self._leaving.add(socket)
        else:
            self._close_socket(socket)

    def port(self, socket: int) -> int:
        """The local port."""
        return self._sockets[socket].address.port

    def ports(self) -> tuple[int, ...]:
        """The local ports of all open sockets."""
        return tuple(sock.address.port for sock in self._sockets.values())

    def socket(self, number: int) -> UdpSocket:
        """For looking at its counters."""
        return self._sockets[number]

    def send(self, data: bytes, address: Address, socket: int, ttl: int | None = None) -> None:
        """Send one datagram that belongs to no stream. Through a socket that was closed meanwhile nothing is sent."""
        if (sock := self._sockets.get(socket)) is not None:
            sock.send(data, max(len(data), 1), address, ttl=ttl)
            if sock.blocked:
                self._blocked.add(socket)

    def _socket_unused(self, socket: int) -> None:
        if socket in self._leaving:
            self.wake()  # closed only then: the stream's last words may still have to go out

    def _close_unused(self) -> None:
        for socket in tuple(self._leaving):
            if not self.endpoint.streams_on(socket):
                self._close_socket(socket)

    def _close_socket(self, socket: int) -> None:
        self._leaving.discard(socket)
        self._blocked.discard(socket)
        if (sock := self._sockets.pop(socket, None)) is not None:
            sock.close()
            self.on_socket_closed(socket)

    # --- a turn

    def _received(self, data: bytes, segment_bytes: int, sender: Address, socket: int) -> None:
        now = self._reactor.now()
        for stray in self.endpoint.receive(data, segment_bytes, sender, socket, now=now):
            if self._machine is not None:
                self._machine.receive(stray, sender=sender, socket=socket, now=now)
            else:
                self.on_datagram(stray, sender, socket)

    def _flush(self) -> None:
        self._flush_scheduled = False
        if self._closed:
            return
        if self._blocked:
            self._blocked = {number for number in self._blocked if self._sockets[number].blocked}
        if self._machine is not None:
            for datagram in self._machine.datagrams_to_send():
                self.send(datagram.data, datagram.to, datagram.socket, datagram.ttl)
        for data, segment_bytes, address, socket in self.endpoint.datagrams_to_send(
            now=self._reactor.now(), blocked=self._blocked
        ):
            sock = self._sockets[socket]
            sock.send(data, segment_bytes, address)
            if sock.blocked:
                self._blocked.add(socket)
        if self._leaving:
            self._close_unused()
        if self.endpoint.has_work and not self._blocked:
            self.wake()
        self._set_alarm()

    def _set_alarm(self) -> None:
        """An alarm that is too early does no harm, so it is moved to an earlier time only."""
        timers = [self.endpoint.next_timer()]
        if self._machine is not None:
            timers.append(self._machine.next_timer())
        at = min((timer for timer in timers if timer is not None), default=float("inf"))
        if at < self._alarm_at:
            self._alarm_at = at
            self._reactor.wake_at(at, self._on_alarm)

    def _on_alarm(self) -> None:
        self._alarm_at = float("inf")
        now = self._reactor.now()
        self.endpoint.handle_timer(now=now)
        if self._machine is not None:
            self._machine.handle_timer(now=now)
        self._flush()
