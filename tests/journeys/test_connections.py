"""Why peers do not meet, said by the sidecar that waits for them, over a real DHT on loopback."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

import anyio

from hyperdht import Hyperswarm, testnet
from hyperdht.io.node import HyperDHT
from sidecar.daemon import connections, explain
from sidecar.daemon.connection_gauges import ConnectionGauges
from sidecar.diagnosis import ClockFacts
from tests.journeys.inside import IN_PROCESS, team, until
from tests.journeys.test_internet_rooms import connected, over_dht

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from sidecar.control_types import Diagnosis
    from tests.journeys.inside import Node

pytestmark = IN_PROCESS
LOOPBACK = "127.0.0.1"

ANNOUNCED = """
import sys, anyio
from hyperdht import HyperDHT, Hyperswarm

async def main():
    async with HyperDHT(bootstrap=[sys.argv[1]], host="127.0.0.1", port=0) as dht, Hyperswarm(dht=dht) as swarm:
        session = await swarm.join(bytes.fromhex(sys.argv[2]), client=False)
        assert await session.flushed()
        print(swarm.key_pair.public_key.hex(), flush=True)
        await anyio.sleep_forever()

anyio.run(main)
"""


def kinds(diagnosis: Diagnosis) -> list[str]:
    return [each.kind for each in diagnosis.findings]


def topic_of(node: Node) -> bytes:
    return next(iter(node.parts.network.rooms.values())).key.topic


async def until_found(node: Node, kind: str) -> Diagnosis:
    """The diagnosis of the team's room as soon as it says so."""
    found: list[Diagnosis] = []

    async def says() -> bool:
        found.append(await node.control.diagnose_room("team"))
        return kind in kinds(found[-1])

    await until(says)
    return found[-1]


async def killed_after_announcing(bootstrap: str, topic: bytes) -> bytes:
    """The key of a peer that was announced in a topic when its process was killed."""
    command = [sys.executable, "-c", ANNOUNCED, bootstrap, topic.hex()]
    async with await anyio.open_process(command, stderr=None) as process:
        assert process.stdout is not None
        with anyio.fail_after(15):
            key = bytes.fromhex((await process.stdout.receive()).decode().strip())
        process.kill()
    return key


async def test_nobody_else_is_announced(tmp_path: Path, files: Path) -> None:
    async with over_dht(tmp_path, files) as (_, join):
        alone = await join("alone")
        found = await until_found(alone, "nobody-announced")
        assert not found.reached
        assert "dht-silent" not in kinds(found)
        status = await alone.control.status()
        assert status.connections.online
        assert status.connections.roads == {}


async def test_a_peer_that_was_killed_leaves_a_stale_announce(tmp_path: Path, files: Path) -> None:
    async with testnet(4) as bootstrap, team(tmp_path, files) as members:
        node = await members.join("left", no_dht=False, bootstrap=tuple(bootstrap), peers=(), join=False)
        await members.enter(node)
        gone = await killed_after_announcing(bootstrap[0], topic_of(node))
        look_again(node)
        await until(lambda: gone in facts_of(node).known_keys())
        of_peer = await node.control.diagnose_peer(gone.hex()[:16], dial=True)
        assert (of_peer.subject, kinds(of_peer)[0]) == (gone.hex(), "stale-announce")
        assert of_peer.dial is not None
        assert (of_peer.dial.ok, of_peer.dial.kind in ("silent", "not-found")) == (False, True)
        assert "stale-announce" in kinds(await node.control.diagnose_room("team"))
        status = await node.control.status()
        assert sum(status.connections.dials_failed.values()) >= 1


def look_again(node: Node) -> None:
    """Look up the topics now, not in ten minutes."""
    swarm = facts_of(node).internet.swarm
    assert swarm is not None
    swarm.machine.network_changed(swarm.now())
    swarm.pump()


def facts_of(node: Node) -> connections.ConnectionFacts:
    explainer = node.control._connections
    assert isinstance(explainer, explain.Explainer)
    return explainer._facts


async def test_who_knows_the_topic_and_not_the_code_proves_nothing(
    tmp_path: Path, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "PROOF_EXPECTED_S", 0.1)
    async with testnet(4) as bootstrap, team(tmp_path, files) as members:
        node = await members.join("left", no_dht=False, bootstrap=tuple(bootstrap), peers=(), join=False)
        await members.enter(node)
        async with (
            HyperDHT(bootstrap=bootstrap, host=LOOPBACK, port=0) as dht,
            Hyperswarm(dht=dht) as stranger,
        ):
            await stranger.join(topic_of(node))
            await until(lambda: connected(node) == 1)
            look_again(node)
            await until_found(node, "nobody-proved")
            found = await node.control.diagnose_peer(stranger.key_pair.public_key.hex(), dial=True)
            assert (kinds(found)[0], found.reached, found.dial) == ("nobody-proved", False, None)
            assert (await node.control.status()).connections.unproved == 1


