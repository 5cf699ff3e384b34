"""What discovery can tell a diagnosis, over real multicast on loopback."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import pytest

from sidecar.rooms.key import RoomKey
from sidecar.rooms.mdns import MdnsDiscovery

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from sidecar.rooms.mdns import LanPeer

pytestmark = pytest.mark.anyio
LOOPBACK = "127.0.0.1"
PATIENCE_S = 15.0


def discovery(port: int, *rooms: RoomKey, found: Callable[[LanPeer], None] = lambda peer: None) -> MdnsDiscovery:
    def tags(nonce: bytes) -> Iterable[str]:
        return [room.mdns_tag(nonce).hex() for room in rooms]

    return MdnsDiscovery(port=port, addresses=[LOOPBACK], tags=tags, found=found, interfaces=[LOOPBACK])


async def until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - zeroconf announces nothing that a test could await
            await anyio.sleep(0.02)


async def test_members_and_strangers_are_told_apart_and_the_one_that_left_is_forgotten() -> None:
    ours, theirs = RoomKey(b"1" * 32), RoomKey(b"2" * 32)
    found: list[LanPeer] = []
    async with discovery(4001, ours, found=found.append) as left:
        assert left.members == 0
        async with discovery(4002, theirs) as stranger:
            await until(lambda: left.seen >= 1)
            assert left.heard_anything
            async with discovery(4003, ours):
                await until(lambda: left.members == 1)
                assert 4003 in {peer.port for peer in found}
            await until(lambda: left.members == 0)
            assert stranger.members == 0
        assert 4002 not in {peer.port for peer in found}
