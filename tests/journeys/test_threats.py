"""Threats as a user would meet them, each against whole sidecars; the numbers are those of the threat model."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import pytest
from zeroconf import ServiceInfo
from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

from hyperdht import KeyPair
from hyperdht.protomux import ChannelRequested, Mux
from sidecar.catalogue.envelope import StatementKind
from sidecar.errors import NotFound, SidecarError
from sidecar.events import BlockListChanged, EntryWithdrawn
from sidecar.rooms.key import RoomKey
from sidecar.rooms.lan import LanNetwork
from sidecar.rooms.mdns import SERVICE_TYPE, LanPeer
from sidecar.rooms.messages import PROTOCOL, MessageType
from sidecar.rooms.session import RoomSession
from sidecar.transfer.chunks import CHUNK_BYTES
from tests.journeys.inside import IN_PROCESS, running, team, until, without_sources
from tests.journeys.liar import dial, liar
from tests.journeys.ollama import listed, make_adapter
from tests.journeys.test_liars import room_key

if TYPE_CHECKING:
    from pathlib import Path

    from tests.journeys.inside import Node

pytestmark = IN_PROCESS


@pytest.mark.parametrize("how", ["content", "symlink"])
async def test_t08_blob_swapped_while_it_is_served_leaves_nothing_of_the_new_content(
    tmp_path: Path, big_files: Path, how: str
) -> None:
    """A local user replaces the shared blob with a secret (or a link to one) while a peer fetches it."""
    secret = b"PRIVATE-KEY-OF-THE-USER." * 1000
    async with team(tmp_path, big_files) as people:
        first = await people.join("first", upload_limit="4MiB")
        second = await people.join("second")
        row = await people.publish(first)
        await second.row(row.name, sources=1)
        blob = first.store / "blobs" / row.digest.replace(":", "-")
        transfer = await second.begin(row.ref)
        partial = second.parts.paths.partial

        async def some() -> bool:
            return (await second.control.transfer(transfer.id)).done_bytes > 20 * CHUNK_BYTES

        await until(some)
        hidden = tmp_path / "hidden"
        hidden.write_bytes((secret * (row.size // len(secret) + 1))[: row.size])
        if how == "content":
            os.replace(hidden, blob)
        else:
            blob.unlink()
            blob.symlink_to(hidden)
        await anyio.sleep(1.5)  # time for a sidecar that would serve the new content to do so
        if not (now := await second.control.transfer(transfer.id)).finished:
            await second.control.cancel(transfer.id)
            now = await second.ended(transfer)
        assert now.state in ("failed", "cancelled")
        for path in (path for folder in (partial, second.parts.paths.blobs) for path in folder.rglob("*")):
            assert path.is_dir() or b"PRIVATE-KEY" not in path.read_bytes()
        connection = first.parts.network.connections.get(second.key)
        assert connection is None or connection.sent_bytes < row.size

        async def offered_by_nobody() -> bool:
            return all(each.sources == 0 for each in await second.control.adapters())

        await until(offered_by_nobody)  # and the room is told that it cannot be had there any more


async def test_t10_same_name_of_two_publishers_stays_two_adapters(tmp_path: Path, files: Path) -> None:
    async with team(tmp_path, files) as people:
        first = await people.join("first")
        second = await people.join("second")
        third = await people.join("third")
        await people.publish(first)
        await people.publish(second, "sql-lora", "adapter_b.gguf")
        one = await third.row("sql-lora", publisher=first.key, sources=1)
        other = await third.row("sql-lora", publisher=second.key, sources=1)
        assert one.digest != other.digest
        with pytest.raises(SidecarError) as unclear:
            await third.begin("sql-lora")
        assert one.ref in unclear.value.cause + unclear.value.next_step
        assert other.ref in unclear.value.cause + unclear.value.next_step
        await third.got(other.ref)
        changed = await third.get(one.ref)
        assert changed.error is not None
        assert changed.error.code == "key-changed", "whose name it is was pinned at the first install"
        await third.control.trust(one.publisher)
        taken = await third.get(one.ref)
        assert taken.error is not None
        assert taken.error.code == "name-taken"
        # What one publisher withdraws does not touch the other's.
        await first.control.unshare("sql-lora")
        await third.happened(EntryWithdrawn, lambda event: event.publisher == first.key.hex())
        assert [row.entry for row in await third.control.adapters()] == [other.entry]


async def test_t12_stranger_who_reaches_the_port_learns_nothing(tmp_path: Path, files: Path) -> None:
    """It can shake hands, as anybody can. It cannot name the room's channel, and is told nothing."""
    async with team(tmp_path, files) as people:
        first = await people.join("first")
        await people.publish(first)
        stream = await dial(first.address)
        mux = Mux()
        guess = RoomKey(b"guess".ljust(32, b"."))
        channel = mux.create_channel(PROTOCOL, guess.channel_id(stream.handshake_hash))
        assert channel is not None
        channel.open(b"\x01" + bytes(32))
        await stream.send_many(mux.messages_to_send())
        heard = b""
        with anyio.move_on_after(1.0):
            while True:
                message = bytes(await stream.receive())
                heard += message
                mux.receive(message)
                while (event := mux.next_event()) is not None:
                    assert isinstance(event, ChannelRequested) or event.channel is channel
        for secret in (b"sql-lora", room_key(first).room_id, room_key(first).secret, room_key(first).topic):
            assert secret not in heard
        assert [each.proved for each in first.parts.network.connections.values()] == [[]]
        await stream.aclose()


