"""Plans as a function of facts."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_bridge.digests import Digest
from ollama_bridge.names import ModelName
from sidecar.catalogue.entry import build_entry, sign_entry
from sidecar.catalogue.rows import InstallRow, RuleRow, SyncedRow, SyncState
from sidecar.control_types import RuleOptions
from sidecar.errors import UsageError
from sidecar.local_models import LocalModel
from sidecar.sync.facts import AdapterFact, Delay, Facts, OfferFact
from sidecar.sync.planner import namespace, plan, plan_shares
from sidecar.sync.rules import full_name, make_rule
from sidecar.trust.policy import Decision, Level
from tests.sidecar.catalogue.made import ALICE, BOB, ENTRY, MODEL, NOW, blob, entry

if TYPE_CHECKING:
    from hyperdht.crypto import KeyPair
    from sidecar.catalogue.entry import SignedEntry

ROOM = b"r" * 16
RULE = RuleRow("00000001", "fetch", ROOM, ALICE.public_key, created_at=1.0)
OK = Decision(True, "Trusted.", Level.OK)
BASES = {"registry.ollama.ai/library/llama3.2/1b": ENTRY.base.digest}
SIZE = 1_000


def offer(name: str = "sql-lora", version: int = 1, **changes: Any) -> OfferFact:
    key_pair: KeyPair = changes.pop("key_pair", ALICE)
    signed: SignedEntry = entry(name, version, key_pair, blobs=(blob("4"),), **changes.pop("fields", {}))
    return replace(OfferFact(ROOM, signed, True, OK, sources=1), **changes)


def facts(*offers: OfferFact, **changes: Any) -> Facts:
    given: dict[str, Any] = {"rules": (RULE,), "labels": {ROOM: "team"}, "bases": BASES, "quota_bytes": 10 * SIZE}
    return Facts(now=NOW, offers=offers, **(given | changes))


def kept(version: int, name: str = "sql-lora", **changes: Any) -> SyncedRow:
    row = SyncedRow(ALICE.public_key, name, version, f"team/{name}:v{version}", ROOM, RULE.id, SIZE, 1.0, 1.0)
    return replace(row, **changes)


def there(*rows: SyncedRow, latest: int | None = None) -> dict[str, Any]:
    """What Ollama and the journal know when these versions are installed as we did it."""
    names = [(row.model, row.version) for row in rows]
    names += [(rows[0].model.rpartition(":")[0], latest)] if latest is not None else []
    notes = [
        InstallRow(name, "d", "b", "pull", b"i", rows[0].publisher, version, f"sha256:{version}", 1.0, rows[0].name)
        for name, version in names
    ]
    models = {full_name(ModelName.parse(note.name)): note.manifest_digest for note in notes}
    return {"synced": rows, "installs": tuple(notes), "models": models}


def only_wait(made: Any) -> str:
    assert not made.installs
    (wait,) = made.waits
    return str(wait.reason)


def test_an_offer_is_installed_under_room_name_and_version() -> None:
    (install,) = plan(facts(offer())).installs
    assert install.model.display == "team/sql-lora:v1"
    assert install.fetch_bytes == SIZE
    assert plan(facts(offer(is_here=True, sources=0))).installs[0].fetch_bytes == 0


def test_only_the_newest_version_and_only_once() -> None:
    made = plan(facts(offer(version=1), offer(version=3), offer(version=2), rules=(RULE, replace(RULE, id="2"))))
    assert [(each.model.tag, each.rule.id) for each in made.installs] == [("v3", RULE.id)]


def test_what_is_installed_or_running_is_not_planned_again() -> None:
    assert plan(facts(offer(), **there(kept(1), latest=1))) == plan(facts(**there(kept(1), latest=1)))
    running = {(ALICE.public_key, "sql-lora", 1): (RULE.id, SIZE)}
    assert not plan(facts(offer(), running=running)).installs


@pytest.mark.parametrize(
    ("made", "changes", "reason"),
    [
        (offer(sources=0), {}, "No connected peer"),
        (offer(), {"bases": {}}, "Its base llama3.2:1b"),
        (offer(), {"obstacle": "Ollama is away."}, "Ollama is away."),
        (offer(), {"opens_at": NOW + 60}, "schedule"),
        (offer(), {"quota_bytes": SIZE - 1}, "quota"),
        (offer(), {"rules": (replace(RULE, max_bytes=SIZE - 1),)}, "the rule allows 999"),
        (offer(is_trusted=False), {"rules": (replace(RULE, publisher=None),)}, "not trusted"),
        (offer(decision=Decision(False, "Refused here.", Level.REFUSE)), {}, "Refused here."),
        (offer(), {"delays": {offer().entry.id: Delay(NOW + 5, "It broke.")}}, "It broke."),
        (offer(), {"synced": (kept(1, state=SyncState.REMOVED),)}, "removed by you"),
        (offer(), {"synced": (kept(1, state=SyncState.EVICTED),)}, "make room"),
    ],
)
def test_every_reason_to_wait_is_said(made: OfferFact, changes: dict[str, Any], reason: str) -> None:
    assert reason in only_wait(plan(facts(made, **changes)))


@pytest.mark.parametrize(
    "rule",
    [
        replace(RULE, publisher=BOB.public_key),
        replace(RULE, name="other*"),
        replace(RULE, tag="python"),
        replace(RULE, base="qwen3:1b"),
        replace(RULE, room_id=b"x" * 16),
        replace(RULE, direction="share", publisher=None),
    ],
)
def test_what_a_rule_is_not_about_is_not_mentioned(rule: RuleRow) -> None:
    made = plan(facts(offer(), rules=(rule,)))
    assert (made.installs, made.waits) == ((), ())


def test_rate_counts_what_was_installed_in_the_last_hour() -> None:
    rule = replace(RULE, per_hour=2)
    recent = kept(1, "older", installed_at=NOW - 60)
    made = plan(facts(offer("a"), offer("b"), rules=(rule,), **there(recent, latest=1)))
    assert len(made.installs) == 1
    assert [wait.until for wait in made.waits] == [NOW - 60 + 3600]


def test_t20_quota_evicts_superseded_versions_first_then_by_last_use() -> None:
    old, new = kept(1, used_at=NOW), kept(2, used_at=5.0)
    made = plan(facts(offer("b"), quota_bytes=2 * SIZE, **there(old, new, latest=2)))
    assert [(each.row.version, each.moving_name) for each in made.installs[0].evict] == [(1, None)]
    made = plan(facts(offer("b"), quota_bytes=SIZE, **there(old, new, latest=2)))
    assert [each.row.version for each in made.installs[0].evict] == [1, 2]
    assert made.installs[0].evict[1].moving_name == ModelName.parse("team/sql-lora")
    just = replace(new, used_at=NOW - 60)
    assert "quota" in only_wait(plan(facts(offer("b"), quota_bytes=SIZE, **there(old, just, latest=2))))


def test_what_a_clock_that_was_ahead_wrote_down_holds_nothing_up() -> None:
    """It was set right since; by what was noted before, everything would have to wait until then."""
    then = NOW + 86_400
    other = kept(1, "other", installed_at=then, used_at=then)
    limited = replace(RULE, per_hour=1)
    assert plan(facts(offer(), rules=(limited,), **there(other, latest=1))).installs
    delays = {offer().entry.id: Delay(then, "Ollama was away.")}
    assert plan(facts(offer(), delays=delays)).installs
    (install,) = plan(facts(offer(), **there(other, latest=1), quota_bytes=SIZE)).installs
    assert [each.row.model for each in install.evict] == ["team/other:v1"]


def test_t20_bytes_are_promised_once() -> None:
    made = plan(facts(*(offer(name) for name in "abcde"), quota_bytes=3 * SIZE))
    assert len(made.installs) == 3
    assert len(made.waits) == 2


def test_what_the_user_changed_is_neither_evicted_nor_counted_nor_moved() -> None:
    changed = there(kept(1), kept(2), latest=1)
    changed["models"]["registry.ollama.ai/team/sql-lora/latest"] = "sha256:mine"
    made = plan(facts(**changed))
    assert not made.names
    assert "changed by you" in made.waits[0].reason
    changed["models"]["registry.ollama.ai/team/sql-lora/v1"] = "sha256:mine too"
    assert plan(facts(**changed)).used_bytes == SIZE


def test_moving_name_follows_the_newest_that_is_not_set_aside() -> None:
    behind = there(kept(1), kept(2), latest=1)
    assert [each.row.version for each in plan(facts(**behind)).names] == [2]
    aside = there(kept(1), kept(2, state=SyncState.SET_ASIDE), latest=1)
    assert not plan(facts(**aside)).names
    assert [each.row.version for each in plan(facts(**there(kept(1), kept(2)))).names] == [2]


def test_removed_by_the_user_is_noted_only_when_ollama_was_seen() -> None:
    lost = facts(synced=(kept(1),))
    assert [row.version for row in plan(lost).gone] == [1]
    assert not plan(replace(lost, obstacle="Ollama is away.")).gone


def test_t10_another_publisher_of_a_name_gets_a_name_with_its_key() -> None:
    rules = (RULE, replace(RULE, id="2", publisher=BOB.public_key))
    made = plan(facts(offer(key_pair=BOB), rules=rules, **there(kept(1), latest=1)))
    assert made.installs[0].model.display == f"team/sql-lora.{BOB.public_key.hex()[:12]}:v1"
    long = plan(
        facts(offer("n" * 80, key_pair=BOB), rules=rules, models={f"registry.ollama.ai/team/{'n' * 80}/x": "m"})
    )
    assert len(long.installs[0].model.model) == 80


def test_followed_adapter_keeps_its_name_when_the_room_is_called_differently() -> None:
    made = plan(facts(offer(version=2), labels={ROOM: "renamed"}, **there(kept(1), latest=1)))
    assert made.installs[0].model.display == "team/sql-lora:v2"


@given(st.text(max_size=64))
def test_t07_any_label_gives_a_valid_model_name(label: str) -> None:
    ModelName.parse(f"{namespace(label, ROOM)}/sql-lora:v1")


def test_share_rules() -> None:
    digest = Digest.parse(ENTRY.base.digest)
    model = LocalModel(ModelName.parse("sql-lora"), digest, (Digest("5" * 64),), SIZE)
    rule = RuleRow("2", "share", ROOM)
    shares = plan_shares(facts(rules=(rule, replace(rule, id="3")), adapters=(AdapterFact(model),)))
    assert [(each.rule.id, each.model) for each in shares] == [("2", model)]
    for other in (
        replace(rule, name="x*"),
        replace(rule, max_bytes=SIZE - 1),
        replace(rule, base="qwen3:1b"),
        replace(rule, room_id=b"x" * 16),
    ):
        assert not plan_shares(facts(rules=(other,), adapters=(AdapterFact(model),)))
    assert not plan_shares(facts(rules=(rule,), adapters=(AdapterFact(model, frozenset({ROOM})),)))


@pytest.mark.parametrize(
    "options",
    [
        RuleOptions("share", "team", tag="sql"),
        RuleOptions("share", "team", per_hour=1),
        RuleOptions("fetch", "team", name=""),
        RuleOptions("fetch", "team", base="../../etc"),
        RuleOptions("fetch", "team", max_bytes=0),
    ],
)
def test_rules_that_make_no_sense_are_refused(options: RuleOptions) -> None:
    with pytest.raises(UsageError):
        make_rule(options, ROOM, None, NOW)


def test_whole_models_are_left_alone_unless_the_rule_says_so() -> None:
    whole = replace(offer(), entry=sign_entry(build_entry(MODEL), ALICE))
    changes: dict[str, Any] = {"bases": {}, "quota_bytes": 2 * MODEL.size}
    assert plan(facts(whole, **changes)) == plan(facts(**changes))
    rule = replace(RULE, models=True)
    (install,) = plan(facts(whole, rules=(rule,), **changes)).installs
    assert install.fetch_bytes == MODEL.size, "all of its blobs"
    assert plan(facts(offer(), whole, rules=(rule,), **(changes | {"bases": BASES}))).installs[-1].fetch_bytes
    small = replace(rule, max_bytes=MODEL.size - 1)
    assert "the rule allows" in only_wait(plan(facts(whole, rules=(small,), **changes)))


def test_whole_models_are_shared_only_by_a_rule_that_says_so() -> None:
    plain = LocalModel(ModelName.parse("llama3.2:1b"), Digest.parse(ENTRY.base.digest), (), SIZE)
    rule = RuleRow("00000002", "share", ROOM)
    given = facts(rules=(rule,), adapters=(AdapterFact(plain),))
    assert plan_shares(given) == ()
    assert [share.model for share in plan_shares(replace(given, rules=(replace(rule, models=True),)))] == [plain]


def test_a_rule_for_models_asks_for_no_base() -> None:
    with pytest.raises(UsageError, match="base"):
        make_rule(RuleOptions("fetch", "team", base="llama3.2:1b", models=True), ROOM, None, NOW)
    assert make_rule(RuleOptions("fetch", "team", models=True), ROOM, None, NOW).models
