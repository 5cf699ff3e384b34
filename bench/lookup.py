"""Lookups in simulated DHTs of hyperdht: hops, success and cost by size and churn, and what a node costs its machine.

    .venv/bin/python -m bench.lookup                              100 and 1,000 nodes, 0, 10 and 30 % churn
    .venv/bin/python -m bench.lookup --nodes 10000 --lookups 100

Everything is simulated but CPU and memory, so the same seed gives the same table on every machine. A population has full
routing tables, bootstraps, and idles for a minute. Then the given share vanishes without a word, as many new nodes join
within seconds, and random nodes look for random targets while all tables still name the dead.
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

import psutil

sys.path.insert(0, str(Path(__file__).parent.parent / "hyperdht-py" / "tests"))

from hyperdht_tests.simulation.population import Population

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hyperdht_tests.simulation.population import Summary

IDLE_S = 60.0
JOINS_S = 10.0
"""In which the new nodes come: less than the dead are noticed in."""
HEADER = (
    "| nodes | churn | closest found | recall of 20 | hops mean / max | time median / max | packets | KB "
    "| known nodes | KB RAM per node | CPU per idle node | CPU per lookup, all nodes |\n"
    "|---|---|---|---|---|---|---|---|---|---|---|---|"
)


@dataclass(frozen=True)
class Measured:
    """One row."""

    nodes: int
    churn: float
    found: Summary
    known: float
    kilobytes: float
    idle_ms_s: float
    lookup_ms: float

    def __str__(self) -> str:
        found = self.found
        return (
            f"| {self.nodes} | {self.churn:.0%} | {found.success:.1%} | {found.recall:.1%} | {found.hops:.1f} / {found.hops_max} "
            f"| {found.seconds:.1f} / {found.seconds_max:.1f} s | {found.packets:.0f} | {found.kilobytes:.1f} "
            f"| {self.known:.0f} | {self.kilobytes:.0f} | {self.idle_ms_s:.2f} ms/s | {self.lookup_ms:.0f} ms |"
        )


def measure(nodes: int, churn: float, lookups: int, seed: int) -> Measured:
    """Build, disturb, look up. Meant for a process of its own, as it reads this one's memory."""
    process = psutil.Process()
    gc.collect()
    memory = process.memory_info().rss
    population = Population(seed)
    population.fill(nodes)
    population.clock.run(IDLE_S)  # all bootstrap at once
    begun = time.process_time()
    population.clock.run(IDLE_S)
    idle_ms_s = (time.process_time() - begun) * 1e3 / IDLE_S / nodes
    gc.collect()
    kilobytes = (process.memory_info().rss - memory) / nodes / 1000
    if churn:
        population.kill(churn)
        population.grow(round(churn * nodes), per_second=churn * nodes / JOINS_S)
    traffic = population.network.public.traffic
    begun, carried = time.process_time(), traffic.packets
    found = population.lookups(lookups)
    # Others ping and refresh in the meantime: the lookups' part of the CPU is their part of the packets.
    lookup_ms = (time.process_time() - begun) * 1e3 * found.packets / (traffic.packets - carried)
    known = fmean(len(member.rpc.table) for member in population.living)
    return Measured(nodes, churn, found, known, kilobytes, idle_ms_s, lookup_ms)


def run(sizes: Sequence[int], churns: Sequence[float], lookups: int, seed: int = 1) -> None:
    """Print the table, a row as soon as it is measured."""
    print(HEADER, flush=True)
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        for nodes in sizes:
            for churn in churns:
                print(pool.apply(measure, (nodes, churn, lookups, seed)), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, nargs="+", default=[100, 1000])
    parser.add_argument("--churn", type=float, nargs="+", default=[0.0, 0.1, 0.3], help="shares of 1")
    parser.add_argument("--lookups", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    run(args.nodes, args.churn, args.lookups, args.seed)


if __name__ == "__main__":
    main()
