"""Hyperswarm over a network in memory: real connections and tasks, and whether nothing is left behind."""

import contextlib
import gc
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from hyperdht import KeyPair, LocalProtocolError, SecretStream
from hyperdht.addresses import Address
from hyperdht.io.peer_stream import PeerStream
from hyperdht.io.signals import stop_on_signals
from hyperdht.io.swarm import Hyperswarm
from hyperdht.swarm import Limits, PeerBanned, Updated

from .fake_network import NODE, NOT_PUNCHED, FakeNetwork, FakeNode

pytestmark = pytest.mark.anyio

TOPIC = bytes([7]) * 32
OTHER_TOPIC = bytes([8]) * 32


@pytest.fixture
def network() -> FakeNetwork:
    return FakeNetwork()


@asynccontextmanager
async def swarm_on(network: FakeNetwork, **options: Any) -> AsyncIterator[Hyperswarm]:
    async with FakeNode(network) as node, Hyperswarm(dht=node, **options) as swarm:
        yield swarm


async def next_of(swarm: Hyperswarm) -> PeerStream:
    with anyio.fail_after(10):
        return await swarm.connections.__anext__()


async def until(swarm: Hyperswarm, connections: int) -> None:
    with anyio.fail_after(10):
        await swarm.until(lambda: len(swarm.connections) == connections)


def ordered_pairs(first_is_greater: bool) -> tuple[KeyPair, KeyPair]:
    pairs = sorted((KeyPair.generate(), KeyPair.generate()), key=lambda pair: pair.public_key)
    return (pairs[1], pairs[0]) if first_is_greater else (pairs[0], pairs[1])


async def test_peers_of_a_topic_find_each_other(network: FakeNetwork) -> None:
    async with swarm_on(network) as server, swarm_on(network) as client:
        session = await server.join(TOPIC, client=False)
        assert await session.flushed()
        await client.join(TOPIC, server=False)
        outgoing, incoming = await next_of(client), await next_of(server)
        assert isinstance(outgoing, SecretStream)
        assert outgoing.is_initiator
        assert not incoming.is_initiator
        assert outgoing.remote_public_key == server.key_pair.public_key
        assert outgoing.handshake_hash == incoming.handshake_hash
        assert outgoing.topics == {TOPIC}
        assert incoming.topics == frozenset(), "the side that did not look does not know"
        assert outgoing.peer_info.client
        assert outgoing.peer_info.relay_addresses == (NODE,)
        await outgoing.send(b"hello")
        assert await incoming.receive() == b"hello"


@pytest.mark.parametrize("first_is_greater", [True, False])
async def test_both_join_at_once_and_keep_one_connection(network: FakeNetwork, first_is_greater: bool) -> None:
    pairs = ordered_pairs(first_is_greater)
    async with swarm_on(network, key_pair=pairs[0]) as first, swarm_on(network, key_pair=pairs[1]) as second:
        for swarm in (first, second):
            await (await swarm.join(OTHER_TOPIC, client=False)).flushed()
        network.records[TOPIC] = {pair.public_key: (NODE,) for pair in pairs}
        network.dials_held = anyio.Event()
        for swarm in (first, second):
            await swarm.join(TOPIC, server=False)
        with anyio.fail_after(10):
            await first.until(lambda: first.connecting == 1)
            await second.until(lambda: second.connecting == 1)
        network.dials_held.set()

        def agreed() -> bool:
            hashes = [[stream.handshake_hash for stream in swarm.connections.open] for swarm in (first, second)]
            return len(hashes[0]) == 1 and hashes[0] == hashes[1]

        with anyio.fail_after(10):
            await first.until(agreed)
            await second.until(agreed)
        streams = [await next_of(first), await next_of(second)]
        assert [stream.is_initiator for stream in streams] == [first_is_greater, not first_is_greater]
        await streams[0].send(b"one")
        assert await streams[1].receive() == b"one"
        assert len(first.connections) == len(second.connections) == 1


