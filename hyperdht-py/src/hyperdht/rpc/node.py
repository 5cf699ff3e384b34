"""A node of the DHT without sockets."""

from collections.abc import Callable, Sequence
from functools import partial

from ..addresses import Address
from ..buffers import BytesLike
from .background import Background, first_tick
from .best_replies import BestReply
from .caller import Caller
from .endpoint import SERVER_SOCKET, Endpoint
from .health import Health
from .membership import Membership, Wishes
from .messages import HASH_BYTES, Command, Reply, encode_address
from .nat import NatSampler
from .query import DownHintWanted, Query
from .randomness import Randomness
from .requests import QUERY_RETRIES
from .routing_table import MAX_PER_SUBNET, RoutingTable
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
        known_address: Address | None = None,
        max_per_subnet: int = MAX_PER_SUBNET,
    ) -> None:
        """
        Args:
            bootstrap: Nodes to ask while we know too few others; see also `set_bootstrap`.
            ephemeral: Whether to store nothing and tell nobody our id; None: until we proved stable and reachable.
            firewalled: Whether strangers cannot reach our server socket; None: find out.
            port: The local port of socket 0 or 1.
            known_address: Our public address, for a node nobody can tell it: with `ephemeral` and `firewalled` False the
                first node of a network is persistent at once.
            max_per_subnet: See `RoutingTable`.
        """
        endpoint = Endpoint(
            RoutingTable(randomness.randbytes(HASH_BYTES), max_per_subnet=max_per_subnet),
            Tokens(randomness.randbytes(HASH_BYTES), randomness.randbytes(HASH_BYTES)),
            first_tid=randomness.randrange(0, 1 << 16),
            tick=first_tick(randomness),
            now=now,
        )
        super().__init__(endpoint)
        self.randomness = randomness
        self.suspended = False
        self.on_bootstrapped: list[Callable[[float], None]] = []
        """Once, when the first bootstrap is over, also if nobody answered."""
        self.on_persistent: list[Callable[[float], None]] = []
        """Each time we become persistent. Our id may be another one then."""
        self.on_network_change: list[Callable[[float], None]] = []
        """After `handle_network_change`."""
        self.on_health_change: list[Callable[[float], None]] = []
        """`health` is another one."""
        self.bootstrap: tuple[Address, ...] = ()
        self.set_bootstrap(bootstrap)
        self._port = port
        self._queries: dict[RunningQuery, None] = {}
        self._membership = Membership(
            self,
            Wishes(ephemeral, firewalled, known_address),
            bootstrap=lambda: self.bootstrap,
            find_node=self._find_node,
            port=port,
            on_bootstrapped=partial(_call, self.on_bootstrapped),
            on_persistent=partial(_call, self.on_persistent),
        )
        self._background = Background(
            self,
            self._membership,
            randomness=randomness,
            refresh=self.refresh,
            on_health_change=partial(_call, self.on_health_change),
        )

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

    @property
    def bootstrapped(self) -> bool:
        return self._membership.bootstrapped

    @property
    def health(self) -> Health:
        return self._background.health

    def set_bootstrap(self, addresses: Sequence[Address]) -> None:
        """Use other bootstrap nodes from now on, for instance after their names were resolved."""
        self.bootstrap = tuple(addresses)
        self.endpoint.bootstrap_count = len(self.bootstrap)

    def nat_address(self) -> Address | None:
        """Our address as others see it; port 0 when it differs from peer to peer. None while unknown."""
        return None if self.nat.host is None else Address(self.nat.host, self.nat.port)

    def remote_address(self) -> Address | None:
        """Where anybody can reach us. None when nobody can, or while that is unknown."""
        address = self.nat_address()
        if address is None or self.firewalled or address.port != self._port(SERVER_SOCKET):
            return None
        return address

    def start(self, now: float) -> None:
        """Bootstrap, and keep the table fresh from now on."""
        self._membership.start(now)
        self._background.start(now)

    def refresh(self, now: float) -> None:
        """Look around at a place we know, or around ourselves, so that the table stays fresh."""
        known = [node.id for node in self.table.longest_unseen()]
        self._find_node(self.randomness.sample(known, 1)[0] if known else self.id, now=now)

    def handle_wakeup(self, now: float) -> None:
        """The machine slept. Ticks notice it too, but only on a clock that went on meanwhile."""
        self._background.handle_wakeup(now)

    def handle_network_change(self, now: float) -> None:
        """The addresses of this machine are others now."""
        self._background.handle_wakeup(now)
        self._membership.handle_network_change(now)
        _call(self.on_network_change, now)

    def suspend(self, now: float) -> None:
        """The sockets are about to close. All requests and queries end; new ones wait for `resume`."""
        self.suspended = True
        self._background.stop()
        self._membership.stop()
        self.endpoint.suspend()
        for running in list(self._queries):
            running.abandon(now)
        self._dispatch(now)

    def resume(self, now: float) -> None:
        """The sockets are open again, on whatever ports."""
        self.suspended = False
        self.endpoint.resume(now=now)
        self._background.handle_wakeup(now)
        self._background.start(now)
        if self.bootstrapped:
            self.refresh(now)
        else:
            self._membership.start(now)

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
            only_closest_nodes: Ask nobody but the seeds.
            on_reply: Each reply without error.
            write: What to write to a best reply; None leaves that node out.
            then: Called once with the outcome, unless the query is cancelled.
        """
        self._background.postpone_refresh()
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
            QueryCallbacks(on_reply, write, then, self._send_down_hint, self._forget_query),
            caller=self,
            now=now,
        )
        self._queries[running] = None
        return running

    def _find_node(
        self,
        target: bytes,
        *,
        now: float,
        on_reply: Callable[[Address, Reply, float], None] | None = None,
        then: Callable[[QueryOutcome], None] | None = None,
    ) -> RunningQuery:
        return self.query(
            target, Command.FIND_NODE, internal=True, background=True, on_reply=on_reply, then=then, now=now
        )

    def _forget_query(self, over: RunningQuery) -> None:
        self._queries.pop(over, None)

    def _send_down_hint(self, hint: DownHintWanted, now: float) -> None:
        if self._background.take_down_hint():
            suspect = encode_address(hint.suspect)
            self.request(hint.recommender, Command.DOWN_HINT, internal=True, value=suspect, now=now)


def _call(hooks: Sequence[Callable[[float], None]], now: float) -> None:
    for hook in tuple(hooks):
        hook(now)
