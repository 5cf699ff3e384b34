"""All streams of one node, whatever sockets they use.

    endpoint = UdxEndpoint(randbytes)
    stream_id = endpoint.reserve(hook)                # the peer learns it out of band
    stream = endpoint.connect(stream_id, socket, address, remote_id, now=now)
    for datagram in endpoint.receive(data, segment_bytes, sender, socket, now=now): ...   # not for a stream
    for data, segment_bytes, address, socket in endpoint.datagrams_to_send(now=now): ...
    endpoint.next_timer(); endpoint.handle_timer(now=now)

Packets find their stream by its id alone, through whatever socket they come; where from is only looked at by the hook of a
stream, which is asked about packets that come through another socket than the stream's, before `connect` about all. What
costs time is bounded by the streams that have something to do: 1,000 idle ones are not looked at.

Source: docs/protocol/udx.md.
"""

from collections import Counter, deque
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from ..addresses import Address
from ..buffers import BytesLike
from ..errors import LocalProtocolError
from .bundle import common_stream_id, has_destroy, readdress, split_by_stream
from .deadlines import Deadlines
from .events import Event
from .reassembly import HeldMemory
from .sender import CLOCK_SLACK
from .stream import State, UdxStream

StreamPacketHook: TypeAlias = Callable[[int, Address, float], bool]
"""Called as hook(socket, sender, now); returns whether to take the packet. It may `connect` the stream."""
RelayHook: TypeAlias = Callable[[int, int], bool]
"""Called as hook(packets, bytes) before packets are relayed; returns whether to forward them. Not forwarding is a loss."""

# Finished streams answer a lost acknowledgement for 14 s. A peer that opens and ends streams all the time must not pile
# them up: 1,024 are 70 streams ended per second; of more the oldest are forgotten, as libudx forgets all at once.
MAX_LINGERING = 1024
# Beyond gaps a single peer can make us hold 12 MiB, and there may be many peers. Five honest ones at full speed fit.
MAX_HELD_BYTES = 64 << 20


class Transmission(NamedTuple):
    """Datagrams to send: one after the other in `data`, the last may be shorter."""

    data: bytes
    segment_bytes: int
    address: Address
    socket: int


@dataclass(slots=True)
class Counters:
    """What an endpoint did not let through, in packets or, where a whole buffer is judged at once, in buffers."""

    rejected: int = 0
    """By a stream's hook, or from port 0."""
    unknown: int = 0
    """Stream packets of no stream we have, given back to the caller."""
    forged: int = 0
    """Damaged, or acknowledging what was never sent; of streams that are over."""
    not_relayed: int = 0
    """The other stream was not connected, or the hook of the relay forbade it."""
    relayed_bytes: int = 0


