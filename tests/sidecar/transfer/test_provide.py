"""Serving chunks: only what was shared, fairly, within the caps."""

from __future__ import annotations

import os
from collections import Counter
from typing import TYPE_CHECKING

import anyio
import pytest

from ollama_bridge.digests import Digest
from sidecar.transfer.bandwidth import MAX_KEPT, EachCapped, TokenBucket
from sidecar.transfer.chunks import CHUNK_BYTES, ChunkSet
from sidecar.transfer.provide import READ_CHUNKS, Provider
from sidecar.transfer.provided import ChunksRefused
from sidecar.transfer.slots import SLOW_S, UploadSlots
from sidecar.transfer.uploads import MAX_REQUESTS, PeerUploads, Refusal, UploadBatch
from tests.sidecar.transfer.memory_source import make_blob

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.anyio

BLOB = make_blob(70 * CHUNK_BYTES + 5)


class Setup:
    """A provider with one blob, and what it withdrew."""

    def __init__(self, path: Path, cap: TokenBucket | None = None) -> None:
        self.withdrawn: list[Digest] = []
        self.path = BLOB.write(path / "blob")
        self.provider = Provider(withdrawn=lambda digest, reason: self.withdrawn.append(digest), cap=cap)
        self.provider.register(BLOB.digest, len(BLOB.data), BLOB.table, lambda: self.path.open("rb", buffering=0))

    def peer(self, *, cap: TokenBucket | None = None, exempt: bool = False) -> PeerUploads:
        return self.provider.peer(b"peer", may_have=lambda digest: True, cap=cap, exempt=exempt)


async def next_batch(uploads: PeerUploads) -> UploadBatch:
    with anyio.fail_after(10):
        batch = await uploads.next_batch()
    assert isinstance(batch, UploadBatch)
    return batch


async def next_refusal(uploads: PeerUploads) -> Refusal:
    with anyio.fail_after(10):
        refusal = await uploads.next_batch()
    assert isinstance(refusal, Refusal)
    return refusal


async def test_runs_are_read_and_verified(tmp_path: Path) -> None:
    provider = Setup(tmp_path).provider
    assert await provider.read_chunks(BLOB.digest, 60, 11) == BLOB.data[60 * CHUNK_BYTES : 71 * CHUNK_BYTES]


@pytest.mark.parametrize(("first", "count"), [(-1, 2), (0, 0), (0, READ_CHUNKS + 1), (70, 2), (71, 1), (1 << 40, 1)])
async def test_t06_impossible_ranges_are_refused(tmp_path: Path, first: int, count: int) -> None:
    setup = Setup(tmp_path)
    with pytest.raises(ChunksRefused):
        await setup.provider.read_chunks(BLOB.digest, first, count)
    assert setup.provider.blob(BLOB.digest) is not None, "the question was wrong, not the blob"


@pytest.mark.parametrize("swap", ["other content", "symlink", "gone", "truncated", "one bit"])
async def test_t08_file_swapped_during_a_read_is_never_sent(tmp_path: Path, swap: str) -> None:
    setup = Setup(tmp_path)
    secret = tmp_path / "secret"
    secret.write_bytes(b"s" * len(BLOB.data))
    async with setup.peer() as uploads:
        uploads.request(1, BLOB.digest, 0, 71)
        seen = bytes((await next_batch(uploads)).data)
        if swap == "other content":
            secret.replace(setup.path)
        elif swap == "symlink":
            setup.path.unlink()
            setup.path.symlink_to(secret)
        elif swap == "gone":
            setup.path.unlink()
        elif swap == "truncated":
            os.truncate(setup.path, 100)
        else:
            with setup.path.open("r+b") as file:
                file.seek(50 * CHUNK_BYTES)
                file.write(bytes([BLOB.data[50 * CHUNK_BYTES] ^ 1]))
        while True:
            with anyio.fail_after(10):
                batch = await uploads.next_batch()
            if isinstance(batch, Refusal):
                break
            seen += batch.data
        assert batch == Refusal(1, gone=True)
        uploads.request(2, BLOB.digest, 0, 1)
        assert await next_refusal(uploads) == Refusal(2, gone=True)
    assert seen == BLOB.data[: len(seen)], "what left was what was shared"
    assert setup.withdrawn == [BLOB.digest]


