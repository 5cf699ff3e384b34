"""Conversations between two sessions, as docs/protocol/room.md has them."""

from __future__ import annotations

import random

import pytest

from hyperdht.errors import ConnectionClosed, LocalProtocolError
from sidecar.rooms import messages as m
from sidecar.rooms import session_events as events
from sidecar.rooms.catalogue_sync import START
from sidecar.rooms.ledger import MAX_REQUESTS, MAX_TABLE_REQUESTS
from sidecar.rooms.session import State
from sidecar.rooms.session_blobs import MAX_SUBSCRIBED
from sidecar.transfer.chunks import ChunkSet
from tests.sidecar.catalogue.made import entry, withdrawal
from tests.sidecar.rooms.conversation import DIGEST, Pair, drain, say, session, types, whole

EPOCH = b"e" * 16


def offer(number: int, *, held: bool = False) -> m.Offer:
    return m.Offer(number.to_bytes(16, "big"), held)


def offers(first: int, count: int) -> list[m.Offer]:
    return [offer(number) for number in range(first, first + count)]


@pytest.fixture
def pair() -> Pair:
    return Pair()


# Catalogue


def test_a_newcomer_gets_everything_page_by_page(pair: Pair) -> None:
    pair.alice.ask_since()
    assert pair.deliver(pair.alice) == [events.ChangesAsked(*START)]
    pair.bob.answer_since(EPOCH, 1024, offers(0, 1024), more=True)
    assert pair.deliver(pair.bob) == [events.OffersReceived(tuple(offers(0, 1024)), True)]
    assert pair.deliver(pair.alice) == [events.ChangesAsked(EPOCH, 1024)]
    pair.bob.answer_since(EPOCH, 1030, offers(1024, 6), more=False)
    assert pair.deliver(pair.bob) == [events.OffersReceived(tuple(offers(1024, 6)), False)]
    assert pair.deliver(pair.alice) == []
    assert pair.alice.position == (EPOCH, 1030)
    assert pair.bob.pushes


def test_changes_are_pushed_only_to_who_has_caught_up(pair: Pair) -> None:
    assert not pair.bob.offer(EPOCH, 1, offers(0, 1))
    pair.alice.ask_since((EPOCH, 7))
    assert pair.deliver(pair.alice) == [events.ChangesAsked(EPOCH, 7)]
    assert not pair.bob.offer(EPOCH, 8, offers(0, 1))
    pair.bob.answer_since(EPOCH, 8, offers(0, 1), more=False)
    assert pair.bob.offer(EPOCH, 9, [offer(1, held=True)])
    told = pair.deliver(pair.bob)
    assert told == [
        events.OffersReceived((offer(0),), False),
        events.OffersReceived((offer(1, held=True),), False),
    ]
    assert pair.alice.position == (EPOCH, 9)


def test_entries_are_wanted_once_and_come(pair: Pair) -> None:
    signed, taken_back = entry(), withdrawal(name="other")
    pair.alice.want([signed.short_id, taken_back.short_id, signed.short_id])
    pair.alice.want([signed.short_id])
    assert pair.deliver(pair.alice) == [events.EntriesWanted((signed.short_id, taken_back.short_id))]
    pair.bob.send_entries([signed, taken_back])
    (received,) = pair.deliver(pair.bob)
    assert isinstance(received, events.EntriesReceived)
    assert [(s.kind, s.raw, s.publisher, s.signature) for s in received.statements] == [
        (s.kind, s.raw, s.publisher, s.signature) for s in (signed, taken_back)
    ]


def test_wants_go_in_portions_of_what_may_be_unanswered(pair: Pair) -> None:
    ids = [number.to_bytes(16, "big") for number in range(600)]
    pair.alice.want(ids)
    (first,) = pair.deliver(pair.alice)
    assert first == events.EntriesWanted(tuple(ids[: m.MAX_WANTED]))
    pair.bob.refuse_entries(ids[:127])
    assert pair.deliver(pair.bob) == [events.EntriesRefused(short_id) for short_id in ids[:127]]
    assert pair.deliver(pair.alice) == [], "one question for many, not one for each answer"
    pair.bob.refuse_entries(ids[127:256])
    pair.deliver(pair.bob)
    assert pair.deliver(pair.alice) == [
        events.EntriesWanted(tuple(ids[256:384])),
        events.EntriesWanted(tuple(ids[384:512])),
    ]


