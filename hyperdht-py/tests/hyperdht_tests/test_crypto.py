"""Primitives against the recorded vectors."""

import os
from typing import Any

import nacl.bindings as sodium
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperdht import DecodeError, HandshakeError, KeyPair, crypto
from hyperdht.crypto import (
    SecretStreamPull,
    SecretStreamPush,
    argon2id,
    blake2b,
    diffie_hellman,
    namespace,
    sign,
    verify,
)

from .vectors import assert_bytes, plaintext, transport

DH = transport()["dh"]


@pytest.mark.parametrize("package", ["hyperswarm/secret-stream", "hyperswarm/dht"])
def test_namespaces(package: str) -> None:
    recorded = transport()["namespaces"][package]
    assert blake2b(package.encode()).hex() == recorded["nameHash"]
    for name, value in recorded.items():
        if name != "nameHash":
            assert namespace(package, int(name.rpartition("_")[2]))[0].hex() == value


@pytest.mark.parametrize("name", DH["keyPairs"])
def test_key_pairs(name: str) -> None:
    recorded = DH["keyPairs"][name]
    pair = KeyPair.from_seed(bytes.fromhex(recorded["seed"]))
    assert (pair.public_key.hex(), pair.secret_key.hex()) == (recorded["publicKey"], recorded["secretKey"])
    assert pair.scalar.hex() == recorded["scalar"]
    assert recorded["secretKey"][:64] not in repr(pair)


@pytest.mark.parametrize("vector", DH["dh"], ids=lambda v: f"{v['local']}-{v['remote']}")
def test_diffie_hellman(vector: dict[str, Any]) -> None:
    local, remote = (KeyPair.from_seed(bytes.fromhex(DH["keyPairs"][vector[k]]["seed"])) for k in ("local", "remote"))
    assert diffie_hellman(local.scalar, remote.public_key).hex() == vector["output"]
    assert diffie_hellman(remote.scalar, local.public_key).hex() == vector["output"]


def test_diffie_hellman_with_a_plain_scalar_is_not_clamped() -> None:
    vector = DH["plainScalar"]
    scalar, point = bytes.fromhex(vector["scalar"]), bytes.fromhex(vector["point"])
    assert diffie_hellman(scalar, point).hex() == vector["output"]


@pytest.mark.parametrize("vector", DH["rejected"], ids=lambda v: v["name"])
def test_diffie_hellman_refuses_bad_points(vector: dict[str, Any]) -> None:
    scalar = KeyPair.from_seed(bytes(32)).scalar
    with pytest.raises(HandshakeError):
        diffie_hellman(scalar, bytes.fromhex(vector["point"]))


def test_diffie_hellman_refuses_a_zero_scalar_and_a_short_point() -> None:
    point = KeyPair.generate().public_key
    with pytest.raises(HandshakeError):
        diffie_hellman(bytes(32), point)
    with pytest.raises(HandshakeError):
        diffie_hellman(KeyPair.generate().scalar, point[:31])


def test_signatures() -> None:
    pair = KeyPair.generate()
    signature = sign(b"offer", pair)
    assert len(signature) == 64
    assert verify(signature, b"offer", pair.public_key)
    assert not verify(signature, b"other", pair.public_key)
    assert not verify(signature, b"offer", KeyPair.generate().public_key)
    assert not verify(signature[:-1], b"offer", pair.public_key)
    assert not verify(signature, b"offer", b"short")


def test_argon2id_is_deterministic_and_salted() -> None:
    def hash_with(salt: bytes) -> bytes:
        return argon2id(b"code", salt, opslimit=1, memlimit_bytes=8192 * 8, size=32)

    assert hash_with(bytes(16)) == hash_with(bytes(16))
    assert len(hash_with(bytes(16))) == 32
    assert hash_with(bytes(16)) != hash_with(b"\1" * 16)


