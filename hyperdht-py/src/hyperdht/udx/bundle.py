"""Buffers of several datagrams, as UDP_GRO gives them: whose they are, and what a relay changes in them.

A slice with the datagrams' size as its step is one byte of each, so that Python is not asked once per packet.
"""

from collections.abc import Iterator

from .packet import DESTROY, HEADER_BYTES, MAGIC, VERSION, is_stream_packet

FLAGS_AT, STREAM_ID_AT, STREAM_ID_END = 2, 4, 8
SAME_IN_ALL = (0, 1, 4, 5, 6, 7)  # magic, version, stream id


def common_stream_id(data: bytes, segment_bytes: int) -> int | None:
    """The stream all datagrams in `data` are for; None when they differ or one is no stream packet."""
    size = len(data)
    if size < HEADER_BYTES or segment_bytes < HEADER_BYTES or data[0] != MAGIC or data[1] != VERSION:
        return None
    if size > segment_bytes:
        if 0 < size % segment_bytes < HEADER_BYTES:
            return None
        count = -(-size // segment_bytes)
        for place in SAME_IN_ALL:
            if data[place::segment_bytes].count(data[place]) != count:
                return None
    return int.from_bytes(data[STREAM_ID_AT:STREAM_ID_END], "little")


def split_by_stream(data: bytes, segment_bytes: int) -> Iterator[tuple[int | None, bytes]]:
    """Cut a mixed buffer into pieces with one stream id each, in order; None marks one datagram that is no stream packet."""
    start, current = 0, None
    for at in range(0, len(data), segment_bytes):
        datagram = data[at : at + segment_bytes]
        stream_id = (
            int.from_bytes(datagram[STREAM_ID_AT:STREAM_ID_END], "little") if is_stream_packet(datagram) else None
        )
        if at and (stream_id is None or stream_id != current):
            yield current, data[start:at]
            start = at
        current = stream_id
    yield current, data[start:]


def readdress(data: bytes, segment_bytes: int, stream_id: int) -> bytes:
    """The same datagrams for another stream."""
    out = bytearray(data)
    count = -(-len(data) // segment_bytes)
    for place, value in enumerate(stream_id.to_bytes(4, "little"), start=STREAM_ID_AT):
        out[place::segment_bytes] = bytes([value]) * count
    return bytes(out)


def has_destroy(data: bytes, segment_bytes: int) -> bool:
    """Whether one of the datagrams gives the stream up."""
    return any(flags & DESTROY for flags in set(data[FLAGS_AT::segment_bytes]))
