"""How often strangers may make us do something."""

from dataclasses import dataclass
from ipaddress import IPv4Address

from ..addresses import Address

# Whoever forges addresses has a new one for every packet. Those forgotten here start with a full bucket again, and what
# they may do all together is limited apart.
MAX_SOURCES = 4096


@dataclass(frozen=True, slots=True)
class Rate:
    """What one source, or all of them, may ask for."""

    per_s: float
    burst: int
    """At once, after a quiet time."""


class TokenBucket:
    """Lets `rate.burst` events pass at once and `rate.per_s` in the long run."""

    __slots__ = ("_rate", "_tokens", "_updated")

    def __init__(self, rate: Rate, now: float) -> None:
        self._rate = rate
        self._tokens = float(rate.burst)
        self._updated = now

    def has_token(self, now: float, count: int = 1) -> bool:
        """Whether `take` would succeed."""
        self._tokens = min(self._rate.burst, self._tokens + max(0.0, now - self._updated) * self._rate.per_s)
        self._updated = now
        return self._tokens >= count

    def take(self, now: float, count: int = 1) -> bool:
        """Count one event, or several that happen together. Returns whether it may happen."""
        if not self.has_token(now, count):
            return False
        self._tokens -= count
        return True


class SourceLimiter:
    """A bucket for each host, and one for all together."""

    def __init__(self, each: Rate, total: Rate, *, now: float) -> None:
        self._each = each
        self._total = TokenBucket(total, now)
        self._sources: dict[str | Address, TokenBucket] = {}

    def allow(self, source: Address, now: float) -> bool:
        """Count one event of a source. Returns whether it may happen; what may not costs the others nothing."""
        key = source_of(source)
        bucket = self._sources.pop(key, None) or TokenBucket(self._each, now)
        self._sources[key] = bucket  # now the one used last
        if len(self._sources) > MAX_SOURCES:
            del self._sources[next(iter(self._sources))]
        return bucket.has_token(now) and self._total.take(now) and bucket.take(now)


def source_of(address: Address) -> str | Address:
    """What tells strangers apart: the host, as ports are free. On this machine all have one host, so there the port too."""
    return address if IPv4Address(address.host).is_loopback else address.host