async def test_a_stale_connection_makes_room(network: FakeNetwork) -> None:
    """The client vanishes without a word and comes back; the server's key is the greater one, so only staleness decides."""
    server_keys, client_keys = ordered_pairs(True)
    async with swarm_on(network, key_pair=server_keys) as server, FakeNode(network) as node:
        await (await server.join(TOPIC)).flushed()

        async def connect() -> PeerStream:
            return await node.connect(
                server_keys.public_key, key_pair=client_keys, relay_addresses=(), relay_through=None
            )

        old = await connect()
        held = await next_of(server)
        await old.send(b"still here")
        await held.receive()
        duplicate = await connect()
        with pytest.raises(anyio.BrokenResourceError):
            await duplicate.receive()  # messages one way prove nothing, and the greater key's dial would win
        await anyio.wait_all_tasks_blocked()
        assert held.talked(), "by the keep-alive that made it prove itself"
        new = await connect()
        assert (await next_of(server)).handshake_hash == new.handshake_hash
        with pytest.raises(anyio.ClosedResourceError):
            await held.receive()
        assert len(server.connections) == 1
        await new.aclose()


async def test_leaving_takes_the_announce_back_and_keeps_connections(network: FakeNetwork) -> None:
    async with swarm_on(network) as server, swarm_on(network) as client:
        session = await server.join(TOPIC)
        await session.flushed()
        await client.join(TOPIC, server=False)
        outgoing, incoming = await next_of(client), await next_of(server)
        await server.leave(TOPIC)
        assert network.records[TOPIC] == {}
        assert network.called("unannounce") == [(TOPIC, server.key_pair.public_key, (NODE,), True)]
        assert session.left
        assert not await session.flushed()
        assert server.status(TOPIC) is None
        await session.leave()
        await outgoing.send(b"still there")
        assert await incoming.receive() == b"still there"
        assert network.servers, "still listening"


async def test_the_last_session_leaves_the_topic(network: FakeNetwork) -> None:
    async with swarm_on(network) as swarm:
        first = await swarm.join(TOPIC, client=False)
        async with await swarm.join(TOPIC, client=False) as second:
            await second.flushed()
            status = swarm.status(TOPIC)
            assert status is not None
            assert (status.is_server, status.is_client, status.sessions, status.refreshing) == (True, False, 2, False)
            assert status.succeeded
        assert swarm.topics == (TOPIC,)
        assert network.records[TOPIC]
        await first.aclose()
        assert not swarm.topics
        assert not network.records[TOPIC]


async def test_a_session_may_stop_announcing(network: FakeNetwork) -> None:
    async with swarm_on(network) as swarm:
        session = await swarm.join(TOPIC)
        await session.flushed()
        assert await session.refresh(server=False)
        assert not network.records[TOPIC]
        assert network.called("unannounce") == [(TOPIC, swarm.key_pair.public_key, (NODE,), False)]
        with pytest.raises(LocalProtocolError):
            await session.refresh(client=False)


async def test_joining_again_while_leaving_ends_announced(network: FakeNetwork) -> None:
    async with swarm_on(network) as swarm, anyio.create_task_group() as tasks:
        await (await swarm.join(TOPIC)).flushed()
        tasks.start_soon(swarm.leave, TOPIC)
        await anyio.lowlevel.checkpoint()
        session = await swarm.join(TOPIC)
        assert await session.flushed()
        assert swarm.key_pair.public_key in network.records[TOPIC]


async def test_the_end_of_a_swarm_takes_everything_back(network: FakeNetwork) -> None:
    async with swarm_on(network) as server:
        await (await server.join(TOPIC)).flushed()
        async with swarm_on(network) as client:
            await (await client.join(TOPIC)).flushed()
            held = await next_of(server)
            outgoing = await next_of(client)
        with pytest.raises(anyio.BrokenResourceError):
            await held.receive()
        with pytest.raises(anyio.ClosedResourceError):
            await outgoing.receive()
        assert list(network.records[TOPIC]) == [server.key_pair.public_key]
        assert list(network.servers) == [server.key_pair.public_key]
        with pytest.raises(StopAsyncIteration):
            await client.connections.__anext__()
        with pytest.raises(LocalProtocolError):
            await client.join(TOPIC)
        assert not await client.flush()
        await client.destroy()


async def test_cancelled_it_still_says_goodbye(network: FakeNetwork) -> None:
    with anyio.CancelScope() as scope:
        async with FakeNode(network) as node, Hyperswarm(dht=node) as swarm:
            await (await swarm.join(TOPIC)).flushed()
            scope.cancel()
            await anyio.sleep_forever()
    assert scope.cancelled_caught
    assert not network.records[TOPIC]
    assert network.called("stopped listening")


