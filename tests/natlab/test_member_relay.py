"""Two sidecars behind random NATs and a member that both reach, over official DHT nodes: part of `make soak`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sidecar.identity import load_or_create_identity, relay_key_pair
from tests.support.processes import wait_for

from .needs import OVER_THE_LAB
from .sidecars import Household, Machine, adapter_files, sidecars

if TYPE_CHECKING:
    from pathlib import Path

    from .lab import Lab

SIZE = 2 << 20
MEET_S = 90.0
"""Both have to learn what their NATs do, to fail at punching, and to be told of the relay."""
pytestmark = OVER_THE_LAB


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    adapter_files(folder, SIZE, ["sql-lora"])
    return folder


def roads(machine: Machine) -> dict[str, str]:
    """How a machine reaches the members it is connected with."""
    return {peer["key"]: peer["road"] for peer in machine.peers()}


def carried(left: Machine, right: Machine) -> bool:
    """Whether both are connected through a relay."""
    return roads(left).get(right.key) == roads(right).get(left.key) == "relayed"


def in_one_room(left: Machine, right: Machine, middle: Machine) -> None:
    """Both come into a room of the middle one's, and find it."""
    code = middle.create_room()
    for machine in (left, right):
        machine.join_room(code)
        wait_for(lambda machine=machine: middle.key in roads(machine), "a way to the middle", MEET_S)


def test_a_member_carries_two_behind_random_nats_and_no_strangers(lab: Lab, tmp_path: Path, files: Path) -> None:
    households = [Household("random"), Household("random"), Household("open")]
    with sidecars(lab, tmp_path, files, households) as (left, right, middle):
        in_one_room(left, right, middle)
        wait_for(lambda: carried(left, right), "a way to each other", MEET_S)
        row = left.share("sql-lora")
        right.wait_for_offer(row)
        right.api.got("sql-lora")
        assert right.installed("sql-lora") == row["digest"]
        came = {peer["key"]: peer["received_bytes"] for peer in right.peers()}
        assert came[left.key] >= SIZE
        assert came[middle.key] < SIZE, "the middle one passed it on without having it"

        relay = relay_key_pair(load_or_create_identity(middle.sidecar.data_dir).key_pair).public_key
        lab.relay_key = relay.hex()
        trial = lab.trial(("py", "py"), "random", "random", relay=True)
        assert trial.seconds is None, "strangers were carried"
        assert carried(left, right), "and those who may are still"


def test_without_a_member_that_relays_they_do_not_meet_and_the_reason_is_told(
    lab: Lab, tmp_path: Path, files: Path
) -> None:
    households = [Household("random"), Household("random"), Household("open", args=("--no-relay",))]
    with sidecars(lab, tmp_path, files, households) as (left, right, middle):
        in_one_room(left, right, middle)

        def kinds() -> list[str]:
            told = left.sidecar.run("doctor", "--peer", right.key, "--json").json
            return [finding["kind"] for finding in told["findings"]]

        wait_for(lambda: kinds() == ["needs-relay"], "a diagnosis", MEET_S)
        assert set(roads(left)) == set(roads(right)) == {middle.key}
