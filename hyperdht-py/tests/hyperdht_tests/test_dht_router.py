"""The router's table, leg by leg: who gets what, with which number, and what is never sent."""

import json
from dataclasses import dataclass, field
from functools import cache
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperdht.addresses import Address
from hyperdht.dht.constants import Command
from hyperdht.dht.payloads import (
    HandshakeMessage,
    HolepunchMessage,
    Mode,
    decode_handshake,
    decode_holepunch,
    encode_handshake,
    encode_holepunch,
)
from hyperdht.dht.rate_limit import MAX_SOURCES, Rate, SourceLimiter
from hyperdht.dht.reachable import is_public, may_send_to
from hyperdht.dht.router import FORWARDS_OF_A_HOST, HandshakeArrival, Router, answer_holepunch
from hyperdht.errors import LocalProtocolError
from hyperdht.rpc import (
    CLIENT_SOCKET,
    SERVER_SOCKET,
    RequestReceived,
    RpcNode,
    decode_reply,
    decode_request,
    encode_request,
)
from hyperdht.rpc.messages import REPLY_TYPE, Reply, Request, node_id
from hyperdht.rpc.requests import Datagram

from .dht_vectors import address_in
from .vectors import VECTORS

NODE = Address("11.0.0.1", 49737)
CLIENT = Address("11.0.1.1", 4001)
RELAY = Address("11.0.2.1", 4002)
SERVER = Address("11.0.3.1", 4003)
TARGET = b"\x77" * 32
TID = 0xBEEF
NOISE = b"noise" * 10
POOL_SOCKET = 5


@dataclass
class FakeServer:
    """Keeps what arrives."""

    arrivals: list[HandshakeArrival] = field(default_factory=list)
    rounds: list[tuple[HolepunchMessage, RequestReceived]] = field(default_factory=list)

    def receive_handshake(self, arrival: HandshakeArrival, now: float) -> None:
        self.arrivals.append(arrival)

    def receive_holepunch(self, message: HolepunchMessage, received: RequestReceived, now: float) -> None:
        self.rounds.append((message, received))


@dataclass
class Routed:
    """One datagram that left."""

    packet: Request | Reply
    to: Address
    socket: int

    @property
    def handshake(self) -> HandshakeMessage:
        assert self.packet.value is not None
        return decode_handshake(self.packet.value)

    @property
    def holepunch(self) -> HolepunchMessage:
        assert self.packet.value is not None
        return decode_holepunch(self.packet.value)


class Node:
    """A node with a router, in conversation with the test."""

    def __init__(self, *, persistent: bool = True) -> None:
        self.now = 100.0
        self.routes: dict[bytes, Address] = {}
        self.rpc = RpcNode(
            randomness=Random(1),
            now=self.now,
            ephemeral=not persistent,
            firewalled=not persistent,
            port=lambda socket: NODE.port,
        )
        if persistent:
            self.rpc.table.move_to(node_id(NODE))
            self.rpc.endpoint.ephemeral = False
        self.router = Router(self.rpc, self, now=self.now)
        self.rpc.on_request = self._receive
        self.server = FakeServer()

    def route_to(self, target: bytes, now: float) -> Address | None:
        return self.routes.get(target)

    def listen(self) -> FakeServer:
        self.router.register(TARGET, self.server)
        return self.server

    def receive(
        self,
        message: HandshakeMessage | HolepunchMessage | bytes | None,
        *,
        sender: Address,
        socket: int = SERVER_SOCKET,
        target: bytes | None = TARGET,
        command: int | None = None,
    ) -> list[Routed]:
        """One request, and what it leads to."""
        value: bytes | None
        if isinstance(message, HandshakeMessage):
            value, default = encode_handshake(message), Command.PEER_HANDSHAKE
        elif isinstance(message, HolepunchMessage):
            value, default = encode_holepunch(message), Command.PEER_HOLEPUNCH
        else:
            value, default = message, Command.PEER_HANDSHAKE
        chosen = default if command is None else command
        request = Request(TID, NODE, chosen, target=target, value=value)
        self.rpc.receive(encode_request(request), sender=sender, socket=socket, now=self.now)
        return self.sent()

    def sent(self) -> list[Routed]:
        return [self._routed(datagram) for datagram in self.rpc.datagrams_to_send()]

    def _routed(self, datagram: Datagram) -> Routed:
        is_reply = datagram.data[0] == REPLY_TYPE
        decode = decode_reply if is_reply else decode_request
        return Routed(decode(datagram.data, sender=NODE), datagram.to, datagram.socket)

    def _receive(self, received: RequestReceived, now: float) -> None:
        assert self.router.receive(received, now)


