"""Writes keys.json, entry.json and room.json from docs/protocol/ alone: no import of our packages, so that the vectors
can prove us wrong. Needs PyNaCl for Argon2id and Ed25519; everything else is the standard library.

    python tests/sidecar/vectors/make_vectors.py
"""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path

import nacl.bindings as sodium

HERE = Path(__file__).parent
CODE = "legal-winner-thank-year-wave-sausage-worth-useful"
HANDSHAKE_HASH = bytes(range(64))
INITIATOR = bytes([1]) * 32
RESPONDER = bytes([2]) * 32
NONCE = bytes(range(16))
SEED = bytes(range(32))
Json = dict[str, object]


def blake2b(data: bytes, key: bytes = b"", size: int = 32) -> bytes:
    return hashlib.blake2b(data, digest_size=size, key=key).digest()


def uint(value: int) -> bytes:
    for limit, marker, form in ((0xFC, b"", "<B"), (0xFFFF, b"\xfd", "<H"), (0xFFFFFFFF, b"\xfe", "<I")):
        if value <= limit:
            return marker + struct.pack(form, value)
    return b"\xff" + struct.pack("<Q", value)


def room(room_key: bytes, topic: bytes | None = None) -> Json:
    proof_key = blake2b(b"ollaswarm/proof", room_key)
    return {
        "room_key": room_key.hex(),
        "topic": (topic or blake2b(b"ollaswarm/topic", room_key)).hex(),
        "proof_key": proof_key.hex(),
        "room_id": blake2b(b"ollaswarm/id", room_key, 16).hex(),
        "channel_id": blake2b(HANDSHAKE_HASH, room_key).hex(),
        "proof_initiator": blake2b(b"\x00" + HANDSHAKE_HASH + INITIATOR + RESPONDER, proof_key).hex(),
        "proof_responder": blake2b(b"\x01" + HANDSHAKE_HASH + RESPONDER + INITIATOR, proof_key).hex(),
        "mdns_tag": blake2b(NONCE, room_key)[:8].hex(),
    }


def keys() -> Json:
    salt = blake2b(b"ollaswarm/room/v1", size=16)
    private = sodium.crypto_pwhash_alg(32, CODE.encode(), salt, 3, 67_108_864, sodium.crypto_pwhash_ALG_ARGON2ID13)
    public_key = sodium.crypto_sign_seed_keypair(SEED)[0]
    number = int.from_bytes(blake2b(b"ollaswarm/words" + public_key), "big")
    return {
        "handshake_hash": HANDSHAKE_HASH.hex(),
        "initiator_public_key": INITIATOR.hex(),
        "responder_public_key": RESPONDER.hex(),
        "mdns_nonce": NONCE.hex(),
        "code": CODE,
        "salt": salt.hex(),
        "private": room(private),
        "general": room(
            blake2b(b"ollaswarm/general/v1"), hashlib.sha256(b"orch-mind-general-public-community-room-v1").digest()
        ),
        "local": room(blake2b(b"ollaswarm/local/v1")),
        "identity": {
            "seed": SEED.hex(),
            "public_key": public_key.hex(),
            "word_indexes": [number >> 256 - 11 * place & 0x7FF for place in range(1, 5)],
            "relay_public_key": sodium.crypto_sign_seed_keypair(blake2b(b"ollaswarm/relay", SEED))[0].hex(),
        },
    }


ENTRY: Json = {
    "v": 1,
    "name": "sql-lora",
    "version": 7,
    "created": "2026-11-23T12:00:00Z",
    "expires": None,
    "previous": "sha256:" + "11" * 32,
    "description": "Writes SQL for your schema",
    "license": "apache-2.0",
    "tags": ["sql", "code"],
    "card": "# SQL\n\nNaïve joins, mostly.",
    "kind": "adapter",
    "base": {"name": "llama3.2:1b", "digest": "sha256:" + "22" * 32, "architecture": "llama"},
    "adapter": {"format": "gguf", "rank": 8, "alpha": 16.0, "tensors": 64, "shapes": "33" * 32},
    "blobs": [
        {
            "digest": "sha256:" + "44" * 32,
            "size": 13_631_488,
            "media_type": "application/vnd.ollama.image.adapter",
            "chunks": "55" * 32,
        }
    ],
    "suggest": {"template": None, "system": None, "parameters": {"temperature": 0.2, "stop": ["</s>"]}},
}
MODEL_ENTRY: Json = {
    "v": 1,
    "name": "llama3.2-1b",
    "version": 1,
    "created": "2026-11-23T12:00:00Z",
    "expires": None,
    "previous": None,
    "description": "",
    "license": "LLAMA 3.2 COMMUNITY LICENSE AGREEMENT",
    "tags": [],
    "card": "",
    "kind": "model",
    "model": {
        "name": "llama3.2:1b",
        "architecture": "llama",
        "format": "gguf",
        "parameters": 1_235_814_432,
        "quantization": "Q8_0",
        "tensors": 147,
        "shapes": "33" * 32,
    },
    "blobs": [
        {
            "digest": "sha256:" + digest * 32,
            "size": size,
            "media_type": f"application/vnd.ollama.image.{kind}",
            "chunks": "77" * 32,
        }
        for digest, size, kind in (
            ("22", 1_321_082_688, "model"),
            ("66", 1_429, "template"),
            ("88", 7_711, "license"),
            ("99", 6_016, "license"),
        )
    ],
}
WITHDRAWAL: Json = {"v": 1, "withdraw": "sql-lora", "version": 8, "created": "2026-11-24T12:00:00Z"}


