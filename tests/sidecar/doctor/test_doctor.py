"""Each check against each answer it can meet."""

import dataclasses
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest

import sidecar.doctor as doctor
from hyperdht.addresses import Address
from sidecar.control_types import DoctorLine, OllamaInfo, StoreInfo
from sidecar.doctor import CHECKS, DiskInfo, DoctorContext, MdnsInfo, PeerCounts, check_internet, run_checks
from sidecar.errors import BlobMismatch
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
        newest_entry_at=lambda: NOW - 60,
        listening=lambda: (),
        mdns=lambda: MdnsInfo(enabled=True, running=True, others=1),
        internet=lambda: ONLINE,
        peers=lambda: PeerCounts(1, 2, 0, 0),
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
        mdns=lambda: MdnsInfo(enabled=True, running=False, others=0, cause="port in use"),
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
    ("now", "newest", "level"),
    [(NOW, None, "ok"), (NOW, NOW + 599, "ok"), (NOW, NOW + 3600, "warn"), (0.0, None, "fail")],
)
async def test_clock(context: DoctorContext, now: float, newest: float | None, level: str) -> None:
    line = await one(context, doctor.check_clock, now=lambda: now, newest_entry_at=lambda: newest)
    assert line.level == level


async def test_no_listener_and_a_dead_one(context: DoctorContext) -> None:
    assert (await one(context, doctor.check_listener)).level == "fail"
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    await listener.aclose()
    line = await one(context, doctor.check_listener, listening=lambda: (f"127.0.0.1:{port}",))
    assert (line.level, str(port) in line.cause) == ("warn", True)


@pytest.mark.parametrize(
    ("mdns", "level"),
    [
        (MdnsInfo(enabled=False, running=False, others=0), "ok"),
        (MdnsInfo(enabled=True, running=False, others=0), "fail"),
        (MdnsInfo(enabled=True, running=True, others=0), "warn"),
        (MdnsInfo(enabled=True, running=True, others=3), "ok"),
    ],
)
async def test_local_network(context: DoctorContext, mdns: MdnsInfo, level: str) -> None:
    assert (await one(context, doctor.check_local_network, mdns=lambda: mdns)).level == level


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