async def test_the_goodbye_has_a_deadline(network: FakeNetwork) -> None:
    async with FakeNode(network) as node, Hyperswarm(dht=node, close_timeout_s=0.05) as swarm:
        await (await swarm.join(TOPIC)).flushed()
        network.hang = True
        started = anyio.current_time()
        await swarm.destroy()
        assert anyio.current_time() - started < 3.0
        network.hang = False


async def test_forced_it_says_nothing(network: FakeNetwork) -> None:
    async with swarm_on(network) as swarm:
        await (await swarm.join(TOPIC)).flushed()
        await swarm.destroy(force=True)
        assert network.records[TOPIC]


async def test_errors_of_the_block_come_out_as_they_are(network: FakeNetwork) -> None:
    async def program() -> None:
        async with swarm_on(network) as swarm:
            await swarm.join(TOPIC)
            raise ValueError("of the program")

    with pytest.raises(ValueError, match="of the program"):
        await program()
    assert not network.records[TOPIC]


async def test_a_bug_inside_ends_the_block(network: FakeNetwork) -> None:
    network.failures[bytes(32)] = ZeroDivisionError("a bug")

    async def program() -> None:
        async with swarm_on(network) as swarm:
            swarm.join_peer(bytes(32))
            await anyio.sleep_forever()

    with pytest.raises(ExceptionGroup) as caught:
        await program()
    assert caught.group_contains(ZeroDivisionError)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM to catch")
async def test_sigterm_takes_everything_back(network: FakeNetwork) -> None:
    with anyio.fail_after(10):
        async with stop_on_signals(), swarm_on(network) as swarm:
            await (await swarm.join(TOPIC)).flushed()
            signal.raise_signal(signal.SIGTERM)
            await anyio.sleep_forever()
    assert not network.records[TOPIC]
    assert not network.servers


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM to catch")
async def test_waiting_for_signals_changes_nothing_else() -> None:
    async with stop_on_signals(signal.SIGUSR1):
        pass
    with pytest.raises(ValueError, match="own"):
        async with stop_on_signals():
            raise ValueError("own")


async def test_a_lost_connection_comes_back(network: FakeNetwork) -> None:
    async with swarm_on(network) as server, swarm_on(network) as client:
        await (await server.join(TOPIC)).flushed()
        await client.join(TOPIC, server=False)
        await (await next_of(client)).aclose()
        again = await next_of(client)
        assert again.peer_info.attempts == 1
        assert len(client.connections) == 1


async def test_connections_that_the_peer_closes_are_noticed_unread(network: FakeNetwork) -> None:
    async with swarm_on(network) as server, swarm_on(network) as client:
        await (await server.join(TOPIC)).flushed()
        await client.join(TOPIC, server=False)
        incoming = await next_of(server)
        await until(client, 1)
        await anyio.aclose_forcefully(incoming)
        await until(client, 0)
        assert client.connections.open == ()


async def test_waiting_connections_that_end_are_not_handed_over(network: FakeNetwork) -> None:
    async with swarm_on(network) as server, FakeNode(network) as node:
        await (await server.join(TOPIC)).flushed()
        streams = [
            await node.connect(
                server.key_pair.public_key, key_pair=KeyPair.generate(), relay_addresses=(), relay_through=None
            )
            for _ in range(2)
        ]
        await until(server, 2)
        await anyio.aclose_forcefully(streams[0])
        await until(server, 1)
        assert (await next_of(server)).handshake_hash == streams[1].handshake_hash
        await streams[1].aclose()


async def test_t18_a_program_that_takes_nothing_holds_so_many_and_an_honest_peer_gets_in_later(
    network: FakeNetwork,
) -> None:
    async with swarm_on(network, limits=Limits(max_waiting=3)) as server, FakeNode(network) as node:
        await (await server.join(TOPIC)).flushed()

        async def flood() -> None:
            with contextlib.suppress(Exception):
                await node.connect(
                    server.key_pair.public_key, key_pair=KeyPair.generate(), relay_addresses=(), relay_through=None
                )

        async with anyio.create_task_group() as tasks:
            for _ in range(50):
                tasks.start_soon(flood)
        await until(server, 3)
        for _ in range(3):
            await (await next_of(server)).aclose()
        honest = KeyPair.generate()
        stream = await node.connect(server.key_pair.public_key, key_pair=honest, relay_addresses=(), relay_through=None)
        assert (await next_of(server)).remote_public_key == honest.public_key
        await stream.aclose()
        gc.collect()


