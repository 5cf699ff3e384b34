"""A node's requests and queries, and their callbacks."""

from gc import collect
from math import inf
from weakref import ref

import pytest

from hyperdht.addresses import Address
from hyperdht.rpc import (
    CLIENT_SOCKET,
    SERVER_SOCKET,
    Answer,
    Command,
    Datagram,
    ErrorCode,
    QueryOutcome,
    Reply,
    Request,
    RequestReceived,
    Write,
    decode_reply,
    encode_address,
    encode_reply,
    encode_request,
    node_id,
)
from hyperdht.rpc.background import MAX_DOWN_HINTS_PER_TICK

from .rpc_conversation import HOST, NODES, Conversation

THEIRS = NODES[0]
TARGET = b"t" * 32


def test_an_answer_and_a_timeout_are_told_once_each() -> None:
    talk = Conversation()
    answers: list[Answer] = []
    talk.node.request(THEIRS, 7, value=b"question", then=answers.append, now=talk.now)
    (request,) = talk.sent()
    talk.answer(request, value=b"answer")
    talk.answer(request, value=b"again")
    talk.node.ping(NODES[1], then=answers.append, now=talk.now)
    talk.at(talk.now + 10)
    first, second = answers
    assert first.reply is not None
    assert (first.reply.value, first.sender, first.socket, first.now) == (b"answer", THEIRS, CLIENT_SOCKET, 100.0)
    assert second == Answer(None, None, None, 104.0)


def test_the_answer_says_which_socket_it_came_in_on() -> None:
    talk = Conversation()
    answers: list[Answer] = []
    talk.node.ping(THEIRS, socket=7, then=answers.append, now=talk.now)
    (datagram,) = talk.datagrams()
    assert datagram.socket == 7
    reply = Reply(int.from_bytes(datagram.data[2:4], "little"), Address(HOST, 1))
    talk.node.receive(encode_reply(reply), sender=NODES[1], socket=9, now=talk.now)
    assert answers == [Answer(reply, NODES[1], 9, talk.now)]


def test_a_cancelled_request_is_not_told_about() -> None:
    talk = Conversation()
    answers: list[Answer] = []
    handle = talk.node.ping(THEIRS, then=answers.append, now=talk.now)
    (request,) = talk.sent()
    talk.node.cancel(handle)
    talk.answer(request)
    talk.at(talk.now + 10)
    assert answers == []


def test_a_callback_may_ask_again_at_once() -> None:
    talk = Conversation()

    def ask_again(answer: Answer) -> None:
        talk.node.ping(NODES[1], now=answer.now)

    talk.node.ping(THEIRS, then=ask_again, now=talk.now)
    (request,) = talk.sent()
    talk.answer(request)
    assert [request.to for request in talk.sent()] == [NODES[1]]


def test_a_slow_request_is_told_about_after_a_second() -> None:
    talk = Conversation()
    slow: list[float] = []
    talk.node.request(THEIRS, 7, on_slow=slow.append, now=talk.now)
    talk.at(talk.now + 10)
    assert slow == [101.0]


def test_a_ping_may_carry_weight() -> None:
    talk = Conversation()
    talk.node.ping(THEIRS, size=900, now=talk.now)
    (request,) = talk.sent()
    assert (request.command, request.internal, request.value) == (Command.PING, True, bytes(900))


def test_what_is_no_message_is_sent_as_it_is_and_before_requests() -> None:
    talk = Conversation()
    probe = Datagram(b"\x00", THEIRS, 5, ttl=5)
    talk.node.ping(THEIRS, now=talk.now)
    talk.node.send_datagram(probe)
    assert talk.datagrams()[0] == probe


def test_commands_go_to_the_layer_above() -> None:
    talk = Conversation()
    request = Request(1, Address(HOST, 5000), 7, target=TARGET)
    talk.node.receive(encode_request(request), sender=THEIRS, socket=SERVER_SOCKET, now=talk.now)
    (refused,) = talk.datagrams()
    assert decode_reply(refused.data, sender=NODES[5]).error == ErrorCode.UNKNOWN_COMMAND
    received: list[tuple[RequestReceived, float]] = []
    talk.node.on_request = lambda request, now: received.append((request, now))
    talk.node.receive(encode_request(request), sender=THEIRS, socket=SERVER_SOCKET, now=talk.now)
    assert received == [(RequestReceived(request, THEIRS, SERVER_SOCKET), talk.now)]
    assert talk.datagrams() == []


