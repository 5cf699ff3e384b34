"""A node that carries connections of others, which it cannot read: who waits for whom.

Source: blind-relay 1.6.1 `index.js`; docs/protocol/holepunching.md.
"""

from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

from ..buffers import BytesLike
from ..errors import DecodeError, LocalProtocolError
from ..rpc.timers import Timer, Timers
from .blind_relay_messages import MessageType, Pair, decode_pair, decode_unpair, encode_pair

# What strangers can have a relay keep. Keys cost nothing, so what counts is the host; many people may share one.
WAITING_TIMEOUT_S = 30.0  # twice what either side waits for the other
MAX_WAITING = 4096
MAX_WAITING_OF_HOST = 64
MAX_PAIRS = 1024  # two streams each, whose packets cross our line twice
MAX_ENDS_OF_HOST = 128


@dataclass(frozen=True, slots=True)
class RelayEnd:
    """One of two streams that belong together."""

    session: Hashable
    """Whose it is."""
    is_initiator: bool
    stream_id: int
    """What packets to this peer must carry."""


@dataclass(frozen=True, slots=True, eq=False)
class RelayPair:
    """Two peers that found each other."""

    token: bytes
    ends: tuple[RelayEnd, RelayEnd]
    """First the one that is not the initiator."""

    def answers(self, stream_ids: tuple[int, int]) -> tuple[bytes, bytes]:
        """The PAIR messages to the two ends, in their order; `stream_ids` are those of the relay's own two streams."""
        first, second = (
            encode_pair(Pair(end.is_initiator, self.token, stream_id))
            for end, stream_id in zip(self.ends, stream_ids, strict=True)
        )
        return first, second


@dataclass(slots=True, eq=False)
class _Session:
    host: str
    waiting: set[bytes] = field(default_factory=set[bytes])
    pairs: dict[bytes, RelayPair] = field(default_factory=dict[bytes, RelayPair])


@dataclass(slots=True, eq=False)
class _Waiting:
    end: RelayEnd
    timer: Timer


