"""Runs fuzz targets: with atheris, which follows the coverage, or without, mutating the recorded vectors by a seeded chance.

Watched in both: that nothing but the documented error comes out (the targets see to that), that no input takes long, and
that memory does not grow.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

Target = Callable[[bytes], object]
Frame = Callable[[int, bytes], bytes]

VECTORS = Path(__file__).parent.parent / "tests" / "vectors"
MAX_INPUT_BYTES = 4096  # datagrams are smaller than half of it; streams are fed in pieces anyway
SLOWEST_S = 1.0  # far beyond what a datagram may cost, and far above the pauses of a busy machine
MAX_GROWTH_BYTES = 64 << 20
WARM_UP = 20_000
"""Executions before memory is looked at for the first time, and between two looks: what is imported and cached once has
been by then."""
SPECIAL = [b"\x00", b"\x01", b"\x7f", b"\x80", b"\xfc", b"\xfd\xff\xff", b"\xfe\xff\xff\xff\xff", b"\xff" + b"\xff" * 8]
"""Among them the edges of compact-encoding's `uint`."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run of one target went."""

    executions: int
    seconds: float
    slowest_s: float
    growth_bytes: int

    def __str__(self) -> str:
        return (
            f"{self.executions:,} executions, {self.executions / self.seconds:,.0f}/s, slowest {self.slowest_s * 1e3:.1f} ms, "
            f"memory +{self.growth_bytes / 1e6:.1f} MB"
        )


class Watch:
    """A target with its watchman."""

    def __init__(self, target: Target) -> None:
        self.executions = 0
        self.slowest_s = 0.0
        self._target = target
        self._begun = time.perf_counter()
        self._resident: int | None = None

    def __call__(self, data: bytes) -> None:
        begun = time.perf_counter()
        self._target(data)
        took = time.perf_counter() - begun
        self.executions += 1
        if took > self.slowest_s:
            self.slowest_s = took
            if took > SLOWEST_S:
                raise AssertionError(f"{took:.1f} s for {len(data)} bytes: {data.hex()}")
        if self.executions % WARM_UP == 0:
            self._check_memory()

    def outcome(self) -> Outcome:
        """The figures so far."""
        return Outcome(self.executions, time.perf_counter() - self._begun, self.slowest_s, self._check_memory())

    def _check_memory(self) -> int:
        resident = resident_bytes()
        if self._resident is None:
            self._resident = resident
        growth = resident - self._resident
        if growth > MAX_GROWTH_BYTES:
            raise AssertionError(f"memory grew by {growth:,} bytes in {self.executions:,} executions")
        return growth


def resident_bytes() -> int:
    """Of this process; 0 where nobody tells (only Linux does without a package)."""
    try:
        fields = Path("/proc/self/statm").read_text().split()
    except OSError:
        return 0
    return int(fields[1]) * 4096


def corpus(frame: Frame | None = None) -> list[bytes]:
    """Every byte string in the recorded vectors that could be a datagram or a part of one.

    Args:
        frame: Makes an input of a datagram for targets that take several: frame(number, datagram).
    """
    found: set[bytes] = set()
    for path in sorted(VECTORS.glob("*.json")):
        found.update(hex_strings(json.loads(path.read_text(encoding="utf-8"))))
    seeds = sorted(found, key=lambda data: (len(data), data))
    return seeds if frame is None else [frame(number, data) for number, data in enumerate(seeds)]


def hex_strings(value: object) -> Iterator[bytes]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from hex_strings(item)
    elif isinstance(value, str) and 0 < len(value) <= 2 * MAX_INPUT_BYTES:
        try:
            yield bytes.fromhex(value)
        except ValueError:
            return


def mutated(seed: bytes, other: bytes, random: Random) -> bytes:
    """A few changes of the kinds that find bugs in decoders."""
    data = bytearray(seed)
    for _ in range(random.randrange(1, 5)):
        at = random.randrange(len(data) + 1)
        kind = random.randrange(7)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << random.randrange(8)
        elif kind == 1:
            special = random.choice(SPECIAL)
            data[at : at + len(special)] = special
        elif kind == 2:
            del data[at:]
        elif kind == 3:
            data[at:at] = random.randbytes(random.randrange(1, 9))
        elif kind == 4:
            start = random.randrange(len(other) + 1)
            data[at:] = other[start:]
        elif kind == 5:
            data += other
        else:
            del data[at : at + random.randrange(1, 9)]
    return bytes(data[:MAX_INPUT_BYTES])


def run_mutations(
    target: Target, executions: int, *, seed: int, frame: Frame | None = None, with_seeds: bool = True
) -> Outcome:
    """That many mutated vectors, the same ones for the same seed. First the vectors as they are, which may be more."""
    watch, random, seeds = Watch(target), Random(seed), corpus(frame)
    for data in seeds if with_seeds else ():
        watch(data)
    while watch.executions < executions:
        watch(mutated(random.choice(seeds), random.choice(seeds), random))
    return watch.outcome()


def run_atheris(atheris: Any, target: Target, arguments: list[str], scratch: Path, frame: Frame | None = None) -> None:
    """Fuzz until libFuzzer's arguments say stop. It prints its own figures, and ends the process."""
    for number, data in enumerate(corpus(frame)):
        (scratch / f"vector-{number}").write_bytes(data)
    options = [f"-max_len={MAX_INPUT_BYTES}", "-rss_limit_mb=2048", "-timeout=10", "-print_final_stats=1"]
    atheris.Setup([sys.argv[0], *options, *arguments, str(scratch)], Watch(target))
    atheris.Fuzz()
