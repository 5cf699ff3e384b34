"""What strangers may throw at a node, as datagrams, from many addresses of loopback."""

import random
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress

from hyperdht import KeyPair
from hyperdht.addresses import Address
from hyperdht.crypto import blake2b
from hyperdht.dht.constants import Command, Firewall
from hyperdht.dht.messages import Announce, PeerRecord, encode_announce
from hyperdht.dht.noise_session import ClientHandshake
from hyperdht.dht.payloads import HandshakeMessage, Mode, NoisePayload, RelayThrough, UdxInfo, encode_handshake
from hyperdht.dht.signatures import sign_announce
from hyperdht.rpc.messages import Command as InternalCommand
from hyperdht.rpc.messages import Request, decode_reply, encode_request

Datagrams = Sequence[bytes]
NOISE_BYTES = 300


@contextmanager
def strangers(count: int) -> Iterator[list[socket.socket]]:
    """Sockets with so many addresses of loopback."""
    with ExitStack() as stack:
        socks = []
        for number in range(count):
            sock = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            sock.bind((f"127.0.{1 + number // 250}.{1 + number % 250}", 0))
            sock.setblocking(False)
            socks.append(sock)
        yield socks


@contextmanager
def flood(
    to: Sequence[Address], datagrams: Datagrams, sources: Sequence[socket.socket], *, per_s: float
) -> Iterator[list[int]]:
    """While the block runs, a thread sends these again and again; the list counts."""
    stop, sent = threading.Event(), [0]

    def run() -> None:
        started = time.monotonic()
        while not stop.is_set():
            due = int((time.monotonic() - started) * per_s)
            while sent[0] < due and not stop.is_set():
                number = sent[0]
                sock = sources[number % len(sources)]
                with suppress(BlockingIOError, PermissionError):  # the kernel drops it here instead of there
                    sock.sendto(datagrams[number % len(datagrams)], to[number % len(to)])
                sent[0] += 1
            stop.wait(0.005)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield sent
    finally:
        stop.set()
        thread.join()


def _request(command: int, to: Address, target: bytes, value: bytes, token: bytes | None = None) -> bytes:
    tid = random.randrange(1 << 16)
    return encode_request(Request(tid, to, command, target=target, value=value, token=token))


def handshakes(public_key: bytes, to: Address, count: int, *, relay_through: bool = False) -> Datagrams:
    """Each another client that proves its key and never comes."""
    relay = RelayThrough(KeyPair.generate().public_key, bytes(32)) if relay_through else None
    datagrams = []
    for _ in range(count):
        payload = NoisePayload(
            firewall=Firewall.UNKNOWN, udx=UdxInfo(random.randrange(1 << 32), False), relay_through=relay
        )
        noise = ClientHandshake(KeyPair.generate(), public_key, payload).message
        value = encode_handshake(HandshakeMessage(Mode.FROM_CLIENT, noise))
        datagrams.append(_request(Command.PEER_HANDSHAKE, to, blake2b(public_key), value))
    return datagrams


def garbage_handshakes(public_key: bytes, to: Address, count: int) -> Datagrams:
    """What looks like handshakes and is noise."""
    return [
        _request(
            Command.PEER_HANDSHAKE,
            to,
            blake2b(public_key),
            encode_handshake(HandshakeMessage(Mode.FROM_CLIENT, random.randbytes(NOISE_BYTES))),
        )
        for _ in range(count)
    ]


def announces(to: Address, sock: socket.socket, count: int) -> Datagrams:
    """Signed records of as many keys for as many topics, with the token the node gave to `sock`. It must be persistent."""
    sock.setblocking(True)
    sock.settimeout(5)
    sock.sendto(_request(Command.LOOKUP, to, bytes(32), b""), to)
    reply = decode_reply(sock.recv(2000), sender=to)
    sock.setblocking(False)
    assert reply.token is not None
    assert reply.id is not None
    datagrams = []
    for _ in range(count):
        key_pair, topic = KeyPair.generate(), random.randbytes(32)
        announce = Announce(PeerRecord(key_pair.public_key))
        signed = sign_announce(announce, key_pair, target=topic, node_id=reply.id, token=reply.token)
        datagrams.append(_request(Command.ANNOUNCE, to, topic, encode_announce(signed), reply.token))
    return datagrams


def lookups(to: Address, count: int) -> Datagrams:
    """Questions any node answers."""
    return [
        encode_request(Request(number, to, InternalCommand.FIND_NODE, internal=True, target=random.randbytes(32)))
        for number in range(count)
    ]