class EndpointStream:
    """One stream: its machine, where its packets go, and who is told what happens."""

    __slots__ = (
        "_addresses", "_endpoint", "_on_event", "abandoned_at", "hook", "machine", "relay_hook", "relayed_from", "relays_to",
        "socket",
    )  # fmt: skip

    def __init__(self, endpoint: "UdxEndpoint", machine: UdxStream, hook: StreamPacketHook | None) -> None:
        self.machine = machine
        """For looking; changes go through the methods here."""
        self.hook = hook
        self.socket: int | None = None
        """None before `connect`."""
        self.relays_to: EndpointStream | None = None
        self.relayed_from: set[EndpointStream] = set()
        self.relay_hook: RelayHook | None = None
        self.abandoned_at: float | None = None
        """When an abandoned stream is destroyed."""
        self._endpoint = endpoint
        self._addresses: list[Address] = []  # by path of the machine
        self._on_event: Callable[[Event], None] | None = None

    @property
    def local_id(self) -> int:
        """What the peer writes into its packets."""
        return self.machine.local_id

    @property
    def address(self) -> Address | None:
        """Where packets go now; None before `connect`."""
        return self._addresses[-1] if self._addresses else None

    def on_event(self, callback: Callable[[Event], None] | None) -> None:
        """Call `callback` with every event, beginning with those that wait already. It may use the stream."""
        self._on_event = callback
        self.tell()

    def tell(self) -> None:
        """Hand out what happened."""
        while self._on_event is not None and (event := self.machine.next_event()) is not None:
            self._on_event(event)

    def read(self) -> bytes:
        """See `UdxStream.read`."""
        data = self.machine.read()
        if self.machine.acknowledgement_due:
            self._endpoint.touch(self)
        return data

    def write(self, data: BytesLike) -> bool:
        """See `UdxStream.write`."""
        self._endpoint.touch(self)
        return self.machine.write(data)

    def end(self) -> None:
        """See `UdxStream.end`."""
        self.machine.end()
        self._endpoint.touch(self)

    def send_message(self, data: BytesLike) -> None:
        """See `UdxStream.send_message`."""
        self.machine.send_message(data)
        self._endpoint.touch(self)

    def watch_peer(self, heartbeat_interval: float, *, now: float) -> None:
        """See `UdxStream.watch_peer`."""
        self.machine.watch_peer(heartbeat_interval, now=now)
        self._endpoint.touch(self)

    def abandon(self, at: float) -> None:
        """End the stream and read no more; what the peer has not ended itself by then is destroyed at `at`.

        For an owner that is done: the peer gets everything that was written, and some time to end its side.
        """
        if self.machine.remote_id is None:
            self.destroy()
            return
        self.machine.end()
        self.machine.discard()
        self.abandoned_at = at
        self._endpoint.touch(self)

    def destroy(self) -> None:
        """Give the stream up. The peer is told, unless the stream relays to another: its peer is not ours then."""
        self.machine.destroy(silent=self.relays_to is not None)
        self._endpoint.touch(self)

    def place_of(self, path: int) -> Address:
        """Where packets of that path go."""
        return self._addresses[path]

    def move(self, socket: int, address: Address) -> None:
        """For the endpoint: the next path begins."""
        self.socket = socket
        self._addresses.append(address)


