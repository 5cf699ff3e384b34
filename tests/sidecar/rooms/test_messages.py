from __future__ import annotations

import json
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperdht.crypto import is_plain_aead
from hyperdht.encoding import Writer
from hyperdht.errors import DecodeError
from hyperdht.protomux import Mux
from sidecar.rooms import messages as m
from tests.sidecar.catalogue.made import entry
from tests.sidecar.rooms.conversation import whole

VECTORS: dict[str, Any] = json.loads((Path(__file__).parents[1] / "vectors" / "room.json").read_text())
MESSAGES = [vector for vector in VECTORS["messages"] if vector["name"] != "chunks"]
CHUNKS = next(vector for vector in VECTORS["messages"] if vector["name"] == "chunks")


def as_json(value: object) -> object:
    """A message as the vectors write it: bytes as hex, fields that are at their defaults left out."""
    if is_dataclass(value) and not isinstance(value, type):
        shown = {f.name: getattr(value, f.name) for f in fields(value)}
        return {name: as_json(each) for name, each in shown.items()}
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, tuple):
        return [as_json(each) for each in value]
    return value


@pytest.mark.parametrize("vector", MESSAGES, ids=lambda vector: vector["name"])
def test_messages_match_the_published_vectors_both_ways(vector: dict[str, Any]) -> None:
    body = bytes.fromhex(vector["body"])
    message = m.decode(vector["type"], body)
    assert message is not None
    shown = as_json(message)
    assert isinstance(shown, dict)
    expected = vector["fields"]
    assert {name: shown[name] for name in expected} == expected
    assert all(not shown[name] for name in shown.keys() - expected.keys())
    assert vector["type"] == message.TYPE
    assert m.encode(message) == body


def test_chunk_matches_the_published_vector_both_ways() -> None:
    body, expected = bytes.fromhex(CHUNKS["body"]), CHUNKS["fields"]
    data = bytes.fromhex(expected["data"])
    assert whole(m.encode_chunks(expected["request_id"], expected["first"], data)) == body
    request_id, index, view = m.split_chunks(memoryview(body))
    assert (request_id, index, bytes(view)) == (expected["request_id"], expected["first"], data)


def test_chunk_data_is_not_copied() -> None:
    body = bytearray(whole(m.encode_chunks(1, 2, b"x" * 65_536)))
    _, _, data = m.split_chunks(memoryview(body))
    body[14] = ord("y")
    assert data[0] == ord("y")


def test_open_handshake_matches_the_published_vector_both_ways() -> None:
    vector = VECTORS["open"]
    handshake = m.OpenHandshake(vector["version"], bytes.fromhex(vector["proof"]), vector["flags"])
    assert handshake.encode().hex() == vector["bytes"]
    assert m.OpenHandshake.decode(bytes.fromhex(vector["bytes"])) == handshake
    assert m.OpenHandshake.decode(bytes.fromhex(vector["bytes"]) + b"later") == handshake
    assert m.OpenHandshake.decode(b"\x02whatever").version == 2


def test_every_type_has_a_vector() -> None:
    assert {vector["type"] for vector in VECTORS["messages"]} == set(m.MessageType)


@pytest.mark.parametrize("vector", MESSAGES, ids=lambda vector: vector["name"])
def test_cut_and_lengthened_messages_are_refused(vector: dict[str, Any]) -> None:
    body = bytes.fromhex(vector["body"])
    bitmap_or_hashes = vector["name"] == "table" or vector["fields"].get("state") == 2
    for end in range(len(body)):
        if not bitmap_or_hashes or end < 36:
            with pytest.raises(DecodeError):
                m.decode(vector["type"], body[:end])
    if not bitmap_or_hashes:
        with pytest.raises(DecodeError, match="after the end"):
            m.decode(vector["type"], body + b"\x00")


@given(st.integers(0, 20), st.binary(max_size=400))
def test_any_bytes_decode_or_raise_decode_error(message_type: int, body: bytes) -> None:
    try:
        message = m.decode(message_type, body)
    except DecodeError:
        return
    assert message is None or m.decode(message_type, m.encode(message)) == message


@given(st.binary(max_size=200))
def test_any_bytes_are_a_handshake_or_raise_decode_error(data: bytes) -> None:
    try:
        m.OpenHandshake.decode(data)
    except DecodeError:
        return


@given(st.binary(max_size=64))
def test_any_bytes_are_a_chunk_or_raise_decode_error(body: bytes) -> None:
    try:
        request_id, index, data = m.split_chunks(memoryview(body))
    except DecodeError:
        assert len(body) <= 14 or any(body[8:14])
        return
    assert whole(m.encode_chunks(request_id, index, data)) == body


