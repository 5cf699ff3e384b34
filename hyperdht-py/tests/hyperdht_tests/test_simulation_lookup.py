"""Lookups in DHTs of many nodes in one process: what they find and cost, also when many nodes are gone."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hyperdht.rpc import node_id

from .simulation.population import Population, Summary, prefix_ranges
from .simulation.realm import Line

LOSSY = Line(latency_s=0.02, jitter_s=0.05, loss=0.02, duplication=0.02)


def check(found: Summary, *, recall: float, packets: float, seconds: float, success: float = 1.0) -> None:
    assert found.success >= success
    assert found.recall >= recall
    assert found.packets <= packets
    assert found.seconds <= seconds


def test_nodes_that_join_through_three_others_find_everybody() -> None:
    population = Population(1)
    population.grow(60)
    check(population.lookups(20), recall=0.98, packets=120, seconds=1.0)
    for member in population.members:
        assert member.rpc.remote_address() == member.address
        assert member.rpc.id == node_id(member.address)
        assert not member.rpc.ephemeral


@pytest.mark.parametrize(("churn", "recall", "packets", "seconds"), [(0.1, 0.95, 200, 6.0), (0.3, 0.9, 300, 8.0)])
def test_lookups_find_the_closest_living_nodes(churn: float, recall: float, packets: float, seconds: float) -> None:
    population = Population(2)
    population.fill(120)
    population.clock.run(10)
    check(population.lookups(15), recall=0.99, packets=200, seconds=1.5)
    population.kill(churn)
    population.grow(int(churn * 120))
    check(population.lookups(15), recall=recall, packets=packets, seconds=seconds)


def test_lookups_over_lines_that_lose_reorder_and_repeat() -> None:
    population = Population(3, line=LOSSY)
    population.fill(80)
    population.clock.run(20)
    # Once 20 have answered, a query does not wait for those whose first packet was lost: as in the reference.
    check(population.lookups(15), recall=0.9, packets=150, seconds=3.0, success=0.9)


def test_a_dead_node_is_forgotten_by_those_who_meet_it() -> None:
    population = Population(4)
    population.fill(40)
    population.clock.run(10)
    dead = population.kill(0.2)
    before = sum(gone.rpc.id in member.rpc.table for member in population.living for gone in dead)
    population.clock.run(600)
    after = sum(gone.rpc.id in member.rpc.table for member in population.living for gone in dead)
    assert after < before / 20


def fingerprint() -> str:
    """A short run with everything random in it, as one string."""
    population = Population(5, line=LOSSY)
    population.grow(30)
    population.kill(0.2)
    found = population.lookups(3)
    return hashlib.sha256(repr((found, population.network.public.traffic)).encode()).hexdigest()


def test_a_run_follows_from_its_seed_alone() -> None:
    """Not from the order of sets either, which differs from process to process."""
    program = "from hyperdht_tests.test_simulation_lookup import fingerprint; print(fingerprint())"
    paths = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    runs = [
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": paths},
            capture_output=True,
            text=True,
            check=True,
        )
        for seed in ("1", "2")
    ]
    assert {run.stdout.strip() for run in runs} == {fingerprint()}


def test_ranges_of_shared_prefixes() -> None:
    keys = sorted(int.from_bytes(hashlib.sha256(bytes([i])).digest(), "big") for i in range(100))
    own = keys[37]
    groups = [keys[first:end] for first, end in prefix_ranges(own, keys)]
    assert sorted(key for group in groups for key in group) == keys[:37] + keys[38:]
    shared = [{256 - (own ^ key).bit_length() for key in group} for group in groups]
    assert all(len(lengths) == 1 for lengths in shared)
    assert len(set().union(*shared)) == len(groups)


@pytest.mark.soak
@pytest.mark.parametrize("churn", [0.0, 0.1, 0.3])
def test_a_thousand_nodes(churn: float) -> None:
    population = Population(6)
    population.fill(1000)
    population.clock.run(60)
    if churn:
        population.kill(churn)
        population.grow(int(churn * 1000))
    found = population.lookups(100)
    print(f"\n{churn:.0%} churn: {found}")
    check(found, recall=0.99 - churn / 3, packets=200 + 500 * churn, seconds=1.5 + 20 * churn)
