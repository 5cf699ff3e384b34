"""Measure what docs/benchmarks.md quotes.

make bench                                   get and hyperswarm
make bench ARGS=get                          get beside scp and rsync: 64 MiB and 1 GiB in 5 rounds, 4 GiB in one
make bench ARGS="get --mib 1024 --rounds 5"
make bench ARGS=latency                      adapter appears in a store -> entry:added at the peer, 20 times
make bench ARGS=sync                         share -> installed at the peer by a rule of auto-sync, 20 times
make bench ARGS=sources                      one blob from 1, 2 and 4 sources capped at 20 MB/s, from liars and stalled ones too: 1 GiB
make bench ARGS=scan                         a store with 1,000 models: first scan, idle cost, memory
make bench ARGS=room                         what a room costs by entries and members: to join, and idle (Linux, root)
make bench ARGS="room --members 10 --entries 100 --idle 1200"
make bench ARGS=hyperswarm                   our Hyperswarm stack and the official one in all combinations: 1 GiB over loopback
make bench ARGS=hyperswarm-line              the same over 50 ms with 0, 0.1 and 1 % loss (Linux, root)
make bench ARGS=hyperswarm-connect           connections a second, time to the first byte after a join
make bench ARGS=hyperswarm-idle              1,000 connections that do nothing
make bench ARGS=flood                        strangers against one node, and whether an honest peer connects

Quote medians and CPU seconds per GB; MB/s of one run are only comparable with the other rows of that run.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from bench import flood, get, hyperswarm, hyperswarm_connections, latency, room, scan, sources, sync
from bench.common import table
from tests.natlab.namespaces import why_not

SEVERAL_ROUNDS_MIB = 1024
CONNECTIONS = 100
"""One after the other, in a round of hyperswarm-connect. Our servers slow down hosts that go on much longer at that rate."""
CASES = [
    "get",
    "latency",
    "sync",
    "sources",
    "scan",
    "room",
    "hyperswarm",
    "hyperswarm-line",
    "hyperswarm-connect",
    "hyperswarm-idle",
    "flood",
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", default=["get", "hyperswarm"], metavar="CASE", help=" ".join(CASES))
    parser.add_argument(
        "--mib", type=int, nargs="+", help="sizes (get: 64 1024 4096, sources, hyperswarm: 1024, -line: 64)"
    )
    parser.add_argument("--rounds", type=int, default=5, help="rounds; get above 1 GiB has one")
    parser.add_argument("--times", type=int, default=20, help="latency, sync: adapters; hyperswarm-connect: joins")
    parser.add_argument("--models", type=int, default=1000, help="scan: models in the store")
    parser.add_argument(
        "--idle", type=float, default=30.0, help="scan, room, hyperswarm-idle: seconds of doing nothing"
    )
    parser.add_argument("--members", type=int, nargs="+", help="room: other members (2 10 50)")
    parser.add_argument("--entries", type=int, nargs="+", help="room: entries (10 100 1000)")
    parser.add_argument("--connections", type=int, default=1000, help="hyperswarm-idle: how many")
    parser.add_argument(
        "--only", nargs="+", metavar="CASE", help='hyperswarm, sources: for instance "py to py", "4 sources"'
    )
    parser.add_argument("--hash", action="store_true", help="hyperswarm: both ends hash what they send and receive")
    args = parser.parse_args()
    print(f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}", flush=True)
    for case in args.cases:
        if case not in CASES:
            parser.error(f"no case {case}; there are: {' '.join(CASES)}")
        if case == "flood":
            print(f"\n{flood.run()}", flush=True)
        elif case.startswith("hyperswarm"):
            _hyperswarm(case, args)
        else:
            with tempfile.TemporaryDirectory(prefix="bench-", dir=os.environ.get("BENCH_TMP")) as scratch:
                _ollaswarm(case, Path(scratch), args)


def _ollaswarm(case: str, scratch: Path, args: argparse.Namespace) -> None:
    if case == "latency":
        latency.run(args.times)
    elif case == "sync":
        print(sync.run(scratch, args.times))
    elif case == "sources":
        for mib in args.mib or [1024]:
            title = f"{mib} MiB, {args.rounds} rounds"
            print(f"\n### {title}\n\n{sources.run(scratch, mib, args.rounds, args.only)}", flush=True)
    elif case == "scan":
        print(scan.run(scratch, args.models, args.idle))
    elif case == "room":
        print(f"\n{room.run(scratch, args.entries, args.members, args.idle)}", flush=True)
    else:
        for mib in args.mib or [64, 1024, 4096]:
            rounds = args.rounds if mib <= SEVERAL_ROUNDS_MIB else 1
            rows = get.run(scratch, mib, rounds)
            print(f"\n### {mib} MiB, {rounds} rounds\n\n{table(rows, base='scp')}", flush=True)


def _hyperswarm(which: str, args: argparse.Namespace) -> None:
    cases = [case for case in hyperswarm.CASES if args.only is None or case.name in args.only]
    with_offload = [case for case in cases if case.offload]
    if which == "hyperswarm":
        for mib in args.mib or [1024]:
            rows = hyperswarm.transfers(cases, mib, args.rounds, hashed=args.hash)
            print(f"\n### Loopback, {mib} MiB, {args.rounds} rounds\n\n{hyperswarm.table(rows)}", flush=True)
    elif which == "hyperswarm-line":
        reason = why_not()
        if reason is not None:
            print(f"skipped: {reason}")
            return
        for mib in args.mib or [64]:
            for loss in hyperswarm.LOSSES:
                rows = hyperswarm.over_a_line(with_offload, mib, args.rounds, loss)
                title = f"50 ms round trip, {loss:.1%} loss each way, {mib} MiB, {args.rounds} rounds"
                print(f"\n### {title}\n\n{hyperswarm.table(rows)}", flush=True)
    elif which == "hyperswarm-connect":
        print(f"\n{hyperswarm_connections.rate(with_offload, CONNECTIONS, args.rounds)}", flush=True)
        print(f"\n{hyperswarm_connections.first_byte(with_offload, args.times)}", flush=True)
    else:
        kinds = sorted({case.sender for case in cases})
        print(f"\n{hyperswarm_connections.idle(kinds, args.connections, args.idle)}", flush=True)


if __name__ == "__main__":
    main()
