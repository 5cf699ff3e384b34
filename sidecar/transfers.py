"""The running and finished `get`s: started once, watched by whoever wants, cancelled by name."""

from __future__ import annotations

import logging
import secrets
import time
from collections import OrderedDict
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Protocol

import anyio
import anyio.abc

from .control_types import ErrorInfo, GetOptions, InstallResult, TransferInfo
from .errors import NotFound, SidecarError, TransferCancelled, TransferError
from .events import InstallComplete, InstallFailed, TransferComplete, TransferFailed, TransferProgress

if TYPE_CHECKING:
    from collections.abc import Callable

    from .catalogue.entry import SignedEntry
    from .events import Event
    from .install import Installer, Outcome
    from .install_model import ModelInstaller
    from .metrics import Metrics
    from .transfer.fetch import Fetch
    from .transfer.fetch_types import Progress

log = logging.getLogger(__name__)

REMEMBERED = 200
"""Finished transfers kept for `ollaswarm transfers`."""


class Carrier(Protocol):
    """Carries out a `get`: `Installer.install` with its entry, or another way for what has no entry."""

    async def __call__(
        self,
        options: GetOptions,
        *,
        transfer: str,
        fetching: Callable[[Fetch], None],
        progress: Callable[[str, Progress | None], None],
    ) -> Outcome: ...


@dataclass(frozen=True, slots=True)
class Job:
    """What a `get` is of."""

    id: bytes
    """The same for the same thing: two `get`s of it are one."""
    ref: str
    name: str
    digest: str
    size: int
    carry: Carrier


@dataclass(eq=False)
class _Running:
    """One `get` under way."""

    job: Job
    options: GetOptions
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    fetch: Fetch | None = None
    ended: anyio.Event = field(default_factory=anyio.Event)
    begun: float = 0.0
    first_bytes: int | None = None
    fetched_bytes: int = 0


