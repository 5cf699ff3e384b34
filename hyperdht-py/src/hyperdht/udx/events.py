"""What a UDX stream tells its owner."""

from dataclasses import dataclass
from enum import Enum, auto
from typing import TypeAlias


class CloseReason(Enum):
    """Why a stream is over."""

    FINISHED = auto()
    """Both sides ended and everything arrived."""
    DESTROYED = auto()
    """We gave it up."""
    RESET = auto()
    """The peer gave it up, or somebody who knows the stream id says so: nothing in UDX is authenticated."""
    TIMED_OUT = auto()
    """The peer did not answer for about 13 seconds."""


@dataclass(frozen=True, slots=True)
class StreamReadable:
    """There are bytes to `read`, where there were none."""


@dataclass(frozen=True, slots=True)
class StreamMessageReceived:
    """An unordered message. Others may be lost, repeated or overtaken."""

    data: bytes


@dataclass(frozen=True, slots=True)
class StreamEnded:
    """The peer ended its side; all its data was delivered."""


@dataclass(frozen=True, slots=True)
class StreamWritable:
    """After a `write` that returned False: there is room again."""


@dataclass(frozen=True, slots=True)
class StreamDelivered:
    """After `end`: the peer has all our bytes, and knows that no more follow."""


@dataclass(frozen=True, slots=True)
class StreamRemoteChanged:
    """After `change_remote`: nothing sent to the old place is missing any more."""


@dataclass(frozen=True, slots=True)
class StreamClosed:
    """The last event of every stream."""

    reason: CloseReason


Event: TypeAlias = (
    StreamReadable
    | StreamMessageReceived
    | StreamEnded
    | StreamWritable
    | StreamDelivered
    | StreamRemoteChanged
    | StreamClosed
)
