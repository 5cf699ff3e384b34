from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sidecar.rooms.key import RoomKey, derive_room_key, general_room_key, local_room_key

VECTORS: dict[str, Any] = json.loads((Path(__file__).parents[1] / "vectors" / "keys.json").read_text())
HASH = bytes.fromhex(VECTORS["handshake_hash"])
INITIATOR = bytes.fromhex(VECTORS["initiator_public_key"])
RESPONDER = bytes.fromhex(VECTORS["responder_public_key"])


def keys() -> dict[str, RoomKey]:
    return {
        "private": derive_room_key(VECTORS["code"]),
        "general": general_room_key(),
        "local": local_room_key(),
    }


@pytest.mark.parametrize("room", ["private", "general", "local"])
def test_t11_keys_match_the_published_vectors(room: str) -> None:
    key, expected = keys()[room], VECTORS[room]
    assert key.secret.hex() == expected["room_key"]
    assert key.topic.hex() == expected["topic"]
    assert key.proof_key.hex() == expected["proof_key"]
    assert key.room_id.hex() == expected["room_id"]
    assert key.channel_id(HASH).hex() == expected["channel_id"]
    assert key.mdns_tag(bytes.fromhex(VECTORS["mdns_nonce"])).hex() == expected["mdns_tag"]


@pytest.mark.parametrize("room", ["private", "general", "local"])
def test_t12_proofs_match_the_published_vectors(room: str) -> None:
    key, expected = keys()[room], VECTORS[room]
    ours = key.proof(is_initiator=True, handshake_hash=HASH, public_key=INITIATOR, remote_public_key=RESPONDER)
    theirs = key.proof(is_initiator=False, handshake_hash=HASH, public_key=RESPONDER, remote_public_key=INITIATOR)
    assert ours.hex() == expected["proof_initiator"]
    assert theirs.hex() == expected["proof_responder"]
    assert ours != theirs


def test_t11_no_value_of_a_room_gives_another_away() -> None:
    key = RoomKey(b"k" * 32)
    values = [key.secret, key.topic, key.proof_key, key.room_id, key.channel_id(HASH)]
    assert len({value[:16] for value in values}) == len(values)


def test_t11_repr_and_errors_show_no_secret() -> None:
    key = derive_room_key(VECTORS["code"])
    for shown in (repr(key), str(key), f"{key}"):
        assert key.secret.hex() not in shown
        assert repr(key.secret) not in shown
        assert key.topic.hex() not in shown
    with pytest.raises(ValueError, match="32 bytes") as refused:
        RoomKey(b"short secret")
    assert "short secret" not in str(refused.value)


def test_lengths_are_checked() -> None:
    key = local_room_key()
    with pytest.raises(ValueError, match="handshake hash"):
        key.channel_id(HASH[:16])
    with pytest.raises(ValueError, match="nonce"):
        key.mdns_tag(HASH)
    with pytest.raises(ValueError, match="public keys"):
        key.proof(is_initiator=True, handshake_hash=HASH, public_key=b"", remote_public_key=RESPONDER)
