"""Fetch one blob from every peer that holds it: ask, receive, verify, write, finish.

`run` is the story. One task per source receives; one loop takes what all of them received to a worker thread in
batches, tells the scheduler the outcome and sends its commands. What is on the way at once, and so memory, is bounded by
the scheduler's `total_in_flight`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import anyio
from anyio import to_thread

from sidecar.errors import BlobMismatch, ChunkMismatch, NoProviders, SidecarError, TransferCancelled
from sidecar.transfer.chunks import CHUNK_BYTES
from sidecar.transfer.fetch_types import BlobSpec, FetchLimits, Progress, SpeedMeter
from sidecar.transfer.partial import DiskPolicy, PartialFile, WriteReport
from sidecar.transfer.peer import Peer
from sidecar.transfer.pool import HoldingsChanged, SourceJoined, SourcePool
from sidecar.transfer.scheduler import Scheduler
from sidecar.transfer.scheduler_events import Arrival, Request, SourceBanned
from sidecar.transfer.source import ReceivedChunks, SourceLost, SourceRefused
from sidecar.transfer.table_search import TableSearch
from sidecar.transfer.verified import VerifiedBlob, verify_file

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from anyio.abc import TaskGroup

    from sidecar.transfer.bandwidth import TokenBucket
    from sidecar.transfer.chunks import ChunkSet, ChunkTable
    from sidecar.transfer.source import ChunkSource

T = TypeVar("T")

BATCH_RUNS = 24
"""Most messages of chunks in one worker-thread call: 4.5 MiB keep the worker busy while the event loop receives more."""
GOOD_BATCH_RUNS = 8
LINGER_S = 0.01
"""How long a small batch waits to grow: a thread hop costs as much as hashing two chunks."""
HASH_CHUNKS = 64
"""Chunks hashed into the whole-file hash per worker-thread call: a few milliseconds, so cancelling stays quick."""


async def fetch_blob(
    spec: BlobSpec,
    sources: SourcePool,
    folder: Path,
    blobs: Path,
    *,
    limits: FetchLimits | None = None,
    policy: DiskPolicy | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> VerifiedBlob:
    """Fetch a blob into `blobs`, keeping unfinished work in `folder`. For more control, see `Fetch`."""
    return await Fetch(spec, sources, folder, blobs, limits=limits, policy=policy, progress=progress).run()


class Fetch:
    """One blob on its way.

    Args:
        spec: From a verified entry.
        sources: Peers, as rooms find them; read by this fetch only.
        folder: For partial files, on the same disk as `blobs`.
        blobs: Where the finished file goes.
        limits: Patience and memory.
        policy: Disk and quota.
        progress: Called about ten times a second, from the event loop.
        table: The chunk table when it is already known; else sources are asked for it.
        caps: Download caps that apply to a source; none for the LAN if the user wishes so.
        seed: See `Scheduler`; a number of our own, such as the start of our public key.
        struck: Told the key of each source that was banned from this blob.
        rejected: Told the key of a source for each wrong chunk it sent.
        ready: Told once `table`, `have` and `data_path` are there, so that what comes can be provided to others.
    """

    def __init__(
        self,
        spec: BlobSpec,
        sources: SourcePool,
        folder: Path,
        blobs: Path,
        *,
        limits: FetchLimits | None = None,
        policy: DiskPolicy | None = None,
        progress: Callable[[Progress], None] | None = None,
        table: ChunkTable | None = None,
        caps: Callable[[ChunkSource], Sequence[TokenBucket]] = lambda source: (),
        seed: int = 0,
        struck: Callable[[bytes], None] = lambda key: None,
        rejected: Callable[[bytes], None] = lambda key: None,
        ready: Callable[[Fetch], None] = lambda fetch: None,
    ) -> None:
        self.spec = spec
        self._pool, self._folder, self._blobs = sources, folder, blobs
        self._limits, self._policy = limits or FetchLimits(), policy or DiskPolicy()
        self._progress, self._caps, self._struck, self._rejected = progress, caps, struck, rejected
        self._tell_ready = ready
        self._seed = seed
        self._partial: PartialFile | None = None
        self._scheduler: Scheduler | None = None
        self._peers: dict[bytes, Peer] = {}
        self._holders: set[bytes] = set()
        self._liars: set[bytes] = set()
        """Keys of all sources so far that may hold something, and of those that are banned for what they sent."""
        self._search = TableSearch(spec, self._limits, table)
        self._ready = anyio.Event()
        self._inbox: list[tuple[bytes, ReceivedChunks]] = []
        self._wake, self._enough = anyio.Event(), anyio.Event()
        self._progress_at = self._joined_at = 0.0
        self._meter = SpeedMeter()
        self._tasks: TaskGroup | None = None
        self._cancelled = False
        self._threads = anyio.CapacityLimiter(2)  # one writes, one hashes
        self._hash_failure: OSError | None = None
        self._written = anyio.Event()
        self._preferred: tuple[int, ...] = ()
        self.grew: Callable[[], None] = lambda: None
        """Called when `have` was made, and whenever it grew; set by who follows."""

    @property
    def table(self) -> ChunkTable | None:
        """The chunk table, once it is known."""
        return self._search.table

    @property
    def have(self) -> ChunkSet | None:
        """Chunks on the disk, to be provided to others meanwhile; None until the table is known."""
        return self._partial.have if self._partial else None

    @property
    def data_path(self) -> Path | None:
        """File that holds the chunks of `have`."""
        return self._partial.data_path if self._partial else None

    def prefer(self, indexes: Sequence[int]) -> None:
        """Fetch around these chunks first, because somebody waits for them."""
        self._preferred = tuple(indexes)
        if self._scheduler is not None:
            self._scheduler.prefer(self._preferred)
            self._wake.set()

    def cancel(self) -> None:
        """End with `TransferCancelled`; what was verified is kept."""
        self._cancelled = True
        if self._tasks is not None:
            self._tasks.cancel_scope.cancel()

    async def run(self) -> VerifiedBlob:
        """Fetch, verify, and put in place.

        Raises:
            NoProviders: Nobody who is connected has what is missing, or nothing comes.
            ChunkMismatch: As before, and those who were asked sent wrong data.
            BlobMismatch: Every chunk is right by the table, and the whole is not the digest: the entry is wrong.
            DiskFull, QuotaExceeded: As their names say.
            TransferCancelled: After `cancel`.
        """
        blob, failure = None, None
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            try:
                if self._cancelled:
                    raise TransferCancelled("The transfer was cancelled.")
                blob = await self._work(tasks)
            except (SidecarError, OSError) as error:
                failure = error  # raised below, outside the group, which would wrap it
            tasks.cancel_scope.cancel()
        if failure is not None:
            raise failure
        if blob is None:
            raise TransferCancelled(f"The transfer of {self.spec.digest} was cancelled.")
        return blob

    # --- the story -----------------------------------------------------------------------------------------------

    async def _work(self, tasks: TaskGroup) -> VerifiedBlob:
        if blob := await self._in_thread(self._existing):
            return blob
        self._progress_at = self._joined_at = anyio.current_time()
        tasks.start_soon(self._follow_pool, tasks)
        await self._wait_for_table()
        with await self._in_thread(self._open_partial) as partial:
            self._partial = partial
            self._scheduler = Scheduler(self.spec.count, partial.have, limits=self._limits.scheduler, seed=self._seed)
            self._scheduler.prefer(self._preferred)
            self._ready.set()
            self._tell_ready(self)
            self.grew()
            tasks.start_soon(self._refresh_holdings, tasks)
            tasks.start_soon(self._hash_behind, partial, self._scheduler)
            return await self._transfer(partial, self._scheduler)

    def _existing(self) -> VerifiedBlob | None:
        """The blob of an earlier fetch, hashed again; a damaged one is removed."""
        path = self._blobs / self.spec.digest.file_name
        try:
            return verify_file(path, self.spec.digest, self.spec.size)
        except FileNotFoundError:
            return None
        except BlobMismatch:
            path.unlink()
            return None

    def _open_partial(self) -> PartialFile:
        assert self.table is not None
        return PartialFile(self._folder, self._blobs, self.spec.digest, self.spec.size, self.table, self._policy)

    async def _wait_for_table(self) -> None:
        while self.table is None:
            self._check_patience(bool(self._peers))
            await self._sleep_until_woken(1.0)
        self._progress_at = anyio.current_time()

    async def _transfer(self, partial: PartialFile, scheduler: Scheduler) -> VerifiedBlob:
        distrusted = False
        while True:
            while not scheduler.complete or partial.behind:
                await self._step(partial, scheduler)
            self._pump(scheduler)  # cancels what is still owed
            self._report(scheduler, last=True)
            try:
                return await self._in_thread(partial.finish)
            except BlobMismatch as error:
                if distrusted:  # every chunk was just read back and is the table's: no other peer can help
                    partial.discard()
                    raise BlobMismatch(error.cause, "The entry contradicts itself; tell its publisher.") from error
                distrusted = True
                partial.distrust()
                self._written.set()

    async def _step(self, partial: PartialFile, scheduler: Scheduler) -> None:
        """Wait for something to do, do it in the worker thread, and act on the outcome."""
        self._pump(scheduler)
        await self._gather(partial, scheduler)
        batch, self._inbox = self._inbox[:BATCH_RUNS], self._inbox[BATCH_RUNS:]
        if batch:
            items = [(run.first, run.data) for _, run in batch]
            report = await self._in_thread(partial.write_batch, items)
            self._written.set()
            self._apply(scheduler, batch, report)
        if self._hash_failure is not None:
            raise self._hash_failure
        now = anyio.current_time()
        scheduler.handle_timer(now=now)
        self._report(scheduler)
        if not scheduler.complete and not self._inbox:
            self._check_patience(scheduler.can_continue())

    async def _gather(self, partial: PartialFile, scheduler: Scheduler) -> None:
        """Return when there is a batch worth a thread hop, or something else to do."""
        if not self._inbox:
            timer = scheduler.next_timer()
            wait = 1.0 if timer is None else min(1.0, max(0.0, timer - anyio.current_time()))
            await self._sleep_until_woken(wait)
        waiting = sum(run.count for _, run in self._inbox)
        if 0 < len(self._inbox) < GOOD_BATCH_RUNS and scheduler.in_flight > waiting:
            self._enough = anyio.Event()
            with anyio.move_on_after(LINGER_S):
                await self._enough.wait()

    async def _hash_behind(self, partial: PartialFile, scheduler: Scheduler) -> None:
        """Keep the whole-file hash close behind what is written, in a thread of its own."""
        while self._hash_failure is None:
            if not partial.behind:
                self._written = anyio.Event()
                self._wake.set()
                await self._written.wait()
            try:
                scheduler.lost(await self._in_thread(partial.advance, HASH_CHUNKS))
            except OSError as error:
                self._hash_failure = error  # raised by the loop that waits for the end
        self._wake.set()

    def _apply(self, scheduler: Scheduler, batch: list[tuple[bytes, ReceivedChunks]], report: WriteReport) -> None:
        scheduler.verified(report.written)
        for position, index in report.wrong:
            scheduler.wrong(batch[position][0], index)
            self._rejected(batch[position][0])
        if report.written:
            self._progress_at = anyio.current_time()
            self.grew()

    def _pump(self, scheduler: Scheduler) -> None:
        """Carry out what the scheduler wants."""
        for command in scheduler.commands(now=anyio.current_time()):
            peer = self._peers.get(command.source)
            if peer is None:
                continue
            if isinstance(command, Request):
                peer.request(self.spec.digest, command)
            else:
                peer.cancel(command.ticket)
        while event := scheduler.next_event():
            if isinstance(event, SourceBanned):
                self._ban(event.source)

    def _ban(self, key: bytes) -> None:
        self._liars.add(key)
        self._struck(key)
        if peer := self._peers.get(key):
            peer.scope.cancel()

    def _check_patience(self, can_continue: bool) -> None:
        since = self._progress_at if can_continue else max(self._progress_at, self._joined_at)
        waited = anyio.current_time() - since
        if waited < (self._limits.nothing_came_s if can_continue else self._patience_without_source()):
            return
        if self._search.lies or (self._scheduler and self._scheduler.any_lied):
            raise ChunkMismatch(f"Peers sent wrong data for {self.spec.digest}, and nobody else holds what is missing.")
        if can_continue:
            raise NoProviders(f"Peers that hold {self.spec.digest} are connected, but for {waited:.0f} s nothing came.")
        raise NoProviders(f"No connected peer holds what is missing of {self.spec.digest}.")

    def _patience_without_source(self) -> float:
        """An honest source that left may come back; one that is banned may not."""
        return self._limits.only_liars_s if self._liars and self._holders <= self._liars else self._limits.no_source_s

    # --- sources -------------------------------------------------------------------------------------------------

    async def _follow_pool(self, tasks: TaskGroup) -> None:
        while True:
            change = await self._pool.next_change()
            if isinstance(change, SourceJoined):
                if replaced := self._peers.get(change.source.key):
                    replaced.scope.cancel()
                    self._forget(replaced)
                peer = self._peers[change.source.key] = Peer(change.source)
                self._holders.add(change.source.key)
                self._joined_at = anyio.current_time()
                tasks.start_soon(self._run_peer, peer)
            elif peer_or_none := self._peers.get(change.key):
                if isinstance(change, HoldingsChanged):
                    tasks.start_soon(self._ask_holdings, peer_or_none)
                else:
                    peer_or_none.scope.cancel()

    async def _run_peer(self, peer: Peer) -> None:
        """Everything about one source, from its introduction to its end."""
        try:
            with peer.scope:
                await self._search.learn(peer.source)
                self._wake.set()
                await self._ready.wait()
                await self._ask_holdings(peer)
                while True:
                    await self._receive(peer)
        except SourceLost:
            pass
        finally:
            if self._search.lies[peer.source.key] >= self._limits.scheduler.strikes:
                self._ban(peer.source.key)
            self._forget(peer)

    def _forget(self, peer: Peer) -> None:
        """Take back what a source owes, unless another connection to the same peer took its place."""
        key = peer.source.key
        if self._peers.get(key) is peer:
            del self._peers[key]
            if self._scheduler is not None:
                for ticket in self._scheduler.owed_by(key):
                    peer.cancel(ticket)
                self._scheduler.remove_source(key)
            self._wake.set()

    async def _ask_holdings(self, peer: Peer) -> None:
        """Learn what a source holds, and tell the scheduler."""
        if peer.asking:
            return
        peer.asking = True
        try:
            with anyio.move_on_after(self._limits.answer_s):
                holdings = await peer.source.holdings(self.spec.digest, self.spec.count)
                if holdings.total == self.spec.count and self._peers.get(peer.source.key) is peer:
                    self._tell_holdings(peer, holdings)
        except (SourceLost, SourceRefused):
            peer.scope.cancel()
        finally:
            peer.asking = False

    def _tell_holdings(self, peer: Peer, holdings: ChunkSet) -> None:
        scheduler, key = self._scheduler, peer.source.key
        if scheduler is None:
            return  # asked again once there is one
        if key in scheduler.sources:
            scheduler.update_holdings(key, holdings)
        else:
            for _ in range(self._search.lies.pop(key, 0)):
                scheduler.strike(key)
            scheduler.add_source(key, holdings, now=anyio.current_time())
        if holdings.count:
            self._holders.add(key)
        else:  # a member that knows the entry and no more
            self._holders.discard(key)
        peer.complete = holdings.complete
        self._wake.set()

    async def _refresh_holdings(self, tasks: TaskGroup) -> None:
        """Ask sources that hold only parts what they have got meanwhile."""
        while True:
            await anyio.sleep(self._limits.refresh_s)
            for peer in list(self._peers.values()):
                if not peer.complete:
                    tasks.start_soon(self._ask_holdings, peer)

    async def _receive(self, peer: Peer) -> None:
        """Take what one source sent, at the pace the caps allow."""
        assert self._scheduler is not None
        try:
            runs = await peer.source.next_chunks()
        except SourceRefused as refusal:
            ticket = peer.ticket_of(refusal.request_id)
            self._scheduler.refused(peer.source.key, ticket, gone=refusal.gone, now=anyio.current_time())
            if self._scheduler.denied(peer.source.key):
                peer.complete = False  # whatever it said it holds: it is asked again
            self._wake.set()
            return
        caps = [cap for cap in self._caps(peer.source) if cap.rate is not None]
        if not caps:
            self._take(self._scheduler, peer, runs)
            return
        for run in runs:
            self._take(self._scheduler, peer, [run])
            now = anyio.current_time()
            if wait := max(cap.reserve(len(run.data), now=now) for cap in caps):
                self._scheduler.wait(peer.source.key, now + wait)
                await anyio.sleep(wait)

    def _take(self, scheduler: Scheduler, peer: Peer, runs: list[ReceivedChunks]) -> None:
        now = anyio.current_time()
        key = peer.source.key
        for run in runs:
            ticket = peer.ticket_of(run.request_id)
            if scheduler.arrived(key, ticket, run.first, run.count, now=now) is Arrival.CHECK:
                self._inbox.append((key, run))
        self._wake.set()
        if len(self._inbox) >= GOOD_BATCH_RUNS:
            self._enough.set()

    # --- small things --------------------------------------------------------------------------------------------

    async def _in_thread(self, function: Callable[..., T], *args: object) -> T:
        return await to_thread.run_sync(function, *args, limiter=self._threads)

    async def _sleep_until_woken(self, seconds: float) -> None:
        self._wake = anyio.Event()
        with anyio.move_on_after(seconds):
            await self._wake.wait()

    def _report(self, scheduler: Scheduler, *, last: bool = False) -> None:
        done = min(scheduler.have.count * CHUNK_BYTES, self.spec.size)
        if (self._meter.due(done, anyio.current_time()) or last) and self._progress is not None:
            self._progress(Progress(done, self.spec.size, self._meter.speed, len(scheduler.sources)))
