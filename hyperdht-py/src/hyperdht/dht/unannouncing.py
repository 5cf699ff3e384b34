"""A lookup that withdraws our own announces wherever it meets them, and may announce anew at its end.

Source: hyperdht 6.34.0 `index.js` `lookupAndUnannounce`; docs/protocol/hyperdht.md.
"""

from collections.abc import Callable, Sequence
from functools import partial

from ..addresses import Address
from ..crypto import KeyPair
from ..rpc import QUERY_RETRIES, Answer, BestReply, QueryOutcome, Reply, RpcNode, Write
from .constants import Command
from .messages import encode_announce
from .peers_found import PeersFound, peers_in
from .records import RECORDS_PER_REPLY
from .signatures import sign_unannounce


class Unannouncing:
    """Walks, withdraws on the way, waits for all confirmations, writes.

    The writes wait because requests are sent again: an UNANNOUNCE that arrives after the ANNOUNCE would undo it.
    """

    def __init__(
        self,
        rpc: RpcNode,
        topic: bytes,
        key_pair: KeyPair,
        *,
        now: float,
        seeds: Sequence[Address] = (),
        in_a_hurry: bool = False,
        on_peers: Callable[[PeersFound, float], None] | None = None,
        write: Callable[[BestReply], Write | None] | None = None,
        then: Callable[[QueryOutcome], None] | None = None,
    ) -> None:
        """
        Args:
            seeds: Where to start.
            in_a_hurry: Ask only the seeds, once each, and without waiting for other requests.
            write: What to write to each of the closest nodes in the end.
            then: Called once, unless cancelled.
        """
        self.over = False
        self._rpc = rpc
        self._topic = topic
        self._key_pair = key_pair
        self._on_peers = on_peers
        self._write = write
        self._then = then
        self._outcome: QueryOutcome | None = None
        self._committed: list[tuple[Address, Reply]] = []
        self._open: dict[Address, int] = {}
        self._walk = rpc.query(
            topic,
            Command.LOOKUP,
            seeds=seeds,
            only_closest_nodes=in_a_hurry,
            retries=0 if in_a_hurry else QUERY_RETRIES,
            force=in_a_hurry,
            on_reply=self._receive,
            then=self._end_walk,
            now=now,
        )

    def cancel(self) -> None:
        """Stop. No callback will be called."""
        self.over = True
        self._walk.cancel()
        for handle in self._open.values():
            self._rpc.cancel(handle)
        self._open.clear()

    def _receive(self, node: Address, reply: Reply, now: float) -> None:
        found = peers_in(node, reply)
        if found is None:
            return
        # A node that lists 20 may have more, and us among them.
        lists_us = any(peer.public_key == self._key_pair.public_key for peer in found.peers)
        if lists_us or len(found.peers) >= RECORDS_PER_REPLY:
            self._unannounce(node, reply, now)
        if self._on_peers is not None:
            self._on_peers(found, now)

    def _unannounce(self, node: Address, reply: Reply, now: float) -> None:
        if reply.token is None or reply.id is None or node in self._open:
            return
        signed = sign_unannounce(self._key_pair, target=self._topic, node_id=reply.id, token=reply.token)
        self._request(node, Write(Command.UNANNOUNCE, self._topic, encode_announce(signed)), reply.token, now)

    def _end_walk(self, outcome: QueryOutcome) -> None:
        self._outcome = outcome
        self._advance(outcome.now)

    def _end_request(self, node: Address, command: int, answer: Answer) -> None:
        del self._open[node]
        if command == Command.ANNOUNCE and answer.reply is not None:
            self._committed.append((node, answer.reply))
        self._advance(answer.now)

    def _advance(self, now: float) -> None:
        """Once the walk is over and nothing is open: write if that was not done yet, then finish."""
        if self.over or self._outcome is None or self._open:
            return
        if self._write is not None and not self._rpc.suspended:
            write, self._write = self._write, None
            for best in self._outcome.best:
                wanted = write(best)
                if wanted is not None:
                    self._request(best.address, wanted, best.reply.token, now)
        if not self._open:
            self.over = True
            if self._then is not None:
                self._then(self._outcome._replace(committed=tuple(self._committed), now=now))

    def _request(self, node: Address, write: Write, token: bytes | None, now: float) -> None:
        self._open[node] = self._rpc.request(
            node,
            write.command,
            target=write.target,
            value=write.value,
            token=token,
            then=partial(self._end_request, node, write.command),
            now=now,
        )
