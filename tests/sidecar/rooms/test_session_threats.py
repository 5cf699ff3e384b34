"""What a hostile peer can try on a room channel, and every (state, input) pair."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperdht.errors import LocalProtocolError
from sidecar.catalogue.limits import CATALOGUE_BURST
from sidecar.rooms import messages as m
from sidecar.rooms import session_events as events
from sidecar.rooms.catalogue_sync import START
from sidecar.rooms.key import RoomKey, general_room_key
from sidecar.rooms.ledger import MAX_REQUESTS, MAX_TABLE_REQUESTS
from sidecar.rooms.session import RoomSession, State
from sidecar.rooms.session_core import MAX_VIOLATIONS
from tests.sidecar.catalogue.made import entry
from tests.sidecar.rooms.conversation import (
    ALICE_KEY,
    BOB_KEY,
    DIGEST,
    HASH,
    KEY,
    Pair,
    drain,
    say,
    say_raw,
    session,
    types,
)
from tests.sidecar.rooms.test_session import run_every_verb

if TYPE_CHECKING:
    from collections.abc import Callable

EPOCH = b"e" * 16
ID = b"i" * 16


def raw_entry(**fields: object) -> m.RawStatement:
    signed = entry(**fields)  # type: ignore[arg-type]
    return m.RawStatement(signed.kind, signed.publisher, signed.signature, signed.raw)


def violated(happened: list[events.SessionEvent]) -> bool:
    return bool(happened) and isinstance(happened[-1], events.ProtocolViolation)


# T12: getting in without the code


def refused(handshake: bytes, *, is_initiator: bool = True) -> RoomSession:
    machine = session(is_initiator=is_initiator)
    machine.opened(handshake, 0.0)
    assert drain(machine) == [events.ProofFailed()]
    assert machine.state is State.CLOSED
    assert machine.messages_to_send(0.0) == [], "closed without a word"
    return machine


@pytest.mark.parametrize("is_initiator", [True, False])
def test_t12_reflected_proof_is_refused(is_initiator: bool) -> None:
    refused(session(is_initiator=is_initiator).open_handshake(), is_initiator=is_initiator)


def test_t12_proof_relayed_from_another_connection_is_refused() -> None:
    elsewhere = session(is_initiator=False, handshake_hash=bytes(64))
    refused(elsewhere.open_handshake())


def test_t12_proof_of_a_member_passed_on_by_somebody_else_is_refused() -> None:
    # Mallory sits between two members: each link has her own key on the other end.
    to_mallory = RoomSession(
        KEY, is_initiator=False, handshake_hash=HASH, public_key=BOB_KEY, remote_public_key=b"M" * 32
    )
    refused(to_mallory.open_handshake())


def test_t12_who_knows_the_topic_but_not_the_code_is_refused() -> None:
    for guess in (KEY.topic, KEY.room_id * 2, general_room_key().secret, bytes(32)):
        refused(session(is_initiator=False, key=RoomKey(guess)).open_handshake())
        assert RoomKey(guess).channel_id(HASH) != KEY.channel_id(HASH), "it cannot even name the channel"


def test_t12_every_bit_of_the_proof_counts() -> None:
    good = session(is_initiator=False).open_handshake()
    for bit in range(8, 8 + 256):
        changed = bytearray(good)
        changed[bit // 8] ^= 1 << bit % 8
        refused(bytes(changed))


@pytest.mark.parametrize("handshake", [b"", b"\x01", b"\x01" + bytes(31), b"\xfd\x01", b"\x01" + bytes(32)])
def test_t12_handshake_that_does_not_decode_is_a_failed_proof(handshake: bytes) -> None:
    refused(handshake)


def test_t12_nothing_is_said_or_heard_before_the_proof() -> None:
    machine = session(is_initiator=True)
    assert machine.messages_to_send(0.0) == []
    with pytest.raises(LocalProtocolError, match="before the peer has proved"):
        machine.ask_since()
    assert violated(say(machine, m.QueryBlob(DIGEST)))
    assert types(machine) == [m.MessageType.GOODBYE]


def test_t12_replayed_handshake_of_an_old_connection_is_refused() -> None:
    recorded = session(is_initiator=False).open_handshake()
    fresh = session(is_initiator=True, handshake_hash=bytes(reversed(HASH)))
    fresh.opened(recorded, 0.0)
    assert drain(fresh) == [events.ProofFailed()]


def test_unknown_version_is_answered_with_a_reason() -> None:
    machine = session(is_initiator=True)
    machine.opened(b"\x02" + b"who knows", 0.0)
    assert drain(machine) == [events.VersionUnsupported(2)]
    assert machine.messages_to_send(0.0) == [(m.MessageType.GOODBYE, bytes([m.GoodbyeReason.VERSION]))]


def test_unknown_flags_and_later_fields_are_ignored() -> None:
    machine = session(is_initiator=True)
    handshake = session(is_initiator=False).open_handshake()
    machine.opened(handshake[:-1] + b"\xfc" + b"later fields", 0.0)
    assert drain(machine) == [events.MembershipProved()]


# T6: unasked-for and lying data

UNASKED: dict[str, Callable[[Pair], list[events.SessionEvent]]] = {
    "chunk of no request": lambda p: say_raw(p.alice, 9, m.encode_chunks(77, 0, b"x")),
    "table of no request": lambda p: say(p.alice, m.Table(DIGEST, 0, bytes(32))),
    "holdings of no query": lambda p: say(p.alice, m.Holdings(DIGEST, 1, m.HoldingState.COMPLETE)),
    "offers of no question": lambda p: say(p.alice, m.Offers(EPOCH, 1, False, True, ())),
    "push before the answer": lambda p: say(p.alice, m.Offers(EPOCH, 1, False, False, ())),
    "refusal of no request": lambda p: say(
        p.alice, m.Refuse(m.RefuseSubject.CHUNKS, m.RefuseReason.BUSY, request_id=7)
    ),
    "refusal of no table": lambda p: say(p.alice, m.Refuse(m.RefuseSubject.TABLE, m.RefuseReason.BUSY, digest=DIGEST)),
    "refusal of no entry": lambda p: say(p.alice, m.Refuse(m.RefuseSubject.ENTRY, m.RefuseReason.BUSY, short_id=ID)),
}


@pytest.mark.parametrize("what", UNASKED)
def test_t06_unasked_messages_are_dropped_counted_and_in_the_end_fatal(what: str) -> None:
    pair = Pair()
    for count in range(1, MAX_VIOLATIONS):
        assert UNASKED[what](pair) == []
        assert pair.alice.violations == count
    assert violated(UNASKED[what](pair))
    assert types(pair.alice) == [m.MessageType.GOODBYE]


def test_t06_chunks_out_of_order_repeated_or_past_the_end_are_dropped() -> None:
    pair = Pair()
    request_id = pair.alice.request_chunks(DIGEST, 10, 2)
    for index in (9, 11, 12, 2**32 - 1):
        assert say_raw(pair.alice, 9, m.encode_chunks(request_id, index, b"x")) == []
    assert len(say_raw(pair.alice, 9, m.encode_chunks(request_id, 10, b"x"))) == 1
    assert say_raw(pair.alice, 9, m.encode_chunks(request_id, 10, b"x")) == []
    assert len(say_raw(pair.alice, 9, m.encode_chunks(request_id, 11, b"x"))) == 1
    assert say_raw(pair.alice, 9, m.encode_chunks(request_id, 12, b"x")) == []
    assert pair.alice.violations == 6


def test_t06_a_run_that_goes_past_the_end_of_its_request_is_dropped() -> None:
    pair = Pair()
    request_id = pair.alice.request_chunks(DIGEST, 10, 2)
    assert say_raw(pair.alice, 9, m.encode_chunks(request_id, 10, bytes(2 * 65_536 + 1))) == []
    assert say_raw(pair.alice, 9, m.encode_chunks(request_id, 9, bytes(3 * 65_536))) == []
    assert pair.alice.violations == 2
    assert len(say_raw(pair.alice, 9, m.encode_chunks(request_id, 10, bytes(2 * 65_536)))) == 1
    assert pair.alice.free_requests == MAX_REQUESTS


@pytest.mark.parametrize(
    "lie",
    [
        m.Holdings(DIGEST, 2**21, m.HoldingState.COMPLETE),
        m.Holdings(DIGEST, 9, m.HoldingState.COMPLETE),
        m.Holdings(DIGEST, 64, m.HoldingState.PARTIAL, 0, b"\xff"),
    ],
)
def test_t06_lying_chunk_count_is_dropped(lie: m.Holdings) -> None:
    pair = Pair()
    pair.alice.query_blob(DIGEST, 10)
    assert say(pair.alice, lie) == []
    assert pair.alice.violations == 1


def test_t06_table_page_of_another_length_or_place_is_dropped() -> None:
    pair = Pair()
    pair.alice.request_table(DIGEST, 3)
    for page in (m.Table(DIGEST, 0, bytes(64)), m.Table(DIGEST, 1, bytes(64)), m.Table(DIGEST, 0, bytes(128))):
        assert say(pair.alice, page) == []
    assert say(pair.alice, m.Table(DIGEST, 0, bytes(96))) == [events.TableReceived(DIGEST, 0, bytes(96))]
    assert say(pair.alice, m.Table(DIGEST, 0, bytes(96))) == []
    assert pair.alice.violations == 4


@pytest.mark.parametrize("size", [0, 14, 14 + 3 * 65_536 + 1])
def test_t06_chunk_of_impossible_size_closes(size: int) -> None:
    assert violated(say_raw(Pair().alice, m.MessageType.CHUNKS, bytes(size)))


def test_t06_oversized_message_closes() -> None:
    for message_type in (m.MessageType.ENTRIES, m.MessageType.TABLE, 99):
        assert violated(say_raw(Pair().alice, message_type, bytes(m.MAX_BODY_BYTES + 1)))


# T20: floods


def test_t20_catalogue_flood_closes_the_channel() -> None:
    pair = Pair()
    for number in range(int(CATALOGUE_BURST)):
        assert not violated(say(pair.alice, m.QueryBlob(number.to_bytes(32, "big"))))
    assert violated(say(pair.alice, m.QueryBlob(DIGEST)))


def test_t20_unknown_types_are_ignored_but_not_free() -> None:
    pair = Pair()
    for _ in range(int(CATALOGUE_BURST)):
        assert say_raw(pair.alice, 200, b"from the future") == []
    assert violated(say_raw(pair.alice, 200, b""))


def test_t20_pushed_entries_cost_more_than_wanted_ones() -> None:
    statements = tuple(raw_entry(name=f"n{number}") for number in range(200))
    pushed = Pair()
    assert not violated(say(pushed.alice, m.Entries(statements)))
    assert not violated(say(pushed.alice, m.Entries(statements)))
    assert violated(say(pushed.alice, m.Entries(statements)))
    wanted = Pair()
    for _ in range(3):
        wanted.alice.want(s.short_id for s in statements)
        assert not violated(say(wanted.alice, m.Entries(statements)))


@pytest.mark.parametrize(
    "flood",
    [
        lambda n: m.RequestChunks(n, DIGEST, 0, 256),
        lambda n: m.RequestTable(DIGEST, n, 1),
        lambda n: m.Want((n.to_bytes(16, "big"),)),
    ],
)
def test_t20_more_in_flight_than_allowed_closes(flood: Callable[[int], m.Message]) -> None:
    pair = Pair()
    most = {m.RequestChunks: MAX_REQUESTS, m.RequestTable: MAX_TABLE_REQUESTS, m.Want: m.MAX_WANTED}[type(flood(0))]
    for number in range(most):
        assert not violated(say(pair.alice, flood(number)))
    assert violated(say(pair.alice, flood(most)))


@pytest.mark.parametrize("twice", [m.RequestChunks(5, DIGEST, 0, 1), m.RequestTable(DIGEST, 0, 1), m.Want((ID,))])
def test_t20_the_same_request_twice_closes(twice: m.Message) -> None:
    pair = Pair()
    assert not violated(say(pair.alice, twice))
    assert violated(say(pair.alice, twice))


def test_t20_one_question_at_a_time() -> None:
    pair = Pair()
    assert say(pair.alice, m.Since(*START)) == [events.ChangesAsked(*START)]
    assert say(pair.alice, m.Since(*START)) == []
    assert pair.alice.violations == 1


def test_t16_entries_are_handed_on_as_they_came() -> None:
    nonsense = m.RawStatement(250, bytes(32), bytes(64), b"\xff not json")
    assert say(Pair().alice, m.Entries((nonsense,))) == [events.EntriesReceived((nonsense,))]


# Every state and input

INPUTS: dict[str, m.Message] = {
    "since": m.Since(*START),
    "offers": m.Offers(EPOCH, 1, False, True, ()),
    "want": m.Want((ID,)),
    "entries": m.Entries((raw_entry(),)),
    "query_blob": m.QueryBlob(DIGEST),
    "holdings": m.Holdings(DIGEST, 1, m.HoldingState.COMPLETE),
    "request_table": m.RequestTable(DIGEST, 0, 1),
    "table": m.Table(DIGEST, 0, bytes(32)),
    "request_chunks": m.RequestChunks(1, DIGEST, 0, 1),
    "cancel": m.Cancel(1),
    "refuse": m.Refuse(m.RefuseSubject.CHUNKS, m.RefuseReason.BUSY, request_id=1),
    "peers": m.Peers(None, False, ()),
    "goodbye": m.Goodbye(m.GoodbyeReason.OTHER),
}
ACCEPTED: dict[str, type | None] = {
    "since": events.ChangesAsked,
    "offers": events.OffersReceived,
    "want": events.EntriesWanted,
    "entries": events.EntriesReceived,
    "query_blob": events.BlobQueried,
    "holdings": events.HoldingsReceived,
    "request_table": events.TableRequested,
    "table": events.TableReceived,
    "request_chunks": events.ChunksRequested,
    "cancel": None,
    "refuse": events.RequestRefused,
    "peers": events.PeersReceived,
    "goodbye": events.PeerSaidGoodbye,
}


def asking(pair: Pair) -> RoomSession:
    """Alice, with one of everything asked for."""
    pair.alice.ask_since()
    pair.alice.query_blob(DIGEST, 1)
    pair.alice.request_table(DIGEST, 1)
    assert pair.alice.request_chunks(DIGEST, 0, 1) == 1
    return pair.alice


@pytest.mark.parametrize("name", INPUTS)
def test_every_input_when_opening_is_a_violation(name: str) -> None:
    machine = session(is_initiator=True)
    assert violated(say(machine, INPUTS[name]))
    assert machine.state is State.CLOSED


@pytest.mark.parametrize("name", INPUTS)
def test_every_input_when_open_is_an_event(name: str) -> None:
    machine = asking(Pair())
    expected = ACCEPTED[name]
    assert [type(event) for event in say(machine, INPUTS[name])] == ([] if expected is None else [expected])
    assert machine.state is (State.CLOSED if name == "goodbye" else State.OPEN)
    assert machine.violations == 0


@pytest.mark.parametrize("name", INPUTS)
def test_every_input_when_closed_is_ignored(name: str) -> None:
    machine = asking(Pair())
    machine.closed()
    assert say(machine, INPUTS[name]) == []
    assert machine.messages_to_send(0.0) == []


def test_every_input_has_its_expectation() -> None:
    assert {message.TYPE for message in INPUTS.values()} | {m.MessageType.CHUNKS} == set(m.MessageType)
    assert INPUTS.keys() == ACCEPTED.keys()


def test_every_verb_works_when_open() -> None:
    pair = Pair()
    say(pair.bob, m.Since(*START))
    run_every_verb(pair, expect_silence=False)


@given(st.lists(st.tuples(st.integers(0, 16), st.binary(max_size=120)), max_size=30))
def test_any_bytes_at_all_give_events_and_never_an_exception(inputs: list[tuple[int, bytes]]) -> None:
    machine = asking(Pair())
    for message_type, body in inputs:
        machine.receive(message_type, memoryview(body), 0.0)
    drain(machine)
    machine.messages_to_send(0.0)


@given(st.lists(st.tuples(st.sampled_from(sorted(INPUTS)), st.floats(0, 10)), max_size=60))
def test_any_order_of_valid_messages_gives_events_and_never_an_exception(inputs: list[tuple[str, float]]) -> None:
    machine = asking(Pair())
    for name, now in inputs:
        say(machine, INPUTS[name], now)
        assert machine.violations <= MAX_VIOLATIONS


@given(st.binary(max_size=200))
def test_any_handshake_is_proved_failed_or_another_version(handshake: bytes) -> None:
    machine = session(is_initiator=True)
    machine.opened(handshake, 0.0)
    (event,) = drain(machine)
    assert isinstance(event, events.ProofFailed | events.VersionUnsupported)


def test_nothing_secret_is_in_a_repr() -> None:
    machine = session(is_initiator=True)
    for shown in (repr(machine), repr(m.OpenHandshake.decode(machine.open_handshake()))):
        assert KEY.secret.hex() not in shown
        assert "proof=" not in shown
    assert ALICE_KEY != BOB_KEY
