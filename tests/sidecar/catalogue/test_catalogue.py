from __future__ import annotations

import pytest

from sidecar.catalogue.catalogue import Catalogue, Outcome, Status
from sidecar.catalogue.entry import build_entry, sign_entry
from sidecar.catalogue.fields import unix_seconds
from sidecar.errors import CatalogueError, NotFound
from tests.sidecar.catalogue.made import ALICE, BOB, MODEL, NOW, blob, entry, withdrawal

ROOM, OTHER = b"r" * 16, b"o" * 16
EPOCH = b"e" * 16


@pytest.fixture
def catalogue() -> Catalogue:
    catalogue = Catalogue()
    catalogue.open_room(ROOM, epoch=EPOCH)
    catalogue.open_room(OTHER, epoch=b"f" * 16)
    return catalogue


def put(catalogue: Catalogue, statement: object, room: bytes = ROOM) -> Status:
    return outcome(catalogue, statement, room).status


def outcome(catalogue: Catalogue, statement: object, room: bytes = ROOM) -> Outcome:
    return catalogue.put(room, statement, now=NOW)  # type: ignore[arg-type]


def test_new_entry_and_new_version(catalogue: Catalogue) -> None:
    first, second = entry(version=1), entry(version=2)
    assert put(catalogue, first) is Status.ADDED
    assert put(catalogue, first) is Status.KNOWN
    assert put(catalogue, second) is Status.ADDED
    assert catalogue.entries(ROOM) == [second]
    assert catalogue.get(ROOM, first.short_id) is None
    assert catalogue.get(ROOM, second.short_id) == second
    assert catalogue.highest(ALICE.public_key, "SQL-LoRA") == 2


def test_t15_older_versions_are_refused_in_every_room(catalogue: Catalogue) -> None:
    put(catalogue, entry(version=5))
    for room in (ROOM, OTHER):
        refused = outcome(catalogue, entry(version=4), room)
        assert refused.status is Status.OLDER
        assert not refused.changed
        assert "older than version 5" in refused.reason
    assert put(catalogue, entry(version=5), OTHER) is Status.ADDED


def test_t15_same_version_with_other_content_is_refused(catalogue: Catalogue) -> None:
    first = entry(version=5)
    put(catalogue, first)
    assert put(catalogue, entry(version=5, description="other")) is Status.CONFLICT
    assert put(catalogue, withdrawal(version=5)) is Status.CONFLICT
    assert catalogue.entries(ROOM) == [first]


def test_t15_withdrawal_cannot_be_undone_by_replay(catalogue: Catalogue) -> None:
    old = entry(version=5)
    put(catalogue, old)
    put(catalogue, old, OTHER)
    taken_back = outcome(catalogue, withdrawal(version=6))
    assert taken_back.status is Status.WITHDRAWN
    assert {place.room_id for place in taken_back.placements} == {ROOM, OTHER}
    for room in (ROOM, OTHER):
        assert catalogue.entries(room) == []
        assert put(catalogue, old, room) is Status.OLDER
    assert put(catalogue, entry(version=7)) is Status.ADDED
    assert put(catalogue, withdrawal(version=6)) is Status.OLDER


def test_withdrawal_of_something_never_seen_is_remembered(catalogue: Catalogue) -> None:
    assert put(catalogue, withdrawal(version=3)) is Status.WITHDRAWN
    assert put(catalogue, entry(version=2)) is Status.OLDER


def test_t10_same_name_two_keys_is_ambiguous_unless_the_publisher_is_named(catalogue: Catalogue) -> None:
    ours, theirs = entry(key_pair=ALICE), entry(key_pair=BOB, version=9)
    put(catalogue, ours)
    assert catalogue.resolve("sql-lora") == ours
    assert catalogue.refs().shortest(ours) == "sql-lora"
    put(catalogue, theirs)
    assert len(catalogue.entries(ROOM)) == 2
    with pytest.raises(CatalogueError) as refused:
        catalogue.resolve("sql-lora")
    assert ours.ref in refused.value.cause
    assert theirs.ref in refused.value.cause
    assert catalogue.resolve(ours.ref) == ours
    assert catalogue.resolve(f"{BOB.public_key.hex()}/SQL-lora") == theirs
    assert catalogue.refs().shortest(theirs) == theirs.ref
    assert catalogue.resolve(theirs.id.hex()[:10]) == theirs


