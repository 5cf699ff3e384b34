"""Who connects to whom through which boxes, in simulated time: the matrix that the official stack has in a laboratory.

The reference: everything connects but random to random, and hosts of one box that cannot reach each other. Without a random
end it takes about 0.1 s at 10 ms each way.
"""

from collections.abc import Callable
from random import Random
from statistics import median

import pytest

from hyperdht.dht.link import Path

from .simulation import Host, Line, NatKind
from .simulation.liars import key_pair_of
from .simulation.peer import Attempt, PeerNetwork, SimulatedPeer

SERVER, CLIENT = key_pair_of(1), key_pair_of(2)
KINDS = (
    NatKind.OPEN,
    NatKind.BLOCKED,
    NatKind.CONSISTENT,
    NatKind.FULLCONE,
    NatKind.FORWARDED,
    NatKind.DOUBLE,
    NatKind.RANDOM,
)
PER_DESTINATION = (NatKind.RANDOM, NatKind.SYMMETRIC)
REACHABLE = (NatKind.OPEN, NatKind.FORWARDED)
LIMIT_S = 60.0
QUICK_S = 0.4


class Meeting:
    """A server that has announced itself, then a client that joined a moment ago, and one attempt."""

    def __init__(
        self,
        network: PeerNetwork,
        server: NatKind | Host,
        client: NatKind | Host,
        *,
        meanwhile: Callable[["Meeting"], None] = lambda meeting: None,
    ) -> None:
        """`meanwhile` happens between the announcing and the client's coming."""
        self.network = network
        self.server: SimulatedPeer = network.peer(server)
        network.clock.run(3)
        self.serving = self.server.listen(SERVER)
        assert network.clock.run_until(lambda: self.serving.announced, seconds=20)
        meanwhile(self)
        self.client: SimulatedPeer = network.peer(client)
        network.clock.run(3)
        self.attempt: Attempt = self.client.connect(SERVER.public_key, CLIENT)
        network.clock.run_until(lambda: self.is_over, seconds=LIMIT_S)

    @property
    def is_over(self) -> bool:
        return self.attempt.error is not None or self.connected

    @property
    def connected(self) -> bool:
        """Both ends have heard the other."""
        greeted = any(connection.greeted_at is not None for connection in self.serving.connections)
        return greeted and self.attempt.greeted_at is not None

    def leave(self) -> None:
        self.server.shell.stop()
        self.client.shell.stop()


def expected(server: NatKind, client: NatKind) -> bool:
    return not (server in PER_DESTINATION and client in PER_DESTINATION)


@pytest.mark.parametrize("server", KINDS)
def test_each_kind_of_client_reaches_each_kind_of_server(server: NatKind) -> None:
    network = PeerNetwork(1)
    for client in KINDS:
        meeting = Meeting(network, server, client)
        assert meeting.connected is expected(server, client), client
        if meeting.connected:
            direct = server in REACHABLE or client in REACHABLE
            assert meeting.attempt.path is (Path.DIRECT if direct else Path.PUNCHED), client
            if NatKind.RANDOM not in (server, client):
                assert meeting.attempt.seconds < QUICK_S, client
        network.clock.run(10)
        in_use = int(meeting.connected)  # what the stream of a punched connection keeps
        assert meeting.client.sockets <= in_use, client
        assert meeting.server.sockets <= in_use, client
        meeting.leave()


@pytest.mark.parametrize("other", [NatKind.OPEN, NatKind.CONSISTENT, NatKind.RANDOM, NatKind.SYMMETRIC])
def test_a_box_with_the_next_port_for_each_destination_is_as_good_as_a_random_one(other: NatKind) -> None:
    network = PeerNetwork(2)
    for server, client in ((NatKind.SYMMETRIC, other), (other, NatKind.SYMMETRIC)):
        meeting = Meeting(network, server, client)
        assert meeting.connected is expected(server, client)
        meeting.leave()


@pytest.mark.parametrize("kind", [NatKind.CONSISTENT, NatKind.RANDOM])
def test_two_hosts_behind_one_box_use_their_lan(kind: NatKind) -> None:
    network = PeerNetwork(3)
    site = network.network.site(kind)
    meeting = Meeting(network, site.host(), site.host())
    assert meeting.connected
    assert meeting.attempt.path is Path.LAN
    assert meeting.attempt.seconds < QUICK_S


def test_two_isolated_hosts_behind_one_box_never_meet() -> None:
    network = PeerNetwork(4)
    site = network.network.site(NatKind.CONSISTENT, isolated=True)
    meeting = Meeting(network, site.host(), site.host())
    assert not meeting.connected
    assert meeting.attempt.error is not None
    network.clock.run(20)
    assert meeting.client.sockets == 0
    assert meeting.server.sockets == 0


