"""A member of the room who lies about everything it can: refused each time, and the honest get goes on."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import anyio
import pytest

from hyperdht import KeyPair
from sidecar.catalogue.entry import SignedEntry, build_entry, sign_entry
from sidecar.catalogue.envelope import StatementKind
from sidecar.rooms import session_events
from sidecar.rooms.messages import Entries, MessageType, RawStatement, encode
from sidecar.transfer.chunks import CHUNK_BYTES, hash_chunks
from tests.journeys.inside import IN_PROCESS, Node, Team, team, until
from tests.journeys.liar import Lies, liar

if TYPE_CHECKING:
    from pathlib import Path

    from ollama_bridge.digests import Digest
    from sidecar.control_types import AdapterRow
    from sidecar.rooms.key import RoomKey

pytestmark = IN_PROCESS

ZEROS = bytes(CHUNK_BYTES)


async def table_of(path: Path) -> tuple[Digest, bytes]:
    def work() -> tuple[Digest, bytes]:
        with path.open("rb") as file:
            digest, table = hash_chunks(file, path.stat().st_size)
        return digest, table.hashes

    return await anyio.to_thread.run_sync(work)


def room_key(node: Node) -> RoomKey:
    (room,) = node.parts.network.rooms.values()
    return room.key


async def offered(people: Team) -> tuple[Node, Node, AdapterRow, SignedEntry]:
    """A publisher, a receiver, and the offer both know."""
    first = await people.join("first")
    second = await people.join("second")
    row = await people.publish(first)
    await second.row(row.name, sources=1)
    return first, second, row, second.parts.catalogue.resolve(row.ref)


LIES = {
    "wrong chunk bytes": Lies(chunk=ZEROS),
    "short chunks": Lies(short_by=1),
    "wrong table": Lies(table=bytes(1 << 16), chunk=ZEROS),
    "more chunks than the entry's size has": Lies(count=100_000),
    "fewer chunks than the entry's size has": Lies(count=3),
    "chunks nobody asked for": Lies(unasked=20),
    "chunks of other indexes": Lies(index_shift=1),
    "no answer at all": Lies(silent=True),
    "no table": Lies(refuse_table=True, silent=True),
    "nothing of what it says it holds": Lies(deny=True),
}


@pytest.mark.parametrize("lies", LIES.values(), ids=LIES.keys())
async def test_t06_with_one_honest_source_beside_a_liar_the_get_succeeds(
    tmp_path: Path, big_files: Path, lies: Lies
) -> None:
    async with team(tmp_path, big_files) as people:
        first, second, row, entry = await offered(people)
        path = big_files / "adapter.gguf"
        _, hashes = await table_of(path)
        async with liar(second.address, room_key(second), blob=path.read_bytes(), hashes=hashes, lies=lies) as member:
            await member.offer(entry)
            await second.row(row.name, sources=2)
            await second.got(row.ref)
            if lies.table is not None or lies.count is not None:
                assert not member.asked_for_chunks.is_set(), "who lies about the blob itself is asked for nothing"
        assert first.key in second.parts.network.connections


@pytest.mark.parametrize(
    ("lies", "code"),
    [
        (Lies(chunk=ZEROS), "chunk-mismatch"),
        (Lies(table=bytes(1 << 16)), "chunk-mismatch"),
    ],
    ids=["chunks", "table"],
)
async def test_t06_liars_alone_end_in_a_clear_error_and_later_honesty_helps(
    tmp_path: Path, files: Path, lies: Lies, code: str
) -> None:
    async with team(tmp_path, files) as people:
        first, second, row, entry = await offered(people)
        path = files / "adapter.gguf"
        _, hashes = await table_of(path)
        await first.control.leave_room("team")
        async with liar(second.address, room_key(second), blob=path.read_bytes(), hashes=hashes, lies=lies) as member:
            await member.offer(entry)
            await second.row(row.name, sources=1)
            ended = await second.get(row.ref)
        assert ended.error is not None
        assert (ended.state, ended.error.code) == ("failed", code)
        assert not (second.parts.paths.blobs / f"sha256-{row.digest[7:]}").exists()
        await people.enter(first)
        await first.share("sql-lora")
        await second.row(row.name, sources=1)
        await second.got(row.ref)


async def test_t16_forged_and_changed_entries_are_refused_counted_and_cost_the_connection(
    tmp_path: Path, files: Path
) -> None:
    async with team(tmp_path, files) as people:
        _, second, _, entry = await offered(people)
        key = room_key(second)
        changed = entry.raw.replace(b'"sql-lora"', b'"own-lora"')
        forged = [
            RawStatement(entry.kind, entry.publisher, bytes(64), entry.raw),
            RawStatement(entry.kind, entry.publisher, entry.signature, changed),
            RawStatement(entry.kind, KeyPair.generate().public_key, entry.signature, entry.raw),
            RawStatement(StatementKind.WITHDRAWAL, entry.publisher, entry.signature, entry.raw),
        ]
        before = await second.control.adapters()
        async with liar(second.address, key) as member:
            for statement in forged:
                member.raw(MessageType.ENTRIES, encode(Entries((statement,))))
            await member.flush()
            with anyio.fail_after(10):
                await member.ended.wait()
        assert second.parts.network.bad_input["entry"] >= 3
        assert [row.entry for row in await second.control.adapters()] == [row.entry for row in before]
        await second.got("sql-lora")


async def test_t15_older_version_is_refused_also_after_a_restart_of_the_peer(tmp_path: Path, files: Path) -> None:
    async with team(tmp_path, files) as people:
        first, second, _, old = await offered(people)
        new = await first.share("sql-lora", description="Newer.")
        await second.row("sql-lora", version=2)
        async with liar(second.address, room_key(second)) as member:
            await member.say(old)
            await until(lambda: second.parts.network.bad_input["entry-older"] == 1)
        assert [(row.version, row.entry) for row in await second.control.adapters()] == [(2, new.entry)]


async def test_t06_entry_that_lies_about_its_file_never_becomes_a_model(tmp_path: Path, files: Path) -> None:
    """Signed by a member, bytes and digest agree, but rank and tensors are not those of the file."""
    key = KeyPair.generate()
    async with team(tmp_path, files) as people:
        _, second, _, honest = await offered(people)
        path = files / "adapter.gguf"
        _, hashes = await table_of(path)
        assert honest.entry.adapter is not None
        facts = replace(honest.entry.adapter, rank=64)
        wrong = sign_entry(build_entry(replace(honest.entry, name="boast", adapter=facts)), key)
        async with liar(
            second.address, room_key(second), blob=path.read_bytes(), hashes=hashes, key_pair=key
        ) as member:
            await member.say(wrong)
            row = await second.row("boast", sources=1)
            ended = await second.get(row.ref)
        assert ended.error is not None
        assert ended.error.code == "claim-mismatch"
        assert "rank 64" in ended.error.cause


@pytest.mark.parametrize(
    "garbage",
    [
        (MessageType.ENTRIES, b"\xff" * 100),
        (MessageType.CHUNKS, b"\x01"),
        (MessageType.OFFERS, bytes(200_000)),
        (99, b"what is this"),
    ],
    ids=["entries", "chunk", "large", "unknown type"],
)
async def test_garbage_ends_at_most_that_room_with_that_peer(
    tmp_path: Path, files: Path, garbage: tuple[int, bytes]
) -> None:
    async with team(tmp_path, files) as people:
        first, second, row, _ = await offered(people)
        async with liar(second.address, room_key(second)) as member:
            member.raw(*garbage)
            await member.flush()
            if garbage[0] == 99:  # a later version's message: passed over
                await member.say()
                assert not member.ended.is_set()
            else:
                with anyio.fail_after(10):
                    await member.ended.wait()
                assert second.parts.network.bad_input["protocol"] == 1
        assert first.key in second.parts.network.connections
        await second.got(row.ref)


async def test_frames_that_are_no_protomux_end_the_connection_only(tmp_path: Path, files: Path) -> None:
    async with team(tmp_path, files) as people:
        _, second, row, _ = await offered(people)
        async with liar(second.address, room_key(second)) as member:
            await member.stream.send(b"\x00\xff\xff\xff\xff" * 100)
            with anyio.fail_after(10):
                await member.ended.wait()
        assert member.saw(session_events.MembershipProved)
        await second.got(row.ref)
