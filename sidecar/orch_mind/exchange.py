"""One connection with an Orch-Mind peer: runs the session over a SecretStream.

Reading and writing to disk happen in one task: no more is read until what came is on the disk, so a peer that sends without
waiting, as Orch-Mind does, fills its own memory and not ours. What the peer asked for goes out through upload slots and
caps like everything else we serve.
"""

from __future__ import annotations

import contextlib
import logging
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import anyio
import anyio.abc
from anyio import to_thread

from hyperdht.dht.link import Path
from hyperdht.io.peer_stream import PeerStream
from ollama_bridge.digests import Digest
from sidecar.errors import NoProviders, SidecarError, TransferError
from sidecar.transfer.bandwidth import TokenBucket
from sidecar.transfer.chunks import CHUNK_BYTES
from sidecar.transfer.uploads import Refusal

from .messages import encode_chunk
from .session import (
    ChunkReceived,
    FileFailed,
    FileReceived,
    FileWanted,
    OffersChanged,
    OrchMindSession,
    PeerGivenUp,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from hyperdht import SecretStream
    from hyperdht.buffers import BytesLike
    from sidecar.control_types import Road
    from sidecar.transfer.uploads import PeerUploads, UploadBatch

    from .messages import AdapterOffer

log = logging.getLogger(__name__)

FRAMES_AT_ONCE = 8
"""Chunks encoded in one go: base64 and JSON of 64 KiB take about 0.2 ms, and others must get their turn."""

Chunks = list[tuple[int, bytes]]


@dataclass(eq=False)
class _Fetch:
    """A file somebody here waits for."""

    write: Callable[[Chunks], None]
    progress: Callable[[int], None]
    pending: Chunks = field(default_factory=list)
    received: int = 0
    complete: bool = False
    failure: SidecarError | None = None
    ended: anyio.Event = field(default_factory=anyio.Event)


class Exchange:
    """See the module docstring.

    Args:
        stream: The connection; it belongs to the exchange from now on.
        address: "host:port", for logs.
        offers: What we offer at the start.
        uploads: What this peer may have of us.
        changed: Told that the peer's list is another one now.
        lost: Told an offer of ours whose file cannot be sent any more.
        cap: For what we fetch.
        clock: Seconds, monotonic.
    """

    def __init__(
        self,
        stream: SecretStream,
        address: str,
        *,
        offers: Iterable[AdapterOffer],
        uploads: PeerUploads,
        changed: Callable[[], None],
        lost: Callable[[AdapterOffer], None],
        cap: TokenBucket | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.stream = stream
        self.address = address
        self.connected_at = clock()
        self.received_bytes = self.sent_bytes = 0
        self._session = OrchMindSession(offers, clock())
        self._uploads = uploads
        self._changed = changed
        self._lost = lost
        self._cap = cap or TokenBucket()
        self._clock = clock
        self._wake = anyio.Event()
        self._fetches: dict[str, _Fetch] = {}
        self._sending: dict[int, AdapterOffer] = {}
        self._sent_files = 0
        self._closing = ""

    @property
    def key(self) -> bytes:
        """Public key of the peer: who it is, not whether what it has is any good."""
        return self.stream.remote_public_key

    @property
    def road(self) -> Road:
        """How its packets travel now."""
        relayed = isinstance(self.stream, PeerStream) and self.stream.path is Path.RELAYED
        return "relayed" if relayed else "direct"

    @property
    def listed(self) -> tuple[AdapterOffer, ...]:
        """What the peer offers now."""
        return self._session.offers

    @property
    def ignored(self) -> dict[str, int]:
        """Frames that were dropped, by kind."""
        return dict(self._session.ignored)

    async def run(self, first: Sequence[BytesLike]) -> str:
        """Work until the connection ends; returns why it ended.

        Args:
            first: The messages that were read to find out who the peer is.
        """
        reason = "the connection was closed here"
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._write)
                tasks.start_soon(self._upload)
                try:
                    await self._read(first)
                except anyio.EndOfStream:
                    reason = "the peer closed the connection"
                except anyio.BrokenResourceError as error:
                    reason = str(error) or "the connection broke"
                except anyio.ClosedResourceError:
                    pass  # `close` said why
                tasks.cancel_scope.cancel()
        finally:
            for fetch in self._fetches.values():
                self._end(
                    fetch, NoProviders(f"The connection with the Orch-Mind peer ended: {self._closing or reason}.")
                )
            with anyio.CancelScope(shield=True):
                await self.stream.aclose()
        return self._closing

    def offer(self, offers: Iterable[AdapterOffer]) -> None:
        """Offer these from now on."""
        self._session.offer(offers)
        self._wake.set()

    async def fetch(self, topic: str, write: Callable[[Chunks], None], progress: Callable[[int], None]) -> None:
        """Get a file the peer lists. Cancelled, it ends the connection, because nothing else stops an Orch-Mind sender.

        Args:
            write: Puts chunks (index, data) in their places; called in a worker thread.
            progress: Told the bytes that came so far.
        Raises:
            NoProviders: The peer does not list it, sends it to somebody here already, or is gone.
            TransferError: The peer could not send it.
            SidecarError, OSError: What `write` raised.
        """
        if self._closing or self._session.request(topic, self._clock()) is None:
            raise NoProviders("The Orch-Mind peer does not offer that adapter any more.")
        fetch = self._fetches[topic] = _Fetch(write, progress)
        self._wake.set()
        try:
            await fetch.ended.wait()
        finally:
            del self._fetches[topic]
            if self._session.cancel(topic):
                with anyio.CancelScope(shield=True):
                    await self.close("what it was sending is not wanted any more")
        if fetch.failure is not None:
            raise fetch.failure

    async def close(self, reason: str) -> None:
        """End the connection: `run` returns."""
        self._closing = self._closing or reason
        await self.stream.aclose()

    # --- inside ------------------------------------------------------------------------------------------------------

    async def _read(self, first: Sequence[BytesLike]) -> None:
        messages = first
        while True:
            # Under a cap one by one: what waits in our own buffers must not look like a peer that stopped sending.
            for batch in [messages] if self._cap.rate is None else [[message] for message in messages]:
                if not await self._take(batch):
                    return
            messages = await self.stream.receive_many()

    async def _take(self, messages: Sequence[BytesLike]) -> bool:
        """Act on some messages. Returns whether to go on."""
        now = self._clock()
        for message in messages:
            self.received_bytes += len(message)
            self._session.receive(message, now)
        if (given_up := self._take_events()) is not None:
            await self.close(given_up)
            return False
        for fetch in list(self._fetches.values()):
            await self._store(fetch)
        self._wake.set()
        return True

    def _take_events(self) -> str | None:
        """Act on what happened. Returns why the peer is to be given up, if it is."""
        while (event := self._session.next_event()) is not None:
            match event:
                case ChunkReceived():
                    self._fetches[event.topic].pending.append((event.index, event.data))
                case FileReceived():
                    self._fetches[event.topic].complete = True
                case FileFailed():
                    self._end(self._fetches[event.topic], TransferError(f"The file did not come: {event.reason}."))
                case FileWanted():
                    self._sent_files += 1
                    self._sending[self._sent_files] = event.offer
                    self._uploads.request(self._sent_files, Digest(event.offer.checksum), 0, event.offer.chunks)
                case OffersChanged():
                    self._changed()
                case PeerGivenUp():
                    return event.reason
        return None

    async def _store(self, fetch: _Fetch) -> None:
        pending, fetch.pending = fetch.pending, []
        if pending and not fetch.ended.is_set():
            try:
                await to_thread.run_sync(fetch.write, pending)
            except SidecarError as error:
                self._end(fetch, error)
            except OSError as error:
                self._end(fetch, TransferError(f"The file cannot be written: {error}."))
            came = sum(len(data) for _, data in pending)
            fetch.received += came
            fetch.progress(fetch.received)
            await anyio.sleep(self._cap.reserve(came, now=anyio.current_time()))
        if fetch.complete:
            self._end(fetch, None)

    def _end(self, fetch: _Fetch, failure: SidecarError | None) -> None:
        if not fetch.ended.is_set():
            fetch.failure = failure
            fetch.ended.set()

    async def _write(self) -> None:
        with contextlib.suppress(anyio.ClosedResourceError, anyio.BrokenResourceError):  # the reading task learns why
            while True:
                frames = self._session.frames_to_send()
                if frames:
                    await self._send(frames)
                timer = self._session.next_timer()
                with anyio.move_on_after(None if timer is None else max(0.0, timer - self._clock())):
                    await self._wake.wait()
                self._wake = anyio.Event()
                self._session.handle_timer(self._clock())
                self._take_events()

    async def _upload(self) -> None:
        try:
            async with self._uploads as uploads:
                while True:
                    batch = await uploads.next_batch()
                    offer = self._sending[batch.request_id]
                    if isinstance(batch, Refusal):
                        self._lost(offer)
                    elif not await self._send_batch(offer, batch):
                        continue
                    del self._sending[batch.request_id]
                    self._session.upload_ended(offer.topic)
        except* (anyio.ClosedResourceError, anyio.BrokenResourceError):
            pass  # the reading task learns why

    async def _send_batch(self, offer: AdapterOffer, batch: UploadBatch) -> bool:
        """Send a run of chunks. Returns whether it was the last one of the file."""
        for start in range(0, len(batch.data), FRAMES_AT_ONCE * CHUNK_BYTES):
            first = batch.first + start // CHUNK_BYTES
            run = batch.data[start : start + FRAMES_AT_ONCE * CHUNK_BYTES]
            parts = [run[at : at + CHUNK_BYTES] for at in range(0, len(run), CHUNK_BYTES)]
            await self._send([encode_chunk(offer, first + number, part) for number, part in enumerate(parts)])
        return batch.first * CHUNK_BYTES + len(batch.data) >= offer.size

    async def _send(self, frames: list[bytes]) -> None:
        await self.stream.send_many(frames)
        self.sent_bytes += sum(map(len, frames))
