"""Waiting until every dial that was due has come to something."""

from collections.abc import Iterable

from .peer_info import PeerInfo


class Flush:
    """One wait."""

    def __init__(self, peers: Iterable[PeerInfo]) -> None:
        self.complete: bool | None = None
        """None while it lasts; then whether every dial opened or failed, or the limits leave no more."""
        self._missing = {peer.public_key for peer in peers}
        if not self._missing:
            self.complete = True

    def settle(self, peer: PeerInfo) -> bool:
        """The peer's dial opened, failed, or will not happen. Returns whether that ended the wait."""
        self._missing.discard(peer.public_key)
        return not self._missing


class Flushes:
    """All waits of a swarm."""

    def __init__(self) -> None:
        self._pending: list[Flush] = []

    def add(self, flush: Flush) -> None:
        self._pending.append(flush)

    def settle(self, peer: PeerInfo) -> list[Flush]:
        """One peer is done. Returns the waits that are over with it."""
        ended = [flush for flush in self._pending if flush.settle(peer)]
        return self._end(ended, True)

    def end_all(self, complete: bool) -> list[Flush]:
        """End every wait."""
        return self._end(list(self._pending), complete)

    def _end(self, ended: list[Flush], complete: bool) -> list[Flush]:
        for flush in ended:
            flush.complete = complete
            self._pending.remove(flush)
        return ended
