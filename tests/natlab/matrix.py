"""Trials as Markdown."""

from __future__ import annotations

import statistics
from collections import Counter
from typing import TYPE_CHECKING, Any

from .kinds import KINDS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .lab import Trial

WIDE = 2.0
"""A longest time is printed where it is more than so many medians."""


def matrix(trials: list[Trial]) -> str:
    """Rows are servers, columns clients; a cell says successes, median, longest time and path where they matter."""
    servers = _in_order({trial.server for trial in trials})
    clients = _in_order({trial.client for trial in trials})
    lines = [f"| server \\ client | {' | '.join(clients)} |", "|---" * (len(clients) + 1) + "|"]
    for server in servers:
        cells = (_cell([t for t in trials if (t.server, t.client) == (server, client)]) for client in clients)
        lines.append(f"| **{server}** | {' | '.join(cells)} |")
    return "\n".join(lines)


def comparison(trials: list[Trial], base: str) -> str:
    """One row per cell, one column per pair of stacks, and what differs from the pair `base`."""
    pairs = sorted({trial.pair for trial in trials}, key=lambda pair: (pair != base, pair))
    lines = [f"| server, client | {' | '.join(pairs)} |", "|---" * (len(pairs) + 1) + "|"]
    for server in _in_order({trial.server for trial in trials}):
        for client in _in_order({trial.client for trial in trials}):
            here = [t for t in trials if (t.server, t.client) == (server, client)]
            if here:
                cells = (_cell([t for t in here if t.pair == pair]) for pair in pairs)
                lines.append(f"| {server}, {client} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(trials: list[Trial]) -> str:
    if not trials:
        return ""
    times = [trial.seconds for trial in trials if trial.seconds is not None]
    if not times:
        return f"0/{len(trials)}"
    middle, longest = statistics.median(times), max(times)
    paths = _in_order({trial.path for trial in trials if trial.path not in (None, "direct")})
    parts = [f"{len(times)}/{len(trials)} {middle:.2f} s"]
    if longest > WIDE * middle:
        parts.append(f"(to {longest:.1f})")
    return " ".join([*parts, " / ".join(paths)]).strip()


def footnotes(trials: list[Trial]) -> str:
    """Totals, what the peers believed about themselves, and the failures."""
    connected = [trial for trial in trials if trial.seconds is not None]
    paths = Counter(trial.path for trial in connected)
    lines = [
        f"{len(connected)} of {len(trials)} attempts connected; "
        + f"paths: {', '.join(f'{path} {n}' for path, n in paths.most_common())}.",
        f"What they took themselves for: {_beliefs(trials)}.",
    ]
    failures = Counter((t.pair, t.server, t.client, t.problem) for t in trials if t.seconds is None)
    lines += [
        f"- {pair}, {server} <- {client}: {problem} ({n})" for (pair, server, client, problem), n in failures.items()
    ]
    return "\n".join(lines)


def _beliefs(trials: list[Trial]) -> str:
    seen: dict[str, list[dict[str, Any]]] = {}
    for trial in trials:
        for side, kind in (("server", trial.server), ("client", trial.client)):
            if side in trial.belief:
                seen.setdefault(kind, []).append(trial.belief[side])
    return "; ".join(
        f"{kind} reachable {sum(not b['firewalled'] for b in seen[kind])}/{len(seen[kind])}, "
        + f"randomized {sum(bool(b['randomized']) for b in seen[kind])}/{len(seen[kind])}"
        for kind in _in_order(seen)
    )


def _in_order(names: Iterable[str | None]) -> list[str]:
    return sorted((name for name in names if name), key=lambda name: (KINDS.index(name) if name in KINDS else 99, name))
