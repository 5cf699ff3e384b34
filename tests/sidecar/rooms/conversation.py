"""Two room sessions in memory, for tests that read as a conversation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hyperdht.buffers import Body, parts_of
from sidecar.rooms import session_events as events
from sidecar.rooms.key import RoomKey
from sidecar.rooms.messages import MessageType, encode
from sidecar.rooms.session import RoomSession

if TYPE_CHECKING:
    from sidecar.rooms.messages import Message

KEY = RoomKey(b"k" * 32)
HASH = bytes(range(64))
ALICE_KEY, BOB_KEY = b"A" * 32, b"B" * 32
DIGEST = b"d" * 32


def session(*, is_initiator: bool, key: RoomKey = KEY, handshake_hash: bytes = HASH) -> RoomSession:
    """Alice's session if she opened the connection, Bob's otherwise."""
    keys = (ALICE_KEY, BOB_KEY) if is_initiator else (BOB_KEY, ALICE_KEY)
    return RoomSession(
        key, is_initiator=is_initiator, handshake_hash=handshake_hash, public_key=keys[0], remote_public_key=keys[1]
    )


def drain(machine: RoomSession) -> list[events.SessionEvent]:
    """All events waiting."""
    happened = []
    while (event := machine.next_event()) is not None:
        happened.append(event)
    return happened


def whole(body: Body) -> bytes:
    """A body as it comes out at the other end."""
    return b"".join(parts_of(body))


def say(machine: RoomSession, message: Message, now: float = 0.0) -> list[events.SessionEvent]:
    """Give a session a message of its peer's, and return what it makes of it."""
    return say_raw(machine, message.TYPE, encode(message), now)


def say_raw(machine: RoomSession, message_type: int, body: Body, now: float = 0.0) -> list[events.SessionEvent]:
    """The same with any bytes."""
    machine.receive(message_type, memoryview(whole(body)), now)
    return drain(machine)


class Pair:
    """Alice and Bob, with their proofs exchanged."""

    def __init__(self) -> None:
        self.now = 0.0
        self.alice = session(is_initiator=True)
        self.bob = session(is_initiator=False)
        self.alice.opened(self.bob.open_handshake(), self.now)
        self.bob.opened(self.alice.open_handshake(), self.now)
        assert drain(self.alice) == drain(self.bob) == [events.MembershipProved()]

    def deliver(self, sender: RoomSession) -> list[events.SessionEvent]:
        """Bring what one side has to say to the other, and return what happened there."""
        receiver = self.bob if sender is self.alice else self.alice
        for message_type, body in sender.messages_to_send(self.now):
            receiver.receive(message_type, memoryview(whole(body)), self.now)
        return drain(receiver)

    def exchange(self) -> tuple[list[events.SessionEvent], list[events.SessionEvent]]:
        """Both directions until nobody has more to say now: what happened at Alice's and at Bob's."""
        at_alice, at_bob = drain(self.alice), drain(self.bob)
        while True:
            heard_by_bob, heard_by_alice = self.deliver(self.alice), self.deliver(self.bob)
            if not heard_by_bob and not heard_by_alice:
                return at_alice, at_bob
            at_bob += heard_by_bob
            at_alice += heard_by_alice


def types(machine: RoomSession, now: float = 0.0) -> list[MessageType]:
    """The types of what a session wants to send."""
    return [MessageType(message_type) for message_type, _ in machine.messages_to_send(now)]
