"""What the verbs of the sidecar take and give: the contract between `control` and those who call it.

The API and the CLI are written against `Control`; `sidecar.control` implements it, tests fake it. Everything here is
plain data without behaviour beyond a JSON form, standard library only, so that the CLI may import it for free.
Times are Unix seconds, durations float seconds, sizes bytes, keys 64 lower-case hex, digests `sha256:<hex>`.
Every text that a peer wrote arrives here already stripped of control and bidi characters (T9).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from contextlib import AbstractAsyncContextManager

    from sidecar.events import Event

RoomKind = Literal["general", "local", "private", "orch-mind"]
Trust = Literal["own", "trusted", "unknown", "blocked", "unsigned"]
Level = Literal["ok", "warn", "fail"]
Certainty = Literal["certain", "likely", "possible"]
Road = Literal["lan", "direct", "relayed"]
"""How the packets of a connection travel."""
NatKind = Literal["open", "consistent", "random", "unknown"]
"""Anybody can send to us; one port for everybody; another port for each destination; not known yet."""
TransferState = Literal["queued", "running", "done", "failed", "cancelled"]
Direction = Literal["fetch", "provide"]
Policy = Literal["off", "warn", "enforce"]
RuleDirection = Literal["fetch", "share"]
PlanAction = Literal["install", "name", "share", "evict", "wait"]
FINISHED: frozenset[TransferState] = frozenset({"done", "failed", "cancelled"})


@dataclass(frozen=True, slots=True)
class Result:
    """Base of everything a verb answers."""

    def to_json(self) -> dict[str, object]:
        """The value as a JSON object; nested results become objects, tuples become arrays."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class ErrorInfo(Result):
    """A `SidecarError` as data, for results that are read later than they failed."""

    code: str
    cause: str
    next: str


@dataclass(frozen=True, slots=True)
class RoomInfo(Result):
    """One room we are in."""

    id: str
    """`room_id` in hex: names the room without giving away how to enter it."""
    label: str
    kind: RoomKind
    peers: int = 0
    adapters: int = 0
    joined_at: float = 0.0
    share_all: bool = False
    """Whether every adapter of the store is offered here, those yet to come included."""
    orch_mind: bool = False
    """Whether Orch-Mind's messages are spoken with its users there."""
    policy: Policy = "warn"
    """How much trust in a publisher an install from here needs."""
    lan: int = 0
    """Of the peers, those reached over the local network."""
    direct: int = 0
    """Those reached over the internet."""
    relayed: int = 0
    """Those reached through a member that relays."""
    code: str | None = field(default=None, repr=False)
    """Only in the answer of `create_room`; a room's code is told once and never listed (T11)."""
    link: str | None = field(default=None, repr=False)
    """`ollaswarm://room/CODE`, with `code`."""


@dataclass(frozen=True, slots=True)
class AdapterRow(Result):
    """One adapter that a room offers, or that we share or installed."""

    ref: str
    """Shortest text that `get` accepts for exactly this entry."""
    name: str
    version: int
    publisher: str
    rooms: tuple[str, ...]
    """Labels of the rooms that offer it."""
    digest: str
    size: int
    base: str
    """Name the publisher uses for the base model; `base_digest` is what counts."""
    base_digest: str
    fits: bool | None
    """Whether a local model has the base's digest; None while the local models are not known."""
    sources: int
    """Connected peers that hold at least a part of it, ourselves not counted."""
    trust: Trust
    installed_as: str | None = None
    entry: str = ""
    """Entry digest in hex; any unique prefix is a REF."""
    publisher_name: str | None = None
    description: str = ""
    license: str = ""
    tags: tuple[str, ...] = ()
    architecture: str = ""
    created: str = ""
    local: bool = False
    """Shared by this machine."""
    kind: str = "adapter"
    """`adapter` or `model`."""
    parameters: str = ""
    """Size and quantisation of a whole model, such as `1.2B Q8_0`."""
    warnings: tuple[str, ...] = ()
    """A known name under another key, or a name that looks like a known one."""


