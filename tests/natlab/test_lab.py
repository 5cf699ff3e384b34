"""A few cells of the matrix, where the machine can: part of `make soak`; `make nat` is the whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.interop.dht_fixtures import PAIRS

from .lab import Lab
from .namespaces import why_not

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.interop.dht_peers import Kind

REASON = why_not()
pytestmark = [
    pytest.mark.interop,
    pytest.mark.soak,
    pytest.mark.usefixtures("node"),
    pytest.mark.skipif(REASON is not None, reason=f"no NAT lab: {REASON}"),
]


@pytest.fixture(scope="module")
def lab(node: None) -> Iterator[Lab]:
    with Lab() as lab:
        yield lab


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
