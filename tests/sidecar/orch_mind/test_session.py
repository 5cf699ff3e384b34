"""The session against a peer with Orch-Mind's faults, and against worse ones."""

from __future__ import annotations

import base64
import hashlib
import json
import random
from typing import Any

import pytest

from sidecar.orch_mind import session as under_test
from sidecar.orch_mind.messages import AdapterOffer, encode_chunk, encode_list
from sidecar.orch_mind.session import (
    MAX_REQUESTS,
    MAX_STRIKES,
    MAX_UPLOADS_OF_ONE,
    MAX_USELESS_FRAMES,
    STALL_S,
    ChunkReceived,
    Event,
    FileFailed,
    FileReceived,
    FileWanted,
    OffersChanged,
    OrchMindSession,
    PeerGivenUp,
)

CONTENT = random.Random(1).randbytes(3 * 65_536 + 17)
OFFER = AdapterOffer("lora", len(CONTENT), hashlib.sha256(CONTENT).hexdigest(), "ab" * 32)
CHUNKS = [encode_chunk(OFFER, index, CONTENT[index * 65_536 :][:65_536]) for index in range(OFFER.chunks)]
REQUEST = {"type": "adapter-request", "data": {"topic": OFFER.topic}}


def events(session: OrchMindSession) -> list[Event]:
    found = []
    while (event := session.next_event()) is not None:
        found.append(event)
    return found


def sent(session: OrchMindSession) -> list[dict[str, Any]]:
    return [json.loads(frame) for frame in session.frames_to_send()]


def types(session: OrchMindSession) -> list[str]:
    return [message["type"] for message in sent(session)]


def asked() -> OrchMindSession:
    """A session that has asked for the file."""
    session = OrchMindSession([], 0.0)
    session.receive(encode_list([OFFER]), 0.0)
    assert events(session) == [OffersChanged((OFFER,))]
    session.frames_to_send()
    assert session.request(OFFER.topic, 0.0) == OFFER
    assert sent(session) == [REQUEST]
    return session


def file_of(found: list[Event]) -> bytes:
    parts = {event.index: event.data for event in found if isinstance(event, ChunkReceived)}
    return b"".join(parts[index] for index in sorted(parts))


def test_a_session_begins_with_both_lists() -> None:
    assert types(OrchMindSession([], 0.0)) == ["request-adapter-list"]
    assert types(OrchMindSession([OFFER], 0.0)) == ["request-adapter-list", "adapter-list"]


@pytest.mark.parametrize("seed", range(5))
def test_chunks_in_any_order_and_repeated_make_the_file(seed: int) -> None:
    session = asked()
    frames = CHUNKS + CHUNKS[1:3]
    random.Random(seed).shuffle(frames)
    for frame in frames:
        session.receive(frame, 1.0)
    found = events(session)
    assert file_of(found) == CONTENT
    assert found.count(FileReceived(OFFER.topic)) == 1
    assert session.ignored.total() == 2
    assert session.next_timer() is None


def test_what_was_not_asked_for_is_dropped_and_counted() -> None:
    session = OrchMindSession([], 0.0)
    session.receive(encode_list([OFFER]), 0.0)
    events(session)
    for frame in CHUNKS:
        session.receive(frame, 0.0)
    assert events(session) == []
    assert session.ignored["chunk-unsolicited"] == len(CHUNKS)


def test_a_file_that_is_not_listed_cannot_be_asked_for() -> None:
    session = OrchMindSession([], 0.0)
    assert session.request(OFFER.topic, 0.0) is None
    session = asked()
    assert session.request(OFFER.topic, 0.0) is None, "it is on its way"
    assert sent(session) == []


def test_the_offer_asked_for_bounds_what_comes_whatever_is_listed_later() -> None:
    session = asked()
    session.receive(encode_list([AdapterOffer("lora", 1 << 30, OFFER.checksum, OFFER.topic)]), 1.0)
    data = json.loads(CHUNKS[0])
    data["data"] |= {"total": 1 << 14, "metadata": {"size": 1 << 30}}
    session.receive(json.dumps(data).encode(), 1.0)
    assert session.ignored["chunk-number"] == 1
    for frame in CHUNKS:
        session.receive(frame, 1.0)
    assert file_of(events(session)) == CONTENT


def test_rebroadcasts_say_nothing_new_and_cost_nothing() -> None:
    session = OrchMindSession([], 0.0)
    for turn in range(1_000):
        session.receive(encode_list([OFFER]), 30.0 * turn)
    assert events(session) == [OffersChanged((OFFER,))]
    session.receive(encode_list([]), 40_000.0)
    assert events(session) == [OffersChanged(())]
    assert session.ignored.total() == 0


def test_t20_lists_that_change_all_the_time_are_slowed_down() -> None:
    session = OrchMindSession([], 0.0)
    for turn in range(500):
        session.receive(encode_list([AdapterOffer("x", 1 + turn, OFFER.checksum, OFFER.topic)]), turn / 100)
    assert 10 <= len(events(session)) <= 16
    session.receive(encode_list([OFFER]), 60.0)
    assert events(session) == [OffersChanged((OFFER,))]


def test_heartbeats_and_requests_for_our_list_are_answered_once_each() -> None:
    session = OrchMindSession([OFFER], 0.0)
    session.frames_to_send()
    for _ in range(100):
        session.receive(b'{"type":"heartbeat","from":"orch-os-main","timestamp":1}', 30.0)
        session.receive(b'{"type":"request-adapter-list","timestamp":1}', 30.0)
    assert sorted(types(session)) == ["adapter-list", "heartbeat-response"]
    assert types(session) == []


