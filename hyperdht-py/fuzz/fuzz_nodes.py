"""Fuzz targets that are whole machines of UDX and the DHT: sequences of datagrams, with time passing between them."""

from collections.abc import Iterator
from random import Random
from typing import NamedTuple

from hyperdht.addresses import Address
from hyperdht.dht.router import Router
from hyperdht.dht.storage import Storage
from hyperdht.rpc import Command, RequestReceived
from hyperdht.rpc.endpoint import MAX_DELAYED_PINGS, SERVER_SOCKET
from hyperdht.rpc.node import RpcNode
from hyperdht.udx.endpoint import UdxEndpoint
from hyperdht.udx.stream import RECEIVE_WINDOW_BYTES, State, UdxStream

PEERS = tuple(Address(f"11.0.{i}.1", 2000 + i) for i in range(8))
OWN_PORT = 49737
MAX_STEPS = 64
MAX_ANSWERS_PER_DATAGRAM = 4
"""A datagram is answered or forwarded; a third packet or so may come of a check it sets off."""
WINDOW_BYTES = 4096
MAX_UNSENT_BYTES = 1 << 20


class Step(NamedTuple):
    """Something that happens to a machine."""

    kind: int
    datagram: bytes


def steps(data: bytes) -> Iterator[Step]:
    """Each is a byte of kind, two of length and a datagram; the last may be cut."""
    at = 0
    for _ in range(MAX_STEPS):
        if at + 3 > len(data):
            return
        length = int.from_bytes(data[at + 1 : at + 3], "little") % 1500
        yield Step(data[at], data[at + 3 : at + 3 + length])
        at += 3 + length


def step(kind: int, datagram: bytes = b"") -> bytes:
    """One step as `steps` reads it."""
    datagram = datagram[:1499]
    return bytes((kind,)) + len(datagram).to_bytes(2, "little") + datagram


def frame(number: int, datagram: bytes) -> bytes:
    """The reverse of `steps` for one datagram, of a kind that differs from number to number; then some time passes."""
    return step(number % 64, datagram) + step(192)


def fuzz_rpc_node(data: bytes) -> None:
    """A persistent node that stores and forwards, with a query of its own under way. Its chance is known to the fuzzer,
    so replies can be made to match. The kind says who sends, to which socket, and how much time passes."""
    now = 0.0
    node = RpcNode(
        randomness=Random(1),
        now=now,
        bootstrap=PEERS[:2],
        ephemeral=False,
        firewalled=False,
        port=lambda socket: OWN_PORT + socket,
        known_address=Address("11.1.1.1", OWN_PORT + SERVER_SOCKET),
    )
    storage = Storage(node, unix_ms=lambda: 0, now=now)
    router = Router(node, storage, now=now)

    def handle(received: RequestReceived, now: float) -> None:
        if not router.receive(received, now):
            storage.handle(received, now)

    node.on_request = handle
    node.start(now)
    node.endpoint.ephemeral = False
    node.query(bytes(32), Command.FIND_NODE, internal=True, now=now)
    node.datagrams_to_send()
    for kind, datagram in steps(data):
        if kind & 128:
            now = max(now, node.next_timer()) if kind & 64 else now + (kind & 15)
            node.handle_timer(now=now)
            node.datagrams_to_send()
            continue
        in_flight = node.endpoint.in_flight
        node.receive(datagram, sender=PEERS[kind & 7], socket=kind >> 3 & 1, now=now)
        asked = max(0, node.endpoint.in_flight - in_flight)
        if len(node.datagrams_to_send()) > MAX_ANSWERS_PER_DATAGRAM + asked:
            raise AssertionError("one datagram makes many")
    if node.endpoint.in_flight > 2 * MAX_STEPS + 4 * MAX_DELAYED_PINGS:
        raise AssertionError("requests pile up")


def fuzz_udx_stream(data: bytes) -> None:
    """A connected stream that writes and reads. The lowest bits of the kind say what happens."""
    now = 0.0
    stream = UdxStream(1, window_bytes=WINDOW_BYTES)
    stream.connect(2, now=now)
    stream.write(bytes(20_000))
    for kind, datagram in steps(data):
        if kind & 3 == 0:
            wanted = stream.next_timer()
            now = now + 0.1 if wanted is None else max(now, wanted)
            stream.handle_timer(now=now)
        elif kind & 3 == 1:
            stream.read()
        else:
            segment = 20 + (kind >> 2) * 8 if kind & 3 == 3 else None
            stream.receive(datagram, now=now, segment_bytes=segment)
        sent = sum(len(batch.data) for batch in stream.datagrams_to_send(now=now))
        if sent > MAX_UNSENT_BYTES:
            raise AssertionError(f"{sent} bytes at once")
        if stream.unread_bytes > WINDOW_BYTES + (64 << 10):
            raise AssertionError(f"{stream.unread_bytes} bytes wait to be read")
        if stream.state is State.CLOSED:
            break
    for _ in iter(stream.next_event, None):
        pass


def fuzz_udx_endpoint(data: bytes) -> None:
    """Streams of which some are connected, one waits, and two relay into each other; batches of mixed datagrams."""
    now = 0.0
    endpoint = UdxEndpoint(Random(1).randbytes)
    for stream_id in range(1, 6):
        endpoint.reserve(lambda socket, sender, now: bool(sender.port & 1), stream_id=stream_id)
    for stream_id in range(1, 5):
        endpoint.connect(stream_id, 0, PEERS[stream_id], 100 + stream_id, now=now)
    endpoint.relay(3, 4)
    endpoint.relay(4, 3)
    for kind, datagram in steps(data):
        if kind & 3 == 0:
            wanted = endpoint.next_timer()
            now = now + 0.1 if wanted is None else max(now, wanted)
            endpoint.handle_timer(now=now)
        elif datagram:
            segment = len(datagram) if kind & 3 == 1 else min(len(datagram), 20 + (kind >> 4))
            left = sum(map(len, endpoint.receive(datagram, segment, PEERS[kind >> 2 & 7], kind >> 5 & 1, now=now)))
            if left > len(datagram):
                raise AssertionError("more is given back than came")
        sent = sum(len(transmission.data) for transmission in endpoint.datagrams_to_send(now=now))
        if sent > RECEIVE_WINDOW_BYTES:
            raise AssertionError(f"{sent} bytes at once")


TARGETS = {"rpc-node": fuzz_rpc_node, "udx-stream": fuzz_udx_stream, "udx-endpoint": fuzz_udx_endpoint}
