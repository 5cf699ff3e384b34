"""What a node leaves behind: nothing, wherever it is interrupted. And what it says before its start and after its end."""

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import anyio
import pytest

from hyperdht import BlindRelay, ConnectionClosed, HyperDHT, KeyPair, LocalProtocolError, testnet
from hyperdht.addresses import Address
from hyperdht.dht import holepunch_server
from hyperdht.errors import ConnectError

from .dht_nodes import LOOPBACK, connected, exchange, node, nodes

pytestmark = pytest.mark.anyio

TOPIC = b"\x22" * 32
KEY = KeyPair.generate().public_key
Call = Callable[[HyperDHT], Awaitable[object]]


async def first_of(results: Any) -> object:
    async for each in results:
        return each
    return None


CALLS: dict[str, Call] = {
    "connect": lambda dht: dht.connect(KEY),
    "connect through a relay": lambda dht: dht.connect(KEY, relay_through=KEY),
    "listen": lambda dht: dht.listen().listen(),
    "announce": lambda dht: dht.announce(TOPIC),
    "unannounce": lambda dht: dht.unannounce(TOPIC),
    "search": lambda dht: dht.search(TOPIC),
    "lookup": lambda dht: first_of(dht.lookup(TOPIC)),
    "find_peer": lambda dht: first_of(dht.find_peer(KEY)),
    "immutable_put": lambda dht: dht.immutable_put(b"value"),
    "immutable_get": lambda dht: dht.immutable_get(TOPIC),
    "mutable_put": lambda dht: dht.mutable_put(KeyPair.generate(), b"value"),
    "mutable_get": lambda dht: dht.mutable_get(KEY),
    "ping": lambda dht: dht.ping(Address(LOOPBACK, 4)),
    "fully_bootstrapped": lambda dht: dht.fully_bootstrapped(),
    "suspend": lambda dht: dht.suspend(),
}


