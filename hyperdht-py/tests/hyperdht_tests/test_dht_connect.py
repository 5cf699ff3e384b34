"""Connecting and listening over a simulated DHT."""

from collections.abc import Callable

import pytest

from hyperdht.addresses import Address
from hyperdht.crypto import KeyPair
from hyperdht.dht.constants import Command, Firewall, PayloadError
from hyperdht.dht.link import Path
from hyperdht.dht.noise_session import ServerHandshake
from hyperdht.dht.payloads import (
    HandshakeMessage,
    HolepunchInfo,
    HolepunchMessage,
    Mode,
    NoisePayload,
    RelayInfo,
    UdxInfo,
    decode_handshake,
    encode_handshake,
)
from hyperdht.dht.router import HandshakeArrival, send_reply
from hyperdht.dht.server import HandshakeRequest
from hyperdht.dht.server_session import ServerOptions
from hyperdht.errors import (
    ConnectError,
    HandshakeError,
    HolepunchError,
    LocalProtocolError,
    PeerFailed,
    PeerIncompatible,
    PeerNotFound,
)
from hyperdht.rpc import Answer, RequestReceived

from .connect_lab import CLIENT_KEYS, SERVER_KEYS, ConnectLab, Peer, Relay, joined
from .simulation import NatKind
from .simulation.realm import Line

RELAY_KEY = b"\x66" * 32
ELSEWHERE = Address("11.200.0.9", 4000)
REQUEST_TIMEOUT_S = 4.0


class ScriptedServer:
    """Takes the place of a server in the router and answers what the test says."""

    def __init__(self, answer: Callable[[HandshakeArrival], NoisePayload | None]) -> None:
        self.arrivals: list[HandshakeArrival] = []
        self.remote_stream_id = 0
        self._answer = answer

    def receive_handshake(self, arrival: HandshakeArrival, now: float) -> None:
        self.arrivals.append(arrival)
        handshake = ServerHandshake(SERVER_KEYS, arrival.noise)
        assert handshake.payload.udx is not None
        self.remote_stream_id = handshake.payload.udx.id
        payload = self._answer(arrival)
        if payload is not None:
            arrival.answer(handshake.answer(payload)[0], None)

    def receive_holepunch(self, message: HolepunchMessage, received: RequestReceived, now: float) -> None:
        """Never answered."""


def scripted(lab: ConnectLab, answer: Callable[[HandshakeArrival], NoisePayload | None]) -> tuple[Peer, ScriptedServer]:
    """A server that announces itself as usual and then does what it wants."""
    peer = lab.add(NatKind.CONSISTENT)
    server = lab.listen(peer)
    script = ScriptedServer(answer)
    peer.node.router.unregister(server.target)
    peer.node.router.register(server.target, script)
    return peer, script


def assert_nothing_left(*peers: Peer) -> None:
    for peer in peers:
        assert peer.extra_sockets == 0
        assert not peer.streams.reserved


# The ways to a peer


def test_peers_behind_consistent_nats_meet_through_a_relay_and_punch() -> None:
    lab = ConnectLab()
    server, client = lab.add(NatKind.CONSISTENT), lab.add(NatKind.CONSISTENT)
    lab.listen(server)
    attempt = lab.connect(client)
    took = lab.run(until=lambda: joined(client, server))
    assert client.links[0].path is Path.PUNCHED
    assert server.links[0].path is Path.PUNCHED
    assert client.links[0].is_initiator
    assert not server.links[0].is_initiator
    assert client.links[0].keys.remote_public_key == SERVER_KEYS.public_key
    assert server.links[0].keys.remote_public_key == CLIENT_KEYS.public_key
    assert attempt.over
    assert took < 2
    assert not client.errors
    lab.run(seconds=15)
    assert len(client.links) == len(server.links) == 1
    assert client.extra_sockets == server.extra_sockets == 0, "closed, as far as we are concerned; streams keep theirs"


