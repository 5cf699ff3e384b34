"""Digests: one spelling only."""

from __future__ import annotations

import hashlib
import io
from typing import TYPE_CHECKING

import pytest

from ollama_bridge.digests import HASH_BLOCK_BYTES, Digest, hash_file
from ollama_bridge.errors import DigestInvalid

if TYPE_CHECKING:
    from pathlib import Path

HEX = hashlib.sha256(b"x").hexdigest()


def test_digest_has_one_text_and_one_file_name() -> None:
    digest = Digest.parse(f"sha256:{HEX}")
    assert digest == Digest.of(b"x")
    assert str(digest) == f"sha256:{HEX}"
    assert digest.file_name == f"sha256-{HEX}"
    assert Digest.parse_file_name(digest.file_name) == digest


@pytest.mark.parametrize(
    "text",
    [
        "",
        HEX,
        f"sha256-{HEX}",
        f"SHA256:{HEX}",
        f"sha256:{HEX.upper()}",
        f"sha256:{HEX[:-1]}",
        f"sha256:{HEX}0",
        f"sha256:{HEX}\n",
        f"sha512:{HEX}",
        "sha256:" + "../" * 21 + "a",
        "sha256:" + "\u0665" * 64,
    ],
)
def test_t07_other_spellings_are_refused(text: str) -> None:
    with pytest.raises(DigestInvalid):
        Digest.parse(text)


@pytest.mark.parametrize("name", [f"sha256-{HEX}-partial", f"sha256-{HEX}.tmp", "sha256-123456", f"sha256:{HEX}", ""])
def test_transient_files_are_no_blobs(name: str) -> None:
    assert Digest.parse_file_name(name) is None


def test_hash_file_reads_paths_and_open_files_and_tells_progress(tmp_path: Path) -> None:
    content = bytes(range(256)) * (HASH_BLOCK_BYTES // 128)
    path = tmp_path / "file"
    path.write_bytes(content)
    seen: list[int] = []
    assert hash_file(path, seen.append) == Digest.of(content) == hash_file(io.BytesIO(content))
    assert seen == [HASH_BLOCK_BYTES, 2 * HASH_BLOCK_BYTES]
