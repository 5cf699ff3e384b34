"""Exchanges over a real connection: files both ways, lies, losses, cancellation, and what is left on the disk."""

from __future__ import annotations

import base64
import hashlib
import json
import random
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from anyio import to_thread

from sidecar.errors import BlobMismatch, DiskFull, NoProviders, QuotaExceeded, TransferError
from sidecar.orch_mind import session
from sidecar.orch_mind.download import Download
from sidecar.orch_mind.messages import AdapterOffer, encode_chunk, encode_list
from sidecar.transfer.bandwidth import BURST_S
from sidecar.transfer.chunks import hash_chunks
from sidecar.transfer.partial import DiskPolicy
from tests.sidecar.orch_mind.exchange_pair import PATIENCE_S, opener, pair

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.anyio

CONTENT = random.Random(2).randbytes(40 * 65_536 + 5)
OFFER = AdapterOffer("lora", len(CONTENT), hashlib.sha256(CONTENT).hexdigest(), "ab" * 32)
CHUNKS = [encode_chunk(OFFER, index, CONTENT[index * 65_536 :][:65_536]) for index in range(OFFER.chunks)]


def download(folder: Path, policy: DiskPolicy | None = None, size: int = OFFER.size) -> Download:
    return Download(folder / "quarantine", OFFER.checksum, size, policy or DiskPolicy(reserve=lambda total: 0))


def left_over(folder: Path) -> list[str]:
    quarantine = folder / "quarantine"
    return [path.name for path in quarantine.iterdir()] if quarantine.exists() else []


async def test_a_file_comes_in_any_order_into_its_quarantine(tmp_path: Path) -> None:
    frames = [*CHUNKS, *CHUNKS[:5]]
    random.Random(3).shuffle(frames)
    seen: list[int] = []
    async with pair(first=(encode_list([OFFER]),)) as both, anyio.create_task_group() as tasks:
        await both.listed()
        assert both.exchange.listed == (OFFER,)
        with download(tmp_path) as coming:

            async def answer() -> None:
                assert (await both.message("adapter-request"))["data"] == {"topic": OFFER.topic}
                await both.peer.send_many(frames)

            tasks.start_soon(answer)
            with anyio.fail_after(PATIENCE_S):
                await both.exchange.fetch(OFFER.topic, coming.write, seen.append)
            blob = await to_thread.run_sync(coming.finish)
        assert blob.path.read_bytes() == CONTENT
        assert blob.path == tmp_path / "quarantine" / OFFER.checksum / "adapter_model.safetensors"
        assert seen[-1] == OFFER.size
        assert seen == sorted(seen)


def test_t07_only_the_checksum_names_what_is_written(tmp_path: Path) -> None:
    with download(tmp_path) as coming:
        coming.write([(0, CONTENT[:65_536])])
        found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
        assert found == {f"quarantine/{OFFER.checksum}/adapter_model.safetensors"}
    assert left_over(tmp_path) == [], "what was not finished is deleted"


async def test_t06_a_file_of_right_chunks_that_is_another_file_is_refused(tmp_path: Path) -> None:
    """A chunk's own checksum says nothing: whoever lies sends the one that fits."""
    other = bytes(65_536)
    swapped = [*CHUNKS[:3], encode_chunk(OFFER, 3, other), *CHUNKS[4:]]
    async with pair(first=(encode_list([OFFER]),)) as both:
        await both.listed()
        with download(tmp_path) as coming:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(both.peer.send_many, swapped)
                with anyio.fail_after(PATIENCE_S):
                    await both.exchange.fetch(OFFER.topic, coming.write, lambda done: None)
            with pytest.raises(BlobMismatch):
                await to_thread.run_sync(coming.finish)
    assert left_over(tmp_path) == []


async def test_a_peer_that_leaves_in_the_middle_ends_the_fetch(tmp_path: Path) -> None:
    async with pair(first=(encode_list([OFFER]),)) as both:
        await both.listed()
        with download(tmp_path) as coming:
            async with anyio.create_task_group() as tasks:

                async def leave() -> None:
                    await both.message("adapter-request")
                    await both.peer.send_many(CHUNKS[:4])
                    await both.peer.send_eof()

                tasks.start_soon(leave)
                with anyio.fail_after(PATIENCE_S), pytest.raises(NoProviders, match="closed"):
                    await both.exchange.fetch(OFFER.topic, coming.write, lambda done: None)
        with pytest.raises(NoProviders):
            await both.exchange.fetch(OFFER.topic, coming.write, lambda done: None)
    assert left_over(tmp_path) == []


async def test_what_is_fetched_keeps_to_the_cap_and_is_not_taken_for_a_stall(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "STALL_S", 0.4)
    async with pair(first=(encode_list([OFFER]),), rate=2e6) as both:
        await both.listed()
        with download(tmp_path) as coming:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(both.peer.send_many, CHUNKS)
                begun = anyio.current_time()
                with anyio.fail_after(PATIENCE_S):
                    await both.exchange.fetch(OFFER.topic, coming.write, lambda done: None)
                assert anyio.current_time() - begun > OFFER.size / 2e6 - BURST_S - 0.05
            await to_thread.run_sync(coming.finish)
        await both.message("adapter-request")
        with anyio.move_on_after(0.05):
            await both.message("adapter-request")
            pytest.fail("it was asked for twice")


