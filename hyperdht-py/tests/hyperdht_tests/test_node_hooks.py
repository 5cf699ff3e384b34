"""What others can do to a node: a program through its hooks, peers through what they name, the machine by sleeping."""

import contextlib
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from anyio.abc import Process

from hyperdht import BlindRelay, HyperDHT, testnet
from hyperdht.errors import ConnectError
from hyperdht.io import node as node_module
from hyperdht.io import udx_stream

from .dht_nodes import connected, exchange, node, nodes

pytestmark = pytest.mark.anyio


def fails(*_: object) -> Any:
    raise RuntimeError("broken hook")


async def test_hooks_that_fail_say_no_and_are_reported(caplog: pytest.LogCaptureFixture) -> None:
    options: dict[str, Any] = {"local_connection": False, "fast_open": False}
    async with nodes(2, firewalled=True) as (left, right):
        async with left.listen(share_local_address=False, relay_through=fails) as server:
            await exchange(*await connected(right, server, **options))
            assert caplog.text.count("the hook relay_through failed") == 1
            with pytest.raises(ConnectError):
                await right.connect(server.public_key, holepunch=fails, **options)
            assert caplog.text.count("the hook holepunch failed") == 1
        undo = left.on_network_change(fails)
        left.handle_network_change()
        assert caplog.text.count("the hook on_network_change failed") == 1
        undo()
        await left.announce(bytes(32))
        await right.search(bytes(32), on_peers=fails)
        assert "the hook on_peers failed" in caplog.text
        assert "broken hook" in caplog.text


async def test_a_relay_whose_operator_s_hook_fails_carries_nothing_and_lives(caplog: pytest.LogCaptureFixture) -> None:
    cannot_punch: dict[str, Any] = {"holepunch": lambda *_: False}
    async with (
        testnet(4) as bootstrap,
        node(bootstrap, firewalled=False) as middle,
        node(bootstrap, firewalled=True) as left,
        node(bootstrap, firewalled=True) as right,
        BlindRelay(middle, allow=fails) as relay,
        left.listen(share_local_address=False, **cannot_punch) as server,
    ):
        client = await right.connect(
            server.public_key,
            local_connection=False,
            fast_open=False,
            relay_through=relay.public_key,
            **cannot_punch,
        )
        with anyio.move_on_after(1) as scope:
            await client.receive()
        assert scope.cancelled_caught
        assert "the hook allow failed" in caplog.text


@pytest.mark.parametrize("key", [bytes(32), b"\x01" + bytes(31), b"\xff" * 32, b"\x02" + bytes(31)])
async def test_t18_a_client_that_names_a_relay_with_an_impossible_key_harms_nobody(key: bytes) -> None:
    async with nodes(2, firewalled=True) as (left, right), left.listen() as server:
        client, accepted = await connected(right, server, relay_through=key, local_connection=False)
        await exchange(client, accepted)
        await exchange(*await connected(right, server))


class Clock:
    """A time of day that can jump."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead_s


@pytest.mark.parametrize(("jump_s", "noticed"), [(3600.0, True), (10.0, False), (-3600.0, False)])
async def test_sleep_of_the_machine_is_noticed(jump_s: float, noticed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_module, "LOOK_EVERY_S", 0.02)
    clock = Clock()
    async with nodes(2, wall_clock=clock) as (left, right), left.listen() as server:
        client, accepted = await connected(right, server)
        tick = left._rpc.endpoint.tick
        sent = client.raw_stream.bytes_sent  # type: ignore[attr-defined]
        clock.ahead_s = jump_s
        await anyio.sleep(0.2)
        assert (left._rpc.endpoint.tick > tick + 100) is noticed
        assert (client.raw_stream.bytes_sent > sent) is noticed  # type: ignore[attr-defined]
        await exchange(client, accepted)


PEER = """
import anyio, sys
from hyperdht import HyperDHT

async def main():
    async with HyperDHT(bootstrap=sys.argv[1:], host="127.0.0.1", port=0) as dht, dht.listen() as server:
        print(server.public_key.hex(), flush=True)
        async for stream in server:
            await anyio.sleep_forever()

anyio.run(main)
"""


@asynccontextmanager
async def peer_process(bootstrap: list[str]) -> AsyncIterator[tuple[Process, bytes]]:
    """A peer that takes one connection and is silent."""
    async with await anyio.open_process([sys.executable, "-c", PEER, *bootstrap]) as process:
        try:
            assert process.stdout is not None
            yield process, bytes.fromhex((await process.stdout.receive()).decode())
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()


async def wait_for_its_end(dht: HyperDHT, public_key: bytes, process: Process, *, ended: bool) -> float:
    """Seconds from killing the peer to the error."""
    stream = await dht.connect(public_key)
    if ended:
        await stream.send_eof()
    await anyio.sleep(0.5)
    process.kill()
    started = anyio.current_time()
    with pytest.raises(anyio.BrokenResourceError):
        await stream.receive()
    assert not len(dht._keep_alive)
    return anyio.current_time() - started


@pytest.mark.parametrize("ended", [False, True])
async def test_a_peer_that_dies_is_noticed_though_nobody_sends(ended: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when our side of the connection ended, so that nothing of ours can go unanswered."""
    monkeypatch.setattr(udx_stream, "HEARTBEAT_S", 1.0)
    async with (
        testnet(4) as bootstrap,
        node(bootstrap, keep_alive_s=1.0) as dht,
        peer_process(bootstrap) as (process, key),
    ):
        seconds = await wait_for_its_end(dht, key, process, ended=ended)
    assert 3 < seconds < 22, f"{seconds:.1f} s"


async def test_connections_that_both_sides_end_leave_nothing() -> None:
    async with nodes(2) as (left, right), left.listen() as server:
        client, accepted = await connected(right, server)
        await client.send_eof()
        with pytest.raises(anyio.EndOfStream):
            await accepted.receive()
        await accepted.send(b"the last word")
        await accepted.send_eof()
        assert await client.receive() == b"the last word"
        with pytest.raises(anyio.EndOfStream):
            await client.receive()
        await anyio.sleep(0.1)
        assert not len(left._keep_alive)
        assert not len(right._keep_alive)
