"""Try every kind of NAT against every other, or five sidecars behind two of them.

make nat                                          js-js, py-py, py-js and js-py, without and with a relay, 3 trials a cell
make nat ARGS="--pairs py-js --servers random --clients open consistent --reps 20"
make nat ARGS="--json trials.jsonl"               every trial on a line of its own
make nat ARGS="five"                              a room of five sidecars, see five.py
make nat ARGS="five --kinds consistent random --size 128 --acts all killed"

A pair names the stacks of the client and of the server.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from itertools import product
from typing import IO, TYPE_CHECKING, NamedTuple

from tests.interop.setup_node import is_installed, missing

from .five_report import add_arguments
from .five_report import run as run_five
from .kinds import KINDS, SHARED
from .lab import Lab, Trial
from .matrix import comparison, footnotes, matrix
from .namespaces import why_not

if TYPE_CHECKING:
    from tests.interop.dht_peers import Kind

STACKS: dict[str, Kind] = {"js": "js", "py": "py"}
PAIRS = ["js-js", "py-py", "py-js", "js-py"]
WITH_RELAY = ("consistent", "blocked", "random", "double", *SHARED)
"""Kinds that are tried with a relay too: with the others it adds nothing."""


class Cell(NamedTuple):
    pair: str
    server: str
    client: str
    relay: bool


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", nargs="+", default=PAIRS, choices=PAIRS)
    parser.add_argument("--servers", nargs="+", default=[k for k in KINDS if k not in SHARED], choices=KINDS)
    parser.add_argument("--clients", nargs="+", default=KINDS, choices=KINDS)
    parser.add_argument("--relay", choices=["without", "with", "both"], default="both")
    parser.add_argument("--reps", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=3, help="trials at a time")
    parser.add_argument("--nodes", default="js", choices=STACKS, help="whose DHT nodes and relay")
    parser.add_argument("--delay-ms", type=float, default=10.0, help="one way, of a subscriber line")
    parser.add_argument("--json", type=argparse.FileType("a"), help="append every trial to this file")
    parser.add_argument("--seed", type=int, default=0, help="of the order of the trials")
    add_arguments(parser.add_subparsers(dest="what").add_parser("five", help="a room of five sidecars"))
    args = parser.parse_args()
    reason = (
        why_not() or missing() or (None if is_installed() else "tests/interop/node_modules is not there: make node")
    )
    if reason is not None:
        print(f"make nat: skipped: {reason}")
        return 1 if os.environ.get("CI") == "true" else 0
    signal.signal(
        signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM)
    )  # namespaces and processes end as with Ctrl-C
    print(f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}", flush=True)
    with Lab(nodes=STACKS[args.nodes], delay_s=args.delay_ms / 1000) as lab:
        if args.what == "five":
            run_five(lab, args)
            return 0
        trials = run(lab, cells(args), args.reps, args.jobs, args.seed, args.json)
    for relay in sorted({trial.relay for trial in trials}):
        report([trial for trial in trials if trial.relay == relay], relay)
    return 0


def cells(args: argparse.Namespace) -> list[Cell]:
    """All that was asked for and makes sense."""
    relays = {"without": [False], "with": [True], "both": [False, True]}[args.relay]
    return [
        Cell(pair, server, client, relay)
        for relay, server, client, pair in product(relays, args.servers, args.clients, args.pairs)
        if (client not in SHARED or server == "consistent") and not (relay and {server, client} - set(WITH_RELAY))
    ]


def run(lab: Lab, wanted: list[Cell], reps: int, jobs: int, seed: int, log: IO[str] | None) -> list[Trial]:
    """All trials; the stacks take turns within a cell, so that none has the machine at a better time."""
    rounds = []
    for repetition in range(reps):
        order = list(wanted)
        random.Random(seed + repetition).shuffle(order)
        rounds += order
    started, trials = time.monotonic(), []

    def one(cell: Cell) -> Trial:
        client, server = cell.pair.split("-")
        return lab.trial((STACKS[client], STACKS[server]), cell.server, cell.client, relay=cell.relay)

    with ThreadPoolExecutor(jobs) as pool:
        for trial in pool.map(one, rounds):
            trials.append(trial)
            if log is not None:
                print(json.dumps(trial.to_json()), file=log, flush=True)
            print(
                f"\r{len(trials)}/{len(rounds)}, {time.monotonic() - started:.0f} s ",
                end="",
                file=sys.stderr,
                flush=True,
            )
    print(file=sys.stderr)
    return trials


def report(trials: list[Trial], relay: bool) -> None:
    """Print the matrices of all pairs, and side by side what they reached."""
    print(f"\n## {'Both ends given the blind relay' if relay else 'Without a relay'}")
    pairs = [pair for pair in PAIRS if any(trial.pair == pair for trial in trials)]
    for pair in pairs:
        these = [trial for trial in trials if trial.pair == pair]
        client, server = pair.split("-")
        print(f"\n### {client} searches, {server} announces\n\n{matrix(these)}\n\n{footnotes(these)}")
    if len(pairs) > 1:
        print(f"\n### Side by side (client-server)\n\n{comparison(trials, pairs[0])}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