@dataclass(frozen=True, slots=True)
class InstallResult(Result):
    """What a finished `get` achieved."""

    digest: str
    size: int
    installed_as: str | None
    """Model name in Ollama; None with `--no-install`."""
    route: str | None
    """`pull` or `create`; None with `--no-install`."""
    path: str | None = None
    """Where the verified file is kept; None when Ollama has it."""
    fetched_bytes: int = 0
    """Bytes that crossed the network for it; less than `size` after a resume."""
    seconds: float = 0.0
    warnings: tuple[str, ...] = ()
    """What the user should know about its publisher and name."""


@dataclass(frozen=True, slots=True)
class TransferInfo(Result):
    """A transfer as it is now. `result` is set exactly when done, `error` exactly when failed or cancelled."""

    id: str
    direction: Direction
    ref: str
    name: str
    digest: str
    state: TransferState
    stage: str
    """Step it is in: `fetch`, `verify`, `fit`, `install`, as in the event `transfer:progress`."""
    done_bytes: int
    total_bytes: int
    bytes_per_s: float = 0.0
    sources: int = 0
    """Peers serving it; for `provide`, peers served."""
    started_at: float = 0.0
    result: InstallResult | None = None
    error: ErrorInfo | None = None

    @property
    def finished(self) -> bool:
        return self.state in FINISHED


@dataclass(frozen=True, slots=True)
class PeerInfo(Result):
    """One connected peer."""

    key: str
    words: str
    address: str
    rooms: tuple[str, ...]
    """Labels of the rooms whose membership it proved to us."""
    trust: Trust
    entries: int = 0
    received_bytes: int = 0
    sent_bytes: int = 0
    connected_s: float = 0.0
    road: Road = "direct"


@dataclass(frozen=True, slots=True)
class PublisherInfo(Result):
    """A publisher's key and what we decided about it."""

    key: str
    words: str
    trust: Trust
    name: str | None = None


@dataclass(frozen=True, slots=True)
class BlockListInfo(Result):
    """A block list, ours as it was published or one that we follow."""

    publisher: str
    version: int
    """0 while nothing of it was seen."""
    blocked: tuple[str, ...]
    """Keys it names."""


@dataclass(frozen=True, slots=True)
class OllamaInfo(Result):
    """The Ollama we work for."""

    url: str
    reachable: bool
    version: str | None
    route: str | None
    """How an adapter would be installed: `pull`, `create`, or None with the reason in `cause`."""
    cause: str = ""


@dataclass(frozen=True, slots=True)
class StoreInfo(Result):
    """Ollama's model store as we see it."""

    path: str | None
    kind: str
    readable: bool
    models: int = 0
    adapters: int = 0
    cause: str = ""


@dataclass(frozen=True, slots=True)
class ConnectionsInfo(Result):
    """How connections are doing, in numbers."""

    online: bool = False
    """Whether the DHT answers; False also while no room on the internet is joined."""
    nat: NatKind = "unknown"
    reachable: bool = False
    """Whether strangers can connect without hole punching."""
    roads: dict[str, int] = field(default_factory=dict)
    """Connected members by road: `lan`, `direct`, `relayed`."""
    unproved: int = 0
    """Connections in which nobody proved a room."""
    dials_opened: int = 0
    dials_failed: dict[str, int] = field(default_factory=dict)
    """Over the DHT, by kind: `not-found`, `silent`, `double-random`, …"""
    lan_dials: dict[str, int] = field(default_factory=dict)
    """Addresses on the local network by how the newest dial of each ended."""
    relaying: bool = False
    """Whether members that cannot reach each other are told that this machine relays."""
    relayed_pairs: int = 0
    """Connections of others that go through here now."""


