"""Endpoints in conversation: requests, answers, time, and what strangers try."""

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperdht.addresses import Address
from hyperdht.errors import LocalProtocolError
from hyperdht.rpc import (
    Command,
    ErrorCode,
    Reply,
    Request,
    decode_reply,
    decode_request,
    encode_address,
    encode_reply,
    encode_request,
    node_id,
)
from hyperdht.rpc.endpoint import (
    CLIENT_SOCKET,
    MAX_DELAYED_PINGS,
    MAX_DOWN_CHECKS,
    MAX_DOWN_HINTS_PER_TICK,
    SERVER_SOCKET,
    Endpoint,
)
from hyperdht.rpc.events import Event, NatSampled, ReplyReceived, RequestReceived, RequestSlow, RequestTimedOut
from hyperdht.rpc.nat import NatSampler
from hyperdht.rpc.requests import MAX_REQUESTS, QUERY_RETRIES, Datagram
from hyperdht.rpc.routing_table import RoutingTable
from hyperdht.rpc.tokens import Tokens
from hyperdht.rpc.window import MAX_IN_ALL, MAX_PER_SLOT

OURS = Address("10.0.0.1", 1000)
THEIRS = Address("10.0.0.2", 2000)
TARGET = b"t" * 32


def endpoint(*, persistent: bool = False, own: Address = OURS, tick: int = 60) -> Endpoint:
    """A node at `OURS`: ephemeral and firewalled unless persistent."""
    node = Endpoint(RoutingTable(node_id(own)), Tokens(b"p" * 32, b"c" * 32), first_tid=0xFFFF, tick=tick, now=0.0)
    node.ephemeral = node.firewalled = not persistent
    return node


def events(node: Endpoint) -> list[Event]:
    found: list[Event] = []
    while (event := node.next_event()) is not None:
        found.append(event)
    return found


def answers(node: Endpoint, request: Request, *, sender: Address = THEIRS, now: float = 0.0) -> list[Datagram]:
    """What the node sends when that request arrives on its server socket."""
    node.receive(encode_request(request), sender=sender, socket=SERVER_SOCKET, now=now)
    return node.datagrams_to_send()


def answer(node: Endpoint, request: Request, *, sender: Address = THEIRS, now: float = 0.0) -> Reply:
    (datagram,) = answers(node, request, sender=sender, now=now)
    assert datagram.to == sender
    assert datagram.socket == SERVER_SOCKET
    return decode_reply(datagram.data, sender=OURS)


def internal(command: int, value: bytes | None = None, target: bytes | None = None) -> Request:
    return Request(7, OURS, command, internal=True, value=value, target=target)


def reply_to(
    node: Endpoint, datagram: Datagram, *, now: float = 0.0, sender: Address | None = None, **fields: bytes
) -> None:
    """The other side answers one of our requests, as a persistent node does."""
    request = decode_request(datagram.data, sender=OURS)
    source = sender or datagram.to
    reply = Reply(request.tid, OURS, id=node_id(source), **fields)  # type: ignore[arg-type]
    node.receive(encode_reply(reply), sender=source, socket=datagram.socket, now=now)


def run_until(node: Endpoint, end: float) -> list[tuple[float, Datagram]]:
    """Let time pass, and note what is sent when."""
    sent = [(0.0, datagram) for datagram in node.datagrams_to_send()]
    while (now := node.next_timer()) <= end:
        node.handle_timer(now=now)
        sent += [(now, datagram) for datagram in node.datagrams_to_send()]
    return sent


def know(node: Endpoint, address: Address) -> None:
    node.table.hear_from(node_id(address), address, tick=node.tick)


# Our requests


