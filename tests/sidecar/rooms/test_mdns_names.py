"""Which names of a local network are remembered, when somebody announces more than anybody wants to know (T22)."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from zeroconf import ServiceStateChange

from sidecar.rooms.mdns import MAX_INSTANCES, SERVICE_TYPE, MdnsDiscovery

if TYPE_CHECKING:
    from zeroconf import Zeroconf


def announce(discovery: MdnsDiscovery, name: str) -> None:
    discovery._changed(cast("Zeroconf", None), SERVICE_TYPE, name, ServiceStateChange.Added)


def crowded() -> MdnsDiscovery:
    """As many names as fit, the first of them a member's."""
    discovery = MdnsDiscovery(port=1, addresses=["127.0.0.1"], tags=lambda nonce: [], found=lambda peer: None)
    for number in range(MAX_INSTANCES):
        announce(discovery, f"name-{number}.{SERVICE_TYPE}")
    discovery._members.add(f"name-0.{SERVICE_TYPE}")
    return discovery


def test_t22_many_names_do_not_hide_those_that_come_later() -> None:
    discovery = crowded()
    announce(discovery, f"late.{SERVICE_TYPE}")
    assert f"late.{SERVICE_TYPE}" in discovery._names
    assert len(discovery._names) == MAX_INSTANCES


def test_t22_many_names_do_not_make_a_member_forgotten() -> None:
    discovery = crowded()
    for number in range(20 * MAX_INSTANCES):
        announce(discovery, f"flood-{number}.{SERVICE_TYPE}")
    assert f"name-0.{SERVICE_TYPE}" in discovery._names
    assert len(discovery._names) == MAX_INSTANCES
