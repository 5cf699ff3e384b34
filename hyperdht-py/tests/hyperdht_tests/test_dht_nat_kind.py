"""NAT classification: the recorded cases, and what keeps a few liars from deciding."""

from typing import Any

import pytest

from hyperdht.addresses import Address
from hyperdht.dht.constants import Firewall
from hyperdht.dht.nat_kind import MAX_SAMPLES, NatClassifier

from .dht_vectors import address_of, dht

HERE = Address("1.1.1.1", 10)


def node(number: int) -> Address:
    return Address(f"11.0.0.{number}", 49737)


def classified(*observed: Address, firewalled: bool = True) -> NatClassifier:
    nat = NatClassifier(firewalled=firewalled)
    for i, address in enumerate(observed):
        nat.add(address, by=node(i))
    return nat


@pytest.mark.parametrize("case", dht()["nat_classifier"])
def test_recorded_cases(case: dict[str, Any]) -> None:
    nat = NatClassifier(firewalled=True)
    for i, ((host, port), state) in enumerate(zip(case["samples"], case["states"], strict=True)):
        nat.add(Address(host, port), by=node(i))
        recorded = state["addresses"]
        assert nat.firewall == state["firewall"]
        assert nat.addresses == (None if recorded is None else tuple(map(address_of, recorded)))


def test_nothing_is_known_without_samples() -> None:
    nat = classified()
    assert (nat.firewall, nat.addresses, nat.is_settled) == (Firewall.UNKNOWN, None, False)


def test_three_equal_samples_are_enough_and_four_always() -> None:
    assert not classified(HERE, HERE).is_settled
    assert classified(HERE, HERE, HERE).is_settled
    different = [Address("1.1.1.1", port) for port in range(4)]
    assert not classified(*different[:3]).is_settled
    assert classified(*different).is_settled


def test_a_node_counts_once() -> None:
    nat = NatClassifier(firewalled=True)
    for _ in range(5):
        nat.add(HERE, by=node(1))
    assert (nat.firewall, nat.samples) == (Firewall.UNKNOWN, 1)
    for i in (2, 3):
        nat.add(Address(HERE.host, HERE.port + i), by=node(i))
    assert (nat.firewall, nat.samples) == (Firewall.RANDOM, 3)


def test_an_open_node_names_where_it_is_seen() -> None:
    nat = classified(firewalled=False)
    assert (nat.firewall, nat.addresses, nat.is_settled) == (Firewall.OPEN, None, False)
    nat.add(HERE, by=node(0))
    assert (nat.firewall, nat.addresses, nat.is_settled) == (Firewall.OPEN, (HERE,), True)


def test_a_frozen_judgement_stays() -> None:
    nat = classified(HERE, HERE, HERE)
    nat.freeze()
    for i in range(10, 14):
        nat.add(Address("2.2.2.2", i), by=node(i))
    assert (nat.firewall, nat.addresses) == (Firewall.CONSISTENT, (HERE,))


def test_t18_samples_are_limited() -> None:
    nat = classified(*(Address("2.2.2.2", port) for port in range(1, 200)))
    assert nat.samples == MAX_SAMPLES
