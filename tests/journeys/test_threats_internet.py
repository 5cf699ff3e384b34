"""Threats to rooms on the internet, each against whole sidecars that meet over a DHT; numbers as in the threat model."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import anyio
import pytest

from hyperdht import HyperDHT, Hyperswarm, KeyPair, SecretStream, testnet
from hyperdht.dht import records
from hyperdht.dht.noise_session import ClientHandshake
from hyperdht.errors import HyperDHTError
from hyperdht.io import node as dht_node
from hyperdht.protomux import Mux
from sidecar.rooms.key import GENERAL_TOPIC
from sidecar.rooms.messages import PROTOCOL, VERSION, OpenHandshake
from sidecar.rooms.network import MAX_UNPROVED
from tests.journeys.inside import IN_PROCESS, team, until
from tests.journeys.test_internet_rooms import connected
from tests.journeys.test_liars import room_key

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
    from pathlib import Path

    from hyperdht.dht.payloads import NoisePayload
    from sidecar.rooms.key import RoomKey
    from tests.journeys.inside import Node, Team

    Join = Callable[..., Awaitable[Node]]

pytestmark = IN_PROCESS

LOOPBACK = "127.0.0.1"
ELSEWHERE = "127.0.0.2"
ENDINGS = (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError)
STAYING = 60
FLOODERS = 4
FALSE_RECORDS = 160
KEPT, TOLD = 32, 2
"""Records of a topic that a node keeps and names here, instead of 512 and 20, so that so few are a flood."""
AT_HOME = "192.168.77.7"


@asynccontextmanager
async def swarm(bootstrap: Sequence[str], **options: Any) -> AsyncIterator[Hyperswarm]:
    """A stranger's own."""
    async with (
        HyperDHT(bootstrap=bootstrap, host=ELSEWHERE, port=0) as node,
        Hyperswarm(dht=node, close_timeout_s=0.5, **options) as made,
    ):
        yield made


@asynccontextmanager
async def dht_team(folder: Path, files: Path) -> AsyncIterator[tuple[Team, list[str], Join]]:
    """A team that meets over a DHT, and how to get into that DHT."""
    async with testnet(4) as bootstrap, team(folder, files) as members:

        async def join(name: str, *, bootstrap: Sequence[str] = tuple(bootstrap), **settings: Any) -> Node:
            """One that knows nobody's address."""
            options: dict[str, Any] = {"no_dht": False, "peers": ()} | settings
            return await members.join(name, bootstrap=tuple(bootstrap), **options)

        yield members, bootstrap, join


async def in_topic(bootstrap: Sequence[str], topic: bytes, key: bytes, *, there: bool = True) -> None:
    """Return when the DHT says that a key is in a topic, or that it is not."""
    async with HyperDHT(bootstrap=bootstrap, host=LOOPBACK, port=0) as node:

        async def as_wanted() -> bool:
            return (key in [peer.public_key async for peer in node.lookup(topic)]) is there

        await until(as_wanted)


# --- T12: in the topic without the code ------------------------------------------------------------------------------


async def forward(source: SecretStream, target: SecretStream, heard: bytearray) -> None:
    """Pass on what comes, as it comes."""
    try:
        while True:
            for message in await source.receive_many():
                heard += message
                await target.send(bytes(message))
    except ENDINGS:
        return


