"""What members of a room on the internet tell each other about members: docs/protocol/room.md, "Peers". Without I/O or clock.

Keys alone are told and believed, to be dialled through the DHT, never addresses (T19); what was told in one room stays in it (T21).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sidecar.catalogue.limits import TokenBucket

from .messages import MAX_PEERS, PeerHint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from hyperdht.rpc.randomness import Randomness

    from .link import RoomLink
    from .session_events import PeersReceived

FANOUT = 8
"""Members that are told of a newcomer. It learns of all and dials them; were all told, each arrival would cost the square of
the room in messages."""
HINTS_AT_ONCE = 64.0
HINTS_PER_S = 0.1
"""Taken from one peer in one room. An honest one names at most 64 at first and then those that come."""
MAX_REMEMBERED_HINTS = 64
"""Of one peer in one room, to know who reaches whom. The oldest go."""
MAX_TOLD = 1024
"""Keys remembered as told on one channel; a member that saw so many come is not told of more until it connects again."""


@dataclass(frozen=True, slots=True)
class Presence:
    """What we say about ourselves while we can be dialled by key."""

    relay: bytes | None = None
    """Key under which we relay for members."""
    is_random: bool = False
    """Our NAT gives each destination another port."""


@dataclass(slots=True, eq=False)
class _Acquaintance:
    """A member we are connected with in one room."""

    link: RoomLink
    tokens: TokenBucket
    presence: Presence | None = None
    """What it said of itself; None before it introduced itself."""
    told: set[bytes] = field(default_factory=set)
    hinted: dict[bytes, bool] = field(default_factory=dict)
    """Whom it named, and whether their NATs are random."""


class Introductions:
    """All rooms'. Its owner says who came and went, and dials whom `received` returns."""

    def __init__(
        self, *, randomness: Randomness, is_internet: Callable[[bytes], bool], is_private: Callable[[bytes], bool]
    ) -> None:
        """
        Args:
            is_internet: Whether a room (by id) is one where members may be dialled through the DHT.
            is_private: Whether it is one that not everybody may enter. Only there anybody relays for others.
        """
        self.presence: Presence | None = None
        """None while we are not in the DHT: then we say nothing, as nobody could dial us."""
        self._randomness = randomness
        self._is_internet = is_internet
        self._is_private = is_private
        self._members: dict[RoomLink, _Acquaintance] = {}

    def present(self, presence: Presence | None) -> None:
        """What is to be said about us from now on."""
        before, self.presence = self.presence, presence
        if presence is None or presence == before:
            return
        for link in self._members:
            self._say(link, ())
        if before is None:
            for member in [each for each in self._members.values() if each.presence is not None]:
                self._introduce(member)

    def proved(self, link: RoomLink, now: float) -> None:
        """A peer proved to be a member."""
        if not self._is_internet(link.room_id):
            return
        self._members[link] = _Acquaintance(link, TokenBucket(HINTS_PER_S, HINTS_AT_ONCE, now))
        if self.presence is not None:
            self._say(link, ())

    def lost(self, link: RoomLink) -> None:
        """It is not connected in that room any more."""
        self._members.pop(link, None)

    def received(self, link: RoomLink, event: PeersReceived, now: float) -> list[bytes]:
        """A member introduced itself or named others. Returns the keys to dial, as far as it may name any."""
        member = self._members.get(link)
        if member is None:
            return []
        is_new = member.presence is None
        member.presence = Presence(event.relay, event.is_random)
        if is_new and self.presence is not None:
            self._introduce(member)
        return [hint.public_key for hint in event.peers if self._take(member, hint, now)]

    @property
    def in_need(self) -> int:
        """Connected members of private rooms that reach each other only through a relay, being behind random NATs."""
        private = ((link, said) for link, said in self._presences() if self._is_private(link.room_id))
        return len({link.peer_key for link, said in private if said.is_random})

    def presence_of(self, key: bytes) -> Presence | None:
        """What a connected member said of itself; None if it did not say anything."""
        return next((presence for link, presence in self._presences() if link.peer_key == key), None)

    def is_random(self, key: bytes) -> bool:
        """Whether somebody is said to be behind a random NAT."""
        return any(member.hinted.get(key, False) for member in self._members.values())

    def relay_for(self, key: bytes) -> bytes | None:
        """The relay of a connected member that named this peer, so that both of us reach it; None if there is none."""
        found = {
            member.presence.relay
            for member in self._members.values()
            if member.presence is not None and key in member.hinted and member.link.peer_key != key
        }
        relays = sorted(relay for relay in found if relay is not None)
        return relays[self._randomness.randrange(0, len(relays))] if relays else None

    def _introduce(self, newcomer: _Acquaintance) -> None:
        """Tell a newcomer of others, and some of them of it."""
        others = [
            member
            for member in self._members.values()
            if member.link.room_id == newcomer.link.room_id
            and member.presence is not None
            and member.link.peer_key != newcomer.link.peer_key
        ]
        self._tell(newcomer, self._randomness.sample(others, min(len(others), MAX_PEERS)))
        for member in self._randomness.sample(others, min(len(others), FANOUT)):
            self._tell(member, [newcomer])

    def _tell(self, to: _Acquaintance, others: Iterable[_Acquaintance]) -> None:
        hints = []
        for other in others:
            key = other.link.peer_key
            if key not in to.told and len(to.told) < MAX_TOLD:
                to.told.add(key)
                hints.append(PeerHint(key, other.presence is not None and other.presence.is_random))
        if hints:
            self._say(to.link, hints)

    def _say(self, link: RoomLink, hints: Iterable[PeerHint]) -> None:
        assert self.presence is not None
        relay = self.presence.relay if self._is_private(link.room_id) else None
        link.session.share_peers(hints, relay=relay, is_random=self.presence.is_random)
        link.flush()

    def _take(self, member: _Acquaintance, hint: PeerHint, now: float) -> bool:
        stream = member.link.connection.stream
        if hint.public_key in (stream.public_key, stream.remote_public_key) or hint.public_key in member.hinted:
            return False
        if not member.tokens.take(now):
            return False
        member.hinted[hint.public_key] = hint.is_random
        if len(member.hinted) > MAX_REMEMBERED_HINTS:
            del member.hinted[next(iter(member.hinted))]
        return True

    def _presences(self) -> Iterator[tuple[RoomLink, Presence]]:
        for link, member in self._members.items():
            if member.presence is not None:
                yield link, member.presence
