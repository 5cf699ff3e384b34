"""Asking others to send to our server socket, to see whether strangers get through. Source: dht-rpc 6.27.0 `index.js`."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice

from ..addresses import Address
from ..encoding import Writer
from .caller import Answer, Caller
from .endpoint import SERVER_SOCKET
from .messages import Command
from .nat import NatSampler

ASKED_NODES = 5
ENOUGH_PONGS = 3  # of five; one node alone may share our network, or lie


def ping_nat(caller: Caller, to: Address, *, port: int, now: float, then: Callable[[Answer], None]) -> int:
    """Ask a node to answer to that port of ours."""
    writer = Writer()
    writer.push_uint16(port)
    return caller.request(to, Command.PING_NAT, internal=True, value=writer.finish(), now=now, then=then)


class FirewallTest:
    """One test. It passes if enough nodes reach our server socket, at the host our client socket has for them too."""

    def __init__(
        self,
        caller: Caller,
        nodes: Sequence[Address],
        *,
        server_port: int,
        now: float,
        then: Callable[[NatSampler | None, float], None],
    ) -> None:
        """
        Args:
            nodes: Whom to ask, at least one.
            then: Called as then(nat, now) with our address at the server socket, or with None if the test failed.
        """
        self._caller = caller
        self._server_port = server_port
        self._then = then
        self._needed = ENOUGH_PONGS if len(nodes) >= ASKED_NODES else 1
        self._nat = NatSampler()
        self._handles = {
            node: ping_nat(caller, node, port=server_port, now=now, then=partial(self._handle_answer, node))
            for node in nodes
        }

    def cancel(self) -> None:
        """Stop; `then` is not called."""
        for handle in self._handles.values():
            self._caller.cancel(handle)
        self._handles.clear()

    def _handle_answer(self, asked: Address, answer: Answer) -> None:
        del self._handles[asked]
        reply, sender = answer.reply, answer.sender
        # A NAT in between may give the answer another port, but not another host.
        if reply and sender and sender.host == asked.host and answer.socket == SERVER_SOCKET:
            self._nat.add(reply.to)
        if not self._handles:
            self._then(self._nat if self._passed() else None, answer.now)

    def _passed(self) -> bool:
        nat = self._nat
        return (
            nat.size >= self._needed
            and nat.host is not None
            and nat.host == self._caller.endpoint.nat.host
            and nat.port == self._server_port
        )


def nodes_to_ask(caller: Caller, bootstrap: Sequence[Address]) -> list[Address]:
    """The nodes heard from last; the bootstrap nodes too while we know too few."""
    known = [node.address for node in islice(caller.endpoint.table.most_recently_seen(), ASKED_NODES)]
    return known if len(known) == ASKED_NODES else list(dict.fromkeys([*known, *bootstrap]))
