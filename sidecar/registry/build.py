"""Puts the registry together from the parts of the daemon."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .carry import PullCarrier
from .naming import RoomNames
from .prepare import Preparer
from .pulls import Pulls
from .push import Pushes
from .serve import RoomRegistry
from .service import RegistryService

if TYPE_CHECKING:
    from collections.abc import Callable

    from ollama_bridge.client import OllamaClient
    from ollama_bridge.registry import LoopbackRegistry
    from ollama_bridge.store import Store
    from sidecar.blobs import Blobs
    from sidecar.catalogue.catalogue import Catalogue
    from sidecar.catalogue.journal_thread import JournalThread
    from sidecar.events import Event
    from sidecar.install import Installer
    from sidecar.local_models import LocalModels
    from sidecar.paths import DataPaths
    from sidecar.publish import Publisher
    from sidecar.rooms.network import RoomNetwork
    from sidecar.transfer.provide import Provider
    from sidecar.transfers import Transfers


def build_registry(
    *,
    paths: DataPaths,
    port: int,
    client: OllamaClient,
    store: Store | None,
    one_time: LoopbackRegistry,
    local: LocalModels,
    catalogue: Catalogue,
    network: RoomNetwork,
    journal: JournalThread,
    provider: Provider,
    blobs: Blobs,
    installer: Installer,
    publisher: Publisher,
    transfers: Transfers,
    emit: Callable[[Event], None],
) -> RegistryService:
    """The registry, not yet listening. Blocking: it reads what the user chose."""
    service = RegistryService(path=paths.registry, port=port, local=local)
    names = RoomNames(catalogue, lambda: list(network.rooms.values()), models=service.offers_models)
    preparer = Preparer(client=client, store=store, one_time=one_time, installer=installer, blobs=blobs)
    carrier = PullCarrier(
        client=client, installer=installer, blobs=blobs, provider=provider, journal=journal, emit=emit
    )
    pulls = Pulls(
        client=client,
        blobs_folder=paths.blobs,
        names=names,
        preparer=preparer,
        carrier=carrier,
        transfers=transfers,
    )
    pushes = Pushes(client=client, publisher=publisher, names=names, allowed=service.takes_pushes)
    registry = RoomRegistry(
        client=client,
        pulls=pulls,
        pushes=pushes,
        host=service.host,
        authorities=service.authorities,
        secret=service.secret,
        emit=emit,
    )
    service.serve(names, pulls, registry.handle)
    return service
