"""Whole networks of nodes in memory: they bootstrap, become persistent, find each other and survive loss and churn."""

from random import Random

import pytest

from hyperdht.addresses import Address
from hyperdht.rpc import Command, ErrorCode, Health, QueryOutcome, RequestReceived, RpcNode, Write, node_id

from .rpc_nodes import FIRST, NodeNetwork, seed_network


def ask(network: NodeNetwork, node: RpcNode, target: bytes, **options: object) -> QueryOutcome:
    outcomes: list[QueryOutcome] = []
    options = {"command": Command.FIND_NODE, "internal": True, **options}
    node.query(target, then=outcomes.append, now=network.now, **options)  # type: ignore[arg-type]
    network.do(node)
    network.run_until(lambda: bool(outcomes), limit_s=60)
    return outcomes[0]


def share_found(network: NodeNetwork, *, queries: int) -> float:
    """How many of the 20 nodes closest to random targets are found by random nodes."""
    found = wanted = 0
    for _ in range(queries):
        target = network.random.randbytes(32)
        node = network.random.choice(network.living())
        truth = network.closest(target, besides=node)
        found += len(truth & {best.node_id for best in ask(network, node, target).best})
        wanted += len(truth)
    return found / wanted


# A query does not wait for slow nodes once 20 others have answered, so it misses about as many as packets get lost.
@pytest.mark.parametrize(("loss", "enough"), [(0.0, 0.97), (0.05, 0.85)])
def test_nodes_find_each_other_from_one_address(loss: float, enough: float) -> None:
    network = seed_network(Random(5), 40, loss=loss)
    network.run(60)
    assert all(node.bootstrapped and not node.ephemeral for node in network.living())
    for host in network.hosts.values():
        assert host.node.id == node_id(host.server_address)
        assert host.node.remote_address() == host.server_address
    assert share_found(network, queries=20) >= enough


def test_open_nodes_become_persistent_with_time_and_firewalled_ones_do_not() -> None:
    network = seed_network(Random(6), 20)
    joined = [network.add(f"10.2.0.{i}", bootstrap=[FIRST]) for i in range(1, 11)]
    hidden = [network.add(f"10.3.0.{i}", bootstrap=[FIRST], behind_firewall=True) for i in range(1, 11)]
    network.run(30)
    assert all(node.ephemeral for node in joined + hidden)
    network.run(30 * 60)
    assert not any(node.ephemeral for node in joined)
    assert all(node.ephemeral and node.firewalled for node in hidden)
    assert all(node.nat_address() == Address(f"10.3.0.{i}", 40000) for i, node in enumerate(hidden, 1))
    secret = {node.id for node in hidden} | {
        node_id(Address(f"10.3.0.{i}", p)) for i in range(11) for p in (40000, 49737)
    }
    for node in network.living():
        assert not secret & {known.id for known in node.table.longest_unseen()}
    assert share_found(network, queries=10) >= 0.97


def test_a_network_survives_the_loss_of_a_third_of_its_nodes() -> None:
    network = seed_network(Random(7), 45, loss=0.02)
    network.run(60)
    gone = network.random.sample(list(network.hosts), 15)
    for name in gone:
        network.hosts[name].alive = False
    assert share_found(network, queries=10) >= 0.85  # at once
    network.run(10 * 60)
    dead = {node_id(network.hosts[name].server_address) for name in gone}
    for node in network.living():
        assert not dead & {known.id for known in node.table.longest_unseen()}
    assert share_found(network, queries=10) >= 0.92
    newcomers = [name for name in network.hosts if name not in gone][:2]
    bootstrap = [network.hosts[name].server_address for name in newcomers]
    for number in range(1, 16):
        network.add(f"10.4.0.{number}", ephemeral=False, firewalled=False, bootstrap=bootstrap)
        network.run(1)
    network.run(60)
    assert share_found(network, queries=10) >= 0.92


def test_writes_reach_the_closest_nodes_and_are_found_there() -> None:
    network = seed_network(Random(8), 30)
    network.run(30)
    stores: dict[RpcNode, dict[bytes, bytes]] = {node: {} for node in network.living()}

    def serve(node: RpcNode, received: RequestReceived, now: float) -> None:
        request = received.request
        if request.target is None or node.ephemeral:
            node.reply(received, error=ErrorCode.UNKNOWN_COMMAND)
        elif request.command == 1:
            node.reply(received, value=stores[node].get(request.target))
        elif request.token is not None and request.value is not None:
            stores[node][request.target] = request.value
            node.reply(received, with_token=False, with_closer_nodes=False)

    for node in stores:
        node.on_request = lambda received, now, node=node: serve(node, received, now)
    writer, reader = network.random.sample(network.living(), 2)
    target = network.random.randbytes(32)
    outcome = ask(network, writer, target, command=1, internal=False, write=lambda best: Write(2, target, b"value"))
    assert len(outcome.committed) == 20
    holders = {node.id for node, store in stores.items() if store}
    assert holders == network.closest(target, besides=writer)
    found = ask(network, reader, target, command=1, internal=False)
    assert sum(best.reply.value == b"value" for best in found.best) >= 19


def test_a_first_node_that_does_not_know_its_address_learns_it_from_the_others() -> None:
    network = NodeNetwork(Random(9))
    first = network.add(FIRST.host, ephemeral=False, firewalled=False)
    network.run(1)
    assert first.bootstrapped
    assert first.ephemeral
    others = [network.add(f"10.2.0.{i}", ephemeral=False, firewalled=False, bootstrap=[FIRST]) for i in range(1, 6)]
    network.run(5 * 60)
    assert not any(node.ephemeral for node in [first, *others])
    assert first.id == node_id(FIRST)


def test_a_node_that_was_cut_off_comes_back() -> None:
    network = seed_network(Random(10), 30)
    network.run(60)
    lonely = network.hosts["10.1.1.5"]
    network.cut_off.add(lonely.name)
    network.run(15 * 60)
    assert lonely.node.health is not Health.DEGRADED
    assert len(lonely.node.table) == 0
    for node in network.living():
        if node is not lonely.node:
            assert lonely.node.id not in node.table
    network.cut_off.clear()
    network.run(3 * 60)
    assert len(lonely.node.table) > 10
    assert lonely.node.health is Health.ONLINE


def test_an_idle_network_is_quiet() -> None:
    network = seed_network(Random(11), 30)
    network.run(60)
    for host in network.hosts.values():
        host.sent = host.wakeups = 0
    network.run(20 * 60)
    for host in network.hosts.values():
        assert host.wakeups <= 20 * 60 / 5 * 1.1  # hardly a timer beside the tick
        assert host.sent <= 20 * 60  # one datagram a second, answers included
