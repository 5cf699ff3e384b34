"""Connections in numbers for Prometheus: by kind and road, never by peer or room (T21)."""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

import anyio

from sidecar.control_types import NatKind, Road
from sidecar.diagnosis import LanOutcome

if TYPE_CHECKING:
    from sidecar.parts import Parts

    from .connections import ConnectionFacts

GAUGES_S = 5.0


class ConnectionGauges:
    """Brings the metrics of connections up to date now and then."""

    def __init__(self, parts: Parts, facts: ConnectionFacts) -> None:
        self._parts = parts
        self._facts = facts
        self._counted: dict[str, int] = {}

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            self.update()
            await anyio.sleep(GAUGES_S)

    def update(self) -> None:
        """Once."""
        metrics, facts = self._parts.metrics, self._facts
        dht, roads = facts.dht(), facts.roads()
        for road in get_args(Road):
            metrics.connections.labels(road).set(roads[road])
        for nat in get_args(NatKind):
            metrics.nat.labels(nat).set(dht.nat == nat)
        metrics.dht_online.set(dht.works)
        metrics.unproved.set(facts.unproved())
        dials = facts.lan().dials
        for outcome in get_args(LanOutcome):
            metrics.lan_addresses.labels(outcome).set(dials.get(outcome, 0))
        for kind, total in (("opened", facts.dials_opened()), *facts.dials_failed().items()):
            metrics.dials.labels(kind).inc(self._news(kind, total))
        internet = facts.internet.info()
        metrics.relayed_pairs.set(internet.relayed_pairs)
        metrics.relays_refused.inc(self._news("relays refused", internet.refused_relays))
        orch_mind = self._parts.orch_mind.info()
        metrics.orch_mind_peers.set(orch_mind.peers)
        metrics.orch_mind_rooms.set(orch_mind.rooms)
        metrics.orch_mind_offered.set(orch_mind.offered)

    def _news(self, kind: str, total: int) -> int:
        """What came since the last look. A swarm that was started anew counts from zero."""
        before = self._counted.get(kind, 0)
        self._counted[kind] = total
        return total - before if total >= before else total