@pytest.fixture(params=[0, crypto.OPENSSL_FROM_BYTES, 1 << 30], ids=["openssl", "both", "libsodium"])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which library does the messages of a secretstream (OpenSSL only those whose length is a multiple of 8)."""
    monkeypatch.setattr(crypto, "OPENSSL_FROM_BYTES", request.param)


def seal(push: SecretStreamPush, message: bytes, tag: int = 0) -> bytearray:
    out = bytearray(b"r" * crypto.SECRETSTREAM_ROOM_BYTES + bytes(len(message) + 17) + b"after")
    push.seal_into(memoryview(out), crypto.SECRETSTREAM_ROOM_BYTES, message, tag)
    assert out[: crypto.SECRETSTREAM_ROOM_BYTES] == b"r" * crypto.SECRETSTREAM_ROOM_BYTES
    assert out[-5:] == b"after"
    return out[crypto.SECRETSTREAM_ROOM_BYTES : -5]


@pytest.mark.usefixtures("library")
def test_secretstream_messages_and_states() -> None:
    recorded = transport()["secretstream"]
    key, header = bytes.fromhex(recorded["key"]), bytes.fromhex(recorded["header"])
    push, pull = SecretStreamPush(key, header), SecretStreamPull(key, header)
    assert push.state().hex() == recorded["initialState"]["k"] + recorded["initialState"]["nonce"]
    for vector in recorded["messages"]:
        message = plaintext(vector["plaintext"])
        sealed = seal(push, message, vector["tag"])
        assert_bytes(bytes(sealed), vector["ciphertext"])
        assert pull.open(sealed) == message
        assert pull.tag == vector["tag"]
        expected = vector["stateAfter"]["k"] + vector["stateAfter"]["nonce"]
        assert push.state().hex() == pull.state().hex() == expected


def libsodium_push(key: bytes, header: bytes, messages: list[tuple[bytes, int]]) -> list[bytes]:
    """The same with libsodium's own functions only."""
    state = sodium.crypto_secretstream_xchacha20poly1305_state()
    sodium.crypto_secretstream_xchacha20poly1305_init_pull(state, header, key)
    return [sodium.crypto_secretstream_xchacha20poly1305_push(state, m, tag=tag) for m, tag in messages]


sizes = st.one_of(st.integers(0, 200), st.integers(4080, 4120), st.sampled_from([8192, 65536, 65546, 65552, 196624]))


@given(st.lists(st.tuples(sizes, st.integers(0, 3)), min_size=1, max_size=6), st.binary(min_size=32, max_size=32))
@settings(max_examples=60, deadline=None)
def test_secretstream_is_libsodiums_for_every_length_and_tag(messages: list[tuple[int, int]], key: bytes) -> None:
    push = SecretStreamPush(key)
    pull = SecretStreamPull(key, push.header)
    plain = [(os.urandom(size), tag) for size, tag in messages]
    sealed = [bytes(seal(push, message, tag)) for message, tag in plain]
    assert sealed == libsodium_push(key, push.header, plain)
    for (message, tag), body in zip(plain, sealed, strict=True):
        assert pull.open(body) == message
        assert pull.tag == tag
    assert push.state() == pull.state()


def test_secretstream_changes_its_key_when_the_counter_wraps() -> None:
    states: list[tuple[bytes, bytes]] = []
    for size in (4096, 4097):  # by OpenSSL, by libsodium
        push = SecretStreamPush(bytes(32), bytes(24))
        pull = SecretStreamPull(bytes(32), bytes(24))
        for half in (push, pull):
            half._state.key_and_nonce[32:36] = b"\xff\xff\xff\xff"
        key = push.state()[:32]
        sealed = seal(push, bytes(size))
        assert pull.open(sealed) == bytes(size)
        assert push.state() == pull.state()
        assert push.state()[:32] != key
        assert push.state()[32:36] == b"\1\0\0\0"
        assert pull.open(seal(push, b"after" * 1000)) == b"after" * 1000
        states.append((key, push.state()[32:36]))
    assert states[0] == states[1]


@pytest.mark.parametrize("size", [5, 4096])
@pytest.mark.parametrize("place", [0, 1, 3, -17, -16, -1])
def test_secretstream_refuses_a_changed_byte(size: int, place: int) -> None:
    push = SecretStreamPush(bytes(32))
    pull = SecretStreamPull(bytes(32), push.header)
    before = pull.state()
    sealed = seal(push, bytes(size))
    sealed[place] ^= 1
    with pytest.raises(DecodeError):
        pull.open(sealed)
    assert pull.state() == before
    sealed[place] ^= 1
    assert pull.open(sealed) == bytes(size)


@pytest.mark.parametrize("size", [0, 16])
def test_secretstream_refuses_what_is_shorter_than_an_empty_message(size: int) -> None:
    with pytest.raises(DecodeError):
        SecretStreamPull(bytes(32), bytes(24)).open(bytes(size))


def test_every_secretstream_has_its_own_header() -> None:
    assert SecretStreamPush(bytes(32)).header != SecretStreamPush(bytes(32)).header
