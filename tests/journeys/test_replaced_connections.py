"""A peer that comes with another connection while one stands: which one both sides keep."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio
import anyio.abc
import pytest

from hyperdht import KeyPair, SecretStream
from hyperdht.io import connect_tcp, listen_tcp
from sidecar.rooms.code import generate_code
from sidecar.rooms.key import derive_room_key
from tests.journeys.crowd import member
from tests.journeys.inside import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from sidecar.rooms.peer import PeerConnection
    from tests.journeys.crowd import Member

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def two(folder: Path) -> AsyncIterator[tuple[Member, Member]]:
    """Two members of a room; the first one has the greater key."""
    room = derive_room_key(generate_code())
    small, great = sorted((KeyPair.generate(), KeyPair.generate()), key=lambda pair: pair.public_key)
    async with (
        member(folder / "great", room, key_pair=great) as first,
        member(folder / "small", room, key_pair=small) as second,
    ):
        yield first, second


async def connect(dialling: Member, called: Member, tasks: anyio.abc.TaskGroup, *, is_lan: bool) -> None:
    """Let one of them connect to the other."""

    async def serve(made: Member, raw: anyio.abc.ByteStream, *, is_initiator: bool) -> None:
        stream = await SecretStream.establish(raw, is_initiator=is_initiator, key_pair=made.key_pair)
        await made.network.run_connection(stream, "203.0.113.1:1", is_lan=is_lan)

    async with await listen_tcp("127.0.0.1") as listener:
        left = await connect_tcp("127.0.0.1", listener.port)
        right = await listener.accept()

    async def dial() -> None:
        await serve(dialling, left, is_initiator=True)

    async def answer() -> None:
        await serve(called, right, is_initiator=False)

    tasks.start_soon(dial)
    tasks.start_soon(answer)


def proved(made: Member, *, other_than: PeerConnection | None = None) -> bool:
    """Whether it has a connection, but that one, on which membership is proved."""
    return any(each.proved and each is not other_than for each in made.network.connections.values())


def only(made: Member) -> PeerConnection:
    (connection,) = made.network.connections.values()
    return connection


async def test_over_the_internet_the_new_one_stands_whoever_dialled(tmp_path: Path) -> None:
    """The swarm let it through: the peer has lost the old one, for instance while this machine slept."""
    async with two(tmp_path) as (great, small), anyio.create_task_group() as tasks:
        await connect(great, small, tasks, is_lan=False)
        await until(lambda: proved(great) and proved(small))
        old = {made: only(made) for made in (great, small)}
        await connect(small, great, tasks, is_lan=False)
        await until(lambda: all(proved(made, other_than=old[made]) for made in (great, small)))
        assert only(great).stream.handshake_hash == only(small).stream.handshake_hash
        tasks.cancel_scope.cancel()


async def test_in_the_local_network_keys_decide_between_dials_of_both(tmp_path: Path) -> None:
    """Who was given the other's address goes on dialling it, as it cannot tell that this peer is connected."""
    async with two(tmp_path) as (great, small), anyio.create_task_group() as tasks:
        await connect(great, small, tasks, is_lan=True)
        await until(lambda: proved(great) and proved(small))
        old = only(great)
        async with anyio.create_task_group() as refused:  # it ends when both sides have closed the new one
            await connect(small, great, refused, is_lan=True)
        assert only(great) is old
        tasks.cancel_scope.cancel()
