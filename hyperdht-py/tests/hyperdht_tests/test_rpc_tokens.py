"""Tokens: recorded values, rotation, and who may use one."""

from typing import Any

import pytest

from hyperdht.addresses import Address
from hyperdht.rpc.tokens import ROTATE_AFTER_STEPS, Tokens

from .dht_vectors import address_of, dht


def secrets(recorded: dict[str, Any]) -> tuple[bytes, bytes]:
    return bytes.fromhex(recorded["previous"]), bytes.fromhex(recorded["current"])


def test_recorded_rotation() -> None:
    recorded = dht()["rpc_token_rotation"]
    address = address_of(recorded["address"])
    tokens = Tokens(*secrets(recorded["before"]))
    for moment in ("before", "after"):
        issued = {name: bytes.fromhex(recorded[moment][name]) for name in ("tokenPrevious", "tokenCurrent")}
        assert tokens.issue(address) == issued["tokenCurrent"]
        assert all(tokens.accepts(token, address) for token in issued.values())
        for _ in range(ROTATE_AFTER_STEPS):
            tokens.step()


def test_recorded_secrets_are_the_ones_replies_were_made_with() -> None:
    replies = {recorded["name"]: recorded["fields"] for recorded in dht()["rpc_responses"]}
    fields = replies["INVALID_TOKEN with fresh token"]
    assert Tokens(*secrets(dht()["rpc_secrets"])).issue(address_of(fields["to"])).hex() == fields["token"]


def test_a_token_belongs_to_a_host_and_not_to_a_port() -> None:
    tokens = Tokens(b"p" * 32, b"c" * 32)
    token = tokens.issue(Address("10.0.0.1", 1))
    assert tokens.accepts(token, Address("10.0.0.1", 2))
    assert not tokens.accepts(token, Address("10.0.0.2", 1))
    assert not tokens.accepts(b"", Address("10.0.0.1", 1))


def test_a_token_survives_one_rotation_and_not_two() -> None:
    tokens, address = Tokens(b"p" * 32, b"c" * 32), Address("10.0.0.1", 1)
    token = tokens.issue(address)
    for _ in range(2 * ROTATE_AFTER_STEPS - 1):
        tokens.step()
    assert tokens.accepts(token, address)
    tokens.step()
    assert not tokens.accepts(token, address)


def test_steps_before_the_first_use_do_not_count() -> None:
    tokens, fresh = Tokens(b"p" * 32, b"c" * 32), Tokens(b"p" * 32, b"c" * 32)
    for _ in range(100):
        tokens.step()
    assert tokens.issue(Address("10.0.0.1", 1)) == fresh.issue(Address("10.0.0.1", 1))


def test_short_secrets_are_refused() -> None:
    with pytest.raises(ValueError, match="32"):
        Tokens(b"", b"c" * 32)
