"""A DHT of the demo's own, so that nobody outside this machine is asked for anything.

    python -m sidecar.demo.dht

Tells on standard output, in one line, what daemons get as `--bootstrap`.
"""

from __future__ import annotations

import anyio

from hyperdht import testnet
from hyperdht.io.signals import stop_on_signals

NODES = 4
"""Announcing wants three."""


async def serve() -> None:
    """Be a DHT until asked to end."""
    async with stop_on_signals(), testnet(NODES) as bootstrap:
        print(",".join(bootstrap), flush=True)  # noqa: T201
        await anyio.sleep_forever()


if __name__ == "__main__":
    anyio.run(serve)
