"""Dials the members that `DialPlan` names, through a swarm: by key, each until it is connected or given up."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    from hyperdht import HyperDHT, Hyperswarm

    from .acquaintances import Acquaintances

log = logging.getLogger(__name__)


class MemberDialing:
    """One per swarm. A peer is asked of the swarm only while it is dialled: the more it is asked for by key, the fewer places
    it leaves for those that it finds in topics."""

    def __init__(self, node: HyperDHT, swarm: Hyperswarm, acquaintances: Acquaintances) -> None:
        self._node = node
        self._swarm = swarm
        self._acquaintances = acquaintances
        self._plan = acquaintances.plan
        self._asked: set[bytes] = set()

    async def run(self) -> None:
        """Dial until cancelled."""
        forget_callback = self._node.on_network_change(self._network_changed)
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._watch)
                while True:
                    self._turn(self._swarm.now())
                    with anyio.CancelScope(deadline=self._plan.next_timer()):
                        await self._acquaintances.woken()
        finally:
            forget_callback()
            self._acquaintances.online = False
            self._plan.give_back(self._swarm.now())

    async def _watch(self) -> None:
        """Failed dials show in what the swarm remembers of a peer, which may change whenever its numbers do."""
        with self._swarm.events() as events:
            async for _ in events:
                self._acquaintances.wake()

    def _network_changed(self) -> None:
        self._plan.hasten(self._swarm.now())
        self._acquaintances.wake()

    def _turn(self, now: float) -> None:
        self._acquaintances.online = self._node.online
        if not self._node.online:
            self._plan.give_back(now)  # it is not the members' fault
        failed = [key for key, began in self._plan.dialling.items() if self._has_failed(key, began)]
        for key in {*failed, *self._plan.overdue(now)}:
            log.debug("member %s cannot be reached", key.hex()[:12])
            self._acquaintances.dial_failed(key)
        for key in tuple(self._asked - self._plan.dialling.keys()):
            self._swarm.leave_peer(key)
            self._asked.discard(key)
        for key in self._plan.take(now):
            self._asked.add(key)
            self._swarm.join_peer(key)

    def _has_failed(self, key: bytes, began: float) -> bool:
        """Whether the swarm's dial failed, and not so that its next one may get through by a relay."""
        report, peer = self._swarm.dials.get(key), self._swarm.peer(key)
        if report is None or report.code is None or report.at < began:
            return False
        may_relay = peer is not None and peer.force_relaying and self._acquaintances.relay_for(key, True) is not None
        return report.relay is not None or not may_relay
