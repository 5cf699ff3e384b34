"""What a Protomux connection tells its owner."""

from dataclasses import dataclass
from typing import TypeAlias

from .channel import Channel


@dataclass(frozen=True, slots=True)
class ChannelRequested:
    """The peer opened a channel that does not exist here. Answer with `create_channel` and `open`, or with `reject`."""

    protocol: str
    id: bytes | None


@dataclass(frozen=True, slots=True)
class ChannelOpened:
    """Both sides opened the channel."""

    channel: Channel
    handshake: bytes
    """What the peer attached to its open; possibly empty."""


@dataclass(frozen=True, slots=True)
class ChannelMessageReceived:
    """A message. A `type` the owner does not know is to be ignored: a newer peer may have more of them."""

    channel: Channel
    type: int
    body: memoryview
    """A view into the received message, valid as long as it is kept."""


@dataclass(frozen=True, slots=True)
class ChannelClosed:
    """The channel is over. The last event of a channel; it may come without `ChannelOpened`, then the peer refused."""

    channel: Channel
    remote: bool
    """Whether the peer closed or rejected it, or the connection ended; False when we closed it."""


Event: TypeAlias = ChannelRequested | ChannelOpened | ChannelMessageReceived | ChannelClosed
