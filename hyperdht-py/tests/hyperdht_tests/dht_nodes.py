"""Nodes on loopback, in a network of their own."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from hyperdht import HyperDHT, SecretStream, Server, testnet
from hyperdht.io.peer_stream import PeerStream

LOOPBACK = "127.0.0.1"


@asynccontextmanager
async def nodes(count: int, *, network: int = 4, **options: Any) -> AsyncIterator[list[HyperDHT]]:
    """So many nodes that know a testnet, bootstrapped."""
    async with AsyncExitStack() as stack:
        bootstrap = await stack.enter_async_context(testnet(network))
        yield [await stack.enter_async_context(node(bootstrap, **options)) for _ in range(count)]


def node(bootstrap: Sequence[str], **options: Any) -> HyperDHT:
    """One on any port of loopback."""
    return HyperDHT(bootstrap=bootstrap, host=LOOPBACK, port=0, **options)


async def connected(client: HyperDHT, server: Server, **options: Any) -> tuple[PeerStream, PeerStream]:
    """Connect; both ends."""
    ours = await client.connect(server.public_key, **options)
    return ours, await server.accept()


async def exchange(left: SecretStream, right: SecretStream) -> None:
    """Something each way."""
    for source, target, message in ((left, right, b"hello"), (right, left, b"good day")):
        await source.send(message)
        assert await target.receive() == message
