"""Chunk tables and sets."""

from __future__ import annotations

import hashlib
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_bridge.digests import Digest
from sidecar.errors import BlobMismatch, TransferCancelled
from sidecar.transfer.chunks import (
    CHUNK_BYTES,
    MAX_BLOB_BYTES,
    MAX_TABLE_BYTES,
    ChunkSet,
    ChunkTable,
    chunk_count,
    chunk_length,
    hash_chunks,
)


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 40 * CHUNK_BYTES + 7])
def test_one_pass_gives_digest_and_table(size: int) -> None:
    data = bytes(index % 251 for index in range(size))
    digest, table = hash_chunks(io.BytesIO(data), size)
    chunks = [data[start : start + CHUNK_BYTES] for start in range(0, size, CHUNK_BYTES)]
    assert digest == Digest.of(data)
    assert table.count == len(chunks) == chunk_count(size)
    assert [table.hash_of(index) for index in range(table.count)] == [hashlib.sha256(c).digest() for c in chunks]
    assert table.root_hex == hashlib.sha256(b"".join(hashlib.sha256(c).digest() for c in chunks)).hexdigest()
    assert [chunk_length(index, size) for index in range(table.count)] == list(map(len, chunks))


def test_short_reads_do_not_shift_chunks() -> None:
    class Dripping(io.BytesIO):
        def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
            return super().readinto(buffer[:1000])

    data = bytes(3 * CHUNK_BYTES + 5)
    assert hash_chunks(Dripping(data), len(data)) == hash_chunks(io.BytesIO(data), len(data))


@pytest.mark.parametrize("real", [10, 99, 101, 5 * 1024 * 1024])
def test_t06_file_of_another_length_is_refused(real: int) -> None:
    with pytest.raises(BlobMismatch, match="changed while it was read"):
        hash_chunks(io.BytesIO(bytes(real)), 100)


def test_t06_too_large_for_a_table() -> None:
    with pytest.raises(BlobMismatch):
        hash_chunks(io.BytesIO(b""), MAX_BLOB_BYTES + 1)
    with pytest.raises(ValueError, match="chunk table"):
        ChunkTable(bytes(MAX_TABLE_BYTES + 32))
    with pytest.raises(ValueError, match="chunk table"):
        ChunkTable(bytes(33))


def test_hashing_tells_progress_and_can_be_cancelled() -> None:
    seen: list[int] = []
    hash_chunks(io.BytesIO(bytes(3 << 20)), 3 << 20, seen.append)
    assert seen == [1 << 20, 2 << 20, 3 << 20]
    with pytest.raises(TransferCancelled):
        hash_chunks(io.BytesIO(bytes(3 << 20)), 3 << 20, None, lambda: True)


sets = st.integers(0, 200).flatmap(
    lambda total: st.tuples(st.just(total), st.sets(st.integers(0, max(0, total - 1)), max_size=total))
)


@given(sets)
def test_set_is_a_set(case: tuple[int, set[int]]) -> None:
    total, members = case
    members = members if total else set()
    chunks = ChunkSet(total)
    for index in members:
        chunks.add(index)
    assert [index for index in range(-3, total + 3) if chunks.has(index)] == sorted(members)
    assert chunks.count == len(members)
    assert chunks.complete == (len(members) == total)
    assert ChunkSet.from_bytes(chunks.to_bytes(), total) == chunks
    missing = [index for first, count in chunks.missing_runs() for index in range(first, first + count)]
    assert missing == sorted(set(range(total)) - members)
    for index in list(members)[::2]:
        chunks.discard(index)
        chunks.discard(index)
    assert chunks.count == len(members) - len(list(members)[::2])


@given(st.integers(0, 300), st.integers(0, 300), st.sets(st.integers(0, 299)))
def test_ranges_count_right(first: int, length: int, before: set[int]) -> None:
    chunks = ChunkSet(300)
    for index in before:
        chunks.add(index)
    length = min(length, 300 - first)
    chunks.add_range(first, length)
    assert chunks.count == len(before | set(range(first, first + length)))
    assert chunks.has_range(first, length)


@given(st.binary(max_size=6), st.integers(0, 48))
def test_t06_any_bytes_decode_or_are_refused(data: bytes, total: int) -> None:
    try:
        chunks = ChunkSet.from_bytes(data, total)
    except ValueError:
        return
    assert chunks.to_bytes() == data
    assert chunks.count <= total


def test_adding_outside_the_blob_is_refused() -> None:
    with pytest.raises(IndexError):
        ChunkSet(10).add(10)
    with pytest.raises(IndexError):
        ChunkSet(10).add_range(5, 6)
