"""Why peers do not reach each other: facts in, findings out. No I/O and no clock; `daemon.connections` gathers the facts."""

from __future__ import annotations

from .facts import (
    ClockFacts,
    DhtFacts,
    DialFacts,
    DialKind,
    Interface,
    LanFacts,
    LanOutcome,
    MachineFacts,
    MeetingFacts,
    PeerFacts,
    Refusal,
    RoomFacts,
)
from .findings import KINDS
from .machine import diagnose_clock, diagnose_lan, diagnose_machine, diagnose_ways_out, worst_first
from .peer import diagnose_peer
from .room import diagnose_room

__all__ = [
    "KINDS",
    "ClockFacts",
    "DhtFacts",
    "DialFacts",
    "DialKind",
    "Interface",
    "LanFacts",
    "LanOutcome",
    "MachineFacts",
    "MeetingFacts",
    "PeerFacts",
    "Refusal",
    "RoomFacts",
    "diagnose_clock",
    "diagnose_lan",
    "diagnose_machine",
    "diagnose_peer",
    "diagnose_room",
    "diagnose_ways_out",
    "worst_first",
]
