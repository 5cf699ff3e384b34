"""How far a node is part of the network: bootstrapped, reachable by strangers, persistent.

Source: dht-rpc 6.27.0 `index.js`; docs/protocol/dht-rpc.md.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from functools import partial
from typing import Protocol

from ..addresses import Address
from .caller import Answer, Caller
from .endpoint import SERVER_SOCKET
from .firewall_test import FirewallTest, nodes_to_ask, ping_nat
from .messages import Reply, node_id
from .nat import NatSampler
from .running_query import QueryOutcome, RunningQuery

STABLE_TICKS = 240  # 20 minutes: who stayed that long tends to stay
MORE_STABLE_TICKS = 3 * STABLE_TICKS
FORCED_TICKS = 12  # one minute: who was told to be persistent tries until it works
BOOTSTRAP_ROUNDS = 2  # the second with the id of our address, if we found that out


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the user decided."""

    ephemeral: bool | None
    """None: persistent once we proved stable and reachable."""
    firewalled: bool | None
    """None: find out."""
    known_address: Address | None
    """Our public address, if nobody has to tell us."""


class FindNode(Protocol):
    """Starts a background query for the nodes around an id."""

    def __call__(
        self,
        target: bytes,
        *,
        now: float,
        on_reply: Callable[[Address, Reply, float], None] | None = None,
        then: Callable[[QueryOutcome], None] | None = None,
    ) -> RunningQuery: ...


class Goal(Enum):
    """What a check of our reachability is for."""

    OPEN = auto()
    """Just to leave from the server socket and to know our address."""
    PERSISTENT = auto()


