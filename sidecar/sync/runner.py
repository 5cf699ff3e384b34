"""Carries plans out, as long as the daemon runs: what happens wakes it, it plans, it does, it plans again.

It keeps nothing in memory that it would miss after a restart. What a plan promised and a crash prevented is in the next
plan, because plans are made from what is there.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import anyio
import anyio.abc
from anyio import to_thread

from ollama_bridge.errors import OllamaBridgeError
from ollama_bridge.names import ModelName
from sidecar import events
from sidecar.catalogue.rows import SyncedRow, SyncState
from sidecar.control_types import ErrorInfo, GetOptions, RollbackInfo, SyncReport
from sidecar.errors import NotFound, SidecarError, UsageError

from .facts import Delay, Version, version_of
from .planner import plan, plan_shares
from .report import lines_of
from .rules import MAX_RULES, full_name, share_everything, shares_everything

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ollama_bridge.client import OllamaClient
    from sidecar.catalogue.journal import Journal
    from sidecar.catalogue.journal_thread import JournalThread
    from sidecar.catalogue.rows import RuleRow
    from sidecar.install import Installer
    from sidecar.local_models import LocalModel
    from sidecar.publish import Publisher
    from sidecar.rooms.network import RoomNetwork
    from sidecar.transfers import Transfers

    from .facts import Evict, Facts, Install, Name, Plan, Share
    from .gather import Gatherer

log = logging.getLogger(__name__)

AT_ONCE = 3
"""Installs under way: fetches overlap with what Ollama does, and no more than two wait for a stalled peer."""
PASSING_LOOK_S = 2.0
"""Between looks at what may change unannounced (a peer that holds it, a base that was pulled); grows to SLOW_LOOK_S."""
SLOW_LOOK_S = 60.0
FIRST_DELAY_S = 5.0
LONGEST_DELAY_S = 600.0
"""After failures of one entry, doubling from the first to the longest. An Ollama that is back ends all of them."""
PLANNING_SHARE = 4
"""Plans of a full room take a while; between two of them it is idle that many times as long."""
LONGEST_BREATH_S = 5.0
USE_LOOK_S = 120.0
"""Between looks at what Ollama has loaded. It keeps models for five minutes, so no use is missed."""
WAKING = (
    events.EntryAdded,
    events.EntryWithdrawn,
    events.RoomJoined,
    events.RoomLeft,
    events.AdapterAppeared,
    events.AdapterRemoved,
    events.PeerConnected,
    events.OllamaRestored,
)


@dataclass(eq=False, slots=True)
class _Job:
    """One install under way."""

    install: Install
    ended: anyio.Event = field(default_factory=anyio.Event)
    error: ErrorInfo | None = None


class Sync:
    """See the module docstring."""

    def __init__(
        self,
        *,
        gatherer: Gatherer,
        client: OllamaClient,
        journal: JournalThread,
        network: RoomNetwork,
        publisher: Publisher,
        installer: Installer,
        transfers: Transfers,
        emit: Callable[[events.Event], None],
        listen: Callable[[Callable[[events.Event], None]], Callable[[], None]],
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._gatherer = gatherer
        self._client = client
        self._journal = journal
        self._network = network
        self._publisher = publisher
        self._installer = installer
        self._transfers = transfers
        self._emit = emit
        self._listen = listen
        self._clock = clock
        self._wall_clock = wall_clock
        self._jobs: dict[Version, _Job] = {}
        self._delays: dict[bytes, Delay] = {}
        self._failures: dict[bytes, int] = {}
        self._slots = anyio.CapacityLimiter(AT_ONCE)
        self._refused: set[tuple[str, LocalModel]] = set()
        """Rules and adapters that were refused: not tried again until the rule or the adapter is another."""
        self._hashing: dict[tuple[str, LocalModel], anyio.Event] = {}
        """Whole models being offered."""
        self._turn = anyio.Lock()
        self._sharing = anyio.Lock()
        """One share at a time: each hashes a file, and the second for the same file finds it done."""
        self._sharing_models = anyio.Lock()
        """The same for whole models, which adapters do not wait for."""
        self._wake = anyio.Event()
        self._passing_look_s = PASSING_LOOK_S
        self._told: events.SyncPlanned | None = None
        self._tasks: anyio.abc.TaskGroup | None = None

    # --- life ----------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Work until cancelled."""
        stop_listening = self._listen(self._heard)
        try:
            async with anyio.create_task_group() as tasks:
                self._tasks = tasks
                tasks.start_soon(self._watch_use)
                while True:
                    try:
                        await self._once()
                    except (SidecarError, OSError, sqlite3.Error):  # a full disk must not end the daemon
                        log.exception("auto-sync could not look at what is there")
                        await anyio.sleep(SLOW_LOOK_S)
        finally:
            stop_listening()

    async def _once(self) -> None:
        """Plan, begin what is planned, and sleep until there may be more."""
        self._wake = anyio.Event()
        begun = self._clock()
        made = await self._work(whatever_the_hour=False)
        breath = min(LONGEST_BREATH_S, (self._clock() - begun) * PLANNING_SHARE)
        with anyio.move_on_after(self._pause(made)):
            await self._wake.wait()
            self._passing_look_s = PASSING_LOOK_S
        await anyio.sleep(breath)

    def wake(self) -> None:
        """Plan again: something changed."""
        self._wake.set()

    def _heard(self, event: events.Event) -> None:
        if isinstance(event, events.OllamaRestored):
            self._forget_failures()
        if isinstance(event, WAKING):
            self.wake()

    def _pause(self, made: Plan) -> float | None:
        """Seconds until the next look; None: until something happens."""
        now = self._wall_clock()
        pauses = [max(0.1, wait.until - now) for wait in made.waits if wait.until is not None]
        if any(wait.passing for wait in made.waits):
            pauses.append(self._passing_look_s)
            self._passing_look_s = min(SLOW_LOOK_S, self._passing_look_s * 2)
        return min(pauses, default=None)

    def _forget_failures(self) -> None:
        self._delays.clear()
        self._failures.clear()

    # --- one plan ------------------------------------------------------------------------------------------------------

    async def _facts(
        self, *, whatever_the_hour: bool, adapters: Iterable[LocalModel] | None = None, with_offers: bool = True
    ) -> Facts:
        running = {key: (job.install.rule.id, job.install.offer.entry.entry.size) for key, job in self._jobs.items()}
        return await self._gatherer.facts(
            running=running,
            delays=self._delays,
            adapters=adapters,
            whatever_the_hour=whatever_the_hour,
            with_offers=with_offers,
        )

    async def _work(self, *, whatever_the_hour: bool) -> Plan:
        """Make a plan and begin it. Shares and names are done when this returns, installs go on."""
        async with self._turn:
            facts = await self._facts(whatever_the_hour=whatever_the_hour)
            made = await _planned(facts)
            made = replace(made, shares=tuple(each for each in made.shares if _share_key(each) not in self._refused))
            self._tell(made)
            if made.gone:
                await self._note([replace(row, state=SyncState.REMOVED) for row in made.gone])
            for install in made.installs:
                self._begin(install)
            for share in made.shares:
                if share.model.adapters:
                    await self._share(share)
                else:
                    self._begin_share(share)
            for name in made.names:
                await self._name(name)
            return made

    def _begin_share(self, share: Share) -> None:
        """Offer a whole model, which is hashed first: minutes in which everything else goes on."""
        assert self._tasks is not None, "plans are carried out while the daemon runs"
        if _share_key(share) not in self._hashing:
            self._hashing[_share_key(share)] = anyio.Event()
            self._tasks.start_soon(self._share_model, share)

    async def _share_model(self, share: Share) -> None:
        try:
            await self._share(share)
        except (SidecarError, sqlite3.Error):
            log.exception("auto-sync could not share %s", share.model.name)
        finally:
            self._hashing.pop(_share_key(share)).set()

    def _tell(self, made: Plan) -> None:
        evictions = sum(len(install.evict) for install in made.installs)
        fetch_bytes = sum(install.fetch_bytes for install in made.installs)
        told = events.SyncPlanned(len(made.installs), len(made.shares), evictions, len(made.waits), fetch_bytes)
        if made.does_something or (self._told is not None and told.waiting != self._told.waiting):
            self._emit(told)
        self._told = told

    def _begin(self, install: Install) -> None:
        assert self._tasks is not None, "plans are carried out while the daemon runs"
        job = _Job(install)
        self._jobs[version_of(install.offer.entry)] = job
        self._tasks.start_soon(self._carry_out, job)

    async def _carry_out(self, job: _Job) -> None:
        install, entry = job.install, job.install.offer.entry
        try:
            async with self._slots:
                options = GetOptions(
                    as_name=install.model.display,
                    by=f"sync {install.rule.id}",
                    accept_suggestions=entry.entry.is_model,  # which the rule said, by asking for models
                )
                started = self._transfers.start(entry, options)
                info = await self._transfers.finish(started.id)
            job.error = info.error
            if info.error is None:
                await self._installed(install)
                self._failures.pop(entry.id, None)
            else:
                self._failed(entry.id, info.error)
        except SidecarError as error:
            job.error = ErrorInfo(error.code, error.cause, error.next_step)
            self._failed(entry.id, job.error)
        except Exception as error:  # a fault of ours must end as an answer, not as a daemon that stopped
            log.exception("auto-sync of %s", entry.ref)
            job.error = ErrorInfo("failed", f"An unforeseen error: {error!r}.", "See the log in the data folder.")
            self._failed(entry.id, job.error)
        finally:
            del self._jobs[version_of(entry)]
            job.ended.set()
            self.wake()

    async def _installed(self, install: Install) -> None:
        """Note it, make room for it, and let the moving name mean it."""
        entry, now = install.offer.entry, self._wall_clock()
        row = SyncedRow(
            entry.publisher,
            entry.name.lower(),
            entry.version,
            install.model.display,
            install.offer.room_id,
            install.rule.id,
            entry.entry.size,
            now,
            now,
        )
        await self._note([row])
        async with self._turn:  # a plan in between would take what we remove for removed by the user
            for evict in install.evict:
                await self._evict(evict, install.rule.id)
            facts = await self._facts(whatever_the_hour=True, with_offers=False)
            for moving in plan(facts).names:
                await self._name(moving)

    async def _evict(self, evict: Evict, rule_id: str) -> None:
        names = [ModelName.parse(evict.row.model), *([evict.moving_name] if evict.moving_name is not None else [])]
        for name in reversed(names):  # the moving one first: a kill in between leaves a version, not a name of none
            with suppress(NotFound):
                await self._installer.uninstall(name.display, by=f"sync {rule_id}")
        await self._note([replace(evict.row, state=SyncState.EVICTED)])

    async def _name(self, name: Name) -> None:
        try:
            await self._installer.give_name(name.source, name.target, by=f"sync {name.row.rule}")
        except SidecarError as error:  # the next plan sees the same and tries again
            log.warning("%s: %s", name.target, error)

    def _failed(self, entry_id: bytes, error: ErrorInfo) -> None:
        failures = self._failures[entry_id] = self._failures.get(entry_id, 0) + 1
        pause = min(LONGEST_DELAY_S, FIRST_DELAY_S * 2 ** (failures - 1))
        self._delays[entry_id] = Delay(self._wall_clock() + pause, error.cause)
        log.info("auto-sync tries again in %.0f s: %s", pause, error.cause)

    async def _note(self, rows: list[SyncedRow]) -> None:
        await self._journal.run(lambda journal: journal.save_synced(rows))

    # --- sharing -------------------------------------------------------------------------------------------------------

    async def adapter_appeared(self, model: LocalModel) -> None:
        """An adapter or model is in the store: serve it where it is offered, and offer it where a rule says so."""
        await self._publisher.hold_again(model)
        if not model.adapters:  # a store may have a thousand of them; the next plan looks at all in one go
            self.wake()
            return
        for share in plan_shares(await self._facts(whatever_the_hour=True, adapters=[model], with_offers=False)):
            await self._share(share)

    async def _share(self, share: Share) -> None:
        room = self._network.rooms.get(share.rule.room_id)
        async with self._sharing if share.model.adapters else self._sharing_models:
            if room is not None and not await self._publisher.share_by_rule(share.model, room):
                self._refused.add(_share_key(share))

    async def share_everything(self, room_id: bytes, *, on: bool, models: bool = False) -> None:
        """Begin or end the rule of `share '*'` in a room (ADR 0006)."""
        rules = await self.rules()
        standing = [rule for rule in rules if rule.room_id == room_id and shares_everything(rule)]
        if on and not any(rule.models >= models for rule in standing):
            await self.add_rule(share_everything(room_id, self._wall_clock(), models=models))
        for rule in standing:
            if not on:
                await self._journal.run(lambda journal, rule=rule: journal.remove_rule(rule.id))  # type: ignore[misc]

    # --- rules ---------------------------------------------------------------------------------------------------------

    async def rules(self) -> list[RuleRow]:
        """All rules, in the order they were made."""
        return await self._journal.run(lambda journal: journal.rules())

    async def add_rule(self, rule: RuleRow) -> None:
        """Keep a rule; the adapters it shares are offered when this returns, whole models follow. Raises UsageError."""

        def save(journal: Journal) -> None:
            if len(journal.rules()) >= MAX_RULES:
                raise UsageError(f"There are {MAX_RULES} rules already.", "Remove some with `ollaswarm sync remove`.")
            journal.save_rule(rule)

        await self._journal.run(save)
        if rule.direction == "share":
            for share in plan_shares(await self._facts(whatever_the_hour=True, with_offers=False)):
                if share.model.adapters:
                    await self._share(share)
        self.wake()

    async def remove_rule(self, rule_id: str) -> RuleRow:
        """Forget a rule. What it did stays. Raises NotFound."""
        rule = next((each for each in await self.rules() if each.id == rule_id.strip().lower()), None)
        if rule is None:
            raise NotFound(f"There is no rule {rule_id[:80]!r}.", "`ollaswarm sync list` shows the rules.")
        await self._journal.run(lambda journal: journal.remove_rule(rule.id))
        self.wake()
        return rule

    # --- by hand -------------------------------------------------------------------------------------------------------

    async def run_now(self, *, dry_run: bool) -> SyncReport:
        """Do what the rules say, whatever the hour, and wait for it; or only say it."""
        if dry_run:
            facts = await self._facts(whatever_the_hour=False)
            return SyncReport(*lines_of(await _planned(facts), facts), quota_bytes=facts.quota_bytes)
        self._forget_failures()
        self._refused.clear()
        made = await self._work(whatever_the_hour=True)
        for shared in list(self._hashing.values()):
            await shared.wait()
        jobs = dict(self._jobs)  # those that were under way before are waited for too
        for job in jobs.values():
            await job.ended.wait()
        facts = await self._facts(whatever_the_hour=True)
        errors = {key: job.error for key, job in jobs.items()}
        return SyncReport(*lines_of(made, facts, errors=errors), quota_bytes=facts.quota_bytes)

    async def roll_back(self, name: str, version: int | None) -> RollbackInfo:
        """Let the moving name of a followed adapter mean an older version, or another that is still here.

        Raises:
            NotFound: Nothing of that name was installed by auto-sync, or not that version.
            InstallError: What is in Ollama under these names is not ours any more.
        """
        async with self._turn:
            followed = await self._followed(name)
            moving = ModelName.parse(followed[-1].model)
            moving = ModelName(moving.host, moving.namespace, moving.model, "latest")
            notes = await self._journal.run(lambda journal: journal.installs())
            note = next((each for each in notes if full_name(ModelName.parse(each.name)) == full_name(moving)), None)
            was = None if note is None else note.version
            row = _chosen(followed, version, was, name)
            changed = [replace(each, state=_state_beside(each, row)) for each in followed]
            await self._note(changed)  # before the name moves: a crash in between must not move it on again
            try:
                await self._installer.give_name(ModelName.parse(row.model), moving, by="user")
            except SidecarError:
                await self._note(followed)
                raise
        self.wake()
        return RollbackInfo(moving.display, row.version, was)

    async def _followed(self, name: str) -> list[SyncedRow]:
        """The versions of one followed adapter, by its own name or that of its model."""
        rows = await self._journal.run(lambda journal: journal.synced())
        wanted = name.strip().lower()
        found: dict[tuple[bytes, str], list[SyncedRow]] = {}
        for row in rows:
            if wanted in (row.name, row.model.lower(), row.model.lower().rpartition(":")[0]):
                found.setdefault((row.publisher, row.name), []).append(row)
        if len(found) != 1:
            names = ", ".join(sorted({row.model.rpartition(":")[0] for rows in found.values() for row in rows}))
            raise NotFound(
                f"{name[:200]!r} can mean {names}." if found else f"Auto-sync installed nothing as {name[:200]!r}.",
                "Give the name of the model, as `ollama list` shows it.",
            )
        (key,) = found
        return [row for row in rows if (row.publisher, row.name) == key]

    # --- last use ------------------------------------------------------------------------------------------------------

    async def _watch_use(self) -> None:
        """Note which of our versions Ollama has loaded, for evictions."""
        while True:
            await anyio.sleep(USE_LOOK_S)
            with suppress(OllamaBridgeError):
                await self.note_use()

    async def note_use(self) -> None:
        """Look once. Raises the bridge's errors."""
        rows = await self._journal.run(lambda journal: journal.synced())
        if not rows:
            return
        loaded = {full_name(name) for name in await self._client.loaded()}
        notes = await self._journal.run(lambda journal: journal.installs())
        used = {
            (note.publisher, note.adapter.lower(), note.version)
            for note in notes
            if full_name(ModelName.parse(note.name)) in loaded
        }
        now = self._wall_clock()
        await self._note([replace(row, used_at=now) for row in rows if (row.publisher, row.name, row.version) in used])


