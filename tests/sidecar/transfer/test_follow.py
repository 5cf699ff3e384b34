"""Reading a blob while it is fetched: what comes first, what is kept back, and what is never handed out."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import anyio
import pytest
from anyio import from_thread

from sidecar.errors import SidecarError
from sidecar.transfer import follow as follow_module
from sidecar.transfer.chunks import CHUNK_BYTES, chunk_count
from sidecar.transfer.fetch import Fetch
from sidecar.transfer.fetch_types import FetchLimits
from sidecar.transfer.follow import Followed, FollowEnded
from sidecar.transfer.pool import SourcePool
from sidecar.transfer.scheduler_events import SchedulerLimits
from tests.sidecar.transfer.memory_source import Faults, MemorySource, make_blob

if TYPE_CHECKING:
    from pathlib import Path

    from sidecar.transfer.chunks import ChunkTable

pytestmark = pytest.mark.anyio

BLOB = make_blob(700 * CHUNK_BYTES + 99)
LAST = 700
SLOW = FetchLimits(
    no_source_s=0.3, nothing_came_s=2.0, answer_s=0.5, scheduler=SchedulerLimits(total_in_flight=96, stall_s=0.3)
)


def fetch(root: Path, *sources: MemorySource) -> Fetch:
    return Fetch(BLOB.spec, SourcePool(sources), root / "partial", root / "blobs", limits=SLOW)


async def read_all(followed: Followed, first: int, stop: int) -> bytes:
    data = b""
    with anyio.fail_after(20), followed.reader() as reader:
        while (index := first + chunk_count(len(data))) < stop:
            data += await reader.read(index, min(16, stop - index))
    return data


async def finished(running: Fetch, followed: Followed) -> None:
    blob = await running.run()
    assert running.table is not None
    followed.release(blob.path, running.table)


async def test_parts_read_at_once_give_the_blob_from_two_peers_one_of_which_leaves(tmp_path: Path) -> None:
    leaver = MemorySource(b"leaver", BLOB, Faults(lost_after=150), delay=0.002)
    running, followed = fetch(tmp_path, leaver, MemorySource(b"stays", BLOB, delay=0.002)), Followed(len(BLOB.data))
    followed.follow(running)
    parts: dict[int, bytes] = {}

    async def part(first: int, stop: int) -> None:
        parts[first] = await read_all(followed, first, stop)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(finished, running, followed)
        for first in (0, 200, 400, 600):
            tasks.start_soon(part, first, min(first + 200, LAST + 1))
    assert b"".join(parts[first] for first in sorted(parts)) == BLOB.data
    assert followed.readers == 0


async def test_what_somebody_waits_for_comes_first(tmp_path: Path) -> None:
    source = MemorySource(b"one", BLOB, delay=0.01)
    running, followed = fetch(tmp_path, source), Followed(len(BLOB.data))
    followed.follow(running)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(finished, running, followed)
        await read_all(followed, 500, 510)
        assert len(source.asked) < 300, "most of the blob was not asked for yet"
        assert source.asked[0] // 48 == 500 // 48, "and nothing before it"


async def test_the_last_chunk_waits_for_its_release_and_a_refusal_ends_readers(tmp_path: Path) -> None:
    running, followed = fetch(tmp_path, MemorySource(b"one", BLOB)), Followed(len(BLOB.data))
    followed.follow(running)
    outcome: list[str] = []

    async def read_end() -> None:
        try:
            await read_all(followed, LAST, LAST + 1)
        except FollowEnded as error:
            outcome.append(str(error))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(read_end)
        await running.run()
        await anyio.wait_all_tasks_blocked()
        assert not outcome, "nobody said that the blob may be read to its end"
        followed.end("it does not fit")
    assert outcome == ["it does not fit"]


async def test_a_released_file_that_changed_is_not_read(tmp_path: Path) -> None:
    running, followed = fetch(tmp_path, MemorySource(b"one", BLOB)), Followed(len(BLOB.data))
    followed.follow(running)
    await finished(running, followed)
    path = tmp_path / "blobs" / BLOB.digest.file_name
    with path.open("r+b") as file:
        file.seek(3 * CHUNK_BYTES + 5)
        file.write(b"changed")
    with followed.reader() as reader:
        assert await reader.read(0, 16) == BLOB.data[: 3 * CHUNK_BYTES]
        with pytest.raises(FollowEnded):
            await reader.read(3, 16)


async def test_another_fetch_goes_on_where_one_failed(tmp_path: Path) -> None:
    first, followed = fetch(tmp_path, MemorySource(b"one", BLOB, Faults(lost_after=300))), Followed(len(BLOB.data))
    followed.follow(first)
    got: list[bytes] = []

    async def read() -> None:
        got.append(await read_all(followed, 0, LAST + 1))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(read)
        with suppress(SidecarError):
            await first.run()
        source = MemorySource(b"two", BLOB)
        second = fetch(tmp_path, source)
        followed.follow(second)
        await finished(second, followed)
    assert got == [BLOB.data]
    assert len(source.asked) <= 701 - 300 + 96, "what was verified is not fetched again"


async def test_a_file_that_gets_its_last_name_while_it_is_read_is_read_under_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fetch may end and release the blob between the moment a reader learns where it is and its opening of the file."""
    running, followed = fetch(tmp_path, MemorySource(b"one", BLOB)), Followed(len(BLOB.data))
    followed.follow(running)
    await running.run()
    opened: list[str] = []
    read = follow_module._read

    def read_late(path: Path, table: ChunkTable, size: int, first: int, count: int) -> bytes:
        if not opened:
            from_thread.run_sync(followed.release, tmp_path / "blobs" / BLOB.digest.file_name, table)
        opened.append(path.name)
        return read(path, table, size, first, count)

    monkeypatch.setattr(follow_module, "_read", read_late)
    assert await read_all(followed, 0, 1) == BLOB.data[:CHUNK_BYTES]
    assert opened == ["data", BLOB.digest.file_name]
