from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sidecar.catalogue.journal import Journal
from sidecar.catalogue.rows import FollowedListRow, PublisherRow, Standing
from sidecar.errors import NotFound, NotTrusted
from sidecar.trust.keyring import Keyring
from tests.sidecar.catalogue.made import ALICE, BOB, NOW

if TYPE_CHECKING:
    from pathlib import Path

A, B = ALICE.public_key, BOB.public_key


class Memory:
    """A store that keeps rows in memory and can refuse to."""

    def __init__(self) -> None:
        self.rows: dict[bytes, PublisherRow] = {}
        self.lists: dict[bytes, FollowedListRow] = {}
        self.broken = False

    def publishers(self) -> list[PublisherRow]:
        return list(self.rows.values())

    def save_publisher(self, row: PublisherRow) -> None:
        if self.broken:
            raise OSError("disk full")
        self.rows[row.key] = row

    def followed_lists(self) -> list[FollowedListRow]:
        return list(self.lists.values())

    def save_followed_list(self, row: FollowedListRow) -> None:
        self.lists[row.key] = row

    def remove_followed_list(self, key: bytes) -> None:
        del self.lists[key]


def test_seen_is_not_trusted() -> None:
    keyring = Keyring(Memory())
    assert keyring.standing(A) is Standing.UNKNOWN
    assert keyring.see(A, 5.0) == PublisherRow(A, 5.0)
    assert keyring.see(A, 9.0).first_seen == 5.0
    assert keyring.standing(A) is Standing.UNKNOWN


def test_decisions_survive_a_restart(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path, now=lambda: NOW)
    keyring = Keyring(journal)
    keyring.trust(A, 1.0)
    keyring.block(B, 2.0)
    keyring.pin("alice", A, 3.0)
    journal.close()
    again = Keyring(Journal.open(tmp_path, now=lambda: NOW))
    assert again.standing(A) is Standing.TRUSTED
    assert again.standing(B) is Standing.BLOCKED
    assert again.label(A) == "alice"
    assert [row.key for row in again.rows()] == [A, B]


def test_last_decision_counts() -> None:
    keyring = Keyring(Memory())
    keyring.trust(A, 1.0)
    keyring.block(A, 2.0)
    assert keyring.standing(A) is Standing.BLOCKED
    keyring.forget_decision(A, 3.0)
    assert keyring.standing(A) is Standing.UNKNOWN


def test_a_decision_that_cannot_be_saved_does_not_count() -> None:
    store = Memory()
    keyring = Keyring(store)
    keyring.block(A, 1.0)
    store.broken = True
    with pytest.raises(OSError, match="disk full"):
        keyring.trust(A, 2.0)
    assert keyring.standing(A) is Standing.BLOCKED


def test_t14_a_pinned_name_under_another_key_is_an_alarm_and_changes_nothing() -> None:
    keyring = Keyring(Memory())
    keyring.pin("alice", A, 1.0)
    assert keyring.pin("alice", A, 2.0).label == "alice"
    with pytest.raises(NotTrusted) as alarm:
        keyring.pin("alice", B, 3.0)
    assert A.hex()[:12] in alarm.value.cause
    assert B.hex()[:12] in alarm.value.cause
    assert keyring.label(A) == "alice"
    assert keyring.label(B) is None
    keyring.block(A, 4.0)
    with pytest.raises(NotTrusted):
        keyring.pin("alice", B, 5.0)
    keyring.unpin("alice")
    keyring.pin("alice", B, 6.0)
    assert keyring.find("alice") == B
    with pytest.raises(NotFound):
        keyring.unpin("nobody")


def test_find_by_key_prefix_and_name() -> None:
    keyring = Keyring(Memory())
    keyring.see(A, 1.0)
    assert keyring.find(A.hex()) == A
    assert keyring.find(B.hex().upper()) == B, "a whole key need not be known"
    assert keyring.find(A.hex()[:8]) == A
    assert keyring.find(B.hex()[:12], others=[B]) == B
    for text in (A.hex()[:7], "zz" * 8, "", B.hex()[:12], "alice"):
        with pytest.raises(NotFound):
            keyring.find(text)
    twin = A[:6] + bytes(26)
    with pytest.raises(NotFound, match="more than one"):
        keyring.find(A.hex()[:12], others=[twin])


def test_followed_list_blocks_until_it_is_left_and_own_decisions_are_stronger(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path, now=lambda: NOW)
    keyring = Keyring(journal)
    assert not keyring.take_list(A, 1, [B]), "nobody follows it"
    keyring.follow(A)
    assert keyring.take_list(A, 2, [A, B])
    assert keyring.standing(B) is Standing.BLOCKED
    assert keyring.standing(A) is Standing.UNKNOWN, "a list cannot name its own publisher"
    assert not keyring.take_list(A, 1, []), "older ones do not count (T15)"
    again = Keyring(journal)
    assert again.standing(B) is Standing.BLOCKED
    again.trust(B, 1.0)
    assert again.standing(B) is Standing.TRUSTED
    again.forget_decision(B, 2.0)
    again.unfollow(A)
    assert again.standing(B) is Standing.UNKNOWN
    with pytest.raises(NotFound):
        again.unfollow(A)
    assert Keyring(journal).lists() == ()
