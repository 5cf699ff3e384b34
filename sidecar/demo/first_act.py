"""The first act, top to bottom: two machines of one network, one adapter, and a liar."""

from __future__ import annotations

import contextlib
import json
import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import anyio

from sidecar.cli.client import RemoteFailure
from sidecar.cli.output import TransferDisplay, human_bytes
from sidecar.errors import SidecarError

from .material import (
    ADAPTER_NAME,
    BASE_NAME,
    answers,
    create_adapter_model,
    find_real_ollama,
    load_base,
    make_material,
    models,
    shown_lines,
)
from .processes import Child, running_sidecar, start_standin
from .steps import DemoFailed, require

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from .material import Material
    from .processes import RunningSidecar
    from .steps import Steps

ROOM = "demo"
STAGES = {"verify": "verified", "fit": "fit checked", "install": "installed"}
"""Stages of a `get` that are steps here; a stage ends when the next one begins."""


@dataclass(frozen=True, slots=True)
class Result:
    """What the demo achieved."""

    digest: str
    size: int
    route: str
    installed_as: str


@dataclass(frozen=True, slots=True)
class Machines:
    """Both sides: where their Ollamas are, and the receiving one's store if it is a stand-in's."""

    first: str
    first_store: Path
    second: str
    second_store: Path | None


def play(folder: Path, steps: Steps) -> Result:
    """Play everything in an empty folder; what was started is gone afterwards, whatever happens.

    Raises:
        SidecarError, OllamaBridgeError: A step failed; it is the last one of `steps`.
    """
    with contextlib.ExitStack() as exits:
        with steps.step("set up") as told:
            material = make_material(folder)
            machines = exits.enter_context(_machines(folder, material))
            told.append(f"Ollamas at {machines.first} (takes adapters) and {machines.second} (the receiver)")
        with steps.step("base model in both") as told:
            anyio.run(load_base, machines.first, material.base)
            if machines.second_store is not None:
                anyio.run(load_base, machines.second, material.base)
            told.append(f"{BASE_NAME}, {material.base.digest}")
        with steps.step("two sidecars up") as told:
            a = exits.enter_context(running_sidecar("A", folder / "A", machines.first, store=machines.first_store))
            b = exits.enter_context(
                running_sidecar("B", folder / "B", machines.second, store=machines.second_store, peer=a.listening)
            )
            told.append(f"A listens at {a.listening}, B connects to it")
        with steps.step("private room made and joined") as told:
            code = _meet(a, b)
            told.append("A made it, B joined with its code of 8 words")
        with steps.step("A shares '*': all that will come"):
            a.api.post("/shares/all", {"room": ROOM, "on": True})
        ref = _announce(a, b, machines, material, steps)
        before = anyio.run(models, machines.second)
        result = _get(b, ref, machines, steps, exits)
        _look(result, machines, material, steps)
        with steps.step("uninstalled") as told:
            b.api.post("/uninstall", {"name": result.installed_as})
            require(anyio.run(models, machines.second) == before, "The second Ollama is not as it was before.")
            told.append("the second Ollama is as it was before")
        _refuse_tampered(b, folder, material, code, steps)
        require(anyio.run(models, machines.second) == before, "The tampered copy left something behind.")
        return result


# --- the scenes ----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _machines(folder: Path, material: Material) -> Iterator[Machines]:
    """An Ollama that still takes adapters, and the user's own or one that refuses them, as today's does."""
    with contextlib.ExitStack() as exits:
        store = folder / "first-store"
        first = exits.enter_context(start_standin(store, "accept", folder / "first-ollama.log"))
        real = anyio.run(find_real_ollama, material.base.digest)
        if real is not None:
            yield Machines(first.first_line, store, real, None)
            return
        second_store = folder / "second-store"
        second = exits.enter_context(start_standin(second_store, "refuse", folder / "second-ollama.log"))
        yield Machines(first.first_line, store, second.first_line, second_store)


def _meet(a: RunningSidecar, b: RunningSidecar) -> str:
    """Both in one private room; its code."""
    code: str = a.api.post("/rooms", {"label": ROOM})["code"]
    b.api.post("/rooms/join", {"room": code, "label": ROOM})
    for side in (a, b):
        side.event("peer:connected")
    return code


def _announce(a: RunningSidecar, b: RunningSidecar, machines: Machines, material: Material, steps: Steps) -> str:
    """The adapter appears in A's Ollama, and B can list it; what to call it there."""
    digest = str(material.adapter.digest)
    with steps.step("adapter put into A's Ollama, noticed") as told:
        anyio.run(create_adapter_model, machines.first, ADAPTER_NAME, material.adapter)
        appeared = a.event("adapter:appeared")
        told.append(f"{appeared['model']}, {human_bytes(appeared['size'])}")
    with steps.step("announced to the room") as told:
        added = b.event("entry:added", digest=digest)
        told.append(f"{added['adapter']} v{added['version']}, signed by {added['publisher'][:12]}")
    with steps.step("listed by B") as told:
        rows = b.api.get("/adapters")
        fitting = [row for row in rows if row["digest"] == digest and row["fits"]]
        require(len(fitting) == 1, "B does not list the adapter as one that fits.")
        row = fitting[0]
        told.append(f"{row['ref']} for {row['base']}: fits, {row['sources']} source")
    return str(row["ref"])


