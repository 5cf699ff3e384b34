"""Bootstrap, the firewall test, and how a node becomes persistent and stops being it."""

import pytest

from hyperdht.addresses import Address
from hyperdht.rpc import CLIENT_SOCKET, SERVER_SOCKET, Command, Request, decode_reply, encode_request, node_id
from hyperdht.rpc.background import TICK_S
from hyperdht.rpc.membership import FORCED_TICKS, MORE_STABLE_TICKS, STABLE_TICKS

from .rpc_conversation import HOST, NODES, PORTS, Conversation

SERVER = Address(HOST, PORTS[SERVER_SOCKET])


def of(requests: list[Request], command: Command) -> list[Request]:
    return [request for request in requests if request.internal and request.command == command]


def keep_alive(talk: Conversation, ticks: int) -> list[Request]:
    """Let ticks pass in which everybody answers pings and queries. Returns the PING_NATs, which nobody answers."""
    asked: list[Request] = []
    for _ in range(ticks):
        talk.at(talk.now + TICK_S)
        others = talk.answer_queries()
        asked += of(others, Command.PING_NAT)
        for ping in of(others, Command.PING):
            talk.answer(ping, socket=talk.node.endpoint.main_socket)
    return asked


def pong(talk: Conversation, pings: list[Request]) -> None:
    for ping in pings:
        talk.answer(ping, socket=SERVER_SOCKET)


def test_a_node_starts_with_a_background_query_for_its_own_id() -> None:
    talk = Conversation(bootstrap=NODES[:3])
    talk.node.start(talk.now)
    requests = talk.sent()
    assert {request.to for request in requests} == set(NODES[:3])
    assert {(r.command, r.internal, r.target, r.id) for r in requests} == {
        (Command.FIND_NODE, True, talk.node.id, None)
    }
    assert (talk.node.ephemeral, talk.node.firewalled, talk.node.bootstrapped) == (True, True, False)


def test_a_node_without_anybody_is_bootstrapped_too() -> None:
    talk = Conversation(bootstrap=NODES[:1])
    talk.node.start(talk.now)
    talk.at(talk.now + 5.9)
    assert talk.called == []
    talk.at(talk.now + 0.2)
    assert talk.called == ["bootstrapped"]
    talk.sent()
    talk.at(talk.now + 8 * TICK_S)  # and asks again with the pings
    assert [request.to for request in of(talk.sent(), Command.FIND_NODE)[:1]] == NODES[:1]


def test_the_first_answer_is_asked_whether_it_reaches_our_server_socket() -> None:
    talk = Conversation(bootstrap=NODES[:3])
    talk.node.start(talk.now)
    first, second, third = talk.sent()
    talk.answer(first)
    (ping,) = talk.sent()
    assert (ping.to, ping.command, ping.internal) == (first.to, Command.PING_NAT, True)
    assert ping.value == PORTS[SERVER_SOCKET].to_bytes(2, "little")
    talk.answer(second)
    talk.answer(third)
    assert talk.sent() == []  # one is enough
    assert talk.called == ["bootstrapped"]  # nobody waits for the answer
    assert talk.node.firewalled
    assert talk.node.table.accepts_probes


def test_a_quick_test_without_an_answer_is_the_end_of_it() -> None:
    talk = Conversation(bootstrap=NODES[:2])
    talk.node.start(talk.now)
    talk.answer(talk.sent()[0])
    talk.at(talk.now + 5)
    assert len(of(talk.sent(), Command.PING_NAT)) == 4
    talk.at(talk.now + 5)
    assert of(talk.sent(), Command.PING_NAT) == []
    assert talk.called == ["bootstrapped"]


def test_bootstrap_nodes_without_id_tell_us_our_address() -> None:
    talk = Conversation(bootstrap=NODES[:2])
    talk.node.start(talk.now)
    for request in talk.sent():
        talk.answer(request, with_id=False)
    assert talk.node.nat.size == 2


