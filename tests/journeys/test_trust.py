"""Whom a machine believes, and what it is told: keys that change, policies of rooms, adapters taken back, new codes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import pytest

from hyperdht.protomux import ChannelClosed, Mux
from sidecar.control_types import RuleOptions
from sidecar.errors import NotTrusted, RoomError
from sidecar.events import BlockListChanged, InstallWithdrawn, TrustAlarm
from sidecar.rooms.messages import PROTOCOL
from tests.journeys.inside import IN_PROCESS, running, team, until
from tests.journeys.liar import dial
from tests.journeys.ollama import listed, make_adapter
from tests.journeys.test_liars import room_key

if TYPE_CHECKING:
    from pathlib import Path

    from hyperdht import SecretStream

pytestmark = IN_PROCESS


async def test_t14_publisher_whose_key_changed_is_an_alarm_that_blocks(tmp_path: Path, files: Path) -> None:
    async with team(tmp_path, files) as people:
        second = await people.join("second")
        ollama = await people.ollama("first")
        await make_adapter(ollama.url, files, "sql-lora")
        async with running(tmp_path / "first", ollama, second.address) as first:
            await people.enter(first)
            row = await first.share("sql-lora")
            await second.row("sql-lora", sources=1)
            await second.got(row.ref)
            await second.control.trust(first.key.hex(), label="alice")
        async with running(tmp_path / "first-again", ollama, second.address) as posing:
            await people.enter(posing)
            await posing.share("sql-lora", description="It is still me.")
            new = await second.row("sql-lora", publisher=posing.key, sources=1)
            alarm = await second.happened(TrustAlarm)
            assert alarm.publisher == posing.key.hex()
            assert first.key.hex()[:12] in alarm.cause
            assert new.warnings == (alarm.cause,)
            refused = await second.get(new.ref)
            assert refused.error is not None
            assert refused.error.code == "key-changed"
            with pytest.raises(NotTrusted):
                await second.control.trust(posing.key.hex(), label="alice")
            beside = await second.got(new.ref, as_name="other")
            assert beside.result is not None
            assert alarm.cause in beside.result.warnings
            # The user asked Alice: it is her new key.
            told = await second.control.trust(posing.key.hex(), label="alice", replace_label=True)
            assert (told.trust, told.name) == ("trusted", "alice")
            assert (await second.row("sql-lora", publisher=posing.key)).warnings == ()


async def test_policy_of_a_room_decides_and_survives_a_restart(tmp_path: Path, files: Path) -> None:
    async with team(tmp_path, files) as people:
        first = await people.join("first")
        row = await people.publish(first)
        ollama = await people.ollama("second")
        async with running(tmp_path / "second", ollama, first.address) as second:
            await people.enter(second)
            assert (await second.control.set_policy("team", "enforce")).policy == "enforce"
        async with running(tmp_path / "second", ollama, first.address) as second:
            await second.row(row.name, sources=1)
            refused = await second.get(row.ref)
            assert refused.error is not None
            assert refused.error.code == "not-trusted"
            await second.control.set_policy("team", "warn")
            warned = await second.got(row.ref, as_name="warned")
            assert warned.result is not None
            assert "not known" in warned.result.warnings[0]
            await second.control.set_policy("team", "off")
            silent = await second.got(row.ref, as_name="silent")
            assert silent.result is not None
            assert silent.result.warnings == ()
            await second.control.set_policy("team", "enforce")
            await second.control.trust(first.key.hex())
            await second.got(row.ref, as_name="trusted")


async def test_who_holds_an_installed_adapter_that_is_taken_back_is_told(tmp_path: Path, files: Path) -> None:
    async with team(tmp_path, files) as people:
        first = await people.join("first")
        ollama = await people.ollama("second")
        async with running(tmp_path / "second", ollama, first.address) as second:
            await people.enter(second)
            row = await people.publish(first)
            await second.row(row.name, sources=1)
            await second.got(row.ref)
            assert (await second.control.status()).withdrawn == ()
            await first.control.unshare("sql-lora")
            told = await second.happened(InstallWithdrawn)
            assert (told.installed_as, told.publisher) == ("sql-lora:latest", first.key.hex())
        async with running(tmp_path / "second", ollama) as second:
            assert (await second.control.status()).withdrawn == ("sql-lora:latest",)
            assert "sql-lora:latest" in await listed(ollama.url), "it stays until the user says otherwise"
            await second.control.uninstall("sql-lora")
            assert (await second.control.status()).withdrawn == ()


async def test_t13_rotated_room_goes_on_under_a_new_code_without_who_knows_only_the_old(
    tmp_path: Path, files: Path
) -> None:
    async with team(tmp_path, files) as people:
        first = await people.join("first")
        second = await people.join("second")
        bad = await people.join("bad")
        mine = await people.publish(first)
        theirs = await people.publish(second, "theirs", "adapter_b.gguf")
        await people.publish(bad, "bad-lora")
        for row in (theirs, await bad.row("bad-lora")):
            await first.row(row.name, sources=1)
        await first.control.sync_add(RuleOptions("fetch", "team", second.key.hex(), name="nothing"))
        await first.control.block(bad.key.hex())
        before = room_key(first)
        rotated = await first.control.rotate_room("team")
        assert rotated.code is not None
        assert rotated.id != before.room_id.hex()
        assert [(room.label, room.id) for room in await first.control.rooms()] == [("team", rotated.id)]
        assert [rule.room for rule in await first.control.sync_rules()] == ["team"]
        assert {row.ref for row in await first.control.adapters()} == {mine.ref, theirs.ref}

        # Who has only the old code cannot even name the room any more.
        stream = await dial(first.address)
        mux = Mux()
        channel = mux.create_channel(PROTOCOL, before.channel_id(stream.handshake_hash))
        assert channel is not None
        channel.open(b"\x01" + before.proof(is_initiator=True, **handshake(stream)))
        await stream.send_many(mux.messages_to_send())
        closed = False
        with anyio.fail_after(10):
            while not closed:
                mux.receive(bytes(await stream.receive()))
                while (event := mux.next_event()) is not None:
                    closed |= isinstance(event, ChannelClosed) and event.channel is channel
        assert first.parts.network.links(bytes.fromhex(rotated.id)) == []
        await stream.aclose()

        # Who is told the new code finds what was offered, and can fetch it; the members' own entries come along.
        await second.control.leave_room("team")
        await second.control.join_room(rotated.code, label="team", consent=False)
        await second.row(mine.name, sources=1)
        await second.got(mine.ref)
        assert {row.ref for row in await second.control.adapters()} == {mine.ref, theirs.ref}
        new = await first.share("sql-lora", description="Still mine.")
        assert new.version == mine.version + 1


async def test_rotated_room_survives_a_restart(tmp_path: Path, files: Path) -> None:
    async with team(tmp_path, files) as people:
        ollama = await people.ollama("first")
        await make_adapter(ollama.url, files, "sql-lora")
        async with running(tmp_path / "first", ollama) as first:
            await people.enter(first)
            row = await first.share("sql-lora")
            rotated = await first.control.rotate_room("team")
        async with running(tmp_path / "first", ollama) as first:
            assert [(room.label, room.id) for room in await first.control.rooms()] == [("team", rotated.id)]
            assert [each.entry for each in await first.control.adapters(local=True)] == [row.entry]
            await first.control.unshare("sql-lora")
        async with running(tmp_path / "first", ollama) as first:
            await first.control.join_room("local", label=None, consent=True)
            with pytest.raises(RoomError):
                await first.control.rotate_room("local")


async def test_decision_about_a_publisher_can_be_taken_back(tmp_path: Path, files: Path) -> None:
    async with team(tmp_path, files) as people:
        first = await people.join("first")
        second = await people.join("second")
        row = await people.publish(first)
        assert (await second.row(row.name, sources=1)).trust == "unknown"
        assert (await second.control.trust(row.publisher, label="ada")).trust == "trusted"
        forgotten = await second.control.forget_publisher(row.publisher)
        assert (forgotten.trust, forgotten.name) == ("unknown", "ada"), "the name stays tied to the key (T14)"
        await second.control.block(row.publisher)
        assert await second.control.adapters() == ()
        assert (await second.control.forget_publisher(row.publisher)).trust == "unknown"
        assert [each.trust for each in await second.control.adapters()] == ["unknown"]


async def test_t28_followed_block_list_blocks_for_its_followers_only(tmp_path: Path, files: Path) -> None:
    async with team(tmp_path, files) as people:
        warden = await people.join("warden")
        bad = await people.join("bad")
        ollama = await people.ollama("second")
        other = await people.join("other")
        row = await people.publish(bad)
        async with running(tmp_path / "second", ollama, warden.address, bad.address) as second:
            await people.enter(second)
            await second.row(row.name, sources=1)
            followed = await second.control.follow_blocks(warden.key.hex(), on=True)
            assert (followed.version, followed.blocked) == (0, ())
            await warden.control.block(bad.key.hex())
            await warden.control.publish_blocks("team")
            await second.happened(BlockListChanged)

            async def hidden() -> bool:
                return await second.control.adapters() == ()

            await until(hidden)
            await until(lambda: bad.key not in second.parts.network.connections)
            refused = await second.get(row.ref)
            assert refused.error is not None
            assert refused.error.code == "not-trusted"
            assert [each.name for each in await other.control.adapters()] == [row.name], "nobody else is touched"
        async with running(tmp_path / "second", ollama) as second:
            assert await second.control.adapters() == ()
            assert [each.blocked for each in await second.control.block_lists()] == [(bad.key.hex(),)]
            await second.control.follow_blocks(warden.key.hex(), on=False)
            assert [each.name for each in await second.control.adapters()] == [row.name]
            # One that was published before is there when somebody begins to follow it.
            again = await second.control.follow_blocks(warden.key.hex(), on=True)
            assert again.blocked == (bad.key.hex(),)


def handshake(stream: SecretStream) -> dict[str, bytes]:
    """What a proof on a connection is about."""
    return {
        "handshake_hash": stream.handshake_hash,
        "public_key": stream.public_key,
        "remote_public_key": stream.remote_public_key,
    }