def _get(b: RunningSidecar, ref: str, machines: Machines, steps: Steps, exits: contextlib.ExitStack) -> Result:
    """Fetch, verify, check the fit, install."""
    # A user's own Ollama may have a model of that name.
    name = ADAPTER_NAME if machines.second_store is not None else f"{ADAPTER_NAME}-{secrets.token_hex(3)}"
    started = time.monotonic()
    with steps.step("fetched", quiet=True) as told:
        transfer = b.api.post("/transfers", {"ref": ref, "as_name": name})["id"]
        exits.callback(_forget, b, name)
        final = _follow(b, transfer, steps)
        result = final["result"]
        fetched_at = b.event("transfer:complete", transfer=transfer)["at"]
        speed = result["fetched_bytes"] / max(fetched_at - started, 0.001)
        told.append(f"{human_bytes(result['size'])} in chunks of 64 KiB, {human_bytes(speed)}/s")
    begun = {stage: b.event("transfer:progress", transfer=transfer, stage=stage)["at"] for stage in STAGES}
    ended = [*list(begun.values())[1:], b.event("install:complete", transfer=transfer)["at"]]
    details = {
        "verify": f"every chunk, the whole file ({result['digest'][:19]}…), the entry's claims",
        "fit": "architecture, tensor names and shapes against the base's own file",
        "install": f"{result['installed_as']}, by {result['route']}",
    }
    for (stage, step_name), end in zip(STAGES.items(), ended, strict=True):
        steps.record(step_name, end - begun[stage], [details[stage]])
    return Result(result["digest"], result["size"], result["route"], result["installed_as"])


def _follow(b: RunningSidecar, transfer: str, steps: Steps) -> dict[str, Any]:
    """Show a transfer until its end. Raises RemoteFailure."""
    display = TransferDisplay(steps.output)
    final: dict[str, Any] = {}
    try:
        for final in b.api.follow_transfer(transfer):
            display.show(final)
    finally:
        display.close()
    if final["error"]:
        error = final["error"]
        raise RemoteFailure(error["code"], error["cause"], error["next"])
    return final


def _look(result: Result, machines: Machines, material: Material, steps: Steps) -> None:
    """What Ollama itself says about the new model, and that the adapter has an effect."""
    with steps.step("/api/show of the result") as told:
        told += anyio.run(shown_lines, machines.second, result.installed_as)
        adapter_lines = [line for line in told if line.startswith("ADAPTER ")]
        right = len(adapter_lines) == 1 and material.adapter.digest.hex in adapter_lines[0]
        require(right, "Ollama does not show the base with exactly our adapter.")
    with steps.step("answer differs from the base's") as told:
        with_adapter, without = anyio.run(answers, machines.second, result.installed_as, material.base.digest)
        require(with_adapter != without, "The adapter changes nothing.")
        told += [f"with:    {with_adapter[:60]}", f"without: {without[:60]}"]


def _refuse_tampered(b: RunningSidecar, folder: Path, material: Material, code: str, steps: Steps) -> None:
    """A member of the room with a well-signed entry sends other bytes than it signed."""
    arguments = ["sidecar.demo.liar", "--peer", b.listening, "--adapter", str(material.small_adapter.path)]
    arguments += ["--base", BASE_NAME, "--base-digest", str(material.base.digest)]
    with (
        steps.step("tampered copy refused", quiet=True) as told,
        Child("the liar", arguments, folder / "liar.log", stdin=code) as liar,
    ):
        offered = json.loads(liar.first_line)
        b.event("entry:added", publisher=offered["key"])
        try:
            _follow(b, b.api.post("/transfers", {"ref": offered["ref"]})["id"], steps)
        except RemoteFailure as refused:
            require(refused.code == "chunk-mismatch", f"It was refused for another reason: {refused.cause}")
            told += [f"{refused.code}: {refused.cause}", f"Next: {refused.next_step}"]
        else:
            raise DemoFailed("A file with a flipped bit was installed.")


# --- small things ----------------------------------------------------------------------------------------------------


def _forget(b: RunningSidecar, name: str) -> None:
    """Nothing of a demo that was cut short stays in a user's own Ollama."""
    with contextlib.suppress(SidecarError):
        b.api.post("/uninstall", {"name": name})
