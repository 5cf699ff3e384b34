"""Fuzz targets for connecting and listening: the other side has valid keys, and says whatever it likes behind them.

Kinds of steps, by their lowest two bits: time passes; a datagram as it is; a payload inside a valid handshake; a payload
inside a sealed round of hole punching.
"""

from random import Random

from fuzz_nodes import PEERS, step, steps

from hyperdht.addresses import Address
from hyperdht.crypto import KeyPair, blake2b
from hyperdht.dht.constants import Command, Firewall
from hyperdht.dht.holepunch_messages import (
    HolepunchPayload,
    HolepunchSeal,
    decode_holepunch_payload,
    encode_holepunch_payload,
)
from hyperdht.dht.node import DhtNode
from hyperdht.dht.noise_session import ClientHandshake, ServerHandshake, SessionKeys
from hyperdht.dht.payloads import (
    HandshakeMessage,
    HolepunchInfo,
    HolepunchMessage,
    Mode,
    NoisePayload,
    RelayInfo,
    UdxInfo,
    decode_handshake,
    decode_noise_payload,
    encode_handshake,
    encode_holepunch,
    encode_noise_payload,
)
from hyperdht.errors import DecodeError, HandshakeError
from hyperdht.rpc import Datagram
from hyperdht.rpc.messages import REQUEST_TYPE, Reply, Request, decode_request, encode_reply, encode_request
from hyperdht.udx.endpoint import UdxEndpoint

SERVER_KEYS, CLIENT_KEYS = KeyPair.from_seed(b"s" * 32), KeyPair.from_seed(b"c" * 32)
TARGET = blake2b(SERVER_KEYS.public_key)
OWN_ADDRESS = Address("11.9.9.9", 49738)
MAX_SOCKETS = 2 * (256 + 8)
"""Two attempts at a random NAT at once would be a bug: they are limited to one."""
MAX_DATAGRAMS = 600
"""That one step may set off: 256 probes that open a random NAT, on a timer, and the pings that classify it."""


class FakeSockets:
    """Numbers, and a limit."""

    def __init__(self) -> None:
        self._open = {0, 1}
        self._next = 2

    def open(self) -> int:
        if len(self._open) >= MAX_SOCKETS:
            raise AssertionError("sockets pile up")
        self._open.add(self._next)
        self._next += 1
        return self._next - 1

    def close(self, socket: int) -> None:
        self._open.remove(socket)

    def port(self, socket: int) -> int:
        return 49737 + socket


class Peer:
    """The other side, and the node under test with its time."""

    def __init__(self) -> None:
        self.now = 0.0
        self.sockets = FakeSockets()
        self.streams = UdxEndpoint(Random(1).randbytes)
        self.node = DhtNode(
            self.sockets,
            self.streams,
            randomness=Random(1),
            local_addresses=lambda: (Address("192.168.0.2", 49738),),
            unix_ms=lambda: 0,
            now=self.now,
            bootstrap=PEERS[:1],
            known_address=OWN_ADDRESS,
        )
        self.node.start(self.now)
        self.seal: HolepunchSeal | None = None
        self.sent: list[Datagram] = []

    def agree(self, keys: SessionKeys) -> None:
        """Both sides have the secret of hole punching now."""
        self.seal = HolepunchSeal(keys.holepunch_secret, Random(2))

    def round(self, data: bytes) -> bytes | None:
        """A sealed payload; None as long as there is no secret, or for what is no payload."""
        if self.seal is None:
            return None
        try:
            return self.seal.seal(decode_holepunch_payload(data))
        except DecodeError:
            return None

    def receive(self, datagram: bytes, number: int, socket: int) -> None:
        """Something arrives from one of the peers, through a socket that is open."""
        self.node.receive(datagram, sender=PEERS[number & 7], socket=socket, now=self.now)

    def settle(self) -> None:
        """Let the node send."""
        out = self.node.datagrams_to_send()
        if len(out) > MAX_DATAGRAMS:
            raise AssertionError(f"{len(out)} datagrams at once")
        self.sent = (self.sent + out)[-64:]

    def wait(self, kind: int) -> None:
        """Until the next timer, or for some seconds."""
        wanted = self.node.next_timer()
        self.now = max(self.now, wanted) if kind & 4 and wanted is not None else self.now + (kind >> 4)
        self.node.handle_timer(now=self.now)

    def request(self, command: int, value: bytes, number: int) -> None:
        """A request of the other side, as a relay passes it on."""
        request = Request(7, OWN_ADDRESS, command, target=TARGET, value=value)
        self.receive(encode_request(request), number, 1)

    def requests(self, command: int) -> list[tuple[Request, Datagram]]:
        """What the node asked or told others lately."""
        found = []
        for datagram in self.sent:
            if datagram.data[:1] == bytes((REQUEST_TYPE,)):
                request = decode_request(datagram.data, sender=OWN_ADDRESS)
                if not request.internal and request.command == command:
                    found.append((request, datagram))
        return found

    def reply(self, request: Request, asked: Datagram, value: bytes) -> None:
        """Answer one of the node's requests."""
        reply = Reply(request.tid, OWN_ADDRESS, value=value)
        self.node.receive(encode_reply(reply), sender=asked.to, socket=asked.socket, now=self.now)


