from __future__ import annotations

import heapq
import itertools
import random
from collections import Counter
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from sidecar.rooms import introductions as rules
from sidecar.rooms.dial_plan import MAX_DIALS, DialPlan
from sidecar.rooms.introductions import Introductions, Presence
from sidecar.rooms.messages import MAX_PEERS, PeerHint
from sidecar.rooms.session_events import PeersReceived

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from sidecar.rooms.link import RoomLink

ROOM, OTHER, LAN, GENERAL = b"r" * 16, b"o" * 16, b"l" * 16, b"g" * 16
OWN = b"\xff" * 32


def key(number: int) -> bytes:
    return number.to_bytes(32, "big")


@dataclass(eq=False)
class Link:
    """The part of a `RoomLink` that introductions use; keeps what was said."""

    peer_key: bytes
    room_id: bytes = ROOM
    own_key: bytes = OWN
    said: list[PeersReceived] = field(default_factory=list)
    deliver: Callable[[PeersReceived], None] | None = None

    def __post_init__(self) -> None:
        self.session = self
        stream = SimpleNamespace(public_key=self.own_key, remote_public_key=self.peer_key)
        self.connection = SimpleNamespace(stream=stream)

    def share_peers(self, peers: Iterable[PeerHint], *, relay: bytes | None, is_random: bool) -> None:
        self.said.append(PeersReceived(relay, is_random, tuple(peers)))

    def flush(self) -> None:
        if self.deliver is not None:
            self.deliver(self.said[-1])

    @property
    def told(self) -> list[bytes]:
        return [hint.public_key for each in self.said for hint in each.peers]


def as_link(link: Link) -> RoomLink:
    return cast("RoomLink", link)


def introductions(*, present: bool = True) -> Introductions:
    made = Introductions(
        randomness=random.Random(1),
        is_internet=lambda room_id: room_id != LAN,
        is_private=lambda room_id: room_id != GENERAL,
    )
    if present:
        made.present(Presence())
    return made


def arrives(known: Introductions, link: Link, *hints: bytes, now: float = 0.0, **said: Any) -> list[bytes]:
    """A member proves itself and introduces itself."""
    known.proved(as_link(link), now)
    return says(known, link, *hints, now=now, **said)


def says(
    known: Introductions,
    link: Link,
    *hints: bytes,
    now: float = 0.0,
    relay: bytes | None = None,
    is_random: bool = False,
) -> list[bytes]:
    return known.received(as_link(link), PeersReceived(relay, is_random, tuple(PeerHint(each) for each in hints)), now)


def test_a_newcomer_hears_of_the_others_and_they_of_it() -> None:
    known = introductions()
    first, second = Link(key(1)), Link(key(2))
    arrives(known, first, is_random=True)
    assert first.said == [PeersReceived(None, False, ())]
    arrives(known, second)
    assert second.said[-1].peers == (PeerHint(key(1), is_random=True),)
    assert first.said[-1].peers == (PeerHint(key(2)),)


def test_nobody_is_told_of_before_it_introduced_itself_and_nothing_twice() -> None:
    known = introductions()
    silent, speaking = Link(key(1)), Link(key(2))
    known.proved(as_link(silent), 0.0)
    arrives(known, speaking)
    assert speaking.told == silent.told == []
    says(known, silent)
    says(known, silent)
    says(known, speaking)
    assert (speaking.told, silent.told) == ([key(1)], [key(2)])


def test_who_is_not_in_the_dht_says_nothing_and_catches_up_later() -> None:
    known = introductions(present=False)
    links = [Link(key(number)) for number in range(3)]
    for link in links:
        arrives(known, link)
        assert link.said == []
    known.present(Presence())
    assert all(len(link.told) == 2 for link in links)
    known.present(None)
    arrives(known, Link(key(9)))
    assert all(key(9) not in link.told for link in links)


def test_what_changes_about_us_is_said_again_and_only_that() -> None:
    known = introductions()
    link = Link(key(1))
    arrives(known, link)
    known.present(Presence())
    known.present(Presence(relay=key(7)))
    known.present(Presence(relay=key(7)))
    assert link.said == [PeersReceived(None, False, ()), PeersReceived(key(7), False, ())]


