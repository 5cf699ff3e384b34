"""Puts the parts together: the one place that knows how they depend on each other."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from anyio import to_thread

from ollama_bridge.client import OllamaClient
from ollama_bridge.errors import OllamaBridgeError
from ollama_bridge.location import StoreLocation, find_store
from ollama_bridge.registry import LoopbackRegistry
from ollama_bridge.store import Store
from sidecar.alarms import Alarms
from sidecar.audit import AuditLog
from sidecar.blobs import Blobs
from sidecar.bus import EventBus
from sidecar.catalogue.journal import Journal
from sidecar.catalogue.journal_thread import JournalThread
from sidecar.catalogue.restore import restore_catalogue
from sidecar.identity import load_or_create_identity
from sidecar.install import Installer
from sidecar.install_model import ModelInstaller
from sidecar.local_models import LocalModels
from sidecar.metrics import Metrics
from sidecar.orch_mind.adopt import Adopter
from sidecar.orch_mind.service import OrchMind
from sidecar.orch_mind.verbs import OrchMindVerbs
from sidecar.parts import Parts
from sidecar.publish import Publisher
from sidecar.registry.build import build_registry
from sidecar.rooms.key import GENERAL_TOPIC, RoomKey
from sidecar.rooms.network import JoinedRoom, RoomNetwork
from sidecar.share_source import SourceFinder
from sidecar.sync.gather import Gatherer
from sidecar.sync.runner import Sync
from sidecar.transfer.bandwidth import EachCapped, TokenBucket
from sidecar.transfer.provide import Provider
from sidecar.transfer.slots import UploadSlots
from sidecar.transfers import Transfers
from sidecar.trust.keyring import Keyring
from sidecar.trust.pins import Pins
from sidecar.trust.policy import Enforcement

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sidecar.config import Settings
    from sidecar.transfer.source import ChunkSource

SHOWN_AT_MOST = 20
"""Models asked about until one says where the store is; cloud stubs and tensor models do not."""


@contextlib.asynccontextmanager
async def assemble(settings: Settings) -> AsyncIterator[Parts]:
    """Open everything that is a file or a socket of ours, and connect the parts. Nothing runs yet."""
    paths = settings.paths
    async with contextlib.AsyncExitStack() as exits:
        identity = await to_thread.run_sync(load_or_create_identity, paths.root)
        journal = await to_thread.run_sync(lambda: Journal.open(paths.root, now=time.time))
        exits.callback(journal.close)
        journal_thread = JournalThread(journal)
        catalogue, _ = await journal_thread.run(restore_catalogue)
        keyring = await journal_thread.run(Keyring)
        pins = await journal_thread.run(Pins)
        client = await exits.enter_async_context(OllamaClient(settings.ollama))
        location = await _locate(settings, client)
        store = Store(location.path) if location.readable else None
        registry = await exits.enter_async_context(LoopbackRegistry(paths.root, store=store))
        bus, metrics = EventBus(), Metrics()
        caps = _Caps(settings)
        provider = Provider(
            slots=UploadSlots(settings.upload_slots), cap=caps.upload, peer_rate=settings.peer_upload_limit
        )
        network = RoomNetwork(
            catalogue=catalogue,
            journal=journal_thread,
            keyring=keyring,
            provider=provider,
            emit=bus.emit,
            max_peers=settings.max_peers,
            room_cap=caps.room_upload,
            lan_exempt=settings.lan_exempt,
        )
        local = LocalModels(client, store, bus.emit, observer=settings.store_watch)
        finder = SourceFinder(paths=paths, client=client, store=store, registry=registry, local=local)
        publisher = Publisher(
            identity=identity,
            paths=paths,
            client=client,
            store=store,
            finder=finder,
            local=local,
            catalogue=catalogue,
            journal=journal_thread,
            network=network,
            provider=provider,
            emit=bus.emit,
        )
        own_key = identity.key_pair.public_key
        blobs = Blobs(
            paths=paths,
            store=store,
            journal=journal_thread,
            network=network,
            provider=provider,
            own_key=own_key,
            quota_bytes=settings.quota,
            reserve=settings.reserve_bytes,
            caps=caps.download,
            banned=lambda key: metrics.peers_banned.inc(),
            rejected=lambda key: metrics.chunks_rejected.inc(),
        )
        installer = Installer(
            client=client,
            store=store,
            registry=registry,
            local=local,
            journal=journal_thread,
            keyring=keyring,
            blobs=blobs,
            audit=AuditLog(paths.audit_log),
            pins=pins,
            enforcement=network.enforcement,
            rooms_of=catalogue.rooms_of,
            model_with=catalogue.model_with,
            emit=bus.emit,
            own_key=own_key,
        )
        models = ModelInstaller(
            client=client, store=store, registry=registry, blobs=blobs, installer=installer, emit=bus.emit
        )
        transfers = Transfers(installer, models, bus.emit, metrics)
        sync = Sync(
            gatherer=Gatherer(
                client=client,
                local=local,
                catalogue=catalogue,
                journal=journal_thread,
                keyring=keyring,
                network=network,
                publisher=publisher,
                own_key=own_key,
                enforcement=network.enforcement,
                quota_bytes=settings.sync_quota,
                window=settings.sync_window,
                wall_clock=time.time,
            ),
            client=client,
            journal=journal_thread,
            network=network,
            publisher=publisher,
            installer=installer,
            transfers=transfers,
            emit=bus.emit,
            listen=bus.listen,
        )
        room_registry = build_registry(
            paths=paths,
            port=settings.registry_port,
            client=client,
            store=store,
            one_time=registry,
            local=local,
            catalogue=catalogue,
            network=network,
            journal=journal_thread,
            provider=provider,
            blobs=blobs,
            installer=installer,
            publisher=publisher,
            transfers=transfers,
            emit=bus.emit,
        )
        orch_mind = OrchMind(
            catalogue=catalogue,
            journal=journal_thread,
            provider=provider,
            own_key=own_key,
            emit=bus.emit,
            cap=caps.fetched,
        )
        network.other = orch_mind
        adopter = Adopter(service=orch_mind, paths=paths, store=store, local=local, blobs=blobs, installer=installer)
        for row in await journal_thread.run(lambda each: each.rooms()):
            topic = GENERAL_TOPIC if row.kind == "general" else None
            network.join(
                JoinedRoom(RoomKey(row.key, topic), row.label, row.kind, row.joined_at, Enforcement(row.policy))
            )
        await network.acquaintances.restore(list(network.rooms))
        await orch_mind.restore()
        yield Parts(
            settings=settings,
            paths=paths,
            identity=identity,
            bus=bus,
            metrics=metrics,
            client=client,
            location=location,
            store=store,
            registry=registry,
            local=local,
            journal=journal_thread,
            keyring=keyring,
            pins=pins,
            catalogue=catalogue,
            provider=provider,
            network=network,
            publisher=publisher,
            blobs=blobs,
            installer=installer,
            models=models,
            transfers=transfers,
            orch_mind=OrchMindVerbs(orch_mind, adopter, transfers, journal_thread, bus.emit),
            sync=sync,
            room_registry=room_registry,
            alarms=Alarms(
                bus=bus,
                catalogue=catalogue,
                journal=journal_thread,
                keyring=keyring,
                pins=pins,
                own_key=own_key,
                blocked=network.part_with,
            ),
        )


async def _locate(settings: Settings, client: OllamaClient) -> StoreLocation:
    """Where the store is: as given, as the server says, or as installs of Ollama have it."""
    if settings.store is None and not client.is_loopback:
        at = await to_thread.run_sync(find_store)
        return StoreLocation(
            at.path, "remote", False, f"Ollama at {client.url} is on another machine; its store is not here."
        )
    shown = None if settings.store is not None else await _ask_server(client)
    return await to_thread.run_sync(lambda: find_store(given=settings.store, show_modelfile=shown))


async def _ask_server(client: OllamaClient) -> str | None:
    """The Modelfile of any local model: its FROM line is a path in the store as the server sees it."""
    with contextlib.suppress(OllamaBridgeError):
        for listed in (await client.tags())[:SHOWN_AT_MOST]:
            shown = await client.show(listed.name)
            if shown.store is not None:
                return shown.modelfile
    return None


class _Caps:
    """Bandwidth caps: for everything, for each room, and for each peer we fetch from. Those of peers we serve are the
    provider's."""

    def __init__(self, settings: Settings) -> None:
        self._lan_exempt = settings.lan_exempt
        self.upload = TokenBucket(settings.upload_limit or None)
        self.fetched = TokenBucket(settings.download_limit or None)
        self._room_uploads = EachCapped(settings.room_upload_limit)
        self._room_downloads = EachCapped(settings.room_download_limit)
        self._peer_downloads = EachCapped(settings.peer_download_limit)

    def room_upload(self, room_id: bytes) -> TokenBucket | None:
        """The upload cap of a room."""
        return self._room_uploads.of(room_id)

    def download(self, source: ChunkSource) -> list[TokenBucket]:
        """The download caps that apply to a source."""
        if self._lan_exempt and source.is_lan:
            return []
        buckets = (self.fetched, self._room_downloads.of(source.room_id), self._peer_downloads.of(source.key))
        return [bucket for bucket in buckets if bucket is not None]
