"""What a persistent node answers, as conversations with one that asks."""

from dataclasses import replace

import pytest

from hyperdht.addresses import Address
from hyperdht.crypto import KeyPair, blake2b
from hyperdht.dht.constants import Command
from hyperdht.dht.messages import (
    MAX_REPLY_VALUE_BYTES,
    Announce,
    LookupReply,
    PeerRecord,
    PluginRequest,
    decode_lookup_reply,
    decode_mutable_value,
    decode_peer,
    encode_announce,
    encode_mutable_put,
    encode_plugin_request,
    encode_seq,
)
from hyperdht.dht.signatures import sign_announce, sign_mutable, sign_unannounce
from hyperdht.encoding import encode_uint
from hyperdht.rpc import Answer, Reply
from hyperdht.rpc.messages import MAX_DATAGRAM_BYTES

from .dht_network import START_S, UNIX_START_MS, DhtNetwork, Peer, key_pair, network_of

TOPIC = blake2b(b"a topic")
ALICE, BOB = key_pair(1), key_pair(2)
RELAYS = tuple(Address(f"10.9.0.{i}", 2000 + i) for i in range(5))
HOUR_S = 3600.0


class Conversation:
    """One client that talks to one persistent node."""

    def __init__(self, *, others: int = 0) -> None:
        self.network: DhtNetwork = network_of(1 + others)
        self.node = self.network.nodes[0]
        self.client = self.network.add_client("10.200.0.1")

    def ask(
        self,
        command: int,
        target: bytes | None,
        value: bytes | None = None,
        *,
        token: bytes | None = None,
        client: Peer | None = None,
    ) -> Reply | None:
        """The reply, or None when there is none after all retransmissions."""
        answers: list[Answer] = []
        rpc = (client or self.client).rpc
        now = self.network.now
        rpc.request(self.node.server, command, target=target, value=value, token=token, then=answers.append, now=now)
        self.network.run_until(lambda: answers)
        return answers[0].reply

    def token(self, client: Peer | None = None) -> bytes:
        reply = self.ask(Command.FIND_PEER, bytes(32), client=client)
        assert reply is not None
        assert reply.token is not None
        return reply.token

    def announce(
        self, key: KeyPair, topic: bytes, announce: Announce | None = None, *, client: Peer | None = None
    ) -> Reply | None:
        token = self.token(client)
        signed = sign_announce(
            announce or Announce(PeerRecord(key.public_key)), key, target=topic, node_id=self.node.rpc.id, token=token
        )
        return self.ask(Command.ANNOUNCE, topic, encode_announce(signed), token=token, client=client)

    def unannounce(self, key: KeyPair, topic: bytes) -> Reply | None:
        token = self.token()
        signed = sign_unannounce(key, target=topic, node_id=self.node.rpc.id, token=token)
        return self.ask(Command.UNANNOUNCE, topic, encode_announce(signed), token=token)

    def lookup(self, topic: bytes = TOPIC) -> LookupReply | None:
        reply = self.ask(Command.LOOKUP, topic)
        assert reply is not None
        return None if reply.value is None else decode_lookup_reply(reply.value)

    def find_peer(self, key: KeyPair) -> PeerRecord | None:
        reply = self.ask(Command.FIND_PEER, blake2b(key.public_key))
        assert reply is not None
        return None if reply.value is None else decode_peer(reply.value)

    def put(self, key: KeyPair, seq: int, value: bytes) -> Reply | None:
        put = encode_mutable_put(sign_mutable(seq, value, key))
        return self.ask(Command.MUTABLE_PUT, blake2b(key.public_key), put, token=self.token())

    def get(self, key: KeyPair, seq: int = 0) -> tuple[int, bytes] | None:
        reply = self.ask(Command.MUTABLE_GET, blake2b(key.public_key), encode_seq(seq))
        assert reply is not None
        if reply.value is None:
            return None
        stored = decode_mutable_value(reply.value)
        return stored.seq, stored.value


@pytest.fixture
def talk() -> Conversation:
    return Conversation()


def test_an_ephemeral_node_stores_nothing_and_names_closer_nodes() -> None:
    talk = Conversation(others=3)
    talk.node.rpc.endpoint.ephemeral = True
    for command in (*list(Command)[2:], 77):
        reply = talk.ask(command, TOPIC)
        assert reply is not None
        assert (reply.error, reply.token, reply.value, len(reply.closer_nodes)) == (1, None, None, 3)


