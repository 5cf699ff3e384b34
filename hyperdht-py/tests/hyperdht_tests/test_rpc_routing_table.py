"""The routing table: recorded order, and who is let in when a bucket is full."""

from hyperdht.addresses import Address
from hyperdht.rpc.messages import node_id
from hyperdht.rpc.routing_table import BUCKET_SIZE, MAX_PROBES, Node, Probe, RoutingTable

from .dht_vectors import address_in, dht

OWN_ID = bytes(32)


def far_id(number: int) -> bytes:
    """An id in bucket 0 of `OWN_ID`."""
    return b"\xff" + number.to_bytes(31, "big")


def full_table(*, tick: int = 100) -> RoutingTable:
    table = RoutingTable(OWN_ID)
    table.accepts_probes = True
    for number in range(BUCKET_SIZE):
        table.hear_from(far_id(number), Address("10.0.0.1", number), tick=tick)
    return table


def newcomer(table: RoutingTable, number: int, *, tick: int) -> Probe | None:
    return table.hear_from(far_id(number), Address("10.0.0.2", number), tick=tick).probe


def probe_of(table: RoutingTable, number: int, *, tick: int) -> Probe:
    probe = newcomer(table, number, tick=tick)
    assert probe is not None
    return probe


def test_recorded_buckets_and_closest() -> None:
    recorded = dht()["routing_table"]
    table = RoutingTable(bytes.fromhex(recorded["selfId"]))
    for added in recorded["added"]:
        address = Address(added["host"], added["port"])
        added_id = bytes.fromhex(added["id"])
        assert node_id(address) == added_id
        assert table.bucket_of(added_id) == added["bucket"]
        assert table.hear_from(added_id, address, tick=1).is_new == added["accepted"]
    for query in recorded["queries"]:
        target = bytes.fromhex(query["target"])
        assert table.bucket_of(target) == query["targetBucket"]
        for count, key in ((20, "closest"), (5, "closest5")):
            assert [node.address for node in table.closest(target, count)] == list(map(address_in, query[key]))


def test_removed_nodes_are_gone_and_may_come_back() -> None:
    table = full_table()
    assert table.remove(far_id(3))
    assert not table.remove(far_id(3))
    assert far_id(3) not in table
    assert far_id(3) not in {node.id for node in table.closest(far_id(3))}
    assert table.hear_from(far_id(3), Address("10.0.0.1", 3), tick=101).is_new
    assert len(table) == BUCKET_SIZE


def test_we_are_not_in_our_own_table() -> None:
    table = RoutingTable(OWN_ID)
    assert table.hear_from(OWN_ID, Address("10.0.0.1", 1), tick=1).node is None
    assert not table.add(Node(OWN_ID, Address("10.0.0.1", 1), 1, 1, 1))
    assert len(table) == 0


def test_nodes_are_ordered_by_when_they_were_heard_from() -> None:
    table = full_table()
    table.hear_from(far_id(0), Address("10.0.0.1", 0), tick=101)
    assert next(table.longest_unseen()).id == far_id(1)
    assert next(table.most_recently_seen()).id == far_id(0)


def test_a_full_bucket_stays_as_it_is_before_bootstrap() -> None:
    table = full_table()
    table.accepts_probes = False
    assert newcomer(table, 99, tick=200) is None


def test_the_least_recently_pinged_is_probed_and_ties_go_to_the_oldest() -> None:
    table = full_table()
    for number in range(BUCKET_SIZE):
        if number not in (7, 8):
            table.hear_from(far_id(number), Address("10.0.0.1", number), tick=150)
    table.remove(far_id(7))
    table.add(Node(far_id(7), Address("10.0.0.1", 7), added=99, pinged=100, seen=100))
    probe = probe_of(table, 99, tick=200)
    assert probe.resident.id == far_id(7)
    assert probe.resident.pinged == 200


def test_a_silent_resident_is_replaced() -> None:
    table = full_table()
    probe = probe_of(table, 99, tick=200)
    settled = table.settle(probe, answered=False)
    assert settled is not None
    assert settled.id == far_id(99)
    assert probe.resident.id not in table
    assert len(table) == BUCKET_SIZE


def test_a_resident_that_answers_stays() -> None:
    table = full_table()
    probe = probe_of(table, 99, tick=200)
    table.hear_from(probe.resident.id, probe.resident.address, tick=200)
    assert table.settle(probe, answered=True) is None
    assert far_id(99) not in table


def test_an_answer_from_someone_else_does_not_save_the_resident() -> None:
    table = full_table()
    assert table.settle(probe_of(table, 99, tick=200), answered=True) is not None


def test_a_node_alive_a_minute_ago_and_long_known_is_kept_without_asking() -> None:
    table = full_table(tick=100)
    for number in range(BUCKET_SIZE):
        table.hear_from(far_id(number), Address("10.0.0.1", number), tick=495)
    assert newcomer(table, 99, tick=500) is None
    assert newcomer(table, 99, tick=507) is not None


