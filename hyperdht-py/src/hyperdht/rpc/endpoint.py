"""One node's side of dht-rpc: its requests, and its answers to what every node must answer.

Source: dht-rpc 6.27.0 `index.js` and `lib/io.js`; docs/protocol/dht-rpc.md.
"""

from collections import deque
from heapq import heappop, heappush
from math import inf

from ..addresses import Address
from ..buffers import BytesLike
from ..encoding import Reader
from ..errors import DecodeError
from .events import Event, NatSampled, ReplyReceived, RequestReceived, RequestSlow, RequestTimedOut
from .messages import (
    REPLY_TYPE,
    REQUEST_TYPE,
    Command,
    ErrorCode,
    Reply,
    Request,
    decode_reply,
    decode_request,
    encode_reply,
    encode_request,
    node_id,
)
from .nat import NatSampler
from .requests import RETRIES, TIMEOUT_S, Datagram, PendingRequest, Requests
from .routing_table import Node, Probe, RoutingTable
from .tokens import ROTATE_AFTER_STEPS, Tokens
from .window import SLOTS, STEP_S

CLIENT_SOCKET = 0
SERVER_SOCKET = 1  # sockets above are the hole puncher's

MAX_DELAY_MS = 10_000
MAX_DELAYED_PINGS = 256  # each is a timer a stranger sets for 10 s; the announcers of a busy relay need a few dozen
MAX_DOWN_HINTS_PER_TICK = 50
MAX_DOWN_CHECKS = 10  # hints cost nothing to send, and each check is up to four packets from us to a third party
# Steps missed while the machine slept: as many as it takes to empty the window and to replace both secrets.
MAX_STEPS_AT_ONCE = max(SLOTS, 2 * ROTATE_AFTER_STEPS)


