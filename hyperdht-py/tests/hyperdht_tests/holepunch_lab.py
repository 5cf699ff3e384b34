"""A client, a server and the DHT nodes between them on a simulated network, from the handshake's end to the first packet."""

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from hyperdht.addresses import Address
from hyperdht.dht.constants import Firewall
from hyperdht.dht.context import Context
from hyperdht.dht.holepunch_client import HolepunchClient, HolepunchFailure, PunchHook
from hyperdht.dht.holepunch_server import HolepunchServer
from hyperdht.dht.payloads import HolepunchMessage, RelayInfo
from hyperdht.dht.random_punches import RandomPunchLimiter
from hyperdht.dht.router import HandshakeArrival, Router
from hyperdht.rpc import RequestReceived, RpcNode

from .simulation import Host, NatKind, SimulatedNode
from .simulation.population import Population
from .simulation.realm import Line

if TYPE_CHECKING:
    from collections.abc import Callable

    from hyperdht.rpc.caller import Answer

SECRET = bytes(range(32))
TARGET = b"\xaa" * 32
MAIN_SOCKETS = 2
RETRANSMISSION_S = 0.5
WORK = Line(latency_s=0.01)


class NoRoutes:
    def route_to(self, target: bytes, now: float) -> Address | None:
        return None


@dataclass
class Participant:
    """One of the two, with its main sockets."""

    shell: SimulatedNode
    rpc: RpcNode
    context: Context
    limiter: RandomPunchLimiter = field(default_factory=RandomPunchLimiter)

    @property
    def extra_sockets(self) -> int:
        return self.shell.open_sockets - MAIN_SOCKETS


