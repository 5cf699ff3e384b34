"""`doctor` over a running daemon: the checks' questions answered by its parts."""

from __future__ import annotations

import shutil
import time
from typing import TYPE_CHECKING

from sidecar.control import ollama_info, store_info
from sidecar.doctor import DialCounts, DiskInfo, DoctorContext, PeerCounts, run_checks
from sidecar.round_trip import round_trip

from .connections import only_positive

if TYPE_CHECKING:
    from sidecar.control_types import DoctorLine, OllamaInfo, StoreInfo
    from sidecar.parts import Parts

    from .connections import ConnectionFacts
    from .local_network import LocalNetwork


class Examiner:
    """See the module docstring."""

    def __init__(self, parts: Parts, local_network: LocalNetwork, facts: ConnectionFacts) -> None:
        self._parts = parts
        self._facts = facts
        self._local_network = local_network

    async def run(self) -> tuple[DoctorLine, ...]:
        """Run every check."""
        parts = self._parts
        return await run_checks(
            DoctorContext(
                paths=parts.paths,
                ollama_is_local=parts.client.is_loopback,
                ollama=self._ollama,
                store=self._store,
                disk=self._disk,
                now=time.time,
                listening=self._local_network.listening,
                internet=self._facts.internet.info,
                machine=self._facts.machine,
                rooms=self._facts.rooms,
                dials=self._dials,
                orch_mind=parts.orch_mind.info,
                peers=self._peers,
                registry=lambda: parts.room_registry.info(entries=False),
                round_trip=lambda: round_trip(parts.paths.root),
            )
        )

    async def _ollama(self) -> OllamaInfo:
        return await ollama_info(self._parts)

    async def _store(self) -> StoreInfo:
        return store_info(self._parts)

    def _disk(self) -> DiskInfo:
        parts = self._parts
        usage = shutil.disk_usage(parts.paths.root)
        reserve = parts.settings.reserve_bytes(usage.total)
        return DiskInfo(usage.total, usage.free, reserve, parts.blobs.stored_bytes(), parts.settings.quota)

    def _dials(self) -> DialCounts:
        return DialCounts(self._facts.dials_opened(), only_positive(self._facts.dials_failed()))

    def _peers(self) -> PeerCounts:
        network, configured = self._parts.network, self._parts.settings.peers
        reached = sum(network.is_connected(f"{peer.host}:{peer.port}") for peer in configured)
        connected = sum(1 for each in network.connections.values() if each.proved)
        return PeerCounts(len(network.rooms), connected, len(configured), reached, network.bad_input["proof"])
