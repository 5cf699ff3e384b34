"""Who announced itself for which topic.

Source: record-cache 1.2.0, used by hyperdht 6.34.0 `lib/persistent.js`. A record is kept as it came first in its
generation; reading renews nothing. The shares of subnets, the cap of a topic and the choice among subnets are ours.
"""

from collections import Counter
from collections.abc import Iterator

from ..rpc.randomness import Randomness
from .cache import CacheLimits, Entry, Generation, Rotation

RECORDS_PER_REPLY = 20
# A reply shows 20. This many are enough to show different ones each time, and bound what a lookup costs us.
MAX_RECORDS_PER_TOPIC = 512

RecordKey = tuple[bytes, bytes]
"""Topic and public key."""
Members = dict[bytes, str]
"""The public keys in one topic and the subnets that announced them, in the order they came."""


class TopicRecords:
    """Encoded records by topic and public key."""

    def __init__(self, limits: CacheLimits, *, now: float) -> None:
        self._limits = limits
        self._rotation = Rotation(limits, now=now)
        self._fresh = _TopicGeneration()
        self._stale = _TopicGeneration()

    def __len__(self) -> int:
        return len(self._fresh.records.entries) + len(self._stale.records.entries)

    def add(self, topic: bytes, public_key: bytes, record: bytes, *, source: str, now: float) -> None:
        """Keep a record, unless one of that key came in this generation already.

        Args:
            source: The subnet it came from; see `cache.subnet_of`.
        """
        self._rotate_if_due(now)
        key = (topic, public_key)
        self._stale.remove(key)
        if key in self._fresh.records.entries:
            return
        self._fresh.add(key, Entry(record, source, 0))
        while (excess := self._fresh.records.oldest_beyond_share(source, self._limits)) is not None:
            self._fresh.remove(excess)
        self._fresh.trim(topic)
        if len(self._fresh.records.entries) > self._limits.max_entries:
            self._rotate()
            self._rotation.rotated_early()

    def remove(self, topic: bytes, public_key: bytes) -> None:
        """Forget a record. Nothing happens if it is not there."""
        self._fresh.remove((topic, public_key))
        self._stale.remove((topic, public_key))

    def sample(self, topic: bytes, randomness: Randomness, *, now: float) -> list[bytes]:
        """Up to 20 records by chance, from as many subnets as possible.

        By chance alone, whoever announces a thousand keys from one machine would be all that anybody ever finds.
        """
        self._rotate_if_due(now)
        by_subnet: dict[str, list[bytes]] = {}
        for generation in (self._fresh, self._stale):
            for subnet, record in generation.of(topic):
                by_subnet.setdefault(subnet, []).append(record)
        chosen = randomness.sample(list(by_subnet.values()), min(RECORDS_PER_REPLY, len(by_subnet)))
        piles = [randomness.sample(pile, min(RECORDS_PER_REPLY, len(pile))) for pile in chosen]
        records: list[bytes] = []
        while piles and len(records) < RECORDS_PER_REPLY:
            records += [pile.pop() for pile in piles][: RECORDS_PER_REPLY - len(records)]
            piles = [pile for pile in piles if pile]
        return records

    def _rotate_if_due(self, now: float) -> None:
        for _ in range(min(self._rotation.due(now), 2)):
            self._rotate()

    def _rotate(self) -> None:
        self._stale, self._fresh = self._fresh, _TopicGeneration()


class _TopicGeneration:
    """One generation, with its topics as an index."""

    __slots__ = ("records", "topics")

    def __init__(self) -> None:
        self.records: Generation[RecordKey, bytes] = Generation()
        self.topics: dict[bytes, Members] = {}

    def add(self, key: RecordKey, entry: Entry[bytes]) -> None:
        topic, public_key = key
        self.records.add(key, entry)
        self.topics.setdefault(topic, {})[public_key] = entry.source

    def remove(self, key: RecordKey) -> None:
        if self.records.remove(key) is None:
            return
        topic, public_key = key
        members = self.topics[topic]
        del members[public_key]
        if not members:
            del self.topics[topic]

    def trim(self, topic: bytes) -> None:
        """Make a topic that has grown beyond its cap give up the oldest record of the subnet that has most in it."""
        members = self.topics.get(topic, {})
        if len(members) > MAX_RECORDS_PER_TOPIC:
            [(largest, _)] = Counter(members.values()).most_common(1)
            self.remove((topic, next(key for key, subnet in members.items() if subnet == largest)))

    def of(self, topic: bytes) -> Iterator[tuple[str, bytes]]:
        """The records of a topic, each with its subnet."""
        for public_key, subnet in self.topics.get(topic, {}).items():
            yield subnet, self.records.entries[topic, public_key].value