def only(sent: list[Routed]) -> Routed:
    assert len(sent) == 1
    return sent[0]


def assert_request(routed: Routed, *, to: Address, command: int) -> None:
    """It continues the client's request."""
    packet = routed.packet
    assert isinstance(packet, Request)
    assert (routed.to, packet.to, packet.tid, packet.command, packet.target) == (to, to, TID, command, TARGET)
    assert packet.token is None
    assert not packet.internal


def assert_last_leg(routed: Routed, *, to: Address) -> None:
    """It is the reply the client waits for."""
    packet = routed.packet
    assert isinstance(packet, Reply)
    assert (routed.to, packet.to, packet.tid) == (to, to, TID)
    assert packet.token is None
    assert packet.closer_nodes == ()


# Handshakes


def test_handshake_from_client_goes_to_the_route() -> None:
    node = Node()
    node.routes[TARGET] = SERVER
    routed = only(node.receive(HandshakeMessage(Mode.FROM_CLIENT, NOISE, peer_address=RELAY), sender=CLIENT))
    assert_request(routed, to=SERVER, command=Command.PEER_HANDSHAKE)
    assert routed.handshake == HandshakeMessage(Mode.FROM_RELAY, NOISE, CLIENT)
    assert routed.packet.id == node_id(NODE)


def test_handshake_from_client_goes_to_the_relay_it_names() -> None:
    node = Node()
    node.routes[TARGET] = SERVER
    routed = only(node.receive(HandshakeMessage(Mode.FROM_CLIENT, NOISE, relay_address=RELAY), sender=CLIENT))
    assert_request(routed, to=RELAY, command=Command.PEER_HANDSHAKE)
    assert routed.handshake == HandshakeMessage(Mode.FROM_RELAY, NOISE, CLIENT)


def test_handshake_without_a_route_is_answered_with_closer_nodes_only() -> None:
    node = Node()
    other = Address("11.0.9.1", 4000)
    node.rpc.table.hear_from(node_id(other), other, tick=1)
    routed = only(node.receive(HandshakeMessage(Mode.FROM_CLIENT, NOISE), sender=CLIENT))
    assert isinstance(routed.packet, Reply)
    assert routed.packet.closer_nodes == (other,)
    assert routed.packet.token is None
    assert routed.packet.value is None
    assert routed.to == CLIENT


def test_handshake_from_relay_goes_on_to_the_route() -> None:
    node = Node()
    node.routes[TARGET] = SERVER
    routed = only(node.receive(HandshakeMessage(Mode.FROM_RELAY, NOISE, CLIENT), sender=RELAY))
    assert_request(routed, to=SERVER, command=Command.PEER_HANDSHAKE)
    assert routed.handshake == HandshakeMessage(Mode.FROM_SECOND_RELAY, NOISE, CLIENT, RELAY)


@pytest.mark.parametrize("listening", [False, True])
def test_handshake_from_server_is_the_reply_to_the_client(listening: bool) -> None:
    node = Node()
    if listening:
        node.listen()
    routed = only(node.receive(HandshakeMessage(Mode.FROM_SERVER, NOISE, CLIENT), sender=SERVER))
    assert_last_leg(routed, to=CLIENT)
    assert routed.handshake == HandshakeMessage(Mode.REPLY, NOISE, SERVER)


