"""UDX without I/O: reliable ordered streams over UDP, many on one socket; docs/protocol/udx.md."""

from .events import (
    CloseReason,
    Event,
    StreamClosed,
    StreamDataReceived,
    StreamEnded,
    StreamMessageReceived,
    StreamWritable,
)
from .packet import is_stream_packet, stream_id_of
from .sender import Batch
from .stream import State, UdxStream

__all__ = [
    "Batch",
    "CloseReason",
    "Event",
    "State",
    "StreamClosed",
    "StreamDataReceived",
    "StreamEnded",
    "StreamMessageReceived",
    "StreamWritable",
    "UdxStream",
    "is_stream_packet",
    "stream_id_of",
]
