from __future__ import annotations

from itertools import product

import pytest

from sidecar.catalogue.rows import NOBODY, Standing
from sidecar.trust.policy import Decision, Enforcement, Level, ShareFacts, may_install, may_share
from tests.sidecar.catalogue.made import ALICE, BOB, NOW, entry


def install(standing: Standing, enforcement: Enforcement, *, own: bool = False, expires: str | None = None) -> Decision:
    return may_install(entry(expires=expires), standing, own=own, enforcement=enforcement, now=NOW * 1.1)


@pytest.mark.parametrize(("enforcement", "own"), list(product(Enforcement, [True, False])))
def test_t01_blocked_publishers_are_never_installed(enforcement: Enforcement, own: bool) -> None:
    decision = install(Standing.BLOCKED, enforcement, own=own)
    assert (decision.ok, decision.level) == (False, Level.REFUSE)
    assert "blocked" in decision.reason


@pytest.mark.parametrize(
    ("standing", "enforcement", "ok", "level"),
    [
        (Standing.UNKNOWN, Enforcement.OFF, True, Level.OK),
        (Standing.UNKNOWN, Enforcement.WARN, True, Level.WARN),
        (Standing.UNKNOWN, Enforcement.ENFORCE, False, Level.REFUSE),
        (Standing.TRUSTED, Enforcement.OFF, True, Level.OK),
        (Standing.TRUSTED, Enforcement.WARN, True, Level.OK),
        (Standing.TRUSTED, Enforcement.ENFORCE, True, Level.OK),
    ],
)
def test_t01_trust_needed_by_enforcement(standing: Standing, enforcement: Enforcement, ok: bool, level: Level) -> None:
    decision = install(standing, enforcement)
    assert (decision.ok, decision.level) == (ok, level)
    assert decision.reason


def test_our_own_entries_need_no_trust() -> None:
    assert install(Standing.UNKNOWN, Enforcement.ENFORCE, own=True).ok


def test_t15_expired_offers_are_refused_whoever_made_them() -> None:
    decision = install(Standing.TRUSTED, Enforcement.OFF, own=True, expires="2026-12-01T00:00:00Z")
    assert not decision.ok
    assert "2026-12-01" in decision.reason


def test_what_we_installed_from_a_peer_is_not_offered_as_ours() -> None:
    for asked in (True, False):
        decision = may_share(ShareFacts("sql", "sha256:x", BOB.public_key, asked), ALICE.public_key)
        assert not decision.ok
        assert BOB.public_key.hex()[:12] in decision.reason


def test_what_came_unsigned_is_offered_under_our_signature_only_by_name() -> None:
    assert may_share(ShareFacts("sql", "sha256:x", NOBODY, True), ALICE.public_key).ok
    decision = may_share(ShareFacts("sql", "sha256:x", NOBODY, False), ALICE.public_key)
    assert not decision.ok
    assert "did not sign" in decision.reason


def test_our_own_adapters_are_shared() -> None:
    for received_from in (None, ALICE.public_key):
        assert may_share(ShareFacts("sql", "sha256:x", received_from, True), ALICE.public_key).ok