def test_t21_nothing_goes_from_one_room_into_another_nor_into_one_that_is_not_on_the_internet() -> None:
    known = introductions()
    here, there, lan = Link(key(1), ROOM), Link(key(2), OTHER), Link(key(3), LAN)
    for link in (here, there, lan):
        assert arrives(known, link, key(50)) == ([] if link is lan else [key(50)])
    assert here.told == there.told == lan.told == []
    assert lan.said == []


def test_what_was_only_heard_is_not_passed_on() -> None:
    known = introductions()
    liar, other = Link(key(1)), Link(key(2))
    arrives(known, liar, key(50), key(51))
    arrives(known, other)
    assert other.told == [key(1)]


def test_t18_a_flood_of_hints_is_taken_slowly_and_remembered_in_part() -> None:
    known = introductions()
    link = Link(key(1))
    names = [key(number) for number in range(100, 1100)]
    assert arrives(known, link, *names) == names[: int(rules.HINTS_AT_ONCE)]
    assert len(says(known, link, *names[200:], now=10 / rules.HINTS_PER_S)) == 10
    assert says(known, link, names[-1], now=10 / rules.HINTS_PER_S) == []


def test_our_own_key_that_of_who_speaks_and_repetitions_are_no_news() -> None:
    known = introductions()
    link = Link(key(1))
    assert arrives(known, link, OWN, key(1), key(2), key(2)) == [key(2)]
    assert says(known, link, key(2)) == []


def test_an_arrival_is_told_to_a_few_and_a_newcomer_hears_of_at_most_one_message_full() -> None:
    known = introductions()
    links = [Link(key(number)) for number in range(100)]
    for link in links:
        arrives(known, link)
    before = sum(len(link.told) for link in links)
    last = Link(key(500))
    arrives(known, last)
    assert len(last.told) == MAX_PEERS
    assert sum(len(link.told) for link in links) - before == rules.FANOUT


def test_the_relay_is_that_of_a_member_who_named_the_peer() -> None:
    known = introductions()
    relaying, other = Link(key(1)), Link(key(2))
    arrives(known, relaying, key(50), relay=b"R" * 32)
    arrives(known, other, key(51), relay=b"S" * 32)
    assert known.relay_for(key(50)) == b"R" * 32
    assert known.relay_for(key(51)) == b"S" * 32
    assert known.relay_for(key(52)) is None
    says(known, relaying)
    assert known.relay_for(key(50)) is None, "it relays no more"
    known.lost(as_link(other))
    assert known.relay_for(key(51)) is None, "it is not connected any more"


def test_those_in_need_of_a_relay_are_counted_once() -> None:
    known = introductions()
    for link in (Link(key(1)), Link(key(1), OTHER), Link(key(2))):
        arrives(known, link, is_random=True)
    arrives(known, Link(key(3)))
    assert known.in_need == 2
    assert known.presence_of(key(2)) == Presence(is_random=True)
    assert known.presence_of(key(9)) is None


def test_nobody_relays_in_a_room_that_anybody_may_enter() -> None:
    known = introductions()
    for number in range(5):
        arrives(known, Link(key(number), GENERAL), is_random=True)
    assert known.in_need == 0
    link, private = Link(key(9), GENERAL), Link(key(9))
    arrives(known, link)
    arrives(known, private)
    known.present(Presence(relay=b"R" * 32))
    assert (link.said[-1].relay, private.said[-1].relay) == (None, b"R" * 32)