def test_t10_a_version_of_one_key_does_not_touch_the_other(catalogue: Catalogue) -> None:
    put(catalogue, entry(key_pair=BOB, version=9))
    assert put(catalogue, entry(key_pair=ALICE, version=1)) is Status.ADDED
    put(catalogue, withdrawal(key_pair=ALICE, version=10))
    assert [e.publisher for e in catalogue.entries(ROOM)] == [BOB.public_key]


def test_t10_a_name_that_looks_like_an_id_does_not_win_over_it(catalogue: Catalogue) -> None:
    target = entry()
    put(catalogue, target)
    put(catalogue, entry(name=target.id.hex()[:12], key_pair=BOB))
    with pytest.raises(CatalogueError):
        catalogue.resolve(target.id.hex()[:12])


@pytest.mark.parametrize("ref", ["", "nothing", "/", "a/b/c", "ab/sql-lora", "\x00", "0" * 64, "x" * 10_000])
def test_refs_that_mean_nothing_are_not_found(catalogue: Catalogue, ref: str) -> None:
    put(catalogue, entry())
    with pytest.raises(NotFound):
        catalogue.resolve(ref)


def test_resolve_prefers_the_newest_version_over_all_rooms(catalogue: Catalogue) -> None:
    put(catalogue, entry(version=1), OTHER)
    put(catalogue, entry(version=2), ROOM)
    assert catalogue.resolve("sql-lora").version == 2
    assert catalogue.resolve("sql-lora", [OTHER]).version == 1
    assert catalogue.rooms_of(entry(version=2)) == (ROOM,)


def test_names_that_differ_in_case_are_one_adapter(catalogue: Catalogue) -> None:
    put(catalogue, entry(name="SQL", version=1))
    assert put(catalogue, entry(name="sql", version=2)) is Status.ADDED
    assert [e.name for e in catalogue.entries(ROOM)] == ["sql"]


def test_changes_are_told_once_and_in_order(catalogue: Catalogue) -> None:
    names = ["a", "b", "c", "d"]
    for name in names:
        put(catalogue, entry(name=name))
    everything = catalogue.changes_since(ROOM, bytes(16), 3, 10)
    assert [r.statement.name for r in everything.records] == names
    assert (everything.epoch, everything.sequence, everything.more) == (EPOCH, 4, False)
    put(catalogue, entry(name="b", version=2))
    delta = catalogue.changes_since(ROOM, EPOCH, 4, 10)
    assert [(r.statement.name, r.statement.version) for r in delta.records] == [("b", 2)]
    assert catalogue.changes_since(ROOM, EPOCH, delta.sequence, 10).records == ()
    assert catalogue.position(ROOM) == (EPOCH, 5)


def test_changes_come_in_pages_and_survive_changes_in_between(catalogue: Catalogue) -> None:
    for number in range(10):
        put(catalogue, entry(name=f"n{number}"))
    seen: dict[str, int] = {}
    position, more = 0, True
    while more:
        page = catalogue.changes_since(ROOM, EPOCH, position, 3)
        assert len(page.records) <= 3
        seen |= {r.statement.name: r.statement.version for r in page.records}
        position, more = page.sequence, page.more
        if position == 6:
            put(catalogue, entry(name="n0", version=2))
            put(catalogue, entry(name="n9", version=2))
    assert seen == {f"n{number}": 2 if number in (0, 9) else 1 for number in range(10)}


def test_a_position_ahead_of_us_gets_nothing(catalogue: Catalogue) -> None:
    put(catalogue, entry())
    assert catalogue.changes_since(ROOM, EPOCH, 99, 10).records == ()


