"""Each check against each answer it can meet."""

import dataclasses
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest

import sidecar.doctor as doctor
from hyperdht.addresses import Address
from sidecar.control_types import DoctorLine, OllamaInfo, RegistryInfo, StoreInfo
from sidecar.diagnosis import ClockFacts, DhtFacts, Interface, LanFacts, MachineFacts, RoomFacts
from sidecar.doctor import CHECKS, DialCounts, DiskInfo, DoctorContext, PeerCounts, check_internet, run_checks
from sidecar.errors import BlobMismatch
from sidecar.orch_mind.service import OrchMindInfo
from sidecar.paths import DataPaths, write_private
from sidecar.rooms.internet import InternetInfo

pytestmark = pytest.mark.anyio

GIB = 1 << 30
NOW = 1_800_000_000.0


async def good_ollama() -> OllamaInfo:
    return OllamaInfo("http://127.0.0.1:11434", True, "0.34.2", "pull")


async def good_store() -> StoreInfo:
    return StoreInfo("/models", "user", True, 12, 1)


ONLINE = InternetInfo(
    enabled=True,
    running=True,
    online=True,
    topics=2,
    announced=2,
    nat_address=Address("11.0.0.1", 4000),
    reachable=True,
)


MACHINE = MachineFacts(dht=DhtFacts(nat="consistent"), lan=LanFacts(others=1, members=1, connected=1), peers=2)
BROKEN = MachineFacts(
    dht=DhtFacts(answered=False),
    lan=LanFacts(mdns_running=False, mdns_problem="port in use"),
    interfaces=(Interface("tun0", True),),
    clock=ClockFacts(set_back_s=3600),
)
TEAM = RoomFacts("team", on_internet=True, announced=True, walks=1, connected={"direct": 1})


REGISTRY = RegistryInfo(True, True, "127.0.0.1:11471", True, False, "", "ab" * 16, f"127.0.0.1:11471/{'ab' * 16}/")


async def good_round_trip() -> float:
    return 0.05


@pytest.fixture
def context(tmp_path: Path) -> DoctorContext:
    return DoctorContext(
        paths=DataPaths(tmp_path / "data").prepare(),
        ollama_is_local=True,
        ollama=good_ollama,
        store=good_store,
        disk=lambda: DiskInfo(500 * GIB, 100 * GIB, 2 * GIB, 1 * GIB, 50 * GIB),
        now=lambda: NOW,
        listening=lambda: (),
        internet=lambda: ONLINE,
        machine=lambda: MACHINE,
        rooms=lambda: (TEAM,),
        dials=lambda: DialCounts(2),
        orch_mind=lambda: OrchMindInfo(0, 0, 0),
        peers=lambda: PeerCounts(1, 2, 0, 0),
        registry=lambda: REGISTRY,
        round_trip=good_round_trip,
    )


async def one(context: DoctorContext, check: Any, **changes: Any) -> DoctorLine:
    return (await run_checks(dataclasses.replace(context, **changes), [check]))[0]


async def test_all_good(context: DoctorContext) -> None:
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, lambda stream: stream.aclose())
        lines = await run_checks(dataclasses.replace(context, listening=lambda: (f"0.0.0.0:{port}",)))
        tasks.cancel_scope.cancel()
    assert [line for line in lines if line.level != "ok"] == []
    assert len(lines) == len(CHECKS) == len({line.name for line in lines})


async def test_every_line_that_is_not_ok_has_a_next_step(context: DoctorContext) -> None:
    async def away() -> OllamaInfo:
        return OllamaInfo("http://127.0.0.1:11434", False, None, None, "connection refused")

    async def no_store() -> StoreInfo:
        return StoreInfo(None, "unknown", False)

    broken = dataclasses.replace(
        context,
        ollama_is_local=False,
        ollama=away,
        store=no_store,
        disk=lambda: DiskInfo(GIB, 0, GIB, 0, GIB),
        now=lambda: 0.0,
        machine=lambda: BROKEN,
        rooms=lambda: (RoomFacts("alone", on_internet=True),),
        dials=lambda: DialCounts(0, {"silent": 4}),
        orch_mind=lambda: OrchMindInfo(1, 0, 0),
        peers=lambda: PeerCounts(1, 0, 2, 1),
    )
    for line in await run_checks(broken):
        assert line.level == "ok" or line.next, line


