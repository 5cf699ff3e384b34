"""`sidecar.Sidecar`, as a program that embeds us uses it."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from ollama_bridge.standin import StandIn
from ollama_bridge.standin.tiny_models import Options, write_base
from sidecar import Sidecar
from sidecar.control_types import GetOptions, ShareOptions, TransferInfo
from sidecar.errors import BaseModelMissing, ConfigError, ConsentNeeded, DaemonError, NotFound
from sidecar.events import AdapterAppeared, EntryAdded, EntryWithdrawn, Event
from tests.journeys.inside import IN_PROCESS, until
from tests.journeys.ollama import contents, make_adapter, make_base, shown

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = IN_PROCESS

EXAMPLE = Path(__file__).parents[2] / "examples" / "two_peers.py"
HERE_ONLY: dict[str, Any] = {"listen": "127.0.0.1:0", "no_mdns": True, "registry_port": 0, "no_dht": True}


@dataclass
class Pair:
    """Two embedded sidecars in one private room, with an Ollama each."""

    first: Sidecar
    second: Sidecar
    first_ollama: StandIn
    second_ollama: StandIn


@asynccontextmanager
async def pair(folder: Path, files: Path, *, other_base: Path | None = None) -> AsyncIterator[Pair]:
    async with AsyncExitStack() as exits:
        ollamas = [StandIn(folder / f"store-{adapters}", adapters=adapters) for adapters in ("accept", "refuse")]
        for ollama, source in zip(ollamas, (files, other_base or files), strict=True):
            await exits.enter_async_context(ollama)
            await make_base(ollama.url, source)
        first = await exits.enter_async_context(
            Sidecar(data_dir=folder / "first", ollama=ollamas[0].url, store=ollamas[0].store.root, **HERE_ONLY)
        )
        room = await first.create_room("team")
        peers = (await first.status()).listen
        second = await exits.enter_async_context(
            Sidecar(
                data_dir=folder / "second",
                ollama=ollamas[1].url,
                store=ollamas[1].store.root,
                peers=peers,
                **HERE_ONLY,
            )
        )
        assert room.code is not None
        await second.join_room(room.code, "team")
        yield Pair(first, second, *ollamas)


async def next_of(events: AsyncIterator[Event], kind: type[Event]) -> Event:
    with anyio.fail_after(15):
        async for event in events:
            if isinstance(event, kind):
                return event
    raise AssertionError("the events ended")


async def test_the_whole_journey(tmp_path: Path, files: Path) -> None:
    async with pair(tmp_path, files) as sides:
        before = contents(sides.second_ollama.store.root)
        heard: list[Event] = []
        sides.second.on("entry:added", heard.append)
        async with sides.first.events() as here, sides.second.events() as there:
            digest = await make_adapter(sides.first_ollama.url, files, "sql-lora")
            appeared = await next_of(here, AdapterAppeared)
            assert isinstance(appeared, AdapterAppeared)
            assert appeared.model == "sql-lora:latest"
            mine = await sides.first.share_adapter("sql-lora", "team", ShareOptions(license="mit"))
            assert await sides.first.shared_adapters() == (mine,)
            added = await next_of(there, EntryAdded)
            assert heard == [added]
            (row,) = await sides.second.available_adapters("team", fits=True)
            assert (row.digest, row.license, row.local) == (str(digest), "mit", False)

            states: list[TransferInfo] = []
            result = await sides.second.request_adapter(row.ref, GetOptions(as_name="mine"), progress=states.append)
            assert (result.installed_as, result.route) == ("mine:latest", "pull")
            assert states[-1].result == result
            assert (await shown(sides.second_ollama.url, "mine")).adapter_blobs == (digest,)
            await sides.second.uninstall_adapter("mine")
            assert not (await sides.second.registry(entries=True)).on
            switched = await sides.second.set_registry(on=True)
            assert switched.on
            assert contents(sides.second_ollama.store.root) == before

            sides.second.off("entry:added", heard.append)
            await sides.first.unshare_adapter("sql-lora")
            await next_of(there, EntryWithdrawn)
            assert await sides.second.available_adapters() == ()
            await sides.first.share_adapter("sql-lora", "team")
            await next_of(there, EntryAdded)
            assert heard == [added], "the listener was taken off"


async def test_refusals_come_as_their_classes(tmp_path: Path, files: Path) -> None:
    write_base(tmp_path / "base.gguf", Options(seed=1))
    async with pair(tmp_path, files, other_base=tmp_path) as sides:
        async with sides.second.events() as there:
            await sides.first.share_adapter(str(files / "adapter.gguf"), "team", ShareOptions(base="tiny-base"))
            await next_of(there, EntryAdded)
        with pytest.raises(BaseModelMissing, match="does not have"):
            await sides.second.request_adapter("adapter")
        with pytest.raises(NotFound):
            await sides.second.request_adapter("nothing")
        with pytest.raises(ConsentNeeded, match="public"):
            await sides.second.join_general_room(consent=False)


async def test_rooms_status_and_doctor(tmp_path: Path, files: Path) -> None:
    async with pair(tmp_path, files) as sides:
        local = await sides.first.join_local_room()
        assert [room.label for room in (await sides.first.status()).rooms] == ["team", "local"]
        assert (await sides.first.leave_room("local")).id == local.id
        lines = {line.name: line.level for line in await sides.first.validate_system()}
        assert "fail" not in lines.values(), lines


async def test_orch_mind_rooms_and_diagnoses(tmp_path: Path, files: Path) -> None:
    async with pair(tmp_path, files) as sides:
        one = sides.first
        with pytest.raises(ConsentNeeded, match="not private"):
            await one.join_room("ABC123", "theirs", orch_mind=True)
        room = await one.join_room("ABC123", "theirs", orch_mind=True, consent=True)
        assert (room.kind, room.label) == ("orch-mind", "theirs")
        general = await one.join_general_room(consent=True, orch_mind=True)
        assert general.orch_mind
        lines = {line.name: line for line in await one.validate_system()}
        assert "0 users of Orch-Mind in 2 rooms" in lines["orch-mind"].cause
        lonely = await one.diagnose_room("theirs")
        assert (lonely.reached, lonely.findings[0].kind) == (False, "orch-mind")
        team = await one.diagnose_room("team")
        assert (team.reached, team.findings[0].kind) == (True, "connected")
        peer = (await one.control.peers())[0]
        assert peer.road == "lan"
        assert (await one.diagnose_peer(peer.key[:12])).findings[0].kind == "connected"
        with pytest.raises(NotFound):
            await one.diagnose_peer("nobody")


async def test_cancelled_request_ends_the_transfer(tmp_path: Path, files: Path) -> None:
    async with pair(tmp_path, files) as sides:
        async with sides.second.events() as there:
            await sides.first.share_adapter(str(files / "adapter.gguf"), "team", ShareOptions(base="tiny-base"))
            await next_of(there, EntryAdded)
        async with anyio.create_task_group() as tasks:

            def cancel(state: TransferInfo) -> None:
                tasks.cancel_scope.cancel()

            tasks.start_soon(lambda: sides.second.request_adapter("adapter", progress=cancel))
        await until(lambda: _ended(sides.second))


async def _ended(sidecar: Sidecar) -> bool:
    transfers = await sidecar.control.transfers()
    return bool(transfers) and all(transfer.finished for transfer in transfers)


async def test_faulty_listener_stops_nothing(tmp_path: Path, files: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with pair(tmp_path, files) as sides:

        def faulty(event: Event) -> None:
            raise ValueError("a fault of the program")

        sides.first.on("*", faulty)
        await sides.first.join_local_room()
        assert "room:joined" in caplog.text


async def test_one_data_folder_has_one_owner(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"data_dir": tmp_path / "data", "ollama": "http://127.0.0.1:9", **HERE_ONLY}
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "daemon.json").write_text("{}")
    async with Sidecar(**settings):
        assert not (tmp_path / "data" / "daemon.json").exists()
        with pytest.raises(DaemonError, match="already uses"):
            async with Sidecar(**settings):
                pass
    async with Sidecar(**settings) as again:
        assert (await again.status()).peers == 0
    with pytest.raises(DaemonError, match="does not run"):
        await again.status()
    with pytest.raises(ConfigError, match="Both"):
        Sidecar(again.settings, ollama="http://127.0.0.1:9")


async def test_what_the_block_raises_comes_out_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="of the program"):
        async with Sidecar(data_dir=tmp_path / "data", ollama="http://127.0.0.1:9", **HERE_ONLY):
            raise ValueError("a fault of the program")


async def test_example(tmp_path: Path, files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = importlib.util.spec_from_file_location("two_peers", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    async with (
        StandIn(tmp_path / "store-a", adapters="refuse") as first,
        StandIn(tmp_path / "store-b", adapters="refuse") as second,
    ):
        for server in (first, second):
            await make_base(server.url, files)
        urls = (first.url, second.url)
        name = await example.share_and_install(*urls, files / "adapter.gguf", "tiny-base", tmp_path / "data")
    assert name == "my-lora:latest"
    assert "installed my-lora:latest by pull" in capsys.readouterr().out


def test_package_is_light_until_the_facade_is_asked_for() -> None:
    code = "import sys, sidecar; assert 'anyio' not in sys.modules; sidecar.Sidecar; assert 'anyio' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
