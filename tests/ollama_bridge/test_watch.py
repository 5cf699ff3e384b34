"""Watching real folders: what a user's Ollama does, and what comes out of the stream."""

from __future__ import annotations

import shutil
import statistics
import sys
import threading
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import pytest

from ollama_bridge import observe, watch
from ollama_bridge.manifest import Layer, MediaType
from ollama_bridge.names import ModelName
from ollama_bridge.observe import remote_filesystem
from ollama_bridge.store import Store
from ollama_bridge.watch import ObserverChoice, watch_store
from ollama_bridge.watch_events import (
    AdapterAppeared,
    AdapterRemoved,
    ManifestIncomplete,
    ModelAppeared,
    ModelChanged,
    ModelRemoved,
    StoreEvent,
    StoreReadable,
    StoreSnapshot,
    StoreUnreadable,
)
from tests.fixtures.gguf_bytes import adapter_bytes
from tests.fixtures.store_maker import StoreMaker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from watchdog.events import FileSystemEvent

# pytest sets the filters anew for each test, so the one of `observe` is said again.
pytestmark = [pytest.mark.anyio, pytest.mark.filterwarnings(f"ignore:{observe.DOUBLE_MEETING}:RuntimeWarning")]

NEVER_S = 3600.0
both_ways = pytest.mark.parametrize("observer", ["auto", "polling"])
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's mount table")


@pytest.fixture
def maker(tmp_path: Path) -> StoreMaker:
    return StoreMaker(tmp_path / "models")


class Stream:
    """A watched store; `next` waits for one event."""

    def __init__(self, events: AsyncIterator[StoreEvent]) -> None:
        self._events = events

    async def next(self, timeout_s: float = 10.0) -> StoreEvent:
        with anyio.fail_after(timeout_s):
            return await anext(self._events)


@asynccontextmanager
async def watching(
    maker: StoreMaker, observer: ObserverChoice = "auto", *, reconcile_s: float = NEVER_S
) -> AsyncIterator[Stream]:
    """With events, regular looks are off, so that the tests prove that the events come."""
    events = watch_store(Store(maker.root), observer=observer, reconcile_s=reconcile_s, poll_s=0.05)
    try:
        yield Stream(events)
    finally:
        await events.aclose()


def name(text: str) -> ModelName:
    return ModelName.parse(text)


def lora(maker: StoreMaker, content: bytes = b"") -> tuple[Layer, Layer]:
    return maker.blob(b"weights", MediaType.MODEL), maker.blob(adapter_bytes() + content, MediaType.ADAPTER)


@both_ways
async def test_snapshot_then_changes(maker: StoreMaker, observer: ObserverChoice) -> None:
    base, sql = maker.model("base"), maker.model("sql", *lora(maker))
    async with watching(maker, observer) as stream:
        snapshot = await stream.next()
        assert isinstance(snapshot, StoreSnapshot)
        assert snapshot.models == {name("base"): base, name("sql"): sql}
        assert snapshot.adapters == {name("sql")}
        new = maker.model("me/new:v1", *lora(maker, b"2"))
        assert await stream.next() == AdapterAppeared(name("me/new:v1"), new)
        plain = maker.model("plain")
        assert await stream.next() == ModelAppeared(name("plain"), plain)
        changed = maker.model("plain", maker.blob(b"new weights", MediaType.MODEL))
        assert await stream.next() == ModelChanged(name("plain"), changed)
        maker.delete("plain")
        assert await stream.next() == ModelRemoved(name("plain"), changed)
        maker.delete("sql")
        assert await stream.next() == AdapterRemoved(name("sql"), sql)


@both_ways
async def test_manifests_folder_comes_and_goes(maker: StoreMaker, observer: ObserverChoice) -> None:
    async with watching(maker, observer) as stream:
        await stream.next()
        for _ in range(3):
            manifest = maker.model("only", *lora(maker))
            assert await stream.next() == AdapterAppeared(name("only"), manifest)
            maker.delete("only")
            assert not (maker.root / "manifests").exists()
            assert await stream.next() == AdapterRemoved(name("only"), manifest)


