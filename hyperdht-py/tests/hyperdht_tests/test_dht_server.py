"""A server in conversation with strangers: copies, forgeries, and floods."""

from collections.abc import Callable
from itertools import count
from typing import Any

import pytest

from hyperdht.addresses import Address
from hyperdht.crypto import KeyPair, blake2b
from hyperdht.dht import server as server_module
from hyperdht.dht import server_session
from hyperdht.dht.announcer import Announcer
from hyperdht.dht.constants import Command, Firewall, PayloadError
from hyperdht.dht.handshake_limits import HandshakeGate, HandshakeLimits
from hyperdht.dht.holepunch_server import HolepunchServer
from hyperdht.dht.noise_session import ClientHandshake, ServerHandshake
from hyperdht.dht.payloads import (
    HandshakeMessage,
    Mode,
    NoisePayload,
    RelayThrough,
    UdxInfo,
    decode_handshake,
    encode_handshake,
)
from hyperdht.dht.rate_limit import Rate
from hyperdht.dht.server import HandshakeRequest, OwnRecords, Server
from hyperdht.dht.server_session import ServerOptions
from hyperdht.rpc import decode_reply, decode_request, encode_request
from hyperdht.rpc.messages import REPLY_TYPE, REQUEST_TYPE, Reply, Request

from .connect_lab import CLIENT_KEYS, SERVER_KEYS, ConnectLab, Peer, joined
from .simulation import Host, NatKind

TARGET = blake2b(SERVER_KEYS.public_key)
PAYLOAD = NoisePayload(udx=UdxInfo(7))
SOMEWHERE = Address("11.200.0.9", 4000)


class Stranger:
    """Somebody with a socket and no manners."""

    def __init__(self, lab: ConnectLab, *, kind: NatKind = NatKind.OPEN, host: Host | None = None) -> None:
        self.host = host or lab.network.host(kind, line=lab.line)
        self.port = self.host.bind(self._receive)
        self.answers: list[HandshakeMessage] = []
        """Noise messages, whichever way they came."""
        self.came_from: list[Address] = []
        self._tids = count(1)
        self._lab = lab

    @property
    def address(self) -> Address:
        return Address(self.host.address, self.port)

    def send(self, to: Address, message: HandshakeMessage, *, target: bytes = TARGET) -> None:
        tid = next(self._tids) & 0xFFFF
        request = Request(tid, to, Command.PEER_HANDSHAKE, target=target, value=encode_handshake(message))
        self.host.send(encode_request(request), to, port=self.port)

    def shake(self, to: Address, noise: bytes) -> None:
        """As a client, directly."""
        self.send(to, HandshakeMessage(Mode.FROM_CLIENT, noise))

    def relay(self, to: Address, noise: bytes, client: Address) -> None:
        """As a relay, for a client there may be."""
        self.send(to, HandshakeMessage(Mode.FROM_RELAY, noise, client))

    def _receive(self, data: bytes, sender: Address, now: float) -> None:
        packet: Request | Reply
        if data[0] == REPLY_TYPE:
            packet = decode_reply(data, sender=sender)
        elif data[0] == REQUEST_TYPE:
            packet = decode_request(data, sender=sender)
        else:
            return
        if packet.value is not None:
            self.answers.append(decode_handshake(packet.value))
            self.came_from.append(sender)


def noise(payload: NoisePayload = PAYLOAD) -> ClientHandshake:
    return ClientHandshake(CLIENT_KEYS, SERVER_KEYS.public_key, payload)


def open_server(lab: ConnectLab, **options: Any) -> tuple[Peer, Server]:
    """One that strangers can send to."""
    peer = lab.add(NatKind.OPEN)
    return peer, lab.listen(peer, **options)


# One answer to one message


def test_copies_get_the_identical_answer() -> None:
    lab = ConnectLab()
    asked: list[HandshakeRequest] = []

    def accept(request: HandshakeRequest, now: float) -> None:
        asked.append(request)
        request.accept(now)

    peer, _ = open_server(lab, on_handshake=accept)
    client, first, second = Stranger(lab), Stranger(lab), Stranger(lab)
    message = noise().message
    for relay in (first, second, first):
        relay.relay(peer.address, message, client.address)
    client.shake(peer.address, message)
    lab.run(seconds=1)
    assert [len(stranger.answers) for stranger in (first, second, client)] == [2, 1, 1]
    assert len({answer.noise for answer in (*first.answers, *second.answers, *client.answers)}) == 1
    assert len(asked) == 1
    assert asked[0].address == client.address
    assert {answer.mode for answer in first.answers} == {Mode.FROM_SERVER}
    assert {answer.peer_address for answer in first.answers} == {client.address}
    assert client.answers[0].mode == Mode.REPLY
    assert client.answers[0].peer_address is None


