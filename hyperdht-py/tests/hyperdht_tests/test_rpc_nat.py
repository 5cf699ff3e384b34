"""The NAT sampler against recorded sequences."""

from typing import Any

import pytest

from hyperdht.addresses import Address
from hyperdht.rpc.nat import MAX_SAMPLES, NatSampler

from .dht_vectors import dht


@pytest.mark.parametrize("vector", dht()["nat_sampler"])
def test_recorded_samples(vector: dict[str, Any]) -> None:
    sampler = NatSampler()
    for (host, port), state in zip(vector["samples"], vector["states"], strict=True):
        sampler.add(Address(host, port))
        assert {"host": sampler.host, "port": sampler.port} == state


def test_a_new_address_takes_over_and_memory_does_not_grow() -> None:
    sampler = NatSampler()
    for port in (1, 2):
        for _ in range(40):
            sampler.add(Address("1.1.1.1", port))
        assert (sampler.host, sampler.port) == ("1.1.1.1", port)
    assert sampler.size == MAX_SAMPLES


def test_a_few_liars_change_nothing() -> None:
    sampler = NatSampler()
    for i in range(MAX_SAMPLES):
        sampler.add(Address("6.6.6.6", 666) if i in (3, 7, 11) else Address("1.1.1.1", 10))
    assert (sampler.host, sampler.port) == ("1.1.1.1", 10)