async def test_a_room_only_gets_what_it_shares(tmp_path: Path) -> None:
    setup = Setup(tmp_path)
    async with setup.provider.peer(b"stranger", may_have=lambda digest: False) as uploads:
        uploads.request(1, BLOB.digest, 0, 1)
        assert await next_refusal(uploads) == Refusal(1, gone=True)
        uploads.request(2, Digest.of(b"unknown"), 0, 1)
        assert await next_refusal(uploads) == Refusal(2, gone=True)


async def test_partial_blob_serves_what_it_holds_so_far(tmp_path: Path) -> None:
    setup = Setup(tmp_path)
    have = ChunkSet(71)
    have.add_range(16, 16)
    setup.provider.register(BLOB.digest, len(BLOB.data), BLOB.table, lambda: setup.path.open("rb"), have)
    async with setup.peer() as uploads:
        uploads.request(1, BLOB.digest, 10, 4)
        assert await next_refusal(uploads) == Refusal(1, gone=True)
        have.add_range(10, 4)
        uploads.request(2, BLOB.digest, 10, 4)
        assert (await next_batch(uploads)).first == 10
    blob = setup.provider.blob(BLOB.digest)
    assert blob is not None
    assert blob.holdings().count == 20
    assert setup.withdrawn == []


async def test_cancelled_request_is_not_served(tmp_path: Path) -> None:
    async with Setup(tmp_path).peer() as uploads:
        for request_id in range(1, 6):
            uploads.request(request_id, BLOB.digest, request_id, 1)
        uploads.cancel(3)
        assert [(await next_batch(uploads)).request_id for _ in range(4)] == [1, 2, 4, 5]
        assert uploads.waiting == 0


async def test_cancel_stops_a_long_request(tmp_path: Path) -> None:
    async with Setup(tmp_path).peer() as uploads:
        uploads.request(1, BLOB.digest, 0, 71)
        await next_batch(uploads)
        uploads.cancel(1)
        uploads.request(2, BLOB.digest, 70, 1)
        left = [await next_batch(uploads) for _ in range(2)]
        assert [batch.request_id for batch in left] == [1, 2], "one was read ahead"


async def test_t20_more_requests_than_allowed_are_refused(tmp_path: Path) -> None:
    async with Setup(tmp_path).peer() as uploads:
        for request_id in range(MAX_REQUESTS + 10_000):
            uploads.request(request_id, BLOB.digest, 0, 1)
        assert uploads.waiting == MAX_REQUESTS
        assert len(uploads._refusals) <= MAX_REQUESTS
        assert await next_refusal(uploads) == Refusal(MAX_REQUESTS, gone=False)


async def test_t20_slow_readers_do_not_block_others(tmp_path: Path) -> None:
    clock = [0.0]
    slots = UploadSlots(2, clock=lambda: clock[0])
    for peer in (b"slow", b"other"):
        slots.join(peer)
    held = [await slots.take(b"slow", 1), await slots.take(b"slow", 1)]
    async with anyio.create_task_group() as tasks:
        taken = anyio.Event()

        async def other() -> None:
            with anyio.fail_after(10):
                await slots.take(b"other", 1)
            taken.set()

        tasks.start_soon(other)
        await anyio.wait_all_tasks_blocked()
        assert not taken.is_set()
        clock[0] = SLOW_S
        slots.give_back(held[1])
        await taken.wait()
    held.append(await slots.take(b"other", 1))
    assert held[0].revoked
    assert slots.is_slow(b"slow"), "it gets smaller batches from now on"


async def test_t20_slots_are_fair_to_a_peer_that_asks_for_less(tmp_path: Path) -> None:
    slots = UploadSlots(2)
    order: list[bytes] = []

    async def take_many(peer: bytes, count: int) -> None:
        slots.join(peer)
        for _ in range(count):
            slot = await slots.take(peer, 1 << 20)
            order.append(peer)
            await anyio.lowlevel.checkpoint()
            slots.give_back(slot)
        slots.leave(peer)

    async with anyio.create_task_group() as tasks:
        for peer, tasks_of_it in ((b"greedy", 10), (b"modest", 1)):
            for _ in range(tasks_of_it):
                tasks.start_soon(take_many, peer, 20)
    assert order[:60].count(b"modest") == 20, "ten tasks do not get more than one peer's share"