def test_holding_a_blob_changes_the_offer(catalogue: Catalogue) -> None:
    put(catalogue, entry(name="a", blobs=(blob("1"),)))
    put(catalogue, entry(name="b", blobs=(blob("2"),)))
    changed = catalogue.set_held("sha256:" + "1" * 64, True)
    assert [(place.sequence, e.name) for place, e in changed] == [(3, "a")]
    assert catalogue.set_held("sha256:" + "1" * 64, True) == ()
    assert [(r.statement.name, r.held) for r in catalogue.changes_since(ROOM, EPOCH, 0, 9).records] == [
        ("b", False),
        ("a", True),
    ]


def test_t20_limits_per_publisher_and_per_room() -> None:
    catalogue = Catalogue(max_per_publisher=2, max_per_room=3, max_remembered=4)
    catalogue.open_room(ROOM, epoch=EPOCH)
    catalogue.open_room(OTHER, epoch=EPOCH)
    assert [put(catalogue, entry(name=name)) for name in "ab"] == [Status.ADDED] * 2
    third = outcome(catalogue, entry(name="c"))
    assert third.status is Status.FULL
    assert "2 entries in this room" in third.reason
    assert put(catalogue, entry(name="a", version=2)) is Status.ADDED, "a new version takes no more room"
    assert put(catalogue, entry(name="x", key_pair=BOB)) is Status.ADDED
    assert "The room has 3" in outcome(catalogue, entry(name="y", key_pair=BOB)).reason
    assert put(catalogue, entry(name="y", key_pair=BOB), OTHER) is Status.ADDED
    assert "remembered already" in outcome(catalogue, entry(name="z", key_pair=BOB), OTHER).reason
    assert put(catalogue, entry(name="x", key_pair=BOB, version=2), OTHER) is Status.ADDED


def test_expired_entries_are_refused_and_pruned(catalogue: Catalogue) -> None:
    ends = "2026-12-01T00:00:00Z"
    limited = entry(expires=ends)
    late = unix_seconds(ends) + 10_000
    assert catalogue.put(ROOM, limited, now=late).status is Status.EXPIRED
    assert put(catalogue, limited) is Status.ADDED
    assert catalogue.prune_expired(NOW) == ()
    assert catalogue.prune_expired(late) == (limited,)
    assert catalogue.entries(ROOM) == []
    assert put(catalogue, entry(version=1)) is Status.CONFLICT, "the version stays remembered"


def test_left_room_is_forgotten_but_versions_are_not(catalogue: Catalogue) -> None:
    put(catalogue, entry(version=4))
    catalogue.close_room(ROOM)
    with pytest.raises(NotFound):
        catalogue.entries(ROOM)
    catalogue.open_room(ROOM, epoch=b"n" * 16)
    assert catalogue.count(ROOM) == 0
    assert put(catalogue, entry(version=3)) is Status.OLDER


def test_rooms_are_isolated(catalogue: Catalogue) -> None:
    put(catalogue, entry())
    assert catalogue.entries(OTHER) == []
    assert catalogue.position(OTHER)[1] == 0
    assert catalogue.rooms() == (ROOM, OTHER)


def test_a_whole_listing_of_refs_is_one_walk(catalogue: Catalogue) -> None:
    entries = [entry(name=f"n{number}", key_pair=key_pair) for number in range(200) for key_pair in (ALICE, BOB)]
    for each in entries:
        put(catalogue, each)
    refs = catalogue.refs()
    assert [refs.resolve(refs.shortest(each)) for each in entries] == entries
    assert refs.shortest(entry(name="gone")) == entry(name="gone").id.hex()


def test_a_model_is_held_with_its_weights_and_not_without_any_part(catalogue: Catalogue) -> None:
    signed = sign_entry(build_entry(MODEL), ALICE)
    catalogue.put(ROOM, signed, now=NOW)
    weights, template, _ = (blob.digest for blob in MODEL.blobs)
    assert all(catalogue.offers_blob(ROOM, blob.digest) for blob in MODEL.blobs)
    assert catalogue.set_held(template, True) == ()
    assert len(catalogue.set_held(weights, True)) == 1
    assert len(catalogue.set_held(template, False)) == 1
    catalogue.put(ROOM, withdrawal(MODEL.name), now=NOW)
    assert not any(catalogue.offers_blob(ROOM, blob.digest) for blob in MODEL.blobs)