class Lab:
    """Twelve open DHT nodes that forward, and two peers behind the given kinds of NAT. The handshake is taken for done."""

    def __init__(
        self, server: NatKind | Host, client: NatKind | Host, *, seed: int = 1, line: Line = WORK, dht_line: Line = WORK
    ) -> None:
        self.population = Population(seed, line=dht_line)
        self.clock = self.population.clock
        self.network = self.population.network
        self.population.grow(12)
        for member in self.population.members:
            router = Router(member.rpc, NoRoutes(), now=self.clock.now)
            member.rpc.on_request = partial(_route, router)
        self.server = self._join(server, "server", line)
        self.client = self._join(client, "client", line)
        self.aborted: list[float] = []
        self.connected: tuple[int, Address, float] | None = None
        self.failed: HolepunchFailure | None = None
        self.reached: tuple[int, Address] | None = None
        """Socket and client's address of the first packet that the server's stream got."""
        self.punching_server: HolepunchServer | None = None
        self.punching_client: HolepunchClient | None = None
        self.messages: list[tuple[HolepunchMessage, RequestReceived]] = []
        """What relays brought to the server."""
        self.deliver: Callable[[HolepunchMessage, RequestReceived, float], None] = _ignore
        router = Router(self.server.rpc, NoRoutes(), now=self.clock.now)
        router.register(TARGET, self)
        self.server.rpc.on_request = partial(_route, router)

    def receive_handshake(self, arrival: HandshakeArrival, now: float) -> None:
        raise AssertionError("these tests begin after it")

    def receive_holepunch(self, message: HolepunchMessage, received: RequestReceived, now: float) -> None:
        self.messages.append((message, received))
        self.deliver(message, received, now)

    def start(
        self,
        *,
        same_relay: bool = True,
        dead_relays: int = 0,
        fast_open: bool = True,
        has_relay: bool = False,
        server_hook: PunchHook | None = None,
        client_hook: PunchHook | None = None,
    ) -> None:
        """Both sides have just finished their handshake, and the client starts."""
        nodes = [member.address for member in self.population.members[-4:]]
        relays = [RelayInfo(node, self.seen_by(self.server, node, socket=0)) for node in nodes[:3]]
        self.own_relays = {relay.relay_address for relay in relays}
        client_relay = nodes[0] if same_relay else nodes[3]
        client_address = self.seen_by(self.client, client_relay, socket=0)
        self.punching_server = HolepunchServer(
            self.server.context,
            secret=SECRET,
            client_address=client_address,
            client_firewall=Firewall.UNKNOWN,
            is_own_relay=lambda address: address in self.own_relays,
            limiter=self.server.limiter,
            has_relay=has_relay,
            hook=server_hook,
            now=self.clock.now,
            on_aborted=self.aborted.append,
        )
        self.deliver = self.punching_server.receive
        self.stream_id = self.server.shell.streams.reserve(self._stream_packet)
        self.server.shell.on_probe = partial(_hand_over, self.punching_server)
        self.server.shell.wake()
        server_address = self.seen_by(self.server, client_relay, socket=self.punching_server.socket)
        for address in nodes[:dead_relays]:
            self._stop(address)
        self.started = self.clock.now
        self.punching_client = HolepunchClient(
            self.client.context,
            secret=SECRET,
            target=TARGET,
            remote_id=0,
            relays=relays,
            remote_firewall=Firewall.UNKNOWN,
            server_address=server_address,
            client_address=client_address,
            client_relay=client_relay,
            limiter=self.client.limiter,
            has_relay=has_relay,
            fast_open=fast_open,
            hook=client_hook,
            now=self.clock.now,
            on_connected=self._connected,
            on_failed=self._failed,
        )
        self.client.shell.on_probe = partial(_hand_over, self.punching_client)
        self.client.shell.wake()

    def run(self, seconds: float = 60.0) -> float:
        """Until the first packet of the stream arrived or all is lost. Returns how long that took."""
        self.clock.run_until(lambda: self.reached is not None or self.failed is not None, seconds=seconds)
        return self.clock.now - self.started

    def seen_by(self, participant: Participant, node: Address, *, socket: int) -> Address:
        """Ping a node: it lets its answers in, and tells where it sees the socket."""
        answers: list[Answer] = []
        participant.rpc.ping(node, now=self.clock.now, socket=socket, then=answers.append)
        participant.shell.wake()
        assert self.clock.run_until(lambda: bool(answers), seconds=10)
        assert answers[0].reply is not None
        return answers[0].reply.to

    def _join(self, kind: NatKind | Host, name: str, line: Line) -> Participant:
        host = self.network.host(kind, line=line) if isinstance(kind, NatKind) else kind
        shell = SimulatedNode(host)
        random = self.clock.random_for(name)
        rpc = RpcNode(
            randomness=random,
            now=self.clock.now,
            bootstrap=self.population.bootstrap,
            ephemeral=True,
            firewalled=True,
            port=shell.port,
        )
        shell.machine = rpc
        rpc.start(self.clock.now)
        shell.wake()
        assert self.clock.run_until(lambda: rpc.bootstrapped, seconds=30)
        return Participant(shell, rpc, Context(rpc, shell, shell.streams, random, shell.local_addresses))

    def _stop(self, address: Address) -> None:
        next(member for member in self.population.members if member.address == address).shell.stop()

    def _stream_packet(self, socket: int, sender: Address, now: float) -> bool:
        if self.reached is None:
            self.reached = socket, sender
            assert self.punching_server is not None
            self.punching_server.close(now, keep=socket)
        return True

    def _connected(self, socket: int, address: Address, now: float) -> None:
        assert self.connected is None
        assert self.failed is None
        self.connected = socket, address, now
        self._send_first_packet(socket, address)

    def _send_first_packet(self, socket: int, address: Address) -> None:
        """As a stream would: again and again, until it arrives."""
        if self.reached is None:
            self.client.shell.send_stream_packet(self.stream_id, to=address, socket=socket)
            self.clock.call_at(self.clock.now + RETRANSMISSION_S, self._send_first_packet, socket, address)

    def _failed(self, failure: HolepunchFailure, now: float) -> None:
        assert self.connected is None
        assert self.failed is None
        self.failed = failure


def _ignore(message: HolepunchMessage, received: RequestReceived, now: float) -> None:
    """Nobody punches yet."""


def _route(router: Router, received: RequestReceived, now: float) -> None:
    router.receive(received, now)


def _hand_over(side: HolepunchClient | HolepunchServer, socket: int, sender: Address, now: float) -> None:
    side.receive_probe(socket, sender, now)