class Membership:
    """Bootstraps, and decides whether the endpoint is firewalled and ephemeral."""

    def __init__(
        self,
        caller: Caller,
        wishes: Wishes,
        *,
        bootstrap: Callable[[], tuple[Address, ...]],
        find_node: FindNode,
        port: Callable[[int], int],
        on_bootstrapped: Callable[[float], None],
        on_persistent: Callable[[float], None],
    ) -> None:
        self._caller = caller
        self._endpoint = caller.endpoint
        self._wishes = wishes
        self._bootstrap = bootstrap
        self._find_node = find_node
        self._port = port
        self._on_bootstrapped = on_bootstrapped
        self._on_persistent = on_persistent
        self.bootstrapped = False
        self._query: RunningQuery | None = None
        self._rounds_left = 0
        self._quick_test_due = False
        self._seems_open = False
        self._test: FirewallTest | None = None
        self._ticks_until_check = STABLE_TICKS if wishes.ephemeral is None else FORCED_TICKS
        self._checked_host: str | None = None
        self._forget_address()

    def start(self, now: float) -> None:
        """Find the nodes around us, and see in passing whether we can be reached."""
        self.stop()
        self._rounds_left = BOOTSTRAP_ROUNDS
        self._seems_open = False
        self._quick_test_due = (
            self._endpoint.firewalled and self._wishes.firewalled is None and self._wishes.ephemeral is not False
        )
        self._find_neighbours(now)

    def stop(self) -> None:
        """Forget what is under way."""
        if self._query is not None:
            self._query.cancel()
        if self._test is not None:
            self._test.cancel()
        self._query = self._test = None

    def handle_tick(self, now: float) -> None:
        """Another 5 s have passed: is it time to become persistent?"""
        if self._wishes.ephemeral is True or not self._endpoint.ephemeral:
            return
        self._ticks_until_check -= 1
        if self._ticks_until_check > 0:
            return
        if self._wishes.ephemeral is None and self._checked_host == self._endpoint.nat.host:
            self._ticks_until_check = MORE_STABLE_TICKS  # the same network again
        else:
            self._check(Goal.PERSISTENT, now, _nothing_waits)

    def handle_wakeup(self) -> None:
        """The machine slept: who was gone is not stable, and may be elsewhere now."""
        self._checked_host = None
        if self._wishes.ephemeral is None:
            self._endpoint.ephemeral = True
            self._ticks_until_check = MORE_STABLE_TICKS

    def handle_network_change(self, now: float) -> None:
        """Our addresses are others now: find out everything again."""
        self._forget_address()
        self.start(now)

    def _forget_address(self) -> None:
        nat = NatSampler()
        if self._wishes.known_address is not None:
            nat.add(self._wishes.known_address)
        self._endpoint.learn_address_again(nat)
        self._endpoint.firewalled = self._wishes.firewalled is not False
        self._endpoint.ephemeral = True

    # Bootstrap

    def _find_neighbours(self, now: float) -> None:
        self._rounds_left -= 1
        self._query = self._find_node(
            self._endpoint.table.own_id, now=now, on_reply=self._test_quickly, then=self._end_round
        )

    def _test_quickly(self, sender: Address, reply: Reply, now: float) -> None:
        """If the first node gets through to our server socket while we still bootstrap, a real test is worth it."""
        if self._quick_test_due:
            self._quick_test_due = False
            ping_nat(self._caller, sender, port=self._port(SERVER_SOCKET), now=now, then=self._end_quick_test)

    def _end_quick_test(self, answer: Answer) -> None:
        self._seems_open = answer.reply is not None

    def _end_round(self, outcome: QueryOutcome) -> None:
        self._query = None
        goal = Goal.PERSISTENT if self._wishes.ephemeral is False else Goal.OPEN
        if self._rounds_left and (self._seems_open or goal is Goal.PERSISTENT):
            self._check(goal, outcome.now, self._continue_bootstrap)
        else:
            self._end_bootstrap(outcome.now)

    def _continue_bootstrap(self, changed: bool, now: float) -> None:
        if changed:
            self._find_neighbours(now)
        else:
            self._end_bootstrap(now)

    def _end_bootstrap(self, now: float) -> None:
        if not self.bootstrapped:
            self.bootstrapped = self._endpoint.table.accepts_probes = True
            self._on_bootstrapped(now)

    # Becoming open and persistent

    def _check(self, goal: Goal, now: float, then: Callable[[bool, float], None]) -> None:
        """Find out whether we can be reached, and act on it. `then(changed, now)` follows."""
        nat = self._endpoint.nat
        if goal is Goal.PERSISTENT:
            self._ticks_until_check = MORE_STABLE_TICKS if self._wishes.ephemeral is None else FORCED_TICKS
            self._checked_host = nat.host
        if nat.host is None or not nat.port:
            then(False, now)
            return
        address = Address(nat.host, nat.port)
        if not self._endpoint.firewalled:
            then(self._move_to(address, goal, now), now)
            return
        nodes = nodes_to_ask(self._caller, self._bootstrap()) if self._wishes.firewalled is None else []
        if not nodes:
            then(False, now)
            return
        end = partial(self._end_test, address, goal, then)
        self._test = FirewallTest(self._caller, nodes, server_port=self._port(SERVER_SOCKET), now=now, then=end)

    def _end_test(
        self,
        tested: Address,
        goal: Goal,
        then: Callable[[bool, float], None],
        server_nat: NatSampler | None,
        now: float,
    ) -> None:
        self._test = None
        then(server_nat is not None and self._open(server_nat, tested, goal, now), now)

    def _open(self, server_nat: NatSampler, tested: Address, goal: Goal, now: float) -> bool:
        self._endpoint.firewalled = False
        nat = self._endpoint.nat
        self._endpoint.learn_address_again(server_nat)
        if server_nat.host is None or (nat.host, nat.port) != tested:
            return False  # it changed during the test; the next check sees
        return self._move_to(Address(server_nat.host, server_nat.port), goal, now)

    def _move_to(self, public: Address, goal: Goal, now: float) -> bool:
        """Take the place in the key space that belongs to our address."""
        identity = node_id(public)
        if goal is Goal.PERSISTENT:
            self._endpoint.ephemeral = False
        if identity != self._endpoint.table.own_id:
            self._endpoint.table.move_to(identity)
            if self.bootstrapped:
                self._find_node(identity, now=now)
        if goal is Goal.PERSISTENT:
            self._on_persistent(now)
        return True


def _nothing_waits(changed: bool, now: float) -> None:
    """A check outside of the bootstrap has done its work when it ends."""