def test_entries_fill_frames_and_no_more(pair: Pair) -> None:
    statements = [entry(name=f"n{number}", card="x" * 20_000) for number in range(40)]
    pair.alice.want(s.short_id for s in statements)
    pair.deliver(pair.alice)
    pair.bob.send_entries(statements)
    out = pair.bob.messages_to_send(0.0)
    assert 3 <= len(out) <= 5
    assert all(len(body) <= m.MAX_BODY_BYTES for _, body in out)


def test_position_waits_for_what_is_wanted(pair: Pair) -> None:
    signed = entry()
    pair.alice.ask_since()
    pair.deliver(pair.alice)
    pair.bob.answer_since(EPOCH, 5, [m.Offer(signed.short_id, True)], more=False)
    pair.deliver(pair.bob)
    pair.alice.want([signed.short_id])
    assert pair.alice.position == START, "a reconnect now must hear of the entry again"
    pair.deliver(pair.alice)
    pair.bob.send_entries([signed])
    pair.deliver(pair.bob)
    assert pair.alice.position == (EPOCH, 5)


def test_a_new_entry_of_our_own_needs_no_round_trip(pair: Pair) -> None:
    pair.alice.ask_since()
    pair.deliver(pair.alice)
    pair.bob.answer_since(EPOCH, 0, [], more=False)
    pair.deliver(pair.bob)
    signed = entry()
    pair.bob.send_entries([signed])
    pair.bob.offer(EPOCH, 1, [m.Offer(signed.short_id, True)])
    heard = pair.deliver(pair.bob)
    assert [type(event) for event in heard] == [events.EntriesReceived, events.OffersReceived]


# Blobs


def test_holdings_are_told_at_once_and_as_they_grow(pair: Pair) -> None:
    pair.alice.query_blob(DIGEST, 20)
    assert pair.deliver(pair.alice) == [events.BlobQueried(DIGEST)]
    held = ChunkSet(20)
    assert pair.bob.tell_blob(DIGEST, None)
    (told,) = pair.deliver(pair.bob)
    assert isinstance(told, events.HoldingsReceived)
    assert (told.chunks.total, told.chunks.count) == (20, 0)
    for first, count in ((3, 7), (10, 1), (0, 3), (11, 9)):
        held.add_range(first, count)
        assert pair.bob.tell_blob(DIGEST, held)
        (told,) = pair.deliver(pair.bob)
        assert isinstance(told, events.HoldingsReceived)
        assert told.chunks.to_bytes() == held.to_bytes()
    assert told.chunks.complete
    pair.bob.tell_blob(DIGEST, None)
    (told,) = pair.deliver(pair.bob)
    assert isinstance(told, events.HoldingsReceived)
    assert told.chunks.count == 0


def test_holdings_of_a_very_large_blob_come_in_parts(pair: Pair) -> None:
    count = 2**21 - 3
    held = ChunkSet(count)
    held.add_range(5, count - 5)
    pair.alice.query_blob(DIGEST, count)
    pair.deliver(pair.alice)
    pair.bob.tell_blob(DIGEST, held)
    told = pair.deliver(pair.bob)
    assert len(told) == 2
    assert isinstance(told[-1], events.HoldingsReceived)
    assert told[-1].chunks.to_bytes() == held.to_bytes()


def test_who_did_not_ask_is_not_told(pair: Pair) -> None:
    assert not pair.bob.tell_blob(DIGEST, ChunkSet.full(3))
    assert types(pair.bob) == []


def test_t20_the_latest_64_blobs_stay_subscribed(pair: Pair) -> None:
    digests = [bytes([number]) * 32 for number in range(MAX_SUBSCRIBED + 1)]
    for digest in digests:
        pair.alice.query_blob(digest, 1)
    pair.deliver(pair.alice)
    assert not pair.bob.tell_blob(digests[0], ChunkSet.full(1))
    assert all(pair.bob.tell_blob(digest, ChunkSet.full(1)) for digest in digests[1:])