def fuzz_dht_server(data: bytes) -> None:
    """Clients of a server; every one of their handshakes is genuine."""
    peer = Peer()
    peer.node.listen(SERVER_KEYS, now=peer.now, on_link=lambda link, now: None)
    handshake: ClientHandshake | None = None
    for kind, datagram in steps(data):
        if kind & 3 == 0:
            peer.wait(kind)
        elif kind & 3 == 1:
            peer.receive(datagram, kind >> 2, kind >> 5 & 1)
        elif kind & 3 == 2:
            try:
                handshake = ClientHandshake(CLIENT_KEYS, SERVER_KEYS.public_key, decode_noise_payload(datagram))
            except DecodeError:
                continue
            mode = Mode.FROM_CLIENT if kind & 128 else Mode.FROM_RELAY
            message = HandshakeMessage(mode, handshake.message, PEERS[kind >> 5 & 3])
            peer.request(Command.PEER_HANDSHAKE, encode_handshake(message), kind >> 2)
        elif (sealed := peer.round(datagram)) is not None:
            punch = HolepunchMessage(Mode.FROM_RELAY, kind >> 5, sealed, PEERS[7])
            peer.request(Command.PEER_HOLEPUNCH, encode_holepunch(punch), kind >> 2)
        peer.settle()
        for request, _ in peer.requests(Command.PEER_HANDSHAKE):
            if handshake is not None and request.value is not None:
                agree_as_client(peer, handshake, request.value)
        peer.sent.clear()


def agree_as_client(peer: Peer, handshake: ClientHandshake, value: bytes) -> None:
    """Read the server's answer, if it is the one to our message."""
    try:
        _, keys = handshake.read_answer(decode_handshake(value).noise)
    except (HandshakeError, DecodeError):
        return  # it answers an earlier message
    peer.agree(keys)


def fuzz_dht_client(data: bytes) -> None:
    """A server, and the relays between, of a client that connects."""
    peer = Peer()
    peer.node.connect(
        SERVER_KEYS.public_key,
        CLIENT_KEYS,
        now=peer.now,
        relay_addresses=PEERS[:3],
        on_link=lambda link, now: None,
        on_failed=lambda error, now: None,
    )
    peer.settle()
    for kind, datagram in steps(data):
        if kind & 3 == 0:
            peer.wait(kind)
        elif kind & 3 == 1:
            peer.receive(datagram, kind >> 2, kind >> 5 & 1)
        elif kind & 3 == 2:
            asked = peer.requests(Command.PEER_HANDSHAKE)
            if asked:
                answer_handshake(peer, *asked[(kind >> 2) % len(asked)], datagram)
        elif (sealed := peer.round(datagram)) is not None:
            for request, to in peer.requests(Command.PEER_HOLEPUNCH)[-1:]:
                punch = HolepunchMessage(Mode.REPLY, 0, sealed, PEERS[kind >> 5])
                peer.reply(request, to, encode_holepunch(punch))
        peer.settle()


def answer_handshake(peer: Peer, request: Request, asked: Datagram, payload: bytes) -> None:
    """Answer the client's Noise message with any payload."""
    if request.value is None:
        return
    handshake = ServerHandshake(SERVER_KEYS, decode_handshake(request.value).noise)
    try:
        noise, keys = handshake.answer(decode_noise_payload(payload))
    except DecodeError:
        return
    peer.agree(keys)
    peer.reply(request, asked, encode_handshake(HandshakeMessage(Mode.REPLY, noise, PEERS[7])))


def frame(number: int, datagram: bytes) -> bytes:
    """A datagram as any of these steps, amid an attempt that could succeed."""
    good = NoisePayload(
        firewall=Firewall.CONSISTENT,
        holepunch=HolepunchInfo(0, (RelayInfo(PEERS[0], PEERS[6]),)),
        addresses4=(PEERS[5],),
        udx=UdxInfo(5),
    )
    kind = Firewall.RANDOM if number & 1 else Firewall.CONSISTENT
    punch = HolepunchPayload(
        firewall=kind, punching=True, addresses=(PEERS[5],), remote_address=OWN_ADDRESS, token=bytes(32)
    )
    parts = [
        step(2, encode_noise_payload(good)),
        step(4),
        step(number & 0xFF, datagram),
        step(3, encode_holepunch_payload(punch)),
        step(0x14),
        step(3, encode_holepunch_payload(punch)),
        *[step(4)] * 3,
    ]
    return b"".join(parts[2:] if number % 3 == 0 else parts)


TARGETS = {"dht-server": fuzz_dht_server, "dht-client": fuzz_dht_client}