async def test_each_connection_goes_to_one_taker(network: FakeNetwork) -> None:
    async with swarm_on(network) as server, FakeNode(network) as node:
        await (await server.join(TOPIC)).flushed()
        taken: list[bytes] = []

        async def take() -> None:
            async for stream in server.connections:
                taken.append(stream.handshake_hash)
                await stream.aclose()

        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(take)
            for _ in range(9):
                await node.connect(
                    server.key_pair.public_key, key_pair=KeyPair.generate(), relay_addresses=(), relay_through=None
                )
            with anyio.fail_after(10):
                await server.until(lambda: len(taken) == 9)
            tasks.cancel_scope.cancel()
        assert len(set(taken)) == 9


async def test_the_firewall_sees_both_ways_and_bans(network: FakeNetwork) -> None:
    asked: list[tuple[bytes, bool]] = []
    banned: set[bytes] = set()

    def firewall(public_key: bytes, payload: object) -> bool:
        asked.append((public_key, payload is None))
        return public_key in banned

    async with (
        swarm_on(network, firewall=firewall) as server,
        swarm_on(network) as friend,
        swarm_on(network) as enemy,
    ):
        banned.add(enemy.key_pair.public_key)
        with server.events() as events:
            await (await enemy.join(TOPIC, client=False)).flushed()
            await (await server.join(TOPIC)).flushed()
            await friend.join(TOPIC, server=False)
            assert (await next_of(server)).remote_public_key == friend.key_pair.public_key
            async for event in events:
                if isinstance(event, PeerBanned):
                    assert event.peer.public_key == enemy.key_pair.public_key
                    break
        assert asked == [(enemy.key_pair.public_key, True), (friend.key_pair.public_key, False)]
        await enemy.join(OTHER_TOPIC, server=False)
        enemy.join_peer(server.key_pair.public_key)
        assert await enemy.flush()
        remotes = {stream.remote_public_key for stream in enemy.connections.open}
        assert server.key_pair.public_key not in remotes
        assert len(asked) == 2


async def test_a_firewall_that_fails_refuses(network: FakeNetwork, caplog: pytest.LogCaptureFixture) -> None:
    def firewall(public_key: bytes, payload: object) -> bool:
        raise ZeroDivisionError("a bug of the program")

    async with swarm_on(network, firewall=firewall) as server, swarm_on(network) as client:
        await (await server.join(TOPIC)).flushed()
        await (await client.join(TOPIC, server=False)).flushed()
        assert await client.flush()
        assert len(server.connections) == 0
    assert "a bug of the program" in caplog.text


async def test_ban_ends_the_connection(network: FakeNetwork) -> None:
    async with swarm_on(network) as server, swarm_on(network) as client:
        await (await server.join(TOPIC)).flushed()
        await client.join(TOPIC, server=False)
        await next_of(client)
        server.ban(client.key_pair.public_key)
        await until(server, 0)
        await until(client, 0)


async def test_a_dial_that_is_unwanted_before_it_starts_never_does(network: FakeNetwork) -> None:
    target = KeyPair.generate().public_key
    async with swarm_on(network) as swarm:
        swarm.join_peer(target)
        swarm.ban(target)
        with anyio.fail_after(10):
            await swarm.until(lambda: swarm.connecting == 0)
        assert network.called("connect") == []


async def test_a_dial_that_is_unwanted_ends_at_once(network: FakeNetwork) -> None:
    network.dials_held = anyio.Event()
    target = KeyPair.generate().public_key
    async with swarm_on(network) as swarm:
        swarm.join_peer(target)
        await anyio.wait_all_tasks_blocked()
        assert network.called("connect")
        swarm.ban(target)
        with anyio.fail_after(10):
            await swarm.until(lambda: swarm.connecting == 0)


async def test_a_dial_that_succeeds_when_it_is_unwanted_is_closed(network: FakeNetwork) -> None:
    network.dials_held, network.dials_ignore_cancellation = anyio.Event(), True
    async with swarm_on(network) as server, swarm_on(network) as client:
        await server.listen()
        client.join_peer(server.key_pair.public_key)
        await anyio.wait_all_tasks_blocked()
        client.ban(server.key_pair.public_key)
        network.dials_held.set()
        with anyio.fail_after(10):
            await client.until(lambda: client.connecting == 0)
        assert len(client.connections) == 0
        await until(server, 0)