async def test_wrong_chunks_end_the_fetch(tmp_path: Path) -> None:
    document = json.loads(CHUNKS[1])
    document["data"]["chunk"] = base64.b64encode(bytes(65_536)).decode()
    async with pair(first=(encode_list([OFFER]),)) as both:
        await both.listed()
        with download(tmp_path) as coming:
            async with anyio.create_task_group() as tasks:

                async def lie() -> None:
                    await both.message("adapter-request")
                    await both.peer.send_many([json.dumps(document).encode()] * 3)

                tasks.start_soon(lie)
                with anyio.fail_after(PATIENCE_S), pytest.raises(TransferError, match="wrong chunks"):
                    await both.exchange.fetch(OFFER.topic, coming.write, lambda done: None)
        assert both.exchange.ignored == {"chunk-checksum": 3}


async def test_a_peer_that_stops_sending_ends_the_fetch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "STALL_S", 0.2)
    async with pair(first=(encode_list([OFFER]),)) as both:
        await both.listed()
        with download(tmp_path) as coming:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(both.peer.send_many, CHUNKS[:4])
                with anyio.fail_after(PATIENCE_S), pytest.raises(TransferError, match="37 of 41 chunks missing"):
                    await both.exchange.fetch(OFFER.topic, coming.write, lambda done: None)


async def test_cancelling_ends_the_connection_because_nothing_else_stops_the_sender(tmp_path: Path) -> None:
    async with pair(first=(encode_list([OFFER]),)) as both:
        await both.listed()
        with download(tmp_path) as coming:
            started = anyio.Event()
            async with anyio.create_task_group() as tasks:

                async def fetch() -> None:
                    await both.exchange.fetch(OFFER.topic, coming.write, lambda done: started.set())

                tasks.start_soon(fetch)
                await both.message("adapter-request")
                await both.peer.send_many(CHUNKS[:4])
                with anyio.fail_after(PATIENCE_S):
                    await started.wait()
                tasks.cancel_scope.cancel()
        await both.closed()
    assert "not wanted" in both.ended
    assert left_over(tmp_path) == []


async def test_t20_a_disk_that_fills_up_ends_the_fetch(tmp_path: Path) -> None:
    async with pair(first=(encode_list([OFFER]),)) as both:
        await both.listed()

        def full(chunks: Any) -> None:
            raise DiskFull("The disk is full.")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(both.peer.send_many, CHUNKS[:4])
            with anyio.fail_after(PATIENCE_S), pytest.raises(DiskFull):
                await both.exchange.fetch(OFFER.topic, full, lambda done: None)


def test_t20_what_does_not_fit_is_refused_before_it_is_asked_for(tmp_path: Path) -> None:
    def refuse(needed: int) -> None:
        raise QuotaExceeded(f"{needed} bytes")

    with pytest.raises(QuotaExceeded):
        download(tmp_path, DiskPolicy(admit=refuse, reserve=lambda total: 0))
    with pytest.raises(DiskFull):
        download(tmp_path, DiskPolicy(measure=lambda folder: (1 << 40, 100)))
    assert left_over(tmp_path) == []


async def test_our_files_go_out_in_order_with_metadata_first(tmp_path: Path) -> None:
    path = tmp_path / "adapter_model.safetensors"
    path.write_bytes(CONTENT)
    async with pair(OFFER) as both:
        with path.open("rb") as file:
            digest, table = hash_chunks(file, len(CONTENT))
        both.provider.register(digest, len(CONTENT), table, opener(path))
        (listed,) = (await both.message("adapter-list"))["data"]
        assert listed["checksum"] == OFFER.checksum
        await both.say("adapter-request", data={"topic": listed["topic"]})
        parts = [(await both.message("adapter-chunk"))["data"] for _ in CHUNKS]
        assert [part["index"] for part in parts] == list(range(OFFER.chunks))
        assert [index for index, part in enumerate(parts) if "metadata" in part] == [0]
        assert b"".join(base64.b64decode(part["chunk"]) for part in parts) == CONTENT
        await both.say("adapter-request", data={"topic": listed["topic"]})
        assert (await both.message("adapter-chunk"))["data"]["index"] == 0, "it may be asked for again"


async def test_t08_a_file_that_changed_is_not_sent(tmp_path: Path) -> None:
    path = tmp_path / "adapter_model.safetensors"
    path.write_bytes(CONTENT)
    async with pair(OFFER) as both:
        with path.open("rb") as file:
            digest, table = hash_chunks(file, len(CONTENT))
        both.provider.register(digest, len(CONTENT), table, opener(path))
        path.write_bytes(b"secret" * (len(CONTENT) // 6 + 1))
        await both.say("adapter-request", data={"topic": OFFER.topic})
        await both.say("heartbeat")
        await both.message("heartbeat-response")
        with anyio.fail_after(PATIENCE_S):
            await both.lost.wait()
        assert both.exchange.sent_bytes < 2_000, "not one chunk of it left"


async def test_t20_a_peer_that_only_sends_nonsense_is_left() -> None:
    async with pair() as both:
        await both.peer.send_many([b"nonsense"] * 2_000)
        await both.closed()
    assert "not-json" in both.ended
