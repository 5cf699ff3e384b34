"""Room sessions over Protomux, as two connections carry them: who may open which channel, and what outsiders see."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from hyperdht.protomux import (
    Channel,
    ChannelClosed,
    ChannelMessageReceived,
    ChannelOpened,
    ChannelRequested,
    Event,
    Mux,
)
from sidecar.rooms import session_events as events
from sidecar.rooms.key import RoomKey
from sidecar.rooms.messages import PROTOCOL, GoodbyeReason
from tests.sidecar.rooms.conversation import DIGEST, HASH, KEY, drain, session

if TYPE_CHECKING:
    from sidecar.rooms.session import RoomSession


class Side:
    """One end of a connection with a session per room; rejects channels of rooms it is not in."""

    def __init__(self, *rooms: RoomKey, is_initiator: bool) -> None:
        self.mux = Mux()
        self.sessions: dict[Channel, RoomSession] = {}
        self.seen: list[Event] = []
        for room in rooms:
            channel = self.mux.create_channel(PROTOCOL, room.channel_id(HASH))
            assert channel is not None
            self.sessions[channel] = session(is_initiator=is_initiator, key=room)
            channel.open(self.sessions[channel].open_handshake())

    @property
    def only(self) -> RoomSession:
        (machine,) = self.sessions.values()
        return machine

    def pump(self) -> list[bytes]:
        """Let sessions speak; returns what goes to the wire."""
        for channel, machine in self.sessions.items():
            for message_type, body in machine.messages_to_send(0.0):
                channel.send(message_type, body)
        return self.mux.messages_to_send()

    def hear(self, message: bytes) -> None:
        self.mux.receive(message)
        while (event := self.mux.next_event()) is not None:
            self.seen.append(event)
            match event:
                case ChannelRequested():
                    self.mux.reject(event.protocol, event.id)
                case ChannelOpened():
                    self.sessions[event.channel].opened(event.handshake, 0.0)
                case ChannelMessageReceived():
                    self.sessions[event.channel].receive(event.type, event.body, 0.0)
                case ChannelClosed():
                    self.sessions[event.channel].closed()


def converse(left: Side, right: Side) -> list[bytes]:
    """Carry messages both ways until silence; returns everything that crossed."""
    crossed: list[bytes] = []
    while True:
        to_right, to_left = left.pump(), right.pump()
        if not to_right and not to_left:
            return crossed
        crossed += to_right + to_left
        for message in to_right:
            right.hear(message)
        for message in to_left:
            left.hear(message)


def test_members_meet_on_their_channel() -> None:
    left, right = Side(KEY, is_initiator=True), Side(KEY, is_initiator=False)
    converse(left, right)
    assert drain(left.only) == drain(right.only) == [events.MembershipProved()]
    left.only.query_blob(DIGEST, 1)
    converse(left, right)
    assert drain(right.only) == [events.BlobQueried(DIGEST)]
    right.only.goodbye(GoodbyeReason.LEFT_ROOM)
    converse(left, right)
    assert drain(left.only) == [events.PeerSaidGoodbye(GoodbyeReason.LEFT_ROOM)]


@pytest.mark.parametrize("outsider_initiates", [True, False])
def test_t12_outsider_learns_only_that_there_are_channels_it_cannot_name(outsider_initiates: bool) -> None:
    member = Side(KEY, is_initiator=not outsider_initiates)
    outsider = Side(RoomKey(b"guess".ljust(32, b".")), is_initiator=outsider_initiates)
    crossed = b"".join(converse(member, outsider))
    assert drain(member.only) == []
    for secret in (KEY.secret, KEY.topic, KEY.room_id, KEY.proof_key):
        assert secret not in crossed


def test_t12_reflecting_the_open_message_fails_the_proof() -> None:
    member = Side(KEY, is_initiator=True)
    for message in member.pump():
        member.hear(message)
    assert drain(member.only) == [events.ProofFailed()]
    assert member.only.messages_to_send(0.0) == []


def test_rooms_on_one_connection_are_isolated() -> None:
    other = RoomKey(b"o" * 32)
    left, right = Side(KEY, other, is_initiator=True), Side(KEY, is_initiator=False)
    converse(left, right)
    shared, alone = left.sessions.values()
    assert drain(shared) == [events.MembershipProved()]
    assert drain(alone) == []
    assert sum(isinstance(event, ChannelRequested) for event in right.seen) == 1
