"""Numbers for Prometheus. No name, key, code or path is ever a label: a scrape must not tell who is in which room (T21)."""

from __future__ import annotations

from typing import Literal, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from sidecar.control_types import NatKind, Road
from sidecar.diagnosis import DialKind, LanOutcome

BadInput = Literal["entry", "entry-older", "entry-conflict", "entry-full", "proof", "protocol"]
Route = Literal["pull", "create", "none"]
LAN_OUTCOMES = get_args(LanOutcome)
RESULT_OPENED = "opened"
# Any error code of `sidecar.errors` is a result; anything else would let a stranger invent time series.
RESULT_OK = "ok"


class Metrics:
    """One registry per daemon, so that two daemons in one process (tests, the demo) do not mix."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self.registry)
        self.fetched_bytes = self._counter("fetched_bytes", "Verified bytes obtained from peers.")
        self.provided_bytes = self._counter("provided_bytes", "Bytes sent to peers who asked for chunks.")
        self.chunks_rejected = self._counter("chunks_rejected", "Chunks whose SHA-256 was wrong.")
        self.peers_banned = self._counter("peers_banned", "Peers no longer asked for a blob because they lied.")
        self._bad_input = Counter(
            "ollaswarm_bad_input", "Input from peers that was refused, by kind.", ["kind"], registry=self.registry
        )
        self._installs = Counter(
            "ollaswarm_installs", "Installs by route and result.", ["route", "result"], registry=self.registry
        )
        self.transfer_seconds = Histogram(
            "ollaswarm_transfer_seconds",
            "Time from the start of a fetch to its verified file.",
            buckets=(0.1, 0.5, 1, 5, 15, 60, 300, 1800, 7200),
            registry=self.registry,
        )
        self.peers = self._gauge("peers", "Connected peers.")
        self.rooms = self._gauge("rooms", "Rooms joined.")
        self.entries = self._gauge("entries", "Entries known in all rooms.")
        self.shared = self._gauge("shared", "Adapters this machine offers.")
        self.transfers = self._gauge("transfers", "Running fetches.")
        self.upload_slots_used = self._gauge("upload_slots_used", "Peers being served.")
        self.ollama_up = self._gauge("ollama_up", "1 while Ollama answers.")
        self.connections = self._kinds("connections", "Connected members by road.", "road", get_args(Road))
        self.nat = self._kinds("nat", "1 for the kind of NAT before this machine.", "kind", get_args(NatKind))
        self.dht_online = self._gauge("dht_online", "1 while the DHT answers.")
        self.unproved = self._gauge("unproved_connections", "Connections in which nobody proved a room.")
        self.lan_addresses = self._kinds(
            "lan_addresses", "Addresses on the local network by how the newest dial ended.", "outcome", LAN_OUTCOMES
        )
        self.dials = Counter(
            "ollaswarm_dials", "Dials over the DHT by how they ended.", ["result"], registry=self.registry
        )
        for result in (RESULT_OPENED, *get_args(DialKind)):
            self.dials.labels(result)
        self.relayed_pairs = self._gauge("relayed_pairs", "Connections between other members that go through here.")
        self.relays_refused = self._counter("relays_refused", "Strangers that wanted to be relayed.")
        self.orch_mind_peers = self._gauge("orch_mind_peers", "Connected users of Orch-Mind.")
        self.orch_mind_rooms = self._gauge("orch_mind_rooms", "Rooms in which Orch-Mind's messages are spoken.")
        self.orch_mind_offered = self._gauge("orch_mind_offered", "Adapters offered to users of Orch-Mind.")
        for kind in get_args(BadInput):
            self._bad_input.labels(kind)

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(f"ollaswarm_{name}", text, registry=self.registry)

    def _kinds(self, name: str, text: str, label: str, values: tuple[str, ...]) -> Gauge:
        gauge = Gauge(f"ollaswarm_{name}", text, [label], registry=self.registry)
        for value in values:
            gauge.labels(value)
        return gauge

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(f"ollaswarm_{name}", text, registry=self.registry)

    def bad_input(self, kind: BadInput) -> None:
        """Count input that was refused."""
        self._bad_input.labels(kind).inc()

    def install_ended(self, route: Route, result: str = RESULT_OK) -> None:
        """Count an install; `result` is `ok` or the code of the `SidecarError` that ended it."""
        self._installs.labels(route, result).inc()

    def render(self) -> bytes:
        """The text that Prometheus scrapes."""
        return generate_latest(self.registry)