def test_copies_that_wait_for_the_firewall_are_all_answered() -> None:
    lab = ConnectLab()
    waiting: list[HandshakeRequest] = []
    peer, _ = open_server(lab, on_handshake=lambda request, now: waiting.append(request))
    relays = [Stranger(lab) for _ in range(3)]
    message = noise().message
    for relay in relays:
        relay.relay(peer.address, message, SOMEWHERE)
    lab.run(seconds=1)
    assert len(waiting) == 1
    assert not any(relay.answers for relay in relays)
    waiting[0].accept(lab.now)
    peer.shell.wake()
    lab.run(seconds=1)
    assert len({relay.answers[0].noise for relay in relays}) == 1


def test_answer_is_forgotten_ten_seconds_after_the_end() -> None:
    lab = ConnectLab()
    peer, _ = open_server(lab)
    client = Stranger(lab)
    message = noise().message
    for _ in range(3):
        client.shake(peer.address, message)
        lab.run(seconds=9)
        client.shake(peer.address, message)
        lab.run(seconds=2)
    assert len({answer.noise for answer in client.answers}) == 3
    assert [client.answers[i].noise for i in (0, 2, 4)] == [client.answers[i].noise for i in (1, 3, 5)]


def test_t19_answers_to_one_message_come_to_an_end() -> None:
    lab = ConnectLab()
    peer, _ = open_server(lab)
    stranger, message = Stranger(lab), noise().message
    for _ in range(200):
        stranger.shake(peer.address, message)
    lab.run(seconds=1)
    assert len(stranger.answers) == 32


def test_message_for_another_key_is_not_answered_and_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    lab = ConnectLab()
    peer, server = open_server(lab)
    read: list[bytes] = []

    def counted(key_pair: KeyPair, message: bytes) -> ServerHandshake:
        read.append(message)
        return ServerHandshake(key_pair, message)

    monkeypatch.setattr(server_module, "ServerHandshake", counted)
    stranger = Stranger(lab)
    forged = noise().message[:-1] + b"\0"
    for _ in range(5):
        stranger.shake(peer.address, forged)
    lab.run(seconds=1)
    assert not stranger.answers
    assert len(read) == 1
    assert server.open_sessions == 0
    lab.run(seconds=10)
    assert server.remembered == 0


@pytest.mark.parametrize(
    ("payload", "error"),
    [(NoisePayload(version=2), PayloadError.VERSION_MISMATCH), (NoisePayload(), PayloadError.ABORTED)],
)
def test_client_we_cannot_serve_is_told_why(payload: NoisePayload, error: PayloadError) -> None:
    lab = ConnectLab()
    peer, server = open_server(lab)
    client, handshake = Stranger(lab), noise(payload)
    client.shake(peer.address, handshake.message)
    lab.run(seconds=1)
    answer, _ = handshake.read_answer(client.answers[0].noise)
    assert answer.error == error
    assert answer.udx == UdxInfo(0)
    assert not peer.links
    assert server.open_sessions == 0
    assert not peer.streams.reserved


def test_what_the_answer_says() -> None:
    lab = ConnectLab()
    chosen = b"\x67" * 32
    options = ServerOptions(reusable_socket=True, relay_through=lambda: chosen, on_relay=lambda wanted, now: None)
    peer, server = open_server(lab, options=options)
    client, handshake = Stranger(lab), noise()
    client.shake(peer.address, handshake.message)
    lab.run(seconds=1)
    answer, _ = handshake.read_answer(client.answers[0].noise)
    assert answer.firewall == Firewall.OPEN
    assert answer.holepunch is None
    assert answer.addresses4[0] == peer.address
    assert answer.udx == UdxInfo(peer.links[0].stream_id, reusable_socket=True)
    assert answer.relay_through is not None
    assert answer.relay_through.public_key == chosen
    assert answer.relay_addresses == server.relay_addresses


def test_without_punching_a_firewalled_server_waits_without_a_socket() -> None:
    lab = ConnectLab()
    server, client = lab.add(NatKind.FULLCONE), lab.add(NatKind.CONSISTENT)
    listening = lab.listen(server, options=ServerOptions(punching=False))
    lab.connect(client)
    lab.run(until=lambda: listening.open_sessions)
    assert server.extra_sockets == 0
    lab.run(seconds=15)
    assert listening.open_sessions == 0


def test_reachable_server_needs_no_socket_for_a_client_that_is_not() -> None:
    lab = ConnectLab()
    peer, server = open_server(lab)
    Stranger(lab).relay(peer.address, noise().message, SOMEWHERE)
    lab.run(seconds=0.1)
    assert server.open_sessions == 1
    assert peer.extra_sockets == 0
    lab.run(seconds=15)
    assert server.open_sessions == 0


