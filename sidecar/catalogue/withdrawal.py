"""Withdrawal: a publisher's signed statement that an adapter is no longer offered."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .block_list import SignedBlockList, parse_block_list
from .entry import SignedEntry, parse_entry, read_name
from .envelope import SHORT_ID_BYTES, StatementKind, sign_raw, statement_id
from .fields import MAX_INTEGER, load_object, render

if TYPE_CHECKING:
    from hyperdht.crypto import KeyPair

_KEYS = frozenset({"v", "withdraw", "version", "created"})


@dataclass(frozen=True, slots=True)
class Withdrawal:
    """Takes back every lower version of `name` by its publisher, in all rooms."""

    name: str
    version: int
    created: str


@dataclass(frozen=True, slots=True)
class SignedWithdrawal:
    """A withdrawal with the exact bytes, key and signature it came with."""

    raw: bytes = field(repr=False)
    publisher: bytes
    signature: bytes = field(repr=False)
    withdrawal: Withdrawal
    id: bytes = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "id", statement_id(self.raw, self.publisher, self.signature))

    @property
    def kind(self) -> StatementKind:
        return StatementKind.WITHDRAWAL

    @property
    def name(self) -> str:
        return self.withdrawal.name

    @property
    def version(self) -> int:
        return self.withdrawal.version

    @property
    def short_id(self) -> bytes:
        """The 16 bytes that name it on the wire."""
        return self.id[:SHORT_ID_BYTES]


Statement = SignedEntry | SignedWithdrawal | SignedBlockList


def parse_withdrawal(raw: bytes) -> Withdrawal:
    """Read the exact bytes that were signed. Raises EntryInvalid."""
    fields = load_object(raw).only(_KEYS)
    fields.integer("v", 1, 1)
    return Withdrawal(read_name(fields, "withdraw"), fields.integer("version", 1, MAX_INTEGER), fields.time("created"))


def build_withdrawal(name: str, version: int, created: str) -> bytes:
    """The bytes to sign. Raises EntryInvalid."""
    raw = render({"v": 1, "withdraw": name, "version": version, "created": created})
    parse_withdrawal(raw)
    return raw


def sign_withdrawal(raw: bytes, key_pair: KeyPair) -> SignedWithdrawal:
    """Sign the bytes of `build_withdrawal`."""
    signature = sign_raw(StatementKind.WITHDRAWAL, raw, key_pair)
    return SignedWithdrawal(raw, key_pair.public_key, signature, parse_withdrawal(raw))


def parse_statement(kind: StatementKind, raw: bytes, publisher: bytes, signature: bytes) -> Statement:
    """A statement whose signature was checked already: by `trust.signatures`, or before it went into our journal."""
    if kind is StatementKind.ENTRY:
        return SignedEntry(raw, publisher, signature, parse_entry(raw))
    if kind is StatementKind.BLOCK_LIST:
        return SignedBlockList(raw, publisher, signature, parse_block_list(raw))
    return SignedWithdrawal(raw, publisher, signature, parse_withdrawal(raw))