def test_reads_carry_a_token_and_closer_nodes() -> None:
    talk = Conversation(others=3)
    for command, value in (
        (Command.FIND_PEER, None),
        (Command.LOOKUP, None),
        (Command.MUTABLE_GET, encode_seq(0)),
        (Command.IMMUTABLE_GET, None),
    ):
        reply = talk.ask(command, TOPIC, value)
        assert reply is not None
        assert (reply.error, reply.value, len(reply.closer_nodes)) == (0, None, 3)
        assert reply.token is not None


def test_plugins_are_unknown(talk: Conversation) -> None:
    request = PluginRequest("example", 1, 2)
    reply = talk.ask(Command.PLUGIN, TOPIC, encode_plugin_request(request))
    assert reply is not None
    assert reply.error == 1


def test_an_announce_is_found_until_it_is_withdrawn() -> None:
    talk = Conversation(others=3)
    peer = PeerRecord(ALICE.public_key, RELAYS[:2])
    confirmed = talk.announce(ALICE, TOPIC, Announce(peer))
    assert confirmed is not None
    assert (confirmed.error, confirmed.token, confirmed.closer_nodes, confirmed.value) == (0, None, (), None)
    assert talk.lookup() == LookupReply((peer,))
    assert talk.find_peer(ALICE) is None
    confirmed = talk.unannounce(ALICE, TOPIC)
    assert confirmed is not None
    assert (confirmed.error, confirmed.token, confirmed.closer_nodes, confirmed.value) == (0, None, (), None)
    assert talk.lookup() is None


def test_at_most_three_relays_are_kept_of_a_list_signed_as_a_whole(talk: Conversation) -> None:
    assert talk.announce(ALICE, TOPIC, Announce(PeerRecord(ALICE.public_key, RELAYS))) is not None
    assert talk.lookup() == LookupReply((PeerRecord(ALICE.public_key, RELAYS[:3]),))


def test_a_second_announce_changes_nothing_before_an_unannounce(talk: Conversation) -> None:
    first, second = (PeerRecord(ALICE.public_key, RELAYS[i : i + 1]) for i in range(2))
    for peer in (first, second):
        assert talk.announce(ALICE, TOPIC, Announce(peer)) is not None
    assert talk.lookup() == LookupReply((first,))
    assert talk.unannounce(ALICE, TOPIC) is not None
    assert talk.announce(ALICE, TOPIC, Announce(second)) is not None
    assert talk.lookup() == LookupReply((second,))


def test_records_fade_out(talk: Conversation) -> None:
    assert talk.announce(ALICE, TOPIC) is not None
    talk.network.skip(13 * 60)
    assert talk.lookup() is not None
    talk.network.skip(14 * 60)
    assert talk.lookup() is None


def test_a_self_announce_is_a_route_to_where_it_came_from(talk: Conversation) -> None:
    target = blake2b(ALICE.public_key)
    assert talk.announce(ALICE, target) is not None
    assert talk.find_peer(ALICE) == PeerRecord(ALICE.public_key)
    assert talk.node.storage.route_to(target, talk.network.now) == talk.client.client
    assert talk.node.storage.route_to(TOPIC, talk.network.now) is None
    assert talk.lookup(target) == LookupReply((PeerRecord(ALICE.public_key),))
    assert talk.unannounce(ALICE, target) is not None
    assert talk.find_peer(ALICE) is None
    assert talk.node.storage.route_to(target, talk.network.now) is None


def test_a_route_lasts_as_long_as_it_is_asked_for(talk: Conversation) -> None:
    target = blake2b(ALICE.public_key)
    assert talk.announce(ALICE, target) is not None
    for _ in range(5):
        talk.network.skip(12 * 60)
        assert talk.find_peer(ALICE) is not None
    talk.network.skip(28 * 60)
    assert talk.find_peer(ALICE) is None


def test_servers_of_this_node_are_found_here_too(talk: Conversation) -> None:
    talk.node.storage.add_own(BOB.public_key)
    assert talk.find_peer(BOB) == PeerRecord(BOB.public_key)
    assert talk.node.storage.route_to(blake2b(BOB.public_key), talk.network.now) is None
    talk.node.storage.remove_own(BOB.public_key)
    assert talk.find_peer(BOB) is None


def test_a_reply_holds_at_most_20_records(talk: Conversation) -> None:
    for i in range(10, 35):
        assert talk.announce(key_pair(i), TOPIC) is not None
    for _ in range(3):
        reply = talk.lookup()
        assert reply is not None
        assert len({peer.public_key for peer in reply.peers}) == 20


