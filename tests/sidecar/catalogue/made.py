"""Entries and withdrawals to test with."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hyperdht.crypto import KeyPair
from sidecar.catalogue.entry import (
    ADAPTER_MEDIA_TYPE,
    AdapterFacts,
    BaseFacts,
    Blob,
    Entry,
    ModelFacts,
    SignedEntry,
    build_entry,
    sign_entry,
)
from sidecar.catalogue.entry_blobs import LICENSE_MEDIA_TYPE, MODEL_MEDIA_TYPE, TEMPLATE_MEDIA_TYPE
from sidecar.catalogue.withdrawal import SignedWithdrawal, build_withdrawal, sign_withdrawal

ALICE = KeyPair.from_seed(b"a" * 32)
BOB = KeyPair.from_seed(b"b" * 32)
NOW = 1_790_000_000.0

ENTRY = Entry(
    name="sql-lora",
    version=1,
    created="2026-11-23T12:00:00Z",
    description="Writes SQL",
    license="apache-2.0",
    tags=("sql",),
    base=BaseFacts("llama3.2:1b", "sha256:" + "22" * 32, "llama"),
    adapter=AdapterFacts("gguf", 8, 16.0, 64, "33" * 32),
    blobs=(Blob("sha256:" + "44" * 32, 13_631_488, ADAPTER_MEDIA_TYPE, "55" * 32),),
)
MODEL = Entry(
    name="llama3.2-1b",
    version=1,
    created="2026-11-23T12:00:00Z",
    license="llama3.2",
    kind="model",
    base=BaseFacts("llama3.2:1b", "sha256:" + "22" * 32, "llama"),
    model=ModelFacts("gguf", 1_235_814_432, "Q8_0", 147, "33" * 32),
    blobs=(
        Blob("sha256:" + "22" * 32, 1_321_082_688, MODEL_MEDIA_TYPE, "77" * 32),
        Blob("sha256:" + "66" * 32, 1_429, TEMPLATE_MEDIA_TYPE, "77" * 32),
        Blob("sha256:" + "88" * 32, 7_711, LICENSE_MEDIA_TYPE, "77" * 32),
    ),
)


def entry(name: str = "sql-lora", version: int = 1, key_pair: KeyPair = ALICE, **fields: Any) -> SignedEntry:
    """A signed entry."""
    return sign_entry(build_entry(replace(ENTRY, name=name, version=version, **fields)), key_pair)


def withdrawal(name: str = "sql-lora", version: int = 2, key_pair: KeyPair = ALICE) -> SignedWithdrawal:
    """A signed withdrawal."""
    return sign_withdrawal(build_withdrawal(name, version, "2026-11-24T12:00:00Z"), key_pair)


def blob(letter: str) -> Blob:
    """A blob whose digest is that hex digit 64 times."""
    return Blob("sha256:" + letter * 64, 1_000, ADAPTER_MEDIA_TYPE, "66" * 32)