@pytest.mark.parametrize("socket", [None, POOL_SOCKET])
def test_own_server_answers_a_client_directly(socket: int | None) -> None:
    node = Node()
    server = node.listen()
    node.receive(HandshakeMessage(Mode.FROM_CLIENT, b"message 1", peer_address=RELAY), sender=CLIENT)
    arrival = server.arrivals[0]
    assert (arrival.noise, arrival.client_address, arrival.direct) == (b"message 1", CLIENT, True)
    assert (arrival.sender, arrival.own_address, arrival.socket) == (CLIENT, NODE, SERVER_SOCKET)
    arrival.answer(NOISE, socket)
    routed = only(node.sent())
    assert_last_leg(routed, to=CLIENT)
    assert routed.handshake == HandshakeMessage(Mode.REPLY, NOISE)
    assert routed.socket == (SERVER_SOCKET if socket is None else socket)
    assert routed.packet.id == (node_id(NODE) if socket is None else None)


def test_own_server_answers_a_relay() -> None:
    node = Node()
    server = node.listen()
    node.receive(HandshakeMessage(Mode.FROM_RELAY, b"message 1", CLIENT), sender=RELAY, socket=CLIENT_SOCKET)
    arrival = server.arrivals[0]
    assert (arrival.client_address, arrival.direct, arrival.sender) == (CLIENT, False, RELAY)
    arrival.answer(NOISE, POOL_SOCKET)
    routed = only(node.sent())
    assert_request(routed, to=RELAY, command=Command.PEER_HANDSHAKE)
    assert routed.handshake == HandshakeMessage(Mode.FROM_SERVER, NOISE, CLIENT)
    assert routed.socket == POOL_SOCKET
    assert routed.packet.id is None


def test_own_server_answers_the_first_of_two_relays() -> None:
    node = Node()
    server = node.listen()
    second = Address("11.0.8.1", 4008)
    node.receive(HandshakeMessage(Mode.FROM_SECOND_RELAY, b"message 1", CLIENT, RELAY), sender=second)
    server.arrivals[0].answer(NOISE, None)
    routed = only(node.sent())
    assert_request(routed, to=RELAY, command=Command.PEER_HANDSHAKE)
    assert routed.handshake == HandshakeMessage(Mode.FROM_SERVER, NOISE, CLIENT)


def test_handshake_travels_over_two_relays_and_back() -> None:
    """The whole way, with the datagrams handed on by hand."""
    first, second, server_node = Node(), Node(), Node()
    first_address, second_address = Address("11.1.0.1", 4000), Address("11.2.0.1", 4000)
    second.routes[TARGET] = SERVER
    server = server_node.listen()
    sent = only(first.receive(HandshakeMessage(Mode.FROM_CLIENT, NOISE, None, second_address), sender=CLIENT))
    sent = only(second.receive(sent.handshake, sender=first_address))
    assert sent.to == SERVER
    assert server_node.receive(sent.handshake, sender=second_address) == []
    server.arrivals[0].answer(b"message 2", None)
    sent = only(server_node.sent())
    assert sent.to == first_address
    sent = only(first.receive(sent.handshake, sender=SERVER))
    assert_last_leg(sent, to=CLIENT)
    assert sent.handshake == HandshakeMessage(Mode.REPLY, b"message 2", SERVER)


# Hole punching


def test_holepunch_from_client_goes_where_it_says() -> None:
    node = Node()
    node.routes[TARGET] = RELAY
    routed = only(node.receive(HolepunchMessage(Mode.FROM_CLIENT, 7, NOISE, SERVER), sender=CLIENT))
    assert_request(routed, to=SERVER, command=Command.PEER_HOLEPUNCH)
    assert routed.holepunch == HolepunchMessage(Mode.FROM_RELAY, 7, NOISE, CLIENT)


