"""What a node does by itself, tick by tick."""

import pytest

from hyperdht.addresses import Address
from hyperdht.rpc import Answer, Command, QueryOutcome, Request, encode_request, node_id
from hyperdht.rpc.background import PING_TICKS, REFRESH_TICKS, SMALL_TABLE_REFRESH_TICKS, TICK_S
from hyperdht.rpc.health import Health

from .rpc_conversation import NODES, Conversation

SMALL, LARGE = NODES[:10], NODES[:25]
TARGET = b"t" * 32


def tick(talk: Conversation) -> list[Request]:
    """One tick. Returns what it made the node send; nothing of it is answered yet."""
    talk.ticks(1)
    return talk.sent()


def answer_all(talk: Conversation, requests: list[Request]) -> None:
    for request in requests:
        talk.answer(request)
    talk.answer_queries()


def pings(requests: list[Request]) -> list[Address]:
    return [request.to for request in requests if request.command == Command.PING]


def is_refresh(requests: list[Request]) -> bool:
    return any(request.command == Command.FIND_NODE for request in requests)


def ticks_until_pings(talk: Conversation) -> list[Request]:
    """Answer everything until a tick of pings."""
    for _ in range(2 * PING_TICKS):
        if pings(sent := tick(talk)):
            return sent
        answer_all(talk, sent)
    raise AssertionError("no pings")


def test_every_eighth_tick_nodes_are_pinged() -> None:
    talk = Conversation()
    talk.bootstrap(*SMALL)
    when = []
    for _ in range(40):
        sent = tick(talk)
        if pings(sent):
            when.append(talk.node.endpoint.tick)
        answer_all(talk, sent)
    assert len(when) == 5
    assert all(number % PING_TICKS == 0 for number in when)


def test_only_two_are_pinged_while_the_oldest_was_pinged_a_minute_ago() -> None:
    talk = Conversation()
    talk.bootstrap(*SMALL)
    assert len(pings(ticks_until_pings(talk))) == 2


def old_table(talk: Conversation) -> None:
    """All nodes were heard from more than a minute ago, in the order of `SMALL`."""
    talk.bootstrap(*SMALL)
    for node in talk.node.table.longest_unseen():
        node.pinged -= 12


def test_the_five_longest_unseen_are_pinged() -> None:
    talk = Conversation()
    old_table(talk)
    longest_unseen = [node.address for node in talk.node.table.longest_unseen()]
    sent = ticks_until_pings(talk)
    assert pings(sent) == longest_unseen[:5]
    assert {(request.internal, request.value, request.id) for request in sent} == {(True, None, None)}


@pytest.mark.parametrize(("ago", "pinged"), [(11, 2), (12, 5)])
def test_how_long_ago_is_recent(ago: int, pinged: int) -> None:
    talk = Conversation()
    talk.bootstrap(*SMALL)
    for node in talk.node.table.longest_unseen():
        node.pinged = 64 - ago
    assert len(pings(ticks_until_pings(talk))) == pinged


def test_nobody_is_pinged_twice_in_a_tick() -> None:
    talk = Conversation()
    talk.bootstrap(*SMALL)
    first, second, *_ = talk.node.table.longest_unseen()
    first.pinged = second.pinged = 64
    sent: list[Request] = []
    while talk.node.endpoint.tick < 64:
        sent = tick(talk)
    assert pings(sent) == []


def test_three_are_pinged_while_much_is_in_flight() -> None:
    talk = Conversation()
    old_table(talk)
    for _ in range(3):
        talk.node.request(Address("10.77.0.1", 9000), 5, timeout_s=600, now=talk.now)
    talk.sent()
    assert len(pings(ticks_until_pings(talk))) == 3


@pytest.mark.parametrize("fate", ["silent", "answered by another"])
def test_who_does_not_answer_a_ping_itself_is_forgotten(fate: str) -> None:
    talk = Conversation()
    old_table(talk)
    first, second, *rest = ticks_until_pings(talk)
    talk.answer(first)
    if fate == "answered by another":
        talk.answer(second, sender=NODES[29])
    for request in rest:
        talk.answer(request)
    talk.at(talk.now + 4)
    assert node_id(first.to) in talk.node.table
    assert node_id(second.to) not in talk.node.table


def test_an_empty_table_is_refreshed_with_the_pings() -> None:
    talk = Conversation(bootstrap=NODES[:1])
    talk.node.start(talk.now)
    talk.at(talk.now + 10)
    assert talk.node.bootstrapped
    talk.sent()
    asked = [request for _ in range(PING_TICKS) for request in tick(talk)]
    assert {request.to for request in asked} == set(NODES[:1])
    assert {request.target for request in asked} == {talk.node.id}


def refreshes(talk: Conversation, ticks: int) -> list[int]:
    """At which ticks from now the table is refreshed."""
    found = []
    for number in range(1, ticks + 1):
        sent = tick(talk)
        if is_refresh(sent):
            found.append(number)
        answer_all(talk, sent)
    return found


def test_the_table_is_refreshed_five_minutes_after_the_last_query() -> None:
    talk = Conversation()
    talk.bootstrap(*LARGE)
    first, second, third = refreshes(talk, 3 * REFRESH_TICKS)
    assert (first, second - first, third - second) == (REFRESH_TICKS - 1, REFRESH_TICKS, REFRESH_TICKS)
    refreshes(talk, 30)
    talk.node.query(TARGET, 3, seeds=NODES[:1], only_closest_nodes=True, now=talk.now)
    answer_all(talk, talk.sent())
    assert refreshes(talk, REFRESH_TICKS) == [REFRESH_TICKS]


