"""What a rule of auto-sync means: which offers of a room it fetches, or which adapters of the store it shares."""

from __future__ import annotations

import secrets
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Literal

from ollama_bridge.names import ModelName
from sidecar.catalogue.rows import RuleRow
from sidecar.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sidecar.catalogue.entry import SignedEntry
    from sidecar.control_types import RuleOptions
    from sidecar.local_models import LocalModel

Direction = Literal["fetch", "share"]
MAX_RULES = 1_000
"""Each is looked at for every offer of its room."""
MAX_PATTERN_CHARS = 80
"""As long as an adapter's name can be."""


def make_rule(options: RuleOptions, room_id: bytes, publisher: bytes | None, now: float) -> RuleRow:
    """The rule a user asked for.

    Raises:
        UsageError: Its parts make no sense together.
    """
    if options.direction == "share" and (publisher or options.tag or options.per_hour):
        raise UsageError(
            "A share rule looks at this machine's store, where adapters have neither publisher nor tags.",
            "Use --name, --base and --max-size.",
        )
    if options.models and options.base:
        raise UsageError("A base is what adapters have, not models.", "Make two rules of it.")
    if options.name is not None and not 1 <= len(options.name) <= MAX_PATTERN_CHARS:
        raise UsageError(f"A name pattern has 1 to {MAX_PATTERN_CHARS} characters.")
    if options.base is not None and not ModelName.is_valid(options.base):
        raise UsageError(f"{options.base[:80]!r} is not a model name.", "`ollama list` shows the models there are.")
    if any(bound is not None and bound < 1 for bound in (options.max_bytes, options.per_hour)):
        raise UsageError("A size and a rate are at least 1.")
    return RuleRow(
        id=secrets.token_hex(4),
        direction=options.direction,
        room_id=room_id,
        publisher=publisher,
        name=options.name,
        base=options.base,
        max_bytes=options.max_bytes,
        tag=options.tag,
        per_hour=options.per_hour,
        created_at=now,
        models=options.models,
    )


def share_everything(room_id: bytes, now: float, *, models: bool = False) -> RuleRow:
    """The rule of `share '*'` (ADR 0006); whole models only where the user said so (ADR 0012)."""
    return RuleRow(secrets.token_hex(4), "share", room_id, created_at=now, models=models)


def shares_everything(rule: RuleRow) -> bool:
    """Whether a rule is that of `share '*'`."""
    return rule.direction == "share" and (rule.name, rule.base, rule.max_bytes) == (None, None, None)


def wants_offer(rule: RuleRow, entry: SignedEntry, bases: Mapping[str, str]) -> bool:
    """Whether a fetch rule is about an entry of its room. Trust, size and the rest are the planner's to explain.

    Args:
        bases: Digest of each local base model by its full name, lower case.
    """
    if entry.entry.is_model and not rule.models:
        return False
    if rule.publisher is not None and rule.publisher != entry.publisher:
        return False
    if rule.tag is not None and rule.tag not in entry.entry.tags:
        return False
    return _named(rule, entry.name) and (rule.base is None or _digest(rule.base, bases) == entry.entry.base.digest)


def wants_model(rule: RuleRow, model: LocalModel, bases: Mapping[str, str]) -> bool:
    """Whether a share rule is about an adapter, or a whole model, of the store."""
    if not model.adapters and not rule.models:
        return False
    if rule.max_bytes is not None and model.size > rule.max_bytes:
        return False
    if rule.base is not None and (model.base is None or _digest(rule.base, bases) != str(model.base)):
        return False
    return _named(rule, model.name.display)


def full_name(name: ModelName) -> str:
    """A model name as a key: whole, lower case."""
    return "/".join(name.folded)


def _named(rule: RuleRow, name: str) -> bool:
    return rule.name is None or fnmatchcase(name.lower(), rule.name.lower())


def _digest(base: str, bases: Mapping[str, str]) -> str | None:
    return bases.get(full_name(ModelName.parse(base)))
