"""HyperDHT on real sockets: peers find and reach each other, values are kept, and nothing is left behind."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from hyperdht import (
    BlindRelay,
    HyperDHT,
    KeyPair,
    LocalProtocolError,
    PeerNotFound,
    RequestTimeout,
    SecretStream,
    testnet,
)
from hyperdht.addresses import Address
from hyperdht.dht.constants import Firewall
from hyperdht.dht.link import Path
from hyperdht.dht.payloads import NoisePayload
from hyperdht.errors import ConnectError
from hyperdht.io import server as server_module
from hyperdht.io.testnet import bootstrapper
from hyperdht.io.udx_stream import UdxByteStream

from .dht_nodes import LOOPBACK, connected, exchange, node, nodes

pytestmark = pytest.mark.anyio


def address_of(stream: SecretStream) -> Address:
    raw = stream.raw_stream
    assert isinstance(raw, UdxByteStream)
    return raw.remote_address


async def test_two_peers_talk() -> None:
    async with nodes(2) as (left, right), left.listen() as server:
        client, accepted = await connected(right, server)
        assert client.is_initiator
        assert not accepted.is_initiator
        assert client.remote_public_key == server.public_key == left.key_pair.public_key
        assert accepted.remote_public_key == right.key_pair.public_key
        assert client.handshake_hash == accepted.handshake_hash
        await exchange(client, accepted)


@pytest.mark.parametrize("options", [{}, {"local_connection": False, "fast_open": False}, {"local_connection": False}])
async def test_two_firewalled_peers_talk(options: dict[str, Any]) -> None:
    async with nodes(2, firewalled=True) as (left, right), left.listen(share_local_address=not options) as server:
        client, accepted = await connected(right, server, **options)
        await exchange(client, accepted)


async def test_a_network_too_small_to_tell_nats_apart_is_no_hindrance_in_the_lan() -> None:
    """Hole punching is given up before the client has come the short way, which must stay open for it."""
    async with nodes(2, network=1, firewalled=True) as (left, right), left.listen() as server:
        for _ in range(10):
            await exchange(*await connected(right, server))


async def test_peers_use_other_keys_than_their_node() -> None:
    ours, theirs = KeyPair.generate(), KeyPair.generate()
    async with nodes(2) as (left, right), left.listen(theirs) as server:
        client, accepted = await connected(right, server, key_pair=ours)
        assert client.remote_public_key == theirs.public_key
        assert accepted.remote_public_key == ours.public_key


async def test_a_node_connects_to_itself() -> None:
    async with nodes(1) as (alone,), alone.listen() as server:
        await exchange(*await connected(alone, server, key_pair=KeyPair.generate()))


async def test_nobody_has_that_key() -> None:
    async with nodes(1) as (alone,):
        with pytest.raises(PeerNotFound, match="Nobody reachable"):
            await alone.connect(KeyPair.generate().public_key)


async def test_without_any_network_it_is_said_at_once() -> None:
    async with node(()) as alone:
        with pytest.raises(PeerNotFound):
            await alone.connect(KeyPair.generate().public_key)
        with pytest.raises(RequestTimeout, match="bootstrap"):
            await alone.announce(bytes(32))
        with pytest.raises(RequestTimeout, match="bootstrap"):
            await alone.immutable_put(b"value")


@pytest.mark.parametrize("is_async", [False, True])
async def test_the_firewall_hook_sees_a_proven_key_and_refuses_by_silence(is_async: bool) -> None:
    seen: list[bytes] = []
    friend = KeyPair.generate()

    def refuses(public_key: bytes, payload: NoisePayload, address: Address) -> bool:
        seen.append(public_key)
        return public_key != friend.public_key

    async def refuses_later(public_key: bytes, payload: NoisePayload, address: Address) -> bool:
        await anyio.sleep(0.01)
        return refuses(public_key, payload, address)

    async with nodes(2) as (left, right), left.listen(firewall=refuses_later if is_async else refuses) as server:
        await exchange(*await connected(right, server, key_pair=friend))
        with anyio.move_on_after(0.3) as scope:
            await right.connect(server.public_key)
        assert scope.cancelled_caught
        assert seen == [friend.public_key, right.key_pair.public_key]


async def test_a_firewall_hook_that_fails_refuses_and_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    def fails(public_key: bytes, payload: NoisePayload, address: Address) -> bool:
        raise RuntimeError("broken hook")

    async with nodes(2) as (left, right), left.listen(firewall=fails) as server:
        with anyio.move_on_after(0.3) as scope:
            await right.connect(server.public_key)
        assert scope.cancelled_caught
    assert "broken hook" in caplog.text


async def test_one_key_listens_once_per_node_and_again_after_closing() -> None:
    async with nodes(2) as (left, right):
        async with left.listen() as server:
            with pytest.raises(LocalProtocolError, match="already"):
                await left.listen().listen()
            await exchange(*await connected(right, server))
        async with left.listen() as server:
            await exchange(*await connected(right, server))


async def test_a_server_that_closed_is_not_found_and_its_connections_stay() -> None:
    async with nodes(2) as (left, right):
        async with left.listen() as server:
            client, accepted = await connected(right, server)
        await exchange(client, accepted)
        with pytest.raises(ConnectError):
            await right.connect(server.public_key)
        with pytest.raises(anyio.ClosedResourceError):
            await server.accept()


async def test_peers_nobody_takes_are_dropped_beyond_the_backlog(monkeypatch: pytest.MonkeyPatch) -> None:
    """T18: who is slow to accept does not collect connections without end."""
    monkeypatch.setattr(server_module, "BACKLOG", 2)
    async with nodes(2) as (left, right), left.listen() as server:
        streams = [await right.connect(server.public_key) for _ in range(3)]
        with pytest.raises((anyio.BrokenResourceError, anyio.EndOfStream)):
            await streams[2].receive()
        assert server.refused == 1
        for stream in streams[:2]:
            await exchange(stream, await server.accept())


async def test_a_connection_closed_forcefully_is_reset_also_when_nothing_is_under_way() -> None:
    async with nodes(2) as (left, right), left.listen() as server:
        client, accepted = await connected(right, server)
        await exchange(client, accepted)
        await anyio.aclose_forcefully(client)
        with pytest.raises(anyio.BrokenResourceError):
            await accepted.receive()


async def test_a_way_whose_socket_is_closed_is_not_tried_again() -> None:
    options: dict[str, Any] = {"local_connection": False, "reusable_socket": True}
    async with (
        nodes(2, firewalled=True) as (left, right),
        left.listen(share_local_address=False, reusable_socket=True) as server,
    ):
        client, accepted = await connected(right, server, **options)
        await exchange(client, accepted)
        routes = right._machine.routes
        route = routes.route(server.public_key)
        assert route is not None
        assert route.socket > 1
        await anyio.aclose_forcefully(client)
        with anyio.fail_after(5):
            while routes.route(server.public_key) is not None:  # noqa: ASYNC110 - nothing tells of it
                await anyio.sleep(0.01)
        await exchange(*await connected(right, server, **options))


async def test_leaving_the_node_resets_its_connections() -> None:
    async with testnet(4) as bootstrap, node(bootstrap) as left, left.listen() as server:
        async with node(bootstrap) as right:
            client, accepted = await connected(right, server)
            await exchange(client, accepted)
        with pytest.raises((anyio.BrokenResourceError, anyio.EndOfStream)):
            await accepted.receive()
        with pytest.raises(anyio.ClosedResourceError):
            await client.receive()


async def test_a_cancelled_connect_leaves_no_stream_behind() -> None:
    async with nodes(1) as (alone,):
        before = len(alone.endpoint)
        with anyio.move_on_after(0.001) as scope:
            await alone.connect(KeyPair.generate().public_key)
        assert scope.cancelled_caught
        await anyio.sleep(0.05)
        assert len(alone.endpoint) == before


async def test_announce_and_lookup() -> None:
    topic = b"\x11" * 32
    async with nodes(2) as (left, right):
        closest = await left.announce(topic, relay_addresses=[Address(LOOPBACK, 4000)])
        assert closest
        peers = [peer async for peer in right.lookup(topic)]
        assert [peer.public_key for peer in peers] == [left.key_pair.public_key]
        assert peers[0].relay_addresses == (Address(LOOPBACK, 4000),)
        await left.unannounce(topic, seeds=closest, only_closest_nodes=True)
        assert [peer async for peer in right.lookup(topic)] == []


async def test_a_listening_peer_is_found() -> None:
    async with nodes(2) as (left, right), left.listen() as server:
        found = {each.node async for each in right.find_peer(server.public_key)}
        assert set(server.relay_addresses) & found


async def test_values_are_kept_and_checked() -> None:
    key_pair = KeyPair.generate()
    async with nodes(2) as (writer, reader):
        target = await writer.immutable_put(b"for ever")
        assert await reader.immutable_get(target) == b"for ever"
        assert await reader.immutable_get(bytes(32)) is None
        assert await reader.mutable_get(key_pair.public_key) is None
        await writer.mutable_put(key_pair, b"first", seq=1)
        await writer.mutable_put(key_pair, b"second", seq=2)
        older = await writer.mutable_put(key_pair, b"late", seq=1)
        assert older.refused
        assert not older.stored
        newest = await reader.mutable_get(key_pair.public_key)
        assert newest is not None
        assert (newest.seq, newest.value) == (2, b"second")
        with pytest.raises(ValueError, match="bytes"):
            await writer.immutable_put(bytes(2000))


async def test_ping() -> None:
    async with testnet(1) as (first,), node([first]) as ours:
        host, _, port = first.rpartition(":")
        assert 0 <= await ours.ping(Address(host, int(port))) < 5


async def test_suspend_and_resume() -> None:
    async with nodes(2) as (left, right), left.listen() as server:
        client, accepted = await connected(right, server)
        await left.suspend()
        await left.suspend()
        with pytest.raises((anyio.BrokenResourceError, anyio.EndOfStream)):
            await client.receive()
        with pytest.raises(ConnectError):
            await right.connect(server.public_key)
        with pytest.raises(ConnectError, match="suspended"):
            await left.connect(right.key_pair.public_key)
        await left.resume()
        await left.resume()
        while True:
            try:
                await exchange(*await connected(right, server))
                break
            except ConnectError:
                await anyio.sleep(0.05)
        await accepted.aclose()


async def test_a_change_of_the_network_is_told_and_announced_anew() -> None:
    told = anyio.Event()
    async with nodes(2) as (left, right), left.listen() as server:
        undo = left.on_network_change(told.set)
        client, accepted = await connected(right, server)
        left.handle_network_change()
        await told.wait()
        undo()
        await exchange(client, accepted)
        await exchange(*await connected(right, server))


CANNOT_PUNCH: dict[str, Any] = {"holepunch": lambda *_: False}


@asynccontextmanager
async def relay_between_two(**options: Any) -> AsyncIterator[tuple[BlindRelay, HyperDHT, HyperDHT]]:
    """Two firewalled nodes and a relay anybody can reach."""
    async with (
        testnet(4) as bootstrap,
        node(bootstrap, firewalled=False) as middle,
        node(bootstrap, firewalled=True) as left,
        node(bootstrap, firewalled=True) as right,
        BlindRelay(middle, **options) as relay,
    ):
        yield relay, left, right


@pytest.mark.parametrize("side", ["client", "server", "both"])
async def test_a_blind_relay_carries_what_it_cannot_read(side: str) -> None:
    async with relay_between_two() as (relay, left, right):
        of_server = relay.public_key if side != "client" else None
        of_client = relay.public_key if side != "server" else None
        async with left.listen(share_local_address=False, relay_through=of_server, **CANNOT_PUNCH) as server:
            client, accepted = await connected(
                right, server, local_connection=False, fast_open=False, relay_through=of_client, **CANNOT_PUNCH
            )
            await exchange(client, accepted)
            assert relay.pairs == 1
            assert client.path is accepted.path is Path.RELAYED
            await client.send(bytes(1 << 20))
            assert len(await accepted.receive()) == 1 << 20
            await client.aclose()
            await accepted.aclose()


async def test_a_relay_has_a_key_of_its_own_and_refuses_strangers() -> None:
    """Both ends have to be let in; by their keys, which nobody can feign."""
    key_pair, allowed = KeyPair.generate(), set[bytes]()
    refuses = lambda public_key, payload, address: public_key not in allowed  # noqa: E731
    async with (
        relay_between_two(key_pair=key_pair, firewall=refuses) as (relay, left, right),
        left.listen(share_local_address=False, **CANNOT_PUNCH) as server,
    ):
        assert relay.public_key == key_pair.public_key
        options = {"local_connection": False, "fast_open": False, "relay_through": relay.public_key, **CANNOT_PUNCH}
        allowed.add(left.key_pair.public_key)
        with anyio.move_on_after(2.0) as waited:  # it gets no answer, and would give up later
            await right.connect(server.public_key, **options)
        assert waited.cancelled_caught
        assert relay.pairs == 0
        allowed.add(right.key_pair.public_key)
        client, accepted = await connected(right, server, **options)
        await exchange(client, accepted)
        assert relay.pairs == 1


async def test_a_relay_ends_in_its_time_although_the_dht_is_gone() -> None:
    async with bootstrapper(LOOPBACK, 0) as only, node([f"{LOOPBACK}:{only.port}"], firewalled=False) as middle:
        async with BlindRelay(middle, close_timeout_s=0.2):
            await only.suspend()
            began = anyio.current_time()
        assert 0.2 <= anyio.current_time() - began < 1.5


async def test_a_relayed_connection_moves_to_a_direct_way() -> None:
    async with relay_between_two() as (relay, left, right), left.listen(share_local_address=False) as server:
        client, accepted = await connected(
            right, server, local_connection=False, fast_open=False, relay_through=relay.public_key
        )
        while not (address_of(client).port in ports_of(left) and address_of(accepted).port in ports_of(right)):
            await exchange(client, accepted)
        await exchange(client, accepted)
        assert client.path is accepted.path is Path.PUNCHED


def ports_of(owner: HyperDHT) -> set[int]:
    return set(owner.ports)


async def test_a_relay_that_closes_ends_what_it_carries() -> None:
    async with (
        testnet(4) as bootstrap,
        node(bootstrap, firewalled=True) as left,
        node(bootstrap, firewalled=True) as right,
        left.listen(share_local_address=False, **CANNOT_PUNCH) as server,
    ):
        async with node(bootstrap, firewalled=False) as middle, BlindRelay(middle) as relay:
            client, accepted = await connected(
                right,
                server,
                local_connection=False,
                fast_open=False,
                relay_through=relay.public_key,
                **CANNOT_PUNCH,
            )
            await exchange(client, accepted)
        with pytest.raises((anyio.BrokenResourceError, anyio.ClosedResourceError)):
            await client.receive()


async def test_a_port_that_is_taken_is_replaced() -> None:
    async with node(()) as first, HyperDHT(bootstrap=(), host=LOOPBACK, port=first.port) as second:
        assert first.port < second.port <= first.port + 4 or second.port > 0
        assert first.port != second.port


async def test_a_message_above_the_limit_ends_the_connection() -> None:
    async with nodes(2, max_message_bytes=1000) as (left, right), left.listen() as server:
        client, accepted = await connected(right, server)
        await client.send(bytes(1000))
        assert len(await accepted.receive()) == 1000
        await client.send(bytes(1001))
        with pytest.raises(anyio.BrokenResourceError):
            await accepted.receive()


@pytest.mark.parametrize(
    ("address", "reachable", "firewall"),
    [
        (None, False, Firewall.UNKNOWN),
        (Address("192.0.2.1", 0), False, Firewall.RANDOM),
        (Address("192.0.2.1", 4000), False, Firewall.CONSISTENT),
        (Address("192.0.2.1", 4000), True, Firewall.OPEN),
    ],
)
async def test_a_node_says_which_kind_of_nat_is_before_it(
    address: Address | None, reachable: bool, firewall: Firewall, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HyperDHT, "nat_address", property(lambda node: address))
    monkeypatch.setattr(HyperDHT, "remote_address", property(lambda node: address if reachable else None))
    async with node(()) as alone:
        assert alone.firewall is firewall
