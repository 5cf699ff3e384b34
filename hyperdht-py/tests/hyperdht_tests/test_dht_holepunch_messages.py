"""Hole punching: what the two sides tell each other, and its seal."""

from contextlib import suppress
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperdht.addresses import Address
from hyperdht.crypto import secretbox_seal
from hyperdht.dht.holepunch_messages import (
    KEPT_ADDRESSES,
    HolepunchPayload,
    HolepunchSeal,
    decode_holepunch_payload,
    encode_holepunch_payload,
)
from hyperdht.errors import DecodeError

from .dht_vectors import address_of, dht, optional_bytes

SECRET = b"\x05" * 32

numbers = st.integers(0, 2**53 - 1)
hosts = st.integers(0, 2**32 - 1).map(lambda n: ".".join(str(byte) for byte in n.to_bytes(4, "big")))
addresses = st.builds(Address, hosts, st.integers(0, 65535))
tokens = st.none() | st.binary(min_size=32, max_size=32)
payloads = st.builds(
    HolepunchPayload,
    error=numbers,
    firewall=numbers,
    round=numbers,
    connected=st.booleans(),
    punching=st.booleans(),
    addresses=st.none() | st.lists(addresses, max_size=KEPT_ADDRESSES).map(tuple),
    remote_address=st.none() | addresses,
    token=tokens,
    remote_token=tokens,
)


def payload_of(fields: dict[str, Any]) -> HolepunchPayload:
    named, remote = fields["addresses"], fields["remoteAddress"]
    return HolepunchPayload(
        error=fields["error"],
        firewall=fields["firewall"],
        round=fields["round"],
        connected=fields["connected"],
        punching=fields["punching"],
        addresses=None if named is None else tuple(map(address_of, named)),
        remote_address=None if remote is None else address_of(remote),
        token=optional_bytes(fields["token"]),
        remote_token=optional_bytes(fields["remoteToken"]),
    )


class Recorded(Random):
    """Chance that gives what was recorded."""

    def __init__(self, *chunks: bytes) -> None:
        super().__init__(0)
        self.chunks = list(chunks)

    def randbytes(self, n: int) -> bytes:
        chunk = self.chunks.pop(0)
        assert len(chunk) == n
        return chunk


@pytest.mark.parametrize("vector", dht()["holepunch_payloads"], ids=lambda vector: vector["name"])
def test_recorded_payloads(vector: dict[str, Any]) -> None:
    payload = payload_of(vector["fields"])
    assert encode_holepunch_payload(payload).hex() == vector["encoded"]
    assert decode_holepunch_payload(bytes.fromhex(vector["encoded"])) == payload


def test_recorded_encryption() -> None:
    recorded = dht()["holepunch_encryption"]
    local_secret, nonce, key = (bytes.fromhex(recorded[name]) for name in ("localSecret", "nonce", "key"))
    seal = HolepunchSeal(key, Recorded(local_secret, nonce))
    payload = payload_of(recorded["decrypted"])
    assert seal.seal(payload).hex() == recorded["encrypted"]
    assert seal.open(bytes.fromhex(recorded["encrypted"])) == payload
    assert seal.token(recorded["tokenFor"]["host"]).hex() == recorded["token"]


@given(payloads)
def test_payloads_survive_the_way(payload: HolepunchPayload) -> None:
    seal, other = HolepunchSeal(SECRET, Random(1)), HolepunchSeal(SECRET, Random(2))
    assert other.open(seal.seal(payload)) == payload


@given(st.binary(max_size=200))
def test_any_bytes_decode_or_are_refused(data: bytes) -> None:
    with suppress(DecodeError):
        decode_holepunch_payload(data)


@given(st.binary(max_size=100))
def test_only_the_other_side_is_understood(data: bytes) -> None:
    assert HolepunchSeal(SECRET, Random(1)).open(data) is None


def test_forged_sealed_payloads_are_none() -> None:
    seal = HolepunchSeal(SECRET, Random(1))
    sealed = seal.seal(HolepunchPayload())
    for i in range(len(sealed)):
        assert seal.open(sealed[:i] + bytes([sealed[i] ^ 1]) + sealed[i + 1 :]) is None
        assert seal.open(sealed[:i]) is None
    assert HolepunchSeal(b"\x06" * 32, Random(1)).open(sealed) is None
    assert seal.open(sealed) == HolepunchPayload()


def test_what_is_sealed_may_still_be_nonsense() -> None:
    seal = HolepunchSeal(SECRET, Random(1))
    assert seal.open(bytes(24) + secretbox_seal(b"\xff", bytes(24), SECRET)) is None


def test_no_two_messages_share_a_nonce() -> None:
    seal = HolepunchSeal(SECRET, Random(1))
    assert len({seal.seal(HolepunchPayload())[:24] for _ in range(100)}) == 100


def test_t19_of_many_addresses_a_few_are_kept() -> None:
    named = tuple(Address("11.0.0.1", 2000 + i) for i in range(300))
    encoded = encode_holepunch_payload(replace(HolepunchPayload(round=7), addresses=named, token=b"t" * 32))
    decoded = decode_holepunch_payload(encoded)
    assert decoded.addresses == named[:KEPT_ADDRESSES]
    assert decoded.token == b"t" * 32


def test_tokens_tell_hosts_apart_but_not_ports_and_differ_from_side_to_side() -> None:
    seal, other = HolepunchSeal(SECRET, Random(1)), HolepunchSeal(SECRET, Random(2))
    assert seal.token("11.0.0.1") == seal.token("11.0.0.1")
    assert len({seal.token("11.0.0.1"), seal.token("11.0.0.2"), other.token("11.0.0.1")}) == 3
