"""Finding somebody who forwards a handshake to a peer, and asking for it.

Source: hyperdht 6.34.0 `lib/connect.js` and `peerHandshake` in `lib/router.js`.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from ..addresses import Address
from ..errors import DecodeError
from ..rpc.caller import Answer
from ..rpc.messages import Reply
from ..rpc.node import RpcNode
from ..rpc.running_query import QueryOutcome, RunningQuery
from .constants import Command
from .messages import decode_peer
from .payloads import HandshakeMessage, Mode, decode_handshake, encode_handshake

PARALLEL_HANDSHAKES = 2
FIND_PEER_RETRIES = 3
# A peer is known to its three relays and to nodes that were, and the 20 nodes closest to it could be. Liars among them
# would have us spend 4 s on each name they add.
MAX_CANDIDATES = 20


@dataclass(frozen=True, slots=True)
class HandshakeAnswer:
    """A Noise message that came back."""

    noise: bytes
    asked: Address
    """The node we asked, which is also where the answer came from."""
    server_address: Address
    """Where that node sees the server; itself if that is the server."""
    client_address: Address
    """Where it sees us."""
    relayed: bool
    socket: int
    """Where the answer came in."""
    now: float


def request_handshake(
    rpc: RpcNode,
    to: Address,
    *,
    target: bytes,
    noise: bytes,
    now: float,
    then: Callable[[HandshakeAnswer | None, float], None],
    socket: int | None = None,
    on_slow: Callable[[float], None] | None = None,
) -> int:
    """Ask a node to forward a handshake, or the server itself to answer it. Returns a handle for `rpc.cancel`."""
    value = encode_handshake(HandshakeMessage(Mode.FROM_CLIENT, noise))
    return rpc.request(
        to,
        Command.PEER_HANDSHAKE,
        now=now,
        target=target,
        value=value,
        socket=socket,
        then=lambda answer: then(_read_answer(answer, to), answer.now),
        on_slow=on_slow,
    )


def _read_answer(answer: Answer, asked: Address) -> HandshakeAnswer | None:
    reply = answer.reply
    if reply is None or reply.error or reply.value is None or answer.socket is None or answer.sender != asked:
        return None
    try:
        message = decode_handshake(reply.value)
    except DecodeError:
        return None
    if message.mode != Mode.REPLY or not message.noise:
        return None
    server = message.peer_address or asked
    return HandshakeAnswer(message.noise, asked, server, reply.to, server != asked, answer.socket, answer.now)


class HandshakeSearch:
    """Asks known nodes one after the other, and at the same time those that a query finds, two at once."""

    def __init__(
        self,
        rpc: RpcNode,
        *,
        public_key: bytes,
        target: bytes,
        noise: bytes,
        known: Sequence[Address],
        now: float,
        on_answer: Callable[[HandshakeAnswer], bool],
        on_exhausted: Callable[[bool, float], None],
    ) -> None:
        """
        Args:
            target: The hash of the server's public key.
            noise: The same bytes for everybody.
            known: Nodes that may know the server; also where the query starts.
            on_answer: Returns whether the answer is a valid one, which ends the search.
            on_exhausted: Called as on_exhausted(whether anybody knew the peer, now) when there is nobody left to ask.
        """
        self.asked: list[Address] = []
        """In order."""
        self.found_any = False
        """Whether anybody said it knows the peer."""
        self.over = False
        self._rpc = rpc
        self._public_key = public_key
        self._target = target
        self._noise = noise
        self._known = deque(dict.fromkeys(known))
        self._on_answer = on_answer
        self._on_exhausted = on_exhausted
        self._found: deque[Address] = deque()
        self._handles: dict[Address, int] = {}
        self._asking_known: Address | None = None
        self._queries_left = 2 if known else 1
        self._query: RunningQuery | None = None
        self._advance(now)

    def cancel(self) -> None:
        """Stop. No callback will be called."""
        self.over = True
        if self._query is not None:
            self._query.cancel()
        for handle in self._handles.values():
            self._rpc.cancel(handle)
        self._handles.clear()

    def _advance(self, now: float) -> None:
        if self.over:
            return
        if self._asking_known is None and self._known:
            self._asking_known = self._known.popleft()
            self._ask(self._asking_known, now)
        while self._found and self._asking_found < PARALLEL_HANDSHAKES:
            self._ask(self._found.popleft(), now)
        if self._query is not None or self._asking_found:
            return
        if self._queries_left:
            self._start_query(now)
        elif self._asking_known is None:
            self.over = True
            self._on_exhausted(self.found_any, now)

    @property
    def _asking_found(self) -> int:
        return len(self._handles) - (self._asking_known is not None)

    def _start_query(self, now: float) -> None:
        self._queries_left -= 1
        # What we were told may mislead a query that starts there, so the second one starts at our own table.
        seeds = (*self.asked, *self._known) if self._queries_left else ()
        self._query = self._rpc.query(
            self._target,
            Command.FIND_PEER,
            now=now,
            seeds=seeds,
            retries=FIND_PEER_RETRIES,
            on_reply=self._handle_find_peer,
            then=self._end_query,
        )

    def _handle_find_peer(self, node: Address, reply: Reply, now: float) -> None:
        if reply.value is None or not self._names_the_peer(reply.value):
            return
        self.found_any = True
        if node in self.asked or node in self._found or len(self.asked) + len(self._found) >= MAX_CANDIDATES:
            return
        if node in self._known:
            self._known.remove(node)  # confirmed: no need to wait for those before it
        self._found.append(node)
        self._advance(now)

    def _names_the_peer(self, value: bytes) -> bool:
        try:
            return decode_peer(value).public_key == self._public_key
        except DecodeError:
            return False

    def _end_query(self, outcome: QueryOutcome) -> None:
        self._query = None
        self._advance(outcome.now)

    def _ask(self, node: Address, now: float) -> None:
        self.asked.append(node)
        self._handles[node] = request_handshake(
            self._rpc,
            node,
            target=self._target,
            noise=self._noise,
            now=now,
            then=partial(self._handle_answer, node),
        )

    def _handle_answer(self, node: Address, answer: HandshakeAnswer | None, now: float) -> None:
        del self._handles[node]
        if self._asking_known == node:
            self._asking_known = None
        if answer is not None and self._on_answer(answer):
            self.cancel()
        self._advance(now)
