"""Hyperswarm without I/O: which peers of which topics to connect to, and when."""

from .candidates import Firewall
from .connection_set import Connection, ConnectionState
from .dial_log import DialLog, DialReport
from .discovery import Discovery, DiscoveryState, Refresh, RefreshMode, Session
from .events import (
    CloseReason,
    CloseWanted,
    ConnectionLost,
    ConnectionOpened,
    DialWanted,
    FlushEnded,
    KeepAliveWanted,
    PeerBanned,
    RefreshUnwanted,
    RefreshWanted,
    SwarmEvent,
    UnannounceWanted,
    Updated,
)
from .flush import Flush
from .peer_info import PeerInfo, Priority
from .slots import Limits
from .swarm import Swarm, SwarmState

__all__ = [
    "CloseReason",
    "CloseWanted",
    "Connection",
    "ConnectionLost",
    "ConnectionOpened",
    "ConnectionState",
    "DialLog",
    "DialReport",
    "DialWanted",
    "Discovery",
    "DiscoveryState",
    "Firewall",
    "Flush",
    "FlushEnded",
    "KeepAliveWanted",
    "Limits",
    "PeerBanned",
    "PeerInfo",
    "Priority",
    "Refresh",
    "RefreshMode",
    "RefreshUnwanted",
    "RefreshWanted",
    "Session",
    "Swarm",
    "SwarmEvent",
    "SwarmState",
    "UnannounceWanted",
    "Updated",
]
