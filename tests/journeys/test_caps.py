"""Bandwidth caps, set as a user sets them, between whole sidecars."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.journeys.inside import IN_PROCESS, team

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = IN_PROCESS

RATE = 8 << 20
BURST_S = 0.25


async def seconds(folder: Path, files: Path, giver: dict[str, Any], taker: dict[str, Any]) -> tuple[int, float]:
    """Size, and how long a `get` took."""
    async with team(folder, files) as people:
        first = await people.join("first", **giver)
        second = await people.join("second", **taker)
        row = await people.publish(first)
        row = await second.row(row.name, sources=1)
        got = await second.got(row.ref, install=False)
        assert got.result is not None
        return row.size, got.result.seconds


@pytest.mark.parametrize(
    ("giver", "taker"),
    [
        ({"upload_limit": RATE}, {}),
        ({"room_upload_limit": RATE}, {}),
        ({"peer_upload_limit": RATE}, {}),
        ({}, {"download_limit": RATE}),
        ({}, {"room_download_limit": RATE}),
        ({}, {"peer_download_limit": RATE}),
    ],
    ids=lambda given: " ".join(given),
)
async def test_each_cap_holds(tmp_path: Path, big_files: Path, giver: dict[str, Any], taker: dict[str, Any]) -> None:
    size, took = await seconds(tmp_path, big_files, giver, taker)
    assert took >= (size / RATE - BURST_S) * 0.9


async def test_no_cap_holds_in_the_local_network_when_the_user_exempts_it(tmp_path: Path, big_files: Path) -> None:
    low: dict[str, Any] = {
        "lan_exempt": True,
        "upload_limit": 100_000,
        "peer_upload_limit": 100_000,
        "room_upload_limit": 100_000,
    }
    _, took = await seconds(tmp_path, big_files, low, {"lan_exempt": True, "peer_download_limit": 100_000})
    assert took < 60, "which would be two minutes"