# Queries


def outcome_of(talk: Conversation, **options: object) -> list[QueryOutcome]:
    outcomes: list[QueryOutcome] = []
    talk.node.query(TARGET, 3, then=outcomes.append, now=talk.now, **options)  # type: ignore[arg-type]
    return outcomes


def test_a_query_with_nobody_to_ask_ends_but_not_before_its_owner_holds_it() -> None:
    talk = Conversation()
    outcomes = outcome_of(talk, write=lambda best: Write(4, TARGET, b""))
    assert outcomes == []
    assert talk.node.next_timer() == talk.now
    talk.at(talk.now)
    assert outcomes == [QueryOutcome((), 0, 0, (), 100.0)]


def test_a_query_follows_closer_nodes_and_tells_every_reply() -> None:
    talk = Conversation(bootstrap=NODES[:1])
    replies: list[tuple[Address, bytes | None, float]] = []
    outcomes = outcome_of(
        talk, value=b"question", on_reply=lambda *reply: replies.append((reply[0], reply[1].value, reply[2]))
    )
    (first,) = talk.sent()
    assert (first.command, first.target, first.value, first.internal) == (3, TARGET, b"question", False)
    talk.answer(first, closer=NODES[1:3], value=b"a")
    second, third = talk.sent()
    talk.answer(second, value=b"b", with_id=False)
    talk.answer(third, error=1)
    assert replies == [(NODES[0], b"a", 100.0), (second.to, b"b", 100.0)]
    (outcome,) = outcomes
    assert [best.address for best in outcome.best] == [NODES[0]]
    assert (outcome.successes, outcome.failures, outcome.committed) == (2, 1, ())
    assert talk.node.next_timer() == inf


def test_requests_of_queries_are_sent_six_times_and_who_fails_is_reported() -> None:
    talk = Conversation(bootstrap=NODES[:1])
    outcomes = outcome_of(talk)
    (first,) = talk.sent()
    talk.answer(first, closer=NODES[1:2])
    talk.at(talk.now + 5.9)
    assert len(talk.sent()) == 6
    talk.at(talk.now + 0.1)
    (hint,) = talk.sent()
    assert (hint.to, hint.command, hint.internal, hint.value) == (
        NODES[0],
        Command.DOWN_HINT,
        True,
        encode_address(NODES[1]),
    )
    assert [(outcome.successes, outcome.failures) for outcome in outcomes] == [(1, 1)]


def test_down_hints_are_limited_per_tick() -> None:
    talk = Conversation()
    talk.bootstrap()
    for start in range(0, MAX_DOWN_HINTS_PER_TICK + 20, 10):
        dead = [Address(f"10.8.{start}.{number}", 9000) for number in range(10)]
        talk.node.query(TARGET, 3, seeds=NODES[:1], retries=0, now=talk.now)
        (request,) = talk.sent()
        talk.answer(request, closer=dead)
        talk.sent()
        talk.at(talk.now + 0.01)
    hints: list[Request] = []
    for _ in range(8):
        talk.at(talk.now + 0.125)
        hints += [request for request in talk.sent() if request.command == Command.DOWN_HINT]
    assert len({hint.tid for hint in hints}) == MAX_DOWN_HINTS_PER_TICK
    talk.ticks(1)
    talk.sent()
    talk.node.query(TARGET, 3, seeds=NODES[:1], retries=0, now=talk.now)
    (request,) = talk.sent()
    talk.answer(request, closer=[Address("10.8.99.1", 9000)])
    talk.at(talk.now + 1)
    assert [request.command for request in talk.sent() if request.internal] == [Command.DOWN_HINT]