class Endpoint:
    """A node of the DHT without its sockets. Its drivers are its owner, received datagrams and one timer.

    The owner counts ticks of 5 s with `start_tick`, and sets `firewalled` and `ephemeral` as it finds out about them.
    """

    def __init__(
        self,
        table: RoutingTable,
        tokens: Tokens,
        *,
        first_tid: int,
        tick: int,
        now: float,
    ) -> None:
        """
        Args:
            first_tid: Random, 16 bits.
            tick: Random, 50 to 100.
        """
        self.table = table
        self.nat = NatSampler()
        self.firewalled = True
        """While true our requests leave from the client socket, else from the server socket."""
        self.ephemeral = True
        """While false what leaves from the server socket carries our id."""
        self.bootstrap_count = 1
        """That many nodes without an id are believed about our own address, at least one."""
        self.dropped = 0
        """Datagrams that were malformed or answered nothing."""
        self.replies = 0
        """Answers to our requests."""
        self.timeouts = 0
        """Requests given up."""
        self._tokens = tokens
        self._requests = Requests(first_tid=first_tid)
        self._tick = tick
        self._next_step = now + STEP_S
        self._sampled_without_id: set[Address] = set()
        self._down_hints_left = MAX_DOWN_HINTS_PER_TICK
        self._checks = 0
        self._delayed: list[tuple[float, int, Datagram]] = []  # a heap; the second item keeps the order of arrival
        self._delayed_count = 0
        self._replies: list[Datagram] = []
        self._events: deque[Event] = deque()

    @property
    def in_flight(self) -> int:
        """How many of our requests are neither answered nor given up."""
        return len(self._requests)

    @property
    def tick(self) -> int:
        return self._tick

    @property
    def main_socket(self) -> int:
        """Where our requests leave."""
        return CLIENT_SOCKET if self.firewalled else SERVER_SOCKET

    def start_tick(self, tick: int) -> None:
        """The next tick begins."""
        self._tick = tick
        self._down_hints_left = MAX_DOWN_HINTS_PER_TICK

    def request(
        self,
        to: Address,
        command: int,
        *,
        now: float,
        internal: bool = False,
        target: bytes | None = None,
        value: bytes | None = None,
        token: bytes | None = None,
        socket: int | None = None,
        retries: int = RETRIES,
        timeout_s: float = TIMEOUT_S,
        force: bool = False,
        proves_down: bool = False,
    ) -> int:
        """Ask a node. The outcome is `ReplyReceived` or `RequestTimedOut` with the handle returned here.

        Args:
            socket: Where it leaves; by default the client socket while `firewalled`, else the server socket.
            retries: How often it is sent again; queries use `QUERY_RETRIES`.
            timeout_s: How long each transmission waits. A DELAYED_PING needs its delay and one second.
            force: Send even while too many requests are in flight.
            proves_down: Without an answer the node is removed from the table. For what every node answers: elsewhere
                silence may just mean no.
        Raises:
            LocalProtocolError: 16,384 requests are pending.
        """
        self._requests.ensure_room()
        self._catch_up(now)
        leaves_from = self.main_socket if socket is None else socket
        request = Request(
            self._requests.take_tid(),
            to,
            command,
            internal=internal,
            id=self._id_for(leaves_from),
            token=token,
            target=target,
            value=value,
        )
        return self._requests.start(
            request,
            socket=leaves_from,
            now=now,
            retries=retries,
            timeout_s=timeout_s,
            force=force,
            proves_down=proves_down,
        )

    def ping(self, to: Address, *, now: float, socket: int | None = None, retries: int = RETRIES) -> int:
        """Ask whether a node is there."""
        return self.request(to, Command.PING, internal=True, now=now, socket=socket, retries=retries)

    def check(self, node: Node, *, now: float) -> None:
        """Ping a node of the table. It is removed if it does not answer itself."""
        node.pinged = self._tick
        self._checks += 1
        self._ask_about(node, node, now)

    def learn_address_again(self, nat: NatSampler) -> None:
        """We may have another address, or leave from another socket now. `nat` is what is known so far."""
        self.nat = nat
        self._sampled_without_id.clear()

    def suspend(self) -> None:
        """The sockets are closed. What is pending fails with the next events; new requests wait for `resume`."""
        self._requests.paused = True
        for pending in self._requests.abandon():
            if isinstance(pending.purpose, Probe):
                self.table.abandon(pending.purpose)
            elif pending.purpose is not None:
                self._checks -= 1
            else:
                self._events.append(RequestTimedOut(pending.handle))
        self._delayed.clear()

    def resume(self, *, now: float) -> None:
        """The sockets are open again."""
        self._requests.paused = False
        self._requests.release(now)

    def cancel(self, handle: int) -> None:
        """Forget a request; it has no outcome then."""
        self._requests.cancel(handle)

    def reply(
        self,
        received: RequestReceived,
        *,
        value: bytes | None = None,
        error: int = ErrorCode.NONE,
        with_token: bool = True,
        with_closer_nodes: bool = True,
    ) -> None:
        """Answer a command of the layer above. Errors never carry a token."""
        self._answer(
            received.request,
            received.sender,
            received.socket,
            value=value,
            error=error,
            with_token=with_token and not error,
            with_closer_nodes=with_closer_nodes,
        )

    def send(self, message: Request | Reply, *, to: Address, socket: int) -> None:
        """Send a message as it is, and expect nothing: the legs of a relayed exchange keep the tid of the first."""
        data = encode_request(message) if isinstance(message, Request) else encode_reply(message)
        self._replies.append(Datagram(data, to, socket))

    def send_datagram(self, datagram: Datagram) -> None:
        """Send what is no message of dht-rpc: the probes of hole punching."""
        self._replies.append(datagram)

    def receive(self, datagram: BytesLike, *, sender: Address, socket: int, now: float) -> None:
        """A datagram that starts with 03 or 13 arrived. What is malformed is counted and dropped."""
        self._catch_up(now)
        try:
            kind = datagram[0] if len(datagram) else None
            if kind == REQUEST_TYPE:
                self._receive_request(decode_request(datagram, sender=sender), sender, socket, now)
            elif kind == REPLY_TYPE:
                self._receive_reply(decode_reply(datagram, sender=sender), sender, socket, now)
            else:
                self.dropped += 1
        except DecodeError:
            self.dropped += 1

    def next_event(self) -> Event | None:
        """What happened, oldest first; None when there is no more."""
        return self._events.popleft() if self._events else None

    def datagrams_to_send(self) -> list[Datagram]:
        """What is to be sent now, each once."""
        replies, self._replies = self._replies, []
        return replies + self._requests.datagrams_to_send()

    def next_timer(self) -> float:
        """When to call `handle_timer`; infinite while nothing is due ever."""
        deadline = self._requests.next_deadline()
        # Steps are caught up with whenever something happens; only those who wait for room need them in time.
        step = self._next_step if self._requests.waits_for_room else inf
        return min(step, inf if deadline is None else deadline, self._delayed[0][0] if self._delayed else inf)

    def handle_timer(self, *, now: float) -> None:
        """The time of `next_timer` has come."""
        self._catch_up(now)
        while self._delayed and self._delayed[0][0] <= now:
            self._replies.append(heappop(self._delayed)[2])
        slow, given_up = self._requests.expire(now)
        self._events.extend(RequestSlow(pending.handle) for pending in slow if pending.purpose is None)
        for pending in given_up:
            self.timeouts += 1
            if pending.proves_down:
                self.table.remove(node_id(pending.datagram.to))
            self._settle(pending, answered_by=None)
        self._requests.release(now)

    def _catch_up(self, now: float) -> None:
        if now < self._next_step:
            return
        steps = 1 + int((now - self._next_step) / STEP_S)
        for _ in range(min(steps, MAX_STEPS_AT_ONCE)):
            self._requests.window.step()
            self._tokens.step()
        self._next_step += steps * STEP_S

    # What others tell us

    def _receive_reply(self, reply: Reply, sender: Address, socket: int, now: float) -> None:
        pending = self._requests.settle_tid(reply.tid)
        if pending is None:
            self.dropped += 1
            return
        self.replies += 1
        self._meet(reply.id, sender, now)
        if sender == pending.datagram.to and socket == pending.datagram.socket == self.main_socket:
            self._sample(reply, sender)
        if self._settle(pending, answered_by=sender):
            self._events.append(ReplyReceived(pending.handle, reply, sender, socket))
        self._requests.release(now)

    def _meet(self, sender_id: bytes | None, sender: Address, now: float) -> None:
        if sender_id is None:
            return
        probe = self.table.hear_from(sender_id, sender, tick=self._tick).probe
        if probe is not None:
            self._ask_about(probe.resident, probe, now)

    def _sample(self, reply: Reply, sender: Address) -> None:
        """Requests name our address too, but anybody can send those from a forged one. So only replies are believed."""
        if reply.id is None:
            known = self._sampled_without_id
            wanted = sender not in known and len(known) < max(1, self.bootstrap_count)
            if wanted:
                known.add(sender)
        else:
            node = self.table.get(reply.id)
            wanted = node is not None and self.table.wants_sample(node, tick=self._tick)
        if wanted:
            self.nat.add(reply.to)
            self._events.append(NatSampled(reply.to))

    def _settle(self, pending: PendingRequest, *, answered_by: Address | None) -> bool:
        """End a request. Returns whether it was the owner's and answered."""
        purpose = pending.purpose
        if purpose is None:
            if answered_by is None:
                self._events.append(RequestTimedOut(pending.handle))
            return answered_by is not None
        if isinstance(purpose, Probe):
            self.table.settle(purpose, answered=answered_by is not None)
        else:
            self._checks -= 1
            if answered_by != purpose.address:
                self.table.remove(purpose.id)
        return False

    def _ask_about(self, node: Node, purpose: Probe | Node, now: float) -> None:
        socket = self.main_socket
        ping = Request(self._requests.take_tid(), node.address, Command.PING, internal=True, id=self._id_for(socket))
        self._requests.start(
            ping, socket=socket, now=now, retries=RETRIES, timeout_s=TIMEOUT_S, force=False, purpose=purpose
        )

    # What others ask us

    def _receive_request(self, request: Request, sender: Address, socket: int, now: float) -> None:
        self._meet(request.id, sender, now)
        if request.token is not None and not self._tokens.accepts(request.token, sender):
            self._answer(request, sender, socket, error=ErrorCode.INVALID_TOKEN, with_token=True)
        elif not request.internal:
            self._events.append(RequestReceived(request, sender, socket))
        elif request.command == Command.PING:
            self._answer(request, sender, socket, with_closer_nodes=False)
        elif request.command == Command.PING_NAT:
            self._answer_ping_nat(request, sender, socket)
        elif request.command == Command.FIND_NODE:
            if request.target is not None:
                self._answer(request, sender, socket)
        elif request.command == Command.DOWN_HINT:
            self._answer_down_hint(request, sender, socket, now)
        elif request.command == Command.DELAYED_PING:
            self._answer_delayed_ping(request, sender, socket, now)
        else:
            self._answer(request, sender, socket, error=ErrorCode.UNKNOWN_COMMAND)

    def _answer_ping_nat(self, request: Request, sender: Address, socket: int) -> None:
        port = Reader(request.value or b"").pull_port()
        if port:
            self._answer(request, Address(sender.host, port), socket, with_closer_nodes=False)

    def _answer_down_hint(self, request: Request, sender: Address, socket: int, now: float) -> None:
        suspect = Reader(request.value or b"").pull_ipv4_address()
        self._answer(request, sender, socket, with_closer_nodes=False)
        if not self._down_hints_left:
            return
        self._down_hints_left -= 1
        node = self.table.get(node_id(suspect))
        if node is None or self._checks >= MAX_DOWN_CHECKS:
            return
        node.down_hints += 1
        if node.pinged != self._tick or node.down_hints == 1:
            self.check(node, now=now)

    def _answer_delayed_ping(self, request: Request, sender: Address, socket: int, now: float) -> None:
        delay_ms = Reader(request.value or b"").pull_uint32()
        if delay_ms > MAX_DELAY_MS or len(self._delayed) >= MAX_DELAYED_PINGS:
            return
        reply = Reply(request.tid, sender, id=self._id_for(socket))
        self._delayed_count += 1
        heappush(
            self._delayed, (now + delay_ms / 1000, self._delayed_count, Datagram(encode_reply(reply), sender, socket))
        )

    def _answer(
        self,
        request: Request,
        to: Address,
        socket: int,
        *,
        value: bytes | None = None,
        error: int = ErrorCode.NONE,
        with_token: bool = False,
        with_closer_nodes: bool = True,
    ) -> None:
        closer_nodes: tuple[Address, ...] = ()
        if with_closer_nodes and request.target is not None:
            closer_nodes = tuple(node.address for node in self.table.closest(request.target))
        token = self._tokens.issue(to) if with_token else None
        self.send(Reply(request.tid, to, self._id_for(socket), token, closer_nodes, error, value), to=to, socket=socket)

    def _id_for(self, socket: int) -> bytes | None:
        return self.table.own_id if socket == SERVER_SOCKET and not self.ephemeral else None
