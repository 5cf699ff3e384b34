"""Noise IK and XX: recorded handshakes, failures, and any bytes at all."""

import hashlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperdht import HandshakeError, KeyPair, LocalProtocolError
from hyperdht.crypto import aead_encrypt
from hyperdht.noise import NoiseHandshake
from hyperdht.noise.symmetric import SymmetricState, hkdf

from .vectors import transport

KEYS = {
    name: KeyPair.from_seed(bytes.fromhex(recorded["seed"])) for name, recorded in transport()["dh"]["keyPairs"].items()
}


def recorded_pair(vector: dict[str, Any]) -> dict[str, NoiseHandshake]:
    pattern = vector["protocolName"].split("_")[1]
    return {
        role: NoiseHandshake(
            pattern,
            is_initiator=role == "initiator",
            static=KEYS[f"{role}Static"],
            remote_static=KEYS["responderStatic"].public_key if (pattern, role) == ("IK", "initiator") else None,
            prologue=bytes.fromhex(vector["prologue"]),
            ephemeral=KEYS[f"{role}Ephemeral"],
        )
        for role in ("initiator", "responder")
    }


@pytest.mark.parametrize("name", transport()["noise"])
def test_recorded_handshake(name: str) -> None:
    vector = transport()["noise"][name]
    pair = recorded_pair(vector)
    for message in vector["messages"]:
        writer = pair[message["from"]]
        reader = pair["responder" if message["from"] == "initiator" else "initiator"]
        written = writer.write_message(bytes.fromhex(message["payload"]))
        assert written.hex() == message["message"]
        assert reader.read_message(written).hex() == message["payload"]
    for role, handshake in pair.items():
        assert handshake.complete
        assert handshake.hash.hex() == vector["handshakeHash"]
        assert handshake.tx.hex() == vector[role]["tx"]
        assert handshake.rx.hex() == vector[role]["rx"]
        assert handshake.keys().remote_public_key.hex() == vector[role]["remotePublicKey"]


@pytest.mark.parametrize("name", transport()["noise"])
@pytest.mark.parametrize("role", ["initiator", "responder"])
def test_every_recorded_hash_step(name: str, role: str) -> None:
    """Step by step, so that a wrong handshake shows where it goes wrong. Decryption was not recorded."""
    vector = transport()["noise"][name]
    chaining_key = SymmetricState(vector["protocolName"]).hash
    for step in vector[f"{role}Steps"]:
        if step["op"] == "mixKey":
            chaining_key, key = hkdf(chaining_key, bytes.fromhex(step["dh"]))
            assert (chaining_key.hex(), key[:32].hex()) == (step["ck"], step["k"])
        elif step["op"] == "encryptAndHash" and step["k"]:
            nonce = bytes(4) + step["nonce"].to_bytes(8, "little")
            plaintext, ad = bytes.fromhex(step["plaintext"]), bytes.fromhex(step["ad"])
            sealed = aead_encrypt(plaintext, ad, nonce, bytes.fromhex(step["k"]))
            assert sealed.hex() == step["ciphertext"]
            assert hashlib.blake2b(ad + sealed).hexdigest() == step["h"]


def xx_pair() -> tuple[NoiseHandshake, NoiseHandshake]:
    initiator = NoiseHandshake("XX", is_initiator=True, static=KeyPair.generate())
    return initiator, NoiseHandshake("XX", is_initiator=False, static=KeyPair.generate())


@pytest.mark.parametrize("position", [0, 31, 32, 60, 79, 80, 95])
def test_a_changed_byte_fails_and_the_failure_is_final(position: int) -> None:
    initiator, responder = xx_pair()
    responder.read_message(initiator.write_message())
    message = bytearray(responder.write_message())
    message[position] ^= 1
    with pytest.raises(HandshakeError):
        initiator.read_message(bytes(message))
    with pytest.raises(LocalProtocolError):
        initiator.read_message(bytes(message))


def test_ik_initiator_that_expects_another_responder_fails() -> None:
    responder = NoiseHandshake("IK", is_initiator=False, static=KeyPair.generate())
    other = KeyPair.generate().public_key
    initiator = NoiseHandshake("IK", is_initiator=True, static=KeyPair.generate(), remote_static=other)
    with pytest.raises(HandshakeError):
        responder.read_message(initiator.write_message())


def test_turns_are_kept() -> None:
    initiator, responder = xx_pair()
    with pytest.raises(LocalProtocolError):
        responder.write_message()
    with pytest.raises(LocalProtocolError):
        initiator.read_message(b"")
    with pytest.raises(LocalProtocolError):
        initiator.keys()
    with pytest.raises(LocalProtocolError):
        NoiseHandshake("IK", is_initiator=True, static=KeyPair.generate())


def test_message_over_65535_bytes_is_refused_on_both_sides() -> None:
    initiator, responder = xx_pair()
    with pytest.raises(LocalProtocolError):
        initiator.write_message(bytes(65504))
    with pytest.raises(HandshakeError):
        responder.read_message(bytes(65536))


@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_are_read_or_raise_handshake_error(data: bytes, as_second_message: bool) -> None:
    initiator, responder = xx_pair()
    if as_second_message:
        initiator.write_message()
    try:
        (initiator if as_second_message else responder).read_message(data)
    except HandshakeError:
        pass
    else:
        assert not as_second_message  # only the first message of XX carries no proof
