"""From an adapter's appearance in a store to `entry:added` at the peer: two daemons and two stand-ins as processes."""

from __future__ import annotations

from tests.journeys import measure_appearing


def run(times: int) -> None:
    """Print median, worst and all."""
    measure_appearing.main(times)