@pytest.mark.parametrize(
    ("server_kind", "client_kind"),
    [
        (NatKind.OPEN, NatKind.CONSISTENT),
        (NatKind.OPEN, NatKind.RANDOM),
        (NatKind.OPEN, NatKind.OPEN),
        (NatKind.CONSISTENT, NatKind.OPEN),
        (NatKind.RANDOM, NatKind.OPEN),
    ],
)
def test_open_side_needs_no_hole(server_kind: NatKind, client_kind: NatKind) -> None:
    lab = ConnectLab()
    server, client = lab.add(server_kind), lab.add(client_kind)
    lab.listen(server)
    lab.connect(client)
    took = lab.run(until=lambda: joined(client, server))
    assert took < 1
    assert client.links[0].path is Path.DIRECT
    assert server.links[0].path is Path.DIRECT
    assert client.extra_sockets == 0
    lab.run(seconds=15)
    assert server.extra_sockets == 0
    assert len(client.links) == len(server.links) == 1


@pytest.mark.parametrize(
    ("server_kind", "client_kind"), [(NatKind.CONSISTENT, NatKind.RANDOM), (NatKind.RANDOM, NatKind.CONSISTENT)]
)
def test_random_ports_on_one_side_are_found(server_kind: NatKind, client_kind: NatKind) -> None:
    lab = ConnectLab()
    server, client = lab.add(server_kind), lab.add(client_kind)
    lab.listen(server)
    lab.connect(client)
    lab.run(until=lambda: joined(client, server))
    assert client.links[0].path is server.links[0].path is Path.PUNCHED


def test_peers_in_one_network_use_the_short_way() -> None:
    lab = ConnectLab()
    site = lab.network.site(NatKind.CONSISTENT)
    server, client = lab.add(site.host()), lab.add(site.host())
    lab.listen(server)
    lab.connect(client)
    took = lab.run(until=lambda: joined(client, server))
    assert client.links[0].path is server.links[0].path is Path.LAN
    assert client.links[0].address == server.address
    assert server.links[0].address == client.address
    assert took < 1
    lab.run(seconds=15)
    assert client.extra_sockets == server.extra_sockets == 0


def test_peers_in_one_network_that_keeps_them_apart_punch_through_its_box() -> None:
    lab = ConnectLab()
    site = lab.network.site(NatKind.CONSISTENT, isolated=True, hairpin=True)
    server, client = lab.add(site.host()), lab.add(site.host())
    lab.listen(server)
    lab.connect(client)
    lab.run(until=lambda: joined(client, server))
    assert client.links[0].path is Path.PUNCHED


def test_without_local_connection_no_local_address_is_told_or_tried() -> None:
    lab = ConnectLab()
    site = lab.network.site(NatKind.CONSISTENT, hairpin=True)
    server, client = lab.add(site.host()), lab.add(site.host())
    claims: list[NoisePayload] = []

    def accept(request: HandshakeRequest, now: float) -> None:
        claims.append(request.payload)
        request.accept(now)

    lab.listen(server, options=ServerOptions(share_local_address=False), on_handshake=accept)
    lab.connect(client, local_connection=False)
    lab.run(until=lambda: joined(client, server))
    assert claims[0].addresses4 == ()
    assert client.links[0].path is Path.PUNCHED


def test_peers_in_one_network_that_keeps_them_apart_altogether() -> None:
    lab = ConnectLab()
    site = lab.network.site(NatKind.CONSISTENT, isolated=True)
    server, client = lab.add(site.host()), lab.add(site.host())
    listening = lab.listen(server)
    lab.connect(client)
    lab.run(seconds=10.15)
    assert listening.open_sessions == 1, "still punching; the 10 s are for those that do not begin"
    lab.run(until=lambda: client.errors)
    assert isinstance(client.errors[0], HolepunchError)
    lab.run(seconds=30)
    assert not client.links
    assert_nothing_left(client, server)


def test_local_address_of_a_peer_is_only_tried_when_that_is_wanted() -> None:
    lab = ConnectLab()
    site = lab.network.site(NatKind.CONSISTENT, hairpin=True)
    server, client = lab.add(site.host()), lab.add(site.host())
    lab.listen(server)
    sent = sent_by(client)
    lab.connect(client, local_connection=False)
    lab.run(until=lambda: joined(client, server))
    assert client.links[0].path is Path.PUNCHED
    assert server.address not in sent