async def test_a_walk_that_is_unwanted_before_it_starts_never_does(network: FakeNetwork) -> None:
    async with swarm_on(network) as swarm, anyio.create_task_group() as tasks:
        tasks.start_soon(swarm.join, TOPIC)
        tasks.start_soon(swarm.leave, TOPIC)  # runs before the task of the walk that the first one asked for
        await anyio.wait_all_tasks_blocked()
        assert network.called("announce") == []
        assert not network.records[TOPIC]


async def test_named_peers_need_no_topic(network: FakeNetwork) -> None:
    async with swarm_on(network) as server, swarm_on(network) as client:
        await server.listen()
        client.join_peer(server.key_pair.public_key)
        assert client.connecting == 1
        stream = await next_of(client)
        assert stream.topics == frozenset()
        client.leave_peer(server.key_pair.public_key)
        await stream.aclose()
        await until(client, 0)
        assert client.peers_known == 0


async def test_flush_waits_for_dials_but_not_for_ever(network: FakeNetwork) -> None:
    async with swarm_on(network) as client:
        keys = [KeyPair.generate().public_key for _ in range(7)]
        network.records[TOPIC] = dict.fromkeys(keys, (NODE,))
        await client.join(TOPIC, server=False)
        with anyio.fail_after(10):
            assert await client.flush()
        assert {call[0] for call in network.called("connect")} == set(keys)
        assert await client.flush(), "retries that are not due are not waited for"


async def test_flush_ends_incomplete_with_the_swarm(network: FakeNetwork) -> None:
    network.dials_held = anyio.Event()
    async with swarm_on(network) as client, anyio.create_task_group() as tasks:
        outcomes: list[bool] = []

        async def flush() -> None:
            outcomes.append(await client.flush())

        client.join_peer(bytes(32))
        tasks.start_soon(flush)
        await anyio.wait_all_tasks_blocked()
        assert outcomes == []
        await client.destroy()
        await anyio.wait_all_tasks_blocked()
        assert outcomes == [False]


async def test_suspend_and_resume(network: FakeNetwork) -> None:
    async with FakeNode(network) as node, swarm_on(network) as other, Hyperswarm(dht=node) as swarm:
        session = await swarm.join(TOPIC)
        await session.flushed()
        await (await other.join(TOPIC)).flushed()
        stream = await next_of(swarm)
        await swarm.suspend()
        await swarm.suspend()
        with pytest.raises(anyio.ClosedResourceError):
            await stream.receive()
        assert list(network.records[TOPIC]) == [other.key_pair.public_key]
        assert swarm.key_pair.public_key not in network.servers
        assert node.suspended == 0, "the node was given to the swarm"
        assert len(swarm.connections) == 0
        assert not await session.flushed()
        await swarm.resume()
        await swarm.resume()
        assert await session.flushed()
        assert swarm.key_pair.public_key in network.records[TOPIC]
        assert (await next_of(swarm)).remote_public_key == other.key_pair.public_key


async def test_resumed_it_listens_again_without_topics(network: FakeNetwork) -> None:
    async with swarm_on(network) as swarm:
        await swarm.listen()
        await swarm.suspend()
        assert not network.servers
        await swarm.resume()
        await swarm.listen()
        assert list(network.servers) == [swarm.key_pair.public_key]


async def test_another_network_is_announced_in(network: FakeNetwork) -> None:
    async with FakeNode(network) as node, Hyperswarm(dht=node) as swarm:
        session = await swarm.join(TOPIC, client=False)
        await session.flushed()
        node.relays = (Address("198.51.100.7", 49737),)
        node.change_network()
        assert await session.flushed()
        assert network.records[TOPIC][swarm.key_pair.public_key] == node.relays
        assert [call[2] for call in network.called("announce")] == [True, True], "other relays have to be cleared in"
        assert await session.refresh()
        assert [call[2] for call in network.called("announce")] == [True, True, False]


async def test_without_a_network_walks_fail_and_succeed_later(network: FakeNetwork) -> None:
    network.offline = True
    async with FakeNode(network) as node, Hyperswarm(dht=node) as swarm:
        session = await swarm.join(TOPIC)
        assert not await session.flushed()
        status = swarm.status(TOPIC)
        assert status is not None
        assert not status.succeeded
        network.offline = False
        node.change_network()
        assert await session.flushed()


