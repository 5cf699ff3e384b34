"""Asks a few nodes how they see one of our sockets."""

from collections.abc import Callable, Iterator

from ..addresses import Address
from ..rpc.caller import Answer
from ..rpc.routing_table import RoutingTable
from .context import Context
from .nat_kind import ENOUGH_SAMPLES, NatClassifier

NEWEST_SKIPPED = 5  # nodes that pushed themselves in front by writing to us a moment ago
NODES_TO_SKIP_SOME = 8
ROUNDS = 2


class NatCheck:
    """Pings from the socket until its NAT is classified, or nobody is left to ask. Starts at once."""

    def __init__(self, context: Context, socket: int, *, now: float, on_done: Callable[[float], None]) -> None:
        """`on_done(now)` is called once, but not from inside the constructor: look at `done` after it."""
        self.nat = NatClassifier(firewalled=context.rpc.firewalled)
        self.done = False
        self._context = context
        self._socket = socket
        self._on_done: Callable[[float], None] | None = None
        self._asked: set[Address] = set()
        self._pending: set[int] = set()
        self._rounds_left = ROUNDS
        self._ask(now)
        self._on_done = on_done

    def add(self, observed: Address, *, by: Address, now: float) -> None:
        """Somebody else saw the socket at that address."""
        self.nat.add(observed, by=by)
        if self.nat.is_settled:
            self._finish(now)

    def cancel(self) -> None:
        """Stop asking, and report nothing."""
        self._on_done = None
        self._forget_pings()

    def _ask(self, now: float) -> None:
        while not self._pending and self._rounds_left:
            self._rounds_left -= 1
            for address in self._choose(ENOUGH_SAMPLES - self.nat.samples):
                self._ping(address, now)
        if not self._pending:
            self._finish(now)

    def _choose(self, count: int) -> list[Address]:
        """Recently seen nodes; of several on one host all but one come last, as they may belong together."""
        first: list[Address] = []
        second: list[Address] = []
        hosts = {address.host for address in self._asked}
        for address in recent_addresses(self._context.rpc.table):
            if address in self._asked:
                continue
            (second if address.host in hosts else first).append(address)
            hosts.add(address.host)
            if len(first) == count:
                break
        return (first + second)[:count]

    def _ping(self, address: Address, now: float) -> None:
        def answered(answer: Answer) -> None:
            self._pending.discard(handle)
            # Replies are matched by a number of 16 bits: one from elsewhere may be a guess that is to mislead us.
            if answer.reply is not None and answer.sender == address and answer.socket == self._socket:
                self.add(answer.reply.to, by=address, now=answer.now)
            if not self.done:
                self._ask(answer.now)

        self._asked.add(address)
        handle = self._context.rpc.ping(address, now=now, socket=self._socket, retries=0, then=answered)
        self._pending.add(handle)

    def _finish(self, now: float) -> None:
        if self.done:
            return
        self.done = True
        if self._on_done is not None:
            self._on_done(now)

    def _forget_pings(self) -> None:
        for handle in self._pending:
            self._context.rpc.cancel(handle)
        self._pending.clear()


def recent_addresses(table: RoutingTable) -> Iterator[Address]:
    """Nodes heard from last first, without the very last ones where we know enough others."""
    skip = NEWEST_SKIPPED if len(table) >= NODES_TO_SKIP_SOME else 0
    for i, node in enumerate(table.most_recently_seen()):
        if i >= skip:
            yield node.address