def _push(*parts: bytes | int) -> bytes:
    writer = Writer()
    for part in parts:
        if isinstance(part, int):
            writer.push_uint(part)
        else:
            writer.push_fixed(part)
    return writer.finish()


D = bytes(32)


@pytest.mark.parametrize(
    ("message_type", "body"),
    [
        (m.MessageType.OFFERS, _push(bytes(16), 1, b"\x00", m.MAX_OFFERS + 1)),
        (m.MessageType.WANT, _push(m.MAX_WANTED + 1, bytes(16 * (m.MAX_WANTED + 1)))),
        (m.MessageType.ENTRIES, _push(m.MAX_ENTRIES + 1)),
        (m.MessageType.ENTRIES, _push(1, b"\x00", bytes(96), 65_537, bytes(65_537))),
        (m.MessageType.HOLDINGS, _push(D, 2**21 + 1, b"\x01")),
        (m.MessageType.HOLDINGS, _push(D, 8, b"\x03")),
        (m.MessageType.HOLDINGS, _push(D, 8, b"\x02", 0)),
        (m.MessageType.HOLDINGS, _push(D, 8, b"\x02", 4, b"\x01")),
        (m.MessageType.HOLDINGS, _push(D, 8, b"\x02", 8, b"\x01")),
        (m.MessageType.HOLDINGS, _push(D, 5, b"\x02", 0, b"\x20")),
        (m.MessageType.HOLDINGS, _push(D, 2**21, b"\x02", 0, bytes(m.MAX_BITMAP_BYTES + 1))),
        (m.MessageType.REQUEST_TABLE, _push(D, 0, 0)),
        (m.MessageType.REQUEST_TABLE, _push(D, 0, m.MAX_TABLE_PAGE + 1)),
        (m.MessageType.REQUEST_TABLE, _push(D, 2**21, 1)),
        (m.MessageType.TABLE, _push(D, 0)),
        (m.MessageType.TABLE, _push(D, 0, bytes(33))),
        (m.MessageType.REQUEST_CHUNKS, bytes(4) + D + bytes(4) + (257).to_bytes(4, "little")),
        (m.MessageType.REQUEST_CHUNKS, bytes(4) + D + bytes(8)),
        (m.MessageType.REQUEST_CHUNKS, bytes(4) + D + b"\xff\xff\xff\xff" + (1).to_bytes(4, "little")),
        (m.MessageType.REFUSE, b"\x03\x00" + bytes(32)),
        (m.MessageType.PEERS, _push(b"\x00", m.MAX_PEERS + 1)),
        (m.MessageType.PEERS, _push(b"\x01", D[1:], 0)),
        (m.MessageType.PEERS, _push(b"\x00", 1, D)),
    ],
)
def test_t06_t20_bounds_of_each_field(message_type: int, body: bytes) -> None:
    with pytest.raises(DecodeError):
        m.decode(message_type, body)


def test_t06_chunk_bounds() -> None:
    for body in (bytes(14), bytes(14 + 3 * 65_536 + 1), bytes(13) + b"\1" + bytes(65_536)):
        with pytest.raises(DecodeError):
            m.split_chunks(memoryview(body))
    assert len(m.split_chunks(memoryview(bytes(14 + 3 * 65_536)))[2]) == 3 * 65_536


def test_whole_chunks_make_messages_that_openssl_encrypts() -> None:
    for count in range(1, m.MAX_CHUNKS_PER_MESSAGE + 1):
        mux = Mux()
        channel = mux.create_channel(m.PROTOCOL, D)
        assert channel is not None
        channel.open()
        channel.send(m.MessageType.CHUNKS, m.encode_chunks(1, 2, bytes(count * 65_536)))
        message = mux.messages_to_send()[-1]
        assert len(message) <= m.MAX_FRAME_BYTES
        assert is_plain_aead(len(message))


def test_later_reasons_read_as_other() -> None:
    assert m.decode(m.MessageType.GOODBYE, b"\xc8") == m.Goodbye(m.GoodbyeReason.OTHER)
    refused = m.decode(m.MessageType.REFUSE, b"\x00\xc8" + bytes(4))
    assert refused == m.Refuse(m.RefuseSubject.CHUNKS, m.RefuseReason.OTHER)


def test_statements_are_named_by_the_start_of_their_id() -> None:
    signed = entry()
    raw = m.RawStatement(signed.kind, signed.publisher, signed.signature, signed.raw)
    assert raw.short_id == signed.short_id == signed.id[:16]
