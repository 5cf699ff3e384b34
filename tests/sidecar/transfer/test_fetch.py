"""Fetching from peers that are honest, slow, gone, or lying about one thing each."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING

import anyio
import pytest

from ollama_bridge.digests import Digest
from sidecar.errors import BlobMismatch, ChunkMismatch, NoProviders, QuotaExceeded, TransferCancelled, TransferError
from sidecar.transfer.bandwidth import TokenBucket
from sidecar.transfer.chunks import CHUNK_BYTES, MAX_BLOB_BYTES, ChunkSet
from sidecar.transfer.fetch import Fetch, fetch_blob
from sidecar.transfer.fetch_types import BlobSpec, FetchLimits, Progress
from sidecar.transfer.partial import DiskPolicy, PartialFile
from sidecar.transfer.pool import SourcePool
from sidecar.transfer.scheduler_events import SchedulerLimits
from sidecar.transfer.source import SourceLost
from sidecar.transfer.source_state import FIRST_WINDOW, MAX_DENIALS
from tests.sidecar.transfer.memory_source import Blob, Faults, MemorySource, make_blob

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.anyio

BLOB = make_blob(150 * CHUNK_BYTES + 99)
QUICK = FetchLimits(
    no_source_s=0.3,
    nothing_came_s=1.0,
    answer_s=0.2,
    retry_s=0.02,
    refresh_s=0.02,
    scheduler=SchedulerLimits(stall_s=0.2),
)


def honest(key: bytes = b"honest", blob: Blob = BLOB) -> MemorySource:
    return MemorySource(key, blob)


def fetch(root: Path, *sources: MemorySource, blob: Blob = BLOB, **options: object) -> Fetch:
    options.setdefault("limits", QUICK)
    return Fetch(blob.spec, SourcePool(sources), root / "partial", root / "blobs", **options)  # type: ignore[arg-type]


def name_of(value: object) -> str | None:
    """A short test id: the switches that are on."""
    if not isinstance(value, Faults):
        return None
    return "-".join(f.name for f in fields(value) if getattr(value, f.name) != f.default)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a state that announces itself by no event."""
    with anyio.fail_after(10):
        while not condition():  # noqa: ASYNC110
            await anyio.sleep(0.005)


async def check(running: Fetch, blob: Blob = BLOB) -> None:
    with anyio.fail_after(20):
        verified = await running.run()
    assert verified.digest == blob.digest
    assert verified.path.read_bytes() == blob.data


async def test_one_source(tmp_path: Path) -> None:
    source = honest()
    await check(fetch(tmp_path, source))
    assert sorted(source.asked) == list(range(151)), "each chunk once"
    assert not list((tmp_path / "partial").iterdir())


async def test_function_form(tmp_path: Path) -> None:
    seen: list[Progress] = []
    blob = await fetch_blob(BLOB.spec, SourcePool([honest()]), tmp_path / "p", tmp_path / "b", progress=seen.append)
    assert blob.size == len(BLOB.data)
    assert seen[-1].done_bytes == seen[-1].total_bytes == len(BLOB.data)
    assert [p.done_bytes for p in seen] == sorted(p.done_bytes for p in seen)


@pytest.mark.parametrize(
    "faults",
    [
        Faults(wrong_chunks=True),
        Faults(short_chunks=True),
        Faults(other_indexes=True),
        Faults(unknown_requests=True),
        Faults(table=b"x" * 32 * 151),
        Faults(table=b"x" * 31),
        Faults(table=BLOB.table.hashes + b"x" * 32),
        Faults(table=b""),
        Faults(silent_table=True),
        Faults(holdings_total=150),
        Faults(holdings_total=100_000),
        Faults(silent_after=20),
        Faults(silent_after=0),
        Faults(lost_after=40),
        Faults(busy=True),
        Faults(gone=True),
    ],
    ids=name_of,
)
async def test_t06_one_bad_peer_and_one_honest(tmp_path: Path, faults: Faults) -> None:
    bad = MemorySource(b"bad", BLOB, faults)
    await check(fetch(tmp_path, bad, honest()))


@pytest.mark.parametrize(
    ("faults", "error"),
    [
        (Faults(wrong_chunks=True), ChunkMismatch),
        (Faults(short_chunks=True), ChunkMismatch),
        (Faults(unknown_requests=True), ChunkMismatch),
        (Faults(table=b"x" * 32 * 151), ChunkMismatch),
        (Faults(holdings_total=150), NoProviders),
        (Faults(silent_after=20), NoProviders),
        (Faults(lost_after=32), NoProviders),
    ],
    ids=name_of,
)
async def test_t06_only_a_bad_peer_ends_with_the_reason(
    tmp_path: Path, faults: Faults, error: type[TransferError]
) -> None:
    struck: list[bytes] = []
    with anyio.fail_after(10), pytest.raises(error):
        await fetch(tmp_path, MemorySource(b"bad", BLOB, faults), struck=struck.append).run()
    assert struck == ([b"bad"] if error is ChunkMismatch else [])
    await check(fetch(tmp_path, honest()))