def _share_key(share: Share) -> tuple[str, LocalModel]:
    return share.rule.id, share.model


async def _planned(facts: Facts) -> Plan:
    """A plan made beside the event loop: that of a full room takes seconds, for which no peer should wait."""
    return await to_thread.run_sync(plan, facts, abandon_on_cancel=True)


def _chosen(followed: list[SyncedRow], version: int | None, was: int | None, name: str) -> SyncedRow:
    here = [row for row in followed if row.state in (SyncState.INSTALLED, SyncState.SET_ASIDE)]
    if version is not None:
        here = [row for row in here if row.version == version]
    elif was is not None:
        here = [row for row in here if row.version < was]
    if not here:
        versions = ", ".join(str(row.version) for row in followed if row.state is not SyncState.EVICTED)
        raise NotFound(
            f"{'No older version' if version is None else f'Version {version}'} of {name[:200]!r} is not in Ollama.",
            f"Versions that are: {versions or 'none'}.",
        )
    return here[-1]


def _state_beside(row: SyncedRow, chosen: SyncedRow) -> SyncState:
    """Newer ones than the chosen are set aside, so that only a still newer one moves the name on."""
    if row.state not in (SyncState.INSTALLED, SyncState.SET_ASIDE):
        return row.state
    return SyncState.SET_ASIDE if row.version > chosen.version else SyncState.INSTALLED
