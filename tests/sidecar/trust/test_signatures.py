from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperdht.crypto import KeyPair, sign
from sidecar.catalogue.block_list import build_block_list, sign_block_list
from sidecar.catalogue.envelope import DOMAINS, StatementKind
from sidecar.catalogue.fields import render
from sidecar.catalogue.limits import MAX_RAW_BYTES
from sidecar.errors import EntryInvalid, SignatureInvalid
from sidecar.trust.signatures import verify_entry, verify_statement
from tests.sidecar.catalogue.made import ALICE, BOB, entry, withdrawal

MUTATIONS = 3_000


def test_verified_statements_are_what_was_signed() -> None:
    signed, taken_back = entry(), withdrawal()
    assert verify_entry(signed.raw, signed.publisher, signed.signature) == signed
    assert verify_statement(StatementKind.ENTRY, signed.raw, signed.publisher, signed.signature) == signed
    parts = (taken_back.raw, taken_back.publisher, taken_back.signature)
    assert verify_statement(StatementKind.WITHDRAWAL, *parts) == taken_back


def test_t16_every_mutation_after_signing_is_refused() -> None:
    signed = entry(card="# Card\n" * 20)
    chance = random.Random(16)
    for _ in range(MUTATIONS):
        parts = [bytearray(signed.raw), bytearray(signed.publisher), bytearray(signed.signature)]
        part = chance.choice(parts)
        place = chance.randrange(len(part))
        match chance.randrange(4):
            case 0:
                part[place] ^= 1 << chance.randrange(8)
            case 1:
                del part[place]
            case 2:
                part.insert(place, chance.randrange(256))
            case _:
                other = chance.randrange(len(part))
                part[place], part[other] = part[other], part[place]
        if [bytes(each) for each in parts] == [signed.raw, signed.publisher, signed.signature]:
            continue
        with pytest.raises(SignatureInvalid):
            verify_entry(*map(bytes, parts))


def test_t16_every_single_bit_of_the_signature_and_key_counts() -> None:
    signed = entry()
    for length, rebuild in ((64, lambda s: (signed.publisher, s)), (32, lambda p: (p, signed.signature))):
        original = signed.signature if length == 64 else signed.publisher
        for bit in range(length * 8):
            changed = bytearray(original)
            changed[bit // 8] ^= 1 << bit % 8
            with pytest.raises(SignatureInvalid):
                verify_entry(signed.raw, *rebuild(bytes(changed)))


def test_t16_spacing_that_means_the_same_is_not_the_same() -> None:
    signed = entry()
    with pytest.raises(SignatureInvalid):
        verify_entry(signed.raw + b" ", signed.publisher, signed.signature)


def test_t16_one_kind_is_never_taken_for_the_other() -> None:
    signed, taken_back = entry(), withdrawal()
    with pytest.raises(SignatureInvalid):
        verify_statement(StatementKind.WITHDRAWAL, signed.raw, signed.publisher, signed.signature)
    with pytest.raises(SignatureInvalid):
        verify_entry(taken_back.raw, taken_back.publisher, taken_back.signature)
    for foreign in (b"", b"ollaswarm entry v2\n", DOMAINS[StatementKind.WITHDRAWAL]):
        with pytest.raises(SignatureInvalid):
            verify_entry(signed.raw, signed.publisher, sign(foreign + signed.raw, ALICE))


def test_t14_somebody_elses_key_does_not_do() -> None:
    signed = entry(key_pair=ALICE)
    with pytest.raises(SignatureInvalid):
        verify_entry(signed.raw, BOB.public_key, signed.signature)


@pytest.mark.parametrize("publisher", [bytes(32), b"\x01" + bytes(31), b"\xff" * 32, b"", b"k" * 33])
def test_t16_weak_and_malformed_keys_sign_nothing(publisher: bytes) -> None:
    signed = entry()
    for signature in (signed.signature, bytes(64), publisher[:32].ljust(32, b"\0") + bytes(32), b""):
        with pytest.raises(SignatureInvalid):
            verify_entry(signed.raw, publisher, signature)


def test_t16_properly_signed_nonsense_is_an_invalid_entry() -> None:
    key_pair = KeyPair.from_seed(b"n" * 32)
    for raw in (
        b"{}",
        b"hello",
        entry().raw.replace(b'"v":1', b'"v":2'),
        entry().raw.replace(b'"v":1', b'"v":1,"x":0'),
    ):
        with pytest.raises(EntryInvalid):
            verify_entry(raw, key_pair.public_key, sign(DOMAINS[StatementKind.ENTRY] + raw, key_pair))


def test_t20_long_statements_are_refused_before_hashing_them() -> None:
    with pytest.raises(EntryInvalid, match="at most"):
        verify_entry(bytes(MAX_RAW_BYTES + 1), bytes(32), bytes(64))


@given(st.binary(max_size=200), st.binary(max_size=40), st.binary(max_size=70))
def test_any_bytes_are_refused_as_invalid(raw: bytes, publisher: bytes, signature: bytes) -> None:
    for kind in StatementKind:
        with pytest.raises(SignatureInvalid):
            verify_statement(kind, raw, publisher, signature)


def test_t16_block_list_is_nothing_else_and_sorted() -> None:
    raw = build_block_list([BOB.public_key, ALICE.public_key], 1, "2026-11-24T12:00:00Z")
    signed = sign_block_list(raw, ALICE)
    parts = (signed.raw, signed.publisher, signed.signature)
    assert verify_statement(StatementKind.BLOCK_LIST, *parts) == signed
    assert signed.block_list.blocked == tuple(sorted([ALICE.public_key, BOB.public_key]))
    for kind in (StatementKind.ENTRY, StatementKind.WITHDRAWAL):
        with pytest.raises(SignatureInvalid):
            verify_statement(kind, *parts)
    for keys in (["ab"], ["AB" * 32], ["ab" * 32] * 2, ["cd" * 32, "ab" * 32], [1], [f"{n:064x}" for n in range(901)]):
        bad = render({"v": 1, "blocks": keys, "version": 1, "created": "2026-11-24T12:00:00Z"})
        with pytest.raises(EntryInvalid):
            sign_block_list(bad, ALICE)