def test_table_comes_in_pages_within_the_window(pair: Pair) -> None:
    count = m.MAX_TABLE_PAGE * (MAX_TABLE_REQUESTS + 2) + 1
    table = random.Random(1).randbytes(count * 32)
    pair.alice.request_table(DIGEST, count)
    pair.alice.request_table(DIGEST, count)
    got = bytearray(len(table))
    at_once = 0
    while asked := pair.deliver(pair.alice):
        at_once = max(at_once, len(asked))
        for page in asked:
            assert isinstance(page, events.TableRequested)
            assert pair.bob.send_table(page.digest, page.first, table[page.first * 32 :][: page.count * 32])
            assert not pair.bob.send_table(page.digest, page.first, table[page.first * 32 :][: page.count * 32])
        for received in pair.deliver(pair.bob):
            assert isinstance(received, events.TableReceived)
            got[received.first * 32 : received.first * 32 + len(received.hashes)] = received.hashes
    assert bytes(got) == table
    assert at_once == MAX_TABLE_REQUESTS


def test_refused_table_asks_for_no_more_of_it(pair: Pair) -> None:
    pair.alice.request_table(DIGEST, m.MAX_TABLE_PAGE * 20)
    for page in pair.deliver(pair.alice):
        assert isinstance(page, events.TableRequested)
        assert pair.bob.refuse_table(page.digest, page.first, m.RefuseReason.NOT_HERE)
        assert not pair.bob.refuse_table(page.digest, page.first, m.RefuseReason.NOT_HERE)
    refused = pair.deliver(pair.bob)
    assert refused == [events.TableRefused(DIGEST, m.RefuseReason.NOT_HERE)] * MAX_TABLE_REQUESTS
    assert pair.deliver(pair.alice) == []
    assert pair.alice.violations == 0


def test_chunks_come_in_order(pair: Pair) -> None:
    request_id = pair.alice.request_chunks(DIGEST, 10, 3)
    assert pair.deliver(pair.alice) == [events.ChunksRequested(request_id, DIGEST, 10, 3)]
    assert pair.alice.free_requests == MAX_REQUESTS - 1
    for index in (10, 11, 12):
        assert pair.bob.send_chunks(request_id, index, bytes([index]) * 65_536)
    received = pair.deliver(pair.bob)
    assert [(e.request_id, e.first, bytes(e.data[:1])) for e in received] == [  # type: ignore[union-attr]
        (request_id, index, bytes([index])) for index in (10, 11, 12)
    ]
    assert pair.alice.free_requests == MAX_REQUESTS
    assert not pair.bob.send_chunks(request_id, 13, b"x")


def test_up_to_three_chunks_come_in_one_message(pair: Pair) -> None:
    request_id = pair.alice.request_chunks(DIGEST, 10, 6)
    pair.deliver(pair.alice)
    runs = [(10, bytes(3 * 65_536)), (13, bytes(2 * 65_536)), (15, b"the last of the blob")]
    for first, data in runs:
        assert pair.bob.send_chunks(request_id, first, data)
    assert [(e.first, bytes(e.data)) for e in pair.deliver(pair.bob)] == runs  # type: ignore[union-attr]
    assert pair.alice.free_requests == MAX_REQUESTS
    assert not pair.bob.send_chunks(request_id, 16, b"x")


def test_refusal_ends_a_request_between_two_chunks(pair: Pair) -> None:
    request_id = pair.alice.request_chunks(DIGEST, 0, 5)
    pair.deliver(pair.alice)
    pair.bob.send_chunks(request_id, 0, b"x")
    assert pair.bob.refuse_chunks(request_id, m.RefuseReason.DAMAGED)
    assert not pair.bob.refuse_chunks(request_id, m.RefuseReason.DAMAGED)
    assert pair.deliver(pair.bob)[1:] == [events.RequestRefused(request_id, m.RefuseReason.DAMAGED)]
    assert pair.alice.free_requests == MAX_REQUESTS


