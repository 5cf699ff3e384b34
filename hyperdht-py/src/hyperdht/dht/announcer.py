"""Keeps a server reachable: a few nodes near H(public key) have a route to it and pass on handshakes, its relays.

                         +---- an announce took effect nowhere, a relay fell silent, ~5 min, refresh ----+
                         v                                                                              |
    IDLE --start--> SEARCHING --closest nodes--> ANNOUNCING --all have answered--> WATCHING (ping, 3 s) --+
                         ^                                                            |
                         +------resume-- SUSPENDED <--suspend--  any  --stop--> STOPPED

Source: hyperdht 6.34.0 `lib/announcer.js`; docs/protocol/hyperdht.md.
"""

from collections import deque
from collections.abc import Callable
from enum import Enum, auto
from functools import partial

from ..addresses import Address
from ..crypto import KeyPair, blake2b
from ..rpc import Answer, BestReply, QueryOutcome, RunningQuery, Timer
from ..rpc.health import Health
from .constants import MAX_RELAY_ADDRESSES, Command
from .context import Context
from .messages import Announce, PeerRecord, encode_announce
from .payloads import RelayInfo
from .signatures import sign_announce
from .withdrawal import Withdrawal

RELAYS = 3
REMEMBERED_ROUNDS = 3
PING_INTERVAL_S = 3.0  # NATs forget a mapping after 30 s or more; what this is really for is noticing a lost relay soon
PINGS_PER_ROUND = 100  # about five minutes
PINGS_WITHOUT_RELAYS = 5  # ours: the reference waits out its five minutes, unreachable
STOP_DEADLINE_S = 3.0  # two transmissions to a relay that is there; records of one that is not fade out by themselves


class State(Enum):
    """What an announcer is doing."""

    IDLE = auto()
    SEARCHING = auto()
    ANNOUNCING = auto()
    WATCHING = auto()
    SUSPENDED = auto()
    STOPPED = auto()


