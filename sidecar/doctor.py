"""`ollaswarm doctor`: one small check per thing that can be wrong, each with its cause and what to do about it.

Checks only look; what they look at is handed in as a `DoctorContext`, so that each can be tried against every answer.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import anyio

from ollama_bridge.install.probe import SAFE_VERSION
from sidecar.control_types import DoctorLine, OllamaInfo, StoreInfo
from sidecar.diagnosis import diagnose_clock, diagnose_lan, diagnose_room, diagnose_ways_out, worst_first
from sidecar.errors import SidecarError
from sidecar.paths import open_to_others

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from sidecar.control_types import Finding, RegistryInfo
    from sidecar.diagnosis import MachineFacts, RoomFacts
    from sidecar.orch_mind.service import OrchMindInfo
    from sidecar.paths import DataPaths
    from sidecar.rooms.internet import InternetInfo

    Check = Callable[["DoctorContext"], Awaitable[DoctorLine]]

# No machine runs this program before it was written; a clock that says so was never set.
WRITTEN_AT = 1_763_800_000.0
# A check that hangs must not hide the others' answers.
CHECK_TIMEOUT_S = 20.0
GIB = 1 << 30
SHOWN_ROOMS = 3
"""In one line of the doctor; `--room` is for the others."""


@dataclass(frozen=True, slots=True)
class MdnsInfo:
    """How discovery on the local network is doing."""

    enabled: bool
    running: bool
    others: int
    """Other sidecars whose announcements were seen, of any room."""
    cause: str = ""
    members: int = 0
    """Of those announced now, the ones in a room of ours."""
    heard_anything: bool = False
    """Whether anything at all was heard by multicast."""


@dataclass(frozen=True, slots=True)
class PeerCounts:
    """Peers in numbers."""

    rooms: int
    connected: int
    configured: int
    """Addresses given with `--peer`."""
    configured_reached: int
    failed_proofs: int = 0


@dataclass(frozen=True, slots=True)
class DialCounts:
    """Dials over the DHT since it was joined."""

    opened: int = 0
    failed: Mapping[str, int] = field(default_factory=dict)
    """By kind."""


@dataclass(frozen=True, slots=True)
class DiskInfo:
    """The disk that holds the data folder."""

    total_bytes: int
    free_bytes: int
    reserve_bytes: int
    fetched_bytes: int
    quota_bytes: int


@dataclass(frozen=True, slots=True)
class DoctorContext:
    """What the checks look at. Callables are asked when the check runs."""

    paths: DataPaths
    ollama_is_local: bool
    ollama: Callable[[], Awaitable[OllamaInfo]]
    store: Callable[[], Awaitable[StoreInfo]]
    disk: Callable[[], DiskInfo]
    now: Callable[[], float]
    """Unix seconds."""
    listening: Callable[[], Sequence[str]]
    """`host:port` of the LAN listeners that are open."""
    internet: Callable[[], InternetInfo]
    machine: Callable[[], MachineFacts]
    rooms: Callable[[], tuple[RoomFacts, ...]]
    dials: Callable[[], DialCounts]
    orch_mind: Callable[[], OrchMindInfo]
    peers: Callable[[], PeerCounts]
    registry: Callable[[], RegistryInfo]
    round_trip: Callable[[], Awaitable[float]]
    """Shares, fetches and verifies a small blob over loopback; answers the seconds, or raises a SidecarError."""


async def run_checks(context: DoctorContext, checks: Sequence[Check] | None = None) -> tuple[DoctorLine, ...]:
    """Run all checks at once and answer in their order. Never raises: a check that fails is a line."""
    chosen = CHECKS if checks is None else checks
    lines: dict[int, DoctorLine] = {}

    async def run(place: int, check: Check) -> None:
        lines[place] = await _run_one(context, check)

    async with anyio.create_task_group() as tasks:
        for place, check in enumerate(chosen):
            tasks.start_soon(run, place, check)
    return tuple(lines[place] for place in range(len(chosen)))


async def _run_one(context: DoctorContext, check: Check) -> DoctorLine:
    name = getattr(check, "__name__", "check").removeprefix("check_").replace("_", " ")
    try:
        with anyio.fail_after(CHECK_TIMEOUT_S):
            return await check(context)
    except SidecarError as error:
        return DoctorLine(name, "fail", error.cause, error.next_step)
    except TimeoutError:
        return DoctorLine(name, "fail", f"No answer within {CHECK_TIMEOUT_S:.0f} s.", "Look at the log for what hangs.")
    except Exception as error:  # the doctor is what people run when something unforeseen happened
        return DoctorLine(name, "fail", f"The check itself failed: {error!r}.", "Please report it with this line.")


async def check_ollama(context: DoctorContext) -> DoctorLine:
    """Reachable, new enough, and by which route it takes an adapter."""
    found = await context.ollama()
    if not found.reachable:
        return DoctorLine(
            "ollama",
            "fail",
            found.cause or f"Nothing answers at {found.url}.",
            "Start Ollama, or name it with --ollama or OLLAMA_HOST.",
        )
    if found.route is None:
        cause = f"Ollama {found.version} can be given no adapter: {found.cause}"
        return DoctorLine(
            "ollama", "fail", cause, "Let Ollama reach this machine's loopback, or run both in one place."
        )
    said = f"Ollama {found.version} at {found.url}; adapters are installed by {found.route}."
    version = parse_version(found.version)
    if version is None:
        return DoctorLine("ollama", "warn", f"{said} It is a development build; its age is unknown.")
    if version < SAFE_VERSION:
        oldest = ".".join(str(part) for part in SAFE_VERSION)
        return DoctorLine(
            "ollama", "warn", f"{said} Versions before {oldest} read hostile files unsafely.", "Update Ollama."
        )
    return DoctorLine("ollama", "ok", said)


def parse_version(text: str | None) -> tuple[int, ...] | None:
    """(0, 17, 1) from `0.17.1-rc2`; None for `0.0.0`, which development builds report, and for anything else."""
    found = re.match(r"v?(\d{1,6})\.(\d{1,6})\.(\d{1,6})", text or "")
    version = tuple(int(part) for part in found.groups()) if found else (0, 0, 0)
    return version if any(version) else None


async def check_ollama_address(context: DoctorContext) -> DoctorLine:
    """T25: what we hand to Ollama leaves this machine when Ollama is elsewhere."""
    if context.ollama_is_local:
        return DoctorLine("ollama address", "ok", "Ollama is on this machine.")
    return DoctorLine(
        "ollama address",
        "warn",
        "Ollama is on another machine: it is sent every installed adapter, without encryption.",
        "Run the sidecar beside that Ollama, or unset OLLAMA_HOST and --ollama.",
    )


async def check_store(context: DoctorContext) -> DoctorLine:
    """Found, of a known layout, and readable by this user."""
    found = await context.store()
    if found.path is None:
        cause = found.cause or "No Ollama model store was found."
        return DoctorLine("store", "fail", cause, "Pull a model once, or name the store with --store.")
    if not found.readable:
        return DoctorLine(
            "store",
            "warn",
            f"The store {found.path} cannot be read: {found.cause or 'permission denied'}. Installing works; sharing goes "
            "through `ollama push`.",
            "Add this user to the group `ollama` and log in again, or name another store with --store.",
        )
    said = f"{found.path} ({found.kind}): {found.models} models, {found.adapters} of them with an adapter."
    return DoctorLine("store", "ok", said)


async def check_data_folder(context: DoctorContext) -> DoctorLine:
    """Secrets in it are readable by this user only."""
    paths = context.paths
    exposed = [
        file.name for file in (paths.root, paths.identity, paths.token) if file.exists() and open_to_others(file)
    ]
    if exposed:
        return DoctorLine(
            "data folder",
            "warn",
            f"Other users may read {', '.join(exposed)} in {paths.root}.",
            f"chmod 700 {paths.root} and chmod 600 the files in it.",
        )
    return DoctorLine("data folder", "ok", f"{paths.root} is private.")


async def check_disk(context: DoctorContext) -> DoctorLine:
    """Room for fetches: on the disk, and in the quota."""
    disk = context.disk()
    usable = disk.free_bytes - disk.reserve_bytes
    left = disk.quota_bytes - disk.fetched_bytes
    said = f"{disk.free_bytes / GIB:.1f} GiB free, {disk.reserve_bytes / GIB:.1f} GiB kept free, quota {left / GIB:.1f} GiB left."
    if usable <= 0:
        return DoctorLine("disk", "fail", said, "Free some space, or move the data folder with --data-dir.")
    if usable < GIB or left <= 0:
        return DoctorLine("disk", "warn", said, "Free some space, raise the quota, or remove fetched adapters.")
    return DoctorLine("disk", "ok", said)


async def check_clock(context: DoctorContext) -> DoctorLine:
    """A wrong clock dates our entries wrongly and misjudges which of others' have expired."""
    now = context.now()
    if now < WRITTEN_AT:
        return DoctorLine("clock", "fail", "The clock says a time before this program existed.", "Set the clock.")
    return _line("clock", diagnose_clock(context.machine().clock), "The clock is plausible.")