def test_cancel_drops_what_is_on_its_way_and_both_sides_agree(pair: Pair) -> None:
    request_id = pair.alice.request_chunks(DIGEST, 0, 5)
    pair.deliver(pair.alice)
    pair.bob.send_chunks(request_id, 0, b"x")
    pair.bob.send_chunks(request_id, 1, b"x")
    pair.alice.cancel(request_id)
    pair.alice.cancel(request_id)
    assert pair.alice.free_requests == MAX_REQUESTS - 1, "it counts until the peer has answered"
    assert pair.deliver(pair.alice) == [events.RequestCancelled(request_id)]
    assert not pair.bob.send_chunks(request_id, 2, b"x")
    assert pair.deliver(pair.bob) == []
    assert pair.alice.free_requests == MAX_REQUESTS
    assert pair.alice.violations == pair.bob.violations == 0


def test_cancel_that_crosses_the_last_chunk_is_ignored(pair: Pair) -> None:
    request_id = pair.alice.request_chunks(DIGEST, 0, 1)
    pair.deliver(pair.alice)
    pair.bob.send_chunks(request_id, 0, b"x")
    pair.alice.cancel(request_id)
    assert pair.deliver(pair.alice) == []
    assert pair.deliver(pair.bob) == []
    assert pair.alice.free_requests == MAX_REQUESTS
    assert types(pair.bob) == []


def test_any_order_of_requests_chunks_cancels_and_refusals_keeps_both_sides_agreed() -> None:
    chance = random.Random(6)
    pair = Pair()
    open_here: set[int] = set()
    there: dict[int, list[int]] = {}
    for _ in range(4_000):
        match chance.randrange(6):
            case 0 if pair.alice.free_requests:
                open_here.add(pair.alice.request_chunks(DIGEST, chance.randrange(100), chance.randint(1, 5)))
            case 1 if open_here:
                pair.alice.cancel(chance.choice(sorted(open_here)))
            case 2 | 3 if there:
                request_id = chance.choice(sorted(there))
                index, end = there[request_id]
                if not pair.bob.send_chunks(request_id, index, b"x") or index + 1 == end:
                    del there[request_id]
                else:
                    there[request_id][0] += 1
            case 4 if there:
                request_id = chance.choice(sorted(there))
                pair.bob.refuse_chunks(request_id, m.RefuseReason.BUSY)
                del there[request_id]
            case 5:
                pair.now += 1.0
                for event in pair.deliver(chance.choice([pair.alice, pair.bob])):
                    if isinstance(event, events.ChunksRequested):
                        there[event.request_id] = [event.first, event.first + event.count]
                    assert not isinstance(event, events.ProtocolViolation)
    assert pair.alice.violations == pair.bob.violations == 0


# Peers, goodbye, the end


def test_members_tell_of_members(pair: Pair) -> None:
    hints = (m.PeerHint(b"C" * 32, is_random=True), m.PeerHint(b"D" * 32))
    pair.alice.share_peers(hints, relay=b"R" * 32, is_random=True)
    pair.alice.share_peers(())
    assert pair.deliver(pair.alice) == [
        events.PeersReceived(b"R" * 32, True, hints),
        events.PeersReceived(None, False, ()),
    ]


def test_goodbye_is_the_last_word(pair: Pair) -> None:
    pair.alice.query_blob(DIGEST, 1)
    pair.alice.goodbye(m.GoodbyeReason.LEFT_ROOM)
    pair.alice.goodbye(m.GoodbyeReason.SHUTTING_DOWN)
    assert pair.deliver(pair.alice) == [events.PeerSaidGoodbye(m.GoodbyeReason.LEFT_ROOM)]
    assert pair.alice.state is pair.bob.state is State.CLOSED
    assert types(pair.alice) == []


def test_after_the_end_verbs_do_nothing(pair: Pair) -> None:
    pair.bob.closed()
    run_every_verb(pair, expect_silence=True)
    assert pair.bob.messages_to_send(1e9) == []
    assert pair.bob.next_timer() is None
    assert pair.bob.free_requests == 0
    with pytest.raises(ConnectionClosed):
        pair.bob.request_chunks(DIGEST, 0, 1)
    assert say(pair.bob, m.QueryBlob(DIGEST)) == []