async def test_t12_man_in_the_middle_of_two_members_is_no_member(tmp_path: Path, files: Path) -> None:
    """It learnt the topic in the DHT, is dialled by one, dials the other, and passes on every message between them."""
    async with dht_team(tmp_path, files) as (people, bootstrap, join):
        first = await join("first")
        await people.publish(first)
        await in_topic(bootstrap, room_key(first).topic, first.key)
        middle = await people.exits.enter_async_context(swarm(bootstrap))
        assert await (await middle.join(room_key(first).topic, client=False)).flushed()
        second = await join("second")
        await second.row("sql-lora", sources=1)
        heard = bytearray()
        async with anyio.create_task_group() as tasks:
            left = await anext(middle.connections)
            assert left.remote_public_key == second.key
            node = cast("HyperDHT", middle.dht)
            right = await node.connect(first.key, key_pair=middle.key_pair)
            assert left.is_initiator is not right.is_initiator, "roles are those of a real connection"
            tasks.start_soon(forward, left, right, heard)
            tasks.start_soon(forward, right, left, heard)
            await until(lambda: len(heard) > 100)  # both opened their rooms
            await anyio.sleep(0.5)
            for member in (first, second):
                assert member.parts.network.connections[middle.key_pair.public_key].proved == []
            tasks.cancel_scope.cancel()
        for secret in (b"sql-lora", room_key(first).room_id, room_key(first).secret, room_key(first).topic):
            assert secret not in heard
        await second.got("sql-lora")


async def test_t12_member_that_hears_its_own_words_again_knows_them(tmp_path: Path, files: Path) -> None:
    """An echo names the right channel, with a proof for the other role. Three such, and the key is not talked to."""
    async with dht_team(tmp_path, files) as (_, bootstrap, join):
        first = await join("first")
        await in_topic(bootstrap, room_key(first).topic, first.key)
        bad_input, echo = first.parts.network.bad_input, KeyPair.generate()
        async with HyperDHT(bootstrap=bootstrap, host=LOOPBACK, port=0, key_pair=echo) as node:
            for tried in range(1, 4):
                stream = await node.connect(first.key)
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(forward, stream, stream, bytearray())
                    await until(lambda: bad_input["proof"] == tried)  # noqa: B023
                    tasks.cancel_scope.cancel()
                await stream.aclose()
                await until(lambda: echo.public_key not in first.parts.network.connections)
            await refused(await node.connect(first.key))


async def refused(stream: SecretStream) -> None:
    """The other side closes at once, without a word."""
    with anyio.fail_after(10), pytest.raises(ENDINGS):
        await stream.receive()
    await stream.aclose()


# --- T13: a member gone bad --------------------------------------------------------------------------------------------


async def test_t13_blocked_member_stays_outside_whoever_dials(tmp_path: Path, files: Path) -> None:
    async with dht_team(tmp_path, files) as (people, bootstrap, join):
        first, bad = await join("first"), await join("bad")
        row = await people.publish(bad)
        await first.row(row.name, sources=1)
        await first.control.block(bad.key.hex())
        await until(lambda: bad.key not in first.parts.network.connections)
        assert await first.control.adapters() == ()
        identity = bad.parts.identity.key_pair
        async with HyperDHT(bootstrap=bootstrap, host=LOOPBACK, port=0) as node:
            await refused(await node.connect(first.key, key_pair=identity))
        other = await join("other")  # the code is still good for everybody else
        await other.row(row.name, sources=1)
        await until(lambda: other.key in first.parts.network.connections)
        assert await first.control.adapters() == (), "what the blocked one made is not taken from others either"


async def test_t13_rotated_room_is_elsewhere_in_the_dht_and_the_old_proof_is_worth_nothing(
    tmp_path: Path, files: Path
) -> None:
    async with dht_team(tmp_path, files) as (people, bootstrap, join):
        first, second = await join("first"), await join("second")
        row = await people.publish(first)
        await second.row(row.name, sources=1)
        old = room_key(first)
        rotated = await first.control.rotate_room("team")
        await in_topic(bootstrap, room_key(first).topic, first.key)
        await in_topic(bootstrap, old.topic, first.key, there=False)
        async with HyperDHT(bootstrap=bootstrap, host=LOOPBACK, port=0) as node:
            # Who remembers its key reaches it, and is a stranger.
            stream = await node.connect(first.key)
            await stream.send_many(opening(old, stream))
            await until(lambda: node.key_pair.public_key in first.parts.network.connections)
            await anyio.sleep(0.3)
            assert first.parts.network.connections[node.key_pair.public_key].proved == []
            await stream.aclose()
        assert first.parts.network.links(bytes.fromhex(rotated.id)) == []
        await second.control.leave_room("team")
        assert rotated.code is not None
        await second.control.join_room(rotated.code, label="team", consent=False)
        await second.row(row.name, sources=1)
        await second.got(row.ref)