@pytest.mark.parametrize(
    ("info", "level", "said"),
    [
        (OllamaInfo("u", False, None, None), "fail", "Nothing answers at u"),
        (OllamaInfo("u", True, "0.34.2", None, "no way in"), "fail", "no way in"),
        (OllamaInfo("u", True, "0.34.2", "pull"), "ok", "by pull"),
        (OllamaInfo("u", True, "0.17.1", "pull"), "ok", "0.17.1"),
        (OllamaInfo("u", True, "v0.18.0-rc1", "create"), "ok", "by create"),
        (OllamaInfo("u", True, "0.0.0", "create"), "warn", "development build"),
        (OllamaInfo("u", True, "strange", "create"), "warn", "development build"),
    ],
)
async def test_ollama(context: DoctorContext, info: OllamaInfo, level: str, said: str) -> None:
    async def answer() -> OllamaInfo:
        return info

    line = await one(context, doctor.check_ollama, ollama=answer)
    assert line.level == level
    assert said in line.cause


@pytest.mark.parametrize("version", ["0.17.0", "0.9.6", "0.5.13-rc2", "0.17.0-rc1"])
async def test_t02_old_ollama_is_warned_about(context: DoctorContext, version: str) -> None:
    async def old() -> OllamaInfo:
        return OllamaInfo("u", True, version, "create")

    line = await one(context, doctor.check_ollama, ollama=old)
    assert line.level == "warn"
    assert "0.17.1" in line.cause
    assert line.next == "Update Ollama."


async def test_t25_remote_ollama_is_warned_about(context: DoctorContext) -> None:
    line = await one(context, doctor.check_ollama_address, ollama_is_local=False)
    assert line.level == "warn"
    assert "without encryption" in line.cause


async def test_unreadable_store_is_a_warning(context: DoctorContext) -> None:
    async def unreadable() -> StoreInfo:
        return StoreInfo("/usr/share/ollama/.ollama/models", "systemd", False, cause="Permission denied")

    line = await one(context, doctor.check_store, store=unreadable)
    assert (line.level, "group `ollama`" in line.next) == ("warn", True)


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX modes")
async def test_exposed_secrets_are_named(context: DoctorContext) -> None:
    write_private(context.paths.identity, b"key")
    context.paths.identity.chmod(0o644)
    line = await one(context, doctor.check_data_folder)
    assert line.level == "warn"
    assert f"read {context.paths.identity.name} in" in line.cause


@pytest.mark.parametrize(
    ("disk", "level"),
    [
        (DiskInfo(100 * GIB, 50 * GIB, 2 * GIB, 0, 50 * GIB), "ok"),
        (DiskInfo(100 * GIB, 2 * GIB + 5, 2 * GIB, 0, 50 * GIB), "warn"),
        (DiskInfo(100 * GIB, 50 * GIB, 2 * GIB, 50 * GIB, 50 * GIB), "warn"),
        (DiskInfo(100 * GIB, 2 * GIB, 2 * GIB, 0, 50 * GIB), "fail"),
    ],
)
async def test_disk(context: DoctorContext, disk: DiskInfo, level: str) -> None:
    assert (await one(context, doctor.check_disk, disk=lambda: disk)).level == level


