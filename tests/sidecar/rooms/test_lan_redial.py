"""A member that mDNS found and that was lost is looked for again, by both sides."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import anyio
import pytest

from hyperdht import KeyPair
from sidecar.rooms import lan
from sidecar.rooms.lan import LanNetwork
from sidecar.rooms.mdns import LanPeer

if TYPE_CHECKING:
    from hyperdht import SecretStream

pytestmark = pytest.mark.anyio
LOOPBACK = "127.0.0.1"


@dataclass(eq=False)
class Side:
    """A listener that keeps connections until they break, as the network does with members."""

    refuses_own_dials: bool = False
    """As when the connection that the other side dialled is kept."""
    dialled: int = 0
    accepted: int = 0
    news: anyio.Event = field(default_factory=anyio.Event)
    streams: list[SecretStream] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.lan = LanNetwork(KeyPair.generate(), self._connected)

    async def _connected(self, stream: SecretStream, address: str) -> bool:
        self.dialled += stream.is_initiator
        self.accepted += not stream.is_initiator
        self.news.set()
        self.news = anyio.Event()
        self.streams.append(stream)
        try:
            if stream.is_initiator and self.refuses_own_dials:
                return False
            while True:
                await stream.receive()
        except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
            return True
        finally:
            with anyio.CancelScope(shield=True):
                await stream.aclose()

    async def reached(self, *, dialled: int = 0, accepted: int = 0) -> None:
        with anyio.fail_after(10):
            while self.dialled < dialled or self.accepted < accepted:
                await self.news.wait()


async def test_a_member_that_was_lost_is_dialled_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lan, "REDIAL_FIRST_S", 0.05)
    left, right = Side(), Side()
    _, port = await left.lan.listen(LOOPBACK, 0)
    async with anyio.create_task_group() as tasks:
        for side in (left, right):
            tasks.start_soon(side.lan.run, ())
        await anyio.wait_all_tasks_blocked()
        right.lan.mdns_found(LanPeer("left", (LOOPBACK,), port))
        await left.reached(accepted=1)
        await left.streams[0].aclose()
        await left.reached(accepted=2)
        tasks.cancel_scope.cancel()


async def test_who_was_dialled_looks_for_a_lost_member_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other one may have given up long ago."""
    monkeypatch.setattr(lan, "REDIAL_FIRST_S", 0.05)
    monkeypatch.setattr(lan, "REDIALS", 1)
    left, right = Side(refuses_own_dials=True), Side()
    _, left_port = await left.lan.listen(LOOPBACK, 0)
    _, right_port = await right.lan.listen(LOOPBACK, 0)
    async with anyio.create_task_group() as tasks:
        for side in (left, right):
            tasks.start_soon(side.lan.run, ())
        await anyio.wait_all_tasks_blocked()
        right.lan.mdns_found(LanPeer("left", (LOOPBACK,), left_port))
        await left.reached(accepted=1)
        left.lan.mdns_found(LanPeer("right", (LOOPBACK,), right_port))
        await left.reached(dialled=1)
        await left.streams[0].aclose()
        await left.reached(dialled=2)
        tasks.cancel_scope.cancel()


async def test_one_that_is_there_by_another_road_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two ways of dialling one peer would otherwise replace each other's connection for ever."""
    monkeypatch.setattr(lan, "REDIAL_FIRST_S", 0.01)
    left, right = Side(), Side()
    _, port = await left.lan.listen(LOOPBACK, 0)
    async with anyio.create_task_group() as tasks:
        for side in (left, right):
            tasks.start_soon(side.lan.run, ())
        await anyio.wait_all_tasks_blocked()
        right.lan.mdns_found(LanPeer("left", (LOOPBACK,), port))
        await left.reached(accepted=1)
        right.lan._has_peer = lambda key: key == left.lan._key_pair.public_key
        await left.streams[0].aclose()
        await anyio.sleep(0.2)
        assert left.accepted == 1
        tasks.cancel_scope.cancel()


async def test_a_stranger_that_was_found_is_dialled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lan, "REDIAL_FIRST_S", 0.01)
    left, right = Side(), Side(refuses_own_dials=True)
    _, port = await left.lan.listen(LOOPBACK, 0)
    async with anyio.create_task_group() as tasks:
        for side in (left, right):
            tasks.start_soon(side.lan.run, ())
        await anyio.wait_all_tasks_blocked()
        right.lan.mdns_found(LanPeer("left", (LOOPBACK,), port))
        await right.reached(dialled=1)
        await anyio.sleep(0.2)
        assert right.dialled == 1
        tasks.cancel_scope.cancel()
