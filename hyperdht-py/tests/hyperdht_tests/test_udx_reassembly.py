"""Packets in any order come out in order, and nobody fills the memory."""

from hypothesis import given
from hypothesis import strategies as st

from hyperdht.udx.reassembly import HELD_OVERHEAD_BYTES, MAX_AHEAD_PACKETS, Reassembly


def payload(seq: int) -> bytes:
    return seq.to_bytes(2, "little") * (seq % 3)


def run(first: int, count: int) -> list[bytes]:
    return [payload(seq) for seq in range(first, first + count)]


def test_a_gap_is_held_listed_and_filled() -> None:
    received = Reassembly(10_000)
    assert received.insert(0, run(0, 2)) == run(0, 2)
    assert received.insert(4, run(4, 2)) == []
    assert received.insert(8, run(8, 1)) == []
    assert received.ranges(50) == [(4, 6), (8, 9)]
    assert received.ranges(1) == [(4, 6)]
    assert received.insert(1, run(1, 3)) == run(2, 4)
    assert received.expected == 6
    assert received.insert(6, run(6, 2)) == run(6, 3)
    assert not received.ranges(1)
    assert received.held_bytes == 0


def test_nothing_after_the_end_is_delivered() -> None:
    received = Reassembly(10_000)
    received.insert(3, run(3, 3))
    received.end_at(4)
    received.end_at(100)
    assert received.ranges(50) == [(3, 4)]
    assert received.insert(0, run(0, 3)) == run(0, 4)
    assert received.ended
    assert received.insert(4, run(4, 1)) == []
    assert received.expected == 4
    assert received.held_bytes == 0


def test_t17_what_is_beyond_the_limits_is_dropped() -> None:
    received = Reassembly(10 * (HELD_OVERHEAD_BYTES + 1))
    received.insert(MAX_AHEAD_PACKETS, [b"x"])
    assert not received.ranges(1)
    for seq in range(2, 1000, 2):
        received.insert(seq, [b"x"])
    assert len(received.ranges(1000)) == 10
    assert received.insert(0, [b"a", b"b"]) == [b"a", b"b", b"x"]  # what fills the gap is always welcome


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(1, 12)), max_size=60), st.integers(0, 70))
def test_any_order_with_any_overlap_comes_out_once_and_in_order(runs: list[tuple[int, int]], end: int) -> None:
    received = Reassembly(1_000_000)
    out: list[bytes] = []
    seen: set[int] = set()
    for first, count in runs:
        out += [bytes(part) for part in received.insert(first, run(first, count))]
        seen.update(range(first, first + count))
        expected = next(seq for seq in range(100) if seq not in seen)
        assert received.expected == expected
        held = {seq for start, stop in received.ranges(100) for seq in range(start, stop)}
        assert held == {seq for seq in seen if seq > expected}
        assert received.held_bytes == sum(len(payload(seq)) + HELD_OVERHEAD_BYTES for seq in held)
    assert out == run(0, received.expected)
    before = received.expected
    received.end_at(end)
    out += [bytes(part) for part in received.insert(0, run(0, 100))]
    assert out == run(0, end if end >= before else 100)
    assert received.held_bytes == 0
