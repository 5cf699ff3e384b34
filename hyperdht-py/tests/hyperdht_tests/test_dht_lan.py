"""Which local address of a peer is tried."""

import pytest

from hyperdht.addresses import Address
from hyperdht.dht.lan import best_match, lan_addresses, private_ones


def at(*hosts: str) -> tuple[Address, ...]:
    return tuple(Address(host, 4000) for host in hosts)


@pytest.mark.parametrize(
    ("own", "theirs", "best"),
    [
        (["192.168.1.5"], ["10.0.0.1", "192.168.1.9", "192.168.2.9"], "192.168.1.9"),
        (["192.168.1.5"], ["192.168.2.9", "192.1.1.9"], "192.168.2.9"),
        (["192.168.1.5", "10.0.0.3"], ["10.0.0.9", "192.168.2.1"], "10.0.0.9"),
        (["192.168.1.5"], ["10.168.1.5"], None),  # equal further on counts for nothing
        (["192.168.1.5"], [], None),
        ([], ["192.168.1.9"], None),
    ],
)
def test_longest_common_beginning_wins(own: list[str], theirs: list[str], best: str | None) -> None:
    match = best_match(at(*own), at(*theirs))
    assert (match and match.host) == best


def test_t19_services_groups_and_this_machine_are_left_out() -> None:
    own = at("192.168.1.5")
    hostile = (*at("127.0.0.1", "224.0.0.1", "0.0.0.0", "255.255.255.255"), Address("192.168.1.1", 53))
    assert lan_addresses((*hostile, *at("192.168.1.9")), own) == at("192.168.1.9")
    assert lan_addresses(at("127.0.0.1"), ()) == ()


def test_node_that_only_listens_on_loopback_finds_others_there() -> None:
    assert lan_addresses(at("127.0.0.1"), at("127.0.0.1")) == at("127.0.0.1")


def test_private_means_something_else_elsewhere() -> None:
    addresses = at("11.0.0.1", "10.0.0.1", "192.168.1.1", "100.64.0.1", "127.0.0.1")
    assert private_ones(addresses) == addresses[1:]
