"""Iterative queries: asking ever closer nodes about a target, until nobody knows a closer one.

Source: dht-rpc 6.27.0 `lib/query.js`; docs/protocol/dht-rpc.md.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import TypeAlias

from ..addresses import Address
from .best_replies import BestReplies, BestReply
from .hosts import HostKind, host_kind
from .messages import Reply, node_id
from .routing_table import BUCKET_SIZE

CONCURRENCY = 10
BACKGROUND_CONCURRENCY = 2
IDLE_BELOW_REQUESTS = 3  # with fewer requests in flight in the whole node, a background query may use all of the above
CAREFUL_CONCURRENCY = 3  # known seeds get the chance to answer before the query goes broad
CAREFUL_UNTIL_OUTCOMES = 10
ENOUGH_SUCCESSES = BUCKET_SIZE // 4  # with fewer from the given seeds, the table is asked after all
# Honest nodes name 20. One that names all 300 a datagram holds would keep us busy with addresses it made up.
MAX_CLOSER_NODES = BUCKET_SIZE
# A real query meets 100 to 300 nodes. Liars who name each other would make it last, and our memory grow, for ever.
MAX_CANDIDATES = 1024
FIRST_USER_PORT = 1024


@dataclass(frozen=True, slots=True)
class QueryReplied:
    """A reply without error. It may be any node's, also one without id that cannot become a best reply."""

    address: Address
    reply: Reply


@dataclass(frozen=True, slots=True)
class DownHintWanted:
    """Tell `recommender` with DOWN_HINT that `suspect` does not answer."""

    recommender: Address
    suspect: Address


@dataclass(frozen=True, slots=True)
class QueryFinished:
    """The last event. What was found is in `Query.best_replies`."""

    successes: int
    """Replies without error."""
    failures: int
    """Replies with an error, and timeouts."""


QueryEvent: TypeAlias = QueryReplied | DownHintWanted | QueryFinished


class _State(Enum):
    PENDING = auto()
    ASKED = auto()
    SLOW = auto()  # asked, and the first transmission had no reply in time
    DONE = auto()
    DOWN = auto()


@dataclass(slots=True)
class _Candidate:
    address: Address
    distance: int
    recommenders: list[Address]
    state: _State = _State.PENDING


