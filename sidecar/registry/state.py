"""Whether the registry is on, and its secret: one file that only this user can read, kept over restarts."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING

from ollama_bridge.room_names import new_secret
from sidecar.paths import open_to_others, write_private

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class RegistryState:
    """What the user chose."""

    on: bool = False
    push: bool = True
    """Whether `ollama push` shares."""
    models: bool = False
    """Whether whole models can be pulled, with the settings they bring along, about which nobody is asked then (T4)."""
    secret: str = field(default_factory=new_secret, repr=False)
    """The path segment without which there is nothing to be seen (T24)."""


def load_state(path: Path) -> RegistryState:
    """Read the file, or make it. A secret that others could have read is replaced, as the API's token is. Blocking."""
    state = _read(path)
    if state is None:
        state = RegistryState()
        save_state(path, state)
    elif open_to_others(path):
        state = replace(state, secret=new_secret())
        save_state(path, state)
    return state


def save_state(path: Path, state: RegistryState) -> None:
    """Write the file. Blocking."""
    write_private(path, json.dumps(asdict(state)).encode())


def _read(path: Path) -> RegistryState | None:
    try:
        found = json.loads(path.read_bytes())
        state = RegistryState(bool(found["on"]), bool(found["push"]), bool(found["models"]), str(found["secret"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return state if re.fullmatch(r"[0-9a-f]{32}", state.secret) else None