def test_a_request_and_its_answer_between_two_nodes() -> None:
    client, server = endpoint(), endpoint(persistent=True, own=THEIRS)
    handle = client.request(THEIRS, 3, target=TARGET, value=b"question", now=0.0)
    (datagram,) = client.datagrams_to_send()
    assert datagram.socket == CLIENT_SOCKET
    server.receive(datagram.data, sender=OURS, socket=SERVER_SOCKET, now=0.0)
    (received,) = events(server)
    assert isinstance(received, RequestReceived)
    assert (received.request.value, received.sender) == (b"question", OURS)
    server.reply(received, value=b"answer")
    (datagram,) = server.datagrams_to_send()
    client.receive(datagram.data, sender=THEIRS, socket=CLIENT_SOCKET, now=0.1)
    sampled, replied = events(client)
    assert sampled == NatSampled(OURS)
    assert isinstance(replied, ReplyReceived)
    assert (replied.handle, replied.sender, replied.reply.value) == (handle, THEIRS, b"answer")
    assert replied.reply.token is not None
    assert node_id(THEIRS) in client.table
    assert client.in_flight == 0
    again = Request(8, THEIRS, 4, target=TARGET, token=replied.reply.token)
    server.receive(encode_request(again), sender=OURS, socket=SERVER_SOCKET, now=0.2)
    assert isinstance(events(server)[0], RequestReceived)


@pytest.mark.parametrize(("retries", "fails_at"), [(3, 4.0), (QUERY_RETRIES, 6.0), (0, 1.0)])
def test_silence_is_met_with_the_same_bytes_each_second(retries: int, fails_at: float) -> None:
    node = endpoint()
    know(node, THEIRS)
    handle = node.ping(THEIRS, now=0.0, retries=retries)
    sent = run_until(node, fails_at - 0.01)
    assert [when for when, _ in sent] == [float(i) for i in range(retries + 1)]
    assert len({datagram for _, datagram in sent}) == 1
    assert events(node) == [RequestSlow(handle)][: min(retries, 1)]
    assert node_id(THEIRS) in node.table
    assert run_until(node, fails_at) == []
    assert events(node) == [RequestTimedOut(handle)]
    assert node.in_flight == 0


@pytest.mark.parametrize("proves_down", [True, False])
def test_silence_removes_a_node_only_if_everybody_would_have_answered(proves_down: bool) -> None:
    node = endpoint()
    know(node, THEIRS)
    node.request(THEIRS, 0, proves_down=proves_down, now=0.0)
    run_until(node, 5.0)
    assert (node_id(THEIRS) in node.table) is not proves_down


def test_tids_wrap_around_and_answers_find_their_request() -> None:
    node = endpoint()
    handles = [node.ping(Address("10.0.0.9", port), now=0.0) for port in (1, 2)]
    sent = node.datagrams_to_send()
    assert [decode_request(datagram.data, sender=OURS).tid for datagram in sent] == [0xFFFF, 0]
    for datagram in reversed(sent):
        reply_to(node, datagram)
    replied = [event.handle for event in events(node) if isinstance(event, ReplyReceived)]
    assert replied == handles[::-1]


def test_an_answer_counts_once_and_a_cancelled_request_has_no_outcome() -> None:
    node = endpoint()
    node.ping(THEIRS, now=0.0)
    (datagram,) = node.datagrams_to_send()
    reply_to(node, datagram)
    events(node)
    reply_to(node, datagram)
    node.cancel(node.ping(THEIRS, now=0.0))
    run_until(node, 10.0)
    assert events(node) == []
    assert node.dropped == 1


def test_what_the_window_has_no_room_for_waits_its_turn() -> None:
    node = endpoint()
    addresses = [Address("10.0.0.9", port) for port in range(1, MAX_PER_SLOT + 4)]
    for address in addresses:
        node.ping(address, now=0.0)
    sent = node.datagrams_to_send()
    assert [datagram.to for datagram in sent] == addresses[:MAX_PER_SLOT]
    node.request(THEIRS, 0, now=0.0, force=True)
    assert [datagram.to for datagram in node.datagrams_to_send()] == [THEIRS]
    reply_to(node, sent[0])
    reply_to(node, sent[1])
    assert [datagram.to for datagram in node.datagrams_to_send()] == addresses[MAX_PER_SLOT : MAX_PER_SLOT + 1]
    node.handle_timer(now=0.75)
    assert [datagram.to for datagram in node.datagrams_to_send()] == addresses[MAX_PER_SLOT + 1 :]


