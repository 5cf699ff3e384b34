"""Two generations, the shares of subnets, and the choice of records."""

from collections import Counter
from random import Random

from hyperdht.dht.cache import SHARES, CacheLimits, GenerationCache, subnet_of
from hyperdht.dht.records import MAX_RECORDS_PER_TOPIC, RECORDS_PER_REPLY, TopicRecords
from hyperdht.dht.storage import RECORD_LIMITS, VALUE_LIMITS

LIMITS = CacheLimits(max_entries=64, max_age_s=30.0)
PERIOD_S = 20.0
TOPIC = bytes(32)
EPSILON_S = 0.001


def key(number: int) -> bytes:
    return number.to_bytes(32, "big")


def new_cache() -> GenerationCache[str]:
    return GenerationCache(LIMITS, now=0.0)


def sources(count: int) -> list[str]:
    return [f"10.0.{i}" for i in range(count)]


def test_the_ages_are_those_of_the_reference() -> None:
    assert (RECORD_LIMITS.max_entries, RECORD_LIMITS.max_age_s * 2 / 3) == (65536, 13 * 60 + 20)
    assert (VALUE_LIMITS.max_entries, VALUE_LIMITS.max_age_s * 2 / 3) == (32768, 32 * 3600)


def test_a_value_lives_for_one_to_two_periods() -> None:
    cache = new_cache()
    cache.set(key(1), "early", source="a", now=0.0)
    cache.set(key(2), "late", source="a", now=PERIOD_S - EPSILON_S)
    cache.set(key(3), "other", source="a", now=PERIOD_S)
    assert len(cache) == 3
    cache.set(key(4), "other", source="a", now=2 * PERIOD_S)
    assert cache.get(key(1), now=2 * PERIOD_S) is None
    assert cache.get(key(2), now=2 * PERIOD_S) is None
    assert cache.get(key(3), now=2 * PERIOD_S) == "other"


def test_being_read_renews() -> None:
    cache = new_cache()
    cache.set(key(1), "value", source="a", now=0.0)
    for i in range(1, 10):
        assert cache.get(key(1), now=i * PERIOD_S) == "value"
    assert cache.get(key(1), now=11 * PERIOD_S) is None


def test_a_long_sleep_empties_it() -> None:
    cache = new_cache()
    cache.set(key(1), "value", source="a", now=0.0)
    assert cache.get(key(1), now=1e9) is None
    cache.set(key(1), "value", source="a", now=1e9)
    assert cache.get(key(1), now=1e9) == "value"


def test_a_full_generation_makes_room_and_the_next_rotation_in_time_is_left_out() -> None:
    cache = new_cache()
    for i, source in enumerate(sources(64)):
        cache.set(key(i), "old", source=source, now=1.0)
    cache.set(key(100), "new", source="b", now=1.0)
    assert len(cache) == 65
    assert cache.get(key(100), now=PERIOD_S) == "new"
    assert len(cache) == 65  # what was rotated at 1.0 is still there
    assert cache.get(key(0), now=2 * PERIOD_S) is None
    assert cache.get(key(100), now=2 * PERIOD_S) == "new"


def test_setting_again_replaces_and_counts_once() -> None:
    cache = new_cache()
    cache.set(key(1), "one", source="a", now=0.0)
    cache.set(key(1), "two", source="a", now=PERIOD_S)
    assert cache.get(key(1), now=PERIOD_S) == "two"
    assert len(cache) == 1
    cache.delete(key(1))
    cache.delete(key(1))
    assert len(cache) == 0


def test_t20_one_subnet_replaces_only_what_it_brought_itself() -> None:
    cache = new_cache()
    for i, source in enumerate(sources(40)):
        cache.set(key(i), "honest", source=source, now=0.0)
    for i in range(10_000):
        cache.set(key(1000 + i), "flood", source="6.6.6", now=0.0)
    assert len(cache) == 40 + LIMITS.max_entries // SHARES
    assert all(cache.get(key(i), now=0.0) == "honest" for i in range(40))
    assert cache.get(key(1000 + 9_999), now=0.0) == "flood"
    assert cache.get(key(1000), now=0.0) is None


def test_t20_storing_what_others_stored_does_not_draw_it_into_ones_own_share() -> None:
    cache = new_cache()
    cache.set(key(1), "honest", source="a", now=0.0)
    cache.set(key(1), "honest", source="6.6.6", now=PERIOD_S)
    for i in range(100):
        cache.set(key(1000 + i), "flood", source="6.6.6", now=PERIOD_S)
    assert cache.get(key(1), now=PERIOD_S) == "honest"


def test_t20_bytes_are_limited_too() -> None:
    limits = CacheLimits(max_entries=1 << 20, max_age_s=30.0, max_bytes=1 << 16)
    cache: GenerationCache[str] = GenerationCache(limits, now=0.0)
    for i in range(1000):
        cache.set(key(i), "large", source="6.6.6", size=1024, now=0.0)
    assert len(cache) == (1 << 16) // SHARES // 1024
    for i in range(1000):
        cache.set(key(i), "large", source=f"10.{i // 250}.{i % 250}", size=1024, now=0.0)
    assert len(cache) <= 2 * (1 << 16) // 1024


