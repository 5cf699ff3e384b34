"""Blind relay: the recorded messages, the relay's matching and its limits, and the side that asks."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperdht.dht.blind_relay import (
    MAX_ENDS_OF_HOST,
    MAX_WAITING_OF_HOST,
    WAITING_TIMEOUT_S,
    RelayPair,
    RelayPairing,
)
from hyperdht.dht.blind_relay_messages import (
    PROTOCOL,
    MessageType,
    Pair,
    decode_pair,
    decode_unpair,
    encode_pair,
    encode_unpair,
)
from hyperdht.errors import DecodeError, LocalProtocolError

from .dht_vectors import dht

TOKEN = b"\x07" * 32
HOME, ELSEWHERE = "11.0.0.1", "12.0.0.1"


def token(number: int) -> bytes:
    return number.to_bytes(32, "big")


@dataclass
class Relay:
    """A relay whose streams exist only on paper."""

    matched: list[RelayPair] = field(default_factory=list)
    ended: list[tuple[RelayPair, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.pairing = RelayPairing(
            on_matched=lambda pair, _: self.matched.append(pair),
            on_ended=lambda pair, now: self.ended.append((pair, now)),
        )

    def pair(
        self, session: str, *, is_initiator: bool, name: bytes = TOKEN, stream_id: int = 5, now: float = 0.0
    ) -> None:
        self.pairing.receive(session, MessageType.PAIR, encode_pair(Pair(is_initiator, name, stream_id)), now)

    def unpair(self, session: str, *, name: bytes = TOKEN, now: float = 0.0) -> None:
        self.pairing.receive(session, MessageType.UNPAIR, encode_unpair(name), now)

    @property
    def is_empty(self) -> bool:
        pairing = self.pairing
        return not (pairing.waiting or pairing.pairs or pairing._waiting_of or pairing._ends_of)


def relay_with(*sessions: str, host: str = HOME) -> Relay:
    relay = Relay()
    for session in sessions:
        relay.pairing.open(session, host=host)
    return relay


def test_recorded_messages() -> None:
    recorded: dict[str, Any] = dht()["blind_relay"]
    assert recorded["protocol"] == PROTOCOL
    for vector in recorded["pair"]:
        fields = vector["fields"]
        pair = Pair(fields["isInitiator"], bytes.fromhex(fields["token"]), fields["id"], fields["seq"])
        assert encode_pair(pair).hex() == vector["encoded"]
        assert decode_pair(bytes.fromhex(vector["encoded"])) == pair
    for vector in recorded["unpair"]:
        name = bytes.fromhex(vector["fields"]["token"])
        assert encode_unpair(name).hex() == vector["encoded"]
        assert decode_unpair(bytes.fromhex(vector["encoded"])) == name


@pytest.mark.parametrize("decode", [decode_pair, decode_unpair])
@given(data=st.binary(max_size=80))
def test_any_bytes_decode_or_are_refused(decode: Callable[[bytes], object], data: bytes) -> None:
    with suppress(DecodeError):
        decode(data)


def test_a_stream_id_has_32_bits() -> None:
    with pytest.raises(DecodeError):
        decode_pair(encode_pair(Pair(True, TOKEN, 2**32)))


@pytest.mark.parametrize("initiator_first", [True, False])
def test_two_opposite_roles_with_one_token_are_matched(initiator_first: bool) -> None:
    relay = relay_with("first", "second")
    relay.pair("first", is_initiator=initiator_first, stream_id=11)
    assert relay.matched == []
    relay.pair("second", is_initiator=not initiator_first, stream_id=22)
    (pair,) = relay.matched
    assert [end.is_initiator for end in pair.ends] == [False, True]
    assert {(end.session, end.stream_id) for end in pair.ends} == {("first", 11), ("second", 22)}
    answers = [decode_pair(answer) for answer in pair.answers((33, 44))]
    assert answers == [Pair(False, TOKEN, 33), Pair(True, TOKEN, 44)]
    assert (relay.pairing.waiting, relay.pairing.pairs) == (0, 1)


def test_equal_roles_and_other_tokens_do_not_meet() -> None:
    relay = relay_with("a", "b", "c")
    relay.pair("a", is_initiator=True, stream_id=1)
    relay.pair("b", is_initiator=True, stream_id=2)
    relay.pair("c", is_initiator=False, name=token(9))
    assert relay.matched == []
    relay.pair("c", is_initiator=False)
    assert {end.stream_id for end in relay.matched[0].ends} == {1, 5}  # not b's: the first one counts


def test_a_matched_token_stays_with_its_pair() -> None:
    relay = relay_with("a", "b")
    relay.pair("a", is_initiator=True)
    relay.pair("b", is_initiator=False)
    relay.pair("a", is_initiator=True)
    relay.pair("b", is_initiator=False)
    assert len(relay.matched) == 1
    assert relay.pairing.waiting == 0


def test_only_a_peer_of_a_pair_cancels_it() -> None:
    relay = relay_with("a", "b", "stranger")
    relay.pair("a", is_initiator=True)
    relay.unpair("stranger")
    relay.pair("b", is_initiator=False)
    relay.unpair("stranger")
    assert relay.ended == []
    relay.unpair("b", now=3.0)
    assert relay.ended == [(relay.matched[0], 3.0)]
    assert relay.is_empty


def test_who_cancels_while_waiting_is_not_matched() -> None:
    relay = relay_with("a", "b")
    relay.pair("a", is_initiator=True)
    relay.unpair("a")
    relay.pair("b", is_initiator=False)
    assert relay.matched == []


def test_a_session_that_closes_takes_everything_along() -> None:
    relay = relay_with("a", "b")
    relay.pair("a", is_initiator=True)
    relay.pair("b", is_initiator=False)
    relay.pair("a", is_initiator=True, name=token(1))
    relay.pairing.close("a", 4.0)
    assert relay.ended == [(relay.matched[0], 4.0)]
    relay.pairing.close("b", 5.0)
    relay.pairing.close("b", 5.0)
    assert len(relay.ended) == 1
    assert relay.is_empty


def test_streams_that_closed_by_themselves_are_not_closed_again() -> None:
    relay = relay_with("a", "b")
    relay.pair("a", is_initiator=True)
    relay.pair("b", is_initiator=False)
    relay.pairing.end(relay.matched[0])
    relay.pairing.end(relay.matched[0])
    relay.pairing.close("a", 1.0)
    relay.pairing.close("b", 1.0)
    assert relay.ended == []
    assert relay.is_empty


def test_a_peer_may_meet_itself() -> None:
    relay = relay_with("a")
    relay.pair("a", is_initiator=True)
    relay.pair("a", is_initiator=False)
    assert len(relay.matched) == 1
    relay.pairing.close("a", 0.0)
    assert len(relay.ended) == 1
    assert relay.is_empty


def test_who_waits_too_long_is_forgotten() -> None:
    relay = relay_with("a", "b")
    relay.pair("a", is_initiator=True, now=1.0)
    when = relay.pairing.next_timer()
    assert when == 1.0 + WAITING_TIMEOUT_S
    relay.pairing.handle_timer(now=when)
    assert relay.is_empty
    relay.pair("b", is_initiator=False, now=when)
    assert relay.matched == []


def test_t18_one_host_cannot_fill_the_relay() -> None:
    relay = relay_with(*(f"flood {i}" for i in range(100)))
    for i in range(10_000):
        relay.pair(f"flood {i % 100}", is_initiator=True, name=token(i))
    assert relay.pairing.waiting == MAX_WAITING_OF_HOST
    assert relay.pairing.dropped == 10_000 - MAX_WAITING_OF_HOST
    relay.pairing.open("honest", host=ELSEWHERE)
    relay.pairing.open("peer", host=ELSEWHERE)
    relay.pair("honest", is_initiator=True)
    relay.pair("peer", is_initiator=False)
    assert len(relay.matched) == 1


def test_t18_pairs_are_limited_by_host_and_in_all() -> None:
    relay = relay_with("a", "b")
    for i in range(1000):
        relay.pair("a", is_initiator=True, name=token(i))
        relay.pair("b", is_initiator=False, name=token(i))
    assert relay.pairing.pairs == MAX_ENDS_OF_HOST // 2
    few = RelayPairing(on_matched=lambda *_: None, on_ended=lambda *_: None, max_pairs=3, max_waiting=2)
    for i in range(8):
        few.open(i, host=f"11.0.0.{i}")
        few.receive(i, MessageType.PAIR, encode_pair(Pair(bool(i % 2), token(i // 2), 1)), 0.0)
    assert few.pairs == 3
    for i in range(8, 12):
        few.open(i, host=f"11.0.0.{i}")
        few.receive(i, MessageType.PAIR, encode_pair(Pair(True, token(i), 1)), 0.0)
    assert few.waiting == 2


def test_t18_limits_free_up_with_the_pairs() -> None:
    relay = relay_with("a", "b")
    for i in range(500):
        relay.pair("a", is_initiator=True, name=token(i))
        relay.pair("b", is_initiator=False, name=token(i))
        relay.unpair("a", name=token(i))
    assert len(relay.ended) == 500
    assert relay.pairing.dropped == 0
    assert relay.is_empty


def test_the_relay_drops_what_it_cannot_read() -> None:
    relay = relay_with("a")
    for kind, body in ((MessageType.PAIR, b"\x01short"), (MessageType.UNPAIR, b""), (7, b"")):
        relay.pairing.receive("a", kind, body, 0.0)
    assert relay.pairing.dropped == 3
    with pytest.raises(LocalProtocolError):
        relay.pairing.open("a", host=HOME)
