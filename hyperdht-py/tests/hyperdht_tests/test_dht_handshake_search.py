"""Whom a client asks for a handshake, in conversation: the test plays all nodes."""

from random import Random

import pytest

from hyperdht.addresses import Address
from hyperdht.crypto import KeyPair, blake2b
from hyperdht.dht.constants import Command
from hyperdht.dht.handshake_search import MAX_CANDIDATES, HandshakeAnswer, HandshakeSearch, request_handshake
from hyperdht.dht.messages import PeerRecord, encode_peer
from hyperdht.dht.payloads import HandshakeMessage, Mode, decode_handshake, encode_handshake
from hyperdht.dht.route_cache import MAX_PEERS, Route, RouteCache
from hyperdht.rpc import CLIENT_SOCKET, Request, RpcNode, decode_request, encode_reply, node_id
from hyperdht.rpc.messages import Reply

PEER = KeyPair.from_seed(b"\x61" * 32).public_key
OTHER = KeyPair.from_seed(b"\x62" * 32).public_key
TARGET = blake2b(PEER)
US = Address("11.9.9.9", 4000)
SERVER = Address("11.8.8.8", 5000)
NODES = [Address(f"11.0.{number}.1", 6000) for number in range(40)]
NOISE = b"message 1"


class Conversation:
    """A search by a node that knows some of `NODES`."""

    def __init__(self, *, table: int = 0, known: tuple[Address, ...] = ()) -> None:
        self.now = 100.0
        self.rpc = RpcNode(randomness=Random(1), now=self.now, ephemeral=True, firewalled=True, port=lambda _: 4000)
        for address in NODES[:table]:
            self.rpc.table.hear_from(node_id(address), address, tick=60)
        self.answers: list[HandshakeAnswer] = []
        self.accepts = True
        self.exhausted: list[bool] = []
        self.search = HandshakeSearch(
            self.rpc,
            public_key=PEER,
            target=TARGET,
            noise=NOISE,
            known=known,
            now=self.now,
            on_answer=self._take,
            on_exhausted=lambda found_any, now: self.exhausted.append(found_any),
        )
        self.queries: list[Request] = []
        """FIND_PEER requests nobody answered yet."""
        self.handshakes: list[Request] = []
        """The same of PEER_HANDSHAKE."""
        self.walked: list[Address] = []
        """Who was sent a FIND_PEER, in order."""
        self.look()

    def _take(self, answer: HandshakeAnswer) -> bool:
        self.answers.append(answer)
        return self.accepts

    def look(self) -> None:
        """Sort what was sent; retransmissions are left out."""
        for datagram in self.rpc.datagrams_to_send():
            request = decode_request(datagram.data, sender=US)
            if request.internal:
                continue
            to = self.queries if request.command == Command.FIND_PEER else self.handshakes
            if all(earlier.tid != request.tid for earlier in to):
                to.append(request)
                self.walked += [request.to] if to is self.queries else []

    def pass_time(self, seconds: float) -> None:
        end = self.now + seconds
        while (timer := self.rpc.next_timer()) <= end:
            self.now = max(self.now, timer)
            self.rpc.handle_timer(now=self.now)
            self.look()
        self.now = end

    def answer(
        self,
        request: Request,
        *,
        value: bytes | None = None,
        sender: Address | None = None,
        error: int = 0,
        closer: tuple[Address, ...] = (),
    ) -> None:
        source = sender or request.to
        reply = Reply(request.tid, US, node_id(source), None, closer, error, value)
        self.rpc.receive(encode_reply(reply), sender=source, socket=CLIENT_SOCKET, now=self.now)
        self.look()

    def answer_queries(self, value: bytes | None = None) -> None:
        while self.queries:
            self.answer(self.queries.pop(), value=value)
        self.pass_time(0)

    @property
    def asked(self) -> set[Address]:
        return {request.to for request in self.handshakes}


def record(public_key: bytes = PEER) -> bytes:
    return encode_peer(PeerRecord(public_key))


def answer_value(mode: int = Mode.REPLY, noise: bytes = b"message 2", peer: Address | None = SERVER) -> bytes:
    return encode_handshake(HandshakeMessage(mode, noise, peer))


# The answer


def test_answer_tells_where_both_sides_are() -> None:
    conversation = Conversation(known=(NODES[0],))
    request = conversation.handshakes[0]
    assert (request.to, request.target, request.token) == (NODES[0], TARGET, None)
    assert request.value is not None
    assert decode_handshake(request.value) == HandshakeMessage(Mode.FROM_CLIENT, NOISE)
    conversation.answer(request, value=answer_value())
    answer = conversation.answers[0]
    assert (answer.noise, answer.asked, answer.relayed) == (b"message 2", NODES[0], True)
    assert (answer.server_address, answer.client_address, answer.socket) == (SERVER, US, CLIENT_SOCKET)
    assert conversation.search.over


def test_answer_of_the_server_itself_is_direct() -> None:
    conversation = Conversation(known=(SERVER,))
    conversation.answer(conversation.handshakes[0], value=answer_value(peer=None))
    assert not conversation.answers[0].relayed
    assert conversation.answers[0].server_address == SERVER


@pytest.mark.parametrize(
    ("value", "sender", "error"),
    [
        (None, None, 0),
        (b"", None, 0),
        (answer_value(noise=b""), None, 0),
        (answer_value(mode=Mode.FROM_SERVER), None, 0),
        (answer_value(), NODES[5], 0),
        (answer_value(), NODES[0]._replace(port=7), 0),
        (answer_value(), None, 1),
    ],
)
def test_what_is_no_answer_of_the_node_asked(value: bytes | None, sender: Address | None, error: int) -> None:
    conversation = Conversation(known=(NODES[0],))
    conversation.answer(conversation.handshakes[0], value=value, sender=sender, error=error)
    conversation.pass_time(30)
    assert not conversation.answers
    assert conversation.exhausted == [False]