@dataclass(frozen=True, slots=True)
class StatusInfo(Result):
    """The whole sidecar on one page."""

    version: str
    pid: int
    uptime_s: float
    key: str
    words: str
    data_dir: str
    api: str
    listen: tuple[str, ...]
    """`host:port` of each LAN listener."""
    ollama: OllamaInfo
    store: StoreInfo
    rooms: tuple[RoomInfo, ...]
    peers: int
    entries: int
    shared: int
    transfers: int
    """Running ones."""
    fetched_bytes: int
    """What counts against the quota."""
    quota_bytes: int
    withdrawn: tuple[str, ...] = ()
    """Installed models whose publisher took the adapter back since."""
    connections: ConnectionsInfo = ConnectionsInfo()


@dataclass(frozen=True, slots=True)
class DoctorLine(Result):
    """One check: what was looked at, what was found, and what to do about it."""

    name: str
    level: Level
    cause: str
    next: str = ""


@dataclass(frozen=True, slots=True)
class Finding(Result):
    """One thing that stands between us and a peer, or shows that nothing does."""

    kind: str
    """Short name, for programs; `docs/connections.md` explains each."""
    level: Level
    what: str
    cause: str
    next: str = ""
    certainty: Certainty = "certain"
    """Of the cause. What is said in `what` was seen."""


@dataclass(frozen=True, slots=True)
class DialResult(Result):
    """How the dial ended that a diagnosis tried."""

    ok: bool
    """A connection stands now, proved or not."""
    seconds: float
    road: Road | None = None
    kind: str = ""
    """Why it failed, as in `ConnectionsInfo.dials_failed`; empty if it did not, or was not made."""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Diagnosis(Result):
    """Why a room has no peers, or a peer is not reachable."""

    subject: str
    """Label of the room, or key of the peer."""
    reached: bool
    """Whether a member of the room is connected, or the peer is, as a member of a room of ours."""
    findings: tuple[Finding, ...]
    """The worst first; at least one."""
    dial: DialResult | None = None
    """Set exactly if a dial was asked for and possible."""


@dataclass(frozen=True, slots=True)
class Suggestion(Result):
    """One thing a publisher would like the model to have. Applied only when the user says so (T4)."""

    field: str
    """`template`, `system`, or `parameters.NAME`; of a whole model also `license`, which is only to be read."""
    current: str
    """What the base model has; empty when nothing."""
    suggested: str
    required: bool = False
    """Part of a whole model, which is not installed without it."""
    entry: str = ""
    """Digest of the entry it is of, in hex: a `get` of that is a `get` of what was looked at."""


@dataclass(frozen=True, slots=True)
class UninstallResult(Result):
    """What `uninstall` removed."""

    name: str
    digest: str
    removed: bool
    """False when Ollama no longer had it and only our note of it was cleared."""


@dataclass(frozen=True, slots=True)
class VerifyReport(Result):
    """What `verify` found in a file on this machine."""

    path: str
    digest: str
    size: int
    ok: bool
    """The file is a whole, well-formed adapter, or the model some entry offers, and agrees with every such entry."""
    format: str | None
    architecture: str | None
    rank: int | None
    tensors: int | None
    entries: tuple[str, ...]
    """Refs of the known entries that offer exactly these bytes."""
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class BundleInfo(Result):
    """A bundle that `export` wrote."""

    path: str
    ref: str
    version: int
    publisher: str
    size: int
    """Bytes of the file."""
    has_base: bool


@dataclass(frozen=True, slots=True)
class ImportInfo(Result):
    """What `import` found in a bundle and did with it."""

    ref: str
    version: int
    publisher: str
    digest: str
    base_installed: str | None = None
    """Name of the base model that was made from it; None when it was not needed."""
    result: InstallResult | None = None


@dataclass(frozen=True, slots=True)
class RegistryRow(Result):
    """One adapter as the registry offers it."""

    room: str
    """Label of the room."""
    ref: str
    version: int
    fits: bool | None
    """Whether its base is here; None while the local models are not known."""
    model: str = field(repr=False)
    """What to pull, the secret included."""