class Transfers:
    """See the module docstring."""

    def __init__(
        self,
        installer: Installer,
        models: ModelInstaller,
        emit: Callable[[Event], None],
        metrics: Metrics,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._installer = installer
        self._models = models
        self._emit = emit
        self._metrics = metrics
        self._clock = clock
        self._wall_clock = wall_clock
        self._infos: OrderedDict[str, TransferInfo] = OrderedDict()
        self._running: dict[str, _Running] = {}
        self._tasks: anyio.abc.TaskGroup | None = None

    async def run(self) -> None:
        """Carry transfers out until cancelled."""
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            await anyio.sleep_forever()

    def start(self, entry: SignedEntry, options: GetOptions) -> TransferInfo:
        """Begin a `get`, or join the same one that is running."""
        offered = entry.entry
        install = partial((self._models if offered.is_model else self._installer).install, entry)
        return self.begin(Job(entry.id, entry.ref, entry.name, offered.blob.digest, offered.size, install), options)

    def begin(self, job: Job, options: GetOptions) -> TransferInfo:
        """The same for anything that can be got."""
        for transfer, running in self._running.items():
            if running.job.id == job.id and running.options == options:
                return self._infos[transfer]
        assert self._tasks is not None, "transfers start after the daemon did"
        transfer = secrets.token_hex(6)
        info = TransferInfo(
            transfer,
            "fetch",
            job.ref,
            job.name,
            job.digest,
            "running",
            "fetch",
            0,
            job.size,
            started_at=self._wall_clock(),
        )
        self._infos[transfer] = info
        self._running[transfer] = _Running(job, options, begun=self._clock())
        self._forget_old()
        self._tasks.start_soon(self._carry_out, transfer, self._running[transfer])
        return info

    def list(self) -> tuple[TransferInfo, ...]:
        """Running ones first, then those that ended, newest first."""
        infos = list(reversed(self._infos.values()))
        return tuple(sorted(infos, key=lambda info: info.finished))

    def get(self, transfer: str) -> TransferInfo:
        """One transfer. Raises NotFound."""
        try:
            return self._infos[transfer]
        except KeyError:
            raise NotFound(f"There is no transfer {transfer[:80]!r}.", "`ollaswarm transfers` lists them.") from None

    def cancel(self, transfer: str) -> TransferInfo:
        """Stop a transfer; what was verified is kept."""
        info = self.get(transfer)
        if (running := self._running.get(transfer)) is not None:
            if running.fetch is not None and info.stage == "fetch":
                running.fetch.cancel()
            else:
                running.scope.cancel()
        return info

    async def finish(self, transfer: str) -> TransferInfo:
        """Wait for the end of a transfer, well or badly. Raises NotFound."""
        if (running := self._running.get(transfer)) is not None:
            await running.ended.wait()
        return self.get(transfer)

    @property
    def running(self) -> int:
        """How many are under way."""
        return len(self._running)

    # --- inside ------------------------------------------------------------------------------------------------------

    async def _carry_out(self, transfer: str, running: _Running) -> None:
        try:
            with running.scope:
                outcome = await running.job.carry(
                    running.options,
                    transfer=transfer,
                    fetching=lambda fetch: setattr(running, "fetch", fetch),
                    progress=lambda stage, now: self._progress(transfer, running, stage, now),
                )
                self._done(transfer, running, outcome)
            if running.scope.cancelled_caught:
                self._failed(transfer, running, TransferCancelled("The transfer was cancelled."))
        except SidecarError as error:
            self._failed(transfer, running, error)
        except Exception as error:  # a fault of ours must end as an answer, not as a daemon that stopped
            log.exception("transfer %s", transfer)
            self._failed(transfer, running, TransferError(f"An unforeseen error: {error!r}."))
        finally:
            del self._running[transfer]
            running.ended.set()

    def _progress(self, transfer: str, running: _Running, stage: str, now: Progress | None) -> None:
        info = replace(self._infos[transfer], stage=stage)
        if now is not None:
            if running.first_bytes is None:
                running.first_bytes = now.done_bytes
            running.fetched_bytes = now.done_bytes - running.first_bytes
            info = replace(info, done_bytes=now.done_bytes, bytes_per_s=now.bytes_per_s, sources=now.sources)
        elif stage == "verify":
            self._fetched(transfer, running, info)
            info = replace(info, done_bytes=info.total_bytes, bytes_per_s=0.0)
        self._infos[transfer] = info
        self._emit(
            TransferProgress(
                transfer, info.ref, stage, info.done_bytes, info.total_bytes, info.bytes_per_s, info.sources
            )
        )

    def _fetched(self, transfer: str, running: _Running, info: TransferInfo) -> None:
        seconds = self._clock() - running.begun
        self._metrics.fetched_bytes.inc(running.fetched_bytes)
        self._metrics.transfer_seconds.observe(seconds)
        self._emit(TransferComplete(transfer, info.ref, info.digest, info.total_bytes, seconds))

    def _done(self, transfer: str, running: _Running, outcome: Outcome) -> None:
        info = self._infos[transfer]
        result = InstallResult(
            info.digest,
            info.total_bytes,
            outcome.installed_as,
            outcome.route,
            outcome.path,
            running.fetched_bytes,
            self._clock() - running.begun,
            outcome.warnings,
        )
        self._infos[transfer] = replace(info, state="done", result=result)
        if outcome.installed_as is not None and outcome.route is not None:
            self._metrics.install_ended("pull" if outcome.route == "pull" else "create")
            self._emit(InstallComplete(transfer, info.ref, outcome.installed_as, outcome.route, info.digest))
        else:
            self._progress(transfer, running, "done", None)

    def _failed(self, transfer: str, running: _Running, error: SidecarError) -> None:
        info = self._infos[transfer]
        cancelled = isinstance(error, TransferCancelled)
        self._infos[transfer] = replace(
            info,
            state="cancelled" if cancelled else "failed",
            error=ErrorInfo(error.code, error.cause, error.next_step),
        )
        kind = TransferFailed if info.stage == "fetch" else InstallFailed
        if running.options.install and not cancelled:
            self._metrics.install_ended("none", error.code)
        self._emit(kind(transfer, info.ref, error.code, error.cause, error.next_step))

    def _forget_old(self) -> None:
        finished = [transfer for transfer, info in self._infos.items() if info.finished]
        for transfer in finished[: max(0, len(finished) - REMEMBERED)]:
            del self._infos[transfer]
