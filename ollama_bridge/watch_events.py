"""What a watcher reports. Names are in the past tense; each name in the store is either a plain model or an adapter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ollama_bridge.manifest import Manifest
    from ollama_bridge.names import ModelName


@dataclass(frozen=True, slots=True)
class StoreSnapshot:
    """Always first: everything that is complete in the store now."""

    models: Mapping[ModelName, Manifest]
    """Adapter models included."""
    adapters: frozenset[ModelName]
    """Which of them are a base plus adapters."""
    observer: str
    """`events` if the system reports changes, else `polling: REASON`."""


@dataclass(frozen=True, slots=True)
class AdapterAppeared:
    """An adapter model is new, or the adapter under a name was replaced."""

    name: ModelName
    manifest: Manifest


@dataclass(frozen=True, slots=True)
class AdapterRemoved:
    """An adapter model is gone, or was replaced by what the next event says."""

    name: ModelName
    manifest: Manifest
    """As it was."""


@dataclass(frozen=True, slots=True)
class ModelAppeared:
    """A model without adapter is new."""

    name: ModelName
    manifest: Manifest


@dataclass(frozen=True, slots=True)
class ModelChanged:
    """The manifest under a name changed, but not whether it has an adapter, nor which."""

    name: ModelName
    manifest: Manifest


@dataclass(frozen=True, slots=True)
class ModelRemoved:
    """A model without adapter is gone."""

    name: ModelName
    manifest: Manifest
    """As it was."""


@dataclass(frozen=True, slots=True)
class ManifestIncomplete:
    """A manifest stayed half-written, or its blobs missing, for two seconds. Not the same as removed."""

    name: ModelName
    reason: str


@dataclass(frozen=True, slots=True)
class StoreUnreadable:
    """The store cannot be read any more; what was known is neither confirmed nor withdrawn."""

    reason: str


@dataclass(frozen=True, slots=True)
class StoreReadable:
    """It can again; changes since then follow."""


StoreChange = (
    AdapterAppeared
    | AdapterRemoved
    | ModelAppeared
    | ModelChanged
    | ModelRemoved
    | ManifestIncomplete
    | StoreUnreadable
    | StoreReadable
)
StoreEvent = StoreSnapshot | StoreChange