async def test_t20_cancelled_waiter_leaves_no_trace(tmp_path: Path) -> None:
    slots = UploadSlots(1)
    slots.join(b"a")
    slot = await slots.take(b"a", 1)
    with anyio.move_on_after(0.01):
        await slots.take(b"a", 1)
    slots.give_back(slot)
    with anyio.fail_after(1):
        slots.give_back(await slots.take(b"a", 1))
    slots.leave(b"a")
    assert slots._free == 1


async def test_slots_are_free_again_when_a_peer_goes(tmp_path: Path) -> None:
    setup = Setup(tmp_path)
    for _ in range(20):
        async with setup.peer() as uploads:
            uploads.request(1, BLOB.digest, 0, 71)
            await next_batch(uploads)
    assert setup.provider.slots._free == 8


async def test_upload_cap_and_exemption(tmp_path: Path) -> None:
    setup = Setup(tmp_path, TokenBucket(4_000_000.0))

    async def seconds(*, cap: TokenBucket | None = None, exempt: bool = False) -> float:
        started = anyio.current_time()
        async with setup.peer(cap=cap, exempt=exempt) as uploads:
            uploads.request(1, BLOB.digest, 0, 40)
            sent = 0
            while sent < 40:
                sent += len((await next_batch(uploads)).data) // CHUNK_BYTES
        return anyio.current_time() - started

    assert await seconds() > (40 * CHUNK_BYTES / 4e6 - 2 * 0.25) * 0.9, (
        "the burst, and a batch begun before it was used up"
    )
    assert await seconds(exempt=True) < 0.3
    assert await seconds(exempt=True, cap=TokenBucket(1000.0)) < 0.3


async def test_the_cap_of_a_peer_holds_over_all_rooms_and_for_nobody_else(tmp_path: Path) -> None:
    setup = Setup(tmp_path)
    setup.provider = Provider(peer_rate=4_000_000.0)
    setup.provider.register(BLOB.digest, len(BLOB.data), BLOB.table, lambda: setup.path.open("rb"))
    seconds: dict[str, float] = {}

    async def serve(name: str, key: bytes) -> None:
        started = anyio.current_time()
        async with setup.provider.peer(key, may_have=lambda digest: True) as uploads:
            uploads.request(1, BLOB.digest, 0, 20)
            sent = 0
            while sent < 20:
                sent += len((await next_batch(uploads)).data) // CHUNK_BYTES
        seconds[name] = anyio.current_time() - started

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(serve, "one room", b"peer")
        tasks.start_soon(serve, "other room", b"peer")
    alone = 20 * CHUNK_BYTES / 4e6
    assert max(seconds.values()) >= (2 * alone - 0.25) * 0.9
    await serve("another peer", b"other")
    assert seconds["another peer"] < alone


@pytest.mark.parametrize("takers", [2, 20])
async def test_t20_what_a_cap_leaves_is_shared_by_bytes_whatever_is_asked_for_at_once(takers: int) -> None:
    """One peer asks for 3 MiB at a time, the others for 128 KiB."""
    cap, slots, served = TokenBucket(20e6), UploadSlots(), Counter[bytes]()

    async def take(peer: bytes, size: int) -> None:
        slots.join(peer)
        while True:
            slot = await slots.take(peer, size, (cap,))
            served[peer] += size
            await anyio.lowlevel.checkpoint()
            slots.give_back(slot)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(take, b"large", 3 << 20)
        for number in range(takers - 1):
            tasks.start_soon(take, b"small %d" % number, 128 << 10)
        await anyio.sleep(2.0)
        tasks.cancel_scope.cancel()
    assert sum(served.values()) <= 20e6 * 2.0 * 1.1 + 0.25 * 20e6 + (3 << 20)
    fair = sum(served.values()) / takers
    assert served[b"large"] <= fair + 2 * (3 << 20) + 0.25 * 20e6, "two batches, and what it got of the burst"
    assert min(served.values()) >= 0.6 * fair, (
        "nobody starves, least of all who asks for much and waits longest for the cap"
    )


