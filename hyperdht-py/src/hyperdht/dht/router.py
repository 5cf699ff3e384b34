"""Forwards handshakes and hole punching between peers, and hands those for this node's servers to them.

Each leg keeps command, target and number (tid) of the client's request; only value and destination change. All legs are
requests but the last one, which is the reply the client waits for. The way of a handshake, and back:

    client --FROM_CLIENT--> relay --FROM_RELAY--> server --FROM_SERVER--> relay --REPLY--> client

A relay that knows no server but another relay's route sends FROM_SECOND_RELAY there, and the answer takes the short way.

Source: hyperdht 6.34.0 `lib/router.js`; docs/protocol/connections.md.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from ..addresses import Address
from ..errors import DecodeError, LocalProtocolError
from ..rpc.endpoint import SERVER_SOCKET
from ..rpc.events import RequestReceived
from ..rpc.messages import Reply, Request
from ..rpc.node import RpcNode
from .constants import Command
from .payloads import (
    HandshakeMessage,
    HolepunchMessage,
    Mode,
    decode_handshake,
    decode_holepunch,
    encode_handshake,
    encode_holepunch,
)
from .rate_limit import Rate, SourceLimiter
from .reachable import may_send_to

# A forwarded message is no larger than what caused it, so we multiply nothing. But it hides who sent it, and its target is
# the sender's choice: without a limit anybody could scan or bother others in our name. A server whose thousand clients come
# back at once sends as many answers over its three relays.
FORWARDS_OF_A_HOST = Rate(per_s=64, burst=512)
FORWARDS_OF_ALL = Rate(per_s=1024, burst=2048)  # 4 Mbit/s


@dataclass(frozen=True, slots=True)
class HandshakeArrival:
    """A client's Noise message for a server of this node."""

    noise: bytes
    client_address: Address
    """Where it came from; through a relay what that says."""
    direct: bool
    """No relay was involved."""
    sender: Address
    own_address: Address
    """Ours, where the sender aimed."""
    socket: int
    answer: Callable[[bytes, int | None], None]
    """Call as answer(Noise message, socket to send it from): None for the one this came in on. More often than once is
    of no use, never is a refusal."""


class LocalServer(Protocol):
    """A server of this node, as the router sees it."""

    def receive_handshake(self, arrival: HandshakeArrival, now: float) -> None:
        """A client wants to connect. Copies may come through several relays."""
        ...

    def receive_holepunch(self, message: HolepunchMessage, received: RequestReceived, now: float) -> None:
        """A relay forwarded a round of hole punching. To be answered with `answer_holepunch`, or not at all."""
        ...


class Routes(Protocol):
    """Where the servers are that announced themselves here."""

    def route_to(self, target: bytes, now: float) -> Address | None: ...