def test_a_refresh_looks_for_a_node_we_know() -> None:
    talk = Conversation()
    talk.bootstrap(*SMALL)
    talk.node.refresh(talk.now)
    targets = {request.target for request in talk.sent()}
    assert len(targets) == 1
    assert targets < {node_id(address) for address in SMALL}


def test_a_small_table_is_refreshed_more_often() -> None:
    talk = Conversation()
    talk.bootstrap(*SMALL)
    when = []
    for _ in range(4 * SMALL_TABLE_REFRESH_TICKS):
        sent = tick(talk)
        if is_refresh(sent):
            when.append(talk.node.endpoint.tick)
        answer_all(talk, sent)
    assert sum(number % SMALL_TABLE_REFRESH_TICKS == 0 for number in when) == 4


def test_nobody_is_pinged_before_the_bootstrap_is_over() -> None:
    talk = Conversation()
    talk.know(*SMALL)
    talk.node.endpoint.start_tick(63)
    talk.node.start(talk.now)
    assert pings(tick(talk)) == []
    assert (talk.node.endpoint.tick, talk.node.bootstrapped) == (64, False)


# Sleep


def test_after_sleep_all_nodes_are_asked_again_soon() -> None:
    talk = Conversation()
    talk.bootstrap(*LARGE)
    before = talk.node.endpoint.tick
    talk.now += 3600
    talk.node.handle_timer(now=talk.now)
    assert talk.node.endpoint.tick >= before + 720
    sent = talk.sent()
    assert is_refresh(sent)
    answer_all(talk, sent)
    assert pings(tick(talk)) == []
    assert len(pings(tick(talk))) == 5


def test_a_late_tick_is_no_sleep() -> None:
    talk = Conversation()
    talk.bootstrap(*LARGE)
    before = talk.node.endpoint.tick
    talk.now += 3 * TICK_S
    talk.node.handle_timer(now=talk.now)
    assert talk.node.endpoint.tick == before + 1


def test_a_node_that_is_resumed_twice_ticks_once() -> None:
    talk = Conversation()
    talk.bootstrap(*LARGE)
    talk.node.resume(talk.now)
    talk.node.resume(talk.now)
    before = talk.node.endpoint.tick
    tick(talk)
    assert talk.node.endpoint.tick == before + 1


# Health


def fail(talk: Conversation, ticks: int) -> None:
    """Nobody answers anything."""
    for _ in range(ticks):
        for _ in range(4):
            talk.node.ping(Address("10.66.0.1", 6000), retries=0, now=talk.now)
        tick(talk)


def succeed(talk: Conversation, ticks: int) -> None:
    for _ in range(ticks):
        for _ in range(4):
            talk.node.ping(NODES[0], now=talk.now)
        answer_all(talk, talk.sent())
        tick(talk)


def test_a_node_notices_that_it_is_offline_and_back() -> None:
    talk = Conversation()
    talk.bootstrap(*LARGE)
    talk.called.clear()
    seen = []
    talk.node.on_health_change.append(lambda now: seen.append(talk.node.health))
    fail(talk, 6)
    assert seen == [Health.OFFLINE]
    succeed(talk, 1)
    assert seen == [Health.OFFLINE, Health.ONLINE]


def test_a_wakeup_gives_the_network_another_chance() -> None:
    talk = Conversation()
    talk.bootstrap(*LARGE)
    fail(talk, 6)
    talk.called.clear()
    talk.node.handle_wakeup(talk.now)
    assert talk.node.health is Health.ONLINE
    assert talk.called == ["health_change"]


# Suspend and resume


def test_a_suspended_node_is_silent_and_everybody_is_told() -> None:
    talk = Conversation()
    talk.bootstrap(*LARGE)
    answers: list[Answer] = []
    outcomes: list[QueryOutcome] = []
    talk.node.ping(NODES[0], then=answers.append, now=talk.now)
    talk.node.query(TARGET, 3, then=outcomes.append, now=talk.now)
    talk.node.suspend(talk.now)
    assert answers == [Answer(None, None, None, talk.now)]
    assert [outcome.successes for outcome in outcomes] == [0]
    assert len(talk.node.table) == len(LARGE)
    request = encode_request(Request(1, NODES[0], Command.PING, internal=True))
    talk.node.receive(request, sender=NODES[0], socket=1, now=talk.now)
    talk.at(talk.now + 3600)
    assert talk.sent() == []
    assert len(talk.node.table) == len(LARGE)


def test_what_is_asked_while_suspended_is_sent_afterwards() -> None:
    talk = Conversation()
    talk.bootstrap(*LARGE)
    talk.node.suspend(talk.now)
    answers: list[Answer] = []
    talk.node.request(NODES[0], 7, force=True, then=answers.append, now=talk.now)
    talk.at(talk.now + 3600)
    assert (talk.sent(), answers) == ([], [])
    talk.node.resume(talk.now)
    sent = talk.sent()
    assert [request.to for request in sent if request.command == 7] == NODES[:1]
    assert is_refresh(sent)
    answer_all(talk, sent)
    assert [answer.sender for answer in answers] == NODES[:1]
    assert len(pings(tick(talk) + tick(talk))) == 5


def test_a_bootstrap_that_was_suspended_starts_again() -> None:
    talk = Conversation(bootstrap=NODES[:2])
    talk.node.start(talk.now)
    talk.sent()
    talk.node.suspend(talk.now)
    talk.at(talk.now + 60)
    assert talk.called == []
    talk.node.resume(talk.now)
    talk.answer_queries()
    assert talk.called == ["bootstrapped"]


def test_checks_that_were_suspended_remove_nobody() -> None:
    talk = Conversation()
    old_table(talk)
    assert len(pings(ticks_until_pings(talk))) == 5
    talk.node.suspend(talk.now)
    talk.node.resume(talk.now)
    assert len(talk.node.table) == len(SMALL)