def test_retransmissions_respect_the_window_too() -> None:
    node = endpoint()
    for port in range(1, 1001):
        node.ping(Address("10.0.0.9", port), now=0.0)
    sent = run_until(node, 60.0)
    for start in range(57):
        assert sum(start <= when < start + 0.75 for when, _ in sent) <= 2 * MAX_PER_SLOT
        assert sum(start <= when < start + 2.25 for when, _ in sent) <= 2 * MAX_IN_ALL
    assert sum(isinstance(event, RequestTimedOut) for event in events(node)) > 100


def test_requests_do_not_pile_up_for_ever() -> None:
    node = endpoint()
    for _ in range(MAX_REQUESTS):
        node.ping(THEIRS, now=0.0)
    with pytest.raises(LocalProtocolError, match="16384"):
        node.ping(THEIRS, now=0.0)


def test_the_id_is_sent_by_persistent_nodes_from_the_server_socket_only() -> None:
    for persistent, socket, expected in ((True, 1, node_id(OURS)), (True, 0, None), (True, 2, None), (False, 1, None)):
        node = endpoint(persistent=persistent)
        node.ping(THEIRS, now=0.0, socket=socket)
        (datagram,) = node.datagrams_to_send()
        assert decode_request(datagram.data, sender=OURS).id == expected


# What is learned from answers


def test_our_address_is_sampled_once_per_node_and_once_without_an_id() -> None:
    node = endpoint()
    for _ in range(3):
        node.ping(THEIRS, now=0.0)
        (datagram,) = node.datagrams_to_send()
        reply_to(node, datagram)
    assert events(node).count(NatSampled(OURS)) == 1
    for port in (1, 2):
        node.ping(Address("10.0.0.8", port), now=0.0)
        (datagram,) = node.datagrams_to_send()
        tid = decode_request(datagram.data, sender=OURS).tid
        node.receive(encode_reply(Reply(tid, OURS)), sender=datagram.to, socket=CLIENT_SOCKET, now=0.0)
    assert events(node).count(NatSampled(OURS)) == 1
    assert (node.nat.host, node.nat.port, node.nat.size) == (*OURS, 2)


def test_an_answer_from_another_address_or_on_another_socket_is_no_sample() -> None:
    node = endpoint()
    node.ping(THEIRS, now=0.0)
    node.ping(THEIRS, now=0.0, socket=SERVER_SOCKET)
    first, second = node.datagrams_to_send()
    reply_to(node, first, sender=Address("10.0.0.3", 3))
    reply_to(node, second)
    assert node.nat.size == 0


def test_a_full_bucket_is_probed_and_the_silent_resident_replaced() -> None:
    node = endpoint()
    node.table.accepts_probes = True
    addresses = (Address("10.0.0.9", port) for port in range(1, 1000))
    far = [address for address in addresses if node.table.bucket_of(node_id(address)) == 0][:21]
    for address in far[:20]:
        know(node, address)
    node.start_tick(600)
    request = Request(1, OURS, Command.PING, internal=True, id=node_id(far[20]))
    reply, ping = answers(node, request, sender=far[20])
    assert reply.to == far[20]
    assert ping.to in far[:20]
    run_until(node, 5.0)
    assert node_id(ping.to) not in node.table
    assert node_id(far[20]) in node.table
    assert events(node) == []


# Their requests


def test_ping() -> None:
    assert answer(endpoint(), internal(Command.PING, bytes(1000))) == Reply(7, THEIRS)
    assert answer(endpoint(persistent=True), internal(Command.PING)) == Reply(7, THEIRS, id=node_id(OURS))


