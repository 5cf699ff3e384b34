"""What the operator of a blind relay gives to strangers (T18)."""

from dataclasses import dataclass

from ..dht.rate_limit import Rate, TokenBucket


@dataclass(slots=True)
class Carried:
    """One pair."""

    streams: tuple[int, int]
    """The relay's own two."""
    since: float
    size: int = 0
    """Bytes passed on, both ways."""
    last: float = 0.0
    """When the last packet came; 0 before the first."""


@dataclass(frozen=True, slots=True)
class RelayLimits:
    """Without a number there is no limit of that kind. Most relays carry a connection until a direct way is found."""

    bytes_per_s: int | None = None
    """Of all pairs together. What is beyond is dropped, which peers take for a narrow line."""
    pair_bytes: int | None = None
    """Both ways; then the pair is ended."""
    pair_s: float | None = None
    """So long; then the pair is ended."""
    idle_s: float = 60.0
    """A pair without packets is ended, and a peer without pairs dropped. Living peers are heard every 5 s."""
    sessions: int = 1024
    """Peers connected at a time; each costs a connection and three tasks, some 60 KB."""
    sessions_of_host: int = 128
    """Many people may share one address."""

    def bucket(self, now: float) -> TokenBucket | None:
        """For `allow`. At once goes what half a second would bring: peers send in batches."""
        return None if self.bytes_per_s is None else TokenBucket(Rate(self.bytes_per_s, self.bytes_per_s // 2), now)

    def allow(self, carried: Carried, bucket: TokenBucket | None, size: int, now: float) -> bool:
        """Count packets of `size` bytes together. Returns whether to pass them on."""
        carried.last = now
        if bucket is not None and not bucket.take(now, size):
            return False
        carried.size += size
        return self.pair_bytes is None or carried.size <= self.pair_bytes

    def may_go_on(self, carried: Carried, now: float) -> bool:
        """Whether a pair is within the limits of bytes and time."""
        return (
            (self.pair_bytes is None or carried.size <= self.pair_bytes)
            and (self.pair_s is None or now - carried.since <= self.pair_s)
            and now - max(carried.last, carried.since) <= self.idle_s
        )
