"""The asking side: conversations of a client with twenty-five nodes, some of which lie."""

from collections.abc import Callable
from functools import partial
from typing import Generic, TypeVar

import pytest

from hyperdht.addresses import Address
from hyperdht.crypto import blake2b
from hyperdht.dht.constants import Command, StorageError
from hyperdht.dht.messages import (
    MAX_MUTABLE_VALUE_BYTES,
    MAX_REPLY_VALUE_BYTES,
    MutableValue,
    PeerRecord,
    encode_lookup_reply,
    encode_mutable_value,
    encode_peer,
)
from hyperdht.dht.operations import (
    ImmutableFound,
    MutableFound,
    PeerFound,
    PutOutcome,
    announce,
    closest_nodes,
    find_peer,
    immutable_get,
    immutable_put,
    lookup,
    mutable_get,
    mutable_put,
    unannounce,
)
from hyperdht.dht.peers_found import PeersFound
from hyperdht.dht.signatures import sign_mutable
from hyperdht.rpc import QueryOutcome, RequestReceived

from .dht_network import UNIX_START_MS, DhtNetwork, Peer, key_pair, network_of

NODES = 25
TOPIC = blake2b(b"a topic")
ALICE, BOB = key_pair(1), key_pair(2)
RELAYS = tuple(Address(f"10.9.0.{i}", 2000 + i) for i in range(4))

T = TypeVar("T")


class Heard(Generic[T]):
    """A callback that remembers what it was called with."""

    def __init__(self, network: DhtNetwork) -> None:
        self.items: list[T] = []
        self._network = network

    def __call__(self, item: T, now: float = 0.0) -> None:
        self.items.append(item)

    def once(self) -> T:
        """Wait for the call, which must be the only one."""
        self._network.run_until(lambda: self.items)
        self._network.run(2.0)
        assert len(self.items) == 1
        return self.items[0]


@pytest.fixture
def network() -> DhtNetwork:
    return network_of(NODES)


@pytest.fixture
def client(network: DhtNetwork) -> Peer:
    return network.add_client("10.200.0.1")


@pytest.fixture
def reader(network: DhtNetwork) -> Peer:
    return network.add_client("10.201.0.1")


def do_announce(network: DhtNetwork, peer: Peer, *relays: Address, clear: bool = False, bump: int = 0) -> QueryOutcome:
    done = Heard[QueryOutcome](network)
    announce(peer.rpc, TOPIC, ALICE, relay_addresses=relays, clear=clear, bump=bump, then=done, now=network.now)
    return done.once()


def do_lookup(network: DhtNetwork, peer: Peer) -> list[PeersFound]:
    found, done = Heard[PeersFound](network), Heard[QueryOutcome](network)
    lookup(peer.rpc, TOPIC, on_peers=found, then=done, now=network.now)
    done.once()
    return found.items


def do_mutable_put(network: DhtNetwork, peer: Peer, seq: int, value: bytes) -> PutOutcome:
    done = Heard[PutOutcome](network)
    mutable_put(peer.rpc, ALICE, value, seq=seq, then=done, now=network.now)
    return done.once()


def do_mutable_get(network: DhtNetwork, peer: Peer, *, seq: int = 0, latest: bool = True) -> tuple[int, bytes] | None:
    done = Heard[MutableFound | None](network)
    mutable_get(peer.rpc, ALICE.public_key, seq=seq, latest=latest, then=done, now=network.now)
    found = done.once()
    return None if found is None else (found.stored.seq, found.stored.value)


def do_immutable_get(network: DhtNetwork, peer: Peer, target: bytes) -> ImmutableFound | None:
    done = Heard[ImmutableFound | None](network)
    immutable_get(peer.rpc, target, then=done, now=network.now)
    return done.once()


def closest(network: DhtNetwork, target: bytes) -> set[Address]:
    return {peer.server for peer in network.closest(target)[:20]}


def answer_with(peer: Peer, command: int, value: Callable[[RequestReceived], bytes | None]) -> None:
    """Make a node lie about one command."""

    def handle(received: RequestReceived, now: float) -> None:
        if received.request.command == command:
            peer.rpc.reply(received, value=value(received))
        else:
            peer.storage.handle(received, now)

    peer.rpc.on_request = handle


def always(value: bytes, received: RequestReceived) -> bytes:
    return value


# Peers