def test_ping_nat_goes_to_the_port_in_the_request() -> None:
    (datagram,) = answers(endpoint(), internal(Command.PING_NAT, b"\x39\x30"))
    assert datagram.to == Address(THEIRS.host, 12345)
    assert decode_reply(datagram.data, sender=OURS).tid == 7
    for value in (None, b"\x01", b"\0\0"):
        assert answers(endpoint(), internal(Command.PING_NAT, value)) == []


def test_find_node() -> None:
    node = endpoint()
    known = [Address("10.0.0.9", port) for port in range(1, 40)]
    for address in known:
        know(node, address)
    reply = answer(node, internal(Command.FIND_NODE, target=TARGET))
    assert list(reply.closer_nodes) == [known.address for known in node.table.closest(TARGET)]
    assert len(reply.closer_nodes) == 20
    assert reply.token is None
    assert answers(node, internal(Command.FIND_NODE)) == []


def test_unknown_internal_command() -> None:
    node = endpoint()
    know(node, THEIRS)
    assert answer(node, internal(99)) == Reply(7, THEIRS, error=ErrorCode.UNKNOWN_COMMAND)
    assert answer(node, internal(99, target=TARGET)).closer_nodes == (THEIRS,)


def test_a_wrong_token_is_answered_with_a_good_one() -> None:
    node = endpoint()
    reply = answer(node, Request(7, OURS, 4, token=b"x" * 32, target=TARGET))
    assert reply.error == ErrorCode.INVALID_TOKEN
    assert reply.token is not None
    assert events(node) == []
    assert answers(node, Request(8, OURS, 4, token=reply.token, target=TARGET)) == []
    assert isinstance(events(node)[0], RequestReceived)
    assert answer(node, Request(9, OURS, 4, token=reply.token), sender=Address("10.0.0.3", 1)).error


def test_the_owner_answers_external_commands() -> None:
    node = endpoint()
    know(node, THEIRS)
    received = RequestReceived(Request(7, OURS, 3, target=TARGET), THEIRS, SERVER_SOCKET)
    node.reply(received, value=b"v")
    node.reply(received, error=ErrorCode.UNKNOWN_COMMAND)
    node.reply(received, with_token=False, with_closer_nodes=False)
    full, error, bare = (decode_reply(datagram.data, sender=OURS) for datagram in node.datagrams_to_send())
    assert (full.value, full.closer_nodes, full.token is None) == (b"v", (THEIRS,), False)
    assert error == Reply(7, THEIRS, closer_nodes=(THEIRS,), error=1)
    assert bare == Reply(7, THEIRS)


def test_relayed_messages_keep_their_tid() -> None:
    node = endpoint()
    messages: list[Request | Reply] = [Request(41, THEIRS, 0, value=b"noise"), Reply(41, THEIRS, value=b"noise")]
    for message in messages:
        node.send(message, to=THEIRS, socket=SERVER_SOCKET)
    request, reply = node.datagrams_to_send()
    assert decode_request(request.data, sender=OURS) == messages[0]
    assert decode_reply(reply.data, sender=OURS) == messages[1]
    assert node.in_flight == 0


def test_a_delayed_ping_is_answered_when_it_is_due() -> None:
    node = endpoint()
    for delay in (2500, 500, 10_001):
        assert answers(node, internal(Command.DELAYED_PING, delay.to_bytes(4, "little"))) == []
    assert answers(node, internal(Command.DELAYED_PING, b"\1")) == []
    assert [when for when, _ in run_until(node, 20.0)] == [0.5, 2.5]


def test_delayed_pings_are_few() -> None:
    node = endpoint()
    for _ in range(MAX_DELAYED_PINGS + 100):
        answers(node, internal(Command.DELAYED_PING, (10_000).to_bytes(4, "little")))
    assert len(run_until(node, 20.0)) == MAX_DELAYED_PINGS


def down_hint(address: Address) -> Request:
    return internal(Command.DOWN_HINT, encode_address(address))