class Query:
    """One query. Its drivers are its owner, who sends a request to each address that `next_request` gives, and the outcomes
    of these: `receive_reply`, or `handle_slow` after the first timeout and `handle_timeout` after the last.

    What is asked beside the target is the owner's business. Events come from `next_event`.
    """

    def __init__(
        self,
        target: bytes,
        *,
        own_id: bytes,
        table: Sequence[Address],
        bootstrap: Sequence[Address] = (),
        seeds: Sequence[Address] = (),
        background: bool = False,
        only_closest_nodes: bool = False,
    ) -> None:
        """
        Args:
            target: 32 bytes.
            own_id: Our id in the table, never asked.
            table: The nodes of our table closest to the target; not used while there are 20 seeds.
            bootstrap: Asked too when seeds and table are fewer than 20.
            seeds: Where to start, for instance the best nodes of an earlier run.
            background: Leave room for other requests.
            only_closest_nodes: Ask nobody but the seeds.
        """
        self.target = target
        self._best = BestReplies()
        self.finished = False
        self._own_id = own_id
        self._table = table
        self._bootstrap = bootstrap
        self._background = background
        self._only_closest_nodes = only_closest_nodes
        self._target = int.from_bytes(target, "big")
        self._candidates: dict[Address, _Candidate] = {}
        self._pending: list[_Candidate] = []  # a stack: what was learned last tends to be closest
        self._in_flight = 0
        self._slow = 0
        self._successes = 0
        self._failures = 0
        self._events: deque[QueryEvent] = deque()
        self._table_used = False
        self._careful = False
        self._start(seeds)

    @property
    def best_replies(self) -> list[BestReply]:
        """Up to 20, closest first; see `BestReplies`."""
        return self._best.replies

    def next_request(self, *, in_flight: int = 0) -> Address | None:
        """Whom to ask now, or None until the next outcome.

        Args:
            in_flight: All requests the node has in flight, this query's included. Only background queries look at it.
        """
        if self.finished or not self._pending or self._in_flight >= self._allowed(in_flight):
            if not self._table_used:
                self._careful = True  # the first batch is out
            return None
        candidate = self._pending.pop()
        candidate.state = _State.ASKED
        self._in_flight += 1
        self._advance()
        return candidate.address

    def receive_reply(self, asked: Address, reply: Reply, *, sender: Address) -> None:
        """The request to `asked` was answered, from `sender`; these differ for a node with several addresses."""
        candidate = self._end(asked, _State.DONE)
        if candidate is None:
            return
        if reply.error:
            self._failures += 1
        else:
            self._successes += 1
            self._rank(sender, reply)
            self._events.append(QueryReplied(sender, reply))
        if not self._only_closest_nodes:
            self._learn(reply.closer_nodes, sender)
        self._advance()

    def handle_slow(self, asked: Address) -> None:
        """The request to `asked` is about to be sent a second time."""
        candidate = self._candidates.get(asked)
        if not self.finished and candidate is not None and candidate.state is _State.ASKED:
            candidate.state = _State.SLOW
            self._slow += 1
            self._advance()

    def handle_timeout(self, asked: Address) -> None:
        """The request to `asked` was given up."""
        candidate = self._end(asked, _State.DOWN)
        if candidate is None:
            return
        self._failures += 1
        self._events.extend(DownHintWanted(recommender, asked) for recommender in candidate.recommenders)
        self._advance()

    def next_event(self) -> QueryEvent | None:
        """What happened, oldest first; None when there is no more."""
        return self._events.popleft() if self._events else None

    def _start(self, seeds: Sequence[Address]) -> None:
        for address in seeds:
            self._consider(address)
        if len(self._candidates) < BUCKET_SIZE:
            self._use_table()
        self._advance()

    def _use_table(self) -> None:
        self._table_used = True
        self._careful = False
        if self._only_closest_nodes:
            return
        for address in self._table:
            if len(self._pending) >= BUCKET_SIZE:
                break
            self._consider(address)
        if len(self._pending) < BUCKET_SIZE:
            for address in self._bootstrap:
                self._consider(address)

    def _consider(self, address: Address, recommender: Address | None = None) -> bool:
        """Put the node on the stack unless it was met before. Returns whether those after it in a list may be wanted too."""
        identity = node_id(address)
        if identity == self._own_id:
            return True
        distance = int.from_bytes(identity, "big") ^ self._target
        is_closer = self._best.wants(distance, address.host)
        known = self._candidates.get(address)
        if known is not None:
            self._recommended_again(known, recommender)
        elif is_closer and len(self._candidates) < MAX_CANDIDATES:
            candidate = _Candidate(address, distance, [] if recommender is None else [recommender])
            self._candidates[address] = candidate
            self._pending.append(candidate)
        return is_closer or self._best.is_crowded(distance, address.host)

    def _recommended_again(self, known: _Candidate, recommender: Address | None) -> None:
        if recommender is None:
            return
        if known.state is _State.DOWN:
            self._events.append(DownHintWanted(recommender, known.address))
        elif known.state is not _State.DONE:
            known.recommenders.append(recommender)

    def _learn(self, closer_nodes: Sequence[Address], recommender: Address) -> None:
        for address in dict.fromkeys(closer_nodes[:MAX_CLOSER_NODES]):  # each once, or each repetition becomes a hint
            if is_worth_asking(address, recommender=recommender) and not self._consider(address, recommender):
                return

    def _rank(self, sender: Address, reply: Reply) -> None:
        if reply.id is None or reply.id == self._own_id:
            return
        distance = int.from_bytes(reply.id, "big") ^ self._target
        self._best.add(BestReply(distance, reply.id, sender, reply))

    def _allowed(self, in_flight: int) -> int:
        if self._background and in_flight >= IDLE_BELOW_REQUESTS:
            limit = BACKGROUND_CONCURRENCY
        elif self._careful and self._successes + self._failures < CAREFUL_UNTIL_OUTCOMES:
            limit = CAREFUL_CONCURRENCY
        else:
            limit = CONCURRENCY
        return limit + self._slow

    def _end(self, asked: Address, state: _State) -> _Candidate | None:
        candidate = self._candidates.get(asked)
        if self.finished or candidate is None or candidate.state not in (_State.ASKED, _State.SLOW):
            return None
        self._in_flight -= 1
        self._slow -= candidate.state is _State.SLOW
        candidate.state = state
        return candidate

    def _advance(self) -> None:
        while self._pending and not self._best.wants(self._pending[-1].distance, self._pending[-1].address.host):
            self._pending.pop()
        if self.finished or self._pending or self._waits():
            return
        if not self._table_used and self._successes < ENOUGH_SUCCESSES:
            self._use_table()
            self._advance()
            return
        self.finished = True
        self._events.append(QueryFinished(self._successes, self._failures))

    def _waits(self) -> bool:
        all_slow = self._slow == self._in_flight
        return self._in_flight > 0 and not (all_slow and len(self._best) == BUCKET_SIZE)


class Commit:
    """The writes that follow a query: one to each best reply, at once, each with that reply's token."""

    def __init__(self, best_replies: Sequence[BestReply]) -> None:
        self.requests = tuple((best.address, best.reply.token) for best in best_replies)
        """Whom to send the write, and the token to put in."""
        self.replies: list[tuple[Address, Reply]] = []
        """Also those with an error, which tells why the node did not take it."""
        self._open = {address for address, _ in self.requests}

    @property
    def finished(self) -> bool:
        return not self._open

    @property
    def succeeded(self) -> bool:
        """Whether anybody answered. False for a query that found nobody."""
        return bool(self.replies)

    def receive_reply(self, asked: Address, reply: Reply) -> None:
        """The write to `asked` was answered."""
        if asked in self._open:
            self._open.remove(asked)
            self.replies.append((asked, reply))

    def handle_timeout(self, asked: Address) -> None:
        """The write to `asked` was given up."""
        self._open.discard(asked)


def is_worth_asking(address: Address, *, recommender: Address) -> bool:
    """Whether to believe that a DHT node can be there.

    A public node that names private addresses would have us send to the machines of our own network. In a network that is
    private as a whole (a testnet, a LAN) the recommender is private too. Below port 1024 are name servers and the like,
    which must not get our packets because somebody told us so (T19).
    """
    kind = host_kind(address.host)
    if kind is HostKind.PUBLIC:
        return address.port >= FIRST_USER_PORT
    return kind is HostKind.PRIVATE and address.port > 0 and host_kind(recommender.host) is HostKind.PRIVATE
