"""A room of five sidecars behind two NATs, over official DHT nodes: part of `make soak`, with figures `make nat ARGS=five`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from .five import Act, Play, play
from .five_report import table
from .needs import OVER_THE_LAB

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .lab import Lab

SIZE = 32 << 20
ALL_PAIRS = 10
pytestmark = OVER_THE_LAB


@pytest.fixture(scope="module")
def five(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Play]:
    """Five that have met, and stay for all tests here."""
    models = ("first-lora", "second-lora", "third-lora", "fourth-lora")
    with play(lab, tmp_path_factory.mktemp("five"), SIZE, models) as five:
        _, pairs = five.meet()
        assert pairs == ALL_PAIRS, "NATs that keep ports are punched through, and hosts of one NAT meet inside"
        yield five


def whole(five: Play, act: Act) -> None:
    """All four have it in their Ollama, and each got parts from two others at least."""
    print(f"\n{table(act, five.publisher.name)}")
    assert {download.digest for download in act.downloads} == {act.row["digest"]}
    assert [download.machine for download in act.downloads] == [machine.name for machine in five.getters]
    assert all(len(download.sources) >= 2 for download in act.downloads)


def test_one_publishes_and_four_get_it_from_each_other_too(five: Play) -> None:
    whole(five, five.all_get("first-lora"))


def test_t20_the_publisher_is_killed_midway_and_all_four_finish(five: Play) -> None:
    act = five.publisher_killed("second-lora")
    whole(five, act)
    assert min(act.kept.values()) < 1, "somebody still needed the others"
    assert any(download.seconds > act.happened_at for download in act.downloads if act.happened_at is not None)


def test_one_that_slept_for_a_while_finishes(five: Play) -> None:
    whole(five, five.one_asleep("third-lora"))


def test_one_that_lost_its_network_for_a_while_finishes(five: Play) -> None:
    whole(five, five.one_unplugged("fourth-lora"))
