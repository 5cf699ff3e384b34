"""Which bandwidth caps apply to whom, and what a peer that cannot be asked more looks like to a fetch."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from sidecar.config import Settings
from sidecar.daemon.assemble import _Caps
from sidecar.rooms.source import LinkSource
from sidecar.transfer.source import SourceRefused
from tests.sidecar.transfer.memory_source import MemorySource, make_blob

if TYPE_CHECKING:
    from sidecar.rooms.link import RoomLink
    from sidecar.transfer.bandwidth import TokenBucket

BLOB = make_blob(70_000)


def caps(**settings: object) -> _Caps:
    return _Caps(Settings.model_validate(settings))


def of(made: _Caps, key: bytes, room_id: bytes, *, is_lan: bool = False) -> list[TokenBucket]:
    return made.download(MemorySource(key, BLOB, room_id=room_id, is_lan=is_lan))


def link_source(**link: Any) -> LinkSource:
    return LinkSource(cast("RoomLink", SimpleNamespace(**link)), BLOB.digest)


def test_each_room_has_its_own_download_cap() -> None:
    made = caps(room_download_limit="1MB")
    (total, one), (_, other), (_, again) = (of(made, b"k", room) for room in (b"one", b"other", b"one"))
    assert total.rate is None
    assert one is again
    assert one is not other
    assert one.rate == 1e6


def test_the_download_cap_of_a_peer_is_one_in_all_rooms() -> None:
    made = caps(peer_download_limit="1MB", download_limit="5MB")
    (total, first), (_, second), (_, other) = (
        of(made, key, room) for key, room in ((b"k", b"one"), (b"k", b"two"), (b"other", b"one"))
    )
    assert first is second
    assert first is not other
    assert (total.rate, first.rate) == (5e6, 1e6)


@pytest.mark.parametrize("exempt", [True, False])
def test_the_local_network_is_exempt_only_when_the_user_says_so(exempt: bool) -> None:
    made = caps(peer_download_limit="1MB", download_limit="5MB", room_download_limit="1MB", lan_exempt=exempt)
    assert len(of(made, b"k", b"room", is_lan=True)) == (0 if exempt else 3)
    assert len(of(made, b"k", b"room", is_lan=False)) == 3


def test_a_peer_in_a_room_says_whose_caps_apply() -> None:
    source = link_source(room_id=b"room", peer_key=b"key", is_lan=True)
    assert (source.room_id, source.key, source.is_lan) == (b"room", b"key", True)


@pytest.mark.anyio
async def test_a_peer_that_owes_too_much_to_other_fetches_is_busy_and_not_lost() -> None:
    source = link_source(request_chunks=lambda *asked: None)
    first, second = source.request(BLOB.digest, 0, 1), source.request(BLOB.digest, 1, 1)
    assert first != second
    for request_id in (first, second):
        with pytest.raises(SourceRefused) as refusal:
            await source.next_chunks()
        assert (refusal.value.request_id, refusal.value.gone) == (request_id, False)
