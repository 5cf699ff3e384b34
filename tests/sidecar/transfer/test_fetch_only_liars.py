"""How soon a fetch says that nobody but liars has the blob."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import pytest

from sidecar.errors import ChunkMismatch
from sidecar.transfer.chunks import ChunkSet
from sidecar.transfer.fetch import Fetch
from sidecar.transfer.fetch_types import FetchLimits
from sidecar.transfer.pool import SourcePool
from tests.sidecar.transfer.memory_source import Faults, MemorySource, make_blob

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.anyio

BLOB = make_blob(30_000)
LIMITS = FetchLimits(no_source_s=60.0, only_liars_s=0.2, retry_s=0.02, answer_s=0.2)


@pytest.mark.parametrize("faults", [Faults(wrong_chunks=True), Faults(table=b"x" * 32)], ids=["chunks", "table"])
async def test_t06_only_liars_are_not_waited_for(tmp_path: Path, faults: Faults) -> None:
    pool = SourcePool([MemorySource(b"liar", BLOB, faults)])
    await refused(tmp_path, pool)


async def test_t06_members_that_hold_nothing_are_not_waited_for(tmp_path: Path) -> None:
    empty = MemorySource(b"empty", BLOB, have=ChunkSet(BLOB.spec.count))
    await refused(tmp_path, SourcePool([MemorySource(b"liar", BLOB, Faults(wrong_chunks=True)), empty]))


async def refused(tmp_path: Path, pool: SourcePool) -> None:
    running = Fetch(BLOB.spec, pool, tmp_path / "partial", tmp_path / "blobs", limits=LIMITS)
    with anyio.fail_after(10), pytest.raises(ChunkMismatch, match="wrong data"):
        await running.run()


async def test_t06_honest_source_that_left_is_waited_for(tmp_path: Path) -> None:
    leaving = MemorySource(b"honest", BLOB, Faults(silent_after=0))
    banned = anyio.Event()
    pool = SourcePool([leaving, MemorySource(b"liar", BLOB, Faults(wrong_chunks=True))])

    def struck(key: bytes) -> None:
        pool.remove(b"honest")
        banned.set()

    running = Fetch(BLOB.spec, pool, tmp_path / "partial", tmp_path / "blobs", limits=LIMITS, struck=struck)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(running.run)
        with anyio.fail_after(10):
            await banned.wait()
            await anyio.sleep(LIMITS.only_liars_s * 3)  # longer than it would wait for liars only
            pool.add(MemorySource(b"honest", BLOB))
            while not (tmp_path / "blobs" / BLOB.digest.file_name).exists():  # noqa: ASYNC110
                await anyio.sleep(0.01)
