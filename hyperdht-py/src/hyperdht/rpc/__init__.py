"""dht-rpc without I/O: requests and replies between the nodes of the DHT, and queries across them."""

from .endpoint import CLIENT_SOCKET, SERVER_SOCKET, Endpoint
from .events import Event, NatSampled, ReplyReceived, RequestReceived, RequestSlow, RequestTimedOut
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
from .nat import NatSampler
from .query import BestReply, Commit, DownHintWanted, Query, QueryEvent, QueryFinished, QueryReplied
from .requests import QUERY_RETRIES, Datagram
from .routing_table import Node, RoutingTable
from .tokens import Tokens

__all__ = [
    "CLIENT_SOCKET",
    "QUERY_RETRIES",
    "SERVER_SOCKET",
    "BestReply",
    "Command",
    "Commit",
    "Datagram",
    "DownHintWanted",
    "Endpoint",
    "ErrorCode",
    "Event",
    "NatSampled",
    "NatSampler",
    "Node",
    "Query",
    "QueryEvent",
    "QueryFinished",
    "QueryReplied",
    "Reply",
    "ReplyReceived",
    "Request",
    "RequestReceived",
    "RequestSlow",
    "RequestTimedOut",
    "RoutingTable",
    "Tokens",
    "decode_reply",
    "decode_request",
    "encode_address",
    "encode_reply",
    "encode_request",
    "node_id",
]
