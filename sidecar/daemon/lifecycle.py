"""Start the parts in order and stop them again: what the daemon and programs that embed us have in common."""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING

import anyio
import anyio.abc

from hyperdht.io.interfaces import EVERY_INTERFACE
from ollama_bridge.errors import OllamaBridgeError
from sidecar.control import SidecarControl
from sidecar.identity import relay_key_pair
from sidecar.rooms.internet import InternetRooms

from .assemble import assemble
from .connection_gauges import ConnectionGauges
from .connections import ConnectionFacts
from .examine import Examiner
from .explain import Explainer
from .local_network import LocalNetwork

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sidecar.config import Settings
    from sidecar.parts import Parts

log = logging.getLogger(__name__)

STOP_DEADLINE_S = 5.0
RECOVER_RETRY_S = 5.0
GAUGES_S = 5.0


@contextlib.asynccontextmanager
async def run_parts(settings: Settings, *, api_address: str = "") -> AsyncIterator[tuple[Parts, SidecarControl]]:
    """Everything but the control API, working in the background of the block; peers are told when it ends.

    What the block raises comes out as it is, not in a group.

    Args:
        settings: Its data folder is prepared and locked.
        api_address: What `status` says; empty without an API.
    Raises:
        DaemonError: The listener's address cannot be used; nothing was left running.
    """
    async with assemble(settings) as parts:
        local_network = LocalNetwork(parts)
        await local_network.open()
        internet = internet_rooms(parts)

        async def rooms_changed() -> None:
            internet.rooms_changed()
            await local_network.rooms_changed()

        facts = ConnectionFacts(parts, local_network, internet)
        control = SidecarControl(
            parts,
            api_address=api_address,
            listening=local_network.listening,
            examine=Examiner(parts, local_network, facts).run,
            connections=Explainer(parts, facts),
            rooms_changed=rooms_changed,
        )
        failure: Exception | None = None
        async with anyio.create_task_group() as tasks:
            await _start(parts, local_network, internet, tasks)
            tasks.start_soon(ConnectionGauges(parts, facts).run)
            try:
                yield parts, control
            except Exception as error:
                failure = error  # raised below, outside the group, which would wrap it
            finally:
                with anyio.move_on_after(STOP_DEADLINE_S, shield=True):
                    await parts.network.close()
                tasks.cancel_scope.cancel()
        if failure is not None:
            raise failure


async def _start(
    parts: Parts, local_network: LocalNetwork, internet: InternetRooms, tasks: anyio.abc.TaskGroup
) -> None:
    """Start everything that works in the background, in this order."""
    tasks.start_soon(parts.network.run)
    tasks.start_soon(parts.transfers.run)
    tasks.start_soon(local_network.run)
    tasks.start_soon(internet.run)
    await parts.publisher.restore()
    tasks.start_soon(parts.local.run, parts.sync.adapter_appeared, parts.publisher.adapter_removed)
    tasks.start_soon(parts.sync.run)
    tasks.start_soon(parts.alarms.run)
    tasks.start_soon(parts.room_registry.run)
    tasks.start_soon(_recover, parts)
    tasks.start_soon(_keep_gauges, parts)


def internet_rooms(parts: Parts) -> InternetRooms:
    """As the settings want it. Nothing is sent before a room on the internet is joined."""
    settings, listen = parts.settings, parts.settings.listen
    bound = listen is not None and listen.host not in ("", "::", EVERY_INTERFACE) and ":" not in listen.host
    return InternetRooms(
        parts.identity.key_pair,
        lambda stream, address: parts.network.run_connection(stream, address, is_lan=False),
        rooms=lambda: (*parts.network.rooms.values(), *parts.orch_mind.joined),
        acquaintances=parts.network.acquaintances,
        bootstrap=[str(node) for node in settings.bootstrap] or None,
        max_peers=settings.max_peers,
        relay_key_pair=None if settings.no_relay else relay_key_pair(parts.identity.key_pair),
        enabled=not settings.no_dht,
        host=listen.host if listen is not None and bound else EVERY_INTERFACE,
    )


async def _recover(parts: Parts) -> None:
    """Take back what an install that was killed left in Ollama, as soon as Ollama answers."""
    while True:
        try:
            recovered = await parts.installer.recover()
        except OllamaBridgeError as error:
            log.debug("not yet: %s", error)
            await anyio.sleep(RECOVER_RETRY_S)
            continue
        for name in recovered.removed:
            log.info("removed %s, left by an interrupted install", name)
        for name in recovered.restored:
            log.info("restored %s, which an interrupted install was about to replace", name)
        return


async def _keep_gauges(parts: Parts) -> None:
    """Bring the gauges up to date now and then; counters are counted where things happen."""
    metrics, network, catalogue = parts.metrics, parts.network, parts.catalogue
    counted: dict[str, int] = {}
    sent = 0
    while True:
        metrics.provided_bytes.inc(network.sent_bytes - sent)
        sent = network.sent_bytes
        metrics.peers.set(sum(1 for each in network.connections.values() if each.proved))
        metrics.rooms.set(len(network.rooms))
        metrics.entries.set(sum(catalogue.count(room) for room in catalogue.rooms()))
        metrics.shared.set(len(await parts.journal.run(lambda journal: journal.shares())))
        metrics.transfers.set(parts.transfers.running)
        metrics.upload_slots_used.set(parts.provider.slots.used)
        metrics.ollama_up.set(bool(parts.local.ollama_up))
        for kind, count in network.bad_input.items():
            for _ in range(count - counted.get(kind, 0)):
                metrics.bad_input(kind)  # type: ignore[arg-type]
            counted[kind] = count
        await anyio.sleep(GAUGES_S)
