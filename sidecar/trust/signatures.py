"""Bytes in, verified statements out: the only door by which something signed comes in from outside.

Order, fixed: length, signature over the received bytes with the domain of their kind, then parsing of those same bytes
(T16). Not handled here: versions and limits (`catalogue.catalogue`), expiry and publishers (`policy`).
"""

from __future__ import annotations

from hyperdht.crypto import verify
from sidecar.catalogue.entry import SignedEntry
from sidecar.catalogue.envelope import DOMAINS, StatementKind
from sidecar.catalogue.limits import MAX_RAW_BYTES
from sidecar.catalogue.withdrawal import Statement, parse_statement
from sidecar.errors import EntryInvalid, SignatureInvalid


def verify_entry(raw: bytes, publisher: bytes, signature: bytes) -> SignedEntry:
    """Check and read an entry as it came from a peer or a file.

    Args:
        raw: The exact bytes.
        publisher: 32-byte key.
        signature: 64 bytes.
    Raises:
        SignatureInvalid: The key did not sign these bytes as an entry. Whoever sent them is lying or broken.
        EntryInvalid: Properly signed, but not an entry of a version we know.
    """
    _check(StatementKind.ENTRY, raw, publisher, signature)
    statement = parse_statement(StatementKind.ENTRY, raw, publisher, signature)
    assert isinstance(statement, SignedEntry)
    return statement


def verify_statement(kind: StatementKind, raw: bytes, publisher: bytes, signature: bytes) -> Statement:
    """Check and read what came under that kind; as `verify_entry`."""
    _check(kind, raw, publisher, signature)
    return parse_statement(kind, raw, publisher, signature)


def _check(kind: StatementKind, raw: bytes, publisher: bytes, signature: bytes) -> None:
    if len(raw) > MAX_RAW_BYTES:
        raise EntryInvalid(f"The entry has {len(raw)} bytes, at most {MAX_RAW_BYTES} are allowed.")
    if not verify(signature, DOMAINS[kind] + raw, publisher):
        raise SignatureInvalid(f"The signature of this {kind.name.lower()} does not belong to its bytes and publisher.")
