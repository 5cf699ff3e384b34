"""The second act, top to bottom: three machines that share no network, two publishers, and one that follows both."""

from __future__ import annotations

import contextlib
import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio

from ollama_bridge.errors import OllamaRejected
from sidecar.cli.output import human_bytes
from sidecar.rooms.code import normalise_code
from sidecar.rooms.key import derive_room_key

from .material import BASE_NAME, ModelFile, create_adapter_model, load_base, make_adapter, make_base, shown_lines
from .processes import Child, attached, start_sidecar, start_standin
from .steps import require

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from .processes import RunningSidecar
    from .steps import Steps

ROOM = "lab"
ADAPTER_BYTES = 8 * 1024 * 1024
OLLAMAS = {"A": "accept", "B": "accept", "C": "refuse"}
"""A and B train, so theirs still take adapters; C's is as today's are."""
MOVED_S = 10.0
"""For the moving name, which is given right after the install that is waited for."""


@dataclass(frozen=True, slots=True)
class Adapter:
    """What a publisher trained."""

    model: str
    file: ModelFile


@dataclass(frozen=True, slots=True)
class Machine:
    """A sidecar and the Ollama beside it."""

    sidecar: RunningSidecar
    ollama: str

    @property
    def key(self) -> str:
        """Who it is."""
        return self.sidecar.key


@dataclass(frozen=True, slots=True)
class Followed:
    """What the second act achieved."""

    installed: tuple[str, ...]
    """Models that came by themselves, in the order they came."""
    first_s: float
    """From the user's trust until both were installed."""
    update_s: float
    """From the new version's appearing in its publisher's Ollama until it was installed at the follower's."""


def play(folder: Path, steps: Steps) -> Followed:
    """Play everything in an empty folder; what was started is gone afterwards, whatever happens.

    Raises:
        SidecarError, OllamaBridgeError: A step failed; it is the last one of `steps`.
    """
    with contextlib.ExitStack() as exits:
        with steps.step("a DHT, and three Ollamas") as told:
            base = make_base(folder)
            dht = exits.enter_context(Child("the DHT", ["sidecar.demo.dht"], folder / "dht.log"))
            ollamas = exits.enter_context(_ollamas(folder, base))
            told.append(f"{dht.first_line.count(':')} of its nodes are told: {dht.first_line}")
        with steps.step("three sidecars up") as told:
            a, b, c = exits.enter_context(_machines(folder, dht.first_line, ollamas))
            told.append("A, B and C know the DHT, and none of each other's addresses")
        with steps.step("private room, found by its code") as told:
            code = _meet(a, b, c)
            told.append("A made it, B and C joined with the code; each is connected with the other two")
        stranger = exits.enter_context(_stranger(folder, dht.first_line, code))
        with steps.step("C's rule: follow whom I trust") as told:
            rule = c.sidecar.api.post("/sync/rules", {"direction": "fetch", "room": ROOM})
            told.append(f"rule {rule['id']}: install what {ROOM} offers by publishers you trust")
        first = [Adapter("sql-lora", _train(folder, "sql")), Adapter("style-lora", _train(folder, "style"))]
        _publish((a, b), first, c, steps)
        _dry_run(c, steps)
        installed, first_s = _trust((a, b), first, c, steps)
        update_s = _update(a, Adapter("sql-lora", _train(folder, "more sql")), c, steps)
        with steps.step("C goes back to version 1") as told:
            back = c.sidecar.api.post("/sync/rollback", {"name": "sql-lora"})
            require((back["version"], back["was"]) == (1, 2), f"The rollback went to version {back['version']}.")
            _require_adapter(c, f"{ROOM}/sql-lora:latest", first[0])
            told.append(f"{back['model']} is version {back['version']} again; only a version 3 moves it on")
        _without_code(stranger, (a, b, c), first, steps)
        return Followed((*installed, f"{ROOM}/sql-lora:v2"), first_s, update_s)


# --- the scenes ----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _ollamas(folder: Path, base: ModelFile) -> Iterator[dict[str, str]]:
    """The URL of each machine's Ollama, which has the base model."""
    with contextlib.ExitStack() as exits:
        started = {
            name: exits.enter_context(start_standin(folder / f"{name}-store", kind, folder / f"{name}-ollama.log"))
            for name, kind in OLLAMAS.items()
        }
        for child in started.values():
            anyio.run(load_base, child.first_line, base)
        yield {name: child.first_line for name, child in started.items()}


@contextlib.contextmanager
def _machines(folder: Path, bootstrap: str, ollamas: dict[str, str]) -> Iterator[list[Machine]]:
    """Start all sidecars beside each other, and end them so."""
    with contextlib.ExitStack() as exits:
        started = []
        for name, ollama in ollamas.items():
            network = ["--bootstrap", bootstrap]
            child = start_sidecar(name, folder / name, ollama, network, store=folder / f"{name}-store")
            started.append(exits.enter_context(child))
        machines = [
            Machine(exits.enter_context(attached(child, folder / name)), ollama)
            for child, (name, ollama) in zip(started, ollamas.items(), strict=True)
        ]
        for child in started:
            exits.callback(child.ask_to_end)
        yield machines


def _meet(*machines: Machine) -> str:
    """All in one private room; its code."""
    first, *others = machines
    code: str = first.sidecar.api.post("/rooms", {"label": ROOM})["code"]
    for each in others:
        each.sidecar.api.post("/rooms/join", {"room": code, "label": ROOM})
    for each in machines:
        for other in machines:
            if other is not each:
                each.sidecar.event("peer:connected", peer=other.key)
    return code


