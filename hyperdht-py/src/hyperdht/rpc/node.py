"""A node of the DHT without sockets."""

from collections.abc import Callable, Sequence

from ..addresses import Address
from ..buffers import BytesLike
from .caller import Caller
from .endpoint import Endpoint
from .messages import HASH_BYTES, Command, Reply, encode_address
from .nat import NatSampler
from .query import BestReply, DownHintWanted, Query
from .randomness import Randomness
from .requests import QUERY_RETRIES
from .routing_table import RoutingTable
from .running_query import QueryCallbacks, QueryOutcome, Question, RunningQuery, Write
from .tokens import Tokens


class RpcNode(Caller):
    """An endpoint with its queries and its life: bootstrap, ticks, firewall test.

    Its owner sends `datagrams_to_send` after every call, and calls `handle_timer` at `next_timer`.
    """

    def __init__(
        self,
        *,
        randomness: Randomness,
        now: float,
        bootstrap: Sequence[Address] = (),
        ephemeral: bool | None = None,
        firewalled: bool | None = None,
        port: Callable[[int], int],
    ) -> None:
        """
        Args:
            bootstrap: Nodes to ask while we know too few others.
            ephemeral: Whether to store nothing and tell nobody our id; None: until we proved stable and reachable.
            firewalled: Whether strangers cannot reach our server socket; None: find out.
            port: The local port of socket 0 or 1.
        """
        endpoint = Endpoint(
            RoutingTable(randomness.randbytes(HASH_BYTES)),
            Tokens(randomness.randbytes(HASH_BYTES), randomness.randbytes(HASH_BYTES)),
            first_tid=randomness.randrange(0, 1 << 16),
            tick=randomness.randrange(51, 101),
            now=now,
            bootstrap_count=len(bootstrap),
        )
        endpoint.firewalled = firewalled is not False
        super().__init__(endpoint)
        self.randomness = randomness
        self.bootstrap = tuple(bootstrap)
        self.bootstrapped = False
        self.suspended = False
        self.on_bootstrapped: list[Callable[[float], None]] = []
        self.on_persistent: list[Callable[[float], None]] = []
        self.on_network_change: list[Callable[[float], None]] = []
        self._port = port
        self._queries: dict[RunningQuery, None] = {}

    @property
    def table(self) -> RoutingTable:
        return self.endpoint.table

    @property
    def nat(self) -> NatSampler:
        """What others told us about our address."""
        return self.endpoint.nat

    @property
    def id(self) -> bytes:
        """Our place in the key space. Nobody is told while we are ephemeral."""
        return self.endpoint.table.own_id

    @property
    def firewalled(self) -> bool:
        return self.endpoint.firewalled

    @property
    def ephemeral(self) -> bool:
        return self.endpoint.ephemeral

    def nat_address(self) -> Address | None:
        """Our address as others see it; port 0 when it differs from peer to peer. None while unknown."""
        return None if self.nat.host is None else Address(self.nat.host, self.nat.port)

    def remote_address(self) -> Address | None:
        """Where anybody can reach us. None when nobody can, or while that is unknown."""
        address = self.nat_address()
        if address is None or self.firewalled or not address.port or address.port != self._port(1):
            return None
        return address

    def start(self, now: float) -> None:
        """Bootstrap, and keep the table fresh from now on."""
        self.query(self.id, Command.FIND_NODE, internal=True, background=True, now=now, then=self._end_bootstrap)

    def _end_bootstrap(self, outcome: QueryOutcome) -> None:
        self.bootstrapped = self.table.accepts_probes = True
        for hook in self.on_bootstrapped:
            hook(outcome.now)

    def receive(self, datagram: BytesLike, *, sender: Address, socket: int, now: float) -> None:
        """A datagram that starts with 03 or 13 arrived. What is malformed is counted and dropped."""
        if not self.suspended:
            super().receive(datagram, sender=sender, socket=socket, now=now)

    def query(
        self,
        target: bytes,
        command: int,
        *,
        now: float,
        internal: bool = False,
        value: bytes | None = None,
        seeds: Sequence[Address] = (),
        retries: int = QUERY_RETRIES,
        force: bool = False,
        background: bool = False,
        only_closest_nodes: bool = False,
        on_reply: Callable[[Address, Reply, float], None] | None = None,
        write: Callable[[BestReply], Write | None] | None = None,
        then: Callable[[QueryOutcome], None] | None = None,
    ) -> RunningQuery:
        """Ask ever closer nodes about a target; then write to the closest ones. Callbacks run later, not in this call.

        Args:
            target: 32 bytes.
            seeds: Where to start, for instance the best nodes of an earlier run.
            force: Send even while too many requests are in flight.
            background: Leave room for other requests.
            only_closest_nodes: Ask nobody but the seeds and, when they are too few, our table's nodes.
            on_reply: Each reply without error.
            write: What to write to a best reply; None leaves that node out.
            then: Called once with the outcome, unless the query is cancelled.
        """
        query = Query(
            target,
            own_id=self.id,
            table=[node.address for node in self.table.closest(target)],
            bootstrap=self.bootstrap,
            seeds=seeds,
            background=background,
            only_closest_nodes=only_closest_nodes,
        )
        running = RunningQuery(
            query,
            Question(command, internal, value, retries, force),
            QueryCallbacks(on_reply, write, then, self._send_down_hint, lambda over: self._queries.pop(over, None)),
            caller=self,
            now=now,
        )
        self._queries[running] = None
        return running

    def _send_down_hint(self, hint: DownHintWanted, now: float) -> None:
        suspect = encode_address(hint.suspect)
        self.request(hint.recommender, Command.DOWN_HINT, internal=True, value=suspect, now=now)