def test_holepunch_without_an_address_goes_to_the_route() -> None:
    node = Node()
    assert node.receive(HolepunchMessage(Mode.FROM_CLIENT, 7, NOISE), sender=CLIENT) == []
    node.routes[TARGET] = SERVER
    assert only(node.receive(HolepunchMessage(Mode.FROM_CLIENT, 7, NOISE), sender=CLIENT)).to == SERVER


def test_holepunch_from_relay_reaches_the_server_and_its_answer_the_relay() -> None:
    node = Node()
    server = node.listen()
    assert node.receive(HolepunchMessage(Mode.FROM_RELAY, 7, NOISE, CLIENT), sender=RELAY, socket=POOL_SOCKET) == []
    message, received = server.rounds[0]
    assert message == HolepunchMessage(Mode.FROM_RELAY, 7, NOISE, CLIENT)
    answer_holepunch(node.rpc, message, received, b"sealed", socket=POOL_SOCKET)
    routed = only(node.sent())
    assert_request(routed, to=RELAY, command=Command.PEER_HOLEPUNCH)
    assert routed.holepunch == HolepunchMessage(Mode.FROM_SERVER, 0, b"sealed", CLIENT)
    assert routed.socket == POOL_SOCKET


def test_holepunch_from_server_is_the_reply_to_the_client() -> None:
    node = Node()
    routed = only(node.receive(HolepunchMessage(Mode.FROM_SERVER, 0, NOISE, CLIENT), sender=SERVER))
    assert_last_leg(routed, to=CLIENT)
    assert routed.holepunch == HolepunchMessage(Mode.REPLY, 0, NOISE, SERVER)


# What is dropped

SILENT: list[HandshakeMessage | HolepunchMessage] = [
    HandshakeMessage(Mode.FROM_CLIENT, b""),
    HandshakeMessage(Mode.FROM_RELAY, NOISE, CLIENT),  # no route
    HandshakeMessage(Mode.FROM_RELAY, NOISE),
    HandshakeMessage(Mode.FROM_SECOND_RELAY, NOISE, CLIENT, RELAY),  # no server
    HandshakeMessage(Mode.FROM_SERVER, NOISE),
    HandshakeMessage(Mode.FROM_SERVER, b"", CLIENT),
    HandshakeMessage(Mode.REPLY, NOISE, CLIENT),
    HandshakeMessage(99, NOISE, CLIENT, RELAY),
    HolepunchMessage(Mode.FROM_RELAY, 7, NOISE, CLIENT),  # no server
    HolepunchMessage(Mode.FROM_SERVER, 7, NOISE),
    HolepunchMessage(Mode.FROM_SECOND_RELAY, 7, NOISE, CLIENT),
    HolepunchMessage(Mode.REPLY, 7, NOISE, CLIENT),
]


@pytest.mark.parametrize("message", SILENT, ids=str)
def test_what_leads_nowhere_is_dropped(message: HandshakeMessage | HolepunchMessage) -> None:
    assert Node().receive(message, sender=CLIENT) == []


@pytest.mark.parametrize(
    "message",
    [
        HandshakeMessage(Mode.FROM_CLIENT, b""),
        HandshakeMessage(Mode.FROM_RELAY, NOISE),
        HandshakeMessage(Mode.FROM_SECOND_RELAY, NOISE, CLIENT),
        HandshakeMessage(Mode.FROM_SECOND_RELAY, NOISE, None, RELAY),
        HandshakeMessage(Mode.REPLY, NOISE, CLIENT),
        HandshakeMessage(99, NOISE, CLIENT, RELAY),
        HolepunchMessage(Mode.FROM_RELAY, 7, NOISE),
    ],
    ids=str,
)
def test_server_is_not_bothered_with_half_a_message(message: HandshakeMessage | HolepunchMessage) -> None:
    node = Node()
    server = node.listen()
    assert node.receive(message, sender=CLIENT) == []
    assert not server.arrivals
    assert not server.rounds


