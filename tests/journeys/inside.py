"""Sidecars inside the test's own process and event loop: everything but the process and the HTTP in front is real."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
import pytest

from ollama_bridge import observe
from ollama_bridge.standin import StandIn
from sidecar.config import Settings
from sidecar.control_types import AdapterRow, GetOptions, RoomInfo, ShareOptions, TransferInfo
from sidecar.daemon.lifecycle import run_parts
from sidecar.events import Event
from sidecar.paths import DataLock
from tests.journeys.ollama import make_adapter, make_base

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from sidecar.control import SidecarControl
    from sidecar.parts import Parts

IN_PROCESS = [pytest.mark.anyio, pytest.mark.filterwarnings(f"ignore:{observe.DOUBLE_MEETING}:RuntimeWarning")]
"""`pytestmark` of modules that use this one: daemons switch that warning off for themselves, pytest on again."""
PATIENCE_S = 15.0
E = TypeVar("E", bound=Event)


async def until(condition: Callable[[], bool | Awaitable[bool]], patience_s: float = PATIENCE_S) -> None:
    """Return when a condition holds that nothing announces: the one place in this folder that polls."""
    with anyio.fail_after(patience_s):
        while True:
            held = condition()
            if held if isinstance(held, bool) else await held:
                return
            await anyio.sleep(0.02)


@dataclass(eq=False)
class Node:
    """One running sidecar and the Ollama it works for."""

    parts: Parts
    control: SidecarControl
    ollama: StandIn

    @property
    def store(self) -> Path:
        """Where its Ollama keeps models, whether the sidecar can read it or not."""
        return self.ollama.store.root

    @property
    def address(self) -> str:
        """`host:port` for another one's `--peer`."""
        return self.control._listening()[0]

    @property
    def key(self) -> bytes:
        return self.parts.identity.key_pair.public_key

    async def happened(self, kind: type[E], holds: Callable[[E], bool] = lambda event: True, since: int = 0) -> E:
        """The first event of a kind since this sidecar started, or since event `since`; waits for it."""
        with anyio.fail_after(PATIENCE_S):
            async with self.control.events(since) as events:
                async for numbered in events:
                    if isinstance(numbered.event, kind) and holds(numbered.event):
                        return numbered.event
        raise AssertionError("the events ended")

    async def share(self, what: str, room: str = "team", **options: Any) -> AdapterRow:
        return await self.control.share(what, room, ShareOptions(**options))

    async def row(self, name: str, *, publisher: bytes | None = None, sources: int = 0, version: int = 1) -> AdapterRow:
        """The offer of that name, as soon as it is listed with that many sources."""
        with anyio.fail_after(PATIENCE_S):
            async with self.control.events(0) as events:
                while True:
                    for row in await self.control.adapters():
                        mine = publisher is None or row.publisher == publisher.hex()
                        if row.name == name and mine and row.sources >= sources and row.version >= version:
                            return row
                    with anyio.move_on_after(0.1):  # the number of sources changes without an event
                        await anext(events)

    async def begin(self, ref: str, **options: Any) -> TransferInfo:
        return await self.control.get(ref, GetOptions(**options))

    async def ended(self, transfer: TransferInfo, patience_s: float = 40.0) -> TransferInfo:
        """A transfer as it ended."""
        with anyio.fail_after(patience_s):
            async with self.control.events() as events:
                while not (now := await self.control.transfer(transfer.id)).finished:
                    await anext(events)
        return now

    async def get(self, ref: str, **options: Any) -> TransferInfo:
        """A whole `get`, well or badly ended."""
        return await self.ended(await self.begin(ref, **options))

    async def got(self, ref: str, **options: Any) -> TransferInfo:
        """A whole `get` that must succeed."""
        ended = await self.get(ref, **options)
        assert ended.state == "done", ended.error
        return ended


@asynccontextmanager
async def running(folder: Path, ollama: StandIn, *peers: str, **settings: Any) -> AsyncIterator[Node]:
    """A sidecar with its data in `folder`, stopped cleanly at the end. It listens on loopback only."""
    chosen = {
        "data_dir": folder,
        "ollama": ollama.url,
        "store": ollama.store.root,
        "api": "127.0.0.1:0",
        "listen": "127.0.0.1:0",
        "peers": tuple(peers),
        "no_dht": True,
        "no_mdns": True,
    }
    read = Settings.model_validate(chosen | settings)
    read.paths.prepare()
    with DataLock(read.paths):
        async with run_parts(read, api_address="127.0.0.1:0") as (parts, control):
            with anyio.fail_after(PATIENCE_S):
                await parts.local.known.wait()
            yield Node(parts, control, ollama)


@dataclass
class Team:
    """Sidecars of one test, each with its own Ollama that has the base model, all members of the room "team"."""

    folder: Path
    files: Path
    exits: AsyncExitStack
    nodes: list[Node] = field(default_factory=list)
    room: RoomInfo | None = None

    async def ollama(self, name: str, *, base: bool = True, **options: Any) -> StandIn:
        """A stand-in with a store named after it."""
        server = StandIn(self.folder / f"{name}-store", **({"adapters": "accept"} | options))
        await self.exits.enter_async_context(server)
        if base:
            await make_base(server.url, self.files)
        return server

    async def join(self, name: str, *, ollama: StandIn | None = None, join: bool = True, **settings: Any) -> Node:
        """Start another sidecar, connected to those there are, and let it join the room."""
        server = ollama or await self.ollama(name)
        peers = [node.address for node in self.nodes]
        node = await self.exits.enter_async_context(running(self.folder / name, server, *peers, **settings))
        if join:
            await self.enter(node)
        self.nodes.append(node)
        return node

    async def enter(self, node: Node) -> None:
        """Let a sidecar into the room, which the first one makes."""
        if self.room is None:
            self.room = await node.control.create_room("team")
        else:
            assert self.room.code is not None
            await node.control.join_room(self.room.code, label="team", consent=False)

    async def publish(
        self, node: Node, name: str = "sql-lora", file: str = "adapter.gguf", **options: Any
    ) -> AdapterRow:
        """Put an adapter model into a node's Ollama and share it."""
        await make_adapter(node.ollama.url, self.files, name, file)
        return await node.share(name, **options)


@asynccontextmanager
async def team(folder: Path, files: Path) -> AsyncIterator[Team]:
    """A team without members yet; everybody is stopped at the end, the last one first."""
    async with AsyncExitStack() as exits:
        yield Team(folder, files, exits)


def without_sources(row: AdapterRow) -> AdapterRow:
    """A row as it is whoever is connected."""
    return replace(row, sources=0)
