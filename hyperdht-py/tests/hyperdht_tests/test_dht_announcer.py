"""A server that keeps itself known to the three nodes closest to its key, while nodes and networks come and go."""

import pytest

from hyperdht.addresses import Address
from hyperdht.crypto import blake2b
from hyperdht.dht.announcer import Announcer, State
from hyperdht.dht.constants import Command
from hyperdht.dht.payloads import RelayInfo
from hyperdht.rpc import node_id
from hyperdht.rpc.health import Health

from .dht_network import DhtNetwork, Peer, key_pair, network_of

ALICE = key_pair(1)
TARGET = blake2b(ALICE.public_key)
ROUND_S = 320.0  # 100 pings, each followed by 3 s


class Server:
    """An announcer on a client of a network of 25 nodes."""

    def __init__(self, *, nodes: int = 25, loss: float = 0.0) -> None:
        self.network: DhtNetwork = network_of(nodes)
        self.network.loss = loss
        self.peer: Peer = self.network.add_client("10.200.0.1")
        self.changes: list[tuple[Address, ...]] = []
        self.announcer = Announcer(self.peer.context, ALICE, on_relays_changed=self._note)
        self.started: list[float] = []
        self.stopped: list[float] = []

    def _note(self, now: float) -> None:
        self.changes.append(self.announcer.relay_addresses)

    def start(self) -> None:
        self.announcer.start(self.network.now, self.started.append)
        self.network.run_until(lambda: self.started)

    def stop(self) -> float:
        """How long it took."""
        began = self.network.now
        self.announcer.stop(began, self.stopped.append)
        self.network.run_until(lambda: self.stopped)
        return self.stopped[-1] - began

    def holders(self) -> set[Address]:
        """The nodes that have a route to us."""
        now = self.network.now
        routes = {peer.server: peer.storage.route_to(TARGET, now) for peer in self.network.nodes}
        assert set(routes.values()) <= {None, self.peer.client, self.peer.server}
        return {node for node, route in routes.items() if route is not None}

    def closest(self) -> list[Address]:
        return [peer.server for peer in self.network.closest(TARGET)]

    def kill(self, *addresses: Address) -> None:
        self.network.dead |= set(addresses)


@pytest.fixture
def server() -> Server:
    server = Server()
    server.start()
    return server


def test_it_announces_itself_to_the_three_closest_nodes(server: Server) -> None:
    three = set(server.closest()[:3])
    announcer = server.announcer
    assert set(announcer.relay_addresses) == three == server.holders()
    assert {relay.relay_address for relay in announcer.relays} == three
    assert {relay.peer_address for relay in announcer.relays} == {server.peer.client}
    assert isinstance(announcer.relays[0], RelayInfo)
    assert server.changes == [announcer.relay_addresses]
    assert all(announcer.is_own_relay(node) for node in three)
    assert not announcer.is_own_relay(server.closest()[3])
    assert announcer.state is State.WATCHING


def test_it_pings_its_relays_and_looks_again_after_five_minutes(server: Server) -> None:
    server.network.sent.clear()
    server.network.run(290.0)
    assert server.network.sent == []
    server.network.run(30.0)
    assert {sent.to for sent in server.network.commands(Command.ANNOUNCE)} == set(server.closest()[:3])
    assert len(server.changes) == 1
    asked_first = [sent.to for sent in server.network.commands(Command.FIND_PEER)][:10]
    assert set(asked_first) <= set(server.closest()[:20])


@pytest.mark.parametrize("loss", [0.0, 0.1])
def test_a_relay_that_dies_is_replaced_within_seconds(loss: float) -> None:
    server = Server(loss=loss)
    server.start()
    dead = server.closest()[0]
    server.kill(dead)
    server.network.run(30.0)
    assert set(server.announcer.relay_addresses) == set(server.closest()[:3])
    assert dead not in server.announcer.relay_addresses
    assert server.announcer.is_own_relay(dead)
    assert len(server.changes) >= 2


