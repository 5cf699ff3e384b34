"""What a node asks of the DHT, for tasks to await."""

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Protocol, TypeVar

from ..addresses import Address
from ..crypto import KeyPair
from ..dht import operations
from ..dht.messages import MutableValue, PeerRecord
from ..dht.operations import ImmutableFound, MutableFound, PeerFound, PutOutcome
from ..dht.peers_found import PeersFound
from ..errors import RequestTimeout
from ..rpc import Answer, QueryOutcome, RpcNode
from .hooks import guarded
from .pending import Pending, Results, Waiting

T = TypeVar("T")


class _Cancellable(Protocol):
    def cancel(self) -> object: ...


class Queries:
    """The part of `HyperDHT` that looks things up and stores them.

    All of it raises `ClosedResourceError` when the node is closed, also while it waits.
    """

    _waiting: Waiting
    key_pair: KeyPair

    @property
    def _rpc(self) -> RpcNode:
        raise NotImplementedError

    def _now(self) -> float:
        raise NotImplementedError

    def _wake(self) -> None:
        """The machine was asked something: send it."""
        raise NotImplementedError

    async def _outcome_of(self, start: Callable[[Callable[[T], None]], _Cancellable]) -> T:
        outcome: Pending[T] = Pending(self._waiting)
        running = start(outcome.set)
        self._wake()
        try:
            return await outcome.wait()
        except BaseException:
            running.cancel()
            raise

    async def lookup(self, topic: bytes, *, seeds: Sequence[Address] = ()) -> AsyncIterator[PeerRecord]:
        """Who announced itself for a topic, each key once, as the nodes of the DHT answer.

        What a node says is a hint: only connecting to a peer proves its key.
        """
        results: Results[PeerRecord] = Results(self._waiting)
        seen: set[bytes] = set()

        def take(found: PeersFound, now: float) -> None:
            for peer in found.peers:
                if peer.public_key not in seen:
                    seen.add(peer.public_key)
                    results.put(peer)

        running = operations.lookup(
            self._rpc, topic, seeds=seeds, on_peers=take, then=lambda _: results.end(), now=self._now()
        )
        self._wake()
        async for peer in results.iterate(running.cancel):
            yield peer

    async def search(
        self, topic: bytes, *, seeds: Sequence[Address] = (), on_peers: operations.OnPeers | None = None
    ) -> tuple[Address, ...]:
        """A lookup that tells what each node says as it says it. Returns the closest nodes, the `seeds` of the next one.

        Raises:
            RequestTimeout: Nobody answered.
        """
        on_peers = _guarded(on_peers)
        outcome: QueryOutcome = await self._outcome_of(
            lambda then: operations.lookup(self._rpc, topic, seeds=seeds, on_peers=on_peers, then=then, now=self._now())
        )
        if not outcome.successes:
            raise RequestTimeout("no node of the DHT answered; is there a bootstrap node that does?")
        return operations.closest_nodes(outcome)

    async def find_peer(self, public_key: bytes) -> AsyncIterator[PeerFound]:
        """The nodes that can pass on a handshake to a listening peer."""
        results: Results[PeerFound] = Results(self._waiting)
        running = operations.find_peer(
            self._rpc,
            public_key,
            on_peer=lambda found, _: results.put(found),
            then=lambda _: results.end(),
            now=self._now(),
        )
        self._wake()
        async for found in results.iterate(running.cancel):
            yield found

    async def announce(
        self,
        topic: bytes,
        *,
        key_pair: KeyPair | None = None,
        relay_addresses: Sequence[Address] = (),
        clear: bool = True,
        seeds: Sequence[Address] = (),
        on_peers: operations.OnPeers | None = None,
    ) -> tuple[Address, ...]:
        """Store under a topic that a key is there; nodes forget it after 13 to 27 minutes.

        Args:
            key_pair: The node's own without.
            relay_addresses: Nodes that can pass on a handshake, such as those of `Server.relay_addresses`.
            clear: Withdraw older announces of ours on the way, whose relays nodes would keep otherwise.
            seeds: Where to start: what an earlier call returned.
            on_peers: Gets the peers met on the way.
        Returns:
            The nodes closest to the topic.
        Raises:
            RequestTimeout: No node took it.
        """
        outcome: QueryOutcome = await self._outcome_of(
            lambda then: operations.announce(
                self._rpc,
                topic,
                key_pair or self.key_pair,
                relay_addresses=relay_addresses,
                clear=clear,
                seeds=seeds,
                on_peers=_guarded(on_peers),
                then=then,
                now=self._now(),
            )
        )
        if not any(not reply.error for _, reply in outcome.committed):
            raise RequestTimeout("no node of the DHT took the announcement; is there a bootstrap node that answers?")
        return operations.closest_nodes(outcome)

    async def unannounce(
        self,
        topic: bytes,
        *,
        key_pair: KeyPair | None = None,
        seeds: Sequence[Address] = (),
        only_closest_nodes: bool = False,
        on_peers: operations.OnPeers | None = None,
    ) -> tuple[Address, ...]:
        """Withdraw what was announced.

        Args:
            seeds: What `announce` returned.
            only_closest_nodes: Ask the seeds alone, and once: for leaving in a hurry.
            on_peers: Gets the peers met on the way.
        """
        outcome: QueryOutcome = await self._outcome_of(
            lambda then: operations.unannounce(
                self._rpc,
                topic,
                key_pair or self.key_pair,
                seeds=seeds,
                only_closest_nodes=only_closest_nodes,
                on_peers=_guarded(on_peers),
                then=then,
                now=self._now(),
            )
        )
        return operations.closest_nodes(outcome)

    async def immutable_put(self, value: bytes) -> bytes:
        """Store a value for 32 to 64 hours under its hash, which is returned.

        Raises:
            RequestTimeout: No node took it.
            ValueError: Above 1,850 bytes.
        """
        outcome: PutOutcome = await self._outcome_of(
            lambda then: operations.immutable_put(self._rpc, value, then=then, now=self._now())
        )
        if not outcome.stored:
            raise RequestTimeout("no node of the DHT took the value; is there a bootstrap node that answers?")
        return outcome.target

    async def immutable_get(self, target: bytes) -> bytes | None:
        """The value with that hash; None if nobody has it."""
        found: ImmutableFound | None = await self._outcome_of(
            lambda then: operations.immutable_get(self._rpc, target, then=lambda value, _: then(value), now=self._now())
        )
        return None if found is None else found.value

    async def mutable_put(self, key_pair: KeyPair, value: bytes, *, seq: int = 0) -> PutOutcome:
        """Store a signed value under a key. The outcome tells who took it and who refused: raise `seq` with each change.

        Raises:
            RequestTimeout: No node answered.
            ValueError: Above 1,774 bytes.
        """
        outcome: PutOutcome = await self._outcome_of(
            lambda then: operations.mutable_put(self._rpc, key_pair, value, seq=seq, then=then, now=self._now())
        )
        if not outcome.stored and not outcome.refused:
            raise RequestTimeout("no node of the DHT answered; is there a bootstrap node that does?")
        return outcome

    async def mutable_get(self, public_key: bytes, *, seq: int = 0, latest: bool = True) -> MutableValue | None:
        """The newest value a key has signed; None if nobody has one of at least `seq`.

        Args:
            latest: Ask everybody and take the highest seq, instead of the first answer.
        """
        found: MutableFound | None = await self._outcome_of(
            lambda then: operations.mutable_get(
                self._rpc, public_key, seq=seq, latest=latest, then=lambda value, _: then(value), now=self._now()
            )
        )
        return None if found is None else found.stored

    async def ping(self, address: Address) -> float:
        """Ask whether a node is there; seconds until it answered.

        Raises:
            RequestTimeout: It did not, four times.
        """
        answer: Pending[Answer] = Pending(self._waiting)
        rpc, started = self._rpc, self._now()
        handle = rpc.ping(address, then=answer.set, now=started)
        self._wake()
        try:
            outcome = await answer.wait()
        except BaseException:
            rpc.cancel(handle)
            raise
        if outcome.reply is None:
            raise RequestTimeout(f"{address.host}:{address.port} does not answer")
        return outcome.now - started


def _guarded(on_peers: operations.OnPeers | None) -> operations.OnPeers | None:
    return None if on_peers is None else guarded(on_peers, instead=None, name="on_peers")
