"""Storage messages and signatures: recorded vectors, round trips, and any bytes at all."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperdht.addresses import Address
from hyperdht.crypto import KeyPair, blake2b
from hyperdht.dht.constants import NS_ANNOUNCE, NS_UNANNOUNCE
from hyperdht.dht.messages import (
    Announce,
    LookupReply,
    MutablePut,
    MutableValue,
    PeerRecord,
    PluginRequest,
    decode_announce,
    decode_lookup_reply,
    decode_mutable_put,
    decode_mutable_value,
    decode_peer,
    decode_plugin_request,
    decode_seq,
    encode_announce,
    encode_lookup_reply,
    encode_mutable_put,
    encode_mutable_value,
    encode_peer,
    encode_plugin_request,
    encode_seq,
)
from hyperdht.dht.signatures import (
    announce_signable,
    is_signed,
    is_signed_mutable,
    sign_announce,
    sign_mutable,
    sign_unannounce,
)
from hyperdht.errors import DecodeError

from .dht_vectors import address_of, dht, optional_bytes

DECODERS: tuple[Callable[[bytes], object], ...] = (
    decode_announce,
    decode_lookup_reply,
    decode_mutable_put,
    decode_mutable_value,
    decode_peer,
    decode_plugin_request,
    decode_seq,
)

addresses = st.builds(Address, st.ip_addresses(v=4).map(str), st.integers(0, 0xFFFF))
keys = st.binary(min_size=32, max_size=32)
signatures = st.binary(min_size=64, max_size=64)
uints = st.integers(0, 2**53 - 1)
values = st.binary(max_size=300)
peers = st.builds(PeerRecord, keys, st.lists(addresses, max_size=5).map(tuple))
announces = st.builds(Announce, st.none() | peers, st.none() | keys, st.none() | signatures, uints)
mutables = st.builds(MutableValue, uints, values, signatures)
plugin_requests = st.builds(PluginRequest, st.text(max_size=20), uints, uints, st.none() | values)


def key_pair_of(name: str) -> KeyPair:
    return KeyPair.from_seed(bytes.fromhex(dht()["key_pairs"][name]["seed"]))


def peer_of(fields: dict[str, Any]) -> PeerRecord:
    return PeerRecord(bytes.fromhex(fields["publicKey"]), tuple(map(address_of, fields["relayAddresses"])))


def announce_of(fields: dict[str, Any]) -> Announce:
    return Announce(
        peer=peer_of(fields["peer"]) if fields["peer"] else None,
        refresh=optional_bytes(fields["refresh"]),
        signature=optional_bytes(fields["signature"]),
        bump=fields.get("bump", 0),
    )


@pytest.mark.parametrize("vector", dht()["peer_records"], ids=lambda v: v["name"])
def test_recorded_peer_records(vector: dict[str, Any]) -> None:
    peer, encoded = peer_of(vector["fields"]), bytes.fromhex(vector["encoded"])
    assert encode_peer(peer) == encoded
    assert decode_peer(encoded) == peer


@pytest.mark.parametrize("vector", dht()["lookup_replies"], ids=lambda v: v["name"])
def test_recorded_lookup_replies(vector: dict[str, Any]) -> None:
    records, bump = list(map(bytes.fromhex, vector["fields"]["peers"])), vector["fields"]["bump"]
    encoded = bytes.fromhex(vector["encoded"])
    assert encode_lookup_reply(records, bump) == encoded
    assert decode_lookup_reply(encoded) == LookupReply(tuple(map(decode_peer, records)), bump)


def test_an_old_node_sends_no_bump() -> None:
    encoded = encode_lookup_reply([encode_peer(PeerRecord(bytes(32)))], 0)
    assert decode_lookup_reply(encoded[:-1]) == decode_lookup_reply(encoded)


@pytest.mark.parametrize("vector", dht()["announces"], ids=lambda v: v["name"])
def test_recorded_announces_and_their_signatures(vector: dict[str, Any]) -> None:
    announce, encoded = announce_of(vector["fields"]), bytes.fromhex(vector["encoded"])
    assert encode_announce(announce) == encoded
    assert decode_announce(encoded) == announce
    key_pair = key_pair_of(vector["key"])
    context = {
        "target": bytes.fromhex(vector["topic"]),
        "node_id": bytes.fromhex(vector["nodeId"]),
        "token": bytes.fromhex(vector["token"]),
    }
    is_announce = vector["kind"] == "announce"
    namespace = NS_ANNOUNCE if is_announce else NS_UNANNOUNCE
    assert announce_signable(namespace, announce, **context).hex() == vector["signable"]
    if is_announce:
        unsigned = Announce(announce.peer, announce.refresh, bump=announce.bump)
        assert sign_announce(unsigned, key_pair, **context) == announce
    else:
        assert sign_unannounce(key_pair, **context) == announce
    assert is_signed(namespace, announce, **context)
    assert not is_signed(NS_UNANNOUNCE if is_announce else NS_ANNOUNCE, announce, **context)
    for field in context:
        assert not is_signed(namespace, announce, **{**context, field: bytes(32)})


def test_recorded_refresh() -> None:
    vector = dht()["refresh_announce"]
    announce, encoded = announce_of(vector["fields"]), bytes.fromhex(vector["encoded"])
    assert encode_announce(announce) == encoded
    assert decode_announce(encoded) == announce
    assert announce.refresh is not None
    assert blake2b(announce.refresh).hex() == vector["stored"]


@pytest.mark.parametrize("vector", dht()["mutable"], ids=lambda v: str(v["seq"]))
def test_recorded_mutable_values(vector: dict[str, Any]) -> None:
    key_pair = key_pair_of(vector["key"])
    put = sign_mutable(vector["seq"], bytes.fromhex(vector["value"]), key_pair)
    assert put.stored.signature.hex() == vector["signature"]
    assert blake2b(key_pair.public_key).hex() == vector["target"]
    assert encode_mutable_put(put).hex() == vector["putRequest"]
    assert encode_mutable_value(put.stored).hex() == vector["getResponse"]
    assert encode_seq(put.stored.seq).hex() == vector["getRequest"]
    assert decode_mutable_put(bytes.fromhex(vector["putRequest"])) == put
    assert decode_mutable_value(bytes.fromhex(vector["getResponse"])) == put.stored
    assert decode_seq(bytes.fromhex(vector["getRequest"])) == put.stored.seq
    assert is_signed_mutable(put.stored, key_pair.public_key)
    assert not is_signed_mutable(
        MutableValue(put.stored.seq + 1, put.stored.value, put.stored.signature), put.public_key
    )


@pytest.mark.parametrize("vector", dht()["immutable"], ids=lambda v: v["value"][:10])
def test_recorded_immutable_values(vector: dict[str, Any]) -> None:
    assert blake2b(bytes.fromhex(vector["value"])).hex() == vector["target"]


@pytest.mark.parametrize("vector", dht()["plugin_requests"], ids=lambda v: v["name"])
def test_recorded_plugin_requests(vector: dict[str, Any]) -> None:
    fields, encoded = vector["fields"], bytes.fromhex(vector["encoded"])
    request = PluginRequest(fields["plugin"], fields["version"], fields["command"], optional_bytes(fields["value"]))
    assert encode_plugin_request(request) == encoded
    assert decode_plugin_request(encoded) == request


@given(announces)
def test_announces_survive_the_wire(announce: Announce) -> None:
    assert decode_announce(encode_announce(announce)) == announce


@given(st.lists(peers, max_size=20), uints)
def test_lookup_replies_survive_the_wire(records: list[PeerRecord], bump: int) -> None:
    encoded = encode_lookup_reply(list(map(encode_peer, records)), bump)
    assert decode_lookup_reply(encoded) == LookupReply(tuple(records), bump)


@given(keys, mutables)
def test_mutable_values_survive_the_wire(public_key: bytes, stored: MutableValue) -> None:
    put = MutablePut(public_key, stored)
    assert decode_mutable_put(encode_mutable_put(put)) == put
    assert decode_mutable_value(encode_mutable_value(stored)) == stored
    assert decode_seq(encode_seq(stored.seq)) == stored.seq


@given(plugin_requests)
def test_plugin_requests_survive_the_wire(request: PluginRequest) -> None:
    assert decode_plugin_request(encode_plugin_request(request)) == request


@pytest.mark.parametrize("decode", DECODERS)
@given(data=st.binary(max_size=300))
def test_any_bytes_decode_or_raise_decode_error(decode: Callable[[bytes], object], data: bytes) -> None:
    try:
        decode(data)
    except DecodeError:
        return


@given(announces, st.data())
def test_an_announce_cut_short_is_refused(announce: Announce, data: st.DataObject) -> None:
    encoded = encode_announce(announce)
    with pytest.raises(DecodeError):
        decode_announce(encoded[: data.draw(st.integers(0, len(encoded) - 1))])


def test_t20_a_count_without_the_items_is_refused_at_once() -> None:
    with pytest.raises(DecodeError, match="at most 512"):
        decode_lookup_reply(b"\xfe\x00\x00\x10\x00")
    with pytest.raises(DecodeError, match="at most 512"):
        decode_peer(bytes(32) + b"\xfe\x00\x00\x10\x00")


def test_fields_of_the_wrong_size_are_our_mistake() -> None:
    with pytest.raises(ValueError, match="32"):
        encode_peer(PeerRecord(b"short"))
    with pytest.raises(ValueError, match="64"):
        encode_announce(Announce(signature=b"short"))
    with pytest.raises(ValueError, match="without a peer"):
        sign_announce(Announce(), KeyPair.from_seed(bytes(32)), target=bytes(32), node_id=bytes(32), token=bytes(32))