async def test_t12_proof_relayed_from_another_connection_is_worth_nothing(tmp_path: Path, files: Path) -> None:
    """The attacker knows nothing but the bytes of a true member's opening message on its own link to that member."""
    async with team(tmp_path, files) as people:
        first = await people.join("first")
        second = await people.join("second")
        attacker = KeyPair.generate()
        to_second = await dial(second.address, attacker)
        taken: list[ChannelRequested] = []
        listening = Mux()
        opening = b""
        with anyio.move_on_after(1.0):
            while not taken:
                opening = bytes(await to_second.receive())
                listening.receive(opening)
                while (event := listening.next_event()) is not None:
                    assert isinstance(event, ChannelRequested)
                    taken.append(event)
        assert taken, "a member opens its rooms on every connection, and the id tells nothing"
        to_first = await dial(first.address, attacker)
        await to_first.send(opening)
        await anyio.sleep(0.5)
        connection = first.parts.network.connections[attacker.public_key]
        assert connection.proved == []
        for stream in (to_first, to_second):
            await stream.aclose()


async def test_t12_wrong_proofs_are_counted_and_then_not_talked_to(tmp_path: Path, files: Path) -> None:
    """Whoever learnt the channel's id of a connection, but not the room's key, has three tries."""
    async with team(tmp_path, files) as people:
        first = await people.join("first")
        key, attacker = room_key(first), KeyPair.generate()
        for tried in range(3):
            stream = await dial(first.address, attacker)
            mux = Mux()
            channel = mux.create_channel(PROTOCOL, key.channel_id(stream.handshake_hash))
            assert channel is not None
            channel.open(b"\x01" + os.urandom(32))
            await stream.send_many(mux.messages_to_send())
            await until(lambda: first.parts.network.bad_input["proof"] == tried + 1)  # noqa: B023
            await stream.aclose()
            await until(lambda: attacker.public_key not in first.parts.network.connections)
        refused = await dial(first.address, attacker)
        with anyio.fail_after(5), pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
            await refused.receive()
        await refused.aclose()


async def test_t14_another_key_under_a_known_name_is_another_publisher(tmp_path: Path, files: Path) -> None:
    """A machine that lost its identity, or one that poses as it, does not continue the trusted publisher's adapter."""
    async with team(tmp_path, files) as people:
        second = await people.join("second")
        ollama = await people.ollama("first")
        await make_adapter(ollama.url, files, "sql-lora")
        async with running(tmp_path / "first", ollama, second.address) as first:
            await people.enter(first)
            trusted = await first.share("sql-lora")
            await second.row("sql-lora", sources=1)
            assert (await second.control.trust(first.key.hex())).trust == "trusted"
        async with running(tmp_path / "posing", ollama, second.address) as posing:
            await people.enter(posing)
            await posing.share("sql-lora", description="Trust me.")
            row = await second.row("sql-lora", publisher=posing.key)
            assert (row.trust, row.publisher) == ("unknown", posing.key.hex())
            rows = {each.publisher: each for each in await second.control.adapters()}
            assert rows[trusted.publisher].trust == "trusted"
            assert rows[trusted.publisher].entry == trusted.entry