def test_a_relay_that_is_no_longer_closest_is_told(server: Server) -> None:
    old = server.closest()[:3]
    number = 0
    while server.closest()[:3] == old:
        number += 1
        newcomer = Address(f"10.50.{number}.1", 49737)
        if int.from_bytes(node_id(newcomer), "big") ^ int.from_bytes(TARGET, "big") < int.from_bytes(
            node_id(old[0]), "big"
        ) ^ int.from_bytes(TARGET, "big"):
            server.network.add_node(newcomer.host)
    server.network.run(ROUND_S)
    assert server.holders() == set(server.closest()[:3]) != set(old)
    assert server.announcer.is_own_relay(old[2])
    for expected in (True, False):
        server.announcer.refresh(server.network.now)
        server.network.run(2.0)
        assert server.announcer.is_own_relay(old[2]) is expected


def test_a_relay_that_is_chosen_again_is_not_withdrawn_from_late(server: Server) -> None:
    unstable = server.closest()[0]
    server.kill(unstable)
    server.network.sent.clear()
    server.network.run_until(lambda: len(server.changes) == 2)
    assert unstable not in server.announcer.relay_addresses
    server.network.run(0.3)  # the first question before its UNANNOUNCE is lost, the second will not be
    server.network.dead.clear()
    server.announcer.refresh(server.network.now)
    server.network.run(20.0)
    assert server.holders() == set(server.closest()[:3])


def test_nothing_is_withdrawn_from_a_node_that_has_forgotten(server: Server) -> None:
    server.network.closest(TARGET)[0].storage.unannounce(TARGET, ALICE.public_key)
    server.stop()
    assert {sent.to for sent in server.network.commands(Command.UNANNOUNCE)} == set(server.closest()[1:3])


def test_stopping_withdraws(server: Server) -> None:
    assert server.stop() < 0.2
    assert server.holders() == set()
    assert server.announcer.relay_addresses == ()
    assert server.announcer.state is State.STOPPED
    server.network.sent.clear()
    server.network.run(ROUND_S + 30)
    assert server.network.sent == []
    assert server.peer.rpc.on_network_change == []


def test_stopping_ends_by_its_deadline_when_relays_are_gone(server: Server) -> None:
    server.kill(*server.closest()[:2])
    assert server.stop() == pytest.approx(3.0)
    server.network.dead.clear()
    assert len(server.holders()) == 2


@pytest.mark.parametrize("after_s", [0.0, 0.01, 0.05, 0.1, 0.13, 0.15, 0.2])
def test_stopping_at_any_time_leaves_nothing_behind(after_s: float) -> None:
    server = Server()
    server.announcer.start(server.network.now, server.started.append)
    server.network.run(after_s)
    server.stop()
    assert len(server.started) == 1
    server.network.run(10.0)
    assert server.holders() == set()


def test_stopping_in_the_middle_of_a_later_round_withdraws_what_stands(server: Server) -> None:
    server.announcer.refresh(server.network.now)
    server.network.run(0.05)
    assert server.announcer.state is State.SEARCHING
    server.stop()
    assert server.holders() == set()


def test_stopping_before_starting_is_done_at_once(server: Server) -> None:
    idle = Announcer(server.peer.context, key_pair(2))
    idle.stop(server.network.now, server.stopped.append)
    assert server.stopped == [server.network.now]
    idle.start(server.network.now)
    assert idle.state is State.STOPPED


def test_suspended_it_is_unknown_and_resumed_it_is_known_again(server: Server) -> None:
    done: list[float] = []
    server.announcer.suspend(server.network.now, done.append)
    server.network.run_until(lambda: done)
    assert server.holders() == set()
    server.network.run(ROUND_S)
    assert server.holders() == set()
    server.announcer.resume(server.network.now)
    server.network.run(1.0)
    assert server.holders() == set(server.closest()[:3])
    assert set(server.announcer.relay_addresses) == server.holders()


def test_a_network_change_makes_a_new_round(server: Server) -> None:
    server.network.sent.clear()
    server.peer.rpc.on_network_change[0](server.network.now)
    server.network.run(1.0)
    assert len(server.network.commands(Command.ANNOUNCE)) == 3
    server.network.sent.clear()
    server.announcer.refresh(server.network.now)
    server.announcer.refresh(server.network.now)
    server.network.run(1.0)
    assert len(server.network.commands(Command.ANNOUNCE)) == 6