def test_missing_target_or_value_is_dropped() -> None:
    node = Node()
    node.routes[TARGET] = SERVER
    assert node.receive(HandshakeMessage(Mode.FROM_CLIENT, NOISE), sender=CLIENT, target=None) == []
    assert node.receive(None, sender=CLIENT) == []


@given(value=st.binary(max_size=200), command=st.sampled_from([Command.PEER_HANDSHAKE, Command.PEER_HOLEPUNCH]))
@settings(deadline=None)
def test_any_bytes_are_routed_or_dropped(value: bytes, command: int) -> None:
    node = Node()
    node.routes[TARGET] = SERVER
    node.receive(value, sender=CLIENT, command=command)
    node.listen()
    node.receive(value, sender=CLIENT, command=command)


def test_other_commands_are_not_the_routers() -> None:
    node = Node()
    for command in (Command.FIND_PEER, Command.ANNOUNCE):
        request = Request(TID, NODE, command, target=TARGET)
        assert not node.router.receive(RequestReceived(request, CLIENT, SERVER_SOCKET), node.now)


def test_one_server_per_target() -> None:
    node = Node()
    node.listen()
    assert node.router.is_listening(TARGET)
    with pytest.raises(LocalProtocolError):
        node.listen()
    node.router.unregister(TARGET)
    assert not node.router.is_listening(TARGET)
    node.listen()


# Against being used

NOT_FOR_STRANGERS = [
    Address("127.0.0.1", 4000),
    Address("10.0.0.1", 4000),
    Address("192.168.0.1", 4000),
    Address("169.254.1.1", 4000),
    Address("100.64.0.1", 4000),
    Address("224.0.0.251", 5353),
    Address("255.255.255.255", 4000),
    Address("0.0.0.0", 4000),
    Address("8.8.8.8", 53),
    Address("8.8.8.8", 0),
]


@pytest.mark.parametrize("victim", NOT_FOR_STRANGERS, ids=str)
def test_t19_nothing_is_forwarded_where_strangers_have_no_business(victim: Address) -> None:
    node = Node()
    for message in (
        HandshakeMessage(Mode.FROM_CLIENT, NOISE, None, victim),
        HandshakeMessage(Mode.FROM_SERVER, NOISE, victim),
        HolepunchMessage(Mode.FROM_CLIENT, 7, NOISE, victim),
        HolepunchMessage(Mode.FROM_SERVER, 7, NOISE, victim),
    ):
        assert node.receive(message, sender=CLIENT) == []
    assert node.router.refused == 4
    server = node.listen()
    node.receive(HandshakeMessage(Mode.FROM_SECOND_RELAY, NOISE, CLIENT, victim), sender=RELAY)
    assert not server.arrivals, "it could not be answered"


def test_t19_a_network_that_is_private_as_a_whole_works() -> None:
    node = Node()
    for host in ("127.0.0.1", "10.0.0.5", "192.168.3.4"):
        client, other = Address(host, 4000), Address(host, 5000)
        routed = only(node.receive(HandshakeMessage(Mode.FROM_CLIENT, NOISE, None, other), sender=client))
        assert routed.to == other


@pytest.mark.parametrize(
    ("namer", "named", "allowed"),
    [
        ("10.0.0.1", "127.0.0.1", False),
        ("127.0.0.1", "10.0.0.1", True),
        ("127.0.0.1", "127.0.0.1", True),
        ("10.0.0.1", "192.168.1.1", True),
        ("11.0.0.1", "12.0.0.1", True),
        ("10.0.0.1", "12.0.0.1", True),
        ("127.0.0.1", "224.0.0.1", False),
    ],
)
def test_t19_who_may_name_whom(namer: str, named: str, allowed: bool) -> None:
    assert may_send_to(Address(named, 4000), named_by=Address(namer, 4000)) is allowed


