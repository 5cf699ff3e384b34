"""Facts in, plan out. The same facts always give the same plan, and a dry run prints exactly what a run does.

Nothing here waits, fetches or asks. A plan is made anew from what is there after every change, so a plan that could not
be carried out (Ollama away, quota reached, a crash) loses nothing: what is still missing is in the next one.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

from ollama_bridge.names import ModelName
from sidecar.catalogue.rows import SyncState

from .facts import Evict, Install, Name, Plan, Share, Wait, version_of
from .rules import full_name, wants_model, wants_offer

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from sidecar.catalogue.rows import InstallRow, RuleRow, SyncedRow

    from .facts import Facts, OfferFact

HOUR_S = 3600.0
JUST_USED_S = 3600.0
"""A followed adapter that was in use so recently is not evicted, however little room there is."""
FINGERPRINT_DIGITS = 12
MAX_PART_CHARS = 80
_NOT_IN_NAMESPACE = re.compile(r"[^A-Za-z0-9_-]+")


def plan(facts: Facts) -> Plan:
    """What the rules ask for, given what is there."""
    return _Planning(facts).plan()


def plan_shares(facts: Facts) -> tuple[Share, ...]:
    """The adapters of the store that share rules offer."""
    found = []
    for adapter in facts.adapters:
        offered = set(adapter.settled_in)
        for rule in facts.rules:
            if rule.direction != "share" or rule.room_id in offered or rule.room_id not in facts.labels:
                continue
            if wants_model(rule, adapter.model, facts.bases):
                offered.add(rule.room_id)
                found.append(Share(rule, adapter.model, "A rule offers it to the room."))
    return tuple(found)


def namespace(label: str, room_id: bytes) -> str:
    """A room's label as the first part of model names."""
    text = _NOT_IN_NAMESPACE.sub("-", label).strip("-")[:MAX_PART_CHARS]
    return text or f"room-{room_id.hex()[:6]}"


