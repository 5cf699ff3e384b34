"""Measure what docs/benchmarks.md quotes.

make bench                                   get beside scp and rsync: 64 MiB and 1 GiB in 5 rounds, 4 GiB in one
make bench ARGS="get --mib 1024 --rounds 5"
make bench ARGS=latency                      adapter appears in a store -> entry:added at the peer, 20 times
make bench ARGS=scan                         a store with 1,000 models: first scan, idle cost, memory

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

from bench import get, latency, scan
from bench.common import table

SEVERAL_ROUNDS_MIB = 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", nargs="?", default="get", choices=["get", "latency", "scan"])
    parser.add_argument("--mib", type=int, nargs="+", default=[64, 1024, 4096], help="get: sizes")
    parser.add_argument("--rounds", type=int, default=5, help="get: rounds; above 1 GiB one is enough")
    parser.add_argument("--times", type=int, default=20, help="latency: adapters")
    parser.add_argument("--models", type=int, default=1000, help="scan: models in the store")
    parser.add_argument("--idle", type=float, default=30.0, help="scan: seconds of doing nothing")
    args = parser.parse_args()
    print(f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}", flush=True)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=os.environ.get("BENCH_TMP")) as scratch:
        if args.case == "latency":
            latency.run(args.times)
        elif args.case == "scan":
            print(scan.run(Path(scratch), args.models, args.idle))
        else:
            for mib in args.mib:
                rounds = args.rounds if mib <= SEVERAL_ROUNDS_MIB else 1
                rows = get.run(Path(scratch), mib, rounds)
                print(f"\n### {mib} MiB, {rounds} rounds\n\n{table(rows, base='scp')}", flush=True)


if __name__ == "__main__":
    main()