def test_probes_are_few_and_nobody_is_probed_twice_in_a_tick() -> None:
    table = full_table()
    probes = [probe_of(table, 100 + i, tick=200) for i in range(MAX_PROBES)]
    assert len({probe.resident.id for probe in probes}) == MAX_PROBES
    assert newcomer(table, 200, tick=200) is None
    table.settle(probes[0], answered=False)
    assert newcomer(table, 200, tick=200) is not None
    fresh = full_table(tick=200)
    assert newcomer(fresh, 200, tick=200) is None


def test_a_place_taken_meanwhile_leaves_the_newcomer_out() -> None:
    table = full_table()
    probe = probe_of(table, 99, tick=200)
    table.remove(probe.resident.id)
    table.hear_from(far_id(500), Address("10.0.0.3", 1), tick=200)
    assert table.settle(probe, answered=False) is None
    assert len(table) == BUCKET_SIZE


def test_a_node_is_sampled_once_and_again_after_half_an_hour() -> None:
    table = full_table()
    node = table.get(far_id(1))
    assert node is not None
    assert table.wants_sample(node, tick=100)
    assert not table.wants_sample(node, tick=459)
    assert table.wants_sample(node, tick=460)


# Many nodes in one network


def public(number: int, *, subnet: str = "9.9.9") -> Address:
    return Address(f"{subnet}.{number}", 5000)


def test_t17_one_subnet_gets_two_places_in_a_bucket() -> None:
    table = RoutingTable(OWN_ID)
    assert [table.hear_from(far_id(n), public(n), tick=1).is_new for n in range(4)] == [True, True, False, False]
    assert table.hear_from(far_id(9), public(9, subnet="9.9.8"), tick=1).is_new
    assert table.hear_from(b"\x70" + bytes(31), public(10), tick=1).is_new  # another bucket
    table.remove(far_id(0))
    assert table.hear_from(far_id(2), public(2), tick=1).is_new


def test_t17_a_subnet_cannot_fill_the_table() -> None:
    table = RoutingTable(OWN_ID)
    for number in range(20000):
        address = Address("9.9.9.9", 1024 + number)
        table.hear_from(node_id(address), address, tick=1)
    honest = [Address(f"8.{number}.1.1", 5000) for number in range(200)]
    for address in honest:
        table.hear_from(node_id(address), address, tick=1)
    hostile = sum(node.address.host == "9.9.9.9" for node in table.longest_unseen())
    assert hostile < 30
    assert len(table) - hostile > 60


def test_a_node_that_took_another_port_replaces_the_one_it_was() -> None:
    table = RoutingTable(OWN_ID)
    table.accepts_probes = True
    for number in range(BUCKET_SIZE):
        table.hear_from(far_id(number), public(1, subnet=f"9.9.{number // 2}"), tick=number)
    probe = table.hear_from(far_id(99), public(1, subnet="9.9.7"), tick=100).probe
    assert probe is not None
    assert probe.resident.id == far_id(14)  # not the oldest of all
    assert table.settle(probe, answered=False) is probe.newcomer


def test_private_networks_and_other_limits() -> None:
    for host in ("10.0.0.1", "127.0.0.1", "192.168.1.1"):
        table = RoutingTable(OWN_ID)
        assert all(table.hear_from(far_id(n), Address(host, 5000 + n), tick=1).is_new for n in range(BUCKET_SIZE))
    table = RoutingTable(OWN_ID, max_per_subnet=5)
    assert sum(table.hear_from(far_id(n), public(n), tick=1).is_new for n in range(10)) == 5


# A new id of ours


def test_with_another_id_the_table_is_sorted_anew_in_the_same_order_of_hearing() -> None:
    table = RoutingTable(OWN_ID)
    addresses = [Address("10.0.0.1", number) for number in range(1, 201)]
    for address in addresses:
        table.hear_from(node_id(address), address, tick=1)
    before = [node.id for node in table.longest_unseen()]
    table.move_to(node_id(addresses[7]))
    after = [node.id for node in table.longest_unseen()]
    assert after == [known for known in before if known in set(after)]
    assert node_id(addresses[7]) not in table
    fresh = RoutingTable(table.own_id)
    for known in reversed(before):
        fresh.hear_from(known, addresses[0], tick=1)
    assert set(after) == {node.id for node in fresh.longest_unseen()}
    assert [n.id for n in table.closest(bytes(32))] == [n.id for n in fresh.closest(bytes(32))]


def test_a_probe_without_outcome_makes_room_for_another() -> None:
    table = full_table()
    probes = [probe_of(table, 90 + number, tick=200) for number in range(MAX_PROBES)]
    assert newcomer(table, 99, tick=200) is None
    table.abandon(probes[0])
    assert len(table) == BUCKET_SIZE
    assert newcomer(table, 99, tick=200) is not None
