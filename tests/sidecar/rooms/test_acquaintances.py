from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import anyio
import pytest

from sidecar.catalogue.journal import Journal
from sidecar.catalogue.journal_thread import JournalThread
from sidecar.catalogue.rows import RoomRow
from sidecar.rooms.acquaintances import Acquaintances
from sidecar.rooms.dial_plan import BACKOFF_S
from sidecar.rooms.introductions import Presence
from sidecar.rooms.messages import PeerHint
from sidecar.rooms.session_events import PeersReceived
from sidecar.trust.keyring import Keyring

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sidecar.rooms.link import RoomLink

pytestmark = pytest.mark.anyio
PRIVATE, GENERAL, LAN = b"p" * 16, b"g" * 16, b"l" * 16
FOREVER = 1e12
MEMBER, OTHER, RELAY = b"m" * 32, b"o" * 32, b"r" * 32


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    opened = Journal.open(tmp_path, now=lambda: 1.0)
    for room_id, kind in ((PRIVATE, "private"), (GENERAL, "general"), (LAN, "local")):
        opened.save_room(RoomRow(room_id, kind, kind, room_id * 2, b"e" * 16, 0, 1.0))
    yield opened
    opened.close()


@pytest.fixture
def keyring(journal: Journal) -> Keyring:
    return Keyring(journal)


@pytest.fixture
def known(journal: Journal, keyring: Keyring) -> Acquaintances:
    return started(journal, keyring)


def started(journal: Journal, keyring: Keyring) -> Acquaintances:
    return Acquaintances(
        journal=JournalThread(journal),
        keyring=keyring,
        is_internet=lambda room_id: room_id != LAN,
        is_private=lambda room_id: room_id == PRIVATE,
        connections=lambda: 0,
        max_peers=64,
        wall_clock=lambda: 1.0,
    )


class Link:
    """The part of a `RoomLink` that is looked at here."""

    def __init__(self, key: bytes, room_id: bytes) -> None:
        self.peer_key, self.room_id = key, room_id
        stream = SimpleNamespace(public_key=bytes(32), remote_public_key=key)
        self.connection = SimpleNamespace(stream=stream, road="direct")
        self.session = SimpleNamespace(share_peers=lambda *_, **__: None)

    def flush(self) -> None:
        pass


def link(key: bytes, room_id: bytes = PRIVATE) -> RoomLink:
    return cast("RoomLink", Link(key, room_id))


async def test_t12_members_of_private_rooms_are_carried_and_nobody_else(known: Acquaintances, keyring: Keyring) -> None:
    assert not known.may_be_carried(MEMBER)
    for room_id in (GENERAL, LAN):
        known.proved(link(MEMBER, room_id))
        assert not known.may_be_carried(MEMBER)
    inside = link(MEMBER)
    known.proved(inside)
    assert known.may_be_carried(MEMBER)
    known.lost(inside, gone=True)
    assert known.may_be_carried(MEMBER), "it is remembered"
    keyring.block(MEMBER, 1.0)
    assert not known.may_be_carried(MEMBER)


async def test_who_was_a_member_of_a_room_we_left_is_not_carried(known: Acquaintances) -> None:
    known.proved(link(MEMBER))
    known.left(PRIVATE)
    assert not known.may_be_carried(MEMBER)


async def test_a_relay_is_asked_where_nothing_else_helps(known: Acquaintances) -> None:
    teller = link(MEMBER)
    known.proved(teller)
    known.heard(teller, PeersReceived(RELAY, False, (PeerHint(OTHER, is_random=True),)))
    assert known.relay_for(OTHER, False) is None
    assert known.relay_for(OTHER, True) == RELAY
    assert known.relay_for(b"?" * 32, True) is None
    known.present(Presence(is_random=True))
    assert known.relay_for(OTHER, False) == RELAY, "both are behind random NATs, so a punch is not even tried first"
    known.lost(teller, gone=True)
    assert known.relay_for(OTHER, True) is None


async def test_after_a_restart_remembered_members_are_dialled_and_failures_count_on(
    known: Acquaintances, journal: Journal, keyring: Keyring
) -> None:
    known.proved(link(MEMBER))
    known.dial_failed(MEMBER)
    journal.save_members(known.members.of(PRIVATE))
    again = started(journal, keyring)
    again.online = True
    await again.restore([PRIVATE])
    assert again.plan.take(FOREVER) == [MEMBER]
    again.dial_failed(MEMBER)
    assert again.members.of(PRIVATE)[0].failures == 2
    assert again.plan.take(anyio.current_time() + BACKOFF_S / 2) == []