def test_relays_learn_the_socket_that_we_send_from_now(server: Server) -> None:
    rpc = server.peer.rpc
    rpc.endpoint.firewalled = False
    server.network.run(5.0)
    now = server.network.now
    routes = [peer.storage.route_to(TARGET, now) for peer in server.network.closest(TARGET)[:3]]
    assert routes == [server.peer.server] * 3


def test_our_own_public_address_comes_first(server: Server) -> None:
    rpc = server.peer.rpc
    rpc.endpoint.firewalled = False
    for _ in range(16):
        rpc.nat.add(server.peer.server)
    assert rpc.remote_address() == server.peer.server
    server.network.run(5.0)
    relays = [relay.relay_address for relay in server.announcer.relays]
    assert server.announcer.relay_addresses == (server.peer.server, *relays[:2])
    assert len(relays) == 3


def test_without_a_network_the_last_relays_stay_named(server: Server) -> None:
    """They still have a route to us when it is back, and pass on handshakes before a new round is over."""
    relays = server.announcer.relays
    everybody = server.closest()
    server.kill(*everybody)
    for _ in range(4):  # more than the rounds that are remembered
        server.announcer.refresh(server.network.now)
        server.network.run(30.0)
    assert server.announcer.relays == relays
    assert all(server.announcer.is_own_relay(relay.relay_address) for relay in relays)
    server.network.dead.clear()
    assert server.holders() == {relay.relay_address for relay in relays}, "nothing was taken back"
    server.kill(relays[0].relay_address)
    server.network.run(60.0)
    assert relays[0] not in server.announcer.relays, "with a network, one that is away is replaced"


def test_without_any_node_it_tries_again_soon() -> None:
    server = Server()
    everybody = server.closest()
    server.kill(*everybody)
    server.start()
    assert server.announcer.relays == ()
    server.network.dead.clear()
    server.network.run(20.0)
    assert len(server.announcer.relays) == 3


def test_with_fewer_nodes_than_relays_it_is_content() -> None:
    server = Server(nodes=2)
    server.start()
    assert len(server.announcer.relays) == 2
    server.network.sent.clear()
    server.network.run(200.0)
    assert server.network.sent == []


def test_offline_it_waits_and_back_online_it_announces() -> None:
    server = Server()
    rpc = server.peer.rpc
    rpc.start(server.network.now)
    server.start()

    def be_busy(seconds: float) -> None:
        """Other parts of the node go on asking."""
        for _ in range(round(seconds / 5)):
            for node in server.closest()[:5] or list(server.network.dead)[:5]:
                rpc.ping(node, now=server.network.now)
            server.network.run(5.0)

    server.kill(*server.closest())
    be_busy(60.0)
    assert rpc.health is Health.OFFLINE
    server.network.sent.clear()
    be_busy(60.0)
    assert server.network.commands(Command.ANNOUNCE) == server.network.commands(Command.FIND_PEER) == []
    server.network.dead.clear()
    be_busy(60.0)
    assert server.peer.rpc.health is Health.ONLINE
    assert set(server.announcer.relay_addresses) == set(server.closest()[:3])


def test_t17_a_node_that_refuses_is_no_relay() -> None:
    server = Server()
    liar = server.network.closest(TARGET)[0]

    liar.rpc.on_request = lambda received, now: (
        liar.rpc.reply(received, error=1)
        if received.request.command == Command.ANNOUNCE
        else liar.storage.handle(received, now)
    )
    server.start()
    assert set(server.announcer.relay_addresses) == set(server.closest()[1:3])
    assert not server.announcer.is_own_relay(liar.server)


def test_two_servers_on_one_node_have_their_own_relays(server: Server) -> None:
    other = Announcer(server.peer.context, key_pair(2))
    done: list[float] = []
    other.start(server.network.now, done.append)
    server.network.run_until(lambda: done)
    target = blake2b(key_pair(2).public_key)
    assert set(other.relay_addresses) == {peer.server for peer in server.network.closest(target)[:3]}
    server.stop()
    assert all(
        peer.storage.route_to(target, server.network.now) is not None for peer in server.network.closest(target)[:3]
    )
