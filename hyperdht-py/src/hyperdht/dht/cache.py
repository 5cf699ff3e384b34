"""Caches of two generations, for what strangers may leave with us.

What is new goes into the fresh generation. When its period is over, or it is full, it becomes the stale one, and what was
stale is forgotten. So an entry lives for one to two periods, and nothing has to look for old ones.

A full cache is where a flood begins to hurt: it turns the generations over until nothing honest is left. Whoever writes
has shown with a token that it receives at its address, so each subnet gets a share, and what it brings beyond that
replaces the oldest it brought. Source: xache 1.3.0 and record-cache 1.2.0; the shares are ours.
"""

from dataclasses import dataclass
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")

SHARES = 16  # as many subnets at once it takes to turn a generation over


@dataclass(frozen=True, slots=True)
class CacheLimits:
    """How much one generation may hold and how old it gets."""

    max_entries: int
    max_age_s: float
    """On average: a generation lasts two thirds of it, so an entry lives for 0.67 to 1.33 of it."""
    max_bytes: int | None = None


class Rotation:
    """When the generations change. There is no timer: the owner asks before it looks at its entries."""

    __slots__ = ("_early", "_next", "_period_s")

    def __init__(self, limits: CacheLimits, *, now: float) -> None:
        self._period_s = limits.max_age_s * 2 / 3
        self._next = now + self._period_s
        self._early = False

    def due(self, now: float) -> int:
        """How many rotations have become due since the last call; two empty the cache."""
        if now < self._next:
            return 0
        periods = 1 + int((now - self._next) / self._period_s)
        self._next += periods * self._period_s
        due, self._early = periods - self._early, False
        return due

    def rotated_early(self) -> None:
        """A full generation was rotated before its time. The rotation that comes next in time is left out."""
        self._early = True


@dataclass(frozen=True, slots=True)
class Entry(Generic[V]):
    """A value, and what it counts as."""

    value: V
    source: str
    size: int


class Generation(Generic[K, V]):
    """The entries of one period. What each source brought is counted and kept in order."""

    __slots__ = ("_by_source", "_bytes_by_source", "entries", "size")

    def __init__(self) -> None:
        self.entries: dict[K, Entry[V]] = {}
        self.size = 0
        """The sizes of all entries."""
        self._by_source: dict[str, dict[K, None]] = {}
        self._bytes_by_source: dict[str, int] = {}

    def add(self, key: K, entry: Entry[V]) -> None:
        """Take in what is not there yet."""
        self.entries[key] = entry
        self.size += entry.size
        self._by_source.setdefault(entry.source, {})[key] = None
        self._bytes_by_source[entry.source] = self._bytes_by_source.get(entry.source, 0) + entry.size

    def remove(self, key: K) -> Entry[V] | None:
        """Take out an entry. Returns it, if it was there."""
        entry = self.entries.pop(key, None)
        if entry is not None:
            self.size -= entry.size
            keys = self._by_source[entry.source]
            del keys[key]
            self._bytes_by_source[entry.source] -= entry.size
            if not keys:
                del self._by_source[entry.source], self._bytes_by_source[entry.source]
        return entry

    def oldest_beyond_share(self, source: str, limits: CacheLimits) -> K | None:
        """What `source` has to give up next; None while it holds no more than its share."""
        keys = self._by_source.get(source)
        if keys is None or len(keys) == 1:
            return None
        too_many = len(keys) > limits.max_entries // SHARES
        too_large = limits.max_bytes is not None and self._bytes_by_source[source] > limits.max_bytes // SHARES
        return next(iter(keys)) if too_many or too_large else None


class GenerationCache(Generic[V]):
    """Values by key. Being read renews a value."""

    def __init__(self, limits: CacheLimits, *, now: float) -> None:
        self._limits = limits
        self._rotation = Rotation(limits, now=now)
        self._fresh: Generation[bytes, V] = Generation()
        self._stale: Generation[bytes, V] = Generation()

    def __len__(self) -> int:
        return len(self._fresh.entries) + len(self._stale.entries)

    def get(self, key: bytes, *, now: float) -> V | None:
        """The value, which counts as new from now on."""
        self._rotate_if_due(now)
        entry = self._fresh.entries.get(key)
        if entry is None:
            entry = self._stale.remove(key)
            if entry is None:
                return None
            self._fresh.add(key, entry)
        return entry.value

    def set(self, key: bytes, value: V, *, source: str, now: float, size: int = 0) -> None:
        """Keep a value, instead of another under the same key.

        Args:
            source: The subnet it came from; see `subnet_of`. A value known already stays with the source it has: storing
                what others stored must not make it part of a share that overflows.
            size: What it counts for in a cache with a limit in bytes.
        """
        self._rotate_if_due(now)
        known = self._fresh.remove(key) or self._stale.remove(key)
        entry = Entry(value, source if known is None else known.source, size)
        self._fresh.add(key, entry)
        while (excess := self._fresh.oldest_beyond_share(entry.source, self._limits)) is not None:
            self._fresh.remove(excess)
        if self._is_full():
            self._rotate()
            self._rotation.rotated_early()

    def delete(self, key: bytes) -> None:
        """Forget a value. Nothing happens if it is not there."""
        self._fresh.remove(key)
        self._stale.remove(key)

    def _is_full(self) -> bool:
        limits = self._limits
        too_large = limits.max_bytes is not None and self._fresh.size >= limits.max_bytes
        return too_large or len(self._fresh.entries) >= limits.max_entries

    def _rotate_if_due(self, now: float) -> None:
        for _ in range(min(self._rotation.due(now), 2)):
            self._rotate()

    def _rotate(self) -> None:
        self._stale, self._fresh = self._fresh, Generation()


def subnet_of(host: str) -> str:
    """The /24 an IPv4 address is in: what one subscriber or one rented machine can easily have all of."""
    return host.rpartition(".")[0]