@contextmanager
def silent_node() -> Iterator[str]:
    """The address of somebody who takes datagrams and says nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((LOOPBACK, 0))
        yield f"{LOOPBACK}:{sock.getsockname()[1]}"


@pytest.mark.parametrize("name", CALLS)
async def test_before_its_context_a_node_says_how_to_use_it(name: str) -> None:
    with pytest.raises(LocalProtocolError, match="async with"):
        await CALLS[name](HyperDHT(bootstrap=()))


@pytest.mark.parametrize("name", CALLS)
async def test_after_its_context_a_node_is_closed(name: str) -> None:
    async with node(()) as dht:
        port = dht.port
    with pytest.raises(anyio.ClosedResourceError):
        await CALLS[name](dht)
    assert dht.port == port
    assert dht.ports == ()
    with pytest.raises(LocalProtocolError, match="once"):
        await dht.__aenter__()


@pytest.mark.parametrize("name", [name for name in CALLS if name != "suspend"])
@pytest.mark.parametrize("bootstrapped", [False, True])
async def test_calls_that_wait_are_told_when_the_node_closes(name: str, bootstrapped: bool) -> None:
    ended: list[Exception] = []

    async def call(dht: HyperDHT) -> None:
        try:
            await CALLS[name](dht)
        except Exception as error:
            ended.append(error)

    with silent_node() as nobody:
        async with anyio.create_task_group() as tasks:
            async with node([nobody]) as dht:
                if bootstrapped:  # then it is not that what they wait for
                    dht._bootstrapped.set()
                    dht._rpc._membership.bootstrapped = True
                tasks.start_soon(call, dht)
                await anyio.sleep(0.02)
            with anyio.fail_after(1):
                while not ended and not (bootstrapped and name == "fully_bootstrapped"):  # noqa: ASYNC110
                    await anyio.sleep(0.001)
    assert [type(error) for error in ended] == [anyio.ClosedResourceError] * len(ended)


async def test_one_task_that_stops_waiting_leaves_the_others_waiting() -> None:
    with silent_node() as nobody:
        async with anyio.create_task_group() as tasks:

            async def waits_for_the_end(dht: HyperDHT) -> None:
                with pytest.raises(anyio.ClosedResourceError):
                    await dht.fully_bootstrapped()

            async with node([nobody]) as dht:
                tasks.start_soon(waits_for_the_end, dht)
                with anyio.move_on_after(0.01):
                    await dht.fully_bootstrapped()


class Counters(NamedTuple):
    """What a node and its event loop hold."""

    streams: int
    sockets: int
    requests: int
    queries: int
    attempts: int
    servers: int
    kept_alive: int
    waiting: int
    relayed: int
    meetings: int
    half_open: int
    tasks: int


def counters(*owners: HyperDHT) -> list[Counters]:
    """Streams that linger after both sides ended are no leak."""
    return [
        Counters(
            streams=len(dht.endpoint) - len(dht.endpoint._lingering),
            sockets=len(dht.ports),
            requests=dht._rpc.endpoint.in_flight,
            queries=len(dht._rpc._queries),
            attempts=sum(not attempt.over for attempt in dht._machine._connects),
            servers=len(dht._servers),
            kept_alive=len(dht._keep_alive),
            waiting=len(dht._waiting._events),
            relayed=len(dht._links._relayed),
            meetings=len(dht._links._meetings),
            half_open=len(dht._links.half_open),
            tasks=len(asyncio.all_tasks()),
        )
        for dht in owners
    ]


async def settled(before: list[Counters], *owners: HyperDHT, within_s: float) -> None:
    """Until nothing is left; tells what is."""
    with anyio.move_on_after(within_s):
        while not all(now <= then for now, then in pairs_of(counters(*owners), before)):  # noqa: ASYNC110
            await anyio.sleep(0.01)
    for number, (now, then) in enumerate(zip(counters(*owners), before, strict=True)):
        more = {name: (had, has) for name, has, had in zip(Counters._fields, now, then, strict=True) if has > had}
        assert not more, f"node {number} holds more than before: {more}"


def pairs_of(now: list[Counters], before: list[Counters]) -> Iterator[tuple[int, int]]:
    for left, right in zip(now, before, strict=True):
        yield from zip(left, right, strict=True)


async def cancelled_after(turns: int, call: Callable[[], Awaitable[object]]) -> bool:
    """Cancel `call` after so many turns of the event loop. Returns whether it was over before."""
    done = False

    async def run() -> None:
        nonlocal done
        await call()
        done = True

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        for _ in range(turns):
            await asyncio.sleep(0)
        tasks.cancel_scope.cancel()
    return done


async def cancel_everywhere(call: Callable[[], Awaitable[object]]) -> int:
    """Cancel at ever later turns until `call` succeeds; how often it was cancelled."""
    for turns in range(4000):
        if await cancelled_after(turns, call):
            return turns
    raise AssertionError("it never came to its end")


GONE = (ConnectionClosed, anyio.BrokenResourceError)  # the other side takes connections to drop them at once
SETTINGS: list[dict[str, Any]] = [{}, {"firewalled": True}]


@pytest.mark.parametrize("settings", SETTINGS)
async def test_a_connect_that_is_cancelled_anywhere_leaves_nothing(settings: dict[str, Any]) -> None:
    async with nodes(2, **settings) as (left, right), left.listen(share_local_address=not settings) as server:

        async def connect() -> None:
            with contextlib.suppress(*GONE):
                async with await right.connect(
                    server.public_key, local_connection=not settings, fast_open=False
                ) as stream:
                    await stream.send(b"hello")

        async def drain() -> None:
            async for stream in server:
                await anyio.aclose_forcefully(stream)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(drain)
            await connect()
            await anyio.sleep(0.1)
            before = counters(left, right)
            assert await cancel_everywhere(connect) > 8
            await settled(before, left, right, within_s=25)
            await connect()
            tasks.cancel_scope.cancel()


async def test_listening_that_is_cancelled_anywhere_leaves_nothing() -> None:
    async with nodes(2) as (left, right):

        async def listen() -> None:
            async with left.listen():
                pass

        before = counters(left, right)
        assert await cancel_everywhere(listen) > 4
        await settled(before, left, right, within_s=5)
        async with left.listen() as server:
            await exchange(*await connected(right, server))


@pytest.mark.parametrize("name", ["announce", "lookup", "search", "mutable_put", "immutable_get"])
async def test_a_query_that_is_cancelled_anywhere_leaves_nothing(name: str) -> None:
    async with nodes(1) as (dht,):
        before = counters(dht)
        assert await cancel_everywhere(lambda: CALLS[name](dht)) > 3
        await settled(before, dht, within_s=5)


async def test_accepting_that_is_cancelled_loses_no_peer() -> None:
    async with nodes(2) as (left, right), left.listen() as server:
        for turns in range(30):
            await cancelled_after(turns, server.accept)
        client, accepted = await connected(right, server)
        await exchange(client, accepted)


async def test_a_relayed_connect_that_is_cancelled_anywhere_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        holepunch_server, "RETRY_S", 3.0
    )  # a minute: a client that runs through a relay may take its time
    cannot_punch: dict[str, Any] = {"holepunch": lambda *_: False}
    async with (
        testnet(4) as bootstrap,
        node(bootstrap, firewalled=False) as middle,
        node(bootstrap, firewalled=True) as left,
        node(bootstrap, firewalled=True) as right,
        BlindRelay(middle) as relay,
        left.listen(share_local_address=False, **cannot_punch) as server,
        anyio.create_task_group() as tasks,
    ):

        async def connect() -> None:
            with contextlib.suppress(*GONE):
                async with await right.connect(
                    server.public_key,
                    local_connection=False,
                    fast_open=False,
                    relay_through=relay.public_key,
                    **cannot_punch,
                ) as stream:
                    await stream.send(b"hello")

        async def drain() -> None:
            async for stream in server:
                await anyio.aclose_forcefully(stream)

        tasks.start_soon(drain)
        await anyio.sleep(0.1)
        before = counters(left, right, middle)
        assert await cancel_everywhere(connect) > 20
        await settled(before, left, right, middle, within_s=40)
        assert (relay.pairs, relay.sessions) == (0, 0)
        tasks.cancel_scope.cancel()


async def test_suspending_ends_what_is_under_way() -> None:
    async with nodes(2, firewalled=True) as (left, right), left.listen(share_local_address=False) as server:
        before = counters(right)[0]
        ended: list[Exception] = []

        async def connect() -> None:
            try:
                await right.connect(server.public_key, local_connection=False)
            except (ConnectError, ConnectionClosed) as error:
                ended.append(error)

        for turns in range(0, 30, 3):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(connect)
                for _ in range(turns):
                    await asyncio.sleep(0)
                await right.suspend()
                await right.resume()
                tasks.cancel_scope.deadline = anyio.current_time() + 15
            assert not tasks.cancel_scope.cancelled_caught
        assert ended
        await settled([before], right, within_s=15)
