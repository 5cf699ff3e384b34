"""Orch-Mind's messages: what is read, what is refused, and that what we write is what its own code expects."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.errors import RoomError
from sidecar.orch_mind.messages import (
    MAX_ADAPTERS,
    MAX_FRAME_BYTES,
    AdapterChunk,
    AdapterFacts,
    AdapterList,
    AdapterOffer,
    AdapterRequest,
    FrameInvalid,
    Heartbeat,
    HeartbeatResponse,
    ListRequest,
    decode_frame,
    encode_chunk,
    encode_heartbeat_response,
    encode_list,
    encode_list_request,
    encode_request,
    looks_like_orch_mind,
)
from sidecar.orch_mind.topics import normalise_orch_mind_code, orch_mind_topic

TOPIC = "ab" * 32
CHECKSUM = hashlib.sha256(b"file").hexdigest()
ITEM = {
    "name": "gemma3_adapter_1751636717504",
    "size": 70_000,
    "checksum": CHECKSUM,
    "topic": TOPIC,
    "timestamp": 1751636717504,
    "metadata": {"base_model": "gemma3:latest", "hf_model": "google/gemma-3-1b-it", "file_type": "safetensors"}
    | {"file_path": "/home/somebody/lora_adapters/x", "adapter_id": "x", "status": "ready"},
}
OFFER = AdapterOffer(
    "gemma3_adapter_1751636717504",
    70_000,
    CHECKSUM,
    TOPIC,
    facts=AdapterFacts("gemma3:latest", "google/gemma-3-1b-it", "safetensors"),
)


def frame(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


def listed(*items: Any) -> AdapterList:
    message = decode_frame(frame(type="adapter-list", data=list(items)))
    assert isinstance(message, AdapterList)
    return message


def changed(**fields: Any) -> dict[str, Any]:
    return {key: value for key, value in (ITEM | fields).items() if value is not ...}


def test_a_list_as_orch_mind_writes_it() -> None:
    assert listed(ITEM) == AdapterList((OFFER,), 0)


def test_a_list_as_older_builds_write_it() -> None:
    assert decode_frame(frame(type="adapter-list", adapters=[ITEM])) == AdapterList((OFFER,), 0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"topic": ...},
        {"topic": None},
        {"topic": "../../etc"},
        {"name": ...},
        {"name": ""},
        {"name": "x" * 129},
        {"name": ["x"]},
        {"name": "\ud800"},
        {"size": 0},
        {"size": -1},
        {"size": 1.5},
        {"size": True},
        {"size": "70000"},
        {"size": (4 << 30) + 1},
        {"checksum": ...},
        {"checksum": "ab"},
    ],
    ids=str,
)
def test_t06_an_item_that_cannot_be_right_is_left_out_alone(wrong: dict[str, Any]) -> None:
    other = changed(topic="cd" * 32)
    assert listed(changed(**wrong), other).skipped == 1
    assert [offer.topic for offer in listed(changed(**wrong), other).offers] == ["cd" * 32]


def test_t20_a_long_list_and_repeated_topics_are_cut() -> None:
    items = [changed(topic=f"{number:064x}", metadata={}) for number in range(MAX_ADAPTERS + 10)]
    assert len(listed(*items).offers) == MAX_ADAPTERS
    assert listed(*items).skipped == 10
    assert listed(ITEM, ITEM) == AdapterList((OFFER,), 1)


def test_t09_texts_of_strangers_are_safe_to_show() -> None:
    (offer,) = listed(changed(name="a\x1b[2J\u202eb", metadata={"base_model": "x\nevil", "lora_alpha": "16"})).offers
    assert offer.name == "a[2Jb"
    assert offer.facts == AdapterFacts(base_model="x evil")


@pytest.mark.parametrize("metadata", [None, [], "x", {"lora_rank": -1, "lora_alpha": 10**400}])
def test_facts_that_make_no_sense_are_no_facts(metadata: Any) -> None:
    assert listed(changed(metadata=metadata)).offers[0].facts == AdapterFacts()


def test_facts_that_orch_mind_reads_itself() -> None:
    facts = {"lora_rank": 4, "lora_alpha": 32, "use_rslora": True}
    assert listed(changed(metadata=facts)).offers[0].facts == AdapterFacts(rank=4, alpha=32.0, rank_stabilised=True)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"", "not-json"),
        (b"heartbeat", "not-json"),
        (b"\x00\x01ollaswarm/room", "not-json"),
        (b"{" * 100_000, "not-json"),
        (b"[" * 200_000, "not-json"),
        (b'{"type": NaN}', "not-json"),
        (b'{"type": "adapter-list", "data": [' + b"9" * 5_000 + b"]}", "not-json"),
        (b"[]", "not-an-object"),
        (b"null", "not-an-object"),
        (b"{}", "unknown-type"),
        (b'{"type": {}}', "unknown-type"),
        (b'{"type": "adapter-list"}', "no-list"),
        (b'{"type": "adapter-list", "data": {"0": 1}}', "no-list"),
        (b'{"type": "adapter-request"}', "no-data"),
        (b'{"type": "adapter-request", "data": {"topic": 7}}', "request-topic"),
        (b'{"type": "adapter-chunk", "data": {}}', "chunk-base64"),
        (b" " * (MAX_FRAME_BYTES + 1), "frame-size"),
    ],
    ids=lambda value: value if isinstance(value, str) else str(value[:20]),
)
def test_frames_that_mean_nothing_are_refused_by_kind(data: bytes, kind: str) -> None:
    with pytest.raises(FrameInvalid) as caught:
        decode_frame(data)
    assert caught.value.kind == kind


@given(st.binary(max_size=300) | st.recursive(st.none() | st.text(), lambda each: st.dictionaries(
    st.sampled_from(["type", "data", "adapters", "topic", "chunk", "index", "name"]), each | st.lists(each)
)).map(lambda value: json.dumps(value).encode()))  # fmt: skip
def test_nothing_a_peer_writes_raises_anything_else(data: bytes) -> None:
    with contextlib.suppress(FrameInvalid):
        decode_frame(data)


def test_small_messages_come_back() -> None:
    assert decode_frame(encode_list_request()) == ListRequest()
    assert decode_frame(encode_request(TOPIC)) == AdapterRequest(TOPIC)
    assert decode_frame(encode_heartbeat_response()) == HeartbeatResponse()
    assert decode_frame(frame(type="heartbeat", timestamp=1, **{"from": "orch-os-main"})) == Heartbeat()


def test_our_list_is_read_as_it_was_meant_and_names_no_path() -> None:
    facts = AdapterFacts("llama3.2:1b", "meta-llama/Llama-3.2-1B", "safetensors", 8, 16.0, rank_stabilised=True)
    offer = AdapterOffer("sql-lora", 5, CHECKSUM, TOPIC, facts=facts)
    encoded = encode_list([offer])
    assert decode_frame(encoded) == AdapterList((offer,), 0)
    assert set(json.loads(encoded)["data"][0]["metadata"]) == {
        *("base_model", "hf_model", "file_type", "lora_rank", "lora_alpha", "use_rslora")
    }


def test_a_list_too_long_for_a_frame_is_cut() -> None:
    facts = AdapterFacts("b" * 256, "h" * 256, "safetensors")
    offers = [AdapterOffer("\u00e9" * 128, 5, CHECKSUM, f"{number:064x}", facts=facts) for number in range(300)]
    encoded = encode_list(offers)
    assert len(encoded) <= MAX_FRAME_BYTES
    message = decode_frame(encoded)
    assert isinstance(message, AdapterList)
    assert message.offers == tuple(offers[: len(message.offers)])
    assert message.offers


def test_a_chunk_of_ours_holds_what_orch_mind_looks_for() -> None:
    data = bytes(65_536)
    first = json.loads(encode_chunk(OFFER, 0, data))["data"]
    assert (first["topic"], first["index"], first["total"]) == (TOPIC, 0, 2)
    assert base64.b64decode(first["chunk"]) == data
    assert first["checksum"] == hashlib.sha256(data).hexdigest()
    assert {key: first["metadata"][key] for key in ("name", "size", "checksum", "topic")} == {
        key: ITEM[key] for key in ("name", "size", "checksum", "topic")
    }
    assert "metadata" not in json.loads(encode_chunk(OFFER, 1, b"rest"))["data"]


def chunk(**fields: Any) -> AdapterChunk:
    rest = bytes(70_000 - 65_536)
    right = {
        "topic": TOPIC,
        "chunk": base64.b64encode(rest).decode(),
        "index": 1,
        "total": 2,
        "checksum": hashlib.sha256(rest).hexdigest(),
    }
    message = decode_frame(frame(type="adapter-chunk", data=right | fields))
    assert isinstance(message, AdapterChunk)
    return message


def test_a_chunk_is_checked_against_the_offer() -> None:
    assert chunk().data(70_000) == bytes(70_000 - 65_536)


@pytest.mark.parametrize(
    ("wrong", "kind"),
    [
        ({"index": 2}, "chunk-number"),
        ({"total": 3}, "chunk-number"),
        ({"index": 0}, "chunk-length"),
        ({"chunk": ""}, "chunk-length"),
        ({"chunk": "%%%%"}, "chunk-base64"),
        ({"chunk": "AAA"}, "chunk-base64"),
        ({"checksum": "0" * 64}, "chunk-checksum"),
    ],
    ids=str,
)
def test_t06_a_chunk_that_is_not_the_offers_is_refused(wrong: dict[str, Any], kind: str) -> None:
    with pytest.raises(FrameInvalid) as caught:
        chunk(**wrong).data(70_000)
    assert caught.value.kind == kind


@pytest.mark.parametrize(
    "wrong", [{"index": -1}, {"index": 1 << 40}, {"total": True}, {"topic": "x"}, {"chunk": "\u00e9"}], ids=str
)
def test_t06_a_chunk_beyond_all_bounds_is_not_even_read(wrong: dict[str, Any]) -> None:
    with pytest.raises(FrameInvalid):
        chunk(**wrong)


def test_detection_by_the_first_byte() -> None:
    assert looks_like_orch_mind(encode_list_request())
    assert looks_like_orch_mind(bytearray(b'{"type"'))
    assert not looks_like_orch_mind(b"\x00\x01\x00ollaswarm/room")
    assert not looks_like_orch_mind(b"")


def test_topics_are_those_of_orch_mind() -> None:
    assert normalise_orch_mind_code("  fast-peer-7 ") == "FAST-PEER-7"
    assert orch_mind_topic("FAST-PEER-7") == hashlib.sha256(b"orch-mind-room-FAST-PEER-7").digest()


@pytest.mark.parametrize("text", ["", "x", "a b", "\u00e9t\u00e9-peer-1", "-FAST", "x" * 65])
def test_t11_a_code_that_is_none_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(RoomError) as caught:
        normalise_orch_mind_code(text)
    assert not text.strip() or text not in caught.value.cause.split()