def test_a_node_that_is_reached_while_it_bootstraps_is_tested_and_open() -> None:
    talk = Conversation(bootstrap=NODES[:5])
    talk.node.start(talk.now)
    first, *rest = talk.sent()
    talk.answer(first)
    pong(talk, of(talk.sent(), Command.PING_NAT))
    for request in rest:
        talk.answer(request)
    pings = talk.answer_queries()
    assert not talk.node.bootstrapped
    assert {ping.to for ping in of(pings, Command.PING_NAT)} == set(NODES[:5])
    pong(talk, pings)
    assert (talk.node.firewalled, talk.node.ephemeral) == (False, True)
    assert talk.node.remote_address() == SERVER
    assert talk.node.id == node_id(SERVER)
    second_round = talk.datagrams()
    assert {datagram.socket for datagram in second_round} == {SERVER_SOCKET}
    assert talk.called == []
    talk.at(talk.now + 20)
    assert talk.called == ["bootstrapped"]


@pytest.mark.parametrize("known", [True, False])
def test_only_who_may_be_open_is_tested_quickly(known: bool) -> None:
    talk = Conversation(bootstrap=NODES[:2], firewalled=known)
    talk.node.start(talk.now)
    for request in talk.sent():
        talk.answer(request, socket=talk.node.endpoint.main_socket)
    assert of(talk.sent(), Command.PING_NAT) == []
    assert talk.node.firewalled is known


# The full test, as part of becoming persistent


def ask_for_test(talk: Conversation) -> list[Request]:
    """A node told to be persistent bootstraps. Returns the PING_NATs of its firewall test."""
    talk.node.start(talk.now)
    pings = of(talk.answer_queries(), Command.PING_NAT)
    assert pings
    return pings


def forced(count: int = 5) -> Conversation:
    return Conversation(bootstrap=NODES[:count], ephemeral=False)


def test_a_node_that_passes_is_persistent() -> None:
    talk = forced()
    pings = ask_for_test(talk)
    assert len(pings) == 5
    pong(talk, pings)
    assert (talk.node.firewalled, talk.node.ephemeral, talk.node.id) == (False, False, node_id(SERVER))
    assert talk.called == ["persistent"]
    second_round = talk.datagrams()
    assert second_round
    for datagram in second_round:
        assert datagram.socket == SERVER_SOCKET
        assert datagram.data[1] & 1
        assert node_id(SERVER) in datagram.data


def test_a_persistent_node_sends_its_id_from_its_server_socket_only() -> None:
    talk = forced()
    pong(talk, ask_for_test(talk))
    talk.sent()
    ping = encode_request(Request(1, SERVER, Command.PING, internal=True))
    for socket, expected in ((SERVER_SOCKET, node_id(SERVER)), (CLIENT_SOCKET, None), (7, None)):
        talk.node.receive(ping, sender=NODES[0], socket=socket, now=talk.now)
        (datagram,) = talk.datagrams()
        assert datagram.socket == socket
        assert decode_reply(datagram.data, sender=SERVER).id == expected


@pytest.mark.parametrize(
    ("nodes", "pongs", "passes"), [(5, 3, True), (5, 2, False), (4, 1, True), (1, 1, True), (4, 0, False)]
)
def test_how_many_have_to_get_through(nodes: int, pongs: int, passes: bool) -> None:
    talk = forced(nodes)
    pings = ask_for_test(talk)
    pong(talk, pings[:pongs])
    talk.at(talk.now + 4)
    assert talk.node.firewalled is not passes
    assert ("persistent" in talk.called) is passes


@pytest.mark.parametrize(
    "wrong",
    [
        {"socket": CLIENT_SOCKET, "port": PORTS[SERVER_SOCKET]},
        {"host": "10.0.0.77"},
        {"port": 5001},
        {"sender": Address("10.66.0.1", 6000)},
    ],
)
def test_answers_that_prove_nothing(wrong: dict[str, object]) -> None:
    talk = forced()
    for ping in ask_for_test(talk):
        talk.answer(ping, **{"socket": SERVER_SOCKET, **wrong})  # type: ignore[arg-type]
    assert (talk.node.firewalled, talk.node.ephemeral) == (True, True)
    assert talk.called == ["bootstrapped"]


