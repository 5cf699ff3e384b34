"""What a node concludes from the outcomes of its requests, tick by tick."""

import pytest

from hyperdht.rpc.health import Health, HealthMonitor

GOOD, BAD, DEAD, IDLE = (8, 2), (4, 6), (0, 4), (2, 1)
ONLINE, DEGRADED, OFFLINE = Health.ONLINE, Health.DEGRADED, Health.OFFLINE


@pytest.mark.parametrize(
    ("ticks", "health"),
    [
        ([], ONLINE),
        ([DEAD] * 4, ONLINE),  # three to warm up, then one
        ([DEAD] * 5, OFFLINE),
        ([GOOD] * 3 + [DEAD], ONLINE),
        ([GOOD] * 3 + [DEAD, DEAD], OFFLINE),
        ([GOOD] * 3 + [DEAD, IDLE, IDLE, DEAD], OFFLINE),  # idle ticks say nothing
        ([GOOD] * 3 + [DEAD, GOOD, DEAD], ONLINE),
        ([DEAD] * 5 + [GOOD], ONLINE),
        ([DEAD] * 5 + [BAD], ONLINE),
        ([DEAD] * 5 + [IDLE] * 9, OFFLINE),
        ([BAD] * 6, ONLINE),
        ([BAD] * 7, DEGRADED),
        ([GOOD] * 3 + [BAD, BAD, IDLE, BAD, BAD], ONLINE),
        ([BAD] * 7 + [GOOD] * 3, DEGRADED),
        ([BAD] * 7 + [GOOD] * 4, ONLINE),
        ([BAD] * 7 + [DEAD], DEGRADED),
        ([BAD] * 7 + [DEAD] * 2, OFFLINE),
        ([BAD] * 7 + [DEAD] * 2 + [BAD], ONLINE),
        ([BAD] * 7 + [DEAD] * 2 + [BAD] * 4, DEGRADED),
        ([(5, 5)] * 12, ONLINE),  # half is not most
    ],
)
def test_health(ticks: list[tuple[int, int]], health: Health) -> None:
    monitor = HealthMonitor()
    for replies, timeouts in ticks:
        monitor.update(replies=replies, timeouts=timeouts)
    assert monitor.health is health


def test_after_a_reset_it_warms_up_again() -> None:
    monitor = HealthMonitor()
    for _ in range(5):
        monitor.update(replies=0, timeouts=9)
    monitor.reset()
    assert monitor.health is ONLINE
    for _ in range(4):
        monitor.update(replies=0, timeouts=9)
    assert monitor.health is ONLINE
