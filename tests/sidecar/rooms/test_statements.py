"""How signed statements get into catalogue and journal, and how those that ended leave both."""

from __future__ import annotations

import os
import sqlite3
from collections import Counter
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import anyio
import pytest

from hyperdht import KeyPair
from sidecar.catalogue.catalogue import Catalogue
from sidecar.catalogue.entry import ADAPTER_MEDIA_TYPE, AdapterFacts, BaseFacts, Blob, Entry, build_entry, sign_entry
from sidecar.catalogue.envelope import StatementKind, sign_raw
from sidecar.catalogue.fields import unix_seconds
from sidecar.catalogue.journal import Journal
from sidecar.catalogue.journal_thread import JournalThread
from sidecar.catalogue.limits import CLOCK_SKEW_S
from sidecar.catalogue.rows import RoomRow
from sidecar.rooms.key import RoomKey
from sidecar.rooms.messages import RawStatement
from sidecar.rooms.statements import Statements
from sidecar.transfer.provide import Provider
from sidecar.trust.keyring import Keyring

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sidecar.rooms.link import RoomLink

pytestmark = pytest.mark.anyio

CREATED, EXPIRES = "2026-11-23T12:00:00Z", "2026-11-24T12:00:00Z"
ENDED = unix_seconds(EXPIRES) + CLOCK_SKEW_S
ROOM = RoomKey(b"r" * 32)
DIGEST = "sha256:" + "ab" * 32


class Desk:
    """Statements over a real journal, with a clock of its own."""

    def __init__(self, folder: Path) -> None:
        self.now = unix_seconds(CREATED)
        self.bad_input: Counter[str] = Counter()
        self.forged: list[object] = []
        self.catalogue = Catalogue()
        self.journal = Journal.open(folder, now=lambda: self.now)
        epoch = os.urandom(16)
        self.journal.save_room(RoomRow(ROOM.room_id, "team", "private", ROOM.secret, epoch, 0, self.now))
        self.catalogue.open_room(ROOM.room_id, epoch=epoch)
        self.statements = Statements(
            catalogue=self.catalogue,
            journal=JournalThread(self.journal),
            keyring=Keyring(self.journal),
            provider=Provider(clock=lambda: 0.0),
            bad_input=self.bad_input,
            forged=lambda link: self.forged.append(link),
            wall_clock=lambda: self.now,
        )

    async def place(self, name: str, expires: str | None) -> None:
        entry = Entry(
            name=name,
            version=1,
            created=CREATED,
            expires=expires,
            base=BaseFacts("tiny", DIGEST, "llama"),
            adapter=AdapterFacts("gguf", 4, 8.0, 2, "0" * 64),
            blobs=(Blob(DIGEST, 10, ADAPTER_MEDIA_TYPE, "0" * 64),),
        )
        await self.statements.place_own(ROOM.room_id, sign_entry(build_entry(entry), KeyPair.generate()), held=False)

    @property
    def names(self) -> list[str]:
        return [entry.name for entry in self.catalogue.entries(ROOM.room_id)]


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    yield made
    made.journal.close()


async def test_entries_that_ended_leave_catalogue_and_journal(desk: Desk) -> None:
    await desk.place("for-a-day", EXPIRES)
    await desk.place("for-ever", None)
    desk.now = ENDED
    await desk.statements.forget_expired()
    assert desk.names == ["for-a-day", "for-ever"], "the tolerance for clocks counts"
    desk.now = ENDED + 1
    await desk.statements.forget_expired()
    assert desk.names == ["for-ever"]
    assert len(list(desk.journal.statements(ROOM.room_id))) == 1


async def test_full_disk_while_forgetting_does_not_raise(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(ids: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    await desk.place("for-a-day", EXPIRES)
    monkeypatch.setattr(desk.journal, "remove_statements", full)
    desk.now = ENDED + 1
    await desk.statements.forget_expired()
    assert desk.names == []
    assert "disk is full" in caplog.text


async def test_who_forwards_what_a_later_version_offers_is_not_taken_for_a_liar(desk: Desk) -> None:
    key_pair = KeyPair.generate()
    link = cast("RoomLink", SimpleNamespace(room_id=ROOM.room_id, peer_key=b"p" * 32))
    raws = [b'{"v":1,"kind":"dataset","rows":7}', b'{"v":1,"kind":"adapter"}']
    desk.statements.add(
        link,
        [
            RawStatement(
                int(StatementKind.ENTRY), key_pair.public_key, sign_raw(StatementKind.ENTRY, raw, key_pair), raw
            )
            for raw in raws
        ],
    )
    worked_off = anyio.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(desk.statements.run, lambda placed: worked_off.set())
        await worked_off.wait()
        tasks.cancel_scope.cancel()
    assert desk.names == []
    assert desk.bad_input == {"entry-kind": 1, "entry": 1}
    assert desk.forged == [link]
