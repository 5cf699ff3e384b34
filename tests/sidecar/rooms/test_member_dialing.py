"""Dialling as the swarm reports it: what counts as failed, and what does not."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import anyio
import pytest

from hyperdht.swarm import DialReport, PeerInfo
from sidecar.rooms.dial_plan import DialPlan
from sidecar.rooms.member_dialing import MemberDialing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from sidecar.rooms.acquaintances import Acquaintances

pytestmark = pytest.mark.anyio
ROOM, KEY, RELAY = b"r" * 16, b"k" * 32, b"R" * 32


class Chance:
    """None: everything is due at once."""

    def random(self) -> float:
        return 0.0

    def shuffle(self, several: Any) -> None:
        pass


class World:
    """A swarm, its node and our acquaintances, as far as dialling looks at them. Its tasks are waited for with `settled`."""

    def __init__(self) -> None:
        self.online = True
        self.calls: list[tuple[str, bytes]] = []
        self.reports: dict[bytes, DialReport] = {}
        self.infos: dict[bytes, PeerInfo] = {}
        self.relay: bytes | None = None
        self.failed: list[bytes] = []
        self.plan = DialPlan(
            randomness=cast("Any", Chance()), may_dial=lambda: self.online, is_welcome=lambda key: True
        )
        self.dials = self
        self._wake = anyio.Event()
        self._callbacks: list[Callable[[], object]] = []

    # the swarm
    def now(self) -> float:
        return anyio.current_time()

    def join_peer(self, key: bytes) -> None:
        self.calls.append(("join", key))
        self.infos[key] = PeerInfo(key)

    def leave_peer(self, key: bytes) -> None:
        self.calls.append(("leave", key))

    def peer(self, key: bytes) -> PeerInfo | None:
        return self.infos.get(key)

    def get(self, key: bytes) -> DialReport | None:
        return self.reports.get(key)

    @contextmanager
    def events(self) -> Iterator[AsyncIterator[None]]:
        async def nothing() -> AsyncIterator[None]:
            await anyio.sleep_forever()
            yield

        yield nothing()

    # the node
    def on_network_change(self, callback: Callable[[], object]) -> Callable[[], None]:
        self._callbacks.append(callback)
        return lambda: self._callbacks.remove(callback)

    def change_network(self) -> None:
        for callback in self._callbacks:
            callback()

    # our acquaintances
    def relay_for(self, key: bytes, force: bool) -> bytes | None:
        return self.relay

    def dial_failed(self, key: bytes) -> None:
        self.failed.append(key)
        self.plan.failed(key, self.now())

    async def woken(self) -> None:
        await self._wake.wait()
        self._wake = anyio.Event()

    def wake(self) -> None:
        self._wake.set()

    async def settled(self) -> None:
        self.wake()
        await anyio.wait_all_tasks_blocked()

    def dial_ends(self, code: str | None, *, relay: bytes | None = None, force: bool = False) -> None:
        self.reports[KEY] = DialReport(KEY, frozenset(), self.now(), code, relay=relay)
        self.infos[KEY].force_relaying = force


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    every = cast("Any", world)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(MemberDialing(every, every, cast("Acquaintances", world)).run)
        world.plan.remember(ROOM, KEY, world.now())
        await world.settled()
        assert world.calls == [("join", KEY)]
        yield world
        tasks.cancel_scope.cancel()
    assert not world.plan.dialling
    assert not world._callbacks


async def test_who_is_connected_is_not_asked_of_the_swarm_any_more(world: World) -> None:
    world.dial_ends(None)
    await world.settled()
    assert world.calls == [("join", KEY)], "it has to prove itself first"
    world.plan.connected(KEY)
    await world.settled()
    assert world.calls == [("join", KEY), ("leave", KEY)]
    assert world.failed == []


async def test_a_dial_that_failed_makes_room_for_another_one(world: World) -> None:
    world.dial_ends("PEER_NOT_FOUND")
    await world.settled()
    assert world.failed == [KEY]
    assert world.calls[-1] == ("leave", KEY)


async def test_an_old_report_says_nothing_about_this_dial(world: World) -> None:
    world.reports[KEY] = DialReport(KEY, frozenset(), world.now() - 60, "PEER_NOT_FOUND")
    await world.settled()
    assert world.failed == []


@pytest.mark.parametrize(
    ("relay", "through", "has_failed"), [(RELAY, None, False), (None, None, True), (RELAY, RELAY, True)]
)
async def test_while_a_relay_may_help_the_swarm_goes_on(
    world: World, relay: bytes | None, through: bytes | None, has_failed: bool
) -> None:
    """`relay`: of a member that named the peer; `through`: what the dial that failed went through."""
    world.relay = relay
    world.dial_ends("HOLEPUNCH_DOUBLE_RANDOMIZED_NATS", relay=through, force=True)
    await world.settled()
    assert bool(world.failed) is has_failed


async def test_without_a_network_nobody_fails_and_with_one_again_all_are_dialled(world: World) -> None:
    world.online = False
    world.dial_ends("TIMEOUT")
    await world.settled()
    assert world.failed == []
    assert world.calls[-1] == ("leave", KEY)
    world.online = True
    world.change_network()
    await world.settled()
    assert world.calls[-1] == ("join", KEY)
