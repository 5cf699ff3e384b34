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
    NatKind,
    PeerFacts,
    Refusal,
    Road,
    RoomFacts,
)
from .findings import KINDS
from .machine import diagnose_machine
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
    "NatKind",
    "PeerFacts",
    "Refusal",
    "Road",
    "RoomFacts",
    "diagnose_machine",
    "diagnose_peer",
    "diagnose_room",
]