async def test_t14_blocked_publisher_is_hidden_and_disconnected(tmp_path: Path, files: Path) -> None:
    async with team(tmp_path, files) as people:
        first = await people.join("first")
        second = await people.join("second")
        row = await people.publish(first)
        await second.row(row.name, sources=1)
        await second.control.block(first.key.hex())
        assert await second.control.adapters() == ()
        await until(lambda: first.key not in second.parts.network.connections)
        refused = await second.get(row.ref)
        assert refused.error is not None
        assert refused.error.code in ("not-trusted", "no-providers")


async def test_t15_nothing_old_comes_back_after_a_restart(tmp_path: Path, files: Path) -> None:
    """Entry and withdrawal, each replayed to a receiver that has restarted since it saw what replaced them."""
    async with team(tmp_path, files) as people:
        first = await people.join("first")
        ollama = await people.ollama("second")
        async with running(tmp_path / "second", ollama, first.address) as second:
            await people.enter(second)
            await people.publish(first)
            await second.row("sql-lora", sources=1)
            old_entry = second.parts.catalogue.resolve("sql-lora")
            await first.control.unshare("sql-lora")
            room = room_key(second)

            def withdrawn() -> bool:
                return not second.parts.catalogue.entries(room.room_id)

            await until(withdrawn)
            old_withdrawal = second.parts.catalogue.find(room.room_id, first.key, "sql-lora")
            assert old_withdrawal is not None
            assert old_withdrawal.kind is StatementKind.WITHDRAWAL
        async with running(tmp_path / "second", ollama) as second, liar(second.address, room) as member:
            await member.say(old_entry)
            await until(lambda: second.parts.network.bad_input["entry-older"] == 1)
            assert await second.control.adapters() == ()
            with pytest.raises(NotFound):
                await second.begin("sql-lora")
        new = await first.share("sql-lora")
        async with running(tmp_path / "second", ollama, first.address) as second:
            await second.row("sql-lora", version=new.version, sources=1)
        async with running(tmp_path / "second", ollama) as second, liar(second.address, room) as member:
            await member.say(old_withdrawal)
            await until(lambda: second.parts.network.bad_input["entry-older"] == 1)
            assert [row.version for row in await second.control.adapters()] == [new.version]