@dataclass(frozen=True, slots=True)
class RegistryInfo(Result):
    """The registry that `ollama pull` fetches from rooms by."""

    on: bool
    listening: bool
    """False while it is off, or cannot have its port; then `cause` says why."""
    address: str
    """As part of a model name."""
    push: bool
    """Whether `ollama push` shares."""
    models: bool
    """Whether whole models can be pulled, with the settings they bring along."""
    cause: str = ""
    secret: str = field(default="", repr=False)
    prefix: str = field(default="", repr=False)
    """`127.0.0.1:PORT/SECRET/`: in front of ROOM.NAME it is what to pull."""
    entries: tuple[RegistryRow, ...] = ()


@dataclass(frozen=True, slots=True)
class RuleInfo(Result):
    """A rule of auto-sync. What is None is not asked for."""

    id: str
    direction: RuleDirection
    room: str
    """Label of the room."""
    publisher: str | None = None
    """Full key. None in a fetch rule: every publisher the user trusts."""
    name: str | None = None
    base: str | None = None
    max_bytes: int | None = None
    tag: str | None = None
    per_hour: int | None = None
    created_at: float = 0.0
    models: bool = False
    """Whole models too."""


@dataclass(frozen=True, slots=True)
class PlanLine(Result):
    """One thing auto-sync would do, does, or waits with."""

    action: PlanAction
    what: str
    """REF of the entry, or name of the local model."""
    room: str
    """Label of the room."""
    rule: str
    """Id of the rule."""
    reason: str
    model: str | None = None
    """Name it gets, or has, in Ollama."""
    bytes: int = 0
    """Bytes to fetch; for `evict`, bytes that become free."""
    until: float | None = None
    """For `wait`: when it is looked at again at the latest, where a time is known."""
    error: ErrorInfo | None = None
    """Why it failed, after a run."""


@dataclass(frozen=True, slots=True)
class SyncReport(Result):
    """What auto-sync would do, or did."""

    lines: tuple[PlanLine, ...]
    dry_run: bool
    fetch_bytes: int
    """What has to cross the network for it."""
    used_bytes: int
    """Adapters that auto-sync keeps in Ollama now."""
    quota_bytes: int


@dataclass(frozen=True, slots=True)
class RollbackInfo(Result):
    """Which version a followed adapter is at now."""

    model: str
    """The moving name."""
    version: int
    was: int | None
    """The version it was at before; None when it had none."""


@dataclass(frozen=True, slots=True)
class RuleOptions:
    """What a rule of auto-sync asks for."""

    direction: RuleDirection
    room: str
    publisher: str | None = None
    """Key, unique prefix or pinned name."""
    name: str | None = None
    """Shell pattern for the adapter's name."""
    base: str | None = None
    """Only for this local base model."""
    max_bytes: int | None = None
    tag: str | None = None
    per_hour: int | None = None
    """Installs an hour at most."""
    models: bool = False
    """Whole models too; the user agrees to the settings they bring."""


@dataclass(frozen=True, slots=True)
class ShareOptions:
    """What the publisher may say about an adapter. None means: taken from the model or file, or left out."""

    name: str | None = None
    base: str | None = None
    """Local base model; needed for a path, known for an adapter model."""
    description: str = ""
    license: str = ""
    tags: tuple[str, ...] = ()
    card: str | None = None
    suggest: bool = False
    """Offer the model's own template, system text and parameters as suggestions."""
    model: bool = False
    """Offer the whole model, not an adapter."""


@dataclass(frozen=True, slots=True)
class GetOptions:
    """How a `get` ends."""

    as_name: str | None = None
    install: bool = True
    force: bool = False
    """Replace a model of the wanted name that we did not install."""
    accept_suggestions: bool = False
    by: str = "user"
    """Who asked, for the audit log."""
    base: str | None = None
    """Local base model, for what comes without the digest of one (Orch-Mind)."""
    accept_unsigned: bool = False
    """The user read and agreed that nobody signed it."""


