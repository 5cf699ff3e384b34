"""What `ollaswarm doctor` says behind real NATs, over official DHT nodes: part of `make soak`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.support.processes import wait_for

from .needs import OVER_THE_LAB
from .sidecars import ROOM, Household, Machine, adapter_files, sidecars

if TYPE_CHECKING:
    from pathlib import Path

    from .lab import Lab

PATIENCE_S = 90.0
"""A node has to learn what its NAT does, to find the other one, and to fail at punching."""
NO_UDP = """table inet office {
  chain through { type filter hook forward priority -10; policy accept; meta l4proto udp drop; }
}
"""
pytestmark = OVER_THE_LAB


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    adapter_files(folder, 1 << 16, [])
    return folder


def doctor(machine: Machine, *arguments: str) -> dict[str, Any]:
    """What it answers as JSON; its exit code says whether somebody was reached."""
    ended = machine.sidecar.run("doctor", *arguments, "--json")
    answer: dict[str, Any] = ended.json
    assert ended.code == (0 if answer["ok"] else 1)
    return answer


def kinds(answer: dict[str, Any]) -> list[str]:
    return [finding["kind"] for finding in answer["findings"]]


def says(kind: str, machine: Machine, *arguments: str) -> dict[str, Any]:
    """Its answer, as soon as that has such a finding."""
    answers: list[dict[str, Any]] = []

    def asked() -> bool:
        answers.append(doctor(machine, *arguments))
        return kind in kinds(answers[-1])

    wait_for(asked, f"the finding {kind}", PATIENCE_S)
    return answers[-1]


def in_one_room(machines: list[Machine]) -> None:
    code = machines[0].create_room()
    for machine in machines[1:]:
        machine.join_room(code)


def test_two_behind_random_nats_are_told_that_they_need_a_relay(lab: Lab, tmp_path: Path, files: Path) -> None:
    with sidecars(lab, tmp_path, files, [Household("random"), Household("random")]) as machines:
        in_one_room(machines)
        left, right = machines
        of_room = says("needs-relay", left, "--room", ROOM)
        assert not of_room["reached"]
        of_peer = says("needs-relay", right, "--peer", left.key, "--dial")
        (finding,) = [each for each in of_peer["findings"] if each["kind"] == "needs-relay"]
        assert finding["certainty"] == "certain"
        assert "third member" in finding["next"]
        assert of_peer["dial"]["ok"] is False
        status = left.api.get("/status")["connections"]
        assert (status["online"], status["nat"], status["reachable"]) == (True, "random", False)
        assert status["dials_failed"].get("double-random", 0) + status["dials_failed"].get("holepunch", 0) >= 1
        lines = {line["name"]: line for line in left.sidecar.run("doctor", "--json").json["checks"]}
        assert "a member that relays" in lines["internet"]["cause"]
        assert "relay" in lines["rooms"]["cause"]


def test_two_behind_nats_that_keep_ports_are_told_that_all_is_well(lab: Lab, tmp_path: Path, files: Path) -> None:
    with sidecars(lab, tmp_path, files, [Household("consistent"), Household("open")]) as machines:
        in_one_room(machines)
        left, right = machines
        says("connected", left, "--peer", right.key)
        assert kinds(doctor(left, "--room", ROOM)) == ["connected"]
        assert left.api.get("/status")["connections"]["nat"] == "consistent"
        wait_for(lambda: right.api.get("/status")["connections"]["reachable"], "the open one to know it", PATIENCE_S)


def test_one_whose_network_stops_udp_is_told_so(lab: Lab, tmp_path: Path, files: Path) -> None:
    with sidecars(lab, tmp_path, files, [Household("consistent")]) as (machine,):
        machine.site.router.filter(NO_UDP)
        machine.create_room()
        answer = says("dht-silent", machine, "--room", ROOM)
        assert answer["findings"][0]["level"] == "fail"
        lines = {line["name"]: line for line in machine.sidecar.run("doctor", "--json").json["checks"]}
        assert lines["internet"]["level"] == "warn"
        assert machine.api.get("/status")["connections"]["online"] is False
