"""The demo as it is shown and remembered: steps with a check mark and seconds."""

from __future__ import annotations

import contextlib
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from sidecar.errors import SidecarError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sidecar.cli.output import Output

NAME_WIDTH = 37


class DemoFailed(SidecarError):
    """A promise of the demo does not hold."""

    code = "demo-failed"
    default_next = "This is a fault of ollaswarm; please report it with what is shown above."


def require(holds: bool, cause: str) -> None:
    """Raises DemoFailed if a promise does not hold."""
    if not holds:
        raise DemoFailed(cause)


@dataclass(frozen=True, slots=True)
class Step:
    """One step that ended."""

    name: str
    ok: bool
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """As in the last line of `ollaswarm demo --json`."""
        return asdict(self) | {"seconds": round(self.seconds, 3)}


class Steps:
    """Shows steps on an output as they end, and keeps them."""

    def __init__(self, output: Output) -> None:
        self.done: list[Step] = []
        self.output = output
        encoding = output.out.encoding or "ascii"
        self._marks = ("✔", "✘") if _can_show("✔✘", encoding) else ("ok", "FAILED")

    @contextlib.contextmanager
    def step(self, name: str, *, quiet: bool = False) -> Iterator[list[str]]:
        """Time the block; what it puts into the list is shown beside the name, line by line.

        Args:
            quiet: The block shows its own progress, so no spinner is turned.
        """
        told: list[str] = []
        started = time.monotonic()
        try:
            with contextlib.nullcontext() if quiet or not self.output.terminal else self._spinner(name):
                yield told
        except BaseException:
            self.record(name, time.monotonic() - started, told, ok=False)
            raise
        self.record(name, time.monotonic() - started, told)

    def record(self, name: str, seconds: float, told: list[str], *, ok: bool = True) -> None:
        """Keep and show a step that was timed elsewhere."""
        self.done.append(Step(name, ok, seconds))
        mark = self._marks[0 if ok else 1]
        first, *rest = told or [""]
        self._line(mark, ok, f"{name:<{NAME_WIDTH}} {seconds:6.2f} s  {first}".rstrip())
        for line in rest:
            self.output.line(f"{'':<{NAME_WIDTH + 13}}{line}")

    def _line(self, mark: str, ok: bool, text: str) -> None:
        if not self.output.terminal:
            self.output.line(f"{mark} {text}")
            return
        from rich.console import Console
        from rich.text import Text

        line = Text(f"{mark} ", style="bold green" if ok else "bold red").append(text, style="default")
        Console(file=self.output.out, soft_wrap=True).print(line)

    def _spinner(self, name: str) -> contextlib.AbstractContextManager[object]:
        from rich.console import Console

        return Console(file=self.output.out).status(name)


def _can_show(text: str, encoding: str) -> bool:
    try:
        text.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return True