def _stranger(folder: Path, bootstrap: str, code: str) -> Child:
    """Starts somebody in the background who knows the topic and listens; what it heard is read at the end."""
    topic = derive_room_key(normalise_code(code)).topic
    arguments = ["sidecar.demo.stranger", "--bootstrap", bootstrap, "--members", str(len(OLLAMAS))]
    return Child("the stranger", arguments, folder / "stranger.log", stdin=topic.hex())


def _train(folder: Path, training: str) -> ModelFile:
    return make_adapter(folder, training, ADAPTER_BYTES)


def _publish(publishers: tuple[Machine, Machine], adapters: list[Adapter], c: Machine, steps: Steps) -> None:
    """Two publishers, an adapter each; C can list both."""
    with steps.step("A and B share '*', and train") as told:
        for machine, adapter in zip(publishers, adapters, strict=True):
            machine.sidecar.api.post("/shares/all", {"room": ROOM, "on": True})
            anyio.run(create_adapter_model, machine.ollama, adapter.model, adapter.file)
        for machine, adapter in zip(publishers, adapters, strict=True):
            added = c.sidecar.event("entry:added", digest=str(adapter.file.digest))
            require(added["publisher"] == machine.key, "An adapter is signed by somebody else than its publisher.")
            told.append(f"{added['adapter']} v{added['version']}, {human_bytes(added['size'])}, by {machine.key[:12]}")


def _dry_run(c: Machine, steps: Steps) -> None:
    """What the rule would do, which is nothing yet, and why."""
    with steps.step("C: sync run --dry-run") as told:
        report = c.sidecar.api.post("/sync/run", {"dry_run": True})
        told += [f"{line['action']} {line['what']}: {line['reason']}" for line in report["lines"]]
        waits = [line for line in report["lines"] if line["action"] == "wait" and "trust" in line["reason"]]
        require(len(waits) == len(report["lines"]) == 2, "The dry run does not say that both publishers are strangers.")


def _trust(
    publishers: tuple[Machine, Machine], adapters: list[Adapter], c: Machine, steps: Steps
) -> tuple[list[str], float]:
    """C trusts both; what they offer is installed without another word. The models, and how long it took."""
    came: list[tuple[float, str]] = []
    with steps.step("C trusts A and B; both came") as told:
        started = time.monotonic()
        for machine in publishers:
            c.sidecar.api.post("/publishers/trust", {"key": machine.key})
        for adapter in adapters:
            done = c.sidecar.event("install:complete", installed_as=f"{ROOM}/{adapter.model}:v1")
            _require_adapter(c, f"{ROOM}/{adapter.model}:latest", adapter)
            came.append((done["at"] - started, done["installed_as"]))
            told.append(f"{done['installed_as']} by {done['route']}, {came[-1][0]:.2f} s after the word")
    came.sort()
    return [name for _, name in came], came[-1][0]


def _update(a: Machine, adapter: Adapter, c: Machine, steps: Steps) -> float:
    """A new version appears in A's Ollama; how long until C has it."""
    with steps.step("A trains again; C follows") as told:
        anyio.run(create_adapter_model, a.ollama, adapter.model, adapter.file)
        digest = str(adapter.file.digest)
        appeared = a.sidecar.event("adapter:appeared", digest=digest)["at"]
        added = c.sidecar.event("entry:added", digest=digest)
        require(added["version"] == 2, f"The new training is version {added['version']}.")
        done = c.sidecar.event("install:complete", digest=digest)
        _require_adapter(c, f"{ROOM}/{adapter.model}:latest", adapter)
        seconds: float = done["at"] - appeared
        told.append(f"version 2 announced after {added['at'] - appeared:.2f} s, installed after {seconds:.2f} s")
        told.append(f"{ROOM}/{adapter.model}:latest has moved on, :v1 stays beside it")
    return seconds


def _without_code(stranger: Child, members: tuple[Machine, ...], adapters: list[Adapter], steps: Steps) -> None:
    """The topic alone opens no door."""
    with steps.step("a stranger with the topic, no code") as told:
        said = json.loads(stranger.first_line)
        heard = {key: bytes.fromhex(text) for key, text in said["heard"].items()}
        require({machine.key for machine in members} == set(heard), "The stranger did not meet all members.")
        whispered = b"".join(heard.values())
        secrets = [text.encode() for each in adapters for text in (each.model, BASE_NAME, str(each.file.digest))]
        require(not any(secret in whispered for secret in secrets), "A member told the stranger what the room offers.")
        for machine in members:
            rooms = {peer["key"]: peer["rooms"] for peer in machine.sidecar.api.get("/peers")}
            require(not rooms.get(said["key"]), "A member takes the stranger for another member.")
        told.append(
            f"connected with all {len(heard)}, was told {len(whispered)} bytes, and nothing of the room in them"
        )


# --- small things ----------------------------------------------------------------------------------------------------


def _require_adapter(machine: Machine, model: str, adapter: Adapter) -> None:
    """A model of a machine's Ollama consists of the base and this adapter."""
    deadline = time.monotonic() + MOVED_S
    while not any(adapter.file.digest.hex in line for line in _adapter_lines(machine, model)):
        require(time.monotonic() < deadline, f"{model} is not {adapter.model} on its base.")
        time.sleep(0.02)


def _adapter_lines(machine: Machine, model: str) -> list[str]:
    with contextlib.suppress(OllamaRejected):
        return [line for line in anyio.run(shown_lines, machine.ollama, model) if line.startswith("ADAPTER ")]
    return []
