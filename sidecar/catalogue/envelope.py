"""What entries and withdrawals have in common: exact bytes, publisher key, signature, and an id over all three."""

from __future__ import annotations

from enum import IntEnum

from hyperdht.crypto import KeyPair, blake2b, sign

ID_BYTES = 32
SHORT_ID_BYTES = 16
"""Length of ids on the wire: 128 bits cannot be made to collide with somebody else's entry."""
KEY_BYTES = 32
SIGNATURE_BYTES = 64


class StatementKind(IntEnum):
    """The number is the one on the wire and in the journal."""

    ENTRY = 0
    WITHDRAWAL = 1
    BLOCK_LIST = 2


DOMAINS = {
    StatementKind.ENTRY: b"ollaswarm entry v1\n",
    StatementKind.WITHDRAWAL: b"ollaswarm withdrawal v1\n",
    StatementKind.BLOCK_LIST: b"ollaswarm block list v1\n",
}
"""Signed in front of the bytes, so that no signature means something else elsewhere (T16)."""


def statement_id(raw: bytes, publisher: bytes, signature: bytes) -> bytes:
    """32 bytes that name one signed statement. Publisher and signature have fixed lengths, so nothing is ambiguous."""
    return blake2b(raw + publisher + signature)


def sign_raw(kind: StatementKind, raw: bytes, key_pair: KeyPair) -> bytes:
    """The publisher's signature over the bytes of a statement."""
    return sign(DOMAINS[kind] + raw, key_pair)
