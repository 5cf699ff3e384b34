"""UDX packets: recorded ones, runs against single packets, and any bytes at all."""

import json
from functools import cache
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperdht import DecodeError, LocalProtocolError
from hyperdht.udx.packet import (
    DATA,
    DESTROY,
    HEADER_BYTES,
    HEARTBEAT,
    MAX_SACK_BLOCKS,
    SACK,
    SEQ_SPACE,
    STATE,
    RunHeader,
    decode_packet,
    encode_ack,
    encode_packet,
    encode_sack_blocks,
    is_stream_packet,
    pack_run,
    parse_runs,
    payloads_of_run,
    seq_delta,
    stream_id_of,
)

from .vectors import VECTORS, pattern

u32 = st.integers(0, SEQ_SPACE - 1)


@cache
def udx() -> Any:
    return json.loads((VECTORS / "udx.json").read_text(encoding="utf-8"))["udx"]


def recorded() -> list[dict[str, Any]]:
    return [packet for trace in udx()["traces"] for packet in trace["packets"] if "hex" in packet]


@pytest.mark.parametrize("vector", recorded(), ids=lambda vector: f"{vector['flags']}-{vector['seq']}-{vector['ack']}")
def test_recorded_packets_decode_and_encode_to_the_same_bytes(vector: dict[str, Any]) -> None:
    data = bytes.fromhex(vector["hex"])
    packet = decode_packet(data)
    assert (packet.flags, packet.stream_id, packet.rwnd, packet.seq, packet.ack) == tuple(
        vector[key] for key in ("type", "id", "rwnd", "seq", "ack")
    )
    assert [list(block) for block in packet.sacks] == vector.get("sacks", [])
    fields = {"stream_id": packet.stream_id, "rwnd": packet.rwnd, "seq": packet.seq, "ack": packet.ack}
    if packet.flags in (STATE, SACK):
        assert encode_ack(packet.sacks, **fields) == data
    else:
        assert encode_packet(packet.flags, **fields, payload=packet.payload) == data


def test_padding_stands_before_the_payload() -> None:
    data = encode_packet(DATA, stream_id=1, rwnd=2, seq=3, ack=4, payload=b"payload", padding=32)
    assert data[3] == 32
    assert bytes(decode_packet(data).payload) == b"payload"
    with pytest.raises(LocalProtocolError):
        encode_packet(DATA, stream_id=1, rwnd=2, seq=3, ack=4, padding=256)


def test_data_may_follow_sack_blocks() -> None:
    blocks = encode_sack_blocks([(5, 6), (8, 9)])
    header = bytearray(encode_packet(DATA | SACK, stream_id=1, rwnd=2, seq=3, ack=4, payload=blocks + b"payload"))
    header[3] = len(blocks)
    packet = decode_packet(header)
    assert packet.sacks == ((5, 6), (8, 9))
    assert bytes(packet.payload) == b"payload"


def test_no_more_sack_blocks_than_libudx_lists() -> None:
    sacks = [(2 * i, 2 * i + 1) for i in range(1, MAX_SACK_BLOCKS + 10)]
    data = encode_ack(sacks, stream_id=1, rwnd=2, seq=3, ack=0)
    assert len(data) == 420
    assert list(decode_packet(data).sacks) == sacks[:MAX_SACK_BLOCKS]


@pytest.mark.parametrize("data", [b"", b"\xff\x01" + bytes(17), b"\xff\x02" + bytes(18), b"\x03\x01" + bytes(18)])
def test_other_datagrams_are_no_stream_packets(data: bytes) -> None:
    assert not is_stream_packet(data)
    assert stream_id_of(data) is None
    with pytest.raises(DecodeError):
        decode_packet(data)


@given(st.binary(max_size=100) | st.binary(max_size=100).map(lambda tail: b"\xff\x01" + tail))
def test_any_bytes_decode_or_raise_decode_error(data: bytes) -> None:
    try:
        packet = decode_packet(data)
    except DecodeError:
        return
    assert packet.stream_id == stream_id_of(data)
    assert len(packet.payload) == len(data) - HEADER_BYTES - data[3]


@given(st.binary(min_size=100, max_size=100), st.integers(1, 5))
def test_any_bytes_are_a_run_or_not(data: bytes, count: int) -> None:
    runs = parse_runs(data, 20, count, stream_id=7)
    assert runs is None or data.startswith(b"\xff\x01")