def test_a_node_said_to_be_down_is_asked_and_dropped_if_silent() -> None:
    node = endpoint()
    suspects = [Address("10.0.0.9", port) for port in (1, 2)]
    for suspect in suspects:
        know(node, suspect)
    pings = [answers(node, down_hint(suspect))[1] for suspect in suspects]
    assert [ping.to for ping in pings] == suspects
    reply_to(node, pings[0])
    run_until(node, 5.0)
    assert node_id(suspects[0]) in node.table
    assert node_id(suspects[1]) not in node.table
    assert events(node) == [NatSampled(OURS)]


def test_down_hints_are_always_answered_and_cost_little() -> None:
    node = endpoint()
    suspects = [Address("10.0.0.9", port) for port in range(1, 100)]
    for suspect in suspects:
        know(node, suspect)
    sent = [datagram for suspect in suspects for datagram in answers(node, down_hint(suspect))]
    assert sum(datagram.to == THEIRS for datagram in sent) == len(suspects)
    assert sum(datagram.to != THEIRS for datagram in sent) == MAX_DOWN_CHECKS
    assert len(answers(node, down_hint(Address("10.9.9.9", 9)))) == 1
    fresh = endpoint()
    know(fresh, suspects[0])
    for _ in range(MAX_DOWN_HINTS_PER_TICK):
        answers(fresh, down_hint(THEIRS))
    assert len(answers(fresh, down_hint(suspects[0]))) == 1
    fresh.start_tick(61)
    assert len(answers(fresh, down_hint(suspects[0]))) == 2
    assert len(answers(fresh, down_hint(suspects[0]))) == 1


@given(
    st.lists(
        st.tuples(st.sampled_from([b"", b"\x03", b"\x13", b"\x03\x04\0\0\x0a\0\0\1\0\1"]), st.binary(max_size=200))
    )
)
def test_any_datagrams_are_survived(datagrams: list[tuple[bytes, bytes]]) -> None:
    node = endpoint()
    node.ping(THEIRS, now=0.0)
    for first, rest in datagrams:
        node.receive(first + rest, sender=THEIRS, socket=SERVER_SOCKET, now=0.0)
    run_until(node, 12.0)
    assert node.in_flight == 0


def test_after_a_long_sleep_everything_is_caught_up_at_once() -> None:
    node = endpoint()
    for port in range(1, MAX_PER_SLOT + 3):
        node.ping(Address("10.0.0.9", port), retries=0, now=0.0)
    node.handle_timer(now=1e6)
    assert len(node.datagrams_to_send()) == MAX_PER_SLOT + 2
    assert node.next_timer() == 1e6 + 1


def test_an_idle_endpoint_needs_no_timer() -> None:
    node = endpoint()
    assert node.next_timer() == inf
    answer(node, internal(Command.FIND_NODE, target=TARGET))
    node.ping(THEIRS, now=3.0)
    (sent,) = node.datagrams_to_send()[-1:]
    assert node.next_timer() == 4.0
    reply_to(node, sent, now=3.1)
    assert node.next_timer() == inf


def test_an_answer_from_elsewhere_does_not_save_a_node_said_to_be_down() -> None:
    node = endpoint()
    suspect = Address("10.0.0.9", 1)
    know(node, suspect)
    _, ping = answers(node, down_hint(suspect))
    reply_to(node, ping, sender=Address("10.0.0.9", 2))
    assert node_id(suspect) not in node.table


def test_tokens_are_rotated_with_the_drain_steps() -> None:
    node = endpoint()
    token = answer(node, Request(7, OURS, 4, token=b"x" * 32)).token
    assert answers(node, Request(8, OURS, 4, token=token), now=14.9) == []
    assert answer(node, Request(9, OURS, 4, token=token), now=15.1).error == ErrorCode.INVALID_TOKEN


