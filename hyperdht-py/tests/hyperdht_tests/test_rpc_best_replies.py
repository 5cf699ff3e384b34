"""Which replies of a query count: near ones, and not too many of one network."""

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from hyperdht.addresses import Address
from hyperdht.rpc.best_replies import BestReplies, BestReply
from hyperdht.rpc.messages import Reply
from hyperdht.rpc.routing_table import BUCKET_SIZE, MAX_PER_SUBNET


def reply(distance: int, host: str) -> BestReply:
    address = Address(host, 1024 + distance % 60000)
    return BestReply(distance, distance.to_bytes(32, "big"), address, Reply(1, address))


def collected(replies: list[BestReply]) -> list[int]:
    best = BestReplies()
    for each in replies:
        best.add(each)
    return [each.distance for each in best.replies]


def test_without_neighbours_the_closest_20_are_best() -> None:
    replies = [reply(distance, f"11.0.{distance}.1") for distance in range(40)]
    Random(1).shuffle(replies)
    assert collected(replies) == list(range(20))


def test_t17_one_subnet_cannot_be_all_of_them() -> None:
    """Whatever the order in which they come."""
    attackers = [reply(distance, "11.9.9.9") for distance in range(50)]
    honest = [reply(1000 + distance, f"11.0.{distance}.1") for distance in range(30)]
    for seed in range(20):
        replies = attackers + honest
        Random(seed).shuffle(replies)
        assert collected(replies) == [0, 1, *range(1000, 1018)]


def test_neighbours_stay_while_there_is_room() -> None:
    one_subnet = [reply(distance, f"11.0.0.{distance}") for distance in range(30)]
    assert collected(one_subnet) == list(range(20))
    assert collected([*one_subnet, reply(500, "11.0.1.1")]) == [*range(19), 500]


def test_private_networks_are_one_subnet_as_a_whole() -> None:
    local = [reply(distance, "127.0.0.1") for distance in range(30)]
    assert collected([*local, reply(500, "127.0.0.2")]) == list(range(20))


def test_a_node_counts_once() -> None:
    assert collected([reply(1, "11.0.0.1"), reply(1, "11.0.0.1")]) == [1]


@given(st.lists(st.tuples(st.integers(0, 300), st.integers(0, 8)), max_size=80))
def test_it_is_what_sorting_all_of_them_gives(pairs: list[tuple[int, int]]) -> None:
    replies = {distance: reply(distance, f"11.0.{subnet}.1") for distance, subnet in pairs}
    ranked: list[tuple[bool, int]] = []
    counts: dict[str, int] = {}
    for distance in sorted(replies):
        host = replies[distance].address.host
        counts[host] = counts.get(host, 0) + 1
        ranked.append((counts[host] > MAX_PER_SUBNET, distance))
    expected = sorted(distance for _, distance in sorted(ranked)[:BUCKET_SIZE])
    assert collected(list(replies.values())) == expected


@given(st.lists(st.tuples(st.integers(0, 300), st.integers(0, 8)), max_size=60), st.integers(0, 300), st.integers(0, 8))
def test_what_is_wanted_comes_in_and_nothing_else(pairs: list[tuple[int, int]], distance: int, subnet: int) -> None:
    best = BestReplies()
    for each in {distance: reply(distance, f"11.0.{subnet}.1") for distance, subnet in pairs}.values():
        best.add(each)
    newcomer = reply(distance, f"11.0.{subnet}.1")
    if all(each.distance != distance for each in best.replies):
        wanted = best.wants(distance, newcomer.address.host)
        best.add(newcomer)
        assert (newcomer in best.replies) is wanted