class Announcer:
    """One per listening server."""

    def __init__(
        self, context: Context, key_pair: KeyPair, *, on_relays_changed: Callable[[float], None] | None = None
    ) -> None:
        self.relays: tuple[RelayInfo, ...] = ()
        """The nodes that have a route to us, the quickest first, and how each sees us."""
        self.relay_addresses: tuple[Address, ...] = ()
        """What peers may be told: our own public address if we have one, then relays; three at most."""
        self.state = State.IDLE
        self._rpc = context.rpc
        self._key_pair = key_pair
        self._target = blake2b(key_pair.public_key)
        self._on_relays_changed = on_relays_changed
        self._on_started: Callable[[float], None] | None = None
        self._on_withdrawn: Callable[[float], None] | None = None
        self._closest: tuple[Address, ...] = ()
        self._rounds: deque[dict[Address, RelayInfo]] = deque(maxlen=REMEMBERED_ROUNDS)
        self._announced: dict[Address, None] = {}  # where we have to withdraw in the end
        self._withdrawals: dict[Address, Withdrawal] = {}
        self._query: RunningQuery | None = None
        self._open: dict[Address, int] = {}
        self._answered = 0
        self._pings_left = 0
        self._timer: Timer | None = None
        self._deadline: Timer | None = None
        self._place: tuple[bool, Address | None] = (True, None)
        self._again = False

    def start(self, now: float, then: Callable[[float], None] | None = None) -> None:
        """Announce, and keep at it. `then(now)` is called after the first round, with relays or without, or when
        there will be none."""
        if self.state is State.IDLE:
            self._on_started = then
            self._rpc.on_network_change.append(self.refresh)
            self._search(now)

    def refresh(self, now: float) -> None:
        """Announce anew at once. Network changes do this by themselves."""
        if self.state is State.WATCHING:
            self._search(now)
        elif self.state in (State.SEARCHING, State.ANNOUNCING):
            self._again = True

    def suspend(
        self, now: float, then: Callable[[float], None] | None = None, *, deadline_s: float = STOP_DEADLINE_S
    ) -> None:
        """Withdraw, and wait for `resume`. `then` is called when that is done, or after `deadline_s`."""
        if self.state in (State.SEARCHING, State.ANNOUNCING, State.WATCHING):
            self._leave(State.SUSPENDED, now, then, deadline_s)
        elif then is not None:
            then(now)

    def resume(self, now: float) -> None:
        """Announce again after `suspend`."""
        if self.state is State.SUSPENDED:
            self._end_leaving(now)
            self._search(now)

    def stop(
        self, now: float, then: Callable[[float], None] | None = None, *, deadline_s: float = STOP_DEADLINE_S
    ) -> None:
        """Withdraw, for good. `then` is called when that is done, or after `deadline_s`."""
        if self.refresh in self._rpc.on_network_change:
            self._rpc.on_network_change.remove(self.refresh)
        self._leave(State.STOPPED, now, then, deadline_s)

    def is_own_relay(self, address: Address) -> bool:
        """Whether we announced ourselves at that node in one of the last three rounds."""
        return any(address in nodes for nodes in self._rounds) or any(
            relay.relay_address == address for relay in self.relays
        )

    # A round

    def _search(self, now: float) -> None:
        self._halt()
        self.state = State.SEARCHING
        self._again = False
        self._place = self._current_place()
        self._rounds.append({})
        self._query = self._rpc.query(
            self._target, Command.FIND_PEER, seeds=self._closest, then=self._announce_to_closest, now=now
        )

    def _announce_to_closest(self, outcome: QueryOutcome) -> None:
        self._query = None
        self.state = State.ANNOUNCING
        self._closest = tuple(best.address for best in outcome.best)
        for best in outcome.best[:RELAYS]:
            self._announce_to(best, outcome.now)
        if not self._open:
            self._end_round(outcome.now)

    def _announce_to(self, best: BestReply, now: float) -> None:
        token, node = best.reply.token, best.address
        if token is None:
            return
        if node in self._withdrawals:  # left in the last round; its UNANNOUNCE must not arrive late
            self._withdrawals.pop(node).cancel()
        announce = Announce(PeerRecord(self._key_pair.public_key))
        signed = sign_announce(announce, self._key_pair, target=self._target, node_id=best.node_id, token=token)
        self._announced[node] = None
        self._open[node] = self._rpc.request(
            node,
            Command.ANNOUNCE,
            target=self._target,
            token=token,
            value=encode_announce(signed),
            then=partial(self._end_announce, RelayInfo(relay_address=node, peer_address=best.reply.to)),
            now=now,
        )

    def _end_announce(self, relay: RelayInfo, answer: Answer) -> None:
        node = relay.relay_address
        del self._open[node]
        if answer.reply is not None and not answer.reply.error:
            self._rounds[-1][node] = relay
        else:
            del self._announced[node]
        if not self._open:
            self._end_round(answer.now)

    def _end_round(self, now: float) -> None:
        self.state = State.WATCHING
        self._pings_left = PINGS_PER_ROUND if self._rounds[-1] else PINGS_WITHOUT_RELAYS
        # A round without relays is a network that is away. Once it is back, the last ones pass handshakes on before we have
        # announced again, and an answer without relays lets the peer send to an address that nobody has opened (ours).
        if self._rounds[-1]:
            for node in tuple(self._announced):
                if node not in self._rounds[-1]:
                    self._withdraw(node, now)
            self._update_relays(tuple(self._rounds[-1].values()), now)
        self._tell_started(now)
        if self.state is State.WATCHING:  # the callbacks may have stopped us
            self._search(now) if self._again else self._ping(now)

    def _update_relays(self, relays: tuple[RelayInfo, ...], now: float) -> None:
        own = self._rpc.remote_address()
        addresses = [relay.relay_address for relay in relays]
        relay_addresses = tuple([*addresses] if own is None else [own, *addresses])[:MAX_RELAY_ADDRESSES]
        if (relays, relay_addresses) != (self.relays, self.relay_addresses):
            self.relays, self.relay_addresses = relays, relay_addresses
            if self._on_relays_changed is not None:
                self._on_relays_changed(now)

    def _tell_started(self, now: float) -> None:
        if self._on_started is not None:
            then, self._on_started = self._on_started, None
            then(now)

    # Between rounds

    def _ping(self, now: float) -> None:
        if self._place != self._current_place():
            self._search(now)
            return
        self._answered = 0
        if self._rpc.health is not Health.OFFLINE:
            self._pings_left -= 1
            for node in self._rounds[-1]:
                self._open[node] = self._rpc.ping(node, then=partial(self._end_ping, node), now=now)
        if not self._open:
            self._sleep(now)

    def _end_ping(self, node: Address, answer: Answer) -> None:
        del self._open[node]
        self._answered += answer.reply is not None
        if self._open:
            return
        if self._answered < len(self._rounds[-1]):
            self._search(answer.now)
        else:
            self._sleep(answer.now)

    def _sleep(self, now: float) -> None:
        wake = self._ping if self._pings_left else self._search
        self._timer = self._rpc.timers.call_at(now + PING_INTERVAL_S, wake)

    def _current_place(self) -> tuple[bool, Address | None]:
        """Relays know the socket that we announced from. When that is another one now, they reach nobody."""
        return self._rpc.firewalled, self._rpc.remote_address()

    # Leaving

    def _leave(self, state: State, now: float, then: Callable[[float], None] | None, deadline_s: float) -> None:
        self._halt()
        self._end_leaving(now)
        self.state = state
        self.relays = self.relay_addresses = ()
        self._tell_started(now)
        self._on_withdrawn = then
        self._deadline = self._rpc.timers.call_at(now + deadline_s, self._end_leaving)
        for node in tuple(self._announced):
            self._withdraw(node, now)
        self._check_withdrawn(now)

    def _withdraw(self, node: Address, now: float) -> None:
        if node not in self._withdrawals:
            self._withdrawals[node] = Withdrawal(self._rpc, self._key_pair, node, then=self._end_withdrawal, now=now)

    def _end_withdrawal(self, node: Address, now: float) -> None:
        del self._withdrawals[node]
        self._announced.pop(node, None)
        self._check_withdrawn(now)

    def _check_withdrawn(self, now: float) -> None:
        if self._deadline is not None and not self._withdrawals:
            self._end_leaving(now)

    def _end_leaving(self, now: float) -> None:
        if self._deadline is None:
            return
        self._deadline.cancel()
        self._deadline = None
        for withdrawal in self._withdrawals.values():
            withdrawal.cancel()
        self._withdrawals.clear()
        self._announced.clear()
        if self._on_withdrawn is not None:
            then, self._on_withdrawn = self._on_withdrawn, None
            then(now)

    def _halt(self) -> None:
        """Forget what the present state waits for."""
        if self._query is not None:
            self._query.cancel()
            self._query = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for handle in self._open.values():
            self._rpc.cancel(handle)
        self._open.clear()