def signed(domain: bytes, value: Json) -> Json:
    public_key, secret_key = sodium.crypto_sign_seed_keypair(SEED)
    raw = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    signature = sodium.crypto_sign(domain + raw, secret_key)[:64]
    return {
        "raw": raw.decode(),
        "publisher": public_key.hex(),
        "signature": signature.hex(),
        "id": blake2b(raw + public_key + signature).hex(),
        "raw_digest": "sha256:" + hashlib.sha256(raw).hexdigest(),
    }


def entries() -> Json:
    return {
        "seed": SEED.hex(),
        "entry": signed(b"ollaswarm entry v1\n", ENTRY),
        "model": signed(b"ollaswarm entry v1\n", MODEL_ENTRY),
        "withdrawal": signed(b"ollaswarm withdrawal v1\n", WITHDRAWAL),
    }


EPOCH = bytes(range(16))
ID_A, ID_B = bytes([0xA0]) * 16, bytes([0xB0]) * 16
DIGEST = bytes([0xD0]) * 32
PUBLISHER, SIGNATURE = bytes([0xE0]) * 32, bytes([0xE1]) * 64


def u32(value: int) -> bytes:
    return struct.pack("<I", value)


def messages() -> list[tuple[str, int, Json, bytes]]:
    """Name, type, fields, body."""
    a, b, d = ID_A.hex(), ID_B.hex(), DIGEST.hex()
    raw = b'{"v":1}'
    statement = bytes([1]) + PUBLISHER + SIGNATURE + uint(len(raw)) + raw
    fields_statement = {"kind": 1, "publisher": PUBLISHER.hex(), "signature": SIGNATURE.hex(), "raw": raw.hex()}
    return [
        ("since", 0, {"epoch": EPOCH.hex(), "sequence": 70_000}, EPOCH + uint(70_000)),
        (
            "offers",
            1,
            {
                "epoch": EPOCH.hex(),
                "sequence": 9,
                "more": True,
                "answer": True,
                "offers": [{"short_id": a, "held": True}, {"short_id": b, "held": False}],
            },
            EPOCH + uint(9) + b"\x03" + uint(2) + ID_A + b"\x01" + ID_B + b"\x00",
        ),
        (
            "offers",
            1,
            {"epoch": EPOCH.hex(), "sequence": 0, "more": False, "answer": False, "offers": []},
            EPOCH + b"\x00\x00\x00",
        ),
        ("want", 2, {"short_ids": [a, b]}, uint(2) + ID_A + ID_B),
        ("entries", 3, {"statements": [fields_statement]}, uint(1) + statement),
        ("query_blob", 4, {"digest": d}, DIGEST),
        ("holdings", 5, {"digest": d, "count": 0, "state": 0}, DIGEST + b"\x00\x00"),
        ("holdings", 5, {"digest": d, "count": 300, "state": 1}, DIGEST + uint(300) + b"\x01"),
        (
            "holdings",
            5,
            {"digest": d, "count": 300, "state": 2, "first": 256, "bitmap": "ff010000000a"},
            DIGEST + uint(300) + b"\x02" + uint(256) + bytes.fromhex("ff010000000a"),
        ),
        (
            "request_table",
            6,
            {"digest": d, "first": 4096, "count": 4096},
            DIGEST + uint(4096) + uint(4096),
        ),
        ("table", 7, {"digest": d, "first": 5, "hashes": "aa" * 64}, DIGEST + uint(5) + bytes([0xAA]) * 64),
        (
            "request_chunks",
            8,
            {"request_id": 4_000_000_000, "digest": d, "first": 1_000, "count": 256},
            u32(4_000_000_000) + DIGEST + u32(1_000) + u32(256),
        ),
        (
            "chunks",
            9,
            {"request_id": 7, "first": 1_001, "data": "c0ffee"},
            u32(7) + u32(1_001) + bytes(6) + b"\xc0\xff\xee",
        ),
        ("cancel", 10, {"request_id": 7}, u32(7)),
        ("refuse", 11, {"subject": 0, "reason": 2, "request_id": 7}, b"\x00\x02" + u32(7)),
        ("refuse", 11, {"subject": 1, "reason": 1, "digest": d, "first": 4096}, b"\x01\x01" + DIGEST + uint(4096)),
        ("refuse", 11, {"subject": 2, "reason": 1, "short_id": a}, b"\x02\x01" + ID_A),
        (
            "peers",
            12,
            {
                "relay": "4e" * 32,
                "is_random": True,
                "peers": [
                    {"public_key": PUBLISHER.hex(), "is_random": True},
                    {"public_key": DIGEST.hex(), "is_random": False},
                ],
            },
            b"\x03" + b"\x4e" * 32 + uint(2) + PUBLISHER + b"\x02" + DIGEST + b"\x00",
        ),
        ("peers", 12, {"peers": []}, b"\x00" + uint(0)),
        ("goodbye", 13, {"reason": 2}, b"\x02"),
    ]


def room_protocol() -> Json:
    proof = blake2b(b"proof of the vectors")
    return {
        "open": {"version": 1, "proof": proof.hex(), "flags": 0, "bytes": (b"\x01" + proof + b"\x00").hex()},
        "messages": [
            {"name": name, "type": number, "fields": fields, "body": body.hex()}
            for name, number, fields, body in messages()
        ],
    }


if __name__ == "__main__":
    for file, content in (("keys", keys()), ("entry", entries()), ("room", room_protocol())):
        (HERE / f"{file}.json").write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
