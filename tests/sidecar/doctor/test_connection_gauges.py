"""Connections in metrics: what is counted, and that a swarm that began anew takes nothing away."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

from sidecar.daemon.connection_gauges import ConnectionGauges
from sidecar.diagnosis import DhtFacts, LanFacts
from sidecar.metrics import Metrics
from sidecar.orch_mind.service import OrchMindInfo


def gauges(metrics: Metrics, facts: dict[str, Any]) -> ConnectionGauges:
    """Over numbers that the test may change."""

    def told(name: str) -> Any:
        return lambda: facts[name]

    internet = SimpleNamespace(info=lambda: SimpleNamespace(relayed_pairs=2, refused_relays=facts["refused"]))
    names = ("dht", "lan", "roads", "unproved", "dials_opened", "dials_failed")
    look: Any = SimpleNamespace(internet=internet, **{name: told(name) for name in names})
    orch_mind = SimpleNamespace(info=lambda: OrchMindInfo(1, 3, 4))
    parts: Any = SimpleNamespace(metrics=metrics, orch_mind=orch_mind)
    return ConnectionGauges(parts, look)


def test_gauges_follow_and_counters_only_grow() -> None:
    metrics = Metrics()
    facts: dict[str, Any] = {
        "dht": DhtFacts(nat="random"),
        "lan": LanFacts(dials={"timeout": 2}),
        "roads": Counter(lan=1, relayed=2),
        "unproved": 1,
        "dials_opened": 5,
        "dials_failed": Counter({"silent": 3}),
        "refused": 1,
    }
    updates = gauges(metrics, facts)
    updates.update()
    facts |= {"dht": DhtFacts(nat="open", answered=False), "lan": LanFacts(), "roads": Counter(), "unproved": 0}
    facts |= {"dials_opened": 2, "dials_failed": Counter({"silent": 4}), "refused": 0}
    first = metrics.render().decode()
    updates.update()
    second = metrics.render().decode()
    for line in (
        'ollaswarm_connections{road="relayed"} 2.0',
        'ollaswarm_nat{kind="random"} 1.0',
        "ollaswarm_dht_online 1.0",
        'ollaswarm_lan_addresses{outcome="timeout"} 2.0',
        'ollaswarm_dials_total{result="opened"} 5.0',
        'ollaswarm_dials_total{result="silent"} 3.0',
        "ollaswarm_relayed_pairs 2.0",
        "ollaswarm_relays_refused_total 1.0",
        "ollaswarm_orch_mind_peers 3.0",
    ):
        assert line in first
    for line in (
        'ollaswarm_connections{road="relayed"} 0.0',
        'ollaswarm_nat{kind="random"} 0.0',
        'ollaswarm_nat{kind="open"} 1.0',
        "ollaswarm_dht_online 0.0",
        'ollaswarm_lan_addresses{outcome="timeout"} 0.0',
        'ollaswarm_dials_total{result="opened"} 7.0',
        'ollaswarm_dials_total{result="silent"} 4.0',
        "ollaswarm_relays_refused_total 1.0",
    ):
        assert line in second