def test_frames_that_are_not_json_are_survived() -> None:
    session = asked()
    for frame in (b"ping", b"\xff\xfe", b"{", b"[1]", b'{"type":"adapter-data","data":1}', b'{"type":"adapter-list"}'):
        session.receive(frame, 1.0)
    assert session.ignored.total() == 6
    for each in CHUNKS:
        session.receive(each, 1.0)
    assert file_of(events(session)) == CONTENT


def test_t20_a_peer_that_sends_only_useless_frames_is_given_up() -> None:
    session = OrchMindSession([], 0.0)
    for _ in range(2 * MAX_USELESS_FRAMES):
        session.receive(CHUNKS[0], 0.0)
    (event,) = events(session)
    assert isinstance(event, PeerGivenUp)
    assert "chunk-unsolicited" in event.reason
    assert session.ignored.total() == MAX_USELESS_FRAMES


def test_an_answer_that_comes_twice_does_not_cost_a_peer_its_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(under_test, "MAX_USELESS_FRAMES", 3)
    session = asked()
    for frame in CHUNKS * 2:
        session.receive(frame, 1.0)
    assert file_of(events(session)) == CONTENT


def wrong_chunk(index: int) -> bytes:
    document = json.loads(CHUNKS[index])
    document["data"]["chunk"] = base64.b64encode(bytes(65_536)).decode()
    return json.dumps(document).encode()


def test_a_wrong_chunk_is_not_written_and_the_right_one_may_still_come() -> None:
    session = asked()
    session.receive(wrong_chunk(1), 1.0)
    for frame in CHUNKS:
        session.receive(frame, 1.0)
    assert file_of(events(session)) == CONTENT
    assert session.ignored["chunk-checksum"] == 1


def test_t06_wrong_chunks_end_the_file() -> None:
    session = asked()
    for _ in range(MAX_STRIKES + 1):
        session.receive(wrong_chunk(1), 1.0)
    assert events(session) == [FileFailed(OFFER.topic, "the peer sent wrong chunks")]
    assert session.ignored["chunk-unsolicited"] == 1


def test_a_file_that_stops_coming_is_asked_for_again_and_then_given_up() -> None:
    session = asked()
    now = 0.0
    for turn in range(MAX_REQUESTS):
        session.receive(CHUNKS[turn], now)
        timer = session.next_timer()
        assert timer == now + STALL_S
        session.handle_timer(timer - 0.1)
        assert sent(session) == []
        session.handle_timer(now := timer)
        assert sent(session) == ([REQUEST] if turn < MAX_REQUESTS - 1 else [])
    failed = events(session)[-1]
    assert isinstance(failed, FileFailed)
    assert "1 of 4 chunks missing" in failed.reason


def test_a_peer_that_never_answers_is_asked_once() -> None:
    session = asked()
    session.handle_timer(STALL_S)
    assert sent(session) == []
    assert isinstance(events(session)[0], FileFailed)


def test_a_cancelled_file_is_dropped() -> None:
    session = asked()
    session.receive(CHUNKS[0], 1.0)
    assert session.cancel(OFFER.topic)
    assert not session.cancel(OFFER.topic)
    events(session)
    session.receive(CHUNKS[1], 1.0)
    assert events(session) == []
    assert session.next_timer() is None


def test_only_what_we_offer_is_sent_and_one_at_a_time() -> None:
    session = OrchMindSession([OFFER], 0.0)
    request = json.dumps(REQUEST).encode()
    session.receive(json.dumps({"type": "adapter-request", "data": {"topic": "00" * 32}}).encode(), 0.0)
    session.receive(request, 0.0)
    session.receive(request, 0.0)
    assert events(session) == [FileWanted(OFFER)]
    assert session.ignored == {"request-unknown": 1, "request-repeated": 1}
    session.upload_ended(OFFER.topic)
    session.receive(request, 0.0)
    assert events(session) == [FileWanted(OFFER)]


def test_t20_the_same_file_is_not_sent_for_ever() -> None:
    session = OrchMindSession([OFFER], 0.0)
    for _ in range(2 * MAX_UPLOADS_OF_ONE):
        session.receive(json.dumps(REQUEST).encode(), 0.0)
        session.upload_ended(OFFER.topic)
    assert len(events(session)) == MAX_UPLOADS_OF_ONE


def test_a_changed_offer_is_told_and_the_old_one_is_not_sent() -> None:
    session = OrchMindSession([OFFER], 0.0)
    session.frames_to_send()
    session.offer([OFFER])
    assert sent(session) == []
    session.offer([])
    assert types(session) == ["adapter-list"]
    session.receive(json.dumps(REQUEST).encode(), 0.0)
    assert events(session) == []


def test_two_sessions_understand_each_other() -> None:
    ours, theirs = OrchMindSession([], 0.0), OrchMindSession([OFFER], 0.0)
    for frame in theirs.frames_to_send():
        ours.receive(frame, 0.0)
    assert ours.request(ours.offers[0].topic, 0.0) is not None
    for frame in ours.frames_to_send():
        theirs.receive(frame, 0.0)
    (wanted,) = events(theirs)
    assert isinstance(wanted, FileWanted)
    for frame in CHUNKS:
        ours.receive(frame, 0.0)
    assert file_of(events(ours)) == CONTENT
