"""Several sidecars in rooms: who sees what, who fetches from whom, and what a restart keeps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ollama_bridge.digests import Digest
from sidecar.errors import NotFound
from sidecar.events import EntryAdded, EntryWithdrawn, PeerConnected, PeerDisconnected
from sidecar.transfer.chunks import CHUNK_BYTES
from sidecar.transfer.fetch_types import BlobSpec
from sidecar.transfer.source import SourceRefused
from sidecar.transfer.source_state import UNIT_CHUNKS
from tests.journeys.inside import IN_PROCESS, running, team, without_sources
from tests.journeys.ollama import contents, make_adapter, shown

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = IN_PROCESS


async def test_third_member_fetches_from_the_first_and_the_second(tmp_path: Path, big_files: Path) -> None:
    async with team(tmp_path, big_files) as people:
        first = await people.join("first")
        second = await people.join("second")
        row = await people.publish(first)
        await second.row("sql-lora", sources=1)
        await second.got(row.ref)
        third = await people.join("third", download_limit=20 << 20)
        await third.row("sql-lora", sources=2)
        await third.got(row.ref)
        sent = [node.parts.network.connections[third.key].sent_bytes for node in (first, second)]
        # The end game asks both for what is still in flight: at most a request of each comes twice.
        assert sum(sent) < (row.size + 2 * UNIT_CHUNKS * CHUNK_BYTES) * 1.02
        assert min(sent) > row.size / 10, f"both gave a part: {sent}"
        assert Digest.parse(row.digest) in (await shown(third.ollama.url, "sql-lora")).adapter_blobs


async def test_rooms_are_isolated(tmp_path: Path, files: Path) -> None:
    """Two members share room X and one of them is in room Y with a third: neither entries nor chunks of Y reach X."""
    async with team(tmp_path, files) as people:
        both = await people.join("both")
        only_x = await people.join("only-x")
        secret = await both.control.create_room("secret")
        assert secret.code is not None
        only_y = await people.join("only-y", join=False)
        await only_y.control.join_room(secret.code, label="secret", consent=False)
        await both.happened(PeerConnected, lambda event: event.peer == only_y.key.hex())
        await make_adapter(both.ollama.url, files, "hidden")
        hidden = await both.share("hidden", "secret")
        await people.publish(both, "open-lora", "adapter_b.gguf")
        await only_y.row("hidden", sources=1)
        await only_x.row("open-lora", sources=1)
        assert [row.name for row in await only_x.control.adapters()] == ["open-lora"]
        assert [row.name for row in await only_y.control.adapters()] == ["hidden"]
        with pytest.raises(NotFound):
            await only_x.begin("hidden")
        # Whoever knows the digest from elsewhere gets no chunk through the wrong room either.
        (link,) = only_x.parts.network.connections[both.key].proved
        digest = Digest.parse(hidden.digest)
        source = link.source(digest)
        spec = BlobSpec(digest, hidden.size, "0" * 64)
        held = await source.holdings(digest, spec.count)
        assert held.count == 0
        source.request(digest, 0, 1)
        with pytest.raises(SourceRefused) as refused:
            await source.next_chunks()
        assert refused.value.gone


async def test_withdrawal_reaches_peers_and_ends_serving(tmp_path: Path, files: Path) -> None:
    async with team(tmp_path, files) as people:
        first = await people.join("first")
        second = await people.join("second")
        row = await people.publish(first)
        await second.row("sql-lora", sources=1)
        (withdrawn,) = await first.control.unshare("sql-lora")
        assert withdrawn.name == "sql-lora"
        assert withdrawn.rooms == ("team",)
        await second.happened(EntryWithdrawn, lambda event: event.adapter == "sql-lora")
        assert await second.control.adapters() == ()
        with pytest.raises(NotFound):
            await second.begin(row.ref)
        assert not first.parts.network.may_have(bytes.fromhex(people.room.id), Digest.parse(row.digest))  # type: ignore[union-attr]
        again = await first.share("sql-lora")
        assert again.version > row.version
        await second.got((await second.row("sql-lora", sources=1)).ref)


async def test_restart_keeps_rooms_entries_shares_and_installs(tmp_path: Path, files: Path) -> None:
    async with team(tmp_path, files) as people:
        first = await people.join("first")
        ollama = await people.ollama("second", adapters="refuse")
        third_ollama = await people.ollama("third")
        before = contents(ollama.store.root)
        async with running(tmp_path / "second", ollama, first.address) as second:
            await people.enter(second)
            row = await people.publish(first)
            await second.row("sql-lora", sources=1)
            await second.got(row.ref)
            rooms, rows = await second.control.rooms(), await second.control.adapters()
            key = second.key
        async with running(tmp_path / "second", ollama) as second:
            assert second.key == key
            assert [(room.id, room.label, room.code) for room in await second.control.rooms()] == [
                (room.id, "team", None) for room in rooms
            ]
            kept = await second.control.adapters()
            assert kept == tuple(map(without_sources, rows))
            assert kept[0].installed_as == "sql-lora:latest"
            # The first one is gone for it; a third member gets all of it from the second, which fetched it.
            async with running(tmp_path / "third", third_ollama, second.address) as third:
                await people.enter(third)
                await third.row("sql-lora", sources=1)
                await third.got(row.ref)
            await second.control.uninstall("sql-lora")
            assert contents(ollama.store.root) == before
            assert (await second.control.adapters())[0].installed_as is None


async def test_restart_of_the_publisher_serves_again(tmp_path: Path, files: Path) -> None:
    async with team(tmp_path, files) as people:
        ollama, receiving = await people.ollama("first"), await people.ollama("second")
        async with running(tmp_path / "first", ollama) as first:
            await people.enter(first)
            row = await people.publish(first)
        async with (
            running(tmp_path / "first", ollama) as first,
            running(tmp_path / "second", receiving, first.address) as second,
        ):
            await people.enter(second)
            await second.happened(EntryAdded)
            await second.row("sql-lora", sources=1)
            await second.got(row.ref)
            status = await first.control.status()
            assert status.shared == 1


async def test_leaving_a_room_ends_it_for_both(tmp_path: Path, files: Path) -> None:
    async with team(tmp_path, files) as people:
        first = await people.join("first")
        second = await people.join("second")
        await people.publish(first)
        await second.row("sql-lora", sources=1)
        await second.control.leave_room("team")
        assert await second.control.adapters() == ()
        assert await second.control.rooms() == ()
        await first.happened(PeerDisconnected, lambda event: event.peer == second.key.hex())
        assert [room.peers for room in await first.control.rooms()] == [0]
