"""What an endpoint tells its owner."""

from dataclasses import dataclass
from typing import TypeAlias

from ..addresses import Address
from .messages import Reply, Request


@dataclass(frozen=True, slots=True)
class ReplyReceived:
    """A request was answered."""

    handle: int
    """What `Endpoint.request` returned."""
    reply: Reply
    sender: Address
    """Who answered. Replies are matched by their tid alone: compare, if it matters."""
    socket: int


@dataclass(frozen=True, slots=True)
class RequestSlow:
    """The first transmission of a request had no answer in time."""

    handle: int


@dataclass(frozen=True, slots=True)
class RequestTimedOut:
    """All transmissions of a request went unanswered."""

    handle: int


@dataclass(frozen=True, slots=True)
class RequestReceived:
    """A command of the layer above. Answer with `Endpoint.reply`, or not at all if the request is invalid."""

    request: Request
    """Its token, if there is one, is a good one."""
    sender: Address
    socket: int


@dataclass(frozen=True, slots=True)
class NatSampled:
    """A node told us our address, and `Endpoint.nat` took it in."""

    address: Address


Event: TypeAlias = ReplyReceived | RequestSlow | RequestTimedOut | RequestReceived | NatSampled
