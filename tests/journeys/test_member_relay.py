"""Members that cannot reach each other are carried by one that both reach; strangers are not.

On loopback there is no NAT. The nodes of this test take themselves for being behind random ones, and do not punch; everything
else is real. With real NATs: tests/natlab/test_member_relay.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from hyperdht import BlindRelay, HyperDHT, KeyPair, testnet
from hyperdht.errors import HyperDHTError
from sidecar.catalogue.rows import Way
from sidecar.identity import load_or_create_identity, relay_key_pair
from sidecar.rooms import member_relay
from tests.journeys.inside import IN_PROCESS, Node, Team, team, until

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from hyperdht.io.peer_stream import PeerStream

pytestmark = IN_PROCESS
REFUSED_S = 2.0
"""Who is let in is carried in a tenth of that; who is not gets no answer, and gives up later."""
BEHIND_NAT: dict[str, Any] = {"local_connection": False, "fast_open": False, "holepunch": lambda *_: False}


@dataclass
class RandomNats:
    """Who takes itself for being behind one."""

    keys: set[bytes] = field(default_factory=set)
    """Put them in before the sidecars start."""
    failed: set[tuple[bytes, bytes]] = field(default_factory=set)
    """Who could not reach whom."""
    relays: dict[bytes, BlindRelay] = field(default_factory=dict)
    """Those that run or ran, by the sidecar's key."""


@pytest.fixture
def nats(monkeypatch: pytest.MonkeyPatch) -> RandomNats:
    nats = RandomNats()
    keys = nats.keys

    class Node(HyperDHT):
        def __init__(self, *, key_pair: KeyPair, **options: Any) -> None:
            if key_pair.public_key in keys:
                options["firewalled"] = True
            super().__init__(key_pair=key_pair, **options)

        @property
        def randomized(self) -> bool:
            return self.key_pair.public_key in keys

        async def connect(self, public_key: bytes, **options: Any) -> PeerStream:
            own = self.key_pair.public_key
            try:
                return await super().connect(public_key, **options, **(BEHIND_NAT if {public_key, own} <= keys else {}))
            except HyperDHTError:
                nats.failed.add((own, public_key))
                raise

    class Relay(BlindRelay):
        def __init__(self, node: HyperDHT, **options: Any) -> None:
            super().__init__(node, **options)
            nats.relays[node.key_pair.public_key] = self

    monkeypatch.setattr("sidecar.rooms.internet.HyperDHT", Node)
    monkeypatch.setattr("sidecar.rooms.member_relay.BlindRelay", Relay)
    monkeypatch.setattr(member_relay, "LOOK_EVERY_S", 0.1)
    return nats


def members_of(node: Node) -> set[bytes]:
    return {key for key, connection in node.parts.network.connections.items() if connection.proved}


def relay_of(node: Node, member: Node) -> bytes | None:
    """The relay that a member told a node of."""
    said = node.parts.network.acquaintances.introductions.presence_of(member.key)
    return said.relay if said is not None else None


def identity_at(folder: Path) -> bytes:
    folder.mkdir(mode=0o700)
    return load_or_create_identity(folder).key_pair.public_key


async def three(members: Team, bootstrap: Sequence[str], nats: RandomNats, **of_middle: Any) -> list[Node]:
    """Two sidecars behind random NATs, both connected with one that is not."""
    settings: dict[str, Any] = {"no_dht": False, "bootstrap": tuple(bootstrap), "peers": ()}
    nats.keys |= {identity_at(members.folder / name) for name in ("left", "right")}
    middle = await members.join("middle", **settings, **of_middle)
    left, right = [await members.join(name, **settings) for name in ("left", "right")]
    for node in (left, right):
        await until(lambda node=node: middle.key in members_of(node))  # type: ignore[misc]
    return [left, middle, right]


async def test_a_member_that_both_reach_carries_two_that_cannot_reach_each_other(
    tmp_path: Path, files: Path, nats: RandomNats
) -> None:
    async with testnet(4) as bootstrap, team(tmp_path, files) as members:
        left, middle, right = await three(members, bootstrap, nats)
        await until(lambda: right.key in members_of(left), 30)
        await members.publish(left)
        (room_id,) = right.parts.network.rooms
        ways = {row.key: row.way for row in right.parts.network.acquaintances.members.of(room_id)}
        assert ways == {left.key: Way.RELAYED, middle.key: Way.DIRECT}
        assert nats.relays[middle.key].pairs
        done = await right.got("sql-lora")
        assert done.result is not None
        (from_middle,) = [each for key, each in right.parts.network.connections.items() if key == middle.key]
        assert not from_middle.received_bytes, "it passes on, and has nothing itself"


async def test_who_does_not_want_to_relay_does_not(tmp_path: Path, files: Path, nats: RandomNats) -> None:
    async with testnet(4) as bootstrap, team(tmp_path, files) as members:
        left, middle, right = await three(members, bootstrap, nats, no_relay=True)
        introductions = middle.parts.network.acquaintances.introductions
        await until(lambda: introductions.in_need == 2)
        await until(lambda: bool({(left.key, right.key), (right.key, left.key)} & nats.failed), 30)
        assert relay_of(left, middle) is None
        assert members_of(left) == members_of(right) == {middle.key}


async def test_t12_a_stranger_is_not_carried(tmp_path: Path, files: Path, nats: RandomNats) -> None:
    """It knows the relay's key and uses it as a member would; so do two members, who are carried."""
    async with testnet(4) as bootstrap, team(tmp_path, files) as members:
        left, middle, right = await three(members, bootstrap, nats)
        await until(lambda: right.key in members_of(left), 30)
        relay = relay_key_pair(middle.parts.identity.key_pair).public_key
        async with (
            HyperDHT(bootstrap=bootstrap, host="127.0.0.1", firewalled=True) as stranger,
            HyperDHT(bootstrap=bootstrap, host="127.0.0.1", firewalled=True) as other,
            other.listen(share_local_address=False, holepunch=lambda *_: False) as server,
        ):
            with anyio.move_on_after(REFUSED_S) as waited:
                await stranger.connect(server.public_key, relay_through=relay, **BEHIND_NAT)
            assert waited.cancelled_caught
        await until(lambda: members_of(left) == {middle.key, right.key})


async def test_when_the_one_that_relays_goes_another_takes_its_place(
    tmp_path: Path, files: Path, nats: RandomNats
) -> None:
    async with testnet(4) as bootstrap, team(tmp_path, files) as members:
        left, middle, right = await three(members, bootstrap, nats)
        await until(lambda: right.key in members_of(left), 30)
        assert nats.relays[middle.key].pairs
        spare = await members.join("spare", no_dht=False, bootstrap=tuple(bootstrap), peers=())
        await until(lambda: all(relay_of(node, spare) for node in (left, right)))
        await middle.control.leave_room("team")
        await until(lambda: bool(nats.relays[spare.key].pairs) and right.key in members_of(left), 60)
        await members.publish(left)
        await right.row("sql-lora", sources=1)
        await right.got("sql-lora")