class UdxEndpoint:
    """See above. Sockets are numbers the owner chooses."""

    def __init__(self, randbytes: Callable[[int], bytes], *, max_lingering: int = MAX_LINGERING) -> None:
        """
        Args:
            randbytes: Where stream ids come from. They are all that keeps a stranger out of a stream below encryption.
        """
        self.counters = Counters()
        self.on_socket_unused: Callable[[int], None] = lambda socket: None
        """Called when the last stream left a socket."""
        self.on_work: Callable[[], None] = lambda: None
        """Called when the owner of a stream did something, so that `datagrams_to_send` is to be called soon."""
        self._randbytes = randbytes
        self._max_lingering = max_lingering
        self._held = HeldMemory(MAX_HELD_BYTES)
        self._streams: dict[int, EndpointStream] = {}
        self._dirty: dict[EndpointStream, None] = {}
        self._lingering: dict[EndpointStream, None] = {}
        self._on_socket: Counter[int] = Counter()
        self._deadlines: Deadlines[EndpointStream] = Deadlines()
        self._relayed: deque[Transmission] = deque()

    def __len__(self) -> int:
        """How many streams there are, reserved and lingering ones included."""
        return len(self._streams)

    def streams_on(self, socket: int) -> int:
        """How many connected streams use a socket."""
        return self._on_socket[socket]

    # --- what the owner wants

    def reserve(self, hook: StreamPacketHook | None, *, stream_id: int | None = None) -> int:
        """Make a stream that is not connected yet.

        Args:
            hook: Asked about packets that come through another socket than the stream's. Without one they are rejected.
            stream_id: A certain one, for tests and other protocols; without it a random one no other stream has.
        Raises:
            LocalProtocolError: The id is taken.
        """
        if stream_id is None:
            stream_id = self._free_id()
        elif stream_id in self._streams:
            raise LocalProtocolError(f"there is a stream {stream_id} already")
        self._streams[stream_id] = EndpointStream(self, UdxStream(stream_id, held=self._held), hook)
        return stream_id

    def release(self, stream_id: int) -> None:
        """Forget a stream that was not connected. A connected one, or none, is left alone."""
        stream = self._streams.get(stream_id)
        if stream is not None and stream.socket is None:
            stream.destroy()

    def stream(self, stream_id: int) -> EndpointStream:
        """The stream of that id.

        Raises:
            LocalProtocolError: There is none, or it is over.
        """
        try:
            return self._streams[stream_id]
        except KeyError:
            raise LocalProtocolError(f"there is no stream {stream_id}") from None

    def connect(self, stream_id: int, socket: int, address: Address, remote_id: int, *, now: float) -> EndpointStream:
        """Fix where a reserved stream sends to. What came for it before is answered now.

        Raises:
            LocalProtocolError: No such stream, or it is connected already.
        """
        stream = self.stream(stream_id)
        stream.machine.connect(remote_id, now=now, ipv6=":" in address.host)
        stream.move(socket, address)
        self._on_socket[socket] += 1
        self.touch(stream)
        return stream

    def change_remote(self, stream_id: int, socket: int, address: Address, remote_id: int) -> None:
        """Send everything new of a connected stream to another place. `StreamRemoteChanged` follows.

        Retransmissions of what was sent before still go to the old address, but through the new socket, as libudx does it;
        after a timeout to the new one, as the old way may be gone.
        """
        stream = self.stream(stream_id)
        stream.machine.change_remote(remote_id, ipv6=":" in address.host)
        previous = stream.socket
        stream.move(socket, address)
        if previous != socket:
            self._on_socket[socket] += 1
            self._leave_socket(previous)
        self.touch(stream)

    def relay(self, stream_id: int, to: int, *, hook: RelayHook | None = None) -> None:
        """Forward every packet of one stream through another, and take none of them. Call it for both directions.

        A packet that gives the stream up is forwarded, then ends the stream and those that are relayed into it.

        Args:
            hook: Where an operator limits what it carries for strangers.
        Raises:
            LocalProtocolError: One of the two does not exist, or the first is relayed already.
        """
        source, target = self.stream(stream_id), self.stream(to)
        if source.relays_to is not None:
            raise LocalProtocolError(f"stream {stream_id} is relayed already")
        source.relays_to, source.relay_hook = target, hook
        target.relayed_from.add(source)

    def destroy_all(self) -> None:
        """Give everything up; what `datagrams_to_send` gives then tells the peers."""
        for stream in tuple(self._streams.values()):
            stream.destroy()

    def touch(self, stream: EndpointStream) -> None:
        """Something about `stream` changed: look at it in the next `datagrams_to_send`."""
        if not self._dirty:
            self.on_work()
        self._dirty[stream] = None

    # --- what arrives

    def receive(self, data: bytes, segment_bytes: int, sender: Address, socket: int, *, now: float) -> Iterable[bytes]:
        """Take in what one read of a socket gave.

        Args:
            data: One datagram or several of `segment_bytes`, of which the last may be shorter. Payloads are kept as views.
        Returns:
            The datagrams that are for no stream: they belong to the DHT or to nobody.
        """
        stream_id = common_stream_id(data, segment_bytes)
        if stream_id is not None:
            stream = self._streams.get(stream_id)
            if stream is not None:
                self._take(stream, data, segment_bytes, sender, socket, now)
                return ()
            self.counters.unknown += 1
        if len(data) <= segment_bytes:
            return (data,)
        return self._receive_mixed(data, segment_bytes, sender, socket, now)

    def _receive_mixed(self, data: bytes, segment_bytes: int, sender: Address, socket: int, now: float) -> list[bytes]:
        strays: list[bytes] = []
        for stream_id, part in split_by_stream(data, segment_bytes):
            stream = None if stream_id is None else self._streams.get(stream_id)
            if stream is not None:
                self._take(stream, part, segment_bytes, sender, socket, now)
            else:
                strays += (part[at : at + segment_bytes] for at in range(0, len(part), segment_bytes))
        return strays

    def _take(
        self, stream: EndpointStream, data: bytes, segment_bytes: int, sender: Address, socket: int, now: float
    ) -> None:
        if socket != stream.socket and not (sender.port and stream.hook and stream.hook(socket, sender, now)):
            self.counters.rejected += 1
            return
        if stream.relays_to is not None:
            self._forward(stream, stream.relays_to, data, segment_bytes)
            return
        machine = stream.machine
        machine.receive(data, now=now, segment_bytes=segment_bytes)
        self._dirty[stream] = None
        stream.tell()

    def _forward(self, stream: EndpointStream, target: EndpointStream, data: bytes, segment_bytes: int) -> None:
        remote_id, address, socket = target.machine.remote_id, target.address, target.socket
        packets = -(-len(data) // segment_bytes)
        if (
            remote_id is None
            or address is None
            or socket is None
            or (stream.relay_hook is not None and not stream.relay_hook(packets, len(data)))
        ):
            self.counters.not_relayed += packets
        else:
            self.counters.relayed_bytes += len(data)
            self._relayed.append(
                Transmission(readdress(data, segment_bytes, remote_id), segment_bytes, address, socket)
            )
        if has_destroy(data, segment_bytes):
            stream.machine.reset()
            self.touch(stream)

    # --- time

    def next_timer(self) -> float | None:
        """When `handle_timer` wants to be called, in the owner's seconds."""
        return self._deadlines.next()

    def handle_timer(self, *, now: float) -> None:
        """Do what is due. Calling it early does no harm."""
        for stream in self._deadlines.due(now + CLOCK_SLACK):
            stream.machine.handle_timer(now=now)
            if stream.abandoned_at is not None and stream.abandoned_at <= now and stream.machine.state is State.OPEN:
                stream.destroy()
            self.touch(stream)

    # --- what goes out

    @property
    def has_work(self) -> bool:
        """Whether `datagrams_to_send` would look at anything."""
        return bool(self._dirty or self._relayed)

    def datagrams_to_send(self, *, now: float, blocked: Container[int] = ()) -> list[Transmission]:
        """What is to go out now, of the streams that changed. Call it until it gives nothing, or `has_work` is False.

        Each call gives at most about a megabyte per stream, so that acknowledgements can be read in between.

        Args:
            blocked: Sockets that cannot take anything now; their streams wait.
        """
        out = list(self._relayed)
        self._relayed.clear()
        dirty, self._dirty = self._dirty, {}
        for stream in dirty:
            socket = stream.socket
            if socket is not None:
                if socket in blocked:
                    self._dirty[stream] = None
                    continue
                for data, segment_bytes, path in stream.machine.datagrams_to_send(now=now):
                    out.append(Transmission(data, segment_bytes, stream.place_of(path), socket))
            self._settle(stream)
        return out

    def _settle(self, stream: EndpointStream) -> None:
        machine = stream.machine
        if machine.state is State.LINGERING:
            self._linger(stream)
        elif machine.state is State.CLOSED:
            self._forget(stream)
        self._deadlines.set(stream, _earlier(machine.next_timer(), stream.abandoned_at, machine.state))
        if machine.has_more:
            self._dirty[stream] = None
        stream.tell()

    def _linger(self, stream: EndpointStream) -> None:
        if stream in self._lingering:
            return
        self._lingering[stream] = None
        if len(self._lingering) > self._max_lingering:
            oldest = next(iter(self._lingering))
            oldest.destroy()

    def _forget(self, stream: EndpointStream) -> None:
        if self._streams.get(stream.local_id) is not stream:
            return
        del self._streams[stream.local_id]
        self._lingering.pop(stream, None)
        self.counters.forged += stream.machine.forged
        if stream.relays_to is not None:
            stream.relays_to.relayed_from.discard(stream)
        for source in tuple(stream.relayed_from):
            source.relays_to = None  # so that its peer is told
            source.destroy()
        if stream.socket is not None:
            self._leave_socket(stream.socket)

    def _leave_socket(self, socket: int | None) -> None:
        assert socket is not None
        self._on_socket[socket] -= 1
        if not self._on_socket[socket]:
            del self._on_socket[socket]
            self.on_socket_unused(socket)

    def _free_id(self) -> int:
        while True:
            stream_id = int.from_bytes(self._randbytes(4), "little")
            if stream_id not in self._streams:
                return stream_id


def _earlier(timer: float | None, abandoned_at: float | None, state: State) -> float | None:
    if abandoned_at is None or state is not State.OPEN:
        return timer
    return abandoned_at if timer is None else min(timer, abandoned_at)