class RelayPairing:
    """The relay's book of who waits for whom. Its owner has the connections and the streams.

    For a matched pair the owner opens two streams that pass packets on to each other, each bound to whatever address its
    peer's first packet comes from, and then sends `RelayPair.answers`. `on_ended` tells it to close them; it calls `end`
    when they closed by themselves.
    """

    def __init__(
        self,
        *,
        on_matched: Callable[[RelayPair, float], None],
        on_ended: Callable[[RelayPair, float], None],
        max_waiting: int = MAX_WAITING,
        max_pairs: int = MAX_PAIRS,
    ) -> None:
        """
        Args:
            on_matched: Called as on_matched(pair, now).
            on_ended: Called as on_ended(pair, now) when a peer of it left or cancelled.
        """
        self.dropped = 0
        """Messages that were malformed, or beyond what their sender may have open."""
        self._on_matched = on_matched
        self._on_ended = on_ended
        self._max_waiting = max_waiting
        self._max_pairs = max_pairs
        self._sessions: dict[Hashable, _Session] = {}
        self._waiting: dict[bytes, _Waiting] = {}
        self._pairs: set[RelayPair] = set()
        self._waiting_of: Counter[str] = Counter()
        self._ends_of: Counter[str] = Counter()
        self._timers = Timers()

    @property
    def waiting(self) -> int:
        """How many wait for their peer."""
        return len(self._waiting)

    @property
    def pairs(self) -> int:
        return len(self._pairs)

    def open(self, session: Hashable, *, host: str) -> None:
        """A peer opened the channel on its connection.

        Args:
            session: Any name for it.
            host: Where its packets come from.
        """
        if session in self._sessions:
            raise LocalProtocolError("this session is open already")
        self._sessions[session] = _Session(host)

    def close(self, session: Hashable, now: float) -> None:
        """Its channel or connection is closed. Nothing happens if it is not known."""
        known = self._sessions.get(session)
        if known is None:
            return
        for token in list(known.waiting):
            self._forget_waiting(token)
        for pair in list(known.pairs.values()):
            self._end(pair, now)
        del self._sessions[session]

    def has_business(self, session: Hashable) -> bool:
        """Whether its peer waits for another, or is carried."""
        known = self._sessions.get(session)
        return known is not None and bool(known.waiting or known.pairs)

    def receive(self, session: Hashable, kind: int, body: BytesLike, now: float) -> None:
        """A message came on a session's channel. Malformed ones are counted and dropped."""
        try:
            if kind == MessageType.PAIR:
                self._pair(session, decode_pair(body), now)
            elif kind == MessageType.UNPAIR:
                self._unpair(session, decode_unpair(body), now)
            else:
                self.dropped += 1
        except DecodeError:
            self.dropped += 1

    def end(self, pair: RelayPair) -> None:
        """The streams of a pair are closed. Nothing happens if the pair is over already."""
        if pair not in self._pairs:
            return
        self._pairs.discard(pair)
        for end in pair.ends:
            session = self._sessions[end.session]
            session.pairs.pop(pair.token, None)
            _decrease(self._ends_of, session.host)

    def next_timer(self) -> float | None:
        """When to call `handle_timer`."""
        return self._timers.next_timer()

    def handle_timer(self, *, now: float) -> None:
        """Forget those whose peer did not come."""
        self._timers.handle_timer(now=now)

    def _pair(self, name: Hashable, wish: Pair, now: float) -> None:
        session = self._sessions[name]
        end = RelayEnd(name, wish.is_initiator, wish.stream_id)
        waiting = self._waiting.get(wish.token)
        if wish.token in session.pairs or (waiting is not None and waiting.end.is_initiator == wish.is_initiator):
            return  # said twice, or somebody else's role taken; the first one counts
        if waiting is None:
            self._wait(session, wish.token, end, now)
        else:
            self._match(wish.token, waiting.end, end, now)

    def _wait(self, session: _Session, token: bytes, end: RelayEnd, now: float) -> None:
        if len(self._waiting) >= self._max_waiting or self._waiting_of[session.host] >= MAX_WAITING_OF_HOST:
            self.dropped += 1
            return
        timer = self._timers.call_at(now + WAITING_TIMEOUT_S, lambda _: self._forget_waiting(token))
        self._waiting[token] = _Waiting(end, timer)
        self._waiting_of[session.host] += 1
        session.waiting.add(token)

    def _match(self, token: bytes, first: RelayEnd, second: RelayEnd, now: float) -> None:
        sessions = [self._sessions[end.session] for end in (first, second)]
        full = any(self._ends_of[session.host] >= MAX_ENDS_OF_HOST for session in sessions)
        if full or len(self._pairs) >= self._max_pairs:
            self.dropped += 1
            return
        self._forget_waiting(token)
        pair = RelayPair(token, (second, first) if first.is_initiator else (first, second))
        self._pairs.add(pair)
        for session in sessions:
            session.pairs[token] = pair
            self._ends_of[session.host] += 1
        self._on_matched(pair, now)

    def _unpair(self, name: Hashable, token: bytes, now: float) -> None:
        """Only a peer of the pair can cancel it. The reference lets anybody cancel who knows the token."""
        session = self._sessions[name]
        if token in session.waiting:
            self._forget_waiting(token)
        elif token in session.pairs:
            self._end(session.pairs[token], now)

    def _end(self, pair: RelayPair, now: float) -> None:
        self.end(pair)
        self._on_ended(pair, now)

    def _forget_waiting(self, token: bytes) -> None:
        waiting = self._waiting.pop(token)
        waiting.timer.cancel()
        session = self._sessions[waiting.end.session]
        session.waiting.discard(token)
        _decrease(self._waiting_of, session.host)


def _decrease(counter: Counter[str], key: str) -> None:
    counter[key] -= 1
    if not counter[key]:
        del counter[key]
