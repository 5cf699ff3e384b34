"""All topics of a swarm."""

from collections.abc import Callable, Iterator

from ..errors import LocalProtocolError
from ..rpc.randomness import Randomness
from ..rpc.timers import Timers
from .discovery import Discovery, DiscoveryState, Session
from .events import SwarmEvent

TOPIC_BYTES = 32


class Topics:
    """The topics joined, and those whose announce is still being taken back."""

    def __init__(self, timers: Timers, randomness: Randomness, emit: Callable[[SwarmEvent], None]) -> None:
        self._timers = timers
        self._randomness = randomness
        self._emit = emit
        self._joined: dict[bytes, Discovery] = {}
        self._leaving: dict[bytes, Discovery] = {}

    def __contains__(self, topic: bytes) -> bool:
        return topic in self._joined

    def __iter__(self) -> Iterator[Discovery]:
        return iter(tuple(self._joined.values()))

    def get(self, topic: bytes) -> Discovery | None:
        return self._joined.get(topic)

    @property
    def quiet(self) -> bool:
        """Whether no announce is being taken back."""
        return not self._leaving and not any(discovery.unannouncing for discovery in self._joined.values())

    def join(
        self, topic: bytes, *, server: bool, client: bool, limit: int | None, suspended: bool, now: float
    ) -> Session:
        """A new session of a topic. `suspended`: nothing happens until `resume`."""
        if len(topic) != TOPIC_BYTES:
            raise LocalProtocolError(f"a topic has {TOPIC_BYTES} bytes, this one has {len(topic)}; hash names yourself")
        discovery = self._joined.get(topic) or self._make(topic, suspended)
        session = discovery.add_session(server=server, client=client, limit=limit, now=now)
        self._joined[topic] = discovery
        return session

    def leave(self, topic: bytes) -> Discovery | None:
        """End all sessions of a topic. Returns what was left."""
        discovery = self._joined.pop(topic, None)
        if discovery is not None:
            discovery.leave()
            if discovery.state is DiscoveryState.LEAVING:
                self._leaving[topic] = discovery
        return discovery

    def unannounced(self, discovery: Discovery, now: float) -> None:
        """An announce was taken back, or that was given up."""
        discovery.unannounced(now)
        if self._leaving.get(discovery.topic) is discovery:
            del self._leaving[discovery.topic]
            joined_again = self._joined.get(discovery.topic)
            if joined_again is not None:
                joined_again.unblock(now)

    def refresh_all(self, now: float) -> None:
        for discovery in self:
            discovery.refresh(now)

    def suspend(self) -> None:
        for discovery in self:
            discovery.suspend()

    def resume(self, now: float) -> None:
        for discovery in self:
            discovery.resume(now)

    def _make(self, topic: bytes, suspended: bool) -> Discovery:
        return Discovery(
            topic,
            timers=self._timers,
            randomness=self._randomness,
            emit=self._emit,
            suspended=suspended,
            blocked=topic in self._leaving,
        )