async def test_no_node_of_the_dht_answers(tmp_path: Path, files: Path) -> None:
    async with (
        await anyio.create_udp_socket(local_host=LOOPBACK, local_port=0) as silent,
        team(tmp_path, files) as members,
    ):
        port = silent.extra(anyio.abc.SocketAttribute.local_port)
        node = await members.join("alone", no_dht=False, bootstrap=(f"{LOOPBACK}:{port}",))
        found = await until_found(node, "dht-silent")
        assert found.findings[0].level == "fail"
        assert "--bootstrap" in found.findings[0].next
        assert not (await node.control.status()).connections.online


async def test_a_blocked_peer_is_named_on_one_side_and_suspected_on_the_other(tmp_path: Path, files: Path) -> None:
    async with over_dht(tmp_path, files) as (_, join):
        left, right = await join("left"), await join("right")
        await until(lambda: connected(left) == connected(right) == 1)
        well = await left.control.diagnose_peer(right.key.hex(), dial=True)
        assert (kinds(well), well.reached, well.dial) == (["connected"], True, None)
        await left.control.block(right.key.hex())
        await until(lambda: connected(right) == 0)
        ours = await left.control.diagnose_peer(right.key.hex(), dial=True)
        assert (kinds(ours)[0], ours.findings[0].level, ours.dial) == ("blocked", "fail", None)
        await until(lambda: left.parts.network.meetings.refused["blocked"] > 0)
        theirs = await right.control.diagnose_peer(left.key.hex(), dial=False)
        assert not theirs.reached
        assert set(kinds(theirs)) & {"left-without-proof", "lost"}


async def test_a_dial_that_is_asked_for_finds_a_peer_in_no_room_of_ours(
    tmp_path: Path, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(explain, "PROOF_TIMEOUT_S", 0.1)
    async with testnet(4) as bootstrap, team(tmp_path, files) as members:
        node = await members.join("left", no_dht=False, bootstrap=tuple(bootstrap), peers=(), join=False)
        await members.enter(node)
        async with HyperDHT(bootstrap=bootstrap, host=LOOPBACK, port=0) as dht, dht.listen() as server:
            found = await node.control.diagnose_peer(server.public_key.hex(), dial=True)
            assert found.dial is not None
            assert (found.dial.ok, found.dial.road, found.reached) == (True, "direct", False)


async def test_a_dial_whose_turn_does_not_come_ends(
    tmp_path: Path, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(self: Hyperswarm, public_key: bytes) -> None:
        await anyio.sleep_forever()

    monkeypatch.setattr(explain, "TRY_TIMEOUT_S", 0.05)
    monkeypatch.setattr(Hyperswarm, "try_peer", never)
    async with over_dht(tmp_path, files) as (_, join):
        node = await join("alone")
        await until_found(node, "nobody-announced")
        found = await node.control.diagnose_peer("ab" * 32, dial=True)
        assert found.dial is not None
        assert (found.dial.ok, found.dial.kind, kinds(found)[0]) == (False, "", "unknown-peer")


async def test_status_and_metrics_count_by_road_and_kind_and_name_nobody(tmp_path: Path, files: Path) -> None:
    """T21: a scrape must not tell who is in which room."""
    async with over_dht(tmp_path, files) as (_, join):
        left, right = await join("left"), await join("right")
        await until(lambda: connected(left) == connected(right) == 1)
        room = (await left.control.rooms())[0]
        assert (room.lan, room.direct, room.relayed) == (0, 1, 0)
        assert (await left.control.peers())[0].road == "direct"
        facts = facts_of(left)
        assert facts.machine().dht.works
        ConnectionGauges(left.parts, facts).update()
        scraped = left.parts.metrics.render().decode()
        assert 'ollaswarm_connections{road="direct"} 1.0' in scraped
        assert "ollaswarm_dht_online 1.0" in scraped
        for secret in (right.key.hex(), left.key.hex(), room.id, room.label, right.key.hex()[:12]):
            assert secret not in scraped


async def test_a_clock_that_is_behind_shows_in_what_others_publish(tmp_path: Path, files: Path) -> None:
    async with team(tmp_path, files) as members:
        left, right = await members.join("left"), await members.join("right")
        await members.publish(left)
        await right.row("sql-lora")
        behind = [0.0]
        told = facts_of(right)
        facts = connections.ConnectionFacts(
            right.parts, told._local_network, told.internet, wall_clock=lambda: time.time() - behind[0]
        )
        assert facts.machine().clock == ClockFacts()
        behind[0] = 7200.0
        clock = facts.machine().clock
        assert clock.publishers_ahead == 1
        assert 7000 < clock.ahead_s <= 7200
        assert 7100 < clock.set_back_s < 7300
        assert told.machine().clock == ClockFacts()