@pytest.mark.parametrize(
    ("now", "clock", "level"),
    [
        (NOW, ClockFacts(), "ok"),
        (NOW, ClockFacts(1, 3600.0), "warn"),
        (NOW, ClockFacts(set_back_s=3600.0), "warn"),
        (0.0, ClockFacts(), "fail"),
    ],
)
async def test_clock(context: DoctorContext, now: float, clock: ClockFacts, level: str) -> None:
    machine = dataclasses.replace(MACHINE, clock=clock)
    line = await one(context, doctor.check_clock, now=lambda: now, machine=lambda: machine)
    assert line.level == level


async def test_no_listener_and_a_dead_one(context: DoctorContext) -> None:
    assert (await one(context, doctor.check_listener)).level == "fail"
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    await listener.aclose()
    line = await one(context, doctor.check_listener, listening=lambda: (f"127.0.0.1:{port}",))
    assert (line.level, str(port) in line.cause) == ("warn", True)


@pytest.mark.parametrize(
    ("lan", "level", "said"),
    [
        (LanFacts(mdns_enabled=False), "ok", "switched off"),
        (LanFacts(mdns_running=False), "fail", "does not run"),
        (LanFacts(heard_anything=False), "warn", "keeps multicast back"),
        (LanFacts(), "ok", "No other sidecar"),
        (LanFacts(others=3, members=2, connected=2), "ok", "3 other sidecars"),
        (LanFacts(others=1, members=1, dials={"timeout": 1}), "warn", "keeps its devices apart"),
    ],
)
async def test_local_network(context: DoctorContext, lan: LanFacts, level: str, said: str) -> None:
    machine = dataclasses.replace(MACHINE, lan=lan)
    line = await one(context, doctor.check_local_network, machine=lambda: machine)
    assert (line.level, said in line.cause) == (level, True), line


@pytest.mark.parametrize(
    ("machine", "level", "said"),
    [
        (MACHINE, "ok", "No VPN"),
        (dataclasses.replace(MACHINE, interfaces=(Interface("wg0", True),)), "ok", "wg0"),
        (dataclasses.replace(MACHINE, interfaces=(Interface("wg0", True),), peers=0), "warn", "wg0"),
        (dataclasses.replace(MACHINE, default_routes=2, peers=0), "warn", "2 ways out"),
    ],
)
async def test_ways_out(context: DoctorContext, machine: MachineFacts, level: str, said: str) -> None:
    line = await one(context, doctor.check_ways_out, machine=lambda: machine)
    assert (line.level, said in line.cause) == (level, True), line


async def test_rooms_without_anybody_are_named_with_their_cause(context: DoctorContext) -> None:
    lonely = RoomFacts("alone", on_internet=True, announced=True, walks=1)
    line = await one(context, doctor.check_rooms, rooms=lambda: (TEAM, lonely))
    assert line.level == "warn"
    assert line.cause.startswith("alone: Nobody else is announced")
    assert line.next.endswith("`ollaswarm doctor --room alone`")
    many = tuple(dataclasses.replace(lonely, label=f"room-{number}") for number in range(5))
    assert "And 2 more." in (await one(context, doctor.check_rooms, rooms=lambda: many)).cause
    assert (await one(context, doctor.check_rooms, rooms=lambda: ())).level == "ok"


@pytest.mark.parametrize(
    ("dials", "level", "said"),
    [
        (DialCounts(), "ok", "none failed"),
        (DialCounts(2, {"silent": 1}), "ok", "1 silent"),
        (DialCounts(0, {"silent": 1, "holepunch": 2}), "warn", "2 holepunch, 1 silent"),
    ],
)
async def test_dials(context: DoctorContext, dials: DialCounts, level: str, said: str) -> None:
    line = await one(context, doctor.check_dials, dials=lambda: dials)
    assert (line.level, said in line.cause) == (level, True), line