async def test_t15_whatever_members_ever_said_is_worth_nothing_said_again_after_a_restart(
    tmp_path: Path, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All messages of a whole exchange, of every type, repeated by a member to one that has seen what came later."""
    said = recorded(monkeypatch)
    async with team(tmp_path, files) as people:
        first = await people.join("first")
        row = await people.publish(first)
        ollama = await people.ollama("second")
        enemy = KeyPair.generate().public_key.hex()
        async with running(tmp_path / "second", ollama, first.address) as second:
            await people.enter(second)
            await second.row(row.name, sources=1)
            await second.got(row.ref)
            await second.control.follow_blocks(first.key.hex(), on=True)
            await first.control.block(enemy)
            assert (await first.control.publish_blocks("team")).blocked == (enemy,)
            await second.happened(BlockListChanged)
            await first.control.trust(enemy)
            await first.control.publish_blocks("team")
            await second.happened(BlockListChanged, lambda event: event.keys == 0)
            await first.control.unshare(row.name)
            await second.happened(EntryWithdrawn)
            again = await first.share(row.name, description="Once more.")
            await second.row(row.name, version=again.version, sources=1)
            room = room_key(second)
        told = list(dict.fromkeys(said))
        assert set(MessageType) - {kind for kind, _ in told} <= {*UNSAID}
        async with running(tmp_path / "second", ollama) as second:

            async def state() -> list[object]:
                control = second.control
                rows = [without_sources(each) for each in await control.adapters()]
                return [rows, await control.block_lists(), len(await control.rooms()), await listed(ollama.url)]

            before = await state()
            for kind, body in told:
                async with liar(second.address, room) as member:
                    member.raw(kind, body)
                    await member.flush()
                    await anyio.sleep(0.02)
            assert await state() == before
            assert second.parts.network.bad_input["entry-older"] >= 3, "offer, block list, withdrawal"
        async with running(tmp_path / "second", ollama, first.address) as second:
            await second.row(row.name, version=again.version, sources=1)
            await second.got(row.ref, as_name="again")


UNSAID = {MessageType.CANCEL, MessageType.REFUSE, MessageType.PEERS}
"""Nothing is cancelled or refused in that exchange, and two members have nobody to name."""


def recorded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, bytes]]:
    """Type and body of every message that any room session of this process hears from now on."""
    said: list[tuple[int, bytes]] = []
    receive = RoomSession.receive

    def hearing(self: RoomSession, message_type: int, body: memoryview, now: float) -> None:
        said.append((message_type, bytes(body)))
        receive(self, message_type, body, now)

    monkeypatch.setattr(RoomSession, "receive", hearing)
    return said


async def test_t20_peer_that_does_not_read_costs_others_nothing(tmp_path: Path, big_files: Path) -> None:
    async with team(tmp_path, big_files) as people:
        first = await people.join("first")
        second = await people.join("second")
        row = await people.publish(first)
        digest = bytes.fromhex(row.digest[7:])
        async with liar(first.address, room_key(first)) as member:
            member.silent_from.set()
            for place in range(0, row.size // CHUNK_BYTES - 63, 64):
                member.session.request_chunks(digest, place, 64)
            await member.flush()
            await anyio.sleep(0.3)
            await second.row(row.name, sources=1)
            await second.got(row.ref)
            slow = first.parts.network.connections[member.key]
            assert slow._outbox_bytes < 9 << 20
            assert slow.sent_bytes < row.size


async def test_t22_spoofed_mdns_record_only_costs_a_dial(tmp_path: Path, files: Path) -> None:
    """A record may lead to a stranger, to a service that is no sidecar, or to nobody. Members stay what they are."""
    async with team(tmp_path, files) as people:
        first = await people.join("first")
        second = await people.join("second")
        row = await people.publish(first)
        stranger = await people.join("stranger", join=False, ollama=await people.ollama("stranger"))
        people.nodes.remove(stranger)
        parts = second.parts
        lan = LanNetwork(parts.identity.key_pair, parts.network.run_connection, connected=parts.network.is_connected)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lan.run, ())
            await anyio.lowlevel.checkpoint()
            for place, port in enumerate((int(stranger.address.rpartition(":")[2]), second.ollama.port, 9)):
                lan.mdns_found(LanPeer(f"spoofed-{place}", ("127.0.0.1",), port))
            await until(lambda: stranger.key in parts.network.connections)
            assert parts.network.connections[stranger.key].proved == []
            await second.row(row.name, sources=1)
            await second.got(row.ref)
            assert {peer.key for peer in await second.control.peers() if peer.rooms} == {first.key.hex()}
            assert await stranger.control.adapters() == ()
            tasks.cancel_scope.cancel()


async def test_t22_copied_mdns_record_of_a_member_only_costs_a_dial(tmp_path: Path, files: Path) -> None:
    """A rogue announces the nonce and the room tags that a member announced, and others."""
    local: dict[str, Any] = {"no_mdns": False, "peers": ()}
    async with team(tmp_path, files) as people, AsyncZeroconf(interfaces=["127.0.0.1"]) as zeroconf:
        first = await people.join("first", **local)
        row = await people.publish(first)
        copied = await record_of(first, zeroconf)
        stranger = await people.join("stranger", join=False)
        people.nodes.remove(stranger)
        port = int(stranger.address.rpartition(":")[2])
        for number in range(3):
            properties = copied if number == 0 else {"v": "1", "n": os.urandom(16).hex(), "r": os.urandom(8).hex()}
            rogue = ServiceInfo(
                SERVICE_TYPE,
                f"rogue-{number}.{SERVICE_TYPE}",
                port=port,
                parsed_addresses=["127.0.0.1"],
                properties=properties,
                server=f"rogue-{number}.local.",
            )
            await zeroconf.async_register_service(rogue, cooperating_responders=True)
        second = await people.join("second", **local)
        await until(lambda: stranger.key in second.parts.network.connections)
        assert second.parts.network.connections[stranger.key].proved == []
        await second.row(row.name, sources=1)
        await second.got(row.ref)
        assert await stranger.control.adapters() == ()


async def record_of(node: Node, zeroconf: AsyncZeroconf) -> dict[str, str | None]:
    """What a sidecar's mDNS record says. Those of other tests may be about."""
    found: list[AsyncServiceInfo] = []

    def changed(name: str, **_: object) -> None:
        names.append(name)

    async def seen() -> bool:
        while names:
            info = AsyncServiceInfo(SERVICE_TYPE, names.pop())
            if await info.async_request(zeroconf.zeroconf, 3000) and node.address.endswith(f":{info.port}"):
                found.append(info)
        return bool(found and found[0].decoded_properties["r"])

    names: list[str] = []
    browser = AsyncServiceBrowser(zeroconf.zeroconf, SERVICE_TYPE, handlers=[changed])
    await until(seen)
    await browser.async_cancel()
    return found[0].decoded_properties