def test_what_is_announced_is_found_on_the_twenty_closest(network: DhtNetwork, client: Peer, reader: Peer) -> None:
    outcome = do_announce(network, client, *RELAYS[:2], bump=UNIX_START_MS)
    assert {node for node, reply in outcome.committed if not reply.error} == closest(network, TOPIC)
    assert set(closest_nodes(outcome)) == closest(network, TOPIC)
    found = do_lookup(network, reader)
    assert {peers.node for peers in found} == closest(network, TOPIC)
    assert {peers.peers for peers in found} == {(PeerRecord(ALICE.public_key, RELAYS[:2]),)}
    assert {peers.bump for peers in found} == {UNIX_START_MS}


def test_an_announce_walk_also_finds_peers(network: DhtNetwork, client: Peer, reader: Peer) -> None:
    do_announce(network, client)
    found, done = Heard[PeersFound](network), Heard[QueryOutcome](network)
    announce(reader.rpc, TOPIC, BOB, on_peers=found, then=done, now=network.now)
    done.once()
    assert {peer.public_key for peers in found.items for peer in peers.peers} == {ALICE.public_key}


@pytest.mark.parametrize("loss", [0.0, 0.2])
def test_clear_replaces_older_relays_and_nothing_else_does(client: Peer, network: DhtNetwork, loss: float) -> None:
    do_announce(network, client, RELAYS[0])
    do_announce(network, client, RELAYS[1])
    assert {peers.peers[0].relay_addresses for peers in do_lookup(network, client)} == {RELAYS[:1]}
    network.loss = loss
    outcome = do_announce(network, client, RELAYS[1], clear=True)
    network.loss = 0.0
    assert len(outcome.committed) == 20
    found = {peers.node: peers.peers[0].relay_addresses for peers in do_lookup(network, client)}
    assert {found[node] for node, _ in outcome.committed} == {RELAYS[1:2]}


def test_clear_finishes_when_nodes_die_on_the_way(client: Peer, network: DhtNetwork) -> None:
    do_announce(network, client, RELAYS[0])
    done = Heard[QueryOutcome](network)
    announce(client.rpc, TOPIC, ALICE, relay_addresses=RELAYS[1:2], clear=True, then=done, now=network.now)
    network.run_until(lambda: network.commands(Command.UNANNOUNCE))
    network.dead = {peer.server for peer in network.closest(TOPIC)[:5]}
    outcome = done.once()
    assert 0 < len(outcome.committed) <= 20
    assert not {node for node, _ in outcome.committed} & network.dead


def test_clear_withdraws_where_twenty_others_are_listed(client: Peer, network: DhtNetwork) -> None:
    for i in range(20):
        announce(client.rpc, TOPIC, key_pair(10 + i), now=network.now)
        network.run(1.0)
    do_announce(network, client, clear=True)
    assert len({sent.to for sent in network.commands(Command.UNANNOUNCE)}) == 20


def test_leaving_in_a_hurry_asks_the_known_nodes_once(network: DhtNetwork, client: Peer, reader: Peer) -> None:
    seeds = closest_nodes(do_announce(network, client))
    network.dead = set(seeds[:2])
    network.sent.clear()
    done, began = Heard[QueryOutcome](network), network.now
    unannounce(client.rpc, TOPIC, ALICE, seeds=seeds, only_closest_nodes=True, then=done, now=network.now)
    network.run_until(lambda: done.items)
    assert network.now - began < 1.5
    assert [sent.to for sent in network.commands(Command.LOOKUP)].count(seeds[0]) == 1
    assert {sent.to for sent in network.sent} == set(seeds)
    assert {sent.to for sent in network.commands(Command.UNANNOUNCE)} == set(seeds[2:])
    network.dead.clear()
    assert {peers.node for peers in do_lookup(network, reader)} == set(seeds[:2])


def test_withdrawing_without_remembered_nodes_walks(network: DhtNetwork, client: Peer, reader: Peer) -> None:
    do_announce(network, client)
    found, done = Heard[PeersFound](network), Heard[QueryOutcome](network)
    unannounce(reader.rpc, TOPIC, ALICE, on_peers=found, then=done, now=network.now)
    done.once()
    assert len(found.items) == 20
    assert do_lookup(network, client) == []