class SimulatedRoom:
    """Members of one room in virtual time. A dial takes up to a second and always succeeds; who has no place refuses."""

    def __init__(self, members: int, *, max_peers: int, seed: int = 1) -> None:
        self.now = 0.0
        self.chance = random.Random(seed)
        self.max_peers = max_peers
        self.keys = [key(number) for number in range(members)]
        self.links: dict[bytes, dict[bytes, Link]] = {each: {} for each in self.keys}
        self.dials: Counter[bytes] = Counter()
        self.most_at_once = 0
        self.messages = 0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = itertools.count()
        self.known = {
            each: Introductions(randomness=self.chance, is_internet=lambda _: True, is_private=lambda _: True)
            for each in self.keys
        }
        self.plans = {each: self._plan(each) for each in self.keys}
        for each in self.keys:
            self.known[each].present(Presence())

    def _plan(self, own: bytes) -> DialPlan:
        return DialPlan(
            randomness=self.chance,
            may_dial=lambda: len(self.links[own]) + len(self.plans[own].dialling) < self.max_peers // 2,
            is_welcome=lambda _: True,
        )

    def after(self, delay_s: float, do: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.now + delay_s, next(self._count), do))

    def run(self, until_s: float) -> None:
        while True:
            timers = [(plan.next_timer(), own) for own, plan in self.plans.items()]
            timer, own = min(timers)
            if self._events and self._events[0][0] <= timer:
                self.now, _, do = heapq.heappop(self._events)
                if self.now > until_s:
                    return
                do()
            elif timer > until_s:
                return
            else:
                self.now = max(self.now, timer)
                for overdue in self.plans[own].overdue(self.now):
                    self.plans[own].failed(overdue, self.now)
                self._dial(own)

    def _dial(self, own: bytes) -> None:
        for other in self.plans[own].take(self.now):
            self.dials[own] += 1
            self.after(self.chance.uniform(0.1, 1.0), lambda other=other: self.connect(own, other))  # type: ignore[misc]
        self.most_at_once = max(self.most_at_once, len(self.plans[own].dialling))

    def connect(self, left: bytes, right: bytes) -> None:
        if right in self.links[left]:
            return
        if len(self.links[right]) >= self.max_peers:
            self.plans[left].failed(right, self.now)
            return
        for own, other in ((left, right), (right, left)):
            self.links[own][other] = Link(other, own_key=own, deliver=self._delivery(own, other))
        for own, other in ((left, right), (right, left)):
            self.plans[own].connected(other)
            self.plans[own].remember(ROOM, other, self.now)
            self.known[own].proved(as_link(self.links[own][other]), self.now)

    def _delivery(self, own: bytes, other: bytes) -> Callable[[PeersReceived], None]:
        def deliver(event: PeersReceived) -> None:
            self.messages += 1
            self.after(0.05, lambda: self._arrived(other, own, event))

        return deliver

    def _arrived(self, own: bytes, other: bytes, event: PeersReceived) -> None:
        for named in self.known[own].received(as_link(self.links[own][other]), event, self.now):
            self.plans[own].hint(ROOM, named, self.now)


@pytest.mark.parametrize("seed", range(3))
def test_a_room_of_thirty_is_well_connected_although_its_topic_shows_everybody_two(seed: int) -> None:
    room = SimulatedRoom(30, max_peers=64, seed=seed)
    for number in range(2, 30):
        for found in room.chance.sample(range(number), 2):
            room.after(number * 0.5, lambda a=number, b=found: room.connect(key(a), key(b)))  # type: ignore[misc]
    room.run(120.0)
    assert min(map(len, room.links.values())) >= 26
    assert room.most_at_once <= MAX_DIALS
    assert sum(room.dials.values()) < 2 * 30 * 29 / 2, "many dial who dials them"
    assert room.messages <= 30 * 29 * (2 + rules.FANOUT)


def test_in_a_room_larger_than_its_members_places_newcomers_find_places() -> None:
    """Whoever is there fills half of its places by dialling; so the other half is left for a newcomer."""
    room = SimulatedRoom(60, max_peers=16)
    for number in range(1, 59):
        room.after(number * 0.2, lambda a=number: room.connect(key(a), key(a - 1)))  # type: ignore[misc]
    room.run(120.0)
    assert min(len(room.links[each]) for each in room.keys[:59]) >= 5
    assert max(map(len, room.links.values())) <= 16
    newcomer = room.keys[59]
    room.connect(newcomer, room.chance.choice([each for each in room.keys[:59] if len(room.links[each]) < 16]))
    room.run(240.0)
    assert len(room.links[newcomer]) >= 5
