"""One RPC node in conversation with a test that plays all others."""

from collections.abc import Sequence
from random import Random

from hyperdht.addresses import Address
from hyperdht.rpc import (
    CLIENT_SOCKET,
    SERVER_SOCKET,
    Command,
    Reply,
    Request,
    RpcNode,
    decode_request,
    encode_reply,
    node_id,
)
from hyperdht.rpc.background import TICK_S
from hyperdht.rpc.requests import Datagram

HOST = "10.0.0.1"
PORTS = {CLIENT_SOCKET: 4000, SERVER_SOCKET: 5000}
NODES = [Address(f"10.9.0.{number}", 6000) for number in range(1, 31)]


class Conversation:
    """The node, its clock, and what it sent. Others see it at `HOST` and the port of the socket it uses."""

    def __init__(self, **options: object) -> None:
        self.now = 100.0
        self.called: list[str] = []
        self.node = RpcNode(randomness=Random(1), now=self.now, port=PORTS.__getitem__, **options)  # type: ignore[arg-type]
        self.node.endpoint.start_tick(57)  # pings are due at 64
        for name in ("bootstrapped", "persistent", "network_change", "health_change"):
            getattr(self.node, f"on_{name}").append(lambda now, name=name: self.called.append(name))

    def datagrams(self) -> list[Datagram]:
        """What was sent since the last look."""
        return self.node.datagrams_to_send()

    def sent(self) -> list[Request]:
        """The requests sent since the last look; their `to` says whom they went to."""
        return [request_in(datagram) for datagram in self.datagrams()]

    def answer(
        self,
        request: Request,
        *,
        sender: Address | None = None,
        socket: int = CLIENT_SOCKET,
        host: str = HOST,
        port: int | None = None,
        with_id: bool = True,
        closer: Sequence[Address] = (),
        token: bytes | None = None,
        error: int = 0,
        value: bytes | None = None,
    ) -> None:
        """Somebody answers one of our requests, on that socket; `host` and `port` are how we look from there."""
        source = sender or request.to
        seen = Address(host, PORTS[socket] if port is None else port)
        identity = node_id(source) if with_id else None
        reply = Reply(request.tid, seen, identity, token, tuple(closer), error, value)
        self.node.receive(encode_reply(reply), sender=source, socket=socket, now=self.now)

    def at(self, now: float) -> None:
        """Let time pass, with a timer whenever one is due."""
        while self.node.next_timer() <= now:
            self.now = max(self.now, self.node.next_timer())
            self.node.handle_timer(now=self.now)
        self.now = now

    def ticks(self, count: int) -> None:
        self.at(self.now + count * TICK_S)

    def know(self, *addresses: Address) -> None:
        """These are in the table."""
        for address in addresses:
            self.node.table.hear_from(node_id(address), address, tick=self.node.endpoint.tick)

    def bootstrap(self, *addresses: Address) -> None:
        """Start, and find these nodes, of which none gets through to the server socket. Takes until the first tick."""
        self.know(*addresses)
        self.node.start(self.now)
        self.answer_queries()
        self.ticks(1)
        self.sent()

    def answer_queries(self, **how: object) -> list[Request]:
        """Everybody answers FIND_NODE, as long as there is one. Returns what else is asked meanwhile."""
        others: list[Request] = []
        while requests := self.sent():
            for request in requests:
                if request.internal and request.command == Command.FIND_NODE:
                    self.answer(request, **{"socket": self.node.endpoint.main_socket, **how})  # type: ignore[arg-type]
                else:
                    others.append(request)
        self.at(self.now)
        return others


def request_in(datagram: Datagram) -> Request:
    request = decode_request(datagram.data, sender=Address(HOST, PORTS[datagram.socket]))
    assert request.to == datagram.to
    return request
