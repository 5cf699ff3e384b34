"""The store as one stream: a snapshot, then changes. Spegel's `Watch()` is the model.

System events mean "look again", a look every `reconcile_s` catches what they missed, and where there are none (network
and container volumes, used-up inotify limits) looks alone do the work. All disk work happens in worker threads.
"""

from __future__ import annotations

import os
import stat
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Literal

import anyio
from anyio import from_thread, lowlevel, to_thread

from ollama_bridge.changes import FIRST_RETRY_S, Look, StoreChanges
from ollama_bridge.errors import StoreError
from ollama_bridge.observe import StoreObserver, remote_filesystem
from ollama_bridge.watch_events import StoreEvent, StoreReadable, StoreSnapshot, StoreUnreadable

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Mapping

    from ollama_bridge.manifest import Manifest
    from ollama_bridge.names import ModelName
    from ollama_bridge.scan import ScannedManifest
    from ollama_bridge.store import Store

ObserverChoice = Literal["auto", "polling"]

RECONCILE_S = 30.0
POLL_S = 2.0
MAX_IDLE_SHARE = 0.003
"""Part of one core that looks may take when nothing happens; large stores are polled less often, up to `MAX_POLL_S`."""
MAX_POLL_S = 10.0
SETTLE_S = 0.02
"""Ollama creates, writes and closes a manifest in one go; waiting this long makes one look of it."""
ECHO_S = 0.5
"""After an event one more look: a file put into a folder so new that it is not observed yet makes no event."""
UNREADABLE_RETRY_S = 0.25
"""A folder being deleted on Windows refuses for a moment; only a second refusal is reported."""


async def watch_store(
    store: Store, *, observer: ObserverChoice = "auto", reconcile_s: float = RECONCILE_S, poll_s: float = POLL_S
) -> AsyncGenerator[StoreEvent, None]:
    """Watch a store: first one `StoreSnapshot`, then changes as they happen, without end.

    Close it (`contextlib.aclosing`) or cancel the task to stop its threads. An unreadable store is an event
    (`StoreUnreadable`), before the snapshot too; the stream goes on until the store comes back.

    Args:
        store: Which store.
        observer: `polling` to do without system events.
        reconcile_s: Seconds between looks when the system reports changes.
        poll_s: Seconds between looks when it does not.
    """
    eye = _Eye(store, observer)
    changes = StoreChanges()
    wakeup = _Wakeup()
    failures = 0
    snapshot_given = woken = False
    try:
        await to_thread.run_sync(eye.open, wakeup.from_other_thread)
        while True:
            wakeup.reset()
            try:
                looks = await to_thread.run_sync(eye.look)
            except StoreError as error:
                failures += 1
                if failures == 2:
                    yield StoreUnreadable(str(error))
                await wakeup.wait(UNREADABLE_RETRY_S if failures == 1 else poll_s)
                continue
            if failures >= 2:
                failures = 0
                yield StoreReadable()
                await to_thread.run_sync(eye.open, wakeup.from_other_thread)  # the folders may be new ones
                continue
            failures = 0
            now = time.monotonic()
            found = changes.update(looks, now=now)
            if snapshot_given:
                for change in found:
                    yield change
            else:
                snapshot_given = True
                yield StoreSnapshot(changes.models, changes.adapters, eye.mode)
            regular = reconcile_s if eye.has_events else max(poll_s, min(eye.cost_s / MAX_IDLE_SHARE, MAX_POLL_S))
            retry = regular if changes.retry_at is None else changes.retry_at - now
            echo = ECHO_S if woken else regular
            woken = await wakeup.wait(max(min(regular, retry, echo), FIRST_RETRY_S / 2))
    finally:
        with anyio.CancelScope(shield=True):
            await to_thread.run_sync(eye.close)


class _Wakeup:
    """An event that other threads can set."""

    def __init__(self) -> None:
        self._event = anyio.Event()
        self._token = lowlevel.current_token()

    def reset(self) -> None:
        """Forget what came before; to be called before a look, never after."""
        self._event = anyio.Event()

    async def wait(self, timeout_s: float) -> bool:
        """Wait for the time, or for an event and what comes along with it; says whether it was an event."""
        with anyio.move_on_after(timeout_s):
            await self._event.wait()
            await anyio.sleep(SETTLE_S)
        return self._event.is_set()

    def from_other_thread(self) -> None:
        """Set the event."""
        if not self._event.is_set():  # thousands of events of one `ollama rm` cost one visit to the loop
            with suppress(RuntimeError):  # the loop has ended; nobody is waiting
                from_thread.run_sync(self._set, token=self._token)

    def _set(self) -> None:
        self._event.set()


class _Eye:
    """The blocking half: looks at the store, and knows how it hears of changes."""

    def __init__(self, store: Store, choice: ObserverChoice) -> None:
        self._store = store
        self._choice = choice
        self._observer: StoreObserver | None = None
        self._seen: dict[ModelName, tuple[ScannedManifest, Look]] = {}
        self.mode = ""
        """As in `StoreSnapshot.observer`."""
        self.cost_s = 0.0
        """Processor time of the last look that found nothing new."""

    @property
    def has_events(self) -> bool:
        """Whether the system reports changes."""
        return self._observer is not None

    def open(self, wake: Callable[[], None]) -> None:
        """Start observing, or observing anew, if possible."""
        self.close()
        if self._choice == "polling":
            self.mode = "polling: as asked"
        elif kind := remote_filesystem(self._store.root):
            self.mode = f"polling: the store is on a {kind} file system"
        else:
            try:
                self._observer = StoreObserver(self._store.root, wake)
                self.mode = "events"
            except OSError as error:
                self.mode = f"polling: {error.strerror or error}"

    def close(self) -> None:
        """Stop observing."""
        if self._observer is not None:
            self._observer.close()
            self._observer = None

    def look(self) -> Mapping[ModelName, Look]:
        """One full look.

        Raises:
            StoreError: The store cannot be read.
        """
        if self._observer is not None:
            try:
                self._observer.follow()
            except OSError:  # limits used up meanwhile: from now on by polling
                self.close()
        started = time.thread_time()
        scanned = self._store.scanner.scan()
        before = self._seen
        self._seen = {name: (found, self._look_at(name, found)) for name, found in scanned.items()}
        if self._seen == before:
            self.cost_s = time.thread_time() - started
        return {name: look for name, (_, look) in self._seen.items()}

    def _look_at(self, name: ModelName, found: ScannedManifest) -> Look:
        known = self._seen.get(name)
        if known is not None and known[0] is found and known[1].manifest is not None:
            return known[1]
        if found.manifest is None:
            return Look(None, problem=found.problem or "")
        if missing := self._missing_blob(found.manifest):
            return Look(None, problem=missing)
        is_adapter = self._store.is_adapter_model(found.manifest)
        return Look(found.manifest, self._store.adapter_layers(found.manifest) if is_adapter else ())

    def _missing_blob(self, manifest: Manifest) -> str | None:
        for layer in manifest.blobs:
            try:
                status = os.lstat(self._store.blob_path(layer.digest))
            except OSError as error:
                return f"The blob {layer.digest} cannot be found ({error.strerror or error})."
            if not stat.S_ISREG(status.st_mode) or status.st_size != layer.size:
                return f"The blob {layer.digest} is not a file of {layer.size} bytes."
        return None
