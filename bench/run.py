"""Measure, interleaved, against what a user would do by hand: `make bench ARGS="get --mib 1024 --rounds 5"`.

Quote medians and CPU seconds per GB; MB/s of one run are only comparable with the other rows of that run.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from bench import get
from bench.common import table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("case", nargs="?", default="get", choices=["get"])
    parser.add_argument("--mib", type=int, nargs="+", default=[64, 1024])
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-", dir=os.environ.get("BENCH_TMP")) as scratch:
        for mib in args.mib:
            rows = get.run(Path(scratch), mib, args.rounds)
            print(f"\n### {mib} MiB, {args.rounds} rounds\n\n{table(rows, base='scp')}", flush=True)


if __name__ == "__main__":
    main()