def test_a_self_announce_does_not_make_it_21(talk: Conversation) -> None:
    topic = blake2b(ALICE.public_key)
    assert talk.announce(ALICE, topic, Announce(PeerRecord(ALICE.public_key), bump=UNIX_START_MS)) is not None
    assert talk.lookup(topic) == LookupReply((PeerRecord(ALICE.public_key),), bump=0)
    for count in range(1, 21):
        assert talk.announce(key_pair(10 + count), topic) is not None
        reply = talk.lookup(topic)
        assert reply is not None
        assert len(reply.peers) == min(count + 1, 20)


def test_the_highest_bump_is_told_unless_it_lies_in_the_future(talk: Conversation) -> None:
    for bump in (UNIX_START_MS + 5, UNIX_START_MS + 3, UNIX_START_MS + 3_600_000):
        assert talk.announce(ALICE, TOPIC, Announce(PeerRecord(ALICE.public_key), bump=bump)) is not None
    reply = talk.lookup()
    assert reply is not None
    assert reply.bump == UNIX_START_MS + 5


@pytest.mark.parametrize("is_self", [False, True])
def test_a_refresh_renews_without_a_signature_and_only_once(talk: Conversation, is_self: bool) -> None:
    topic = blake2b(ALICE.public_key) if is_self else TOPIC
    third = b"a secret of thirty-two bytes ..."
    second, first = blake2b(third), blake2b(blake2b(third))
    assert talk.announce(ALICE, topic, Announce(PeerRecord(ALICE.public_key), refresh=first)) is not None
    for preimage in (second, third):
        talk.network.skip(12 * 60)
        confirmed = talk.ask(Command.ANNOUNCE, topic, encode_announce(Announce(refresh=preimage)), token=talk.token())
        assert confirmed is not None
        assert (confirmed.error, confirmed.token) == (0, None)
        assert (
            talk.ask(Command.ANNOUNCE, topic, encode_announce(Announce(refresh=preimage)), token=talk.token()) is None
        )
    talk.network.skip(8 * 60)
    assert talk.lookup(topic) == LookupReply((PeerRecord(ALICE.public_key),))
    assert (talk.find_peer(ALICE) is not None) is is_self


def test_mutable_values_go_forward_only(talk: Conversation) -> None:
    assert talk.get(ALICE) is None
    for seq, value, error in (
        (5, b"five", 0),
        (4, b"four", 17),
        (5, b"other", 16),
        (5, b"five", 0),
        (6, b"", 0),
    ):
        reply = talk.put(ALICE, seq, value)
        assert reply is not None
        assert reply.error == error
        assert (reply.token is None) is bool(error)
    assert talk.get(ALICE) == (6, b"")
    assert talk.get(ALICE, 6) == (6, b"")
    assert talk.get(ALICE, 7) is None


def test_mutable_values_stay_for_two_days_or_so(talk: Conversation) -> None:
    assert talk.put(ALICE, 1, b"value") is not None
    talk.network.skip(31 * HOUR_S)
    assert talk.get(ALICE) == (1, b"value")
    talk.network.skip(65 * HOUR_S)
    assert talk.get(ALICE) is None


def test_immutable_values(talk: Conversation) -> None:
    value = b"a value"
    assert talk.ask(Command.IMMUTABLE_PUT, blake2b(value), value, token=talk.token()) is not None
    reply = talk.ask(Command.IMMUTABLE_GET, blake2b(value))
    assert reply is not None
    assert (reply.value, reply.error) == (value, 0)


def test_a_large_value_leaves_no_room_for_closer_nodes() -> None:
    talk = Conversation(others=25)
    for size, closer_nodes in ((MAX_REPLY_VALUE_BYTES, 20), (MAX_REPLY_VALUE_BYTES + 1, 0), (1938, 0)):
        value = bytes(size)
        assert talk.ask(Command.IMMUTABLE_PUT, blake2b(value), value, token=talk.token()) is not None
        reply = talk.ask(Command.IMMUTABLE_GET, blake2b(value))
        assert reply is not None
        assert reply.value == value
        assert len(reply.closer_nodes) == closer_nodes
    assert MAX_REPLY_VALUE_BYTES == MAX_DATAGRAM_BYTES - 198