def test_a_peer_that_announced_itself_is_found(network: DhtNetwork, client: Peer, reader: Peer) -> None:
    done = Heard[QueryOutcome](network)
    announce(client.rpc, blake2b(ALICE.public_key), ALICE, then=done, now=network.now)
    done.once()
    found, done = Heard[PeerFound](network), Heard[QueryOutcome](network)
    find_peer(reader.rpc, ALICE.public_key, on_peer=found, then=done, now=network.now)
    done.once()
    assert {peer.node for peer in found.items} == closest(network, blake2b(ALICE.public_key))
    assert {peer.peer for peer in found.items} == {PeerRecord(ALICE.public_key)}


@pytest.mark.parametrize("clear", [False, True])
def test_a_cancelled_walk_is_silent(network: DhtNetwork, client: Peer, clear: bool) -> None:
    do_announce(network, client)
    done = Heard[QueryOutcome](network)
    running = announce(client.rpc, TOPIC, ALICE, clear=clear, then=done, now=network.now)
    network.run(0.1)
    running.cancel()
    network.sent.clear()
    network.run(10.0)
    assert running.over
    assert (done.items, network.sent) == ([], [])


def test_a_walk_without_anybody_to_ask_ends(network: DhtNetwork) -> None:
    network.dead = {peer.server for peer in network.nodes}
    lost = network.add_client("10.202.0.1")
    assert do_announce(network, lost, clear=True).committed == ()
    assert do_mutable_put(network, lost, 0, b"value").stored == ()
    assert do_immutable_get(network, lost, TOPIC) is None


# Values


def test_immutable_values_are_stored_and_read(network: DhtNetwork, client: Peer, reader: Peer) -> None:
    value = bytes(MAX_REPLY_VALUE_BYTES)
    done = Heard[PutOutcome](network)
    immutable_put(client.rpc, value, then=done, now=network.now)
    outcome = done.once()
    assert outcome.target == blake2b(value)
    assert (set(outcome.stored), outcome.refused) == (closest(network, outcome.target), ())
    found = do_immutable_get(network, reader, outcome.target)
    assert found is not None
    assert found.value == value
    assert do_immutable_get(network, reader, TOPIC) is None


def test_mutable_values_are_stored_and_read(network: DhtNetwork, client: Peer, reader: Peer) -> None:
    assert do_mutable_get(network, reader) is None
    value = bytes(MAX_MUTABLE_VALUE_BYTES)
    outcome = do_mutable_put(network, client, 3, value)
    assert outcome.target == blake2b(ALICE.public_key)
    assert set(outcome.stored) == closest(network, outcome.target)
    assert do_mutable_get(network, reader) == (3, value)
    assert do_mutable_get(network, reader, latest=False) == (3, value)
    assert do_mutable_get(network, reader, seq=4) is None


def test_an_old_or_other_value_is_refused_with_its_reason(network: DhtNetwork, client: Peer) -> None:
    do_mutable_put(network, client, 3, b"three")
    for seq, value, error in ((2, b"two", StorageError.SEQ_TOO_LOW), (3, b"other", StorageError.SEQ_REUSED)):
        outcome = do_mutable_put(network, client, seq, value)
        assert outcome.stored == ()
        assert {code for _, code in outcome.refused} == {error}
    assert do_mutable_get(network, client) == (3, b"three")


def test_the_highest_seq_wins(network: DhtNetwork, client: Peer) -> None:
    do_mutable_put(network, client, 3, b"three")
    network.dead = {peer.server for peer in network.closest(blake2b(ALICE.public_key))[1:]}
    do_mutable_put(network, client, 4, b"four")
    network.dead = set()
    network.run(1.0)
    assert do_mutable_get(network, client) == (4, b"four")


def test_values_too_large_for_an_answer_are_refused_here(network: DhtNetwork, client: Peer) -> None:
    done = Heard[PutOutcome](network)
    with pytest.raises(ValueError, match="at most 1850"):
        immutable_put(client.rpc, bytes(1851), then=done, now=network.now)
    with pytest.raises(ValueError, match="at most 1774"):
        mutable_put(client.rpc, ALICE, bytes(1775), then=done, now=network.now)
    assert network.sent == []


# Liars