def test_t19_public_means_anybody_can_be_there() -> None:
    assert is_public(SERVER)
    assert not any(is_public(address) for address in NOT_FOR_STRANGERS)


def test_t19_one_host_cannot_have_much_forwarded() -> None:
    node = Node()
    message = HolepunchMessage(Mode.FROM_CLIENT, 7, NOISE, SERVER)
    forwarded = sum(bool(node.receive(message, sender=Address(CLIENT.host, 5000 + i))) for i in range(2000))
    assert forwarded == FORWARDS_OF_A_HOST.burst
    assert node.receive(message, sender=replace_host(CLIENT, "11.9.9.9")), "others are not affected"
    node.now += 1
    forwarded = sum(bool(node.receive(message, sender=CLIENT)) for _ in range(200))
    assert forwarded == pytest.approx(FORWARDS_OF_A_HOST.per_s, abs=1)


def test_t19_forwards_are_not_larger_than_what_caused_them_by_more_than_an_address() -> None:
    node = Node()
    node.routes[TARGET] = SERVER
    for message in (
        HandshakeMessage(Mode.FROM_CLIENT, NOISE),
        HolepunchMessage(Mode.FROM_CLIENT, 7, NOISE),
        HandshakeMessage(Mode.FROM_RELAY, NOISE, CLIENT),
        HandshakeMessage(Mode.FROM_SERVER, NOISE, CLIENT),
    ):
        routed = only(node.receive(message, sender=RELAY))
        grown = len(routed.packet.value or b"") - len(
            encode_handshake(message) if isinstance(message, HandshakeMessage) else encode_holepunch(message)
        )
        assert grown <= 6


def test_t18_limiter_forgets_sources_used_longest_ago() -> None:
    limiter = SourceLimiter(Rate(1, 1), Rate(1e9, 10**9), now=0)
    first = Address("11.0.0.1", 1)
    assert limiter.allow(first, 0)
    assert not limiter.allow(first, 0)
    for number in range(MAX_SOURCES):
        assert limiter.allow(Address(f"12.0.{number // 256}.{number % 256}", 1), 0)
    assert limiter.allow(first, 0), "forgotten"


def test_t18_limit_of_all_counts_only_what_happens() -> None:
    limiter = SourceLimiter(Rate(0, 2), Rate(0, 3), now=0)
    loud, quiet = Address("11.0.0.1", 1), Address("11.0.0.2", 1)
    assert [limiter.allow(loud, 0) for _ in range(10)] == [True, True] + [False] * 8
    assert [limiter.allow(quiet, 0) for _ in range(2)] == [True, False]


def replace_host(address: Address, host: str) -> Address:
    return address._replace(host=host)


# As recorded


@cache
def recorded_legs() -> list[dict[str, str]]:
    legs: list[dict[str, str]] = json.loads((VECTORS / "dht_relay_legs.json").read_text(encoding="utf-8"))["legs"]
    return legs


@pytest.mark.parametrize("leg", recorded_legs(), ids=lambda leg: f"{leg['trace']} {leg['sender']} to {leg['to']}")
def test_relay_sends_the_same_bytes_as_the_official_one(leg: dict[str, str]) -> None:
    address, sender, to = (address_in(leg[name]) for name in ("node", "sender", "to"))
    received = bytes.fromhex(leg["received"])
    node = Node()
    node.rpc.table.move_to(node_id(address))
    target = decode_request(received, sender=sender).target
    assert target is not None
    node.routes[target] = to  # used by those legs only that do not say where to go
    node.rpc.receive(received, sender=sender, socket=SERVER_SOCKET, now=node.now)
    datagram = next(iter(node.rpc.datagrams_to_send()))
    assert (datagram.data.hex(), datagram.to) == (leg["sent"], to)
