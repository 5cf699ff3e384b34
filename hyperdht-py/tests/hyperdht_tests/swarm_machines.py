"""A swarm machine in the hands of a test, and several of them joined."""

import random
from collections.abc import Callable, Iterable
from typing import TypeVar

from hyperdht.addresses import Address
from hyperdht.dht.messages import PeerRecord
from hyperdht.swarm import (
    CloseWanted,
    Connection,
    ConnectionLost,
    ConnectionOpened,
    DialWanted,
    Firewall,
    Limits,
    Refresh,
    RefreshWanted,
    Swarm,
    SwarmEvent,
)

TOPIC = bytes([7]) * 32
OTHER_TOPIC = bytes([8]) * 32
NODES = (Address("10.0.0.1", 1000), Address("10.0.0.2", 1000))

Event = TypeVar("Event")
OWN = 1_000_000


def key(number: int) -> bytes:
    """A public key; keys compare like their numbers."""
    return number.to_bytes(32, "big")


def record(number: int, *relays: Address) -> PeerRecord:
    return PeerRecord(key(number), relays)


def always() -> bool:
    return True


def never() -> bool:
    return False


class Driver:
    """Takes the events of one machine and keeps them until a test asks for them."""

    def __init__(
        self, own: int = OWN, *, seed: int = 1, firewall: Firewall | None = None, limits: Limits | None = None
    ) -> None:
        self.swarm = Swarm(key(own), randomness=random.Random(seed), firewall=firewall, limits=limits)
        self._events: list[SwarmEvent] = []

    def take(self, kind: type[Event]) -> list[Event]:
        """The events of that kind that came since it was asked for last."""
        while (event := self.swarm.next_event()) is not None:
            self._events.append(event)
        taken: list[Event] = [event for event in self._events if isinstance(event, kind)]
        self._events = [event for event in self._events if not isinstance(event, kind)]
        return taken

    def dials(self) -> list[Connection]:
        return [event.connection for event in self.take(DialWanted)]

    def opened(self) -> list[Connection]:
        return [event.connection for event in self.take(ConnectionOpened)]

    def lost(self) -> list[Connection]:
        return [event.connection for event in self.take(ConnectionLost)]

    def closes(self) -> list[CloseWanted]:
        return self.take(CloseWanted)

    def refreshes(self) -> list[Refresh]:
        return [event.refresh for event in self.take(RefreshWanted)]

    def find(self, *records: PeerRecord, now: float = 0.0, topic: bytes = TOPIC) -> None:
        """Join the topic unless that is done, and let its walk find peers and end."""
        if topic not in self.swarm.topics:
            self.swarm.join(topic, server=False, client=True, limit=None, now=now)
        else:
            discovery = self.swarm.topics.get(topic)
            assert discovery is not None
            discovery.refresh(now)
        (refresh,) = self.refreshes()
        self.swarm.found(refresh, records, now)
        self.swarm.refreshed(refresh, NODES, now)

    def dial_one(self, number: int, *, now: float = 0.0) -> Connection:
        """Find that peer; the dial it leads to."""
        self.find(record(number), now=now)
        (dial,) = self.dials()
        return dial

    def open_one(self, number: int, *, now: float = 0.0, talked: Callable[[], bool] = never) -> Connection:
        """Find that peer and reach it; the program takes the connection."""
        dial = self.dial_one(number, now=now)
        self.swarm.dial_opened(dial, talked, now)
        self.swarm.taken(dial, now)
        self.opened()
        return dial

    def run_until_dial(self, *, before: float) -> tuple[float, Connection]:
        """Let time pass until the next dial."""
        while (when := self.swarm.next_timer()) is not None and when <= before:
            self.swarm.handle_timer(now=when)
            dials = self.dials()
            if dials:
                (dial,) = dials
                return when, dial
        raise AssertionError(f"no dial before {before}")


def numbers(connections: Iterable[Connection]) -> set[int]:
    return {int.from_bytes(connection.peer.public_key, "big") for connection in connections}