def test_t17_values_of_liars_are_not_believed(network: DhtNetwork, client: Peer, reader: Peer) -> None:
    stored = sign_mutable(3, b"three", ALICE).stored
    do_mutable_put(network, client, 3, b"three")
    lies = [
        encode_mutable_value(MutableValue(9, b"nine", stored.signature)),
        encode_mutable_value(sign_mutable(9, b"nine", BOB).stored),
        b"",
        b"\xff" * 100,
    ]
    for i, peer in enumerate(network.closest(blake2b(ALICE.public_key))[:19]):
        answer_with(peer, Command.MUTABLE_GET, partial(always, lies[i % 4]))
    assert do_mutable_get(network, reader) == (3, b"three")
    assert do_mutable_get(network, reader, latest=False) == (3, b"three")
    value = b"a value"
    done = Heard[PutOutcome](network)
    immutable_put(client.rpc, value, then=done, now=network.now)
    target = done.once().target
    for peer in network.closest(target)[:19]:
        answer_with(peer, Command.IMMUTABLE_GET, lambda received: b"another value")
    found = do_immutable_get(network, reader, target)
    assert found is not None
    assert found.value == value


def test_t17_a_replayed_old_value_does_not_win(network: DhtNetwork, client: Peer, reader: Peer) -> None:
    old = encode_mutable_value(sign_mutable(1, b"one", ALICE).stored)
    do_mutable_put(network, client, 3, b"three")
    for peer in network.closest(blake2b(ALICE.public_key))[:19]:
        answer_with(peer, Command.MUTABLE_GET, lambda received: old)
    assert do_mutable_get(network, reader) == (3, b"three")
    assert do_mutable_get(network, reader, seq=2, latest=False) == (3, b"three")


def test_t17_a_node_cannot_fill_the_list_of_peers(network: DhtNetwork, client: Peer) -> None:
    many = [encode_peer(PeerRecord(i.to_bytes(32, "big"))) for i in range(50)]
    relays = tuple(Address(f"11.9.0.{i}", 2000) for i in range(100))
    liars = network.closest(TOPIC)
    answer_with(liars[0], Command.LOOKUP, lambda received: encode_lookup_reply(many, 0))
    one = encode_peer(PeerRecord(bytes(32), relays))
    answer_with(liars[1], Command.LOOKUP, lambda received: encode_lookup_reply([one], 0))
    answer_with(liars[2], Command.LOOKUP, lambda received: b"\xff" * 500)
    answer_with(liars[3], Command.LOOKUP, lambda received: encode_lookup_reply([], 7))
    found = {peers.node: peers for peers in do_lookup(network, client)}
    assert found.keys() == {liars[0].server, liars[1].server}
    assert len(found[liars[0].server].peers) == 20
    assert found[liars[1].server].peers[0].relay_addresses == relays[:3]


def test_t19_relays_nobody_can_be_at_are_left_out(network: DhtNetwork, client: Peer) -> None:
    node = network.add_node("93.184.216.1")
    relays = [Address(host, 2000) for host in ("127.0.0.1", "192.168.0.1", "224.0.0.1", "0.0.0.0", "93.184.216.2")]
    record = encode_peer(PeerRecord(ALICE.public_key, (*relays, Address("93.184.216.3", 53))))
    answer_with(node, Command.FIND_PEER, lambda received: record)
    found, done = Heard[PeerFound](network), Heard[QueryOutcome](network)
    find_peer(client.rpc, ALICE.public_key, seeds=[node.server], on_peer=found, then=done, now=network.now)
    done.once()
    assert [peer.peer for peer in found.items] == [PeerRecord(ALICE.public_key, (relays[4],))]


def test_t17_a_record_of_another_peer_is_not_the_one_sought(network: DhtNetwork, client: Peer) -> None:
    for peer in network.nodes:
        answer_with(peer, Command.FIND_PEER, lambda received: encode_peer(PeerRecord(BOB.public_key)))
    found, done = Heard[PeerFound](network), Heard[QueryOutcome](network)
    find_peer(client.rpc, ALICE.public_key, on_peer=found, then=done, now=network.now)
    done.once()
    assert found.items == []


def test_t17_an_eclipse_of_all_but_one_of_the_closest_nodes_still_shows_the_peer(
    network: DhtNetwork, client: Peer
) -> None:
    do_announce(network, client)
    for peer in network.closest(TOPIC)[:19]:
        answer_with(peer, Command.LOOKUP, lambda received: None)
    found = do_lookup(network, client)
    assert [peers.peers[0].public_key for peers in found] == [ALICE.public_key]
