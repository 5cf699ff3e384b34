"""Primitives against the recorded vectors."""

from typing import Any

import pytest

from hyperdht import DecodeError, HandshakeError, KeyPair
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


def test_secretstream_messages_and_states() -> None:
    recorded = transport()["secretstream"]
    key, header = bytes.fromhex(recorded["key"]), bytes.fromhex(recorded["header"])
    push, pull = SecretStreamPush(key, header), SecretStreamPull(key, header)
    assert push.state().hex() == recorded["initialState"]["k"] + recorded["initialState"]["nonce"]
    for vector in recorded["messages"]:
        message = plaintext(vector["plaintext"])
        sealed = bytearray(len(message) + 17)
        push.seal_into(sealed, message, vector["tag"])
        assert_bytes(bytes(sealed), vector["ciphertext"])
        opened = bytearray(len(message))
        pull.open_into(opened, sealed)
        assert opened == message
        assert pull.tag == vector["tag"]
        expected = vector["stateAfter"]["k"] + vector["stateAfter"]["nonce"]
        assert push.state().hex() == pull.state().hex() == expected


def test_secretstream_refuses_a_changed_byte() -> None:
    push = SecretStreamPush(bytes(32))
    sealed = bytearray(5 + 17)
    push.seal_into(sealed, b"hello")
    sealed[3] ^= 1
    with pytest.raises(DecodeError):
        SecretStreamPull(bytes(32), push.header).open_into(bytearray(5), sealed)


def test_every_secretstream_has_its_own_header() -> None:
    assert SecretStreamPush(bytes(32)).header != SecretStreamPush(bytes(32)).header