def test_server_that_answers_itself_is_not_looked_for_any_further(monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not know that it can be reached, and offers to punch; we have its answer from there already."""
    lab = ConnectLab()
    server, client = lab.add(NatKind.FULLCONE), lab.add(NatKind.CONSISTENT)
    lab.listen(server)
    route = server.rpc.nat_address()
    monkeypatch.setattr(client.node.storage, "route_to", lambda target, now: route)
    sent = sent_by(client)
    lab.connect(client, relay_addresses=[ELSEWHERE])
    took = lab.run(until=lambda: client.links)
    assert client.links[0].path is Path.DIRECT
    assert client.links[0].address == route
    assert took < 0.1
    assert ELSEWHERE not in sent, "our own route is better"
    assert client.extra_sockets == 0


def test_lossy_lines_only_take_longer() -> None:
    lab = ConnectLab(seed=3, line=Line(latency_s=0.02, loss=0.1, duplication=0.1))
    server, client = lab.add(NatKind.CONSISTENT), lab.add(NatKind.CONSISTENT)
    lab.listen(server)
    lab.connect(client)
    lab.run(until=lambda: joined(client, server))


def test_connecting_to_a_server_of_the_same_node() -> None:
    lab = ConnectLab()
    peer = lab.add(NatKind.OPEN)
    lab.listen(peer)
    lab.connect(peer)
    lab.run(until=lambda: len(peer.links) == 2)
    assert {link.is_initiator for link in peer.links} == {True, False}


# Finding it again


def test_relays_are_remembered_and_asked_first() -> None:
    lab = ConnectLab()
    server, client = lab.add(NatKind.CONSISTENT), lab.add(NatKind.CONSISTENT)
    announced = lab.listen(server)
    lab.connect(client)
    lab.run(until=lambda: joined(client, server))
    assert client.node.routes.relay_addresses(SERVER_KEYS.public_key) == announced.relay_addresses


def test_known_relays_answer_without_a_search() -> None:
    lab = ConnectLab(line=Line(latency_s=0.1))
    server, client = lab.add(NatKind.OPEN), lab.add(NatKind.CONSISTENT)
    relays = lab.listen(server).relay_addresses[1:]  # the first is the server itself
    lab.connect(client, relay_addresses=relays)
    took = lab.run(until=lambda: client.links)
    assert took == pytest.approx(0.8, abs=0.01), "to the relay, to the server, and both ways back"


def test_stale_relays_do_not_keep_it_from_finding_the_peer() -> None:
    lab = ConnectLab()
    server, client = lab.add(NatKind.OPEN), lab.add(NatKind.CONSISTENT)
    lab.listen(server)
    stale = [Address(f"11.200.1.{n}", 4000) for n in range(20)]
    sent = sent_by(client)
    lab.connect(client, relay_addresses=stale)
    assert lab.run(until=lambda: joined(client, server)) < 2
    assert len(sent & set(stale)) <= 6, "of a long list only the first are taken"


def test_second_connection_takes_the_way_of_the_first() -> None:
    lab = ConnectLab()
    server, client = lab.add(NatKind.OPEN), lab.add(NatKind.CONSISTENT)
    lab.listen(server, options=ServerOptions(reusable_socket=True))
    lab.connect(client, reusable_socket=True)
    lab.run(until=lambda: joined(client, server))
    assert server.node.routes.route(CLIENT_KEYS.public_key) == (server.links[0].socket, server.links[0].address)
    for node in lab.nodes:
        node.shell.stop()
    lab.connect(client, reusable_socket=True)
    took = lab.run(until=lambda: len(client.links) == 2 and len(server.links) == 2)
    assert took < 0.1
    assert (client.links[1].socket, client.links[1].address) == (client.links[0].socket, client.links[0].address)


def test_lost_way_of_an_earlier_connection_costs_a_second() -> None:
    lab = ConnectLab()
    server, client = lab.add(NatKind.OPEN), lab.add(NatKind.CONSISTENT)
    lab.listen(server, options=ServerOptions(reusable_socket=True))
    lab.connect(client, reusable_socket=True)
    lab.run(until=lambda: joined(client, server))
    server.shell.stop()
    again = lab.add(NatKind.OPEN)
    lab.listen(again)
    lab.connect(client, reusable_socket=True)
    assert 1 < lab.run(until=lambda: joined(client, again)) < 1.8
    lab.connect(client, reusable_socket=True)
    assert lab.run(until=lambda: len(client.links) == 3) < 0.1, "the new way is remembered in its place"


def test_lost_way_does_not_fail_before_its_time_nor_twice() -> None:
    lab = ConnectLab()
    server, client = lab.add(NatKind.OPEN), lab.add(NatKind.CONSISTENT)
    listening = lab.listen(server, options=ServerOptions(reusable_socket=True))
    lab.connect(client, reusable_socket=True)
    lab.run(until=lambda: joined(client, server))
    stopped = lab.stop(server, listening)
    lab.run(until=lambda: stopped)
    server.shell.stop()
    client.node.routes.remember_relays(SERVER_KEYS.public_key, [lab.nodes[0].address])  # which answers at once
    lab.connect(client, reusable_socket=True)
    took = lab.run(until=lambda: client.errors)
    assert took == pytest.approx(REQUEST_TIMEOUT_S, abs=0.5), "the search was over long before"
    lab.run(seconds=30)
    assert len(client.errors) == 1


def test_way_is_only_remembered_if_both_sides_want_that() -> None:
    lab = ConnectLab()
    server, client = lab.add(NatKind.OPEN), lab.add(NatKind.CONSISTENT)
    lab.listen(server)
    lab.connect(client, reusable_socket=True)
    lab.run(until=lambda: joined(client, server))
    assert client.node.routes.route(SERVER_KEYS.public_key) is None
    assert server.node.routes.route(CLIENT_KEYS.public_key) is None


# What can go wrong


def test_key_that_nobody_announced() -> None:
    lab = ConnectLab()
    client = lab.add()
    attempt = lab.connect(client)
    lab.run(until=lambda: client.errors)
    assert isinstance(client.errors[0], PeerNotFound)
    assert client.errors[0].code == "PEER_NOT_FOUND"
    assert attempt.over
    assert_nothing_left(client)


def test_peer_that_is_gone() -> None:
    lab = ConnectLab()
    server, client = lab.add(), lab.add()
    lab.listen(server)
    server.shell.stop()
    lab.connect(client)
    took = lab.run(until=lambda: client.errors)
    assert type(client.errors[0]) is ConnectError
    assert client.errors[0].code == "PEER_CONNECTION_FAILED"
    assert took == pytest.approx(8, abs=1), "three relays, two at once, four seconds each"
    assert_nothing_left(client)


def test_key_of_nobody_is_refused_at_once() -> None:
    lab = ConnectLab()
    client = lab.add()
    with pytest.raises(HandshakeError):
        lab.connect(client, b"\0" * 32)
    assert_nothing_left(client)


def test_rejected_peer_hears_nothing() -> None:
    lab = ConnectLab()
    server, client = lab.add(), lab.add()
    seen: list[bytes] = []

    def refuse(request: HandshakeRequest, now: float) -> None:
        seen.append(request.public_key)
        request.reject(now)

    listening = lab.listen(server, on_handshake=refuse)
    lab.connect(client)
    lab.run(until=lambda: client.errors)
    assert client.errors[0].code == "PEER_CONNECTION_FAILED"
    assert seen == [CLIENT_KEYS.public_key], "asked once, for all copies and all relays"
    assert listening.open_sessions == 0
    assert_nothing_left(server, client)


def test_firewall_may_take_its_time() -> None:
    lab = ConnectLab()
    server, client = lab.add(), lab.add()
    asked: list[float] = []

    def later(request: HandshakeRequest, now: float) -> None:
        asked.append(now)
        server.rpc.timers.call_at(now + 2.5, request.accept)

    lab.listen(server, on_handshake=later)
    lab.connect(client)
    took = lab.run(until=lambda: joined(client, server))
    assert len(asked) == 1
    assert 2.5 < took < 6


def test_firewall_that_never_answers_is_no_leak() -> None:
    lab = ConnectLab()
    server, client = lab.add(), lab.add()
    listening = lab.listen(server, on_handshake=lambda request, now: None)
    lab.connect(client)
    lab.run(seconds=3)
    assert listening.open_sessions == 1
    lab.run(seconds=15)
    assert listening.open_sessions == 0
    assert_nothing_left(server)


def test_peer_of_another_version() -> None:
    lab = ConnectLab()
    client = lab.add()
    scripted(lab, lambda arrival: NoisePayload(version=2))
    lab.connect(client)
    lab.run(until=lambda: client.errors)
    assert isinstance(client.errors[0], PeerIncompatible)
    assert_nothing_left(client)


@pytest.mark.parametrize("payload", [NoisePayload(error=PayloadError.ABORTED, udx=UdxInfo(1)), NoisePayload()])
def test_peer_that_answers_with_an_error(payload: NoisePayload) -> None:
    lab = ConnectLab()
    client = lab.add()
    scripted(lab, lambda arrival: payload)
    lab.connect(client)
    lab.run(until=lambda: client.errors)
    assert isinstance(client.errors[0], PeerFailed)
    assert_nothing_left(client)


def test_open_client_waits_ten_seconds_for_the_peer() -> None:
    lab = ConnectLab()
    client = lab.add(NatKind.OPEN)
    relay = RelayInfo(lab.nodes[0].address, ELSEWHERE)
    scripted(lab, lambda arrival: NoisePayload(holepunch=HolepunchInfo(1, (relay,)), udx=UdxInfo(1)))
    lab.connect(client)
    took = lab.run(until=lambda: client.errors)
    assert client.errors[0].code == "HOLEPUNCH_ABORTED"
    assert took == pytest.approx(10, abs=1)
    assert_nothing_left(client)


def test_peer_that_does_not_take_part_in_punching() -> None:
    lab = ConnectLab()
    client = lab.add()
    relay = RelayInfo(lab.nodes[0].address, ELSEWHERE)
    scripted(lab, lambda arrival: NoisePayload(holepunch=HolepunchInfo(1, (relay,)), udx=UdxInfo(1)))
    lab.connect(client)
    lab.run(until=lambda: client.errors)
    assert isinstance(client.errors[0], HolepunchError)
    assert_nothing_left(client)


def test_both_networks_random_is_named() -> None:
    lab = ConnectLab()
    server, client = lab.add(NatKind.RANDOM), lab.add(NatKind.RANDOM)
    lab.listen(server)
    lab.connect(client)
    lab.run(until=lambda: client.errors)
    error = client.errors[0]
    assert isinstance(error, HolepunchError)
    assert error.code == "HOLEPUNCH_DOUBLE_RANDOMIZED_NATS"
    assert (error.local_firewall, error.remote_firewall) == (Firewall.RANDOM, Firewall.RANDOM)
    lab.run(seconds=15)
    assert_nothing_left(server, client)


def test_relay_that_answers_nonsense_does_not_spoil_the_others() -> None:
    lab = ConnectLab()
    server, client = lab.add(), lab.add()
    listening = lab.listen(server)
    for address in listening.relay_addresses[:2]:
        make_lie(lab.node_at(address))
    lab.connect(client)
    assert lab.run(until=lambda: joined(client, server)) < 2


def make_lie(relay: Relay) -> None:
    """It answers handshakes itself, with what nobody can have written."""

    def lie(received: RequestReceived, now: float) -> None:
        if received.request.command == Command.PEER_HANDSHAKE:
            relay.rpc.reply(received, value=encode_handshake(HandshakeMessage(Mode.REPLY, b"\x55" * 48, ELSEWHERE)))
        else:
            relay.receive_request(received, now)

    relay.rpc.on_request = lie


@pytest.mark.parametrize("after_s", [0.0, 0.02, 0.05, 0.1, 0.15, 0.2])
def test_cancel_leaves_nothing(after_s: float) -> None:
    lab = ConnectLab()
    server, client = lab.add(NatKind.RANDOM), lab.add(NatKind.RANDOM)
    lab.listen(server)
    attempt = lab.connect(client)
    lab.run(seconds=after_s)
    attempt.cancel(lab.now)
    assert attempt.over
    assert_nothing_left(client)
    lab.run(seconds=30)
    assert not client.links
    assert not client.errors
    assert_nothing_left(server)


# What a hostile peer or record may make us do


def test_t19_private_relay_addresses_of_a_record_are_not_asked() -> None:
    lab = ConnectLab()
    server, client = lab.add(NatKind.OPEN), lab.add()
    lab.listen(server)
    sent = sent_by(client)
    hostile = [
        Address("127.0.0.1", 5000),
        Address("192.168.1.1", 5000),
        Address("8.8.8.8", 53),
        Address("239.1.1.1", 5000),
    ]
    lab.connect(client, relay_addresses=hostile)
    lab.run(until=lambda: joined(client, server))
    assert not sent & set(hostile)


def test_t19_addresses_a_peer_claims_are_only_used_where_strangers_may_be() -> None:
    lab = ConnectLab()
    client = lab.add()
    hostile = [
        Address("127.0.0.1", 5000),
        Address("192.168.77.1", 5000),
        Address("8.8.8.8", 53),
        Address("224.0.0.1", 5000),
    ]
    relays = tuple(RelayInfo(address, address) for address in hostile)
    claims = NoisePayload(addresses4=tuple(hostile), holepunch=HolepunchInfo(1, relays), udx=UdxInfo(1))
    server, _ = scripted(lab, lambda arrival: claims)
    sent = sent_by(client)
    lab.connect(client)
    lab.run(seconds=30)
    assert not sent & set(hostile)
    assert [link.address for link in client.links] == [server.rpc.nat_address()], "where the relay sees it"


def test_t19_open_peer_at_a_private_address_is_not_called() -> None:
    lab = ConnectLab()
    client = lab.add()
    local = Address("192.168.77.1", 5000)
    scripted(lab, lambda arrival: NoisePayload(firewall=Firewall.OPEN, addresses4=(local,), udx=UdxInfo(1)))
    sent = sent_by(client)
    lab.connect(client)
    lab.run(seconds=15)
    assert local not in sent


def test_t19_relay_cannot_send_us_into_our_own_network() -> None:
    """All relays say that the server, which says it is open, is at a private address."""
    lab = ConnectLab()
    client, hostile = lab.add(), Address("192.168.77.1", 5000)
    scripted(lab, lambda arrival: NoisePayload(firewall=Firewall.OPEN, udx=UdxInfo(1)))
    for relay in lab.nodes:
        make_misplace(relay, hostile)
    sent = sent_by(client)
    lab.connect(client)
    lab.run(until=lambda: client.errors)
    assert client.errors[0].code == "CANNOT_HOLEPUNCH"
    assert hostile not in sent


def make_misplace(relay: Relay, address: Address) -> None:
    """It tells clients that servers are at `address`."""

    def receive(received: RequestReceived, now: float) -> None:
        request = received.request
        if request.command == Command.PEER_HANDSHAKE and request.value is not None:
            message = decode_handshake(request.value)
            if message.mode == Mode.FROM_SERVER and message.peer_address is not None:
                value = encode_handshake(HandshakeMessage(Mode.REPLY, message.noise, address))
                send_reply(relay.rpc, received, value, to=message.peer_address)
                return
        relay.receive_request(received, now)

    relay.rpc.on_request = receive


def test_open_peer_is_called_at_the_first_public_address_it_names() -> None:
    lab = ConnectLab()
    client = lab.add()
    claims = (Address("192.168.77.1", 5000), ELSEWHERE, Address("11.200.0.10", 5000))
    punching = HolepunchInfo(
        1, (RelayInfo(lab.nodes[0].address, ELSEWHERE),)
    )  # which an open peer has no need to offer
    payload = NoisePayload(firewall=Firewall.OPEN, addresses4=claims, holepunch=punching, udx=UdxInfo(1))
    scripted(lab, lambda arrival: payload)
    lab.connect(client)
    lab.run(until=lambda: client.links)
    assert client.links[0].address == ELSEWHERE
    assert client.links[0].path is Path.DIRECT


def sent_by(peer: Peer) -> set[Address]:
    """Fills with wherever the peer sends."""
    seen: set[Address] = set()
    send = peer.shell.host.send

    def note(data: bytes, to: Address, *, port: int, ttl: int | None = None) -> None:
        seen.add(to)
        send(data, to, port=port, ttl=ttl)

    peer.shell.host.send = note  # type: ignore[method-assign]
    return seen


# A blind relay


def meet_at_relay(lab: ConnectLab, server: Peer, client: Peer) -> None:
    """Both sides have dialled the relay, and it has paired them."""
    relay = lab.nodes[0].address
    for peer, other in ((client, server), (server, client)):
        wanted = peer.relays[0]
        wanted.connected(0, relay, lab.now)
        wanted.opened(0, relay, 1000 + other.relays[0].stream_id, lab.now)
        peer.shell.wake()


def test_relay_carries_what_cannot_be_punched() -> None:
    lab = ConnectLab()
    server, client = lab.add(NatKind.RANDOM), lab.add(NatKind.RANDOM)
    lab.listen(server, options=ServerOptions(on_relay=server.relay))
    attempt = lab.connect(client, relay_through=RELAY_KEY, on_relay=client.relay)
    lab.run(until=lambda: client.relays and server.relays)
    ours, theirs = client.relays[0], server.relays[0]
    assert ours.relay_public_key == theirs.relay_public_key == RELAY_KEY
    assert ours.token == theirs.token
    assert (ours.is_initiator, theirs.is_initiator) == (True, False)
    meet_at_relay(lab, server, client)
    assert client.links[0].path is server.links[0].path is Path.RELAYED
    assert client.links[0].remote_stream_id == 1000 + theirs.stream_id
    lab.run(until=lambda: attempt.over, seconds=120)
    lab.run(seconds=120)
    assert not client.errors
    assert len(client.links) == len(server.links) == 1
    for peer in (client, server):
        assert peer.streams.reserved == {peer.links[0].stream_id}, "the relayed stream is the shell's"
    assert client.extra_sockets == server.extra_sockets == 0


def test_relay_may_open_after_all_else_has_failed() -> None:
    lab = ConnectLab()
    server, client = lab.add(NatKind.RANDOM), lab.add(NatKind.RANDOM)
    listening = lab.listen(server, options=ServerOptions(on_relay=server.relay))
    attempt = lab.connect(client, relay_through=RELAY_KEY, on_relay=client.relay)
    lab.run(until=lambda: client.relays and server.relays)
    lab.run(seconds=13)
    meet_at_relay(lab, server, client)
    for peer in (client, server):
        assert [link.path for link in peer.links] == [Path.RELAYED]
        assert peer.streams.reserved == {peer.links[0].stream_id}
    lab.run(seconds=30)
    assert attempt.over
    assert listening.open_sessions == 0
    assert client.extra_sockets == server.extra_sockets == 0


def test_relayed_stream_moves_to_the_hole() -> None:
    lab = ConnectLab(line=Line(latency_s=0.05))
    server, client = lab.add(NatKind.CONSISTENT), lab.add(NatKind.CONSISTENT)
    lab.listen(server, options=ServerOptions(on_relay=server.relay))
    lab.connect(client, relay_through=RELAY_KEY, on_relay=client.relay)
    lab.run(until=lambda: client.relays and server.relays)
    meet_at_relay(lab, server, client)
    lab.run(until=lambda: len(client.links) == len(server.links) == 2)
    for peer in (client, server):
        assert [link.path for link in peer.links] == [Path.RELAYED, Path.PUNCHED]
        assert peer.links[0].stream_id == peer.links[1].stream_id
    assert joined(client, server)


def test_relay_that_opens_after_the_hole_is_of_no_use() -> None:
    lab = ConnectLab()
    server, client = lab.add(NatKind.CONSISTENT), lab.add(NatKind.CONSISTENT)
    lab.listen(server, options=ServerOptions(on_relay=server.relay))
    lab.connect(client, relay_through=RELAY_KEY, on_relay=client.relay)
    lab.run(until=lambda: joined(client, server))
    meet_at_relay(lab, server, client)
    assert len(client.links) == len(server.links) == 1


def test_cancelling_a_relayed_connection_ends_the_punching_and_leaves_the_stream() -> None:
    lab = ConnectLab()
    server, client = lab.add(NatKind.RANDOM), lab.add(NatKind.CONSISTENT)
    lab.listen(server, options=ServerOptions(on_relay=server.relay))
    attempt = lab.connect(client, relay_through=RELAY_KEY, on_relay=client.relay)
    lab.run(until=lambda: client.relays and server.relays)
    meet_at_relay(lab, server, client)
    assert client.extra_sockets
    attempt.cancel(lab.now)
    assert client.extra_sockets == 0
    assert client.streams.reserved == {client.links[0].stream_id}
    lab.run(seconds=60)
    assert len(client.links) == 1


def test_choice_of_the_server_counts_when_both_name_a_relay() -> None:
    lab = ConnectLab()
    server, client = lab.add(), lab.add()
    chosen = b"\x67" * 32
    lab.listen(server, options=ServerOptions(on_relay=server.relay, relay_through=lambda: chosen))
    lab.connect(client, relay_through=RELAY_KEY, on_relay=client.relay)
    lab.run(until=lambda: client.relays and server.relays)
    assert client.relays[0].relay_public_key == server.relays[0].relay_public_key == chosen
    assert client.relays[0].token == server.relays[0].token
    assert (client.relays[0].is_initiator, server.relays[0].is_initiator) == (False, True)


def test_relay_that_never_opens_fails_with_the_last_way() -> None:
    lab = ConnectLab()
    server, client = lab.add(NatKind.RANDOM), lab.add(NatKind.RANDOM)
    lab.listen(server, options=ServerOptions(on_relay=server.relay))
    lab.connect(client, relay_through=RELAY_KEY, on_relay=client.relay)
    took = lab.run(until=lambda: client.errors, seconds=120)
    assert took >= 15
    lab.run(seconds=120)
    assert_nothing_left(client, server)
    client.relays[0].opened(0, lab.nodes[0].address, 5, lab.now)  # too late
    assert not client.links


def test_packets_through_the_relay_are_not_taken_for_the_peer_itself() -> None:
    lab = ConnectLab()
    client, relay, other = lab.add(), lab.nodes[0], lab.nodes[1]
    punching = HolepunchInfo(1, (RelayInfo(lab.nodes[2].address, ELSEWHERE),))
    _, script = scripted(lab, lambda arrival: NoisePayload(holepunch=punching, udx=UdxInfo(77)))
    lab.connect(client, relay_through=RELAY_KEY, on_relay=client.relay)
    lab.run(until=lambda: client.relays)
    client.relays[0].connected(0, relay.address, lab.now)
    relay.shell.send_stream_packet(script.remote_stream_id, to=seen_by(lab, client, relay), socket=1)
    lab.run(seconds=0.1)
    assert not client.links
    assert not client.shell.streams.taken
    there = seen_by(lab, client, other)
    other.shell.send_stream_packet(script.remote_stream_id, to=there, socket=1)
    lab.run(seconds=0.1)
    assert [(link.address, link.remote_stream_id) for link in client.links] == [(other.address, 77)]


def seen_by(lab: ConnectLab, peer: Peer, relay: Relay) -> Address:
    """Let a node's answers in, and learn where it sees us."""
    answers: list[Answer] = []
    peer.rpc.ping(relay.address, socket=0, now=lab.now, then=answers.append)
    peer.shell.wake()
    lab.run(until=lambda: answers)
    assert answers[0].reply is not None
    return answers[0].reply.to


# A server's life


def test_one_key_pair_listens_once_per_node() -> None:
    lab = ConnectLab()
    peer = lab.add()
    first = lab.listen(peer)
    with pytest.raises(LocalProtocolError):
        lab.listen(peer)
    lab.stop(peer, first)
    lab.listen(peer)


def test_server_that_stops_leaves_nothing_and_answers_nobody() -> None:
    lab = ConnectLab()
    server, client = lab.add(NatKind.RANDOM), lab.add(NatKind.RANDOM)
    listening = lab.listen(server)
    lab.connect(client)
    lab.run(until=lambda: listening.open_sessions)
    stopped = lab.stop(server, listening)
    assert_nothing_left(server)
    assert listening.open_sessions == 0
    lab.run(until=lambda: client.errors)
    assert stopped
    other = lab.add()
    lab.connect(other)
    lab.run(until=lambda: other.errors)
    assert not server.links


def test_many_clients_at_once() -> None:
    lab = ConnectLab()
    server = lab.add(NatKind.CONSISTENT)
    lab.listen(server)
    clients = [lab.add(NatKind.CONSISTENT) for _ in range(20)]
    for number, client in enumerate(clients):
        lab.connect(client, key_pair=KeyPair.from_seed(bytes([number]) * 32))
    lab.run(until=lambda: all(client.links for client in clients) and len(server.links) == 20)
    assert len({link.keys.hash for link in server.links}) == 20
    assert server.extra_sockets <= 20
    lab.run(seconds=15)
