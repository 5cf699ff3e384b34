"""What one peer asked of us, served in the order of asking, one batch read ahead of the one being sent."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import anyio

from sidecar.transfer.chunks import CHUNK_BYTES
from sidecar.transfer.provided import ChunksRefused
from sidecar.transfer.source_state import UNIT_CHUNKS

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from anyio.abc import TaskGroup

    from ollama_bridge.digests import Digest
    from sidecar.transfer.bandwidth import TokenBucket
    from sidecar.transfer.provide import Provider
    from sidecar.transfer.slots import Slot

MAX_REQUESTS = 64
"""Requests one peer may have waiting (design 12); more would let it fill our memory with questions."""
BATCH_CHUNKS = UNIT_CHUNKS
SLOW_BATCH_CHUNKS = 4
"""For a peer that could not take a batch in time, so that many of them hold little."""


@dataclass(frozen=True, slots=True)
class UploadBatch:
    """Chunks to send now."""

    request_id: int
    digest: Digest
    first: int
    data: memoryview
    """Of one or more chunks."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A request that is not (or not completely) served."""

    request_id: int
    gone: bool
    """We do not hold it; otherwise the peer asks too much at once."""


@dataclass(slots=True, eq=False)
class _Asked:
    request_id: int
    digest: Digest
    first: int
    count: int
    cancelled: bool = False


class PeerUploads:
    """Made by `Provider.peer`. One task calls `next_batch` and sends what it gets; `request` and `cancel` come between.

    Whoever sends must wait for the connection to take a batch before asking for the next: that is what keeps memory
    bounded and slots honest.
    """

    def __init__(
        self, provider: Provider, key: bytes, may_have: Callable[[Digest], bool], caps: tuple[TokenBucket, ...]
    ) -> None:
        self._provider, self._key, self._may_have, self._caps = provider, key, may_have, caps
        self._waiting: deque[_Asked] = deque()
        self._current: _Asked | None = None
        self._refusals: deque[Refusal] = deque()
        self._asked = anyio.Event()
        self._tasks: TaskGroup | None = None
        self._sending: Slot | None = None
        self._out, self._ready = anyio.create_memory_object_stream[tuple[UploadBatch | Refusal, "Slot | None"]](0)

    async def __aenter__(self) -> Self:
        self._provider.slots.join(self._key)
        self._tasks = anyio.create_task_group()
        await self._tasks.__aenter__()
        self._tasks.start_soon(self._read_ahead)
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        assert self._tasks is not None
        self._tasks.cancel_scope.cancel()
        try:
            return await self._tasks.__aexit__(exc_type, exc, traceback)
        finally:
            self._sent()
            self._out.close()
            self._ready.close()
            self._provider.slots.leave(self._key)

    @property
    def waiting(self) -> int:
        """Requests not served completely."""
        return len(self._waiting) + (self._current is not None)

    def request(self, request_id: int, digest: Digest, first: int, count: int) -> None:
        """The peer asks for a run of chunks. Whatever is wrong with that comes back as a `Refusal`."""
        blob = self._provider.blob(digest)
        if blob is None or not self._may_have(digest) or count < 1 or first < 0 or first + count > blob.table.count:
            self._refuse(request_id, gone=True)
        elif self.waiting >= MAX_REQUESTS:
            self._refuse(request_id, gone=False)
        else:
            self._waiting.append(_Asked(request_id, digest, first, count))
        self._asked.set()

    def cancel(self, request_id: int) -> None:
        """The peer no longer needs a request. What is on its way is not called back."""
        for asked in [*self._waiting, self._current]:
            if asked is not None and asked.request_id == request_id:
                asked.cancelled = True
        self._waiting = deque(asked for asked in self._waiting if not asked.cancelled)

    async def next_batch(self) -> UploadBatch | Refusal:
        """Wait for something to send. The batch before counts as sent."""
        self._sent()
        item, self._sending = await self._ready.receive()
        return item

    def _sent(self) -> None:
        if self._sending is not None:
            self._provider.slots.give_back(self._sending)
            self._sending = None

    def _refuse(self, request_id: int, *, gone: bool) -> None:
        if len(self._refusals) < MAX_REQUESTS:  # a peer that asks faster than it reads gets no answer to the rest
            self._refusals.append(Refusal(request_id, gone))

    async def _read_ahead(self) -> None:
        while True:
            while self._refusals:
                await self._out.send((self._refusals.popleft(), None))
            if not self._waiting:
                self._asked = anyio.Event()
                await self._asked.wait()
                continue
            self._current = asked = self._waiting.popleft()
            await self._serve(asked)
            self._current = None

    async def _serve(self, asked: _Asked) -> None:
        end = asked.first + asked.count
        first = asked.first
        while first < end and not asked.cancelled:
            count = min(self._batch_chunks(), end - first)
            slot = await self._provider.slots.take(self._key, count * CHUNK_BYTES, self._caps)
            try:
                data = await self._provider.read_chunks(asked.digest, first, count)
                await self._out.send((UploadBatch(asked.request_id, asked.digest, first, data), slot))
            except ChunksRefused:
                self._provider.slots.give_back(slot)
                self._refuse(asked.request_id, gone=True)
                return
            except BaseException:
                self._provider.slots.give_back(slot)
                raise
            first += count

    def _batch_chunks(self) -> int:
        most = SLOW_BATCH_CHUNKS if self._provider.slots.is_slow(self._key) else BATCH_CHUNKS
        return min((cap.chunks_at_once(most) for cap in self._caps), default=most)
