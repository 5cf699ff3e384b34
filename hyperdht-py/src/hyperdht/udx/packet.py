"""The packets of UDX, one at a time and in runs.

Layout, integers little-endian:
    byte 0      0xff
    byte 1      version 1
    byte 2      flags; none set is a pure acknowledgement ("STATE")
    byte 3      data offset: how many bytes of SACK blocks or padding stand before the payload
    bytes 4-7   stream id, the receiver's
    bytes 8-11  receive window of the sender, bytes
    bytes 12-15 seq, counts packets
    bytes 16-19 ack, the next seq expected

A run is a buffer of packets of one size, as UDP_SEGMENT sends and UDP_GRO receives them; the last may be shorter. The run
functions touch Python once per run, not once per packet: parsing 64 KiB costs 5 us that way and 55 us with an object each.

Source: libudx as bundled in udx-native 1.21.3; docs/protocol/udx.md.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import pairwise
from struct import Struct
from typing import NamedTuple, TypeAlias

from ..buffers import BytesLike
from ..errors import DecodeError, LocalProtocolError

STATE, DATA, END, SACK, MESSAGE, DESTROY, HEARTBEAT = 0, 1, 2, 4, 8, 16, 32
MAGIC = 0xFF
VERSION = 1
HEADER_BYTES = 20
SACK_BLOCK_BYTES = 8
MAX_SACK_BLOCKS = 50  # what libudx lists at most: 420 bytes
MAX_PADDING_BYTES = 255  # the data offset is one byte
SEQ_SPACE = 1 << 32
_HALF = 1 << 31

_HEADER = Struct("<BBBBIIII")
_BLOCK = Struct("<II")

SackBlock: TypeAlias = tuple[int, int]
"""`[start, end)` of packets held by the receiver."""


class Packet(NamedTuple):
    """One decoded packet. Numbers are as on the wire, modulo 2**32."""

    flags: int
    stream_id: int
    rwnd: int
    """Bytes."""
    seq: int
    ack: int
    sacks: tuple[SackBlock, ...]
    payload: memoryview
    """A view into the datagram."""


def is_stream_packet(datagram: BytesLike) -> bool:
    """Whether a datagram has the shape of a stream packet. If no stream has its id either, it belongs to the DHT."""
    return len(datagram) >= HEADER_BYTES and datagram[0] == MAGIC and datagram[1] == VERSION


def stream_id_of(datagram: BytesLike) -> int | None:
    """For which stream a datagram is; None when it is no stream packet."""
    return int.from_bytes(datagram[4:8], "little") if is_stream_packet(datagram) else None


def seq_delta(a: int, b: int) -> int:
    """`a - b` as a signed 32-bit number: which of two wire numbers is the later one, and by how much."""
    return ((a - b + _HALF) & (SEQ_SPACE - 1)) - _HALF


def decode_packet(datagram: BytesLike) -> Packet:
    """Decode one packet.

    Raises:
        DecodeError: Not a stream packet, or its data offset reaches past its end. The caller drops the datagram.
    """
    if not is_stream_packet(datagram):
        raise DecodeError("not a UDX packet")
    _, _, flags, data_offset, stream_id, rwnd, seq, ack = _HEADER.unpack_from(datagram)
    body = memoryview(datagram)[HEADER_BYTES:]
    if data_offset > len(body):
        raise DecodeError(f"data offset {data_offset} in a packet with {len(body)} bytes after the header")
    sacks: tuple[SackBlock, ...] = ()
    if flags & SACK:
        area = body[:data_offset] if 0 < data_offset < len(body) else body
        count = min(len(area) // SACK_BLOCK_BYTES, MAX_SACK_BLOCKS)
        sacks = tuple(_BLOCK.iter_unpack(area[: count * SACK_BLOCK_BYTES]))
    return Packet(flags, stream_id, rwnd, seq, ack, sacks, body[data_offset:])


def encode_packet(
    flags: int, *, stream_id: int, rwnd: int, seq: int, ack: int, payload: BytesLike = b"", padding: int = 0
) -> bytes:
    """One packet, its payload after `padding` zero bytes."""
    if padding > MAX_PADDING_BYTES:
        raise LocalProtocolError(f"padding of {padding} bytes, at most {MAX_PADDING_BYTES} fit")
    header = _HEADER.pack(MAGIC, VERSION, flags, padding, stream_id, rwnd, seq % SEQ_SPACE, ack % SEQ_SPACE)
    return b"".join((header, bytes(padding), payload))


def encode_ack(sacks: Sequence[SackBlock], *, stream_id: int, rwnd: int, seq: int, ack: int) -> bytes:
    """The answer to received packets: SACK when some are held beyond a gap, otherwise STATE."""
    blocks = encode_sack_blocks(sacks[:MAX_SACK_BLOCKS])
    return encode_packet(SACK if blocks else STATE, stream_id=stream_id, rwnd=rwnd, seq=seq, ack=ack, payload=blocks)


def encode_sack_blocks(sacks: Iterable[SackBlock]) -> bytes:
    """The blocks as they follow a header."""
    return b"".join([_BLOCK.pack(start % SEQ_SPACE, end % SEQ_SPACE) for start, end in sacks])


@lru_cache(maxsize=256)  # a stream uses one payload size and the batch sizes below it; a peer cannot choose ours
def _run_packer(count: int, payload_bytes: int) -> tuple[Struct, Struct]:
    return Struct("<" + f"QIII{payload_bytes}s" * count), Struct(f"{payload_bytes}s" * count)


def pack_run(
    flags: int,
    count: int,
    payload_bytes: int,
    source: BytesLike,
    offset: int,
    *,
    stream_id: int,
    rwnd: int,
    first_seq: int,
    ack: int,
) -> bytes:
    """`count` packets of `payload_bytes` each, cut from `source` at `offset` on, with consecutive numbers."""
    packer, cutter = _run_packer(count, payload_bytes)
    kind = _kind(flags, stream_id)
    first_seq %= SEQ_SPACE
    fields: list[int | bytes] = [kind, rwnd, 0, ack % SEQ_SPACE, b""] * count
    if first_seq + count <= SEQ_SPACE:
        fields[2::5] = range(first_seq, first_seq + count)
    else:
        fields[2::5] = [seq % SEQ_SPACE for seq in range(first_seq, first_seq + count)]
    fields[4::5] = cutter.unpack_from(source, offset)
    return packer.pack(*fields)


@lru_cache(maxsize=128)  # bounded although the peer chooses the sizes
def _run_checker(count: int, segment_bytes: int) -> Struct:
    return Struct("<" + f"QIII{segment_bytes - HEADER_BYTES}x" * count)


class RunHeader(NamedTuple):
    """Packets of a buffer that can be treated as one."""

    flags: int
    start: int
    """Where in the buffer they begin, in packets."""
    packets: int
    first_seq: int
    rwnd: int
    """Of the packet with the last ack."""
    ack: int


def parse_runs(data: BytesLike, segment_bytes: int, count: int, *, stream_id: int) -> list[RunHeader] | None:
    """Check `count` headers at a stride of `segment_bytes` in one step.

    Returns:
        The runs of consecutive seq in a buffer of plain DATA packets, one if nothing is missing; or for acknowledgements the
        one that counts, because it says all that those before it said. None when the packets are anything else and must be
        taken one by one.
    """
    fields = _run_checker(count, segment_bytes).unpack_from(data)
    kind: int = fields[0]
    flags = kind >> 16 & 0xFF
    if kind != _kind(flags, stream_id):
        return None
    acks: tuple[int, ...] = fields[3::4]
    latest = max(acks)
    if latest - min(acks) >= _HALF:  # the numbers wrap here
        return None
    if flags == DATA:
        if fields[::4].count(kind) != count or acks[-1] != latest:
            return None
        return _consecutive(fields[2::4], count, fields[-3], latest)
    if flags in (STATE, SACK) and set(fields[::4]) <= {_kind(STATE, stream_id), _kind(SACK, stream_id)}:
        index = count - 1 - acks[::-1].index(latest)
        at = 4 * index
        return [RunHeader(fields[at] >> 16 & 0xFF, index, 1, fields[at + 2], fields[at + 1], latest)]
    return None


def _kind(flags: int, stream_id: int) -> int:
    """The first eight bytes of a packet without data offset, as one number."""
    return MAGIC | VERSION << 8 | flags << 16 | stream_id << 32


def _consecutive(seqs: tuple[int, ...], count: int, rwnd: int, ack: int) -> list[RunHeader]:
    first = seqs[0]
    if seqs == tuple(range(first, first + count)):
        return [RunHeader(DATA, 0, count, first, rwnd, ack)]
    starts = [0, *(at for at in range(1, count) if seqs[at] != seqs[at - 1] + 1), count]  # a wrap cuts too
    return [RunHeader(DATA, start, end - start, seqs[start], rwnd, ack) for start, end in pairwise(starts)]


def payloads_of_run(data: BytesLike, segment_bytes: int, count: int, index: int = 0) -> list[memoryview]:
    """Views of the payloads of `count` packets without padding, from that at `index` on."""
    view = memoryview(data)
    start = index * segment_bytes
    return [
        view[at + HEADER_BYTES : at + segment_bytes]
        for at in range(start, start + count * segment_bytes, segment_bytes)
    ]
