"""dht-rpc packets: recorded vectors, round trips, and any bytes at all."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperdht.addresses import Address
from hyperdht.crypto import namespace
from hyperdht.errors import DecodeError
from hyperdht.rpc import (
    Reply,
    Request,
    decode_reply,
    decode_request,
    encode_address,
    encode_reply,
    encode_request,
    node_id,
)
from hyperdht.rpc.messages import MAX_DATAGRAM_BYTES

from .dht_vectors import address_of, dht, optional_bytes

SENDER = Address("10.1.0.1", 30001)
"""The node that made the recorded packets: its address hashes to the id in them."""

addresses = st.builds(Address, st.ip_addresses(v=4).map(str), st.integers(0, 0xFFFF))
hashes = st.none() | st.binary(min_size=32, max_size=32)
values = st.none() | st.binary(max_size=300)
ids = st.sampled_from([None, node_id(SENDER)])
uints = st.integers(0, 2**53 - 1)
requests = st.builds(
    Request, st.integers(0, 0xFFFF), addresses, uints, st.booleans(), ids, token=hashes, target=hashes, value=values
)
replies = st.builds(
    Reply,
    st.integers(0, 0xFFFF),
    addresses,
    ids,
    token=hashes,
    closer_nodes=st.lists(addresses, max_size=20).map(tuple),
    error=uints,
    value=values,
)


def request_of(fields: dict[str, Any]) -> Request:
    return Request(
        tid=fields["tid"],
        to=address_of(fields["to"]),
        command=fields["command"],
        internal=fields["internal"],
        id=optional_bytes(fields["id"]),
        token=optional_bytes(fields["token"]),
        target=optional_bytes(fields["target"]),
        value=optional_bytes(fields["value"]),
    )


def reply_of(fields: dict[str, Any]) -> Reply:
    return Reply(
        tid=fields["tid"],
        to=address_of(fields["to"]),
        id=optional_bytes(fields["id"]),
        token=optional_bytes(fields["token"]),
        closer_nodes=tuple(map(address_of, fields["closerNodes"] or ())),
        error=fields["error"],
        value=optional_bytes(fields["value"]),
    )


def test_recorded_addresses_and_node_ids() -> None:
    for recorded in dht()["addresses"]:
        address = address_of(recorded)
        assert encode_address(address).hex() == recorded["encoded"]
        assert node_id(address).hex() == recorded["nodeId"]


def test_recorded_namespaces() -> None:
    commands = dht()["constants"]["COMMANDS"]
    for name, value in dht()["namespaces"].items():
        assert namespace("hyperswarm/dht", commands[name])[0].hex() == value


@pytest.mark.parametrize("vector", dht()["rpc_requests"], ids=lambda v: v["name"])
def test_recorded_requests(vector: dict[str, Any]) -> None:
    request, encoded = request_of(vector["fields"]), bytes.fromhex(vector["encoded"])
    assert encode_request(request) == encoded
    assert decode_request(encoded, sender=SENDER) == request


@pytest.mark.parametrize("vector", dht()["rpc_responses"], ids=lambda v: v["name"])
def test_recorded_replies(vector: dict[str, Any]) -> None:
    reply, encoded = reply_of(vector["fields"]), bytes.fromhex(vector["encoded"])
    assert encode_reply(reply) == encoded
    assert decode_reply(encoded, sender=SENDER) == reply


@given(requests)
def test_requests_survive_the_wire(request: Request) -> None:
    assert decode_request(encode_request(request), sender=SENDER) == request


@given(replies)
def test_replies_survive_the_wire(reply: Reply) -> None:
    assert decode_reply(encode_reply(reply), sender=SENDER) == reply


def test_an_id_of_another_address_is_absent() -> None:
    request = Request(1, SENDER, 0, internal=True, id=node_id(SENDER))
    elsewhere = Address(SENDER.host, SENDER.port + 1)
    assert decode_request(encode_request(request), sender=elsewhere) == replace(request, id=None)
    reply = Reply(1, SENDER, id=node_id(SENDER))
    assert decode_reply(encode_reply(reply), sender=elsewhere) == replace(reply, id=None)


def test_an_empty_value_is_not_no_value() -> None:
    for value in (None, b""):
        request = Request(1, SENDER, 0, value=value)
        assert decode_request(encode_request(request), sender=SENDER).value == value


@given(st.sampled_from([b"", b"\x03", b"\x13"]), st.binary(max_size=600))
def test_any_bytes_decode_or_raise_decode_error(first: bytes, rest: bytes) -> None:
    for decode in (decode_request, decode_reply):
        try:
            decode(first + rest, sender=SENDER)
        except DecodeError:
            continue


@given(requests, st.data())
def test_a_request_cut_short_is_refused(request: Request, data: st.DataObject) -> None:
    encoded = encode_request(request)
    size = data.draw(st.integers(0, len(encoded) - 1))
    with pytest.raises(DecodeError):
        decode_request(encoded[:size], sender=SENDER)


def test_types_are_not_mixed_up_and_size_is_capped() -> None:
    request, reply = encode_request(Request(1, SENDER, 0)), encode_reply(Reply(1, SENDER))
    with pytest.raises(DecodeError, match="first byte"):
        decode_request(reply, sender=SENDER)
    with pytest.raises(DecodeError, match="first byte"):
        decode_reply(request, sender=SENDER)
    with pytest.raises(DecodeError, match="at most 2048"):
        decode_request(request + bytes(MAX_DATAGRAM_BYTES), sender=SENDER)


def test_an_id_of_the_wrong_size_is_our_mistake() -> None:
    with pytest.raises(ValueError, match="32"):
        encode_request(Request(1, SENDER, 0, id=b"short"))
