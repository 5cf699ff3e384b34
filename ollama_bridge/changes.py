"""From one look at the store to the next: what happened. No files, no clock, no threads.

Ollama writes manifests in place, so a look can catch one empty or cut. Such a name keeps what was known of it and is
looked at again after 50 ms, doubling, until two seconds have passed; only then is it called incomplete (facts 1.4).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ollama_bridge.watch_events import (
    AdapterAppeared,
    AdapterRemoved,
    ManifestIncomplete,
    ModelAppeared,
    ModelChanged,
    ModelRemoved,
    StoreChange,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ollama_bridge.manifest import Layer, Manifest
    from ollama_bridge.names import ModelName

FIRST_RETRY_S = 0.05
PATIENCE_S = 2.0


@dataclass(frozen=True, slots=True)
class Look:
    """One name as one look found it."""

    manifest: Manifest | None
    """None while it is incomplete."""
    adapter_layers: tuple[Layer, ...] = ()
    """Not empty for an adapter model."""
    problem: str = ""
    """Why it is incomplete."""


@dataclass(slots=True)
class _Waiting:
    since: float
    retry_at: float
    delay: float = FIRST_RETRY_S
    reported: bool = False


class StoreChanges:
    """Remembers the last complete look at each name."""

    def __init__(self) -> None:
        self._known: dict[ModelName, Look] = {}
        self._waiting: dict[ModelName, _Waiting] = {}

    @property
    def models(self) -> dict[ModelName, Manifest]:
        """Everything complete."""
        return {name: look.manifest for name, look in self._known.items() if look.manifest is not None}

    @property
    def adapters(self) -> frozenset[ModelName]:
        """Which of them are adapter models."""
        return frozenset(name for name, look in self._known.items() if look.adapter_layers)

    @property
    def retry_at(self) -> float | None:
        """When an incomplete name should be looked at again, None if there is none."""
        return min((wait.retry_at for wait in self._waiting.values() if not wait.reported), default=None)

    def update(self, looks: Mapping[ModelName, Look], *, now: float) -> list[StoreChange]:
        """Take in a full look at the store; return what changed since the last one, removals first."""
        changes: list[StoreChange] = []
        for name in [name for name in self._known if name not in looks]:
            changes += _removed(name, self._known.pop(name))
        for name in [name for name in self._waiting if name not in looks]:
            del self._waiting[name]
        for name, look in looks.items():
            if look.manifest is None:
                changes += self._wait(name, look, now)
                continue
            self._waiting.pop(name, None)
            changes += _compare(name, self._known.get(name), look)
            self._known[name] = look
        return changes

    def _wait(self, name: ModelName, look: Look, now: float) -> Iterator[StoreChange]:
        wait = self._waiting.setdefault(name, _Waiting(since=now, retry_at=now))
        if now >= wait.retry_at:
            wait.retry_at = now + wait.delay
            wait.delay *= 2
        if now - wait.since >= PATIENCE_S and not wait.reported:
            wait.reported = True
            yield ManifestIncomplete(name, look.problem)


def _compare(name: ModelName, old: Look | None, new: Look) -> Iterator[StoreChange]:
    if old is None:
        yield from _appeared(name, new)
    elif old is not new and old.manifest != new.manifest:
        if _adapter_identity(old) == _adapter_identity(new):
            assert new.manifest is not None
            yield ModelChanged(name, new.manifest)
        else:
            yield from _removed(name, old)
            yield from _appeared(name, new)


def _adapter_identity(look: Look) -> object:
    """What makes two adapter models the same one: the adapters and the base. Equal for all plain models."""
    if not look.adapter_layers or look.manifest is None or look.manifest.model_layer is None:
        return None
    return [layer.digest for layer in look.adapter_layers], look.manifest.model_layer.digest


def _appeared(name: ModelName, look: Look) -> Iterator[StoreChange]:
    if look.manifest is not None:
        yield (AdapterAppeared if look.adapter_layers else ModelAppeared)(name, look.manifest)


def _removed(name: ModelName, look: Look) -> Iterator[StoreChange]:
    if look.manifest is not None:
        yield (AdapterRemoved if look.adapter_layers else ModelRemoved)(name, look.manifest)
