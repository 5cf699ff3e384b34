"""A whole laboratory: backbone, DHT, relay; and one trial in it."""

from __future__ import annotations

import itertools
import secrets
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Self

from tests.interop.dht_peers import Kind, Peer, PeerError, PeerSilent, transfer

from .backbone import Backbone
from .kinds import SHARED, Site, site
from .namespaces import Namespace

if TYPE_CHECKING:
    from concurrent.futures import Future

NODES = [f"11.0.0.{number}" for number in range(1, 11)]
RELAY = "11.0.0.100"
PORT = 49737
ANY_HOST = "0.0.0.0"
CONNECT_S = 40.0
"""How long the client of a trial may take; a punch through a random NAT was seen to need 26 s."""
START_S = 60.0
TRANSFER_S = 30.0
TRANSFER_BYTES = 64 << 10
SETTLE_S = 0.5
"""Kept after the transfer, so that a relayed connection has the time to find out that it has a direct path."""


@dataclass(frozen=True, slots=True)
class Trial:
    """What one attempt to connect came to."""

    pair: str
    """Kind of the client's and of the server's stack, for instance "py-js"."""
    server: str
    client: str
    relay: bool
    seconds: float | None
    """From the client's join to its connection; None when there was none."""
    path: str | None
    problem: str | None
    belief: dict[str, dict[str, Any]]
    """What server and client took themselves for: firewalled, randomized."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class Lab:
    """Ten DHT nodes on public addresses and a relay, ready for sites."""

    def __init__(self, *, nodes: Kind = "js", delay_s: float = 0.01) -> None:
        """
        Args:
            nodes: Whose DHT nodes and relay.
            delay_s: One way, of every subscriber line; the nodes' own line has none.
        """
        self._stack = ExitStack()
        self._sites = itertools.count()
        self._delay_s = delay_s
        with self._stack:
            self.backbone = self._stack.enter_context(Backbone())
            namespace = self._stack.enter_context(Namespace())
            self.backbone.connect(namespace, [*NODES, RELAY])
            self._stack.callback(self.backbone.disconnect, [*NODES, RELAY])
            dht = self._stack.enter_context(Peer(nodes, prefix=namespace.prefix))
            self.bootstrap: list[str] = dht.call("testnet", START_S, hosts=NODES, port=PORT)["bootstrap"]
            relay = self._stack.enter_context(Peer(nodes, prefix=namespace.prefix))
            relay.call("init", START_S, bootstrap=self.bootstrap, host=RELAY, firewalled=False)
            self.relay_key: str = relay.call("relayServer")["publicKey"]
            self._stack = self._stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    def site(self, kind: str, *, hosts: int | None = None, delay_s: float | None = None, loss: float = 0.0) -> Site:
        """A line of that kind on an address of its own; see `kinds.site`."""
        number = next(self._sites)
        public = f"11.{1 + number // 62500}.{number // 250 % 250}.{number % 250 + 1}"
        delay_s = self._delay_s if delay_s is None else delay_s
        return site(kind, public, self.backbone, hosts=hosts, delay_s=delay_s, loss=loss)

    def trial(self, pair: tuple[Kind, Kind], server: str, client: str, *, relay: bool) -> Trial:
        """Let a server announce a topic and a client find it.

        Args:
            pair: The stacks of client and server.
            server: Kind of NAT of the server.
            client: Kind of NAT of the client; "same" and "same-isolated" are behind the server's router.
            relay: Whether both know the blind relay.
        """
        with ExitStack() as stack:
            if client in SHARED:
                first, second = stack.enter_context(self.site(client)).hosts
            else:
                first, second = (stack.enter_context(self.site(kind)).hosts[0] for kind in (server, client))
            there = stack.enter_context(Peer(pair[1], prefix=first.prefix))
            here = stack.enter_context(Peer(pair[0], prefix=second.prefix))
            return self._attempt("-".join(pair), server, client, there, here, relay)

    def _attempt(self, pair: str, server: str, client: str, there: Peer, here: Peer, relay: bool) -> Trial:
        seconds = path = problem = None
        belief: dict[str, dict[str, Any]] = {}
        try:
            self._start(there, here, relay)
            belief = {"server": there.call("info"), "client": here.call("info")}
            seconds, path = self._connect(there, here)
        except (PeerSilent, PeerError) as error:
            problem = str(error).splitlines()[0]
        return Trial(pair, server, client, relay, seconds, path, problem, belief)

    def _start(self, there: Peer, here: Peer, relay: bool) -> None:
        options: dict[str, Any] = {"kind": "swarm", "bootstrap": self.bootstrap, "host": ANY_HOST}
        if relay:
            options["relayThrough"] = self.relay_key
        starting: list[tuple[Peer, Future[Any]]] = [(peer, peer.begin("init", **options)) for peer in (there, here)]
        for peer, future in starting:
            peer.wait(future, START_S)

    def _connect(self, there: Peer, here: Peer) -> tuple[float, str]:
        topic = secrets.token_hex(32)
        there.call("join", START_S, topic=topic, server=True, client=False)
        joined = here.call("join", topic=topic, server=False, client=True, flush=False)["at"]
        opened = here.event("connection", CONNECT_S)
        remote = there.event("connection")
        first = self._path(here, opened["conn"])
        _, received = transfer(there, remote["conn"], here, opened["conn"], TRANSFER_BYTES, TRANSFER_S)
        transfer(here, opened["conn"], there, remote["conn"], TRANSFER_BYTES, TRANSFER_S)
        if "closed" in received:
            raise PeerSilent("the connection closed while it was used")
        if first == "relay":
            time.sleep(SETTLE_S)
        last = self._path(here, opened["conn"])
        return opened["at"] - joined, first if first == last else f"{first}, then {last}"

    def _path(self, peer: Peer, conn: int) -> str:
        remote = peer.call("path", conn=conn)["remote"]
        return "relay" if remote.startswith(f"{RELAY}:") else "direct"