class _Planning:
    """One plan being made. Bytes promised to earlier lines are gone for later ones."""

    def __init__(self, facts: Facts) -> None:
        self._facts = facts
        self._notes = {full_name(ModelName.parse(row.name)): row for row in facts.installs}
        self._known = {(row.publisher, row.name, row.version): row for row in facts.synced}
        self._kept = [row for row in facts.synced if self._is_kept(row)]
        self._leaving: set[str] = set()
        self._used = sum(row.size for row in self._kept) + sum(size for _, size in facts.running.values())
        self._recent = Counter(row.rule for row in facts.synced if self._within(HOUR_S, row.installed_at))
        self._recent.update(rule for rule, _ in facts.running.values())

    def plan(self) -> Plan:
        used = sum(row.size for row in self._kept)
        installs: list[Install] = []
        waits: list[Wait] = []
        for rule, offer in self._wanted():
            found = self._judge(rule, offer)
            if isinstance(found, Install):
                installs.append(found)
            elif found is not None:
                waits.append(found)
        names = tuple(self._names(waits))
        gone = tuple(row for row in self._facts.synced if self._is_gone(row))
        return Plan(tuple(installs), names, plan_shares(self._facts), tuple(waits), gone, used)

    def _within(self, span_s: float, at: float) -> bool:
        """Whether a moment is as near as that. One in the future is of a clock that was ahead and has been set right."""
        return abs(self._facts.now - at) < span_s

    # --- which offers ------------------------------------------------------------------------------------------------

    def _wanted(self) -> list[tuple[RuleRow, OfferFact]]:
        """The newest version of each adapter that a rule is about, with the first such rule."""
        newest: dict[tuple[bytes, str], OfferFact] = {}
        for offer in self._facts.offers:
            key = (offer.entry.publisher, offer.entry.name.lower())
            if key not in newest or newest[key].entry.version < offer.entry.version:
                newest[key] = offer
        chosen: dict[tuple[bytes, str], tuple[RuleRow, OfferFact]] = {}
        for rule in self._facts.rules:
            if rule.direction != "fetch" or rule.room_id not in self._facts.labels:
                continue
            for offer in self._facts.offers:
                key = (offer.entry.publisher, offer.entry.name.lower())
                is_newest = newest[key].entry.version == offer.entry.version
                if offer.room_id == rule.room_id and is_newest and wants_offer(rule, offer.entry, self._facts.bases):
                    chosen.setdefault(key, (rule, offer))
        return list(chosen.values())

    # --- one offer -----------------------------------------------------------------------------------------------------

    def _judge(self, rule: RuleRow, offer: OfferFact) -> Install | Wait | None:
        """An install, the reason why not now, or None where nothing is left to do or to say."""
        facts, entry = self._facts, offer.entry
        version = version_of(entry)
        if version in facts.running or self._is_settled(version):
            return None
        model = self._model_name(offer)

        def wait(reason: str, until: float | None = None, *, passing: bool = False) -> Wait:
            size = entry.entry.size
            return Wait(rule.id, offer.room_id, entry.ref, reason, size, model.display, until, passing)

        if (past := self._known.get(version)) is not None:
            words = {SyncState.EVICTED: "was removed to make room", SyncState.REMOVED: "was removed by you"}
            said = words.get(past.state, "was set aside by you")
            return wait(f"Version {entry.version} {said}; a newer version will come, or `ollaswarm get` brings it.")
        if (reason := self._refusal(rule, offer, model)) is not None:
            return wait(reason)
        if not entry.entry.is_model and entry.entry.base.digest not in facts.bases.values():
            base = entry.entry.base
            return wait(f"Its base {base.name} ({base.digest[:19]}…) is not in this Ollama.", passing=True)
        if facts.obstacle:
            return wait(facts.obstacle)
        if (delay := facts.delays.get(entry.id)) is not None and facts.now < delay.until <= facts.now + HOUR_S:
            return wait(f"Tried and failed: {delay.cause}", delay.until)
        if facts.opens_at is not None and not offer.is_here:
            return wait("The schedule does not allow fetching now.", facts.opens_at)
        if not offer.sources and not offer.is_here:
            return wait("No connected peer holds it.", passing=True)
        if rule.per_hour is not None and self._recent[rule.id] >= rule.per_hour:
            return wait(f"The rule allows {rule.per_hour} installs an hour.", self._rate_ends(rule))
        return self._within_quota(rule, offer, model, wait("The quota of auto-sync is reached, all of it in use."))

    def _refusal(self, rule: RuleRow, offer: OfferFact, model: ModelName) -> str | None:
        """Why an offer is not installed, for a reason that does not pass by itself."""
        entry = offer.entry
        if not offer.decision.ok:
            return offer.decision.reason
        if rule.publisher is None and not offer.is_trusted:
            key = entry.publisher.hex()[:FINGERPRINT_DIGITS]
            return f"Its publisher is not trusted: `ollaswarm trust {key}`, after comparing the four words."
        size = entry.entry.size
        if rule.max_bytes is not None and size > rule.max_bytes:
            return f"It has {size} bytes, the rule allows {rule.max_bytes}."
        if size > self._facts.quota_bytes:
            return f"It has {size} bytes, the quota of auto-sync is {self._facts.quota_bytes}."
        present = self._facts.models.get(full_name(model))
        if present is not None and not self._is_ours(model):
            return f"{model.display} is in Ollama already and was not put there by auto-sync; it stays."
        return None

    def _is_settled(self, version: tuple[bytes, str, int]) -> bool:
        row = self._known.get(version)
        return row is not None and row.state is SyncState.INSTALLED

    def _rate_ends(self, rule: RuleRow) -> float:
        times = sorted(row.installed_at for row in self._facts.synced if row.rule == rule.id)
        recent = [at for at in times if self._within(HOUR_S, at)]
        return recent[0] + HOUR_S if recent else self._facts.now + HOUR_S

    def _within_quota(self, rule: RuleRow, offer: OfferFact, model: ModelName, full: Wait) -> Install | Wait:
        """Promise the bytes, evicting by last use if they are not free."""
        size = offer.entry.entry.size
        evict = []
        free = self._facts.quota_bytes - self._used
        for candidate in self._evictable():
            if free >= size:
                break
            evict.append(candidate)
            free += candidate.row.size
        if free < size:
            return full
        self._leaving.update(each.row.model for each in evict)
        self._used = self._facts.quota_bytes - free + size
        self._recent[rule.id] += 1
        return Install(rule, offer, model, tuple(evict), _why(rule, offer))

    def _evictable(self) -> Iterator[Evict]:
        """Superseded versions first, then the least recently used."""
        ranked = []
        for row in self._kept:
            moving = self._moving_name(row)
            note = self._notes.get(full_name(moving))
            means_it = note is not None and (note.publisher, note.version) == (row.publisher, row.version)
            if row.model in self._leaving or (means_it and self._within(JUST_USED_S, row.used_at)):
                continue
            if means_it and not self._is_ours(moving):
                continue  # the user made something of their own of it
            ranked.append((means_it, row.used_at, row.model, Evict(row, moving if means_it else None)))
        for *_, evict in sorted(ranked, key=lambda each: each[:3]):
            yield evict

    # --- names ---------------------------------------------------------------------------------------------------------

    def _names(self, waits: list[Wait]) -> Iterable[Name]:
        """Moving names that do not mean the newest version which is installed."""
        newest: dict[tuple[bytes, str], SyncedRow] = {}
        for row in self._kept:
            if row.state is SyncState.INSTALLED:
                newest[row.publisher, row.name] = row  # rows are in order of version
        for row in newest.values():
            moving = self._moving_name(row)
            note, name = self._notes.get(full_name(moving)), full_name(moving)
            if note is not None and note.publisher == row.publisher and note.version >= row.version:
                continue
            if name in self._facts.models and not self._is_ours(moving, beside=row):
                reason = f"{moving.display} was changed by you or is not ours, so it does not move on to {row.model}."
                waits.append(Wait(row.rule, row.room_id, row.model, reason, model=moving.display))
            elif not self._facts.obstacle:
                yield Name(row, ModelName.parse(row.model), moving, f"Version {row.version} is the newest.")

    def _model_name(self, offer: OfferFact) -> ModelName:
        """`ROOMLABEL/NAME:vVERSION`. Two publishers of one name get two names, and a followed one keeps its own (T10)."""
        facts, entry = self._facts, offer.entry
        tag = f"v{entry.version}"
        same = [row for row in facts.synced if (row.publisher, row.name) == (entry.publisher, entry.name.lower())]
        if same:
            at = ModelName.parse(same[-1].model)
            return ModelName(at.host, at.namespace, at.model, tag)
        room = namespace(facts.labels[offer.room_id], offer.room_id)
        plain = ModelName.parse(f"{room}/{entry.name}:{tag}")
        path = plain.folded[:3]
        taken = {ModelName.parse(row.model).folded[:3] for row in facts.synced}
        foreign = {name.rpartition("/")[0] for name in facts.models if not self._is_of(name, entry.publisher)}
        if path not in taken and "/".join(path) not in foreign:
            return plain
        mark = entry.publisher.hex()[:FINGERPRINT_DIGITS]
        return ModelName.parse(f"{room}/{entry.name[: MAX_PART_CHARS - FINGERPRINT_DIGITS - 1]}.{mark}:{tag}")

    def _moving_name(self, row: SyncedRow) -> ModelName:
        at = ModelName.parse(row.model)
        return ModelName(at.host, at.namespace, at.model, "latest")

    # --- what is ours --------------------------------------------------------------------------------------------------

    def _is_of(self, name: str, publisher: bytes) -> bool:
        """Whether a model is a note of ours about that publisher's adapter."""
        note = self._notes.get(name)
        return note is not None and note.publisher == publisher

    def _is_ours(self, name: ModelName, *, beside: SyncedRow | None = None) -> bool:
        """Whether a model is what we put there, unchanged. `beside`: or already the version it is to mean."""
        present = self._facts.models.get(full_name(name))
        notes: list[InstallRow | None] = [self._notes.get(full_name(name))]
        if beside is not None:
            notes.append(self._notes.get(full_name(ModelName.parse(beside.model))))
        return present is not None and any(note is not None and note.manifest_digest == present for note in notes)

    def _is_kept(self, row: SyncedRow) -> bool:
        """Whether a version is in Ollama as we installed it, so that it counts and can be evicted."""
        is_here = row.state in (SyncState.INSTALLED, SyncState.SET_ASIDE)
        return is_here and self._is_ours(ModelName.parse(row.model))

    def _is_gone(self, row: SyncedRow) -> bool:
        """Whether the user removed it. Only a look at Ollama that worked can say."""
        is_here = row.state in (SyncState.INSTALLED, SyncState.SET_ASIDE)
        is_known = not self._facts.obstacle or bool(self._facts.models)
        return is_here and is_known and full_name(ModelName.parse(row.model)) not in self._facts.models


def _why(rule: RuleRow, offer: OfferFact) -> str:
    who = "a trusted publisher" if rule.publisher is None else "the publisher the rule follows"
    return f"Version {offer.entry.version} by {who}."