def _line(name: str, findings: Sequence[Finding], well: str) -> DoctorLine:
    """A line of the worst finding, or `well` without any."""
    if not findings:
        return DoctorLine(name, "ok", well)
    worst = worst_first(findings)[0]
    return DoctorLine(name, worst.level, f"{worst.what} {worst.cause}", worst.next)


async def check_listener(context: DoctorContext) -> DoctorLine:
    """Peers of the local network can connect to us."""
    addresses = context.listening()
    if not addresses:
        return DoctorLine(
            "listener", "fail", "No port is open for peers.", "Check --listen; another program may have the port."
        )
    reached = [address for address in addresses if await _answers(address)]
    if not reached:
        cause = f"{', '.join(addresses)} does not answer even this machine."
        return DoctorLine("listener", "warn", cause, "A firewall may stand before it; allow the port or the program.")
    return DoctorLine("listener", "ok", f"Peers can connect to {', '.join(addresses)}.")


async def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    bare = host.strip("[]")
    try:
        with anyio.fail_after(2):
            stream = await anyio.connect_tcp({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(bare, bare), int(port))  # noqa: S104 - what "every address" is reached by
            await stream.aclose()
    except OSError:  # TimeoutError included
        return False
    return True


async def check_local_network(context: DoctorContext) -> DoctorLine:
    """Discovery works, whether it has seen anybody, and whether they can be connected to."""
    lan = context.machine().lan
    seen = f"{lan.others} other sidecars seen, {lan.members} of them in a room of ours; {lan.connected} connected."
    return _line("local network", diagnose_lan(lan), seen)


async def check_internet(context: DoctorContext) -> DoctorLine:
    """The DHT answers, and how strangers reach this machine."""
    internet = context.internet()
    if not internet.enabled:
        return DoctorLine("internet", "ok", "The DHT is switched off; rooms meet on the local network alone.")
    if internet.problem:
        return DoctorLine(
            "internet", "fail", f"The DHT's sockets cannot be opened: {internet.problem}.", "Is there a network at all?"
        )
    if not internet.running:
        return DoctorLine("internet", "ok", "No room on the internet is joined, so nothing is sent there.")
    if not internet.online:
        return DoctorLine(
            "internet",
            "warn",
            "No node of the DHT answers.",
            "Check that outgoing UDP is allowed, or give nodes of your own with --bootstrap HOST:PORT.",
        )
    if internet.announced < internet.topics:
        left = internet.topics - internet.announced
        return DoctorLine(
            "internet", "warn", f"{left} of {internet.topics} rooms are not announced yet.", "Ask again soon."
        )
    address = internet.nat_address
    assert address is not None
    if internet.reachable:
        kind = "anybody can connect to it"
    elif address.port:
        kind = "others connect to it by hole punching"
    else:
        kind = "another port for every destination: peers behind such a router too need a member that relays"
    return DoctorLine("internet", "ok", f"This machine is seen as {address.host}; {kind}.")


async def check_ways_out(context: DoctorContext) -> DoctorLine:
    """VPNs and several ways to the internet, which explain a lot where peers are not reached."""
    return _line("ways out", diagnose_ways_out(context.machine()), "No VPN, and no second way out.")


async def check_rooms(context: DoctorContext) -> DoctorLine:
    """Each room has somebody else in it; `doctor --room` says more."""
    machine, rooms = context.machine(), context.rooms()
    lonely = {room.label: diagnose_room(machine, room)[0] for room in rooms if not room.members}
    if not lonely:
        return DoctorLine("rooms", "ok", f"{len(rooms)} rooms, with others in each." if rooms else "No room is joined.")
    said = [f"{label}: {found.what} {found.cause}" for label, found in list(lonely.items())[:SHOWN_ROOMS]]
    more = f" And {len(lonely) - SHOWN_ROOMS} more." if len(lonely) > SHOWN_ROOMS else ""
    label = next(iter(lonely))
    return DoctorLine("rooms", "warn", " ".join(said) + more, f"{lonely[label].next} `ollaswarm doctor --room {label}`")


async def check_dials(context: DoctorContext) -> DoctorLine:
    """How dials over the DHT went. Some always fail: announces outlive those who made them."""
    dials = context.dials()
    failed = ", ".join(f"{count} {kind}" for kind, count in sorted(dials.failed.items()))
    if not failed:
        return DoctorLine("dials", "ok", f"{dials.opened} dials over the DHT opened a connection, none failed.")
    said = f"{dials.opened} dials over the DHT opened a connection, others did not: {failed}."
    step = "`ollaswarm doctor --peer KEY` explains one."
    return DoctorLine("dials", "ok" if dials.opened else "warn", said, step)


async def check_orch_mind(context: DoctorContext) -> DoctorLine:
    """Its users are met in its rooms."""
    info = context.orch_mind()
    if not info.rooms:
        return DoctorLine("orch-mind", "ok", "No room of Orch-Mind's is joined.")
    said = f"{info.peers} users of Orch-Mind in {info.rooms} rooms; {info.offered} adapters offered to them."
    if info.peers:
        return DoctorLine("orch-mind", "ok", said)
    return DoctorLine("orch-mind", "warn", said, "Is anybody online there? Compare the code with theirs.")


async def check_peers(context: DoctorContext) -> DoctorLine:
    """Somebody is connected, where somebody should be."""
    peers = context.peers()
    if peers.configured_reached < peers.configured:
        cause = f"{peers.configured - peers.configured_reached} of {peers.configured} addresses given with --peer do not answer."
        return DoctorLine("peers", "warn", cause, "Check that the other side runs, its --listen port, and firewalls.")
    if peers.rooms == 0:
        return DoctorLine(
            "peers", "warn", "This machine is in no room.", "`ollaswarm room create` or `ollaswarm room join`."
        )
    if peers.connected == 0 and peers.failed_proofs:
        return DoctorLine(
            "peers", "warn", "Peers were met, but none could prove the same room.", "Compare the room codes."
        )
    if peers.connected == 0:
        return DoctorLine("peers", "warn", "No peer is connected.", "Is another member of the room running?")
    return DoctorLine("peers", "ok", f"{peers.connected} peers in {peers.rooms} rooms.")


async def check_registry(context: DoctorContext) -> DoctorLine:
    """Where it is wanted, the registry for `ollama pull` listens. Its secret is no line's business (T24)."""
    info = context.registry()
    if not info.on:
        return DoctorLine("registry", "ok", "`ollama pull` from rooms is off.")
    if not info.listening:
        next_step = "Free the port, choose another (registry_port), or say `ollaswarm registry off`."
        return DoctorLine("registry", "warn", info.cause, next_step)
    return DoctorLine("registry", "ok", f"`ollama pull` from rooms is on at {info.address}.")


async def check_round_trip(context: DoctorContext) -> DoctorLine:
    """Everything between sharing and a verified file works, tried on this machine alone."""
    seconds = await context.round_trip()
    return DoctorLine("round trip", "ok", f"A test blob was shared, fetched and verified in {seconds:.2f} s.")


async def check_python(context: DoctorContext) -> DoctorLine:
    """What runs this program; asked for in every bug report."""
    return DoctorLine("program", "ok", f"Python {sys.version.split()[0]} on {sys.platform}.")


CHECKS: tuple[Check, ...] = (
    check_python,
    check_data_folder,
    check_disk,
    check_clock,
    check_ollama,
    check_ollama_address,
    check_store,
    check_listener,
    check_local_network,
    check_internet,
    check_ways_out,
    check_rooms,
    check_dials,
    check_orch_mind,
    check_peers,
    check_registry,
    check_round_trip,
)
