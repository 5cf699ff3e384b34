"""One topic: announced, looked up, or both, again and again for as long as a session wants it.

    state       what happens
    ACTIVE      a walk is under way, or a timer runs to the next one
    SUSPENDED   nothing, except that the announce is taken back
    LEAVING     the announce is taken back
    GONE        nothing any more

A topic that was left and joined again is blocked, in any state, until the old announce is taken back.

Source: hyperswarm 4.17.2 `lib/peer-discovery.js`; docs/protocol/hyperswarm.md.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum, auto

from ..addresses import Address
from ..dht.messages import PeerRecord
from ..errors import LocalProtocolError
from ..rpc.randomness import Randomness
from ..rpc.timers import Timer, Timers
from .events import RefreshUnwanted, RefreshWanted, SwarmEvent, UnannounceWanted

REFRESH_S = 600.0  # a record lives 13 minutes at least
REFRESH_JITTER_S = 120.0
# Who announces at the same moment as we do is not seen by our walk, nor we by its: both would wait out REFRESH_S. So the first
# announce is followed by another walk. The reference has nothing like it.
SECOND_LOOK_S = 3.0
SECOND_LOOK_JITTER_S = 3.0
LATE_S = 30.0  # a timer as late as this means that the machine slept; then everybody wakes at once, so spread out
FAILED_REFRESH_S = (
    20.0  # usually there is no network, whose return is reported; and a topic must not be lost for 10 minutes
)
FAILED_REFRESH_JITTER_S = 20.0
# 20 nodes that answer honestly name 400. Liars on the way could go on for as long as the walk does.
MAX_PEERS_PER_REFRESH = 512


class DiscoveryState(Enum):
    """Where a topic is; see the table above."""

    ACTIVE = auto()
    SUSPENDED = auto()
    LEAVING = auto()
    GONE = auto()


class RefreshMode(Enum):
    """What a walk does."""

    LOOKUP = auto()
    ANNOUNCE = auto()
    """Announces to the closest nodes; it is a lookup, too."""
    LOOKUP_AND_UNANNOUNCE = auto()
    """Nobody wants to be found any more, but we were announced."""


@dataclass(frozen=True, slots=True, eq=False)
class Refresh:
    """One walk."""

    topic: bytes
    mode: RefreshMode
    clear: bool
    """Take our record back wherever the walk meets it, or may not see it, before announcing: nodes keep an old one."""
    closest_nodes: tuple[Address, ...]
    """Of the last walk, to start from."""


class Session:
    """One wish for a topic. `Discovery` makes it; several share one."""

    def __init__(self, discovery: "Discovery", *, server: bool, client: bool, limit: int | None) -> None:
        self.discovery = discovery
        self.server = server
        self.client = client
        self.limit = limit
        self.left = False


class Discovery:
    """One topic of a swarm."""

    def __init__(
        self,
        topic: bytes,
        *,
        timers: Timers,
        randomness: Randomness,
        emit: Callable[[SwarmEvent], None],
        suspended: bool = False,
        blocked: bool = False,
    ) -> None:
        self.topic = topic
        self.state = DiscoveryState.SUSPENDED if suspended else DiscoveryState.ACTIVE
        self.blocked = blocked
        """The announce of a predecessor is still being taken back."""
        self.server = False
        self.client = False
        self.current: Refresh | None = None
        """The walk under way."""
        self.succeeded = False
        """Whether the last walk that ended did so properly."""
        self.walks = 0
        """Walks that ended well."""
        self.failures = 0
        """Walks that failed since then."""
        self.found_before: frozenset[bytes] = frozenset()
        """Whom the last walk that ended well met; possibly us as well."""
        self.closest_nodes: tuple[Address, ...] = ()
        self.only_closest_nodes = False
        """For taking the announce back: `closest_nodes` are all who have it. Otherwise it takes a walk."""
        self.unannouncing = False
        self._timers = timers
        self._randomness = randomness
        self._emit = emit
        self._sessions: set[Session] = set()
        self._timer: Timer | None = None
        self._announced = False
        self._cleared = False
        self._found: set[bytes] = set()
        self._handed_on = 0

    @property
    def sessions(self) -> tuple[Session, ...]:
        return tuple(self._sessions)

    @property
    def found(self) -> frozenset[bytes]:
        """Whom the last walk or the one under way met; possibly us as well."""
        return self.found_before | self._found if self.current is not None else self.found_before

    @property
    def settled(self) -> bool:
        """Whether nothing is under way."""
        return self.current is None and not self.unannouncing and not self.blocked

    def add_session(self, *, server: bool, client: bool, limit: int | None, now: float) -> Session:
        """Want the topic in one more way, and walk at once."""
        _check(server, client, limit)
        session = Session(self, server=server, client=client, limit=limit)
        self._sessions.add(session)
        self.refresh(now)
        return session

    def change_session(self, session: Session, *, server: bool, client: bool, limit: int | None, now: float) -> None:
        """Want it in another way, and walk at once."""
        _check(server, client, limit)
        if session.left:
            raise LocalProtocolError("this session left its topic")
        session.server, session.client, session.limit = server, client, limit
        self.refresh(now)

    def remove_session(self, session: Session, now: float) -> None:
        """Want it in one way less. Whoever removes the last one also calls `leave`."""
        session.left = True
        self._sessions.discard(session)
        if self._sessions and self._announced and not any(other.server for other in self._sessions):
            self.refresh(now)

    def refresh(self, now: float) -> None:
        """Walk now, unless a walk that does the same is under way."""
        server = any(session.server for session in self._sessions)
        client = any(session.client for session in self._sessions)
        if self.current is not None and (server, client) == (self.server, self.client):
            return
        self._stop()
        self.server, self.client = server, client
        if self.state is DiscoveryState.ACTIVE and not self.unannouncing and not self.blocked:
            self._start()

    def accept(
        self, refresh: Refresh, peers: Iterable[PeerRecord], is_connected: Callable[[bytes], bool]
    ) -> list[PeerRecord]:
        """Those of the peers a walk found that are to be dialled: each once, and not more than the sessions want."""
        if refresh is not self.current or not any(session.client for session in self._sessions):
            return []
        limit = self._limit()
        accepted: list[PeerRecord] = []
        for peer in peers:
            if peer.public_key in self._found or len(self._found) >= MAX_PEERS_PER_REFRESH:
                continue
            if limit is not None and not is_connected(peer.public_key):
                if self._handed_on >= limit:
                    continue
                self._handed_on += 1
            self._found.add(peer.public_key)
            accepted.append(peer)
        return accepted

    def refreshed(self, refresh: Refresh, closest_nodes: Sequence[Address], now: float) -> None:
        """A walk ended."""
        if refresh is not self.current:
            return
        self._end_walk(succeeded=True)
        self.walks += 1
        self.failures = 0
        self.found_before = frozenset(self._found)
        self.closest_nodes = tuple(closest_nodes)
        looks_again = refresh.clear and self.client
        if refresh.mode is RefreshMode.ANNOUNCE:
            self._cleared = self.only_closest_nodes = True
        else:
            self._announced = False
        if looks_again:
            self._walk_later(now, SECOND_LOOK_S, SECOND_LOOK_JITTER_S)
        else:
            self._walk_later(now, REFRESH_S, REFRESH_JITTER_S)

    def refresh_failed(self, refresh: Refresh, now: float) -> None:
        """A walk failed: no network, or nobody answered."""
        if refresh is self.current:
            self._end_walk(succeeded=False)
            self.failures += 1
            self._walk_later(now, FAILED_REFRESH_S, FAILED_REFRESH_JITTER_S)

    def leave(self) -> None:
        """Want nothing any more."""
        for session in self._sessions:
            session.left = True
        self._sessions.clear()
        self._put_down(DiscoveryState.LEAVING)
        if not self.unannouncing:
            self.state = DiscoveryState.GONE

    def suspend(self) -> None:
        """Pause."""
        if self.state is DiscoveryState.ACTIVE:
            self._put_down(DiscoveryState.SUSPENDED)

    def resume(self, now: float) -> None:
        """Go on."""
        if self.state is DiscoveryState.SUSPENDED:
            self.state = DiscoveryState.ACTIVE
            self.refresh(now)

    def unblock(self, now: float) -> None:
        """The predecessor's announce is gone."""
        self.blocked = False
        self.refresh(now)

    def unannounced(self, now: float) -> None:
        """The announce was taken back, or that was given up."""
        self.unannouncing = False
        if self.state is DiscoveryState.LEAVING:
            self.state = DiscoveryState.GONE
        elif self.state is DiscoveryState.ACTIVE:
            self.refresh(now)

    def _start(self) -> None:
        self._cancel_timer()
        self._found.clear()
        self._handed_on = 0
        mode = RefreshMode.LOOKUP_AND_UNANNOUNCE if self._announced else RefreshMode.LOOKUP
        if self.server:
            mode = RefreshMode.ANNOUNCE
            self._announced = True  # from the first packet on: what follows takes it back
            self.only_closest_nodes = False
        clear = self.server and not self._cleared
        self.current = Refresh(self.topic, mode, clear, self.closest_nodes)
        self._emit(RefreshWanted(self.current))

    def _stop(self) -> None:
        self._cancel_timer()
        if self.current is not None:
            self._emit(RefreshUnwanted(self.current))
            self._end_walk(succeeded=False)

    def _put_down(self, state: DiscoveryState) -> None:
        self._stop()
        self.state = state
        self._cleared = False  # the relays may be others when it is announced again
        if self._announced and not self.unannouncing:
            self._announced = False
            self.unannouncing = True
            self._emit(UnannounceWanted(self))

    def _end_walk(self, *, succeeded: bool) -> None:
        self.current = None
        self.succeeded = succeeded

    def _walk_later(self, now: float, delay: float, jitter: float) -> None:
        when = now + delay + jitter * self._randomness.random()
        self._timer = self._timers.call_at(when, lambda now: self._timer_fired(when, now))

    def _timer_fired(self, when: float, now: float) -> None:
        self._timer = None
        if now > when + LATE_S:
            self._walk_later(now, 0.0, REFRESH_JITTER_S)
        else:
            self.refresh(now)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _limit(self) -> int | None:
        """The widest of the sessions that look for peers."""
        limits = [session.limit for session in self._sessions if session.client]
        return None if None in limits else max((limit for limit in limits if limit is not None), default=None)


def _check(server: bool, client: bool, limit: int | None) -> None:
    if not (server or client):
        raise LocalProtocolError("a session announces (server), looks up (client) or both")
    if limit is not None and limit < 1:
        raise LocalProtocolError(f"a limit is at least 1 peer, this is {limit}")
