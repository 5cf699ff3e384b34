"""A `Control` that lives in memory: two rooms, one adapter, transfers that move when the test says so."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import anyio

from sidecar.control_types import (
    AdapterRow,
    BlockListInfo,
    BundleInfo,
    ConnectionsInfo,
    Control,
    Diagnosis,
    DialResult,
    DoctorLine,
    ErrorInfo,
    Finding,
    GetOptions,
    ImportInfo,
    InstallResult,
    NumberedEvent,
    OllamaInfo,
    PeerInfo,
    PlanLine,
    Policy,
    PublisherInfo,
    RegistryInfo,
    RegistryRow,
    RollbackInfo,
    RoomInfo,
    RuleInfo,
    RuleOptions,
    ShareOptions,
    StatusInfo,
    StoreInfo,
    Suggestion,
    SyncReport,
    TransferInfo,
    UninstallResult,
    VerifyReport,
)
from sidecar.errors import BaseModelMissing, ConsentNeeded, NotFound, RoomError, SidecarError
from sidecar.events import Event, OllamaLost, TransferProgress

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

KEY = "ab" * 32
CODE = "abandon-ability-able-about-above-absent-absorb-abstract"
DIGEST = "sha256:" + "1f" * 32
SIZE = 100 * 65536
CONSENT = "Joining shows your IP address and what you share to everyone."
WORDS = "apple brave cedar delta"


def adapter_row(**changes: object) -> AdapterRow:
    row = AdapterRow(
        ref="sql-lora",
        name="sql-lora",
        version=7,
        publisher=KEY,
        rooms=("team",),
        digest=DIGEST,
        size=SIZE,
        base="llama3.2:1b",
        base_digest="sha256:" + "2e" * 32,
        fits=True,
        sources=2,
        trust="unknown",
        entry="c0ffee" * 10 + "c0ff",
    )
    return replace(row, **changes)  # type: ignore[arg-type]


REGISTRY_SECRET = "0123456789abcdef" * 2
REGISTRY_PREFIX = f"127.0.0.1:11471/{REGISTRY_SECRET}/"
FINDING = Finding("stale-announce", "warn", "Nobody answers.", "It ended.", "Start it.", "likely")
DIALLED = DialResult(False, 4.0, kind="silent", detail="Nobody got an answer.")


@dataclass
class FakeControl:
    """What happened to it is in `calls`; what it answers can be changed by the test."""

    calls: list[tuple[object, ...]] = field(default_factory=list)
    joined: list[RoomInfo] = field(default_factory=lambda: [RoomInfo("0" * 32, "team", "private", 2, 1)])
    offered: list[AdapterRow] = field(default_factory=lambda: [adapter_row()])
    registered: RegistryInfo = field(
        default_factory=lambda: RegistryInfo(
            False, False, "127.0.0.1:11471", True, False, "", REGISTRY_SECRET, REGISTRY_PREFIX
        )
    )
    rules: list[RuleInfo] = field(default_factory=list)
    planned: list[PlanLine] = field(default_factory=list)
    suggested: tuple[Suggestion, ...] = ()
    running: dict[str, TransferInfo] = field(default_factory=dict)
    breaks: Exception | None = None
    reached: bool = False
    finding: Finding = FINDING
    dialled: DialResult = DIALLED
    lines: tuple[DoctorLine, ...] = (DoctorLine("ollama", "ok", "Fine."), DoctorLine("peers", "warn", "None.", "Wait."))
    log: list[NumberedEvent] = field(default_factory=list)
    changed: anyio.Event = field(default_factory=anyio.Event)
    subscribers: int = 0
    script: list[Callable[[FakeControl], None]] = field(default_factory=list)
    """What happens to transfer t1, one step each time it is looked at."""

    def emit(self, event: Event) -> None:
        self.log.append(NumberedEvent(len(self.log) + 1, event))
        self.changed.set()
        self.changed = anyio.Event()

    @asynccontextmanager
    async def events(self, since: int | None = None) -> AsyncIterator[AsyncIterator[NumberedEvent]]:
        place = len(self.log) if since is None else 0 if since > len(self.log) else since

        async def read() -> AsyncIterator[NumberedEvent]:
            nonlocal place
            while True:
                while place < len(self.log):
                    place += 1
                    yield self.log[place - 1]
                await self.changed.wait()

        self._subscribed(+1)
        try:
            yield read()
        finally:
            self._subscribed(-1)

    def _subscribed(self, change: int) -> None:
        self.subscribers += change
        self.changed.set()
        self.changed = anyio.Event()

    async def wait_for_subscribers(self, count: int) -> None:
        """Return when exactly that many are subscribed."""
        while self.subscribers != count:
            await self.changed.wait()

    async def status(self) -> StatusInfo:
        if self.breaks:
            raise self.breaks
        return StatusInfo(
            version="0.1.0",
            pid=1,
            uptime_s=75.0,
            key=KEY,
            words=WORDS,
            data_dir="/data",
            api="127.0.0.1:11470",
            listen=("192.168.1.7:4000",),
            ollama=OllamaInfo("http://127.0.0.1:11434", True, "0.34.2", "pull"),
            store=StoreInfo("/models", "user", True, 12, 1),
            rooms=tuple(self.joined),
            peers=2,
            entries=1,
            shared=0,
            transfers=0,
            fetched_bytes=SIZE,
            quota_bytes=50 << 30,
            connections=ConnectionsInfo(
                online=True,
                nat="consistent",
                roads={"lan": 1, "relayed": 1},
                dials_opened=2,
                dials_failed={"silent": 3},
                relaying=True,
                relayed_pairs=1,
            ),
        )

    async def doctor(self) -> tuple[DoctorLine, ...]:
        self.calls.append(("doctor",))
        return self.lines

    async def diagnose_room(self, room: str) -> Diagnosis:
        self.calls.append(("diagnose_room", room))
        return Diagnosis(room, False, (self.finding,))

    async def diagnose_peer(self, peer: str, *, dial: bool) -> Diagnosis:
        self.calls.append(("diagnose_peer", peer, dial))
        return Diagnosis(peer, self.reached, (self.finding,), self.dialled if dial else None)

    async def rooms(self) -> tuple[RoomInfo, ...]:
        return tuple(self.joined)

    async def create_room(self, label: str | None) -> RoomInfo:
        self.calls.append(("create_room", label))
        room = RoomInfo("3" * 32, label or "room-1", "private")
        self.joined.append(room)
        return replace(room, code=CODE, link=f"ollaswarm://room/{CODE}")

    async def join_room(self, room: str, *, label: str | None, consent: bool, orch_mind: bool = False) -> RoomInfo:
        self.calls.append(("join_room", room, label, consent))
        if orch_mind:
            return RoomInfo("5" * 32, label or "theirs", "orch-mind", orch_mind=True)
        if room == "general" and not consent:
            raise ConsentNeeded(CONSENT)
        if room not in ("general", "local", CODE):
            raise RoomError("That is not a room code.")
        return RoomInfo("4" * 32, label or room[:8], "general" if room == "general" else "private")

    async def leave_room(self, room: str) -> RoomInfo:
        self.calls.append(("leave_room", room))
        for joined in self.joined:
            if room in (joined.label, joined.id):
                self.joined.remove(joined)
                return joined
        raise NotFound(f"There is no room {room!r}.")

    async def adapters(
        self, *, room: str | None = None, fits: bool = False, local: bool = False
    ) -> tuple[AdapterRow, ...]:
        self.calls.append(("adapters", room, fits, local))
        return tuple(self.offered)

    async def share(self, what: str, room: str, options: ShareOptions) -> AdapterRow:
        self.calls.append(("share", what, room, options))
        return adapter_row(local=True)

    async def share_all(self, room: str, *, on: bool, models: bool = False) -> RoomInfo:
        self.calls.append(("share_all", room, on, *(["models"] if models else [])))
        for place, joined in enumerate(self.joined):
            if room in (joined.label, joined.id):
                self.joined[place] = replace(joined, share_all=on)
                return self.joined[place]
        raise NotFound(f"There is no room {room!r}.")

    async def unshare(self, name: str, room: str | None = None) -> tuple[AdapterRow, ...]:
        self.calls.append(("unshare", name, room))
        return (adapter_row(local=True),)

    async def suggestions(self, ref: str) -> tuple[Suggestion, ...]:
        return self.suggested

    async def get(self, ref: str, options: GetOptions) -> TransferInfo:
        self.calls.append(("get", ref, options))
        if ref == "orch-mind/lora" and not options.accept_unsigned:
            raise ConsentNeeded("Nobody signed it.")
        if ref not in ("sql-lora", "c0ffee", "orch-mind/lora"):
            raise NotFound(f"No adapter answers to {ref!r}.")
        info = TransferInfo(
            "t1", "fetch", "sql-lora", "sql-lora", DIGEST, "running", "fetch", 0, SIZE, 5e6, 2, started_at=1.0
        )
        self.running["t1"] = info
        return info

    async def transfers(self) -> tuple[TransferInfo, ...]:
        return tuple(self.running.values())

    async def transfer(self, transfer: str) -> TransferInfo:
        if transfer not in self.running:
            raise NotFound(f"There is no transfer {transfer!r}.")
        if self.script:
            self.script.pop(0)(self)
        return self.running[transfer]

    async def cancel(self, transfer: str) -> TransferInfo:
        info = await self.transfer(transfer)
        self.running[transfer] = replace(info, state="cancelled", error=ErrorInfo("cancelled", "Cancelled.", "Again."))
        self._tell(transfer)
        return self.running[transfer]

    def advance(self, done_bytes: int) -> None:
        """The transfer t1 has that many bytes now."""
        self.running["t1"] = replace(self.running["t1"], done_bytes=done_bytes)
        self._tell("t1")

    def finish(self, error: SidecarError | None = None) -> None:
        """The transfer t1 ends, well or badly."""
        if error is None:
            result = InstallResult(DIGEST, SIZE, "sql-lora:latest", "pull", fetched_bytes=SIZE, seconds=1.5)
            change = replace(self.running["t1"], state="done", stage="install", done_bytes=SIZE, result=result)
        else:
            told = ErrorInfo(error.code, error.cause, error.next_step)
            change = replace(self.running["t1"], state="failed", error=told)
        self.running["t1"] = change
        self._tell("t1")

    def _tell(self, transfer: str) -> None:
        now = self.running[transfer]
        self.emit(TransferProgress(transfer, now.ref, now.stage, now.done_bytes, now.total_bytes, 5e6, 2))

    async def uninstall(self, name: str) -> UninstallResult:
        self.calls.append(("uninstall", name))
        if name != "sql-lora":
            raise NotFound(f"{name} was not installed by us.")
        return UninstallResult(name, DIGEST, True)

    async def export_bundle(self, ref: str, path: str, *, with_base: bool, overwrite: bool) -> BundleInfo:
        self.calls.append(("export_bundle", ref, path, with_base, overwrite))
        return BundleInfo(path, ref, 7, KEY, SIZE, with_base)

    async def import_bundle(self, path: str, options: GetOptions) -> ImportInfo:
        self.calls.append(("import_bundle", path, options))
        result = InstallResult(DIGEST, SIZE, "sql-lora:latest" if options.install else None, "pull", seconds=1.5)
        return ImportInfo("sql-lora", 7, KEY, DIGEST, "llama3.2:1b", result)

    async def registry(self, *, entries: bool = False) -> RegistryInfo:
        row = RegistryRow("team", "sql-lora", 7, True, f"{REGISTRY_PREFIX}team.sql-lora:latest")
        return replace(self.registered, entries=(row,) if entries else ())

    async def set_registry(
        self, *, on: bool, new_secret: bool = False, push: bool | None = None, models: bool | None = None
    ) -> RegistryInfo:
        self.calls.append(("set_registry", on, new_secret, push, models))
        self.registered = replace(self.registered, on=on, listening=on and not self.registered.cause)
        return self.registered

    async def sync_rules(self) -> tuple[RuleInfo, ...]:
        return tuple(self.rules)

    async def sync_add(self, options: RuleOptions) -> RuleInfo:
        self.calls.append(("sync_add", options))
        self.rules.append(RuleInfo("0a1b2c3d", options.direction, options.room, publisher=options.publisher))
        return self.rules[-1]

    async def sync_remove(self, rule: str) -> RuleInfo:
        self.calls.append(("sync_remove", rule))
        return self.rules.pop()

    async def sync_run(self, *, dry_run: bool) -> SyncReport:
        self.calls.append(("sync_run", dry_run))
        return SyncReport(tuple(self.planned), dry_run, SIZE, 0, 50 << 30)

    async def sync_rollback(self, name: str, version: int | None = None) -> RollbackInfo:
        self.calls.append(("sync_rollback", name, version))
        return RollbackInfo("team/sql-lora", version or 6, 7)

    async def peers(self) -> tuple[PeerInfo, ...]:
        return (PeerInfo(KEY, WORDS, "192.168.1.8:4000", ("team",), "unknown", 1, SIZE, 0, 60.0),)

    async def trust(self, key: str, *, label: str | None = None, replace_label: bool = False) -> PublisherInfo:
        self.calls.append(("trust", key) if label is None else ("trust", key, label, replace_label))
        return PublisherInfo(KEY, WORDS, "trusted", label)

    async def rotate_room(self, room: str) -> RoomInfo:
        self.calls.append(("rotate_room", room))
        return replace(self.joined[0], id="9" * 32, code=CODE, link=f"ollaswarm://room/{CODE}")

    async def set_policy(self, room: str, policy: Policy) -> RoomInfo:
        self.calls.append(("set_policy", room, policy))
        return replace(self.joined[0], policy=policy)

    async def forget_publisher(self, key: str) -> PublisherInfo:
        self.calls.append(("forget_publisher", key))
        return PublisherInfo(KEY, WORDS, "unknown")

    async def block(self, key: str) -> PublisherInfo:
        self.calls.append(("block", key))
        return PublisherInfo(KEY, WORDS, "blocked")

    async def block_lists(self) -> tuple[BlockListInfo, ...]:
        return (BlockListInfo(KEY, 3, ("cd" * 32,)),)

    async def publish_blocks(self, room: str) -> BlockListInfo:
        self.calls.append(("publish_blocks", room))
        return BlockListInfo(KEY, 4, ("cd" * 32,))

    async def follow_blocks(self, key: str, *, on: bool) -> BlockListInfo:
        self.calls.append(("follow_blocks", key, on))
        return BlockListInfo(KEY, 3 if on else 0, ("cd" * 32,) if on else ())

    async def verify(self, path: str) -> VerifyReport:
        self.calls.append(("verify", path))
        if path.endswith("missing.gguf"):
            raise NotFound(f"There is no file {path}.")
        return VerifyReport(path, DIGEST, SIZE, path.endswith("good.gguf"), "gguf", "llama", 8, 64, ("sql-lora",))


def base_missing() -> BaseModelMissing:
    return BaseModelMissing("llama3.2:1b (sha256:2e2e…) is not in this Ollama.", "Run `ollama pull llama3.2:1b`.")


def lost_event() -> OllamaLost:
    return OllamaLost("http://127.0.0.1:11434", "connection refused")


def _conforms(control: FakeControl) -> Control:
    """For mypy: the fake must have every verb of the protocol, with its types."""
    return control
