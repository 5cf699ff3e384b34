"""Five sidecars behind two NATs that know a DHT and the code of a room, and nothing else of each other.

In every act one publishes an adapter and the four others get it at the same time. What may happen meanwhile is a
generator below; it is resumed at every look at the machines.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .sidecars import Household, Machine, Tally, adapter_files, at_once, sidecars

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from .lab import Lab

MACHINES = (3, 2)
PUBLISHER_LIMIT = "3MiB"
GETTER_LIMIT = "1MiB"
"""Upload caps a second. The publisher's is that of three others, so that all parts are spread before anybody has them all."""
MEET_S = 60.0
FINISH_S = 240.0
LOOK_S = 0.25
ASLEEP_S = 40.0
UNPLUGGED_S = 20.0
MIDWAY = 0.3


@dataclass(frozen=True, slots=True)
class Download:
    """What one of the four got."""

    machine: str
    seconds: float
    """From the start of its `get` to the model in its Ollama."""
    sources: dict[str, int]
    """Bytes of chunks by the name of the machine they came from."""
    digest: str
    """Of the adapter's bytes in its Ollama's store."""


@dataclass(slots=True)
class Act:
    """What happened."""

    name: str
    row: dict[str, Any]
    """The offer."""
    started: float = 0.0
    downloads: list[Download] = field(default_factory=list)
    happened_at: float | None = None
    """Seconds from the start of the gets until the publisher was killed, one fell asleep, and so on."""
    kept: dict[str, float] = field(default_factory=dict)
    """The share of the adapter that each of the four had then."""


class Play:
    """The machines, and the acts with them."""

    def __init__(self, machines: Sequence[Machine]) -> None:
        self.publisher, *self.getters = machines
        self.machines = machines
        self._names: dict[str, str] = {}
        self._away: set[Machine] = set()
        """Those that would not answer now."""

    def meet(self) -> tuple[float, int]:
        """One makes a room, the others join it at once; seconds until the last pair met, and how many pairs did."""
        code = self.publisher.create_room()
        at_once(lambda machine: machine.join_room(code), self.getters)
        self._names = {machine.key: machine.name for machine in self.machines}
        started, met_at, met = time.monotonic(), 0.0, 0
        wanted = len(self.machines) * (len(self.machines) - 1)
        while met < wanted and time.monotonic() - started < MEET_S:
            now = sum(len(machine.peers()) for machine in self.machines)
            if now != met:
                met, met_at = now, time.monotonic() - started
            time.sleep(LOOK_S)
        return met_at, met // 2

    # --- acts --------------------------------------------------------------------------------------------------------

    def all_get(self, model: str) -> Act:
        """Nothing happens."""
        return self._act("nothing happens", model, lambda act: iter(()))

    def publisher_killed(self, model: str) -> Act:
        """kill -9 of the publisher as soon as every chunk is at some other machine."""
        act = self._act("the publisher is killed", model, self._kill)
        self.publisher.sidecar.start()
        return act

    def one_asleep(self, model: str) -> Act:
        """One of the four is stopped for a while, as a laptop that is closed."""
        sleeper = self.getters[0]
        name = f"{sleeper.name} sleeps for {ASLEEP_S:.0f} s"
        return self._act(name, model, lambda act: self._leave(act, sleeper, sleeper.suspend, sleeper.resume, ASLEEP_S))

    def one_unplugged(self, model: str) -> Act:
        """One of the four loses its network for a while."""
        lone = self.getters[-1]
        name = f"{lone.name} has no network for {UNPLUGGED_S:.0f} s"
        return self._act(name, model, lambda act: self._leave(act, lone, lone.unplug, lone.plug_in, UNPLUGGED_S))

    # --- what happens in them ----------------------------------------------------------------------------------------

    def _kill(self, act: Act) -> Iterator[None]:
        everywhere = (1 << self.publisher.kept(act.row).total) - 1
        while self._spread(act) != everywhere:
            yield
        self.publisher.sidecar.kill()
        self._note(act)

    def _spread(self, act: Act) -> int:
        """The chunks that exist outside the publisher, as bits."""
        found = 0
        for machine in self.getters:
            found |= int.from_bytes(machine.kept(act.row).to_bytes(), "little")
        return found

    def _leave(
        self, act: Act, machine: Machine, leave: Callable[[], None], come_back: Callable[[], None], seconds: float
    ) -> Iterator[None]:
        while share(machine, act) < MIDWAY:
            yield
        leave()
        self._note(act)
        self._away.add(machine)
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            yield
        come_back()
        self._away.remove(machine)

    def _note(self, act: Act) -> None:
        act.happened_at = time.monotonic() - act.started
        act.kept = {machine.name: share(machine, act) for machine in self.getters}

    # --- the frame of an act -----------------------------------------------------------------------------------------

    def _act(self, name: str, model: str, happens: Callable[[Act], Iterator[None]]) -> Act:
        act = Act(name, self.publisher.share(model))
        at_once(lambda machine: machine.wait_for_offer(act.row), self.getters)
        gets = at_once(lambda machine: Get(machine, act.row["ref"]), self.getters)
        act.started = time.monotonic()
        at_once(Get.begin, gets)
        script = happens(act)
        while any(not get.ended for get in gets):
            next(script, None)
            for get in gets:
                if get.machine not in self._away:
                    get.look()
            if time.monotonic() - act.started > FINISH_S:
                raise TimeoutError(f"{name}: " + "; ".join(get.describe() for get in gets if not get.ended))
            time.sleep(LOOK_S)
        act.downloads = [get.finish(model, self._names) for get in gets]
        return act


class Get:
    """One `get` of one machine."""

    def __init__(self, machine: Machine, ref: str) -> None:
        self.machine = machine
        self._ref = ref
        self._tally = Tally(machine)
        self._info: dict[str, Any] = {}

    @property
    def ended(self) -> bool:
        return self._info.get("state") in ("done", "failed", "cancelled")

    def begin(self) -> None:
        self._info = self.machine.api.post("/transfers", ref=self._ref)

    def look(self) -> None:
        """See how it stands, unless it is over."""
        if not self.ended:
            self._tally.look()
            self._info = self.machine.api.get(f"/transfers/{self._info['id']}")

    def describe(self) -> str:
        return f"{self.machine.name} has {self._info['done_bytes']} of {self._info['total_bytes']} bytes, from {self._tally.bytes}"

    def finish(self, model: str, names: dict[str, str]) -> Download:
        """What it came to. It must have ended well."""
        if self._info["state"] != "done":
            raise AssertionError(f"{self.describe()}: {self._info['error']}\n{self.machine.explain()}")
        sources = {names[key]: size for key, size in self._tally.look().items()}
        seconds = self._info["result"]["seconds"]
        return Download(self.machine.name, seconds, sources, self.machine.installed(model))


def share(machine: Machine, act: Act) -> float:
    """How much of the adapter a machine has on its disk."""
    kept = machine.kept(act.row)
    return kept.count / kept.total


@contextmanager
def play(
    lab: Lab, folder: Path, size: int, models: Sequence[str], kinds: Sequence[str] = ("consistent", "double")
) -> Iterator[Play]:
    """Three machines behind a NAT of the first kind, two behind one of the second.

    Args:
        size: Of the adapters, in bytes.
        models: Their names.
    """
    files = folder / "files"
    adapter_files(files, size, models)
    args = ("--upload-limit", GETTER_LIMIT)
    households = [Household(kind, count, args) for kind, count in zip(kinds, MACHINES, strict=True)]
    with sidecars(lab, folder, files, households, first_args=["--upload-limit", PUBLISHER_LIMIT]) as machines:
        yield Play(machines)