async def test_t06_who_refuses_what_it_says_it_holds_is_asked_a_few_times_and_banned(tmp_path: Path) -> None:
    struck: list[bytes] = []
    denier = MemorySource(b"denier", BLOB, Faults(gone=True))
    with anyio.fail_after(10), pytest.raises(NoProviders):
        await fetch(tmp_path, denier, struck=struck.append).run()
    assert struck == [b"denier"]
    assert len(denier.asked) <= MAX_DENIALS * FIRST_WINDOW


async def test_t06_liar_is_banned_after_three_chunks(tmp_path: Path) -> None:
    liar = MemorySource(b"liar", BLOB, Faults(wrong_chunks=True))
    await check(fetch(tmp_path, liar, honest()))
    assert liar.sent <= 256, "what was on its way when the third lie was seen, no more"


async def test_t06_room_full_of_liars_and_one_honest(tmp_path: Path) -> None:
    faults = [Faults(wrong_chunks=True), Faults(table=b"y" * 32 * 151), Faults(silent_after=0), Faults(gone=True)]
    bad = [MemorySource(b"bad%d" % number, BLOB, faults[number % 4]) for number in range(40)]
    await check(fetch(tmp_path, *bad, honest()))


async def test_t06_sixty_that_never_answer_do_not_keep_the_table_of_the_honest_one_away(tmp_path: Path) -> None:
    silent = [MemorySource(b"silent%d" % number, BLOB, Faults(silent_table=True)) for number in range(60)]
    limits = replace(QUICK, answer_s=60.0, nothing_came_s=20.0)
    with anyio.fail_after(15):
        await check(fetch(tmp_path, *silent, honest(), limits=limits))


async def test_a_source_that_is_slow_with_the_table_is_used_as_soon_as_another_told_it(tmp_path: Path) -> None:
    slow = MemorySource(b"slow", BLOB, Faults(silent_table=True))
    honest_one = honest()
    honest_one.delay = 0.2
    limits = replace(QUICK, answer_s=60.0)
    await check(fetch(tmp_path, slow, honest_one, limits=limits))
    assert slow.sent > 0


@pytest.mark.parametrize("size", [0, -1, MAX_BLOB_BYTES + 1, 1 << 62])
def test_t06_impossible_sizes_are_refused_before_anything(size: int) -> None:
    with pytest.raises(TransferError):
        BlobSpec(BLOB.digest, size, BLOB.table.root_hex)
    with pytest.raises(TransferError):
        BlobSpec(BLOB.digest, 10, "../../etc")


async def test_t06_entry_that_contradicts_itself(tmp_path: Path) -> None:
    lie = Blob(BLOB.data, Digest.of(b"something else"), BLOB.table)
    with anyio.fail_after(10), pytest.raises(BlobMismatch):
        await fetch(tmp_path, honest(blob=lie), blob=lie).run()
    assert not list((tmp_path / "blobs").iterdir())
    assert not list((tmp_path / "partial").iterdir()), "nothing of it can be used"


async def test_parts_from_several_sources(tmp_path: Path) -> None:
    sources = []
    for start in range(3):
        have = ChunkSet(151)
        for index in range(start, 151, 3):
            have.add(index)
        sources.append(MemorySource(b"%d" % start, BLOB, have=have))
    await check(fetch(tmp_path, *sources))
    assert sorted(index for source in sources for index in source.asked)[:151] == list(range(151))


async def test_holdings_that_grow_are_noticed(tmp_path: Path) -> None:
    source = MemorySource(b"growing", BLOB, have=ChunkSet(151))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(check, fetch(tmp_path, source))
        assert source.have is not None
        for first in range(0, 151, 50):
            await anyio.sleep(0.05)
            source.have.add_range(first, min(50, 151 - first))


async def test_source_joins_when_the_first_has_left(tmp_path: Path) -> None:
    pool = SourcePool([MemorySource(b"first", BLOB, Faults(lost_after=96))])
    running = Fetch(BLOB.spec, pool, tmp_path / "partial", tmp_path / "blobs", limits=QUICK)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(check, running)
        await until(lambda: running.have is not None and running.have.count >= 50)
        second = honest(b"second")
        pool.add(second)
    assert set(second.asked).isdisjoint(range(48)), "it went on where the first stopped"


async def test_removed_source_is_not_asked_any_more(tmp_path: Path) -> None:
    leaving, staying = MemorySource(b"leaving", BLOB, delay=0.01), MemorySource(b"staying", BLOB, delay=0.01)
    pool = SourcePool([leaving, staying])
    running = Fetch(BLOB.spec, pool, tmp_path / "partial", tmp_path / "blobs", limits=QUICK)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(check, running)
        await until(lambda: leaving.sent > 0)
        pool.remove(b"leaving")
    assert leaving.sent <= 64