class Router:
    """One per node. Its driver hands over each request of the layer above with `receive`."""

    def __init__(self, rpc: RpcNode, routes: Routes, *, now: float) -> None:
        self.refused = 0
        """Messages not forwarded: too many from one host, or to an address its sender has no business naming."""
        self._rpc = rpc
        self._routes = routes
        self._servers: dict[bytes, LocalServer] = {}
        self._limiter = SourceLimiter(FORWARDS_OF_A_HOST, FORWARDS_OF_ALL, now=now)

    def register(self, target: bytes, server: LocalServer) -> None:
        """From now on `server` gets what is for `target`, the hash of its public key.

        Raises:
            LocalProtocolError: Another server of this node has that key.
        """
        if target in self._servers:
            raise LocalProtocolError("a server with this key pair is listening on this node already")
        self._servers[target] = server

    def unregister(self, target: bytes) -> None:
        """Forget a server, if it is known."""
        self._servers.pop(target, None)

    def is_listening(self, target: bytes) -> bool:
        """Whether a server of this node has that key."""
        return target in self._servers

    def route_to(self, target: bytes, now: float) -> Address | None:
        """Where a server that announced itself here can be reached."""
        return self._routes.route_to(target, now)

    def receive(self, received: RequestReceived, now: float) -> bool:
        """Handle a request. Returns whether it is one of the router's; its malformed ones are too, and dropped."""
        command = received.request.command
        if command not in (Command.PEER_HANDSHAKE, Command.PEER_HOLEPUNCH):
            return False
        target, value = received.request.target, received.request.value
        if target is None or value is None:
            return True
        try:
            if command == Command.PEER_HANDSHAKE:
                self._receive_handshake(decode_handshake(value), target, received, now)
            else:
                self._receive_holepunch(decode_holepunch(value), target, received, now)
        except DecodeError:
            self._rpc.endpoint.dropped += 1
        return True

    # Handshakes

    def _receive_handshake(
        self, message: HandshakeMessage, target: bytes, received: RequestReceived, now: float
    ) -> None:
        if not message.noise:
            return
        server = self._servers.get(target)
        if message.mode == Mode.FROM_SERVER:
            self._reply_handshake(message, received, now)
        elif server is not None:
            self._deliver_handshake(server, message, received, now)
        elif message.mode == Mode.FROM_CLIENT:
            self._forward_from_client(message, target, received, now)
        elif message.mode == Mode.FROM_RELAY:
            self._forward_from_relay(message, target, received, now)

    def _deliver_handshake(
        self, server: LocalServer, message: HandshakeMessage, received: RequestReceived, now: float
    ) -> None:
        sender = received.sender
        direct = message.mode == Mode.FROM_CLIENT
        client = sender if direct else message.peer_address
        if client is None:
            return
        if direct:
            answer = partial(self._answer_client, received)
        elif message.mode == Mode.FROM_RELAY:
            answer = partial(self._answer_relay, received, sender, client)
        elif message.mode == Mode.FROM_SECOND_RELAY and message.relay_address is not None:
            if not self._may_forward(message.relay_address, received, now):
                return
            answer = partial(self._answer_relay, received, message.relay_address, client)
        else:
            return
        arrival = HandshakeArrival(message.noise, client, direct, sender, received.request.to, received.socket, answer)
        server.receive_handshake(arrival, now)

    def _answer_client(self, received: RequestReceived, noise: bytes, socket: int | None) -> None:
        value = encode_handshake(HandshakeMessage(Mode.REPLY, noise))
        send_reply(self._rpc, received, value, to=received.sender, socket=socket)

    def _answer_relay(
        self, received: RequestReceived, relay: Address, client: Address, noise: bytes, socket: int | None
    ) -> None:
        value = encode_handshake(HandshakeMessage(Mode.FROM_SERVER, noise, client))
        send_request(self._rpc, received, value, to=relay, socket=socket)

    def _forward_from_client(
        self, message: HandshakeMessage, target: bytes, received: RequestReceived, now: float
    ) -> None:
        to = message.relay_address or self.route_to(target, now)
        if to is None:
            self._rpc.reply(received, with_token=False)
        elif self._may_forward(to, received, now):
            value = encode_handshake(HandshakeMessage(Mode.FROM_RELAY, message.noise, received.sender))
            send_request(self._rpc, received, value, to=to)

    def _forward_from_relay(
        self, message: HandshakeMessage, target: bytes, received: RequestReceived, now: float
    ) -> None:
        to = self.route_to(target, now)
        if to is None or message.peer_address is None or not self._may_forward(to, received, now):
            return
        forwarded = HandshakeMessage(Mode.FROM_SECOND_RELAY, message.noise, message.peer_address, received.sender)
        send_request(self._rpc, received, encode_handshake(forwarded), to=to)

    def _reply_handshake(self, message: HandshakeMessage, received: RequestReceived, now: float) -> None:
        client = message.peer_address
        if client is not None and self._may_forward(client, received, now):
            value = encode_handshake(HandshakeMessage(Mode.REPLY, message.noise, received.sender))
            send_reply(self._rpc, received, value, to=client)

    # Hole punching

    def _receive_holepunch(
        self, message: HolepunchMessage, target: bytes, received: RequestReceived, now: float
    ) -> None:
        if message.mode == Mode.FROM_CLIENT:
            to = message.peer_address or self.route_to(target, now)
            if to is not None and self._may_forward(to, received, now):
                forwarded = HolepunchMessage(Mode.FROM_RELAY, message.id, message.payload, received.sender)
                send_request(self._rpc, received, encode_holepunch(forwarded), to=to)
        elif message.mode == Mode.FROM_RELAY:
            server = self._servers.get(target)
            if server is not None and message.peer_address is not None:
                server.receive_holepunch(message, received, now)
        elif message.mode == Mode.FROM_SERVER:
            to = message.peer_address
            if to is not None and self._may_forward(to, received, now):
                reply = HolepunchMessage(Mode.REPLY, message.id, message.payload, received.sender)
                send_reply(self._rpc, received, encode_holepunch(reply), to=to)

    def _may_forward(self, to: Address, received: RequestReceived, now: float) -> bool:
        allowed = may_send_to(to, named_by=received.sender) and self._limiter.allow(received.sender, now)
        self.refused += not allowed
        return allowed


def answer_holepunch(
    rpc: RpcNode, message: HolepunchMessage, received: RequestReceived, payload: bytes, *, socket: int
) -> None:
    """Send a server's sealed answer back to the relay that forwarded `message`."""
    value = encode_holepunch(HolepunchMessage(Mode.FROM_SERVER, 0, payload, message.peer_address))
    send_request(rpc, received, value, to=received.sender, socket=socket)


def send_request(
    rpc: RpcNode, received: RequestReceived, value: bytes, *, to: Address, socket: int | None = None
) -> None:
    """The next leg, as a request with the number of the one that was received."""
    leaves_from = received.socket if socket is None else socket
    request = received.request
    message = Request(
        request.tid, to, request.command, id=_id_for(rpc, leaves_from), target=request.target, value=value
    )
    rpc.send(message, to=to, socket=leaves_from)


def send_reply(
    rpc: RpcNode, received: RequestReceived, value: bytes, *, to: Address, socket: int | None = None
) -> None:
    """The last leg, which is the reply to the client's request."""
    leaves_from = received.socket if socket is None else socket
    rpc.send(Reply(received.request.tid, to, id=_id_for(rpc, leaves_from), value=value), to=to, socket=leaves_from)


def _id_for(rpc: RpcNode, socket: int) -> bytes | None:
    return rpc.id if socket == SERVER_SOCKET and not rpc.ephemeral else None
