"""What the user chose, kept where nobody else can read it."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from sidecar.registry.state import load_state, save_state

if TYPE_CHECKING:
    from pathlib import Path


def test_off_at_first_and_kept_over_restarts(tmp_path: Path) -> None:
    path = tmp_path / "registry.json"
    first = load_state(path)
    assert not first.on
    assert load_state(path) == first
    save_state(path, replace(first, on=True, push=False, models=True))
    assert load_state(path) == replace(first, on=True, push=False, models=True)
    assert first.secret not in repr(first)


@pytest.mark.skipif(os.name != "posix", reason="Windows protects the folder by its ACL")
def test_t24_a_secret_that_others_could_read_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "registry.json"
    first = replace(load_state(path), on=True)
    save_state(path, first)
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o644)
    second = load_state(path)
    assert second.on
    assert second.secret != first.secret
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[]",
        '{"on": true, "push": true, "models": false, "secret": "short"}',
        '{"on": true, "push": true, "models": false, "secret": null}',
    ],
)
def test_a_damaged_file_is_off_with_a_new_secret(tmp_path: Path, text: str) -> None:
    path = tmp_path / "registry.json"
    path.write_text(text)
    path.chmod(0o600)
    state = load_state(path)
    assert not state.on
    assert load_state(path) == state