def test_a_write_goes_to_all_best_replies_with_the_token_of_each() -> None:
    talk = Conversation(bootstrap=NODES[:4])
    left_out = NODES[3]
    outcomes = outcome_of(
        talk, write=lambda best: None if best.address == left_out else Write(4, TARGET, best.node_id[:1])
    )
    for request in talk.sent():
        talk.answer(request, token=bytes([request.to.port % 256]) * 31 + request.to.host[-1].encode())
    writes = talk.sent()
    assert {write.to for write in writes} == set(NODES[:3])
    for write in writes:
        assert (write.command, write.target, write.internal) == (4, TARGET, False)
        assert write.value == node_id(write.to)[:1]
        assert write.token is not None
        assert write.token[-1:] == write.to.host[-1].encode()
    talk.answer(writes[0])
    talk.answer(writes[1], error=16)
    assert outcomes == []
    talk.at(talk.now + 3.9)
    assert outcomes == []
    talk.at(talk.now + 0.1)  # plain requests are sent four times
    (outcome,) = outcomes
    assert [(address, reply.error) for address, reply in outcome.committed] == [(writes[0].to, 0), (writes[1].to, 16)]


def test_a_cancelled_query_is_silent() -> None:
    talk = Conversation(bootstrap=NODES[:2])
    outcomes: list[QueryOutcome] = []
    running = talk.node.query(TARGET, 3, then=outcomes.append, now=talk.now)
    first, _ = talk.sent()
    running.cancel()
    running.cancel()
    talk.answer(first, closer=NODES[2:3])
    talk.at(talk.now + 20)
    assert (outcomes, talk.sent(), talk.node.endpoint.in_flight) == ([], [], 0)


def test_a_query_may_be_cancelled_by_its_own_reply() -> None:
    talk = Conversation(bootstrap=NODES[:2])
    outcomes: list[QueryOutcome] = []
    running = talk.node.query(TARGET, 3, on_reply=lambda *_: running.cancel(), then=outcomes.append, now=talk.now)
    for request in talk.sent():
        talk.answer(request, closer=NODES[2:5])
    talk.at(talk.now + 20)
    assert (outcomes, talk.sent(), running.over) == ([], [], True)


@pytest.mark.parametrize("writes", [False, True])
def test_slow_stragglers_are_dropped_once_twenty_have_answered(writes: bool) -> None:
    talk = Conversation(bootstrap=NODES[:21])
    outcomes = outcome_of(talk, write=(lambda best: Write(4, TARGET, b"")) if writes else None)
    silent: list[Address] = []
    for _ in range(5):
        for request in talk.sent():
            if silent in ([], [request.to]):
                silent = [request.to]
            else:
                talk.answer(request)
    assert outcomes == []
    talk.at(talk.now + 1)
    assert talk.node.endpoint.in_flight == (20 if writes else 0)
    for request in talk.sent():
        if request.command == 4:
            talk.answer(request)
    assert [(outcome.successes, len(outcome.committed)) for outcome in outcomes] == [(20, 20 if writes else 0)]


@pytest.mark.parametrize("force", [False, True])
def test_a_forced_query_does_not_wait_for_room(force: bool) -> None:
    talk = Conversation()
    for _ in range(100):
        talk.node.ping(THEIRS, now=talk.now)
    talk.sent()
    talk.node.query(TARGET, 3, seeds=NODES[:5], only_closest_nodes=True, retries=0, force=force, now=talk.now)
    assert len(talk.sent()) == (5 if force else 0)


def test_an_open_node_leaves_from_its_server_socket() -> None:
    talk = Conversation(firewalled=False)
    talk.node.ping(THEIRS, now=talk.now)
    assert [datagram.socket for datagram in talk.datagrams()] == [SERVER_SOCKET]


def test_who_does_not_answer_a_query_leaves_the_table_but_who_does_not_answer_a_request_stays() -> None:
    talk = Conversation()
    talk.know(*NODES[:2])
    talk.node.query(TARGET, 3, seeds=NODES[:1], only_closest_nodes=True, now=talk.now)
    talk.node.request(NODES[1], 0, now=talk.now)
    talk.at(talk.now + 10)
    assert [node.address for node in talk.node.table.longest_unseen()] == NODES[1:2]


def test_a_query_that_is_over_is_forgotten() -> None:
    talk = Conversation()
    running = talk.node.query(TARGET, 3, seeds=NODES[:1], only_closest_nodes=True, now=talk.now)
    talk.answer(talk.sent()[0])
    assert running.over
    trace = ref(running)
    del running
    collect()
    assert trace() is None