@dataclass(frozen=True, slots=True)
class NumberedEvent:
    """An event and its place in the daemon's stream, so that a client can continue where it was cut off."""

    number: int
    """Counts from 1 in each run of the daemon."""
    event: Event


class Control(Protocol):
    """The verbs a user has. Every refusal is a `SidecarError` with cause and next step; nothing else is raised."""

    async def status(self) -> StatusInfo: ...

    async def doctor(self) -> tuple[DoctorLine, ...]: ...

    async def diagnose_room(self, room: str) -> Diagnosis:
        """Why a room has no peers, or not all. Raises NotFound."""
        ...

    async def diagnose_peer(self, peer: str, *, dial: bool) -> Diagnosis:
        """Why a peer is not reachable. Raises NotFound for what is no key.

        Args:
            peer: Key, unique prefix of a known one, or pinned name.
            dial: Try it now, which takes up to a minute.
        """
        ...

    async def rooms(self) -> tuple[RoomInfo, ...]: ...

    async def create_room(self, label: str | None) -> RoomInfo:
        """Make a private room and join it. The only answer that carries `code` and `link`."""
        ...

    async def join_room(self, room: str, *, label: str | None, consent: bool, orch_mind: bool = False) -> RoomInfo:
        """Join `general`, `local`, or the private room of a code or link.

        Args:
            orch_mind: Speak with Orch-Mind's users too: in `general`, or in the room of a code of theirs.

        Raises:
            ConsentNeeded: Joining shows something to strangers; its cause is the text to agree to.
            RoomError: Not a code we made, or the label is taken by another room.
        """
        ...

    async def leave_room(self, room: str) -> RoomInfo:
        """Leave a room by label or id. Raises NotFound."""
        ...

    async def rotate_room(self, room: str) -> RoomInfo:
        """Give a private room a new code, which this answer carries, and leave the one with the old code.

        Entries, shares, rules and pins go along, except those of blocked publishers. Members are let in again by being
        told the new code. Raises NotFound, RoomError.
        """
        ...

    async def set_policy(self, room: str, policy: Policy) -> RoomInfo:
        """Set how much trust in a publisher an install from a room needs. Raises NotFound."""
        ...

    async def adapters(
        self, *, room: str | None = None, fits: bool = False, local: bool = False
    ) -> tuple[AdapterRow, ...]:
        """What the rooms (or one room) offer. `fits`: only for a base we have. `local`: only what we share."""
        ...

    async def share(self, what: str, room: str, options: ShareOptions) -> AdapterRow:
        """Sign and offer an adapter model, an adapter GGUF file, a PEFT folder or a whole model. Paths are absolute."""
        ...

    async def share_all(self, room: str, *, on: bool, models: bool = False) -> RoomInfo:
        """Begin or end the standing rule: every adapter in the store, now or later, is offered to the room.

        With `models` whole models too.

        Adapters installed from a peer are not, nor those taken back by name. Ending it takes nothing back.
        """
        ...

    async def unshare(self, name: str, room: str | None = None) -> tuple[AdapterRow, ...]:
        """Withdraw what we share under a name, from one room or all. Answers what was withdrawn. Raises NotFound."""
        ...

    async def suggestions(self, ref: str) -> tuple[Suggestion, ...]:
        """What `get` would change beyond base plus adapter if suggestions were accepted.

        Of a whole model: its texts, fetched for this if they are not here. Raises NotFound, TransferError, ModelRefused.
        """
        ...

    async def get(self, ref: str, options: GetOptions) -> TransferInfo:
        """Start fetch, check and install; answers at once. The transfer goes on when nobody watches.

        A second `get` of the same entry with the same options joins the running transfer.
        """
        ...

    async def transfers(self) -> tuple[TransferInfo, ...]:
        """Running ones first, then those that ended in this run of the daemon."""
        ...

    async def transfer(self, transfer: str) -> TransferInfo:
        """One transfer as it is now. Raises NotFound."""
        ...

    async def cancel(self, transfer: str) -> TransferInfo:
        """Stop a transfer; what was verified is kept. Ending one twice is no error. Raises NotFound."""
        ...

    async def uninstall(self, name: str) -> UninstallResult:
        """Remove a model that `get` installed, and nothing else. Raises NotFound, InstallError."""
        ...

    async def export_bundle(self, ref: str, path: str, *, with_base: bool, overwrite: bool) -> BundleInfo:
        """Write an entry, its adapter and optionally its base into one file. `path` is absolute.

        Raises NotFound, BundleError, BaseModelMissing, DiskFull.
        """
        ...

    async def import_bundle(self, path: str, options: GetOptions) -> ImportInfo:
        """Verify a bundle and install what is in it. `path` is absolute. Raises what `get` ends with, BundleError."""
        ...

    async def registry(self, *, entries: bool = False) -> RegistryInfo:
        """The registry for `ollama pull`. `entries`: with a row for everything that rooms offer."""
        ...

    async def set_registry(
        self, *, on: bool, new_secret: bool = False, push: bool | None = None, models: bool | None = None
    ) -> RegistryInfo:
        """Switch it on or off, for good.

        Args:
            new_secret: Make a new secret, so that names with the old one cannot be pulled any more.
            push: Whether `ollama push` shares; None leaves it as it is.
            models: Whether whole models can be pulled, which agrees to the settings they bring along; None likewise.
        """
        ...

    async def sync_rules(self) -> tuple[RuleInfo, ...]:
        """The rules of auto-sync."""
        ...

    async def sync_add(self, options: RuleOptions) -> RuleInfo:
        """Add a rule, which holds at once. Raises NotFound, UsageError."""
        ...

    async def sync_remove(self, rule: str) -> RuleInfo:
        """Remove a rule by id; what it installed or offered stays. Raises NotFound."""
        ...

    async def sync_run(self, *, dry_run: bool) -> SyncReport:
        """Do now what the rules say, whatever the schedule, and wait for it; or only say what that would be."""
        ...

    async def sync_rollback(self, name: str, version: int | None = None) -> RollbackInfo:
        """Bring a followed adapter back to the version before, or to a given one that is still in Ollama.

        Raises NotFound, InstallError.
        """
        ...

    async def peers(self) -> tuple[PeerInfo, ...]: ...

    async def trust(self, key: str, *, label: str | None = None, replace_label: bool = False) -> PublisherInfo:
        """Trust a publisher by full key or unique prefix of a known one, and pin a name for people to the key.

        Raises:
            NotFound: No such publisher.
            NotTrusted: The name is pinned to another key (T14); `replace_label` says that this is known.
        """
        ...

    async def forget_publisher(self, key: str) -> PublisherInfo:
        """Neither trust nor block a publisher any more. Raises NotFound, UsageError."""
        ...

    async def block(self, key: str) -> PublisherInfo:
        """Block a publisher: entries hidden, nothing fetched from or sent to it. Raises NotFound."""
        ...

    async def block_lists(self) -> tuple[BlockListInfo, ...]:
        """The block lists that are followed."""
        ...

    async def publish_blocks(self, room: str) -> BlockListInfo:
        """Sign the keys we block and publish them in a room, for whoever follows us. Raises NotFound."""
        ...

    async def follow_blocks(self, key: str, *, on: bool) -> BlockListInfo:
        """Block whom a publisher blocks, now and in future; or end that. Own decisions are stronger. Raises NotFound."""
        ...

    async def verify(self, path: str) -> VerifyReport:
        """Check a file on this machine. `path` is absolute. Raises NotFound."""
        ...

    def events(self, since: int | None = None) -> AbstractAsyncContextManager[AsyncIterator[NumberedEvent]]:
        """Subscribe: nothing emitted after entering is missed, except by a reader that falls far behind.

        Args:
            since: Number of the last event the reader has; later ones still remembered come first. None: only new ones.
                A number that this run has not reached is from an earlier run and counts as 0.
        """
        ...