async def test_who_stood_behind_another_for_a_cap_goes_as_soon_as_the_cap_lets_it() -> None:
    """And not when somebody else next asks or is done: waiting for a quarter of a second each time, a peer slows down."""
    cap, slots = TokenBucket(48 * CHUNK_BYTES), UploadSlots()
    cap.reserve(12 * CHUNK_BYTES, now=anyio.current_time())
    seconds: dict[bytes, float] = {}
    begun = anyio.current_time()

    async def take(peer: bytes, size: int) -> None:
        slots.join(peer)
        await slots.take(peer, size, (cap,))
        seconds[peer] = anyio.current_time() - begun

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(take, b"first", 12 * CHUNK_BYTES)
        tasks.start_soon(take, b"behind", CHUNK_BYTES)
    assert list(seconds) == [b"first", b"behind"]
    assert seconds[b"behind"] < 2.0, "13 chunks at 48 a second; slots are looked at only every five seconds"


async def test_t20_being_given_less_is_remembered_between_batches_and_idleness_is_not() -> None:
    clock = [0.0]
    slots = UploadSlots(1, clock=lambda: clock[0])
    order: list[bytes] = []
    for peer in (b"busy", b"modest", b"idle"):
        slots.join(peer)
    for _ in range(10):
        slots.give_back(await slots.take(b"busy", 100))
    slots.give_back(await slots.take(b"modest", 10))

    async def take(peer: bytes) -> None:
        slot = await slots.take(peer, 10)
        order.append(peer)
        slots.give_back(slot)

    async with anyio.create_task_group() as tasks:
        held = await slots.take(b"busy", 100)
        for peer in (b"busy", b"idle", b"modest"):
            tasks.start_soon(take, peer)
        await anyio.wait_all_tasks_blocked()
        slots.give_back(held)
    assert order[0] == b"modest", "it was given least, and asked again at once"


async def test_who_waits_for_its_own_cap_keeps_no_slot_from_others_and_is_not_called_slow() -> None:
    slots, poor = UploadSlots(1), TokenBucket(1000.0)
    slots.join(b"capped")
    slots.join(b"free")
    slots.give_back(await slots.take(b"capped", 100_000, (poor,)))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(slots.take, b"capped", 1, (poor,))
        await anyio.wait_all_tasks_blocked()
        with anyio.fail_after(1):
            for _ in range(50):
                slots.give_back(await slots.take(b"free", 1 << 20))
        tasks.cancel_scope.cancel()
    assert not slots.is_slow(b"capped")


def test_each_capped_is_one_bucket_for_each_and_forgets_the_oldest() -> None:
    each = EachCapped(1000.0)
    first = each.of(b"a")
    assert first is not None
    assert each.of(b"a") is first
    assert each.of(b"b") is not first
    for number in range(2 * MAX_KEPT):
        each.of(number.to_bytes(4, "big"))
    assert each.of(b"a") is not first
    assert EachCapped(0).of(b"a") is None


def test_token_bucket_keeps_its_rate() -> None:
    bucket = TokenBucket(1000.0)
    assert bucket.reserve(250, now=0.0) == 0.0, "the burst"
    assert bucket.reserve(500, now=0.0) == pytest.approx(0.5)
    assert bucket.reserve(500, now=0.5) == pytest.approx(0.5)
    assert bucket.reserve(250, now=100.0) == 0.0, "idle time saves up the burst only"
    assert bucket.reserve(100, now=100.0) == pytest.approx(0.1)
    assert bucket.wait(50, now=100.0) == pytest.approx(0.15)
    assert bucket.wait(1 << 20, now=100.0) == pytest.approx(0.35), "never more than the burst can be saved up"
    bucket.rate = None
    assert bucket.wait(1 << 40, now=100.0) == 0.0
    assert bucket.reserve(1 << 40, now=100.0) == 0.0


def test_low_cap_means_small_batches() -> None:
    assert TokenBucket(None).chunks_at_once(16) == 16
    assert TokenBucket(1e9).chunks_at_once(16) == 16
    assert TokenBucket(1e6).chunks_at_once(16) == 3
    assert TokenBucket(10.0).chunks_at_once(16) == 1
