"""A plan in words: what `sync run` and its dry run print."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.control_types import PlanLine

from .facts import version_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from sidecar.control_types import ErrorInfo

    from .facts import Facts, Install, Plan, Version


def lines_of(
    made: Plan, facts: Facts, *, errors: Mapping[Version, ErrorInfo | None] | None = None
) -> tuple[tuple[PlanLine, ...], bool, int, int]:
    """The lines of a plan, whether it was only said, bytes to fetch, and bytes in use.

    Args:
        errors: How the installs that were carried out ended; None for a dry run.
    """
    lines: list[PlanLine] = []
    for install in made.installs:
        lines += _install_lines(install, facts, (errors or {}).get(version_of(install.offer.entry)))
    for name in made.names:
        label = facts.labels.get(name.row.room_id, "")
        lines.append(PlanLine("name", name.row.model, label, name.row.rule, name.reason, name.target.display))
    for share in made.shares:
        label = facts.labels[share.rule.room_id]
        lines.append(PlanLine("share", share.model.name.display, label, share.rule.id, share.reason))
    for wait in made.waits:
        label = facts.labels.get(wait.room_id, "")
        lines.append(PlanLine("wait", wait.what, label, wait.rule, wait.reason, wait.model, wait.size, wait.until))
    fetch_bytes = sum(install.fetch_bytes for install in made.installs)
    return tuple(lines), errors is None, fetch_bytes, made.used_bytes


def _install_lines(install: Install, facts: Facts, error: ErrorInfo | None) -> Iterator[PlanLine]:
    label, rule = facts.labels[install.offer.room_id], install.rule.id
    model = install.model.display
    for evict in install.evict:
        yield PlanLine(
            "evict", evict.row.model, label, rule, f"Makes room for {model}.", evict.row.model, evict.row.size
        )
    ref = install.offer.entry.ref
    yield PlanLine("install", ref, label, rule, install.reason, model, install.fetch_bytes, error=error)