def test_a_node_whose_port_differs_from_peer_to_peer_is_not_even_tested() -> None:
    talk = forced()
    talk.node.start(talk.now)
    port = 3000
    while requests := talk.sent():
        assert of(requests, Command.PING_NAT) == []
        for request in requests:
            talk.answer(request, port=(port := port + 1))
    assert talk.called == ["bootstrapped"]
    assert talk.node.nat_address() == Address(HOST, 0)


def change_address(talk: Conversation, host: str, port: int) -> None:
    for _ in range(16):
        talk.node.nat.add(Address(host, port))


def test_another_host_than_the_client_socket_has_is_not_believed() -> None:
    talk = forced()
    pings = ask_for_test(talk)
    change_address(talk, "10.0.0.99", PORTS[CLIENT_SOCKET])
    pong(talk, pings)
    assert (talk.node.firewalled, talk.node.ephemeral) == (True, True)


def test_a_port_that_changes_during_the_test_is_a_reason_to_wait() -> None:
    talk = forced()
    pings = ask_for_test(talk)
    change_address(talk, HOST, 4001)
    pong(talk, pings)
    assert (talk.node.firewalled, talk.node.ephemeral) == (False, True)
    assert talk.node.nat_address() == SERVER


def test_bootstrap_nodes_are_asked_too_while_few_others_are_known() -> None:
    talk = forced(4)
    talk.node.start(talk.now)
    while not (pings := of(requests := talk.sent(), Command.PING_NAT)):
        for request in requests:
            talk.answer(request, with_id=request.to != NODES[0])  # this one is ephemeral
    assert sorted(ping.to for ping in pings) == NODES[:4]


@pytest.mark.parametrize(
    ("firewalled", "host", "port", "known"),
    [(False, HOST, 5000, True), (False, HOST, 5001, False), (False, HOST, 0, False), (True, HOST, 5000, False)],
)
def test_only_an_open_node_with_its_own_port_can_be_reached(
    firewalled: bool, host: str, port: int, known: bool
) -> None:
    talk = Conversation(firewalled=firewalled)
    assert talk.node.remote_address() is None
    talk.node.nat.add(Address(host, port))
    assert talk.node.remote_address() == (Address(host, port) if known else None)


def test_who_was_told_to_be_persistent_tries_until_it_works() -> None:
    talk = forced()
    ask_for_test(talk)
    talk.ticks(1)
    talk.sent()
    assert talk.called == ["bootstrapped"]
    assert keep_alive(talk, FORCED_TICKS - 2) == []
    pings = keep_alive(talk, 1)
    assert {ping.to for ping in pings} == set(NODES[:5])
    pong(talk, pings)
    assert talk.called == ["bootstrapped", "persistent"]


def test_who_is_told_that_it_is_firewalled_never_asks() -> None:
    talk = Conversation(bootstrap=NODES[:5], ephemeral=False, firewalled=True)
    talk.bootstrap(*NODES[:5])
    assert keep_alive(talk, 50) == []
    assert talk.node.ephemeral


def test_an_open_node_with_a_consistent_address_needs_no_test() -> None:
    talk = Conversation(bootstrap=NODES[:5], ephemeral=False, firewalled=False)
    talk.node.start(talk.now)
    assert talk.answer_queries() == []
    assert talk.called == ["persistent", "bootstrapped"]
    assert talk.node.id == node_id(SERVER)


def test_the_first_node_of_a_network_knows_its_address() -> None:
    talk = Conversation(ephemeral=False, firewalled=False, known_address=SERVER)
    talk.node.start(talk.now)
    talk.at(talk.now)
    assert talk.called == ["persistent", "bootstrapped"]
    assert (talk.node.id, talk.node.remote_address()) == (node_id(SERVER), SERVER)


# Adaptive nodes


def stable(**options: object) -> Conversation:
    """An adaptive node one tick before its first check."""
    talk = Conversation(bootstrap=NODES[:5], **options)
    talk.bootstrap(*NODES[:5])
    assert keep_alive(talk, STABLE_TICKS - 2) == []
    return talk


def test_a_node_is_tested_after_twenty_minutes() -> None:
    talk = stable()
    pings = keep_alive(talk, 1)
    assert len(pings) == 5
    pong(talk, pings)
    assert talk.called == ["bootstrapped", "persistent"]
    around = of(talk.sent(), Command.FIND_NODE)
    assert {(request.id, request.target) for request in around} == {(node_id(SERVER), node_id(SERVER))}


