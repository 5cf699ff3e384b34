"""dht-rpc without I/O: requests and replies between the nodes of the DHT."""

from .messages import (
    Command,
    ErrorCode,
    Reply,
    Request,
    decode_reply,
    decode_request,
    encode_address,
    encode_reply,
    encode_request,
    node_id,
)

__all__ = [
    "Command",
    "ErrorCode",
    "Reply",
    "Request",
    "decode_reply",
    "decode_request",
    "encode_address",
    "encode_reply",
    "encode_request",
    "node_id",
]
