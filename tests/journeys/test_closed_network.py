"""A network without internet: `ollaswarm bootstrap` on one machine, and two sidecars that know nothing else."""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import TYPE_CHECKING

import pytest

from tests.journeys.inside import IN_PROCESS, team, until
from tests.support.processes import COMMAND, Process, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = IN_PROCESS


@pytest.fixture
def bootstrap(tmp_path: Path) -> Iterator[tuple[Process, str]]:
    """The process, and what it says to give to others."""
    log = tmp_path / "bootstrap.log"
    with Process([COMMAND, "bootstrap", "--listen", "127.0.0.1:0", "--json"], log) as process:
        told = wait_for(lambda: "\n" in process.explain() and process.explain(), "the address to give to others")
        yield process, json.loads(told.splitlines()[0])["bootstrap"]


async def test_two_members_meet_through_nothing_but_our_own_bootstrap_node(
    tmp_path: Path, files: Path, bootstrap: tuple[Process, str]
) -> None:
    async with team(tmp_path, files) as members:
        nodes = [
            await members.join(name, no_dht=False, bootstrap=(bootstrap[1],), peers=()) for name in ("left", "right")
        ]
        await until(lambda: all(node.parts.network.connections for node in nodes))
        await members.publish(nodes[0])
        await nodes[1].row("sql-lora", sources=1)
        await nodes[1].got("sql-lora")


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such signals")
@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM"])
def test_it_ends_when_it_is_told_to(bootstrap: tuple[Process, str], number: str) -> None:
    process, _ = bootstrap
    os.kill(process.pid, getattr(signal, number))
    assert wait_for(lambda: not process.alive(), "its end")
    assert process.stop() == 0
