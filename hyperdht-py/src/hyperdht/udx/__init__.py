"""UDX without I/O: reliable ordered streams over UDP, many on one socket; docs/protocol/udx.md."""

from .endpoint import Counters, EndpointStream, RelayHook, StreamPacketHook, Transmission, UdxEndpoint
from .events import (
    CloseReason,
    Event,
    StreamClosed,
    StreamDelivered,
    StreamEnded,
    StreamMessageReceived,
    StreamReadable,
    StreamRemoteChanged,
    StreamWritable,
)
from .packet import is_stream_packet, stream_id_of
from .sender import Batch
from .stream import State, UdxStream

__all__ = [
    "Batch",
    "CloseReason",
    "Counters",
    "EndpointStream",
    "Event",
    "RelayHook",
    "State",
    "StreamClosed",
    "StreamDelivered",
    "StreamEnded",
    "StreamMessageReceived",
    "StreamPacketHook",
    "StreamReadable",
    "StreamRemoteChanged",
    "StreamWritable",
    "Transmission",
    "UdxEndpoint",
    "UdxStream",
    "is_stream_packet",
    "stream_id_of",
]