def test_a_value_larger_than_a_share_is_kept_while_it_is_the_only_one() -> None:
    cache: GenerationCache[str] = GenerationCache(CacheLimits(64, 30.0, max_bytes=1600), now=0.0)
    cache.set(key(1), "large", source="a", size=500, now=0.0)
    assert cache.get(key(1), now=0.0) == "large"
    cache.set(key(2), "large", source="a", size=500, now=0.0)
    assert (cache.get(key(1), now=0.0), cache.get(key(2), now=0.0)) == (None, "large")


def test_subnets() -> None:
    assert subnet_of("10.1.2.3") == subnet_of("10.1.2.4") != subnet_of("10.1.22.3")


def new_records() -> TopicRecords:
    return TopicRecords(LIMITS, now=0.0)


def test_a_record_is_kept_as_it_came_first_in_its_generation() -> None:
    records = new_records()
    records.add(TOPIC, key(1), b"first", source="a", now=0.0)
    records.add(TOPIC, key(1), b"second", source="a", now=1.0)
    assert records.sample(TOPIC, Random(1), now=1.0) == [b"first"]
    records.add(TOPIC, key(1), b"third", source="b", now=PERIOD_S)
    assert records.sample(TOPIC, Random(1), now=PERIOD_S) == [b"third"]
    records.remove(TOPIC, key(1))
    records.add(TOPIC, key(1), b"fourth", source="b", now=PERIOD_S)
    assert records.sample(TOPIC, Random(1), now=PERIOD_S) == [b"fourth"]
    assert len(records) == 1


def test_reading_does_not_renew_records() -> None:
    records = new_records()
    records.add(TOPIC, key(1), b"record", source="a", now=0.0)
    assert records.sample(TOPIC, Random(1), now=2 * PERIOD_S - EPSILON_S) == [b"record"]
    assert records.sample(TOPIC, Random(1), now=2 * PERIOD_S) == []
    assert len(records) == 0


def test_both_generations_are_read_and_20_are_given() -> None:
    records = new_records()
    for i in range(15):
        records.add(TOPIC, key(i), b"%d" % i, source=f"10.0.{i}", now=0.0)
    for i in range(15, 30):
        records.add(TOPIC, key(i), b"%d" % i, source=f"10.0.{i % 20}", now=PERIOD_S)
    random, seen = Random(1), Counter[bytes]()
    for _ in range(300):
        sample = records.sample(TOPIC, random, now=PERIOD_S)
        assert len(sample) == len(set(sample)) == RECORDS_PER_REPLY
        seen.update(sample)
    assert len(seen) == 30


def test_few_records_are_all_given_whatever_their_subnets() -> None:
    records = new_records()
    for i, source in enumerate(["a", "a", "a", "b"]):
        records.add(TOPIC, key(i), b"%d" % i, source=source, now=0.0)
    assert sorted(records.sample(TOPIC, Random(1), now=0.0)) == [b"0", b"1", b"2", b"3"]
    assert records.sample(key(9), Random(1), now=0.0) == []


def test_t17_a_flood_from_one_subnet_cannot_crowd_others_out_of_a_reply() -> None:
    records = TopicRecords(RECORD_LIMITS, now=0.0)
    for i in range(10):
        records.add(TOPIC, key(i), b"honest %d" % i, source=f"10.0.{i}", now=0.0)
    for i in range(5000):
        records.add(TOPIC, key(1000 + i), b"flood", source="6.6.6", now=0.0)
    random = Random(1)
    for _ in range(100):
        sample = records.sample(TOPIC, random, now=0.0)
        assert len([record for record in sample if record != b"flood"]) == 10
        assert len(sample) == RECORDS_PER_REPLY


def test_t17_a_topic_has_a_cap_and_the_subnet_with_most_pays_for_it() -> None:
    records = TopicRecords(RECORD_LIMITS, now=0.0)
    records.add(TOPIC, key(0), b"honest", source="10.0.0", now=0.0)
    for i in range(1, 3 * MAX_RECORDS_PER_TOPIC):
        records.add(TOPIC, key(i), b"flood", source=f"6.6.{i % 3}", now=0.0)
    assert len(records) == MAX_RECORDS_PER_TOPIC
    assert all(b"honest" in records.sample(TOPIC, Random(i), now=0.0) for i in range(50))


def test_t20_one_subnet_cannot_flush_the_records_of_others() -> None:
    records = new_records()
    for i in range(40):
        records.add(key(i), key(i), b"honest", source=f"10.0.{i}", now=0.0)
    for i in range(1000, 3000):
        records.add(key(i), key(i), b"flood", source="6.6.6", now=0.0)
    assert len(records) == 40 + LIMITS.max_entries // SHARES
    assert all(records.sample(key(i), Random(1), now=0.0) == [b"honest"] for i in range(40))


def test_full_records_turn_over() -> None:
    records = new_records()
    for i in range(3 * LIMITS.max_entries):
        records.add(key(i), key(i), b"record", source=f"10.{i // 250}.{i % 250}", now=0.0)
    assert LIMITS.max_entries <= len(records) <= 2 * LIMITS.max_entries
    assert records.sample(key(0), Random(1), now=0.0) == []
    held = len(records)
    assert records.sample(key(0), Random(1), now=PERIOD_S) == []
    assert len(records) == held  # the rotation that comes next in time is left out
    assert records.sample(key(3 * LIMITS.max_entries - 1), Random(1), now=0.0) == [b"record"]