def test_client_is_expected_for_its_time_also_when_punching_is_given_up_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In the local network it needs no hole, and may be on its way."""
    aborts: list[Callable[[float], None]] = []

    def give_up_soon(*args: Any, on_aborted: Callable[[float], None], **options: Any) -> HolepunchServer:
        aborts.append(on_aborted)
        return HolepunchServer(*args, on_aborted=on_aborted, **options)

    monkeypatch.setattr(server_session, "HolepunchServer", give_up_soon)
    lab = ConnectLab()
    server = lab.add(NatKind.FULLCONE)
    listening = lab.listen(server)
    seen = server.rpc.nat_address()
    assert seen is not None
    Stranger(lab).relay(seen, noise().message, SOMEWHERE)
    lab.run(seconds=0.1)
    aborts[0](lab.now)
    lab.run(seconds=5)
    assert listening.open_sessions == 1
    lab.run(seconds=10)
    assert listening.open_sessions == 0


@pytest.mark.parametrize(
    ("same_host", "looks_local", "shared", "in_lan"),
    [(True, True, True, True), (False, True, True, False), (True, False, True, False), (True, True, False, False)],
)
def test_client_is_shown_the_punching_socket_unless_it_is_in_the_local_network(
    same_host: bool, looks_local: bool, shared: bool, in_lan: bool
) -> None:
    lab = ConnectLab()
    server = lab.add(NatKind.FULLCONE)
    lab.listen(server, options=ServerOptions(share_local_address=shared))
    seen = server.rpc.nat_address()
    assert seen is not None
    own_network = server.address.host.rpartition(".")[0]
    local = Address(f"{own_network}.77" if looks_local else "10.77.0.1", 5000)
    relay = Stranger(lab)
    client = Address(seen.host, 5000) if same_host else SOMEWHERE
    relay.relay(seen, noise(NoisePayload(addresses4=(local,), udx=UdxInfo(7))).message, client)
    lab.run(seconds=1)
    assert (relay.came_from == [seen]) is in_lan


def test_keys_of_this_nodes_servers_are_found_at_this_node() -> None:
    lab = ConnectLab()
    peer = lab.add(NatKind.OPEN)
    records = OwnKeys()
    server = limited_server(lab, peer, HandshakeLimits(), records)
    assert records.keys == {SERVER_KEYS.public_key}
    server.stop(lab.now, lambda now: None)
    assert not records.keys


class OwnKeys:
    """In place of the storage."""

    def __init__(self) -> None:
        self.keys: set[bytes] = set()

    def add_own(self, public_key: bytes) -> None:
        self.keys.add(public_key)

    def remove_own(self, public_key: bytes) -> None:
        self.keys.remove(public_key)


# Floods


def flood(lab: ConnectLab, send: Callable[[int, bytes], None], *, messages: int, seconds: float) -> None:
    """So many different messages, evenly."""
    for number in range(messages):
        send(number, noise().message)
        lab.run(seconds=seconds / messages)


def test_t18_flood_of_one_host_leaves_room_for_others() -> None:
    lab = ConnectLab()
    server, client = lab.add(NatKind.CONSISTENT), lab.add(NatKind.CONSISTENT)
    listening = lab.listen(server)
    relays = listening.relay_addresses
    flooder = Stranger(lab)
    most_sockets = 0

    def send(number: int, message: bytes) -> None:
        nonlocal most_sockets
        flooder.shake(relays[number % len(relays)], message)
        most_sockets = max(most_sockets, server.extra_sockets)

    flood(lab, send, messages=600, seconds=1)
    lab.connect(client)
    took = 0.0
    while not joined(client, server):
        flood(lab, send, messages=30, seconds=0.05)
        took += 0.05
        assert took < 10
    assert most_sockets <= HandshakeLimits().max_open_of_source + 1, "and the honest client's"
    assert listening.refused > 300
    lab.run(seconds=30)
    assert listening.open_sessions == 0
    assert server.extra_sockets == 0
    assert not server.streams.reserved - {link.stream_id for link in server.links}


def test_t18_flood_through_a_relay_of_the_attackers_own_counts_as_the_attackers() -> None:
    """Whoever says it is a relay can name any client. Only nodes we announced to are believed."""
    lab = ConnectLab()
    server, listening = open_server(lab)
    attacker = Stranger(lab)

    def send(number: int, message: bytes) -> None:
        attacker.relay(server.address, message, Address(f"11.{number // 200}.{number % 200}.9", 4000))

    flood(lab, send, messages=400, seconds=0.5)
    assert listening.open_sessions <= HandshakeLimits().max_open_of_source
    assert listening.refused > 200


def test_t18_flood_of_many_hosts_is_bounded_altogether() -> None:
    lab = ConnectLab()
    server = lab.add(NatKind.CONSISTENT)
    listening = limited_server(lab, server, HandshakeLimits(max_open=20, max_open_of_source=5))
    relay = lab.node_at(listening.relay_addresses[0])
    for _ in range(30):
        stranger = Stranger(lab)
        for _ in range(10):
            stranger.shake(relay.address, noise().message)
    lab.run(seconds=1)
    assert listening.open_sessions <= 20
    assert server.extra_sockets <= 20
    assert listening.refused >= 250


def test_t18_what_is_remembered_is_bounded() -> None:
    lab = ConnectLab()
    peer = lab.add(NatKind.OPEN)
    server = limited_server(lab, peer, HandshakeLimits(max_remembered=50))
    stranger = Stranger(lab)
    flood(lab, lambda number, message: stranger.shake(peer.address, message), messages=100, seconds=2)
    assert len(peer.links) == 100
    assert server.remembered <= 50


def test_t18_open_sessions_are_not_forgotten_to_make_room() -> None:
    lab = ConnectLab()
    peer = lab.add(NatKind.OPEN)
    asked: list[HandshakeRequest] = []

    def refuse_all_but_the_first(request: HandshakeRequest, now: float) -> None:
        asked.append(request)
        if len(asked) > 1:
            request.reject(now)

    limits = HandshakeLimits(max_remembered=20)
    limited_server(lab, peer, limits, on_handshake=refuse_all_but_the_first)
    stranger, first = Stranger(lab), noise().message
    stranger.shake(peer.address, first)
    flood(lab, lambda number, message: stranger.shake(peer.address, message), messages=60, seconds=2)
    asked[0].accept(lab.now)
    stranger.shake(peer.address, first)
    lab.run(seconds=1)
    assert len(asked) == 61
    assert len(stranger.answers) == 2


def limited_server(
    lab: ConnectLab, peer: Peer, limits: HandshakeLimits, records: OwnRecords | None = None, **options: Any
) -> Server:
    node = peer.node
    server = Server(
        node.context,
        node.router,
        records or node.storage,
        Announcer(node.context, SERVER_KEYS),
        SERVER_KEYS,
        routes=node.routes,
        limiter=node.punches,
        now=lab.now,
        on_link=peer.link,
        limits=limits,
        **options,
    )
    announced: list[float] = []
    server.start(lab.now, announced.append)
    peer.shell.wake()
    lab.run(until=lambda: announced)
    return server


def test_t18_relays_that_clients_name_are_dialled_in_small_numbers() -> None:
    lab = ConnectLab()
    dialled: list[object] = []
    server = lab.add(NatKind.CONSISTENT)
    listening = lab.listen(server, options=ServerOptions(on_relay=lambda wanted, now: dialled.append(wanted)))
    attacker = Stranger(lab)
    own_relay = lab.node_at(listening.relay_addresses[0])
    for number in range(40):
        named = RelayThrough(KeyPair.from_seed(bytes([number]) * 32).public_key, bytes([number]) * 32)
        attacker.shake(own_relay.address, noise(NoisePayload(udx=UdxInfo(7), relay_through=named)).message)
    lab.run(seconds=1)
    assert len(dialled) == HandshakeLimits().max_relays


def test_t18_client_behind_a_loopback_address_is_told_apart_by_its_port() -> None:
    limits = HandshakeLimits(each_source=Rate(1, 1))
    gate = HandshakeGate(limits, now=0)
    assert gate.admit(Address("127.0.0.1", 1), 0)
    assert gate.admit(Address("127.0.0.1", 2), 0)
    assert not gate.admit(Address("127.0.0.1", 1), 0)
    assert gate.admit(Address("11.0.0.1", 1), 0)
    assert not gate.admit(Address("11.0.0.1", 2), 0)
    assert gate.admit(Address("11.0.0.1", 2), 1.1)


def test_t19_open_client_is_only_called_where_its_relay_may_send_us() -> None:
    lab = ConnectLab()
    peer, server = open_server(lab)
    relay = Stranger(lab)
    for client in (Address("192.168.9.9", 5000), Address("127.0.0.1", 5000), Address("8.8.8.8", 53)):
        message = noise(NoisePayload(firewall=Firewall.OPEN, udx=UdxInfo(7))).message
        relay.relay(peer.address, message, client)
    lab.run(seconds=1)
    assert not peer.links
    lab.run(seconds=15)
    assert server.open_sessions == 0