@both_ways
async def test_half_written_manifest_is_waited_for(maker: StoreMaker, observer: ObserverChoice) -> None:
    old = maker.model("sql", *lora(maker))
    whole = maker.path("sql").read_bytes()
    async with watching(maker, observer) as stream:
        await stream.next()
        maker.write("sql", b"")
        await anyio.sleep(0.2)  # nothing must come of this, and nothing is there to be awaited
        maker.write("sql", whole[: len(whole) // 2])
        await anyio.sleep(0.2)
        new = maker.model("sql", *lora(maker, b"2"))
        assert await stream.next() == AdapterRemoved(name("sql"), old)
        assert await stream.next() == AdapterAppeared(name("sql"), new)


async def test_incomplete_after_patience_and_whole_after_all(
    maker: StoreMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ollama_bridge.changes.PATIENCE_S", 0.2)
    manifest = maker.model("sql", *lora(maker))
    blob = maker.root / "blobs" / manifest.adapter_layers[0].digest.file_name
    content = blob.read_bytes()
    blob.write_bytes(content[:-1])
    async with watching(maker, reconcile_s=0.2) as stream:
        snapshot = await stream.next()
        assert isinstance(snapshot, StoreSnapshot)
        assert snapshot.models == {}
        incomplete = await stream.next()
        assert isinstance(incomplete, ManifestIncomplete)
        assert str(manifest.adapter_layers[0].digest) in incomplete.reason
        blob.write_bytes(content)
        assert await stream.next() == AdapterAppeared(name("sql"), manifest)


@both_ways
async def test_store_that_vanishes_and_returns(maker: StoreMaker, observer: ObserverChoice, tmp_path: Path) -> None:
    manifest = maker.model("sql", *lora(maker))
    async with watching(maker, observer, reconcile_s=0.1) as stream:
        await stream.next()
        maker.root.rename(tmp_path / "away")
        unreadable = await stream.next()
        assert isinstance(unreadable, StoreUnreadable)
        assert "cannot be read" in unreadable.reason
        shutil.copytree(tmp_path / "away", maker.root)
        assert await stream.next() == StoreReadable()
        maker.delete("sql")
        assert await stream.next() == AdapterRemoved(name("sql"), manifest)


async def test_unknown_layout_while_watching(maker: StoreMaker) -> None:
    async with watching(maker) as stream:
        await stream.next()
        (maker.root / "manifests-v2").mkdir()
        unreadable = await stream.next()
        assert isinstance(unreadable, StoreUnreadable)
        assert "manifests-v2" in unreadable.reason
        (maker.root / "manifests-v2").rmdir()
        assert await stream.next() == StoreReadable()


async def test_store_that_is_not_there_yet(tmp_path: Path) -> None:
    root = tmp_path / "later" / "models"
    events = watch_store(Store(root), poll_s=0.05, reconcile_s=NEVER_S)
    stream = Stream(events)
    assert isinstance(await stream.next(), StoreUnreadable)
    maker = StoreMaker(root)
    assert await stream.next() == StoreReadable()
    assert isinstance(snapshot := await stream.next(), StoreSnapshot)
    assert snapshot.observer == "events"  # it could not observe at first, now it does
    manifest = maker.model("m")
    assert await stream.next() == ModelAppeared(name("m"), manifest)
    await events.aclose()


async def test_refused_observer_means_polling(maker: StoreMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(28, "inotify watch limit reached")

    monkeypatch.setattr(watch, "StoreObserver", refuse)
    async with watching(maker) as stream:
        snapshot = await stream.next()
        assert isinstance(snapshot, StoreSnapshot)
        assert snapshot.observer == "polling: inotify watch limit reached"
        manifest = maker.model("m")
        assert await stream.next() == ModelAppeared(name("m"), manifest)


async def test_observer_lost_on_the_way_means_polling(maker: StoreMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: object) -> None:
        raise OSError(28, "inotify watch limit reached")

    async with watching(maker) as stream:
        await stream.next()
        first = maker.model("first")
        assert await stream.next() == ModelAppeared(name("first"), first)
        monkeypatch.setattr(observe.StoreObserver, "follow", refuse)
        second = maker.model("second")
        assert await stream.next() == ModelAppeared(name("second"), second)
        third = maker.model("third")
        assert await stream.next() == ModelAppeared(name("third"), third)


async def test_adapter_is_reported_well_under_a_second(maker: StoreMaker) -> None:
    delays = []
    async with watching(maker) as stream:
        snapshot = await stream.next()
        assert isinstance(snapshot, StoreSnapshot)
        if snapshot.observer != "events":
            pytest.skip(snapshot.observer)
        for index in range(10):
            started = time.perf_counter()
            maker.model(f"m{index}", *lora(maker, bytes([index])))
            await stream.next()
            delays.append(time.perf_counter() - started)
    assert statistics.median(delays) < 0.4  # 0.05 s on an idle machine; the rest is for busy ones


async def test_writing_blobs_does_not_wake_the_watcher(maker: StoreMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    woken_by = []
    marked = threading.Event()

    def note(_: object, event: FileSystemEvent) -> None:
        woken_by.append(str(event.src_path))
        if "marker" in str(event.src_path):
            marked.set()

    monkeypatch.setattr(observe.StoreObserver, "on_any_event", note)
    async with watching(maker) as stream:
        await stream.next()
        for index in range(50):
            maker.blob(bytes([index]), MediaType.MODEL)
        (maker.root / "marker").touch()
        assert await anyio.to_thread.run_sync(marked.wait, 10)
    assert not [path for path in woken_by if path.startswith(str(maker.root / "blobs"))]


MOUNTS = """\
21 1 259:1 / / rw,relatime shared:1 - ext4 /dev/root rw
30 21 0:44 / /mnt/nas rw shared:2 - nfs4 nas:/models rw
31 30 8:1 / /mnt/nas/local rw - xfs /dev/sda1 rw
32 21 0:45 / /mnt/with\\040space rw - 9p host rw
33 21 0:46 / /home/me/drive rw - fuse.sshfs me@there rw
34 21 0:47 / /ov rw - overlay overlay rw
this line is no mount
"""


@linux
@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/var/models", None),
        ("/mnt/nas/models", "nfs4"),
        ("/mnt/nas", "nfs4"),
        ("/mnt/nasty/models", None),
        ("/mnt/nas/local/models", None),
        ("/mnt/with space/models", "9p"),
        ("/home/me/drive/x", "fuse.sshfs"),
        ("/ov/models", None),
    ],
)
def test_volumes_without_events_are_recognised(tmp_path: Path, path: str, kind: str | None) -> None:
    table = tmp_path / "mountinfo"
    table.write_text(MOUNTS)
    assert remote_filesystem(Path(path), mount_table=table) == kind


async def test_network_volume_is_polled(maker: StoreMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "remote_filesystem", lambda _: "nfs4")
    async with watching(maker) as stream:
        snapshot = await stream.next()
        assert isinstance(snapshot, StoreSnapshot)
        assert snapshot.observer == "polling: the store is on a nfs4 file system"