def run_every_verb(pair: Pair, *, expect_silence: bool) -> None:
    bob = pair.bob
    bob.ask_since()
    bob.answer_since(EPOCH, 0, [], more=False)
    bob.offer(EPOCH, 1, [])
    bob.want([b"w" * 16])
    bob.send_entries([entry()])
    bob.refuse_entries([b"w" * 16])
    bob.query_blob(DIGEST, 1)
    bob.tell_blob(DIGEST, None)
    bob.request_table(DIGEST, 1)
    bob.send_table(DIGEST, 0, bytes(32))
    bob.refuse_table(DIGEST, 0, m.RefuseReason.OTHER)
    bob.cancel(1)
    bob.send_chunks(1, 0, b"x")
    bob.refuse_chunks(1, m.RefuseReason.OTHER)
    bob.share_peers([])
    bob.goodbye(m.GoodbyeReason.OTHER)
    assert bool(bob.messages_to_send(0.0)) is not expect_silence


def test_misuse_is_our_own_error(pair: Pair) -> None:
    with pytest.raises(LocalProtocolError, match="opened once"):
        pair.alice.opened(pair.bob.open_handshake(), 0.0)
    with pytest.raises(LocalProtocolError, match="no question"):
        pair.alice.answer_since(EPOCH, 0, [], more=False)
    with pytest.raises(LocalProtocolError, match="chunks"):
        pair.alice.request_chunks(DIGEST, 0, m.MAX_CHUNKS_PER_REQUEST + 1)
    with pytest.raises(LocalProtocolError, match="hashes"):
        pair.alice.request_table(DIGEST, 0)
    with pytest.raises(LocalProtocolError, match="chunks"):
        pair.alice.query_blob(DIGEST, 0)
    for _ in range(MAX_REQUESTS):
        pair.alice.request_chunks(DIGEST, 0, 1)
    with pytest.raises(LocalProtocolError, match="0 of 64"):
        pair.alice.request_chunks(DIGEST, 0, 1)
    pair.deliver(pair.alice)
    with pytest.raises(LocalProtocolError, match="is next"):
        pair.bob.send_chunks(1, 5, b"x")
    with pytest.raises(LocalProtocolError, match="is next"):
        pair.bob.send_chunks(1, 0, bytes(65_537))
    with pytest.raises(LocalProtocolError, match="4 chunks"):
        pair.bob.send_chunks(1, 0, bytes(3 * 65_536 + 1))
    say(pair.bob, m.RequestTable(DIGEST, 0, 2))
    with pytest.raises(LocalProtocolError, match="asked for"):
        pair.bob.send_table(DIGEST, 0, bytes(32))
    say(pair.bob, m.Since(*START))
    with pytest.raises(LocalProtocolError, match="offers"):
        pair.bob.answer_since(EPOCH, 0, offers(0, m.MAX_OFFERS + 1), more=False)


# Pace


def test_t20_our_own_catalogue_messages_are_paced_and_chunks_are_not(pair: Pair) -> None:
    request_id = pair.bob.request_chunks(DIGEST, 0, 1)
    pair.deliver(pair.bob)
    for number in range(150):
        pair.alice.query_blob(number.to_bytes(32, "big"), 1)
    pair.alice.send_chunks(request_id, 0, b"x")
    sent = types(pair.alice)
    assert sent.count(m.MessageType.QUERY_BLOB) == 100
    assert sent[-1] is m.MessageType.CHUNKS
    assert pair.alice.next_timer() == pytest.approx(1 / 40)
    assert types(pair.alice, 0.5).count(m.MessageType.QUERY_BLOB) == 20
    assert types(pair.alice, 60.0).count(m.MessageType.QUERY_BLOB) == 30
    assert pair.alice.next_timer() is None


def test_t20_who_keeps_to_the_pace_is_never_cut_off_even_after_a_stall(pair: Pair) -> None:
    held_back: list[m.MessageType] = []
    for tick in range(100):  # ten seconds of stalled network, at full pace
        for _ in range(10):
            pair.alice.query_blob(tick.to_bytes(32, "big"), 1)
        for message_type, body in pair.alice.messages_to_send(tick * 0.1):
            held_back.append(m.MessageType(message_type))
            pair.bob.receive(message_type, memoryview(whole(body)), 10.0)
    assert len(held_back) > 400
    assert pair.bob.state is State.OPEN


def test_sessions_of_two_rooms_do_not_mix() -> None:
    one, two = session(is_initiator=True), Pair()
    assert drain(one) == []
    assert two.alice.open_handshake() == one.open_handshake(), "same room, same connection, same proof"