async def test_reconnected_peer_goes_on_and_is_not_struck(tmp_path: Path) -> None:
    struck: list[bytes] = []
    first = MemorySource(b"same", BLOB, delay=0.01)
    pool = SourcePool([first])
    running = Fetch(BLOB.spec, pool, tmp_path / "partial", tmp_path / "blobs", limits=QUICK, struck=struck.append)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(check, running)
        await until(lambda: first.sent > 0)
        second = honest(b"same")
        pool.add(second)
    assert second.asked
    assert struck == []


async def test_source_fails_while_it_is_asked(tmp_path: Path) -> None:
    class Broken(MemorySource):
        def request(self, digest: Digest, first: int, count: int) -> int:
            raise SourceLost

        async def chunk_table(self, digest: Digest, count: int) -> bytes:
            raise SourceLost

    await check(fetch(tmp_path, Broken(b"a", BLOB), honest()))
    (tmp_path / "blobs" / BLOB.digest.file_name).unlink()
    await check(fetch(tmp_path, Broken(b"a", BLOB), honest(), table=BLOB.table))


async def test_nobody_at_all(tmp_path: Path) -> None:
    with pytest.raises(NoProviders, match="No connected peer"):
        await fetch(tmp_path).run()


async def test_cancel_keeps_the_partial_and_resume_continues(tmp_path: Path) -> None:
    source = MemorySource(b"a", BLOB, delay=0.03)
    running: Fetch

    def cancel_soon(progress: Progress) -> None:
        if progress.done_bytes > 2_000_000:
            running.cancel()

    running = fetch(tmp_path, source, progress=cancel_soon)
    with pytest.raises(TransferCancelled):
        await running.run()
    assert source.cancelled, "the peer is told"
    with PartialFile(tmp_path / "partial", tmp_path / "blobs", BLOB.digest, len(BLOB.data), BLOB.table) as partial:
        kept = partial.have.copy()
    assert kept.count >= 30
    again = honest()
    await check(fetch(tmp_path, again))
    assert not any(kept.has(index) for index in again.asked)


async def test_outer_cancellation_frees_the_lock(tmp_path: Path) -> None:
    with anyio.move_on_after(0.05):
        await fetch(tmp_path, MemorySource(b"a", BLOB, Faults(silent_after=30))).run()
    await check(fetch(tmp_path, honest()))


async def test_what_exists_is_verified_and_not_fetched(tmp_path: Path) -> None:
    await check(fetch(tmp_path, honest()))
    source = honest()
    await check(fetch(tmp_path, source))
    assert source.asked == []
    path = tmp_path / "blobs" / BLOB.digest.file_name
    path.write_bytes(BLOB.data[:-1] + bytes([BLOB.data[-1] ^ 1]))
    await check(fetch(tmp_path, source))
    assert len(source.asked) == 151


async def test_t20_quota_refusal_is_the_result(tmp_path: Path) -> None:
    def refuse(needed: int) -> None:
        raise QuotaExceeded(f"{needed} bytes are over the quota")

    with pytest.raises(QuotaExceeded):
        await fetch(tmp_path, honest(), policy=DiskPolicy(admit=refuse)).run()


async def test_download_cap(tmp_path: Path) -> None:
    rate = 12_000_000.0
    cap = TokenBucket(rate)
    started = anyio.current_time()
    await check(fetch(tmp_path, honest(), caps=lambda source: [cap]))
    assert anyio.current_time() - started > (len(BLOB.data) / rate - 0.25) * 0.9


async def test_sources_that_wait_for_a_cap_of_ours_are_not_taken_for_stalled(tmp_path: Path) -> None:
    """Eight share a cap so low that each waits longer than a source may be silent."""
    cap, sources = TokenBucket(4_000_000.0), [honest(b"source%d" % number) for number in range(8)]
    limits = replace(QUICK, scheduler=SchedulerLimits(stall_s=0.2), nothing_came_s=20.0)
    await check(fetch(tmp_path, *sources, caps=lambda source: [cap], limits=limits))
    assert sum(len(source.cancelled) for source in sources) <= 8, "those of the end game"
    assert sum(len(source.asked) for source in sources) <= 151 + 24


async def test_t06_memory_is_bounded_by_the_window(tmp_path: Path) -> None:
    """A source that answers at once is never asked for more than the window before the disk took it."""
    blob = make_blob(1200 * CHUNK_BYTES)
    owed: list[int] = []

    class Watched(MemorySource):
        def request(self, digest: Digest, first: int, count: int) -> int:
            request_id = super().request(digest, first, count)
            owed.append(len(self.asked) - (running.have.count if running.have else 0))
            return request_id

    running = fetch(tmp_path, Watched(b"quick", blob), blob=blob)
    await check(running, blob)
    assert 16 <= max(owed) <= SchedulerLimits().total_in_flight