def opening(key: RoomKey, stream: SecretStream) -> list[Any]:
    """What a member of a room says first on a connection."""
    mux = Mux()
    channel = mux.create_channel(PROTOCOL, key.channel_id(stream.handshake_hash))
    assert channel is not None
    proof = key.proof(
        is_initiator=stream.is_initiator,
        handshake_hash=stream.handshake_hash,
        public_key=stream.public_key,
        remote_public_key=stream.remote_public_key,
    )
    channel.open(OpenHandshake(VERSION, proof).encode())
    return mux.messages_to_send()


# --- T17: a DHT full of lies -------------------------------------------------------------------------------------------


@asynccontextmanager
async def flooded(bootstrap: Sequence[str], topic: bytes) -> AsyncIterator[None]:
    """Four nodes of one /24 say of as many keys as a topic holds, and more, that they are in it. Nobody answers for these."""
    async with AsyncExitStack() as stack:
        for number in range(FLOODERS):
            host = f"127.66.0.{number + 1}"
            node = await stack.enter_async_context(HyperDHT(bootstrap=bootstrap, host=host, port=0))
            async with anyio.create_task_group() as tasks:
                for _ in range(FALSE_RECORDS // FLOODERS):
                    tasks.start_soon(partial(node.announce, topic, key_pair=KeyPair.generate(), clear=False))
        assert len([peer async for peer in node.lookup(topic)]) > TOLD, "that is a flood"
        yield


@pytest.mark.parametrize("is_first", [True, False], ids=["flooded before", "flooded after"])
async def test_t17_flooded_topic_still_shows_an_honest_member(
    tmp_path: Path, files: Path, is_first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without shares for subnets its record would be the first to go, or one of many of which few are named."""
    monkeypatch.setattr(records, "MAX_RECORDS_PER_TOPIC", KEPT)
    monkeypatch.setattr(records, "RECORDS_PER_REPLY", TOLD)
    async with dht_team(tmp_path, files) as (people, bootstrap, join):
        people.room = await (await join("maker", join=False)).control.create_room("team")
        (maker,) = people.nodes
        topic = room_key(maker).topic
        await maker.control.leave_room("team")  # so that nobody but the two is there
        if is_first:
            await people.exits.enter_async_context(flooded(bootstrap, topic))
        first = await join("first")
        row = await people.publish(first)
        if not is_first:
            await in_topic(bootstrap, topic, first.key)
            await people.exits.enter_async_context(flooded(bootstrap, topic))
        second = await join("second")
        await second.row(row.name, sources=1)
        await second.got(row.ref)


async def test_t17_member_whose_whole_dht_lies_finds_others_on_the_local_network(tmp_path: Path, files: Path) -> None:
    """Every node it knows is the attacker's: they take its announce and name invented members only."""
    async with testnet(4) as liars, dht_team(tmp_path, files) as (people, _, join):
        first = await join("first")
        row = await people.publish(first)
        await people.exits.enter_async_context(flooded(liars, room_key(first).topic))
        eclipsed = await join("second", bootstrap=liars)
        await in_topic(liars, room_key(first).topic, eclipsed.key)
        await anyio.sleep(0.5)
        assert connected(eclipsed) == 0
        third = await join("third", bootstrap=liars, peers=(first.address,))
        await third.row(row.name, sources=1)
        await third.got(row.ref)


# --- T18: strangers who stay -------------------------------------------------------------------------------------------


async def test_t18_strangers_who_stay_and_say_nothing_keep_no_member_out(tmp_path: Path, files: Path) -> None:
    """More of them than a daemon has peers, from a few machines, and all at once."""
    async with dht_team(tmp_path, files) as (people, bootstrap, join):
        first = await join("first", max_peers=40)
        row = await people.publish(first)
        await in_topic(bootstrap, room_key(first).topic, first.key)
        connections = first.parts.network.connections
        await people.exits.enter_async_context(staying(bootstrap, first.key))
        await until(lambda: len(connections) >= MAX_UNPROVED)
        second = await join("second")
        await second.row(row.name, sources=1)
        await second.got(row.ref)
        assert len(connections) <= MAX_UNPROVED + 1


@asynccontextmanager
async def staying(bootstrap: Sequence[str], key: bytes) -> AsyncIterator[None]:
    """Strangers at a few machines, connected with somebody."""
    async with AsyncExitStack() as stack:
        machines = []
        for number in range(4):
            node = HyperDHT(bootstrap=bootstrap, host=f"127.66.1.{number + 1}", port=0)
            machines.append(await stack.enter_async_context(node))
        async with anyio.create_task_group() as tasks:
            for number in range(STAYING):
                tasks.start_soon(stay, machines[number % len(machines)], key)
            yield
            tasks.cancel_scope.cancel()


async def stay(node: HyperDHT, key: bytes) -> None:
    """Connect under a new key as often as one is thrown out, and say nothing."""
    while True:
        with suppress(HyperDHTError, *ENDINGS):
            stream = await node.connect(key, key_pair=KeyPair.generate())
            while True:
                await stream.receive()
        await anyio.sleep(0.3)  # all of this runs on one processor, beside those it floods


# --- T21: what strangers in a public topic learn ------------------------------------------------------------------------


Said = list[tuple[bytes, "NoisePayload"]]
"""To whom, by key, and what."""


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> Said:
    """What everybody of this process says of itself in handshakes. Sidecars are in a network of their own at home."""
    payloads: Said = []
    begin, read_answer = ClientHandshake.__init__, ClientHandshake.read_answer

    def beginning(self: ClientHandshake, key_pair: KeyPair, public_key: bytes, payload: NoisePayload) -> None:
        payloads.append((public_key, payload))
        clients[self] = key_pair.public_key
        begin(self, key_pair, public_key, payload)

    def reading(self: ClientHandshake, noise: bytes) -> Any:
        answer = read_answer(self, noise)
        payloads.append((clients[self], answer[0]))
        return answer

    clients: dict[ClientHandshake, bytes] = {}
    monkeypatch.setattr(ClientHandshake, "__init__", beginning)
    monkeypatch.setattr(ClientHandshake, "read_answer", reading)
    monkeypatch.setattr(dht_node, "local_hosts", lambda host: (AT_HOME if host == LOOPBACK else host,))
    return payloads


def hosts_told(said: Said, *listeners: bytes) -> set[str]:
    return {address.host for listener, payload in said if listener in listeners for address in payload.addresses4}


async def test_t21_members_of_a_private_room_may_know_where_we_are_at_home_and_strangers_never(
    tmp_path: Path, files: Path, said: Said
) -> None:
    """Behind one router without multicast, members of a private room need it. In the general room anybody asks."""
    async with dht_team(tmp_path, files) as (people, bootstrap, join):
        first, second = await join("first"), await join("second")
        await until(lambda: connected(first) == 1)
        assert AT_HOME in hosts_told(said, first.key, second.key)
        async with swarm(bootstrap) as listening, swarm(bootstrap) as dialling:
            session = await listening.join(GENERAL_TOPIC, client=False)
            assert await session.flushed()
            for node in people.nodes:
                await node.control.join_room("general", label=None, consent=True)
            await until(lambda: len(listening.connections) == 2)  # both came to it
            await dialling.join(GENERAL_TOPIC, server=False)
            await until(lambda: len(dialling.connections) == 3)  # and it to all
            strangers = [each.key_pair.public_key for each in (listening, dialling)]
        assert hosts_told(said, *strangers) <= {LOOPBACK, ELSEWHERE}
