"""Against a peer of the official packages that behaves as Orch-Mind does, with its faults, over a DHT of the test's own."""

from __future__ import annotations

import hashlib
import os
import secrets
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import psutil
import pytest
from anyio import to_thread

from hyperdht import HyperDHT, Hyperswarm, testnet
from ollama_bridge.nofollow import open_regular
from sidecar.errors import BlobMismatch, SidecarError, TransferError
from sidecar.orch_mind.download import Download
from sidecar.orch_mind.exchange import Exchange
from sidecar.orch_mind.messages import MAX_FRAME_BYTES, AdapterFacts, AdapterOffer, looks_like_orch_mind
from sidecar.orch_mind.topics import orch_mind_topic
from sidecar.transfer.chunks import hash_chunks
from sidecar.transfer.partial import DiskPolicy
from sidecar.transfer.provide import Provider

from .js_peer import JsPeer, js_peer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from hyperdht import SecretStream

pytestmark = [pytest.mark.interop, pytest.mark.usefixtures("node"), pytest.mark.anyio]

PROGRAM = Path(__file__).with_name("orch_mind_peer.mjs")
PATIENCE_S = 20.0
MIB = 1 << 20
CODE = "FAST-PEER-123"
LISTS_AT_ONCE = {"settle": 20, "sync": 30_000, "heartbeat": 30_000}
"""The peer does not wait a second before it greets."""


@dataclass
class Meeting:
    """Our exchange with the JS peer."""

    js: JsPeer
    exchange: Exchange
    provider: Provider
    changed: anyio.Event = field(default_factory=anyio.Event)

    async def listed(self, name: str) -> AdapterOffer:
        """The offer of that name, as soon as it is listed."""
        with anyio.fail_after(PATIENCE_S):
            while True:
                for offer in self.exchange.listed:
                    if offer.name == name:
                        return offer
                self.changed = anyio.Event()
                await self.changed.wait()

    async def fetch(self, name: str, folder: Path) -> Path:
        offer = await self.listed(name)
        with Download(folder / "quarantine", offer.checksum, offer.size, DiskPolicy(reserve=lambda total: 0)) as coming:
            await self.exchange.fetch(offer.topic, coming.write, lambda done: None)
            return (await to_thread.run_sync(coming.finish)).path


@asynccontextmanager
async def meeting(*offers: AdapterOffer, **settings: Any) -> AsyncIterator[Meeting]:
    """Both in one topic, connected, and each knows what the other is."""
    topic = orch_mind_topic(CODE) if not settings.pop("elsewhere", False) else secrets.token_bytes(32)
    async with (
        testnet(3) as bootstrap,
        js_peer(PROGRAM) as js,
        HyperDHT(bootstrap=bootstrap, max_message_bytes=MAX_FRAME_BYTES) as node,
        Hyperswarm(dht=node) as swarm,
        anyio.create_task_group() as tasks,
    ):
        await js.request("init", bootstrap=[str(each) for each in bootstrap], **(LISTS_AT_ONCE | settings))
        await js.request("join", topic=topic.hex())
        await swarm.join(topic)
        with anyio.fail_after(PATIENCE_S):
            stream: SecretStream = await anext(aiter(swarm.connections))
            first = await stream.receive_many()
        assert looks_like_orch_mind(first[0]) or "noise" in settings.get("faults", ())
        provider = Provider()
        met = Meeting(js, None, provider)  # type: ignore[arg-type]
        met.exchange = Exchange(
            stream,
            "127.0.0.1",
            offers=offers,
            uploads=provider.peer(stream.remote_public_key, may_have=lambda digest: True),
            changed=lambda: met.changed.set(),
            lost=lambda offer: None,
        )
        tasks.start_soon(met.exchange.run, first)
        yield met
        await met.exchange.close("the test is over")
        tasks.cancel_scope.cancel()


def random_file(folder: Path, size: int) -> tuple[Path, str]:
    """A file of that size and its SHA-256, made a MiB at a time."""
    path, whole = folder / "adapter_model.safetensors", hashlib.sha256()
    with path.open("wb") as file:
        for start in range(0, size, MIB):
            block = secrets.token_bytes(min(MIB, size - start))
            whole.update(block)
            file.write(block)
    return path, whole.hexdigest()


