from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.sidecar.cli.conftest import Run


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("0.0.0.0:4000", "not an IPv4 address that others"),
        ("localhost:4000", "not an IPv4 address that others"),
        ("[::1]:4000", "not an IPv4 address that others"),
        ("10.0.0.7", "looks like"),
        ("203.0.113.9:4000", "cannot be used"),
    ],
)
def test_an_address_that_is_of_no_use_to_others_is_refused(run: Run, address: str, said: str) -> None:
    ended = run("bootstrap", "--listen", address)
    assert ended.exit_code == 1
    assert said in ended.stderr
    assert "Next: " in ended.stderr


def test_a_port_that_is_taken_is_not_replaced_by_another(run: Run) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        ended = run("bootstrap", "--listen", f"127.0.0.1:{taken.getsockname()[1]}", "--json")
    assert ended.exit_code == 1
    assert "is taken" in json.loads(ended.stdout)["error"]["cause"]


def test_the_address_must_be_given(run: Run) -> None:
    assert run("bootstrap").exit_code == 2