def test_socket_can_be_chosen() -> None:
    conversation = Conversation()
    request_handshake(
        conversation.rpc,
        SERVER,
        target=TARGET,
        noise=NOISE,
        socket=7,
        now=conversation.now,
        then=lambda answer, now: None,
    )
    assert [datagram.socket for datagram in conversation.rpc.datagrams_to_send()] == [7]


# The order


def test_known_nodes_are_asked_one_after_the_other() -> None:
    conversation = Conversation(known=tuple(NODES[:3]))
    assert conversation.asked == {NODES[0]}
    conversation.answer(conversation.handshakes[0])
    assert conversation.asked == set(NODES[:2])
    conversation.pass_time(4)
    assert conversation.asked == set(NODES[:3])


def test_nodes_that_have_the_record_are_asked_two_at_once() -> None:
    conversation = Conversation(table=8)
    conversation.answer_queries(record())
    assert len(conversation.handshakes) == 2
    conversation.answer(conversation.handshakes[0])
    assert len(conversation.handshakes) == 3


def test_record_of_another_key_or_garbage_is_no_reason_to_ask() -> None:
    conversation = Conversation(table=8)
    for value in (record(OTHER), b"", b"\0" * 32):
        if conversation.queries:
            conversation.answer(conversation.queries.pop(), value=value)
    conversation.answer_queries(None)
    assert not conversation.handshakes
    assert conversation.exhausted == [False]


def test_known_node_that_the_query_confirms_is_asked_at_once_and_once() -> None:
    conversation = Conversation(known=tuple(NODES[:3]))
    by_node = {request.to: request for request in conversation.queries}
    conversation.answer(by_node[NODES[2]], value=record())
    assert conversation.asked == {NODES[0], NODES[2]}
    conversation.answer(by_node[NODES[0]], value=record())
    assert len(conversation.handshakes) == 2
    conversation.pass_time(30)
    assert sorted(request.to for request in conversation.handshakes) == sorted(NODES[:3])


def test_search_without_known_nodes_asks_the_table_once() -> None:
    conversation = Conversation(table=3)
    conversation.answer_queries()
    assert len(conversation.walked) == 3
    assert conversation.exhausted == [False]
    assert not conversation.handshakes


def test_second_query_starts_at_our_own_table() -> None:
    """Twenty nodes we were told of fill the first one, so that the table is not used."""
    conversation = Conversation(table=3, known=tuple(NODES[10:30]))
    conversation.answer_queries()
    assert set(conversation.walked[:20]) == set(NODES[10:30])
    assert set(conversation.walked[20:]) >= set(NODES[:3])


def test_t18_liars_cannot_make_it_last() -> None:
    conversation = Conversation(table=3)
    furthest_first = sorted(NODES, key=lambda node: -(int.from_bytes(node_id(node)) ^ int.from_bytes(TARGET)))
    while conversation.queries:  # each names some that are closer than those before
        known = len(set(conversation.walked))
        closer = tuple(furthest_first[max(0, known - 5) : known + 5])
        conversation.answer(conversation.queries.pop(0), value=record(), closer=closer)
    conversation.pass_time(300)
    assert len(set(conversation.walked)) > MAX_CANDIDATES
    assert len(conversation.handshakes) == MAX_CANDIDATES
    assert conversation.exhausted == [True]


def test_refused_answer_leads_on_to_the_next() -> None:
    conversation = Conversation(known=tuple(NODES[:2]))
    conversation.accepts = False
    conversation.answer(conversation.handshakes[0], value=answer_value())
    conversation.accepts = True
    conversation.answer(conversation.handshakes[1], value=answer_value())
    assert [answer.asked for answer in conversation.answers] == NODES[:2]
    assert not conversation.exhausted


def test_nothing_happens_after_cancel() -> None:
    conversation = Conversation(table=4, known=tuple(NODES[:2]))
    requests = [*conversation.handshakes, *conversation.queries]
    conversation.search.cancel()
    for request in requests:
        conversation.answer(request, value=record() if request.command == Command.FIND_PEER else answer_value())
    conversation.pass_time(30)
    assert not conversation.answers
    assert not conversation.exhausted


# What is remembered


def test_peers_used_longest_ago_are_forgotten() -> None:
    cache = RouteCache()
    keys = [number.to_bytes(32, "big") for number in range(MAX_PEERS + 1)]
    for key in keys[:-1]:
        cache.remember_relays(key, [SERVER])
        cache.remember_route(key, Route(3, SERVER))
    assert cache.relay_addresses(keys[0]) == (SERVER,)
    assert cache.route(keys[0]) == Route(3, SERVER)
    cache.remember_relays(keys[-1], [SERVER])
    cache.remember_route(keys[-1], Route(4, SERVER))
    assert cache.relay_addresses(keys[0]), "used since"
    assert not cache.relay_addresses(keys[1])
    assert cache.route(keys[1]) is None
    cache.forget_socket(3)
    assert cache.route(keys[0]) is None
    assert cache.route(keys[-1]) == Route(4, SERVER)
    cache.forget_route(keys[-1])
    assert cache.route(keys[-1]) is None


def test_no_relays_are_no_news() -> None:
    cache = RouteCache()
    cache.remember_relays(PEER, NODES)
    cache.remember_relays(PEER, ())
    assert cache.relay_addresses(PEER) == tuple(NODES[:6])