async def offered(path: Path, provider: Provider, **facts: Any) -> AdapterOffer:
    """A file of ours, ready to be served."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        digest, table = await to_thread.run_sync(hash_chunks, file, size)
    provider.register(digest, size, table, partial(open_regular, path.parent, (path.name,)))
    return AdapterOffer("ours", size, digest.hex, secrets.token_hex(32), facts=AdapterFacts(**facts))


METADATA = {"base_model": "gemma3:latest", "hf_model": "google/gemma-3-1b-it", "training_method": "lora"}


async def test_what_an_orch_mind_user_shares_is_listed_and_fetched(tmp_path: Path) -> None:
    path, checksum = random_file(tmp_path, 4 * MIB + 77)
    async with meeting() as met:
        info = await met.js.request("share", path=str(path), name="gemma3_adapter_17", metadata=METADATA)
        offer = await met.listed("gemma3_adapter_17")
        assert offer == AdapterOffer(
            "gemma3_adapter_17", 4 * MIB + 77, checksum, info["topic"],
            facts=AdapterFacts("gemma3:latest", "google/gemma-3-1b-it", "safetensors"),
        )  # fmt: skip
        fetched = await met.fetch("gemma3_adapter_17", tmp_path)
        assert await to_thread.run_sync(fetched.read_bytes) == await to_thread.run_sync(path.read_bytes)
        await met.js.request("unshare", topic=info["topic"])
        with anyio.fail_after(PATIENCE_S):
            while met.exchange.listed:
                met.changed = anyio.Event()
                await met.changed.wait()


@pytest.mark.parametrize(
    "faults",
    [["noise"], ["shuffle"], ["repeat"], ["unsolicited"], ["topicless"], ["noise", "shuffle", "repeat", "topicless"]],
    ids="+".join,
)
async def test_its_faults_are_survived(tmp_path: Path, faults: list[str]) -> None:
    path, _ = random_file(tmp_path, MIB + 5)
    async with meeting(faults=faults) as met:
        await met.js.request("share", path=str(path), name="lora")
        fetched = await met.fetch("lora", tmp_path)
        assert await to_thread.run_sync(fetched.read_bytes) == await to_thread.run_sync(path.read_bytes)
        if faults != ["shuffle"]:
            assert met.exchange.ignored


@pytest.mark.parametrize(
    ("fault", "error", "words"),
    [("lie", TransferError, "missing"), ("swap", BlobMismatch, "not"), ("stop", TransferError, "missing")],
)
async def test_t06_its_lies_end_in_an_error_and_leave_nothing(
    tmp_path: Path, fault: str, error: type[SidecarError], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sidecar.orch_mind.session.STALL_S", 0.3)
    path, _ = random_file(tmp_path, MIB)
    async with meeting(faults=[fault]) as met:
        await met.js.request("share", path=str(path), name="lora")
        with pytest.raises(error, match=words):
            await met.fetch("lora", tmp_path)
    assert list((tmp_path / "quarantine").iterdir()) == []


async def test_what_nobody_asked_for_goes_nowhere(tmp_path: Path) -> None:
    path, _ = random_file(tmp_path, MIB)
    async with meeting() as met:
        info = await met.js.request("share", path=str(path), name="lora")
        await met.listed("lora")
        await met.js.request("push", topic=info["topic"])
        await met.js.event("sent")
        await met.fetch("lora", tmp_path)
        assert met.exchange.ignored == {"chunk-unsolicited": 16}


async def test_orch_mind_takes_a_file_of_ours(tmp_path: Path) -> None:
    path, checksum = random_file(tmp_path, 2 * MIB + 9)
    async with meeting() as met:
        ours = await offered(path, met.provider, base_model="tiny-base", file_type="safetensors", rank=4, alpha=8.0)
        met.exchange.offer([ours])
        while not (adapters := (await met.js.event("list"))["adapters"]):
            pass
        assert adapters[0]["name"] == "ours"
        await met.js.request("request", topic=ours.topic)
        received = await met.js.event("received")
        assert (received["sha256"], received["size"]) == (checksum, ours.size)
        assert received["info"]["metadata"] == {
            "base_model": "tiny-base", "hf_model": "", "file_type": "safetensors", "lora_rank": 4, "lora_alpha": 8.0,
        }  # fmt: skip


async def test_heartbeats_are_answered_and_rebroadcasts_change_nothing(tmp_path: Path) -> None:
    path, _ = random_file(tmp_path, MIB)
    async with meeting(sync=15, heartbeat=15) as met:
        await met.js.request("share", path=str(path), name="lora")
        await met.listed("lora")
        met.changed = anyio.Event()
        for _ in range(5):
            await met.js.event("heartbeat-response")
        assert not met.changed.is_set()
        assert (await met.js.request("counts"))["heartbeat-response"] >= 5


async def _moved(tmp_path: Path, size: int) -> float:
    """MiB by which our memory grew at its peak, while a file of that size came and went back."""
    path, checksum = await to_thread.run_sync(random_file, tmp_path, size)
    process = psutil.Process()
    peak = 0
    async with meeting() as met, anyio.create_task_group() as watching:
        await met.js.request("share", path=str(path), name="lora")
        await met.listed("lora")
        before = process.memory_info().rss

        async def watch() -> None:
            nonlocal peak
            while True:
                peak = max(peak, process.memory_info().rss)
                await anyio.sleep(0.01)

        watching.start_soon(watch)
        fetched = await met.fetch("lora", tmp_path)
        ours = await offered(fetched, met.provider)
        met.exchange.offer([ours])
        await met.js.request("request", topic=ours.topic)
        with anyio.fail_after(600):
            received = await met.js.event("received")
        assert received["sha256"] == checksum
        watching.cancel_scope.cancel()
    return (peak - before) / MIB


@pytest.mark.soak
async def test_memory_stays_flat_with_200_mib_both_ways(tmp_path: Path) -> None:
    small = await _moved(tmp_path, 4 * MIB)
    large = await _moved(tmp_path, 200 * MIB)
    print(f"memory while 4 MiB came and went: +{small:.1f} MiB, 200 MiB: +{large:.1f} MiB")
    assert large < small + 40
