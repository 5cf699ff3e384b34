"""Handshake and hole punch messages, and what is inside them."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperdht.addresses import Address
from hyperdht.crypto import KeyPair
from hyperdht.dht.noise_session import ClientHandshake, ServerHandshake
from hyperdht.dht.payloads import (
    KEPT_ADDRESSES,
    KEPT_RELAYS,
    HandshakeMessage,
    HolepunchInfo,
    HolepunchMessage,
    NoisePayload,
    RelayInfo,
    RelayThrough,
    UdxInfo,
    decode_handshake,
    decode_holepunch,
    decode_noise_payload,
    encode_handshake,
    encode_holepunch,
    encode_noise_payload,
)
from hyperdht.encoding import Writer
from hyperdht.errors import DecodeError, HandshakeError

from .dht_vectors import address_of, dht

ALICE = KeyPair.from_seed(b"\x01" * 32)
BOB = KeyPair.from_seed(b"\x02" * 32)
EVE = KeyPair.from_seed(b"\x03" * 32)

numbers = st.integers(0, 2**53 - 1)
stream_ids = st.integers(0, 2**32 - 1)
hosts = st.integers(0, 2**32 - 1).map(lambda n: ".".join(str(byte) for byte in n.to_bytes(4, "big")))
addresses = st.builds(Address, hosts, st.integers(0, 65535))
optional_addresses = st.none() | addresses
keys = st.binary(min_size=32, max_size=32)
relays = st.builds(RelayInfo, addresses, addresses)
payloads = st.builds(
    NoisePayload,
    error=numbers,
    firewall=numbers,
    holepunch=st.none() | st.builds(HolepunchInfo, numbers, st.lists(relays, max_size=KEPT_RELAYS).map(tuple)),
    addresses4=st.lists(addresses, max_size=KEPT_ADDRESSES).map(tuple),
    udx=st.none() | st.builds(UdxInfo, stream_ids, st.booleans(), numbers, numbers),
    secret_stream=st.none() | numbers,
    relay_through=st.none() | st.builds(RelayThrough, keys, keys, numbers),
    relay_addresses=st.none() | st.lists(addresses, max_size=KEPT_RELAYS).map(tuple),
)


def optional_address(recorded: dict[str, Any] | None) -> Address | None:
    return None if recorded is None else address_of(recorded)


def recorded_payload(fields: dict[str, Any]) -> NoisePayload:
    holepunch, udx, relay = fields["holepunch"], fields["udx"], fields["relayThrough"]
    return NoisePayload(
        error=fields["error"],
        firewall=fields["firewall"],
        holepunch=holepunch
        and HolepunchInfo(
            holepunch["id"],
            tuple(RelayInfo(address_of(r["relayAddress"]), address_of(r["peerAddress"])) for r in holepunch["relays"]),
        ),
        addresses4=tuple(map(address_of, fields["addresses4"] or ())),
        addresses6=tuple(Address(a["host"], a["port"]) for a in fields["addresses6"] or ()),
        udx=udx and UdxInfo(udx["id"], udx["reusableSocket"], udx["seq"]),
        relay_through=relay and RelayThrough(bytes.fromhex(relay["publicKey"]), bytes.fromhex(relay["token"])),
        relay_addresses=fields["relayAddresses"] and tuple(map(address_of, fields["relayAddresses"])),
    )


@pytest.mark.parametrize("vector", dht()["handshake_messages"], ids=lambda vector: vector["name"])
def test_recorded_handshake_messages(vector: dict[str, Any]) -> None:
    fields, encoded = vector["fields"], bytes.fromhex(vector["encoded"])
    message = HandshakeMessage(
        fields["mode"],
        bytes.fromhex(fields["noise"]),
        optional_address(fields["peerAddress"]),
        optional_address(fields["relayAddress"]),
    )
    assert encode_handshake(message) == encoded
    assert decode_handshake(encoded) == message


@pytest.mark.parametrize("vector", dht()["holepunch_messages"], ids=lambda vector: vector["name"])
def test_recorded_holepunch_messages(vector: dict[str, Any]) -> None:
    fields, encoded = vector["fields"], bytes.fromhex(vector["encoded"])
    message = HolepunchMessage(
        fields["mode"], fields["id"], bytes.fromhex(fields["payload"]), optional_address(fields["peerAddress"])
    )
    assert encode_holepunch(message) == encoded
    assert decode_holepunch(encoded) == message


@pytest.mark.parametrize("vector", dht()["noise_payloads"], ids=lambda vector: vector["name"])
def test_recorded_noise_payloads(vector: dict[str, Any]) -> None:
    payload, encoded = recorded_payload(vector["fields"]), bytes.fromhex(vector["encoded"])
    assert encode_noise_payload(payload) == encoded
    decoded = decode_noise_payload(encoded)
    # JavaScript and we write IPv6 addresses of eight groups when decoding.
    assert encode_noise_payload(decoded) == encoded
    assert payload.addresses6 or decoded == payload


def test_recorded_handshake_replays_byte_for_byte() -> None:
    vector, pairs = dht()["noise_handshake"], dht()["key_pairs"]
    alice, bob = (KeyPair.from_seed(bytes.fromhex(pairs[name]["seed"])) for name in ("alice", "bob"))
    client = ClientHandshake(
        alice,
        bob.public_key,
        recorded_payload(vector["message1Decoded"]),
        ephemeral=KeyPair.from_seed(bytes.fromhex(vector["initiatorEphemeralSeed"])),
    )
    assert client.message.hex() == vector["message1"]
    server = ServerHandshake(
        bob, client.message, ephemeral=KeyPair.from_seed(bytes.fromhex(vector["responderEphemeralSeed"]))
    )
    assert server.payload == recorded_payload(vector["message1Decoded"])
    assert server.remote_public_key == alice.public_key
    message, server_keys = server.answer(recorded_payload(vector["message2Decoded"]))
    assert message.hex() == vector["message2"]
    payload, client_keys = client.read_answer(message)
    assert payload == recorded_payload(vector["message2Decoded"])
    assert client_keys.holepunch_secret == server_keys.holepunch_secret == bytes.fromhex(vector["holepunchSecret"])
    assert client_keys.stream.hash.hex() == server_keys.stream.hash.hex() == vector["handshakeHash"]
    assert (client_keys.stream.tx.hex(), client_keys.stream.rx.hex()) == (vector["initiatorTx"], vector["initiatorRx"])
    assert client_keys.stream.remote_public_key == bob.public_key
    assert server_keys.stream.remote_public_key == alice.public_key


@given(payloads)
def test_noise_payloads_come_back(payload: NoisePayload) -> None:
    assert decode_noise_payload(encode_noise_payload(payload)) == payload


@given(st.builds(HandshakeMessage, numbers, st.binary(max_size=300), optional_addresses, optional_addresses))
def test_handshake_messages_come_back(message: HandshakeMessage) -> None:
    assert decode_handshake(encode_handshake(message)) == message


@given(st.builds(HolepunchMessage, numbers, numbers, st.binary(max_size=300), optional_addresses))
def test_holepunch_messages_come_back(message: HolepunchMessage) -> None:
    assert decode_holepunch(encode_holepunch(message)) == message


@pytest.mark.parametrize("decode", [decode_handshake, decode_holepunch, decode_noise_payload])
@given(data=st.binary(max_size=600) | st.binary(max_size=600).map(b"\x01".__add__))
def test_any_bytes_decode_or_raise_decode_error(decode: Callable[[bytes], object], data: bytes) -> None:
    try:
        decode(data)
    except DecodeError:
        return


def test_another_version_is_told_apart_and_not_read_further() -> None:
    payload = decode_noise_payload(b"\x02" + b"\xff" * 20)
    assert payload.version == 2
    assert payload.udx is None


def test_stream_id_above_32_bits_is_refused() -> None:
    encoded = encode_noise_payload(NoisePayload(udx=UdxInfo(2**32)))
    with pytest.raises(DecodeError):
        decode_noise_payload(encoded)


def test_t18_of_long_lists_only_the_first_items_are_kept() -> None:
    many = tuple(Address("198.51.100.7", 1024 + number) for number in range(100))
    payload = NoisePayload(
        holepunch=HolepunchInfo(1, tuple(RelayInfo(address, address) for address in many)),
        addresses4=many,
        udx=UdxInfo(7),
        relay_addresses=many,
    )
    decoded = decode_noise_payload(encode_noise_payload(payload))
    assert decoded.addresses4 == many[:KEPT_ADDRESSES]
    assert decoded.holepunch is not None
    assert len(decoded.holepunch.relays) == KEPT_RELAYS
    assert decoded.relay_addresses == many[:KEPT_RELAYS]
    assert decoded.udx == UdxInfo(7), "what follows the lists is read from the right place"


def test_list_longer_than_the_message_is_refused() -> None:
    writer = Writer()
    for number in (1, 2, 0, 0):
        writer.push_uint(number)
    writer.push_uint(0x100000)
    with pytest.raises(DecodeError):
        decode_noise_payload(writer.finish())


def test_bad_answer_does_not_spoil_the_good_one() -> None:
    client = ClientHandshake(ALICE, BOB.public_key, NoisePayload(udx=UdxInfo(1)))
    good, _ = ServerHandshake(BOB, client.message).answer(NoisePayload(udx=UdxInfo(2)))
    for bad in (b"", b"\0" * 48, good[:-1] + bytes([good[-1] ^ 1]), good[:40]):
        with pytest.raises(HandshakeError):
            client.read_answer(bad)
    assert client.read_answer(good)[0].udx == UdxInfo(2)


def test_answer_of_another_server_is_refused() -> None:
    client = ClientHandshake(ALICE, BOB.public_key, NoisePayload())
    with pytest.raises(HandshakeError):
        ServerHandshake(EVE, client.message)
    other = ClientHandshake(ALICE, EVE.public_key, NoisePayload())
    answer, _ = ServerHandshake(EVE, other.message).answer(NoisePayload())
    with pytest.raises(HandshakeError):
        client.read_answer(answer)
