"""An exchange of ours and a bare SecretStream that plays the Orch-Mind peer, over TCP on loopback."""

from __future__ import annotations

import contextlib
import json
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import anyio.abc

from hyperdht import KeyPair, SecretStream
from sidecar.orch_mind.exchange import Exchange
from sidecar.transfer.bandwidth import TokenBucket
from sidecar.transfer.provide import Provider

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from sidecar.orch_mind.messages import AdapterOffer

PATIENCE_S = 15.0


@dataclass
class Pair:
    """Both ends; `peer` is the stranger's."""

    exchange: Exchange
    peer: SecretStream
    provider: Provider
    ended: str = ""
    changed: anyio.Event = field(default_factory=anyio.Event)
    lost: anyio.Event = field(default_factory=anyio.Event)

    async def listed(self) -> None:
        """Wait until our side knows a new list."""
        with anyio.fail_after(PATIENCE_S):
            await self.changed.wait()
        self.changed = anyio.Event()

    async def message(self, kind: str) -> dict[str, Any]:
        """The next message of that type from our side."""
        with anyio.fail_after(PATIENCE_S):
            while True:
                message: dict[str, Any] = json.loads(await self.peer.receive())
                if message["type"] == kind:
                    return message

    async def closed(self) -> None:
        """Read until our side ends the connection."""
        with anyio.fail_after(PATIENCE_S), contextlib.suppress(anyio.EndOfStream, anyio.BrokenResourceError):
            while True:
                await self.peer.receive()

    async def say(self, kind: str, **fields: Any) -> None:
        await self.peer.send(json.dumps({"type": kind} | fields).encode())


@asynccontextmanager
async def streams() -> AsyncIterator[tuple[SecretStream, SecretStream]]:
    """Two ends of one connection."""
    made: dict[bool, SecretStream] = {}
    both = anyio.Event()

    async def establish(stream: anyio.abc.ByteStream, is_initiator: bool = False) -> None:
        made[is_initiator] = await SecretStream.establish(
            stream, is_initiator=is_initiator, key_pair=KeyPair.generate()
        )
        if len(made) == 2:
            both.set()

    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(listener.serve, establish)
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        await establish(await anyio.connect_tcp("127.0.0.1", port), True)
        await both.wait()
        tasks.cancel_scope.cancel()
    async with made[True], made[False]:
        yield made[False], made[True]


@asynccontextmanager
async def pair(*offers: AdapterOffer, first: tuple[bytes, ...] = (), rate: float | None = None) -> AsyncIterator[Pair]:
    """A running exchange; its connection ends with the block."""
    async with streams() as (ours, theirs):
        provider = Provider()
        both = Pair(None, theirs, provider)  # type: ignore[arg-type]
        both.exchange = Exchange(
            ours,
            "127.0.0.1:1",
            offers=offers,
            uploads=provider.peer(theirs.public_key, may_have=lambda digest: True),
            changed=lambda: both.changed.set(),
            lost=lambda offer: both.lost.set(),
            cap=TokenBucket(rate),
        )

        async def run() -> None:
            both.ended = await both.exchange.run(first)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run)
            yield both
            await both.exchange.close("the test is over")


def opener(path: Path) -> Any:
    return partial(path.open, "rb", buffering=0)
