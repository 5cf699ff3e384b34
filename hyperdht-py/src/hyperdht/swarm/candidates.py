"""Whom a swarm may dial, who waits for another try, and who waits for the dials to be done."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeAlias

from ..dht.messages import PeerRecord
from ..rpc.randomness import Randomness
from ..rpc.timers import Timers
from .dial_queue import DialQueue
from .events import FlushEnded, PeerBanned, SwarmEvent
from .flush import Flush, Flushes
from .peer_book import PeerBook
from .peer_info import PeerInfo
from .retry import RetryTimers

MAX_EXPLICIT_ATTEMPTS = 5  # beyond, a peer asked for by key waits for its timer like the others
EXPLICIT_DELAY_S = 1.0  # times the attempts so far

Firewall: TypeAlias = Callable[[bytes, object], bool]
"""Called as firewall(public_key, payload of the handshake, or None before we dial). True rejects the peer, and bans it."""


class Candidates:
    """The peers of a swarm, as far as no connection is concerned."""

    def __init__(
        self,
        own_key: bytes,
        *,
        timers: Timers,
        randomness: Randomness,
        firewall: Firewall | None,
        is_connected: Callable[[bytes], bool],
        emit: Callable[[SwarmEvent], None],
        on_due: Callable[[float], None],
    ) -> None:
        """
        Args:
            is_connected: Whether there is a connection with that key, or a dial.
            on_due: Called when somebody may be dialled again.
        """
        self.queue = DialQueue(randomness)
        self.peers = PeerBook(own_key, self.queue)
        self._own_key = own_key
        self._firewall = firewall
        self._is_connected = is_connected
        self._emit = emit
        self._on_due = on_due
        self._explicit: dict[bytes, PeerInfo] = {}
        self._retries = RetryTimers(timers, randomness, self._retry)
        self._flushes = Flushes()

    # ---- who they are

    @property
    def explicit_count(self) -> int:
        """Peers that were asked for by key."""
        return len(self._explicit)

    def explicit_due(self, now: float) -> Iterator[PeerInfo]:
        """Those of them that may be dialled without a place in the queue."""
        for peer in tuple(self._explicit.values()):
            waited = now - peer.disconnected_at >= peer.attempts * EXPLICIT_DELAY_S
            if waited and peer.attempts < MAX_EXPLICIT_ATTEMPTS:
                yield peer

    def add(self, record: PeerRecord, topic: bytes) -> None:
        """A walk found a peer."""
        peer, evicted = self.peers.discovered(record.public_key, record.relay_addresses)
        if evicted is not None:
            self.settle(evicted)
        if peer is None:
            return
        peer.topics.add(topic)
        if not self._is_connected(peer.public_key):
            peer.found_again()
            self._enqueue(peer)

    def add_explicit(self, public_key: bytes) -> None:
        """The program asks for a peer."""
        peer = self.peers.known(public_key)
        if peer is not None:
            peer.explicit = True
            self._explicit[public_key] = peer
            self._enqueue(peer)

    def remove_explicit(self, public_key: bytes) -> None:
        """Undo `add_explicit`."""
        peer = self._explicit.pop(public_key, None)
        if peer is not None:
            peer.explicit = False
            self._forget_unwanted(peer)

    def forget_topic(self, topic: bytes) -> None:
        """A topic was left."""
        for peer in self.peers:
            if topic in peer.topics:
                peer.topics.discard(topic)
                self._forget_unwanted(peer)

    def rejects(self, public_key: bytes, payload: object) -> bool:
        """Whether to have nothing to do with a peer."""
        known = self.peers.get(public_key)
        if public_key == self._own_key or (known is not None and known.banned):
            return True
        if self._firewall is None or not self._firewall(public_key, payload):
            return False
        peer = self.peers.known(public_key)
        assert peer is not None
        self.ban(peer, by_firewall=True)
        return True

    def ban(self, peer: PeerInfo, *, by_firewall: bool = False) -> None:
        """Have nothing to do with it from now on."""
        released = self.peers.ban(peer, by_firewall=by_firewall)
        if released is not None:
            self.forget(released)
        self.dequeue(peer)
        self.settle(peer)
        self._emit(PeerBanned(peer))

    def unban(self, peer: PeerInfo) -> None:
        """Undo `ban`."""
        self.peers.unban(peer)
        self.forget(peer)

    def forget(self, peer: PeerInfo) -> None:
        """Drop it unless it is still needed."""
        if not self._is_connected(peer.public_key):
            self.peers.forget(peer)

    # ---- whose turn it is

    def dequeue(self, peer: PeerInfo) -> None:
        """It is being dialled, or must not be."""
        self.queue.remove(peer)
        self._retries.discard(peer)
        peer.waiting = False

    def retry_later(self, peer: PeerInfo, now: float) -> None:
        """Our dial of it failed, or the connection that made is over."""
        if _is_wanted(peer):
            peer.waiting = self._retries.add(peer, now)

    def enqueue_explicit(self) -> None:
        """Have all that were asked for by key dialled."""
        for peer in self._explicit.values():
            self._enqueue(peer)

    def stop(self) -> None:
        """Dial nobody any more."""
        for peer in self.peers:
            self.dequeue(peer)
            self.forget(peer)
        self._end(self._flushes.end_all(False))

    # ---- who waits for them

    def flush(self, dialling: Iterable[PeerInfo]) -> Flush:
        """Wait for those queued, and these."""
        flush = Flush((*self.queue, *dialling))
        if flush.complete is None:
            self._flushes.add(flush)
        return flush

    def settle(self, peer: PeerInfo) -> None:
        """Its dial opened, failed, or will not happen."""
        self._end(self._flushes.settle(peer))

    def end_flushes(self) -> None:
        """There is no room for any more dials."""
        self._end(self._flushes.end_all(True))

    def _end(self, ended: Iterable[Flush]) -> None:
        for flush in ended:
            self._emit(FlushEnded(flush))

    def _enqueue(self, peer: PeerInfo) -> None:
        if not self._is_connected(peer.public_key) and peer.update_priority():
            self.dequeue(peer)
            self.queue.add(peer)

    def _retry(self, peer: PeerInfo, now: float) -> None:
        peer.waiting = False
        if _is_wanted(peer):
            self._enqueue(peer)
        self.forget(peer)
        self._on_due(now)

    def _forget_unwanted(self, peer: PeerInfo) -> None:
        if not _is_wanted(peer):
            self.dequeue(peer)
            self.forget(peer)
            if not self._is_connected(peer.public_key):
                self.settle(peer)


def _is_wanted(peer: PeerInfo) -> bool:
    return peer.explicit or bool(peer.topics)