def test_two_isolated_hosts_meet_if_their_box_turns_them_round() -> None:
    network = PeerNetwork(5)
    site = network.network.site(NatKind.CONSISTENT, isolated=True, hairpin=True)
    meeting = Meeting(network, site.host(), site.host())
    assert meeting.connected
    assert meeting.attempt.path is Path.PUNCHED


@pytest.mark.parametrize("server", [NatKind.OPEN, NatKind.CONSISTENT, NatKind.DOUBLE])
def test_lines_that_lose_and_reorder(server: NatKind) -> None:
    network = PeerNetwork(6)
    lossy = Line(loss=0.05, jitter_s=0.02, duplication=0.05)
    for client in (NatKind.BLOCKED, NatKind.CONSISTENT):
        meeting = Meeting(network, network.network.host(server, line=lossy), network.network.host(client, line=lossy))
        assert meeting.connected, client
        meeting.leave()


def test_what_nodes_find_out_about_themselves() -> None:
    network = PeerNetwork(7)
    for kind in KINDS:
        peer = network.peer(kind)
        network.clock.run(10)
        address = peer.dht.rpc.nat_address()
        assert address is not None
        assert address.host == peer.shell.host.public_host
        assert (address.port == 0) is (kind is NatKind.RANDOM)
        assert peer.dht.rpc.firewalled is (kind not in REACHABLE), kind


@pytest.mark.parametrize("kind", [NatKind.BLOCKED, NatKind.CONSISTENT, NatKind.DOUBLE, NatKind.RANDOM])
def test_a_server_keeps_its_boxes_open_while_nobody_comes(kind: NatKind) -> None:
    network = PeerNetwork(8)
    assert Meeting(network, kind, NatKind.CONSISTENT, meanwhile=lambda _: network.clock.run(1200)).connected


def test_a_server_whose_box_forgot_everything_is_soon_reachable_again() -> None:
    def reboot(meeting: Meeting) -> None:
        box = meeting.server.shell.host.box
        assert box is not None
        box.forget()
        meeting.network.clock.run(30)

    assert Meeting(PeerNetwork(9), NatKind.CONSISTENT, NatKind.CONSISTENT, meanwhile=reboot).connected


def test_a_server_whose_relays_vanish_finds_others() -> None:
    def vanish(meeting: Meeting) -> None:
        relays = set(meeting.serving.announcer.relay_addresses)
        gone = [node for node in meeting.network.backbone[1:] if node.shell.address in relays]
        assert gone
        for node in gone:
            node.shell.stop()
        meeting.network.clock.run(60)
        assert not relays & set(meeting.serving.announcer.relay_addresses) - {meeting.network.backbone[0].shell.address}

    assert Meeting(PeerNetwork(10), NatKind.CONSISTENT, NatKind.DOUBLE, meanwhile=vanish).connected


@pytest.mark.parametrize("kind", [NatKind.OPEN, NatKind.CONSISTENT])
def test_streams_carry_everything_over_bad_lines(kind: NatKind) -> None:
    network = PeerNetwork(11)
    bad = Line(loss=0.02, jitter_s=0.01, duplication=0.02, bytes_s=250_000)
    meeting = Meeting(network, network.network.host(kind, line=bad), network.network.host(kind, line=bad))
    assert meeting.connected
    upload, download = Random(1).randbytes(200_000), Random(2).randbytes(200_000)
    assert meeting.attempt.stream is not None
    accepted = next(connection for connection in meeting.serving.connections if connection.stream is not None)
    meeting.client.send(meeting.attempt, upload)
    meeting.server.send(accepted, download)
    assert network.clock.run_until(
        lambda: len(accepted.received) >= len(upload) and len(meeting.attempt.received) >= len(download), seconds=60
    )
    assert accepted.received.endswith(upload)
    assert meeting.attempt.received.endswith(download)


@pytest.mark.soak
def test_random_ends_many_times() -> None:
    """The time such a connection takes is luck; the reference's median is about 2 s, its longest 26 s."""
    for server in KINDS:
        for client in KINDS:
            if (server is NatKind.RANDOM) is (client is NatKind.RANDOM):
                continue
            meetings = [Meeting(PeerNetwork(seed), server, client) for seed in range(20)]
            seconds = sorted(meeting.attempt.seconds for meeting in meetings if meeting.connected)
            print(
                f"{server.value} <- {client.value}: {len(seconds)}/20, median {median(seconds):.2f} s, "
                f"longest {seconds[-1]:.2f} s, {sum(meeting.attempt.path is Path.DIRECT for meeting in meetings)} direct"
            )
            assert len(seconds) >= 18
