"""Block list: a publisher's signed statement of keys that others may want to block too. Format: docs/protocol/entry.md."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .envelope import SHORT_ID_BYTES, StatementKind, sign_raw, statement_id
from .fields import HEX64, MAX_INTEGER, load_object, render

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hyperdht.crypto import KeyPair

BLOCK_LIST_NAME = "!blocks"
"""Stands where an adapter's name stands. No adapter can be called so, and a publisher has one list."""
MAX_BLOCKED = 900
"""Keys of one list: what fits into the bytes of a statement."""

_KEYS = frozenset({"v", "blocks", "version", "created"})


@dataclass(frozen=True, slots=True)
class BlockList:
    """The whole list; a higher version replaces it."""

    blocked: tuple[bytes, ...]
    """Public keys, sorted."""
    version: int
    created: str


@dataclass(frozen=True, slots=True)
class SignedBlockList:
    """A block list with the exact bytes, key and signature it came with."""

    raw: bytes = field(repr=False)
    publisher: bytes
    signature: bytes = field(repr=False)
    block_list: BlockList
    id: bytes = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "id", statement_id(self.raw, self.publisher, self.signature))

    @property
    def kind(self) -> StatementKind:
        return StatementKind.BLOCK_LIST

    @property
    def name(self) -> str:
        return BLOCK_LIST_NAME

    @property
    def version(self) -> int:
        return self.block_list.version

    @property
    def short_id(self) -> bytes:
        """The 16 bytes that name it on the wire."""
        return self.id[:SHORT_ID_BYTES]


def parse_block_list(raw: bytes) -> BlockList:
    """Read the exact bytes that were signed. Raises EntryInvalid."""
    fields = load_object(raw).only(_KEYS)
    fields.integer("v", 1, 1)
    items = fields.items("blocks", MAX_BLOCKED)
    keys = [item for item in items if isinstance(item, str) and HEX64.fullmatch(item)]
    if len(keys) != len(items) or keys != sorted(set(keys)):
        fields.refuse("blocks", "a sorted list of different keys of 64 lower-case hex digits")
    blocked = tuple(bytes.fromhex(key) for key in keys)
    return BlockList(blocked, fields.integer("version", 1, MAX_INTEGER), fields.time("created"))


def build_block_list(blocked: Iterable[bytes], version: int, created: str) -> bytes:
    """The bytes to sign. Raises EntryInvalid."""
    keys = sorted({key.hex() for key in blocked})
    raw = render({"v": 1, "blocks": keys, "version": version, "created": created})
    parse_block_list(raw)
    return raw


def sign_block_list(raw: bytes, key_pair: KeyPair) -> SignedBlockList:
    """Sign the bytes of `build_block_list`."""
    signature = sign_raw(StatementKind.BLOCK_LIST, raw, key_pair)
    return SignedBlockList(raw, key_pair.public_key, signature, parse_block_list(raw))
