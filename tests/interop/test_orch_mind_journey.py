"""Whole sidecars in Orch-Mind's rooms: what its users share becomes a model here, and what we share reaches them."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from hyperdht import testnet
from ollama_bridge.digests import hash_file
from sidecar.control_types import AdapterRow, GetOptions, ShareOptions
from sidecar.errors import ConsentNeeded, NotFound, RoomError, ShareError
from sidecar.orch_mind.folders import ASSUMED_ALPHA
from sidecar.orch_mind.topics import orch_mind_topic
from sidecar.rooms.key import GENERAL_TOPIC
from tests.journeys.conftest import files as files
from tests.journeys.inside import IN_PROCESS, PATIENCE_S, Node, Team, running, team, until
from tests.journeys.ollama import contents, shown

from .js_peer import JsPeer, js_peer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = [pytest.mark.interop, pytest.mark.usefixtures("node"), *IN_PROCESS]

PROGRAM = Path(__file__).with_name("orch_mind_peer.mjs")
CODE = "COOL-MESH-42"
METADATA = {"base_model": "tiny-base:latest", "hf_model": "tiny/base", "lora_rank": 4, "lora_alpha": 8}


@dataclass
class Meeting:
    """A sidecar and an Orch-Mind peer in one room."""

    node: Node
    js: JsPeer
    people: Team
    bootstrap: tuple[str, ...]

    async def shares(self, folder: Path, name: str = "sql_adapter_1", **metadata: Any) -> dict[str, Any]:
        path = folder / "adapter_model.safetensors"
        info: dict[str, Any] = await self.js.request("share", path=str(path), name=name, metadata=METADATA | metadata)
        return info

    async def row(self, name: str = "sql_adapter_1") -> AdapterRow:
        """What our side lists under that name."""
        found: list[AdapterRow] = []

        async def listed() -> bool:
            found[:] = [row for row in await self.node.control.adapters() if row.name == name]
            return bool(found)

        await until(listed)
        return found[0]

    async def offered(self) -> list[dict[str, Any]]:
        """The next list of ours that is not empty."""
        while not (adapters := (await self.js.event("list"))["adapters"]):
            pass
        return list(adapters)


@asynccontextmanager
async def meeting(
    tmp_path: Path, files: Path, *, general: bool = False, base: bool = True, **settings: Any
) -> AsyncIterator[Meeting]:
    async with testnet(3) as addresses, js_peer(PROGRAM) as js, team(tmp_path, files) as people:
        bootstrap = tuple(str(each) for each in addresses)
        ollama = await people.ollama("ours", base=base, adapters="refuse")
        node = await people.join("ours", ollama=ollama, join=False, no_dht=False, bootstrap=bootstrap)
        await js.request("init", bootstrap=list(bootstrap), settle=20, **settings)
        await js.request("join", topic=(GENERAL_TOPIC if general else orch_mind_topic(CODE)).hex())
        room = "general" if general else CODE.lower()
        await node.control.join_room(room, label=None if general else "theirs", consent=True, orch_mind=True)
        await js.event("connection")
        yield Meeting(node, js, people, bootstrap)


def code_of(failed: Any) -> str:
    assert failed.error is not None
    return str(failed.error.code)


async def test_what_an_orch_mind_user_shares_becomes_a_model_at_the_users_word(tmp_path: Path, files: Path) -> None:
    async with meeting(tmp_path, files) as met:
        control = met.node.control
        before = contents(met.node.store)
        info = await met.shares(files / "peft")
        row = await met.row()
        assert (row.ref, row.trust, row.publisher, row.base) == (
            "orch-mind/sql_adapter_1", "unsigned", "", "tiny-base:latest"
        )  # fmt: skip
        assert (row.digest, row.rooms, row.sources, row.fits) == (f"sha256:{info['checksum']}", ("theirs",), 1, None)
        assert await control.suggestions(row.ref) == ()

        with pytest.raises(ConsentNeeded, match="Nobody signed it"):
            await control.get(row.ref, GetOptions())
        assert contents(met.node.store) == before

        ended = await met.node.got(row.ref, accept_unsigned=True)
        assert ended.result is not None
        assert (ended.result.installed_as, ended.result.route) == ("sql_adapter_1:latest", "pull")
        made = await shown(met.node.ollama.url, "sql_adapter_1")
        assert len(made.adapter_blobs) == 1
        assert (await met.row()).installed_as == "sql_adapter_1:latest"
        assert list((met.node.parts.paths.partial / "orch-mind").iterdir()) == [], "the quarantine is empty again"

        await control.uninstall("sql_adapter_1")
        assert contents(met.node.store) == before


async def test_the_model_is_the_one_its_owner_would_have_shared_with_us(tmp_path: Path, files: Path) -> None:
    """The same folder, converted by its owner and by us, is the same file."""
    async with meeting(tmp_path, files) as met:
        await met.shares(files / "peft")
        await met.node.got((await met.row()).ref, accept_unsigned=True)
        made = await shown(met.node.ollama.url, "sql_adapter_1")
        await met.node.control.create_room("team")
        own = await met.node.share(str(files / "peft"), base="tiny-base")
        assert [str(digest) for digest in made.adapter_blobs] == [own.digest]


async def test_what_its_owner_does_not_say_is_what_orch_mind_assumes(tmp_path: Path, files: Path) -> None:
    async with meeting(tmp_path, files) as met:
        await met.shares(files / "peft", lora_rank=None, lora_alpha=None, base_model=None)
        ref = (await met.row()).ref
        refused = await met.node.get(ref, accept_unsigned=True)
        assert code_of(refused) == "base-missing"
        kept = await met.node.got(ref, accept_unsigned=True, install=False)
        assert kept.result is not None
        assert kept.result.path is not None
        config = json.loads((Path(kept.result.path) / "adapter_config.json").read_text())
        assert (config["r"], config["lora_alpha"]) == (4, ASSUMED_ALPHA)
        await met.node.got(ref, accept_unsigned=True, base="tiny-base", as_name="chosen")
        assert (await met.js.request("counts"))["adapter-request"] == 1, "what was fetched is not fetched again"


@pytest.mark.parametrize("faults", [["shuffle", "repeat"], ["unsolicited", "topicless"], ["noise"]], ids="+".join)
async def test_faults_of_the_peer_do_not_matter(tmp_path: Path, files: Path, faults: list[str]) -> None:
    async with meeting(tmp_path, files, faults=faults) as met:
        await met.shares(files / "peft")
        await met.node.got((await met.row()).ref, accept_unsigned=True)


async def test_t05_a_file_for_another_base_is_refused_and_leaves_nothing(tmp_path: Path, files: Path) -> None:
    wide = tmp_path / "wide"
    wide.mkdir()
    import numpy as np
    from safetensors.numpy import save_file

    name = "base_model.model.model.layers.0.self_attn.v_proj.lora_{}.weight"
    tensors = {name.format("A"): np.ones((4, 640), np.float32), name.format("B"): np.ones((640, 4), np.float32)}
    save_file(tensors, wide / "adapter_model.safetensors")
    async with meeting(tmp_path, files) as met:
        before = contents(met.node.store)
        await met.shares(wide)
        refused = await met.node.get((await met.row()).ref, accept_unsigned=True)
        assert code_of(refused) == "adapter-refused"
        assert contents(met.node.store) == before
        assert list((met.node.parts.paths.partial / "orch-mind").iterdir()) == []


async def test_t03_a_pickle_or_a_file_that_is_none_is_not_taken(tmp_path: Path, files: Path) -> None:
    junk = tmp_path / "junk"
    junk.mkdir()
    (junk / "adapter_model.safetensors").write_bytes(b"\x80\x04not a tensor file")
    async with meeting(tmp_path, files) as met:
        await met.shares(files / "peft", name="pickle", file_type="pytorch")
        refused = await met.node.get((await met.row("pickle")).ref, accept_unsigned=True)
        assert code_of(refused) == "adapter-refused"
        assert "adapter-request" not in await met.js.request("counts")
        await met.shares(junk, name="junk")
        refused = await met.node.get((await met.row("junk")).ref, accept_unsigned=True)
        assert code_of(refused) == "adapter-refused"


async def test_t07_t10_names_are_neither_paths_nor_anybodys_model(tmp_path: Path, files: Path) -> None:
    async with meeting(tmp_path, files) as met:
        await met.shares(files / "peft", name="../../../../tmp/evil")
        row = await met.row("../../../../tmp/evil")
        assert row.ref == "orch-mind/tmp-evil"
        await met.node.got(row.ref, accept_unsigned=True)
        assert (await met.row("../../../../tmp/evil")).installed_as == "tmp-evil:latest"
        assert set(os.listdir(tmp_path)) == {"ours", "ours-store"}
        refused = await met.node.get(row.ref, accept_unsigned=True, as_name="tiny-base")
        assert code_of(refused) == "name-taken"


async def test_two_files_of_one_name_are_told_apart(tmp_path: Path, files: Path) -> None:
    other = shutil.copytree(files / "peft", tmp_path / "other")
    (other / "adapter_model.safetensors").write_bytes((files / "adapter.gguf").read_bytes())
    async with meeting(tmp_path, files) as met:
        for folder in (files / "peft", other):
            await met.shares(folder)
        refs: set[str] = set()

        async def both() -> bool:
            refs.update(row.ref for row in await met.node.control.adapters())
            return len(await met.node.control.adapters()) == 2

        await until(both)
        refs = {row.ref for row in await met.node.control.adapters()}
        checksums = {hash_file(each / "adapter_model.safetensors").hex[:12] for each in (files / "peft", other)}
        assert refs == {f"orch-mind/{each}" for each in checksums}


async def test_orch_mind_users_get_the_peft_folders_we_share_in_their_room(tmp_path: Path, files: Path) -> None:
    async with meeting(tmp_path, files) as met:
        with pytest.raises(ShareError, match="PEFT"):
            await met.node.control.share("sql-lora", "theirs", ShareOptions())
        with pytest.raises(ShareError, match="PEFT"):
            await met.node.control.share(str(files / "adapter.gguf"), "theirs", ShareOptions())
        await met.node.control.share(str(files / "peft"), "theirs", ShareOptions(name="ours", base="tiny-base"))
        (offer,) = await met.offered()
        assert offer["name"] == "ours"
        assert offer["metadata"] == {
            "base_model": "tiny-base", "hf_model": offer["metadata"]["hf_model"], "file_type": "safetensors",
            "lora_rank": 4, "lora_alpha": 8.0,
        }  # fmt: skip
        await met.js.request("request", topic=offer["topic"])
        received = await met.js.event("received")
        assert received["sha256"] == hash_file(files / "peft" / "adapter_model.safetensors").hex
        await met.node.control.unshare("ours")
        assert (await met.js.event("list"))["adapters"] == []
        with pytest.raises(NotFound):
            await met.node.control.unshare("ours")


async def test_the_general_room_with_and_without_orch_mind(tmp_path: Path, files: Path) -> None:
    async with meeting(tmp_path, files, general=True) as met:
        control = met.node.control
        (room,) = await control.rooms()
        assert (room.kind, room.orch_mind) == ("general", True)
        await control.share(str(files / "peft"), "general", ShareOptions(base="tiny-base"))
        (offer,) = await met.offered()
        assert (offer["name"], offer["metadata"]["base_model"]) == ("peft", "tiny-base")
        await control.share(str(files / "adapter.gguf"), "general", ShareOptions(base="tiny-base"))
        await met.js.request("ask")
        assert [each["name"] for each in await met.offered()] == ["peft"], "a GGUF cannot be offered to them"
        await control.leave_room("general")
        await met.js.event("closed")
        await control.join_room("general", label=None, consent=True)
        assert not (await control.rooms())[0].orch_mind


async def test_what_one_room_has_is_not_offered_to_the_other(tmp_path: Path, files: Path) -> None:
    async with meeting(tmp_path, files) as met:
        control = met.node.control
        await control.share(str(files / "peft"), "theirs", ShareOptions(base="tiny-base"))
        await met.offered()
        await control.join_room("FAST-NODE-9", label="another", consent=True, orch_mind=True)
        assert (await met.js.event("list"))["adapters"] == []
        await control.share(str(files / "peft"), "another", ShareOptions(base="tiny-base"))
        await met.offered()


async def test_rooms_and_shares_come_back_after_a_restart(tmp_path: Path, files: Path) -> None:
    async with testnet(3) as addresses, js_peer(PROGRAM) as js, team(tmp_path, files) as people:
        bootstrap = tuple(str(each) for each in addresses)
        ollama = await people.ollama("ours")
        settings: dict[str, Any] = {"no_dht": False, "bootstrap": bootstrap}
        async with running(tmp_path / "ours", ollama, **settings) as node:
            await node.control.join_room(CODE, label="theirs", consent=True, orch_mind=True)
            await node.control.share(str(files / "peft"), "theirs", ShareOptions(base="tiny-base"))
        await js.request("init", bootstrap=list(bootstrap), settle=20)
        await js.request("join", topic=orch_mind_topic(CODE).hex())
        async with running(tmp_path / "ours", ollama, **settings) as node:
            assert [(room.label, room.kind) for room in await node.control.rooms()] == [("theirs", "orch-mind")]
            with anyio.fail_after(PATIENCE_S):
                while not (await js.event("list"))["adapters"]:
                    pass
            await node.control.leave_room("theirs")
            assert await node.control.rooms() == ()


async def test_t21_nothing_happens_without_consent_and_other_codes_are_refused(tmp_path: Path, files: Path) -> None:
    async with team(tmp_path, files) as people:
        node = await people.join("ours", join=False)
        with pytest.raises(ConsentNeeded, match="25,000 codes"):
            await node.control.join_room(CODE, label=None, consent=False, orch_mind=True)
        with pytest.raises(ConsentNeeded, match="Orch-Mind"):
            await node.control.join_room("general", label=None, consent=False, orch_mind=True)
        with pytest.raises(RoomError):
            await node.control.join_room("two words", label=None, consent=True, orch_mind=True)
        with pytest.raises(RoomError):
            await node.control.join_room(CODE, label=None, consent=True)
        assert await node.control.rooms() == ()


async def test_a_blocked_orch_mind_peer_is_not_spoken_with(tmp_path: Path, files: Path) -> None:
    async with meeting(tmp_path, files) as met:
        await met.shares(files / "peft")
        await met.row()
        (peer,) = await met.node.control.peers()
        assert (peer.trust, peer.entries, peer.rooms) == ("unsigned", 1, ("theirs",))
        await met.node.control.block(peer.key)
        await met.js.event("closed")
        await until(lambda: not met.node.parts.orch_mind.peer_keys)
        assert await met.node.control.adapters() == ()


async def test_without_the_switch_orch_mind_is_not_spoken(tmp_path: Path, files: Path) -> None:
    async with testnet(3) as addresses, js_peer(PROGRAM) as js, team(tmp_path, files) as people:
        bootstrap = tuple(str(each) for each in addresses)
        node = await people.join("ours", join=False, no_dht=False, bootstrap=bootstrap)
        await js.request("init", bootstrap=list(bootstrap), settle=20)
        await js.request("join", topic=GENERAL_TOPIC.hex())
        await node.control.join_room("general", label=None, consent=True)
        await js.event("connection")
        await js.request("ask")
        with anyio.move_on_after(0.5):
            await js.event("list")
            pytest.fail("it was answered")
        assert not node.parts.orch_mind.peer_keys
