"""Networks of one's own: for tests, and for places without internet."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from ..errors import LocalProtocolError
from .node import DEFAULT_PORT, HyperDHT

LOOPBACK = "127.0.0.1"


def bootstrapper(host: str, port: int = DEFAULT_PORT, *, bootstrap: Sequence[str] = ()) -> HyperDHT:
    """A node that others start from: it stores from the beginning, and assumes that it can be reached.

    Args:
        host: The address of this machine that others reach it at, and that it binds to.
        bootstrap: Other nodes of the network; empty for the first.
    """
    return HyperDHT(bootstrap=bootstrap, host=host, port=port, ephemeral=False, firewalled=False, public_host=host)


@asynccontextmanager
async def testnet(size: int = 5, *, host: str = LOOPBACK) -> AsyncGenerator[list[str]]:
    """A whole DHT in this process; yields what to pass as `bootstrap`.

    Args:
        size: Nodes, all of them persistent. Announcing wants three at least.
    """
    if size < 1:
        raise LocalProtocolError("a network has one node at least")
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(bootstrapper(host, 0))
        addresses = [f"{host}:{first.port}"]
        for _ in range(size - 1):
            node = await stack.enter_async_context(bootstrapper(host, 0, bootstrap=addresses[:1]))
            await node.fully_bootstrapped()
            addresses.append(f"{host}:{node.port}")
        yield addresses[:3]


testnet.__test__ = False  # type: ignore[attr-defined]  # nor is it taken for a test by the programs that import it