def test_what_is_invalid_is_not_answered(talk: Conversation) -> None:
    token, own_id = talk.token(), talk.node.rpc.id
    context = {"target": TOPIC, "node_id": own_id, "token": token}
    signed = sign_announce(Announce(PeerRecord(ALICE.public_key)), ALICE, **context)
    good = encode_announce(signed)
    withdrawn = encode_announce(sign_unannounce(ALICE, **context))
    put = encode_mutable_put(sign_mutable(1, b"value", ALICE))
    forged = encode_mutable_put(replace(sign_mutable(1, b"value", BOB), public_key=ALICE.public_key))
    key = blake2b(ALICE.public_key)
    other_node = encode_announce(
        sign_announce(Announce(PeerRecord(ALICE.public_key)), ALICE, **{**context, "node_id": bytes(32)})
    )
    invalid: list[tuple[int, bytes | None, bytes | None, bytes | None]] = [
        (Command.FIND_PEER, None, None, None),
        (Command.LOOKUP, None, None, None),
        (Command.ANNOUNCE, TOPIC, good, None),
        (Command.ANNOUNCE, None, good, token),
        (Command.ANNOUNCE, TOPIC, None, token),
        (Command.ANNOUNCE, TOPIC, good[:-1], token),
        (Command.ANNOUNCE, blake2b(b"other"), good, token),
        (Command.ANNOUNCE, TOPIC, other_node, token),
        (Command.ANNOUNCE, TOPIC, withdrawn, token),
        (Command.ANNOUNCE, TOPIC, encode_announce(replace(signed, signature=None)), token),
        (Command.ANNOUNCE, TOPIC, encode_announce(Announce(refresh=bytes(32))), token),
        (Command.ANNOUNCE, TOPIC, encode_announce(Announce()), token),
        (Command.UNANNOUNCE, TOPIC, good, token),
        (Command.UNANNOUNCE, TOPIC, withdrawn, None),
        (Command.UNANNOUNCE, TOPIC, None, token),
        (Command.UNANNOUNCE, TOPIC, encode_announce(Announce()), token),
        (Command.MUTABLE_PUT, key, put, None),
        (Command.MUTABLE_PUT, key, None, token),
        (Command.MUTABLE_PUT, key, forged, token),
        (Command.MUTABLE_PUT, key, put[:-1], token),
        (Command.MUTABLE_PUT, TOPIC, put, token),
        (Command.MUTABLE_GET, key, None, None),
        (Command.MUTABLE_GET, key, b"", None),
        (Command.IMMUTABLE_PUT, TOPIC, b"value", token),
        (Command.IMMUTABLE_PUT, blake2b(b"value"), b"value", None),
        (Command.IMMUTABLE_PUT, blake2b(b"value"), None, token),
        (Command.IMMUTABLE_GET, None, None, None),
    ]
    answers: list[Answer] = []
    for command, target, value, given in invalid:
        talk.client.rpc.request(
            talk.node.server,
            command,
            target=target,
            value=value,
            token=given,
            retries=0,
            then=answers.append,
            now=talk.network.now,
        )
    talk.network.run_until(lambda: len(answers) == len(invalid))
    assert [answer.reply for answer in answers] == [None] * len(invalid)
    assert talk.lookup() is None
    assert talk.get(ALICE) is None


def test_t17_a_token_and_a_signature_are_good_for_one_address_only(talk: Conversation) -> None:
    stranger = talk.network.add_client("10.201.0.1")
    token = talk.token()
    signed = sign_announce(
        Announce(PeerRecord(ALICE.public_key)), ALICE, target=TOPIC, node_id=talk.node.rpc.id, token=token
    )
    stolen = talk.ask(Command.ANNOUNCE, TOPIC, encode_announce(signed), token=token, client=stranger)
    assert stolen is not None
    assert stolen.error == 2
    fresh = talk.token(stranger)
    assert talk.ask(Command.ANNOUNCE, TOPIC, encode_announce(signed), token=fresh, client=stranger) is None
    assert talk.lookup() is None


def test_t17_one_host_with_many_keys_does_not_hide_the_others(talk: Conversation) -> None:
    others = [talk.network.add_client(f"10.20{i}.0.1") for i in range(2, 6)]
    for i, other in enumerate(others):
        assert talk.announce(key_pair(1000 + i), TOPIC, client=other) is not None
    for i in range(200):
        assert talk.announce(key_pair(10 + i), TOPIC) is not None
    honest = {key_pair(1000 + i).public_key for i in range(len(others))}
    for _ in range(20):
        reply = talk.lookup()
        assert reply is not None
        assert honest <= {peer.public_key for peer in reply.peers}


def test_t20_garbage_in_every_command_is_survived(talk: Conversation) -> None:
    token = talk.token()
    count = 0
    for command in Command:
        for value in (b"", b"\x00", b"\xff" * 9, encode_uint(15) + bytes(200), b"\xfe\xff\xff\xff\xff" * 40):
            talk.client.rpc.request(
                talk.node.server, command, target=TOPIC, value=value, token=token, retries=0, now=talk.network.now
            )
            count += 1
    talk.network.run(2.0)
    assert len(talk.network.sent) >= count
    assert talk.lookup() is None
    assert talk.network.now > START_S
