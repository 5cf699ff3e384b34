"""`doctor --room` and `doctor --peer`, and what `status` says about connections: facts to findings, and a dial if it is wanted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

from sidecar.control_types import ConnectionsInfo, Diagnosis, DialResult
from sidecar.diagnosis import diagnose_peer, diagnose_room
from sidecar.events import PeerConnected

from .connections import ConnectionFacts, dial_kind, only_positive

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from hyperdht import Hyperswarm
    from sidecar.control_types import NumberedEvent
    from sidecar.parts import Parts

TRY_TIMEOUT_S = 75.0
"""Above the swarm's own limit for a dial, whose turn may have to come first."""
PROOF_TIMEOUT_S = 5.0
"""After the connection, for the peer to prove a room."""


class Explainer:
    """See the module docstring. Implements `control.ConnectionVerbs`."""

    def __init__(self, parts: Parts, facts: ConnectionFacts) -> None:
        self._parts = parts
        self._facts = facts

    def overview(self) -> ConnectionsInfo:
        """Connections in numbers."""
        facts, dht, internet = self._facts, self._facts.dht(), self._facts.internet.info()
        return ConnectionsInfo(
            online=dht.works,
            nat=dht.nat,
            reachable=dht.nat == "open",
            roads=only_positive(facts.roads()),
            unproved=facts.unproved(),
            dials_opened=facts.dials_opened(),
            dials_failed=only_positive(facts.dials_failed()),
            lan_dials=only_positive(facts.lan().dials),
            relaying=internet.relaying,
            relayed_pairs=internet.relayed_pairs,
        )

    def known_keys(self) -> set[bytes]:
        """Peers that a unique prefix may mean."""
        return self._facts.known_keys()

    def diagnose_room(self, room_id: bytes) -> Diagnosis:
        """Why a room of our own protocol has no peers, or not all."""
        room = self._facts.room(self._parts.network.rooms[room_id])
        return Diagnosis(room.label, room.members > 0, diagnose_room(self._facts.machine(), room))

    async def diagnose_peer(self, key: bytes, *, dial: bool) -> Diagnosis:
        """Why a peer is not reachable."""
        before, swarm, tried = self._facts.peer(key), self._facts.internet.swarm, None
        if dial and swarm is not None and before.road is None and not (before.ourselves or before.blocked):
            tried = await self._dial(swarm, key)
        peer = self._facts.peer(key)
        reached = peer.orch_mind or bool(peer.rooms)
        return Diagnosis(key.hex(), reached, diagnose_peer(self._facts.machine(), peer), tried)

    async def _dial(self, swarm: Hyperswarm, key: bytes) -> DialResult:
        began, report = anyio.current_time(), None
        async with self._parts.bus.subscribe() as events:
            with anyio.move_on_after(TRY_TIMEOUT_S):
                report = await swarm.try_peer(key)
                if report is not None and report.code is not None:
                    took = anyio.current_time() - began
                    return DialResult(False, took, kind=dial_kind(report.code), detail=report.detail)
                with anyio.move_on_after(PROOF_TIMEOUT_S):
                    await self._proof(key, events)
        connection = self._parts.network.connections.get(key)
        took = anyio.current_time() - began
        if connection is None:
            return DialResult(False, took, detail="" if report is None else "It connected, and the connection ended.")
        return DialResult(True, took, connection.road)

    async def _proof(self, key: bytes, events: AsyncIterator[NumberedEvent]) -> None:
        """Return once the peer proved a room."""
        if self._facts.peer(key).rooms:
            return
        async for numbered in events:
            if isinstance(numbered.event, PeerConnected) and numbered.event.peer == key.hex():
                return
