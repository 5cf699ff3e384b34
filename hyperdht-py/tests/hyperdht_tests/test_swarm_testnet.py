"""Hyperswarm on a DHT of this process, over UDP."""

from collections.abc import Sequence
from contextlib import AsyncExitStack

import anyio
import pytest

from hyperdht import HyperDHT, Hyperswarm, KeyPair, testnet

pytestmark = pytest.mark.anyio

TOPIC = bytes([7]) * 32
WAIT_S = 20.0


async def announced(bootstrap: Sequence[str]) -> set[bytes]:
    """Who is announced, as somebody else sees it."""
    async with HyperDHT(bootstrap=bootstrap) as dht:
        return {peer.public_key async for peer in dht.lookup(TOPIC)}


async def test_a_whole_mesh_with_one_connection_per_pair() -> None:
    async with testnet(5) as bootstrap, AsyncExitStack() as stack:
        swarms = [await stack.enter_async_context(Hyperswarm(bootstrap=bootstrap)) for _ in range(6)]
        for swarm in swarms:  # all at once: those who do not see each other do so at the second look
            await swarm.join(TOPIC)
        keys = {swarm.key_pair.public_key for swarm in swarms}

        def meshed() -> bool:
            """Everybody is connected with everybody, and both ends mean the same connection."""
            ends = [(swarm, stream) for swarm in swarms for stream in swarm.connections.open]
            seen = {(swarm.key_pair.public_key, stream.remote_public_key) for swarm, stream in ends}
            wanted = {(left, right) for left in keys for right in keys if left != right}
            return seen == wanted and len({stream.handshake_hash for _, stream in ends}) == len(ends) // 2

        with anyio.fail_after(WAIT_S):
            while not meshed():  # noqa: ASYNC110 - it depends on six swarms
                await anyio.sleep(0.02)


async def test_the_end_of_a_swarm_is_seen_by_others() -> None:
    async with testnet(5) as bootstrap:
        async with Hyperswarm(bootstrap=bootstrap) as swarm:
            session = await swarm.join(TOPIC)
            assert await session.flushed()
            assert await announced(bootstrap) == {swarm.key_pair.public_key}
            await session.leave()
            assert await announced(bootstrap) == set()
            await (await swarm.join(TOPIC)).flushed()
            assert await announced(bootstrap) == {swarm.key_pair.public_key}
        assert await announced(bootstrap) == set()


async def test_cancelled_it_is_gone_too() -> None:
    async with testnet(5) as bootstrap:
        with anyio.CancelScope() as scope:
            async with Hyperswarm(bootstrap=bootstrap) as swarm:
                assert await (await swarm.join(TOPIC)).flushed()
                scope.cancel()
                await anyio.sleep_forever()
        assert await announced(bootstrap) == set()


async def test_several_swarms_may_share_a_node() -> None:
    async with testnet(5) as bootstrap, HyperDHT(bootstrap=bootstrap) as dht:
        pairs = KeyPair.generate(), KeyPair.generate()
        async with Hyperswarm(dht=dht, key_pair=pairs[0]) as server, Hyperswarm(dht=dht, key_pair=pairs[1]) as client:
            await (await server.join(TOPIC, client=False)).flushed()
            await client.join(TOPIC, server=False)
            with anyio.fail_after(WAIT_S):
                stream = await anext(client.connections)
                other = await anext(server.connections)
            await stream.send(b"within one process")
            assert await other.receive() == b"within one process"
        assert {peer.public_key async for peer in dht.lookup(TOPIC)} == set()


async def test_suspended_and_resumed() -> None:
    async with (
        testnet(5) as bootstrap,
        Hyperswarm(bootstrap=bootstrap) as swarm,
        Hyperswarm(bootstrap=bootstrap) as other,
    ):
        session = await swarm.join(TOPIC)
        await session.flushed()
        await (await other.join(TOPIC)).flushed()
        with anyio.fail_after(WAIT_S):
            stream = await anext(other.connections)
            await swarm.suspend()
            with pytest.raises((anyio.BrokenResourceError, anyio.EndOfStream)):
                await stream.receive()
        assert await announced(bootstrap) == {other.key_pair.public_key}
        await swarm.resume()
        with anyio.fail_after(WAIT_S):
            assert await session.flushed()
            again = await anext(other.connections)
        assert again.remote_public_key == swarm.key_pair.public_key


async def test_the_peer_closes_and_the_stream_ends_cleanly() -> None:
    async with (
        testnet(5) as bootstrap,
        Hyperswarm(bootstrap=bootstrap) as server,
        Hyperswarm(bootstrap=bootstrap) as client,
    ):
        await server.listen()
        client.join_peer(server.key_pair.public_key)
        with anyio.fail_after(WAIT_S):
            outgoing = await anext(client.connections)
            incoming = await anext(server.connections)
            await outgoing.send(b"last words")
            await outgoing.aclose()
            assert await incoming.receive() == b"last words"
            with pytest.raises(anyio.EndOfStream):
                await incoming.receive()
            await incoming.aclose()
            again = await anext(client.connections)
        assert again.handshake_hash != outgoing.handshake_hash
