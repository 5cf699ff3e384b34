"""The parts of a running daemon, for those who need several of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ollama_bridge.client import OllamaClient
    from ollama_bridge.location import StoreLocation
    from ollama_bridge.registry import LoopbackRegistry
    from ollama_bridge.store import Store

    from .alarms import Alarms
    from .blobs import Blobs
    from .bus import EventBus
    from .catalogue.catalogue import Catalogue
    from .catalogue.journal_thread import JournalThread
    from .config import Settings
    from .identity import Identity
    from .install import Installer
    from .install_model import ModelInstaller
    from .local_models import LocalModels
    from .metrics import Metrics
    from .orch_mind.verbs import OrchMindVerbs
    from .paths import DataPaths
    from .publish import Publisher
    from .registry.service import RegistryService
    from .rooms.network import RoomNetwork
    from .sync.runner import Sync
    from .transfer.provide import Provider
    from .transfers import Transfers
    from .trust.keyring import Keyring
    from .trust.pins import Pins


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Made by `daemon.assemble`."""

    settings: Settings
    paths: DataPaths
    identity: Identity
    bus: EventBus
    metrics: Metrics
    client: OllamaClient
    location: StoreLocation
    store: Store | None
    registry: LoopbackRegistry
    local: LocalModels
    journal: JournalThread
    keyring: Keyring
    pins: Pins
    catalogue: Catalogue
    provider: Provider
    network: RoomNetwork
    publisher: Publisher
    blobs: Blobs
    installer: Installer
    models: ModelInstaller
    transfers: Transfers
    orch_mind: OrchMindVerbs
    sync: Sync
    room_registry: RegistryService
    alarms: Alarms