@pytest.mark.parametrize(
    ("info", "level", "said"),
    [
        (OrchMindInfo(0, 0, 0), "ok", "No room of Orch-Mind's"),
        (OrchMindInfo(1, 0, 2), "warn", "0 users"),
        (OrchMindInfo(2, 3, 1), "ok", "3 users of Orch-Mind in 2 rooms; 1 adapters"),
    ],
)
async def test_orch_mind(context: DoctorContext, info: OrchMindInfo, level: str, said: str) -> None:
    line = await one(context, doctor.check_orch_mind, orch_mind=lambda: info)
    assert (line.level, said in line.cause) == (level, True), line


@pytest.mark.parametrize(
    ("peers", "level", "said"),
    [
        (PeerCounts(1, 2, 0, 0), "ok", "2 peers"),
        (PeerCounts(1, 1, 2, 1), "warn", "1 of 2"),
        (PeerCounts(0, 0, 0, 0), "warn", "no room"),
        (PeerCounts(1, 0, 0, 0), "warn", "No peer"),
        (PeerCounts(1, 0, 0, 0, failed_proofs=3), "warn", "none could prove"),
    ],
)
async def test_peers(context: DoctorContext, peers: PeerCounts, level: str, said: str) -> None:
    line = await one(context, doctor.check_peers, peers=lambda: peers)
    assert (line.level, said in line.cause) == (level, True)


async def test_a_failing_round_trip_says_its_cause(context: DoctorContext) -> None:
    async def fails() -> float:
        raise BlobMismatch("The test blob came back different.", "Report it.")

    line = await one(context, doctor.check_round_trip, round_trip=fails)
    assert line == DoctorLine("round trip", "fail", "The test blob came back different.", "Report it.")


async def test_a_check_that_breaks_or_hangs_hides_no_other(
    context: DoctorContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "CHECK_TIMEOUT_S", 0.05)

    async def check_hanging(context: DoctorContext) -> DoctorLine:
        await anyio.sleep_forever()
        raise AssertionError

    async def check_broken(context: DoctorContext) -> DoctorLine:
        raise ZeroDivisionError

    lines = await run_checks(context, [check_hanging, check_broken, doctor.check_python])
    assert [(line.name, line.level) for line in lines] == [("hanging", "fail"), ("broken", "fail"), ("program", "ok")]


@pytest.mark.parametrize(
    ("info", "state", "words"),
    [
        (ONLINE, "ok", "anybody can connect"),
        (dataclasses.replace(ONLINE, reachable=False), "ok", "hole punching"),
        (
            dataclasses.replace(ONLINE, reachable=False, nat_address=Address("11.0.0.1", 0)),
            "ok",
            "a member that relays",
        ),
        (dataclasses.replace(ONLINE, announced=1), "warn", "1 of 2 rooms"),
        (dataclasses.replace(ONLINE, online=False), "warn", "No node of the DHT answers"),
        (InternetInfo(enabled=True, running=False), "ok", "nothing is sent there"),
        (InternetInfo(enabled=True, running=False, problem="no network"), "fail", "no network"),
        (InternetInfo(enabled=False, running=False), "ok", "switched off"),
    ],
)
async def test_internet(context: DoctorContext, info: InternetInfo, state: str, words: str) -> None:
    line = await one(context, check_internet, internet=lambda: info)
    assert line.level == state
    assert words in line.cause


@pytest.mark.parametrize(
    ("info", "level", "said"),
    [
        (REGISTRY, "ok", "is on at 127.0.0.1:11471"),
        (dataclasses.replace(REGISTRY, on=False, listening=False), "ok", "is off"),
        (dataclasses.replace(REGISTRY, listening=False, cause="Port 11471 is taken."), "warn", "Port 11471 is taken."),
    ],
)
async def test_t24_registry_without_its_secret(
    context: DoctorContext, info: RegistryInfo, level: str, said: str
) -> None:
    line = await one(context, doctor.check_registry, registry=lambda: info)
    assert (line.level, line.name) == (level, "registry")
    assert said in line.cause
    assert REGISTRY.secret not in str(line)
