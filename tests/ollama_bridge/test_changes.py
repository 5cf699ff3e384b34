"""What happened between two looks, with time as an argument."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ollama_bridge.changes import PATIENCE_S, Look, StoreChanges
from ollama_bridge.digests import Digest
from ollama_bridge.manifest import Layer, MediaType, parse_manifest, render_manifest
from ollama_bridge.names import ModelName
from ollama_bridge.watch_events import (
    AdapterAppeared,
    AdapterRemoved,
    ManifestIncomplete,
    ModelAppeared,
    ModelChanged,
    ModelRemoved,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

NAME = ModelName.parse("m")
CONFIG = Layer(MediaType.CONFIG, Digest.of(b"{}"), 2)
HALF = Look(None, problem="cut")


def layer(content: str, media_type: str) -> Layer:
    return Layer(media_type, Digest.of(content.encode()), len(content))


def plain(*texts: str) -> Look:
    layers = [layer("weights", MediaType.MODEL), *(layer(text, MediaType.SYSTEM) for text in texts)]
    return Look(parse_manifest(render_manifest(CONFIG, layers)))


def adapter(content: str = "lora", *texts: str, base: str = "weights") -> Look:
    lora = layer(content, MediaType.ADAPTER)
    layers = [layer(base, MediaType.MODEL), lora, *(layer(text, MediaType.SYSTEM) for text in texts)]
    return Look(parse_manifest(render_manifest(CONFIG, layers)), (lora,))


def kinds(old: Look | None, new: Look | None) -> list[type]:
    changes = StoreChanges()
    changes.update({} if old is None else {NAME: old}, now=0)
    return [type(change) for change in changes.update({} if new is None else {NAME: new}, now=1)]


@pytest.mark.parametrize(
    ("old", "new", "wanted"),
    [
        (None, plain(), [ModelAppeared]),
        (None, adapter(), [AdapterAppeared]),
        (plain(), None, [ModelRemoved]),
        (adapter(), None, [AdapterRemoved]),
        (plain(), plain(), []),
        (adapter(), adapter(), []),
        (plain(), plain("other"), [ModelChanged]),
        (adapter(), adapter("lora", "other system"), [ModelChanged]),
        (adapter(), adapter("other lora"), [AdapterRemoved, AdapterAppeared]),
        (adapter(), adapter(base="other base"), [AdapterRemoved, AdapterAppeared]),
        (plain(), adapter(), [ModelRemoved, AdapterAppeared]),
        (adapter(), plain(), [AdapterRemoved, ModelAppeared]),
        (None, HALF, []),
        (plain(), HALF, []),
        (adapter(), HALF, []),
        (HALF, None, []),
        (HALF, adapter(), [AdapterAppeared]),
        (None, None, []),
    ],
)
def test_every_pair_of_looks(old: Look | None, new: Look | None, wanted: list[type]) -> None:
    assert kinds(old, new) == wanted


def test_removed_tells_what_was() -> None:
    changes = StoreChanges()
    changes.update({NAME: adapter()}, now=0)
    assert changes.adapters == {NAME}
    assert changes.update({}, now=1) == [AdapterRemoved(NAME, adapter().manifest)]  # type: ignore[arg-type]
    assert (changes.models, changes.adapters) == ({}, frozenset())


def retries(changes: StoreChanges, until: float) -> Iterator[tuple[float, list[object]]]:
    now: float | None = 0.0
    while now is not None and now <= until:
        found: list[object] = [*changes.update({NAME: HALF}, now=now)]
        yield now, found
        now = changes.retry_at


def test_half_written_is_retried_with_back_off_then_called_incomplete() -> None:
    steps = list(retries(StoreChanges(), until=100))
    assert [round(now, 2) for now, _ in steps] == [0, 0.05, 0.15, 0.35, 0.75, 1.55, 3.15]
    assert [found for _, found in steps[:-1]] == [[]] * 6
    assert steps[-1][1] == [ManifestIncomplete(NAME, "cut")]


def test_half_written_is_never_removed_and_keeps_what_was_known() -> None:
    changes = StoreChanges()
    changes.update({NAME: adapter()}, now=0)
    for now in (1.0, 1.0 + PATIENCE_S / 2, 10.0, 11.0):
        assert not any(isinstance(change, AdapterRemoved) for change in changes.update({NAME: HALF}, now=now))
    assert changes.adapters == {NAME}
    assert changes.update({NAME: adapter()}, now=12) == []


def test_incomplete_is_said_once_and_again_after_it_was_whole() -> None:
    changes = StoreChanges()
    said = [len(changes.update({NAME: HALF}, now=now)) for now in (0, 3, 6, 9)]
    assert said == [0, 1, 0, 0]
    assert changes.retry_at is None
    changes.update({NAME: plain()}, now=10)
    assert [len(changes.update({NAME: HALF}, now=now)) for now in (11, 14)] == [0, 1]
