"""Switches that make the stand-in misbehave at a named step, as a real server does on a bad day.

Steps are `<operation>:<point>`, for example `pull:write` just before the manifest is written. `STEPS` lists them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import anyio

FaultKind = Literal["drop", "restart", "fail", "pause"]

STEPS = (
    "version",
    "tags",
    "show",
    "blob:begin",
    "blob:stored",
    "create:begin",
    "create:write",
    "create:done",
    "pull:begin",
    "pull:write",
    "pull:done",
    "push:begin",
    "push:done",
    "copy:begin",
    "copy:done",
    "delete:begin",
    "delete:done",
    "generate",
)


@dataclass(slots=True)
class Fault:
    """One thing going wrong at one step.

    Kinds: `drop` closes the connection; `restart` also takes the server down for `seconds`; `fail` answers `status` and
    `message`; `pause` holds the request until `proceed` is set.
    """

    kind: FaultKind
    times: int = 1
    """How often it happens; then the step works."""
    after: int = 0
    """How often the step works before."""
    seconds: float = 0.3
    status: int = 500
    message: str = "the stand-in was told to fail here"
    reached: anyio.Event = field(default_factory=anyio.Event)
    proceed: anyio.Event = field(default_factory=anyio.Event)

    def is_due(self) -> bool:
        """Count one arrival at the step; whether the fault happens this time."""
        if self.after > 0:
            self.after -= 1
            return False
        if self.times == 0:
            return False
        self.times -= 1
        return True


@dataclass(slots=True)
class Faults:
    """What goes wrong in one stand-in; change it while it runs."""

    at: dict[str, Fault] = field(default_factory=dict)
    """By step."""
    split_manifest_s: float = 0.0
    """Write manifests in two halves with this pause between, so that readers see a cut file (facts 1.4)."""
    disk_bytes: int | None = None
    """Room left for blobs and manifests; None is plenty. A write beyond it fails with "no space left on device"."""
    windows: bool = False
    """Refuse model names with a port, as Ollama on Windows does."""
    rewrite_files: bool = False
    """Store another file than the one given in `files`, as 0.30.0 to 0.34.0 did (facts 2.1)."""
    cut_pulled_blob: bool = False
    """Ask for one byte less of each blob, so that its digest is wrong."""

    def set(self, step: str, fault: Fault) -> Fault:
        """Arrange a fault; returns it, so that a test can wait for it."""
        if step not in STEPS:
            raise ValueError(f"there is no step {step!r}; steps are {', '.join(STEPS)}")
        self.at[step] = fault
        return fault