def test_a_new_request_does_not_overtake_those_that_wait() -> None:
    node = endpoint()
    handles = [node.ping(Address("10.0.0.9", port), now=0.0) for port in range(1, MAX_PER_SLOT + 2)]
    node.datagrams_to_send()
    node.cancel(handles[0])
    node.ping(THEIRS, now=0.0)
    assert node.datagrams_to_send() == []
    node.handle_timer(now=0.75)
    assert [datagram.to for datagram in node.datagrams_to_send()] == [Address("10.0.0.9", MAX_PER_SLOT + 1), THEIRS]


def test_a_request_that_never_left_gives_nothing_back() -> None:
    node = endpoint()
    handles = [node.ping(THEIRS, now=0.0) for _ in range(MAX_PER_SLOT + 10)]
    node.datagrams_to_send()
    node.cancel(handles[-1])
    node.receive(b"\x13\x00", sender=THEIRS, socket=CLIENT_SOCKET, now=0.0)
    node.handle_timer(now=0.5)
    assert node.datagrams_to_send() == []


def test_nodes_without_id_are_believed_once_each_and_only_so_many() -> None:
    node = endpoint()
    node.bootstrap_count = 2
    nodes = [Address(f"10.0.0.{number}", 1) for number in (5, 5, 6, 7)]
    for address in nodes:
        node.ping(address, now=0.0)
    for datagram in node.datagrams_to_send():
        tid = decode_request(datagram.data, sender=OURS).tid
        node.receive(encode_reply(Reply(tid, OURS)), sender=datagram.to, socket=CLIENT_SOCKET, now=0.0)
    assert node.nat.size == 2
    node.learn_address_again(NatSampler())
    assert (node.nat.size, node.nat.host) == (0, None)
    node.ping(nodes[0], now=0.0)
    (datagram,) = node.datagrams_to_send()
    tid = decode_request(datagram.data, sender=OURS).tid
    node.receive(encode_reply(Reply(tid, OURS)), sender=datagram.to, socket=CLIENT_SOCKET, now=0.0)
    assert node.nat.size == 1


def test_a_suspended_endpoint_ends_its_requests_and_keeps_new_ones() -> None:
    node = endpoint()
    know(node, THEIRS)
    handle = node.ping(THEIRS, now=0.0)
    know(node, Address("10.0.0.9", 1))
    answers(node, down_hint(Address("10.0.0.9", 1)))
    node.suspend()
    assert events(node) == [RequestTimedOut(handle)]
    assert (node.datagrams_to_send(), node.in_flight, len(node.table)) == ([], 0, 2)
    node.request(THEIRS, 3, force=True, now=5.0)
    assert node.datagrams_to_send() == []
    assert node.next_timer() == inf
    node.resume(now=50.0)
    assert [datagram.to for datagram in node.datagrams_to_send()] == [THEIRS]
    assert node.next_timer() == 51.0


def test_nothing_promised_before_the_sockets_closed_is_sent_from_the_new_ones() -> None:
    node = endpoint()
    answers(node, internal(Command.DELAYED_PING, (2000).to_bytes(4, "little")))
    node.suspend()
    node.resume(now=1.0)
    assert run_until(node, 5.0) == []


def test_checks_that_were_suspended_make_room_for_others() -> None:
    node = endpoint()
    suspects = [Address("10.0.0.9", port) for port in range(1, MAX_DOWN_CHECKS + 2)]
    for suspect in suspects:
        know(node, suspect)
        answers(node, down_hint(suspect))
    node.suspend()
    node.resume(now=1.0)
    node.start_tick(61)
    assert [datagram.to for datagram in answers(node, down_hint(suspects[-1]), now=1.0)] == [THEIRS, suspects[-1]]


def test_the_window_of_a_minute_ago_stops_nobody() -> None:
    node = endpoint()
    for port in range(1, MAX_PER_SLOT + 1):
        node.request(Address("10.0.0.9", port), 0, timeout_s=100, now=0.0)
    node.datagrams_to_send()
    node.ping(THEIRS, now=60.0)
    assert [datagram.to for datagram in node.datagrams_to_send()] == [THEIRS]