@given(u32, u32)
def test_seq_delta_is_signed_and_wraps(a: int, b: int) -> None:
    delta = seq_delta(a, b)
    assert -(1 << 31) <= delta < 1 << 31
    assert (b + delta) % SEQ_SPACE == a


@given(u32, u32, u32, u32, st.integers(1, 44), st.integers(1, 1452), st.integers(0, 3))
def test_a_run_is_the_same_bytes_as_single_packets(
    stream_id: int, rwnd: int, seq: int, ack: int, count: int, size: int, offset: int
) -> None:
    source = pattern(count * size + 3)
    run = pack_run(DATA, count, size, source, offset, stream_id=stream_id, rwnd=rwnd, first_seq=seq, ack=ack)
    single = [
        encode_packet(
            DATA, stream_id=stream_id, rwnd=rwnd, seq=seq + i, ack=ack,
            payload=source[offset + i * size : offset + (i + 1) * size],
        )
        for i in range(count)
    ]  # fmt: skip
    assert run == b"".join(single)
    parsed = parse_runs(run, HEADER_BYTES + size, count, stream_id=stream_id)
    if seq + count <= SEQ_SPACE:
        assert parsed == [RunHeader(DATA, 0, count, seq, rwnd, ack)]
    else:
        assert parsed is not None
        assert [(run.first_seq, run.packets) for run in parsed] == [
            (seq, SEQ_SPACE - seq),
            (0, seq + count - SEQ_SPACE),
        ]
    assert b"".join(payloads_of_run(run, HEADER_BYTES + size, count)) == source[offset : offset + count * size]


def acks(*numbers: int, seq: int = 9) -> bytes:
    return b"".join(encode_ack((), stream_id=7, rwnd=(100 + ack) % SEQ_SPACE, seq=seq, ack=ack) for ack in numbers)


def test_of_many_acknowledgements_the_latest_counts() -> None:
    assert parse_runs(acks(1, 2, 5), HEADER_BYTES, 3, stream_id=7) == [RunHeader(STATE, 2, 1, 9, 105, 5)]
    assert parse_runs(acks(1, 5, 2), HEADER_BYTES, 3, stream_id=7) == [RunHeader(STATE, 1, 1, 9, 105, 5)]
    both = acks(1) + acks(2, seq=10)
    assert parse_runs(both, HEADER_BYTES, 2, stream_id=7) == [RunHeader(STATE, 1, 1, 10, 102, 2)]
    sacks = b"".join(encode_ack([(5, end)], stream_id=7, rwnd=100, seq=9, ack=3) for end in (7, 8, 9))
    assert parse_runs(sacks, HEADER_BYTES + 8, 3, stream_id=7) == [RunHeader(SACK, 2, 1, 9, 100, 3)]


def test_a_buffer_with_a_gap_is_two_runs() -> None:
    gap = b"".join(encode_packet(DATA, stream_id=7, rwnd=8, seq=seq, ack=4, payload=b"x") for seq in (1, 2, 4, 3))
    runs = parse_runs(gap, HEADER_BYTES + 1, 4, stream_id=7)
    assert runs == [RunHeader(DATA, 0, 2, 1, 8, 4), RunHeader(DATA, 2, 1, 4, 8, 4), RunHeader(DATA, 3, 1, 3, 8, 4)]
    assert payloads_of_run(b"".join(bytes([n]) * 21 for n in range(4)), 21, 2, 1) == [b"\1", b"\2"]


def test_what_is_no_plain_run_is_left_to_the_slow_path() -> None:
    assert parse_runs(acks(1, 2, 3), HEADER_BYTES, 3, stream_id=8) is None
    assert parse_runs(acks(2**32 - 1, 0), HEADER_BYTES, 2, stream_id=7) is None
    padded = b"".join(encode_packet(DATA, stream_id=7, rwnd=0, seq=s, ack=0, payload=b"x", padding=1) for s in (1, 2))
    assert parse_runs(padded, HEADER_BYTES + 2, 2, stream_id=7) is None
    for flags in (HEARTBEAT, DESTROY):
        other = acks(1) + encode_packet(flags, stream_id=7, rwnd=0, seq=1, ack=0)
        assert parse_runs(other, HEADER_BYTES, 2, stream_id=7) is None
    mixed = encode_packet(DATA, stream_id=7, rwnd=0, seq=1, ack=0) + acks(1)
    assert parse_runs(mixed, HEADER_BYTES, 2, stream_id=7) is None
