"""How trials are printed."""

from __future__ import annotations

from typing import Any

from .lab import Trial
from .matrix import comparison, footnotes, matrix


def trial(seconds: float | None, *, pair: str = "js-js", **fields: Any) -> Trial:
    values: dict[str, Any] = {
        "server": "open",
        "client": "random",
        "relay": False,
        "path": "direct",
        "problem": None,
        "belief": {},
    }
    if seconds is None:
        values |= {"path": None, "problem": "no connection"}
    return Trial(pair=pair, seconds=seconds, **(values | fields))


def test_a_cell_says_how_many_how_fast_how_late_and_by_which_path() -> None:
    trials = [trial(0.1), trial(0.1, path="relay"), trial(4.0, path="relay, then direct"), trial(None)]
    assert matrix(trials).splitlines() == [
        "| server \\ client | random |",
        "|---|---|",
        "| **open** | 3/4 0.10 s (to 4.0) relay / relay, then direct |",
    ]


def test_kinds_come_in_the_order_of_the_lab_and_missing_cells_are_empty() -> None:
    trials = [trial(None, server="random"), trial(0.1, client="blocked")]
    assert matrix(trials).splitlines() == [
        "| server \\ client | blocked | random |",
        "|---|---|---|",
        "| **open** | 1/1 0.10 s |  |",
        "| **random** |  | 0/1 |",
    ]


def test_pairs_stand_side_by_side_with_the_base_first() -> None:
    trials = [trial(0.2, pair="aa-aa"), trial(0.1)]
    assert comparison(trials, "js-js").splitlines() == [
        "| server, client | js-js | aa-aa |",
        "|---|---|---|",
        "| open, random | 1/1 0.10 s | 1/1 0.20 s |",
    ]


def test_footnotes_name_failures_and_beliefs() -> None:
    belief = {"server": {"firewalled": False, "randomized": False}, "client": {"firewalled": True, "randomized": True}}
    assert footnotes([trial(0.1, belief=belief), trial(None), trial(None)]).splitlines() == [
        "1 of 3 attempts connected; paths: direct 1.",
        "What they took themselves for: open reachable 1/1, randomized 0/1; random reachable 0/1, randomized 1/1.",
        "- js-js, open <- random: no connection (2)",
    ]
