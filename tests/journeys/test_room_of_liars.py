"""A room full of liars and one honest peer, over the local network and over a DHT: the download finishes (T6, T18, T20)."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import anyio
import pytest

from hyperdht import HyperDHT, KeyPair
from sidecar.catalogue.entry import build_entry, sign_entry
from sidecar.catalogue.limits import MAX_ENTRIES_PER_PUBLISHER
from sidecar.rooms.messages import Entries, MessageType, Offer, Offers, RawStatement, encode
from sidecar.transfer.chunks import CHUNK_BYTES
from tests.journeys.inside import IN_PROCESS, team, until
from tests.journeys.liar import EPOCH, Liar, Lies, dial, lying
from tests.journeys.test_liars import room_key, table_of
from tests.journeys.test_threats_internet import LOOPBACK, dht_team

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from hyperdht import SecretStream
    from sidecar.catalogue.entry import SignedEntry
    from tests.journeys.inside import Node, Team

    Way = Callable[[Path, Path], AbstractAsyncContextManager[tuple[Team, Node, Node, "Dial"]]]
    Dial = Callable[[], Awaitable[SecretStream]]

pytestmark = IN_PROCESS

ZEROS = bytes(CHUNK_BYTES)
CHUNK_LIES = {
    "wrong chunks": Lies(chunk=ZEROS),
    "short chunks": Lies(short_by=1),
    "other chunks": Lies(index_shift=1),
    "chunks nobody asked for": Lies(unasked=20),
    "no answer": Lies(silent=True, refuse_table=True),
    "nothing of what it claims": Lies(deny=True),
}
TABLE_LIES = {
    "wrong table": Lies(table=bytes(1 << 16), chunk=ZEROS),
    "a larger blob": Lies(count=100_000),
    "a smaller blob": Lies(count=3),
}
FLOOD = MAX_ENTRIES_PER_PUBLISHER + 400
AT_ONCE = 10
"""Entries in a message of the flood."""


@asynccontextmanager
async def on_the_local_network(folder: Path, files: Path) -> AsyncIterator[tuple[Team, Node, Node, Dial]]:
    async with team(folder, files) as people:
        first = await people.join("first", upload_limit="8MiB")
        second = await people.join("second")
        yield people, first, second, lambda: dial(second.address)


@asynccontextmanager
async def on_the_internet(folder: Path, files: Path) -> AsyncIterator[tuple[Team, Node, Node, Dial]]:
    async with dht_team(folder, files) as (people, bootstrap, join):
        first = await join("first", upload_limit="8MiB")
        second = await join("second")
        async with HyperDHT(bootstrap=bootstrap, host=LOOPBACK, port=0) as node:
            yield people, first, second, lambda: node.connect(second.key, key_pair=KeyPair.generate())


async def flood_entries(member: Liar, honest: SignedEntry) -> None:
    """More entries than a publisher may have in a room, each honestly signed, faster than anybody may send."""
    key = KeyPair.generate()
    for first in range(0, FLOOD, AT_ONCE):
        names = [f"flood-{number}" for number in range(first, first + AT_ONCE)]
        made = [sign_entry(build_entry(replace(honest.entry, name=name)), key) for name in names]
        raw = tuple(RawStatement(each.kind, each.publisher, each.signature, each.raw) for each in made)
        member.raw(MessageType.ENTRIES, encode(Entries(raw)))
        await member.flush()


async def flood_offers(member: Liar, honest: SignedEntry) -> None:
    """Messages that cost an answer each, without a pause."""
    for number in range(5_000):
        offers = (Offer(number.to_bytes(16, "big"), held=True),)
        member.raw(MessageType.OFFERS, encode(Offers(EPOCH, number + 2, False, False, offers)))
        if number % 50 == 0:
            await member.flush()


async def forge(member: Liar, honest: SignedEntry) -> None:
    """What somebody else signed, changed."""
    changed = honest.raw.replace(b'"sql-lora"', b'"own-lora"')
    for signature in (honest.signature, bytes(64), honest.signature[::-1], honest.signature):
        raw = RawStatement(honest.kind, honest.publisher, signature, changed)
        member.raw(MessageType.ENTRIES, encode(Entries((raw,))))
    await member.flush()


@pytest.mark.parametrize("way", [on_the_local_network, on_the_internet], ids=["local network", "internet"])
async def test_t06_t18_t20_room_full_of_liars_and_one_honest_peer(tmp_path: Path, big_files: Path, way: Way) -> None:
    async with way(tmp_path, big_files) as (people, first, second, reach), AsyncExitStack() as stack:
        row = await people.publish(first)
        await second.row(row.name, sources=1)
        entry = second.parts.catalogue.resolve(row.ref)
        path = big_files / "adapter.gguf"
        _, hashes = await table_of(path)
        blob = await anyio.Path(path).read_bytes()

        async def enter(lies: Lies | None = None) -> Liar:
            stream = await reach()
            member = lying(stream, room_key(second), blob=blob, hashes=hashes, lies=lies)
            return await stack.enter_async_context(member)

        liars = {name: [await enter(lies) for _ in range(2)] for name, lies in (CHUNK_LIES | TABLE_LIES).items()}
        members = [each for pair in liars.values() for each in pair]
        for each in members:
            await each.offer(entry)
        await second.row(row.name, sources=1 + len(members))
        attackers = [(attack, await enter()) for attack in (flood_entries, flood_offers, forge)]
        transfer = await second.begin(row.ref)
        async with anyio.create_task_group() as noise:
            for attack, attacker in attackers:
                noise.start_soon(survive, attack, attacker, entry)
            ended = await second.ended(transfer)
            noise.cancel_scope.cancel()
        assert ended.state == "done", ended.error
        assert ended.result is not None
        assert ended.result.fetched_bytes == row.size

        network, metrics = second.parts.network, second.parts.metrics
        assert metrics.peers_banned._value.get() >= 2 * 3, "wrong and short chunks, wrong tables"
        assert metrics.chunks_rejected._value.get() >= 2 * 3
        for name in ("a larger blob", "a smaller blob"):
            assert not any(each.asked_for_chunks.is_set() for each in liars[name]), (
                "who lies about the size is asked for nothing"
            )
        assert first.key in network.connections
        await until(lambda: network.bad_input["entry"] >= 3)
        flooding = [each for each in await second.control.adapters() if each.name.startswith("flood-")]
        assert len(flooding) <= MAX_ENTRIES_PER_PUBLISHER


async def survive(attack: Callable[[Liar, SignedEntry], Awaitable[None]], member: Liar, entry: SignedEntry) -> None:
    """Until the other side has had enough of it."""
    try:
        await attack(member, entry)
    except (anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream):
        return
