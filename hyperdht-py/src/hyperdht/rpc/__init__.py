"""dht-rpc without I/O: requests and replies between the nodes of the DHT, and queries across them."""

from .best_replies import BestReply
from .caller import Answer, Caller
from .endpoint import CLIENT_SOCKET, SERVER_SOCKET, Endpoint
from .events import Event, NatSampled, ReplyReceived, RequestReceived, RequestSlow, RequestTimedOut
from .health import Health
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
from .node import RpcNode
from .query import Commit, DownHintWanted, Query, QueryEvent, QueryFinished, QueryReplied
from .randomness import Randomness
from .requests import QUERY_RETRIES, RETRIES, TIMEOUT_S, Datagram
from .routing_table import Node, RoutingTable
from .running_query import QueryOutcome, RunningQuery, Write
from .timers import Timer, Timers
from .tokens import Tokens

__all__ = [
    "CLIENT_SOCKET",
    "QUERY_RETRIES",
    "RETRIES",
    "SERVER_SOCKET",
    "TIMEOUT_S",
    "Answer",
    "BestReply",
    "Caller",
    "Command",
    "Commit",
    "Datagram",
    "DownHintWanted",
    "Endpoint",
    "ErrorCode",
    "Event",
    "Health",
    "NatSampled",
    "NatSampler",
    "Node",
    "Query",
    "QueryEvent",
    "QueryFinished",
    "QueryOutcome",
    "QueryReplied",
    "Randomness",
    "Reply",
    "ReplyReceived",
    "Request",
    "RequestReceived",
    "RequestSlow",
    "RequestTimedOut",
    "RoutingTable",
    "RpcNode",
    "RunningQuery",
    "Timer",
    "Timers",
    "Tokens",
    "Write",
    "decode_reply",
    "decode_request",
    "encode_address",
    "encode_reply",
    "encode_request",
    "node_id",
]