def test_the_same_network_is_not_tested_again() -> None:
    talk = stable()
    assert len(keep_alive(talk, 1)) == 5
    talk.at(talk.now + 4)
    talk.sent()
    assert keep_alive(talk, 2 * MORE_STABLE_TICKS) == []


def test_who_wants_to_stay_ephemeral_does() -> None:
    talk = Conversation(bootstrap=NODES[:5], ephemeral=True)
    talk.bootstrap(*NODES[:5])
    assert keep_alive(talk, STABLE_TICKS + 5) == []


def test_an_adaptive_node_is_ephemeral_again_after_sleep_and_keeps_its_id() -> None:
    talk = stable()
    pong(talk, keep_alive(talk, 1))
    identity = talk.node.id
    talk.node.handle_wakeup(talk.now)
    assert (talk.node.ephemeral, talk.node.firewalled, talk.node.id) == (True, False, identity)
    keep_alive(talk, MORE_STABLE_TICKS - 1)
    assert talk.called == ["bootstrapped", "persistent"]
    keep_alive(talk, 1)
    assert talk.called == ["bootstrapped", "persistent", "persistent"]


def test_who_was_told_to_be_persistent_stays_so_after_sleep() -> None:
    talk = forced()
    pong(talk, ask_for_test(talk))
    talk.node.handle_wakeup(talk.now)
    assert not talk.node.ephemeral


# Another network


def test_after_a_network_change_everything_is_found_out_again() -> None:
    talk = forced()
    pong(talk, ask_for_test(talk))
    talk.answer_queries()
    talk.called.clear()
    talk.node.handle_network_change(talk.now)
    assert talk.called == ["network_change"]
    assert (talk.node.ephemeral, talk.node.firewalled, talk.node.nat_address()) == (True, True, None)
    elsewhere = Address("10.0.0.2", PORTS[SERVER_SOCKET])
    for ping in talk.answer_queries(host=elsewhere.host):
        talk.answer(ping, host=elsewhere.host, socket=SERVER_SOCKET)
    assert (talk.node.ephemeral, talk.node.id, talk.node.remote_address()) == (False, node_id(elsewhere), elsewhere)
    assert talk.called == ["network_change", "persistent"]


def test_a_network_change_during_the_bootstrap_starts_it_again() -> None:
    talk = Conversation(bootstrap=NODES[:2])
    talk.node.start(talk.now)
    old = talk.sent()
    talk.node.handle_network_change(talk.now)
    for request in old:
        talk.answer(request)
    assert not talk.node.bootstrapped
    talk.answer_queries()
    assert talk.called == ["network_change", "bootstrapped"]


def test_a_bootstrap_node_keeps_the_address_it_knows() -> None:
    talk = Conversation(ephemeral=False, firewalled=False, known_address=SERVER)
    talk.node.start(talk.now)
    talk.at(talk.now)
    talk.node.handle_network_change(talk.now)
    talk.at(talk.now)
    assert (talk.node.ephemeral, talk.node.remote_address()) == (False, SERVER)


def test_a_network_change_ends_the_tests_of_the_old_one() -> None:
    talk = forced()
    old = ask_for_test(talk)
    talk.node.handle_network_change(talk.now)
    pong(talk, old)
    assert (talk.node.firewalled, talk.node.ephemeral, talk.node.bootstrapped) == (True, True, False)
    new = talk.answer_queries()
    assert len(new) == 5
    pong(talk, new)
    assert not talk.node.ephemeral


def test_what_a_quick_test_said_about_the_old_network_does_not_count_in_the_new_one() -> None:
    talk = Conversation(bootstrap=NODES[:3])
    talk.node.start(talk.now)
    talk.answer(talk.sent()[0])
    pong(talk, of(talk.sent(), Command.PING_NAT))
    talk.node.handle_network_change(talk.now)
    asked = talk.answer_queries()
    assert len(asked) == 1  # the quick test of the new one
    assert talk.node.bootstrapped
