"""Protomux without I/O: many channels over one stream that keeps message boundaries."""

from .channel import Channel
from .events import ChannelClosed, ChannelMessageReceived, ChannelOpened, ChannelRequested, Event
from .limits import MuxLimits
from .mux import Mux

__all__ = [
    "Channel",
    "ChannelClosed",
    "ChannelMessageReceived",
    "ChannelOpened",
    "ChannelRequested",
    "Event",
    "Mux",
    "MuxLimits",
]
