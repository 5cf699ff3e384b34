"""A few cells of the matrix, where the machine can: part of `make soak`; `make nat` is the whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.interop.dht_fixtures import PAIRS

from .needs import OVER_THE_LAB

if TYPE_CHECKING:
    from tests.interop.dht_peers import Kind

    from .lab import Lab

pytestmark = OVER_THE_LAB


@PAIRS
def test_two_nats_that_keep_ports_are_punched_through(lab: Lab, left: Kind, right: Kind) -> None:
    trial = lab.trial((left, right), "consistent", "consistent", relay=False)
    assert (trial.problem, trial.path) == (None, "direct")


@PAIRS
def test_two_random_nats_are_relayed(lab: Lab, left: Kind, right: Kind) -> None:
    trial = lab.trial((left, right), "random", "random", relay=True)
    assert (trial.problem, trial.path) == (None, "relay")


@PAIRS
def test_two_hosts_of_one_nat_meet_inside(lab: Lab, left: Kind, right: Kind) -> None:
    trial = lab.trial((left, right), "consistent", "same", relay=False)
    assert (trial.problem, trial.path) == (None, "direct")