async def test_a_relay_is_used_when_direct_dials_cannot_work(network: FakeNetwork) -> None:
    relay, target = bytes([9]) * 32, KeyPair.generate().public_key
    network.failures[target] = NOT_PUNCHED
    async with FakeNode(network) as node, Hyperswarm(dht=node, relay_through=relay) as swarm:
        swarm.join_peer(target)
        assert await swarm.flush()
        peer_dials = network.called("connect")
        assert peer_dials == [(target, (), None)]
        node.randomized = True
        other = KeyPair.generate().public_key
        swarm.join_peer(other)
        assert await swarm.flush()
        assert network.called("connect")[-1] == (other, (), relay)


async def test_a_relay_may_be_chosen_per_dial(network: FakeNetwork) -> None:
    forced: list[bool] = []

    def choose(force: bool) -> bytes | None:
        forced.append(force)
        return None

    async with swarm_on(network, relay_through=choose) as swarm:
        swarm.join_peer(KeyPair.generate().public_key)
        assert await swarm.flush()
    assert forced == [False]


async def test_a_relay_may_be_chosen_for_each_peer_and_the_other_choice_stays(network: FakeNetwork) -> None:
    """The server offers a relay without knowing whom to, as in the reference, so it asks `relay_through` alone."""
    relay, fallback = bytes([9]) * 32, bytes([8]) * 32
    helped, other = KeyPair.generate().public_key, KeyPair.generate().public_key
    network.failures[helped] = NOT_PUNCHED
    asked: list[tuple[bytes, bool]] = []

    def choose(public_key: bytes, force: bool) -> bytes | None:
        asked.append((public_key, force))
        return relay if public_key == helped else None

    async with swarm_on(network, relay_for_peer=choose, relay_through=lambda force: fallback) as swarm:
        swarm.join_peer(helped)
        assert await swarm.flush()
        info = swarm.peer(helped)
        assert info is not None
        assert info.force_relaying
        swarm.join_peer(other)
        assert await swarm.flush()
        assert swarm.relay_for(False) == fallback
    assert swarm.peer(bytes(32)) is None
    assert network.called("connect") == [(helped, (), relay), (other, (), fallback)]
    assert asked == [(helped, False), (other, False)]


async def test_a_choice_of_relay_that_fails_means_no_relay(
    network: FakeNetwork, caplog: pytest.LogCaptureFixture
) -> None:
    def choose(public_key: bytes, force: bool) -> bytes | None:
        raise ValueError

    async with swarm_on(network, relay_for_peer=choose) as swarm:
        swarm.join_peer(KeyPair.generate().public_key)
        assert await swarm.flush()
    assert network.called("connect")[0][2] is None
    assert "relay_for_peer" in caplog.text


async def test_events_are_bounded_and_end(network: FakeNetwork) -> None:
    async with swarm_on(network) as swarm:
        with swarm.events() as events:
            for number in range(1, 2000):
                swarm.ban(number.to_bytes(32, "big"))
            await swarm.destroy()
            seen = [event async for event in events]
        assert len(seen) <= 256
        with swarm.events() as events:
            assert [event async for event in events] == []
    assert isinstance(seen[-1], PeerBanned | Updated)


@pytest.mark.parametrize("checkpoints", range(0, 60, 3))
async def test_cancelled_at_any_time_nothing_hangs(network: FakeNetwork, checkpoints: int) -> None:
    async with swarm_on(network) as server:
        await (await server.join(TOPIC)).flushed()
        with anyio.fail_after(10), anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tasks:

                async def cancel() -> None:
                    for _ in range(checkpoints):
                        await anyio.lowlevel.checkpoint()
                    scope.cancel()

                tasks.start_soon(cancel)
                async with swarm_on(network) as client, await client.join(TOPIC) as session:
                    await session.flushed()
                    await client.flush()
                    async for stream in client.connections:
                        await stream.receive()
        assert set(network.records[TOPIC]) <= {server.key_pair.public_key}
        assert set(network.servers) == {server.key_pair.public_key}
        with anyio.fail_after(10):
            await server.until(lambda: len(server.connections) == 0)


def test_a_node_or_where_to_start_one() -> None:
    with pytest.raises(LocalProtocolError):
        Hyperswarm(dht=FakeNode(FakeNetwork()), bootstrap=["127.0.0.1:1"])
