"""Everything that is printed: for people on a terminal, as plain lines in a pipe, or as JSON.

Text from peers passes through here last, so it is cleaned here whatever happened before (T9).
"""

from __future__ import annotations

import json
import sys
import unicodedata
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from rich.progress import Progress, TaskID

    from sidecar.errors import SidecarError

# Control characters, format characters (bidi overrides, zero-width, tags), surrogates, line and paragraph separators.
HIDDEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
STEP_PERCENT = 10


def clean(value: object) -> str:
    """The text on one line, without anything that moves the cursor, hides or reorders what follows (T9)."""
    return "".join(
        " " if letter in "\t\n\r" else letter for letter in str(value) if letter in "\t\n\r" or _is_visible(letter)
    )


def _is_visible(letter: str) -> bool:
    return unicodedata.category(letter) not in HIDDEN


def human_bytes(size: float) -> str:
    """1536 -> `1.5 KiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def human_seconds(seconds: float) -> str:
    """75 -> `1 min 15 s`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


@dataclass(slots=True)
class Output:
    """Where one verb prints. With `json`, standard output carries JSON and nothing else."""

    json: bool
    out: TextIO = field(default_factory=lambda: sys.stdout)
    err: TextIO = field(default_factory=lambda: sys.stderr)

    @property
    def terminal(self) -> bool:
        return not self.json and self.out.isatty()

    def line(self, text: str = "") -> None:
        """A line for people; nothing with `--json`."""
        if not self.json:
            self._write(self.out, "\n".join(clean(part) for part in text.split("\n")))

    def note(self, text: str) -> None:
        """Something beside the result, on standard error."""
        self._write(self.err, "\n".join(clean(part) for part in text.split("\n")))

    def data(self, value: object) -> None:
        """One JSON value on one line. ASCII only, so that no text in it can act on a terminal."""
        self._write(self.out, json.dumps(value))

    def done(self, text: str, value: Mapping[str, object] | None = None) -> None:
        """The good end of a verb."""
        if self.json:
            self.data({"ok": True} | dict(value or {}))
        else:
            self.line(text)

    def failure(self, error: SidecarError) -> None:
        """The bad end of a verb: cause and next step."""
        if self.json:
            self.data({"ok": False, "error": error.to_json()})
        else:
            self.note(f"Error: {error.cause}\n  Next: {error.next_step}")

    def rows(self, items: Sequence[Mapping[str, object]], columns: Mapping[str, Iterable[str]], empty: str) -> None:
        """A list: a JSON array of `items`, or a table of `columns` (heading -> one cell per item)."""
        if self.json:
            self.data(list(items))
        elif not items:
            self.note(empty)
        elif self.terminal:
            self._table(columns)
        else:
            self._write(self.out, "\t".join(columns))
            for cells in zip(*columns.values(), strict=True):
                self._write(self.out, "\t".join(clean(cell) for cell in cells))

    def facts(self, facts: Mapping[str, str]) -> None:
        """`key: value` lines, aligned."""
        width = max(map(len, facts))
        for name, value in facts.items():
            self.line(f"{name:<{width}}  {value}")

    def _table(self, columns: Mapping[str, Iterable[str]]) -> None:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, header_style="bold")
        for heading in columns:
            table.add_column(heading, overflow="fold")
        for cells in zip(*columns.values(), strict=True):
            table.add_row(*(Text(clean(cell)) for cell in cells))  # Text: a peer's "[red]" is not markup
        Console(file=self.out).print(table)

    @staticmethod
    def _write(stream: TextIO, text: str) -> None:
        # A terminal with a narrow character set shows a question mark, not a traceback.
        encoding = stream.encoding or "utf-8"
        stream.write(text.encode(encoding, "replace").decode(encoding) + "\n")
        stream.flush()


class TransferDisplay:
    """Progress of one `get`: a bar on a terminal, a line per stage and tenth in a pipe, objects with `--json`."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._last_step: tuple[str, int] | None = None

    def show(self, state: Mapping[str, Any]) -> None:
        """Show one state of the transfer (a `TransferInfo` in JSON)."""
        if self._output.json:
            self._output.data({"event": "transfer:progress"} | dict(state))
        elif self._output.terminal:
            self._show_bar(state)
        else:
            self._show_line(state)

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _show_bar(self, state: Mapping[str, Any]) -> None:
        if self._bar is None or self._task is None:
            self._bar = _new_bar(self._output.out)
            self._task = self._bar.add_task("", total=None, speed_text="", eta_text="")
            self._bar.start()
        eta = eta_seconds(state)
        self._bar.update(
            self._task,
            completed=state["done_bytes"],
            total=state["total_bytes"] or None,
            description=f"{clean(state['stage']):<8}",
            speed_text=f"{human_bytes(state['bytes_per_s'])}/s",
            eta_text="" if eta is None else f"ETA {human_seconds(eta)}",
        )

    def _show_line(self, state: Mapping[str, Any]) -> None:
        done, total = state["done_bytes"], state["total_bytes"]
        percent = done * 100 // total if total else 0
        step = (state["stage"], percent // STEP_PERCENT)
        if step == self._last_step:
            return
        self._last_step = step
        eta = eta_seconds(state)
        parts = [
            f"{state['stage']:<8} {percent:3d} %",
            f"{human_bytes(done)} of {human_bytes(total)}",
            f"{human_bytes(state['bytes_per_s'])}/s",
            f"{state['sources']} sources",
        ]
        self._output.line("  ".join(parts if eta is None else [*parts, f"ETA {human_seconds(eta)}"]))


def eta_seconds(state: Mapping[str, Any]) -> float | None:
    """Time left at the present speed; None when there is none to speak of."""
    left = state["total_bytes"] - state["done_bytes"]
    return left / state["bytes_per_s"] if left > 0 and state["bytes_per_s"] > 0 else None


def _new_bar(out: TextIO) -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TextColumn("{task.fields[speed_text]}", markup=False),
        TextColumn("{task.fields[eta_text]}", markup=False),
        console=Console(file=out),
    )
