"""Meters for processes we start, and the table they end up in."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from pathlib import Path

import psutil

MIB = 1 << 20


def cpu_seconds(pid: int) -> float:
    """User and system seconds of a process and its children so far."""
    process = psutil.Process(pid)
    times = [process.cpu_times(), *(child.cpu_times() for child in process.children(recursive=True))]
    return float(sum(t.user + t.system for t in times))


def reset_peak(pid: int) -> None:
    """Start a new measurement of the peak resident size (Linux)."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def peak_mb(pid: int) -> float:
    """Peak resident size since `reset_peak`, in MB (Linux)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise RuntimeError("no VmHWM in /proc")


def resident_mb(pid: int) -> float:
    return float(psutil.Process(pid).memory_info().rss / 1e6)


@dataclass
class Row:
    """All runs of one case."""

    case: str
    mb_s: list[float] = field(default_factory=list)
    cpu_s_gb: list[float] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, size: int, seconds: float, cpu: float, note: str = "") -> None:
        self.mb_s.append(size / 1e6 / seconds)
        self.cpu_s_gb.append(cpu / (size / 1e9))
        self.notes.append(note)


def table(rows: list[Row], base: str | None = None) -> str:
    """A Markdown table; ratios are medians of round-by-round ratios to the case named `base`."""
    by_case = {row.case: row for row in rows}
    lines = [
        "| case | MB/s min / median / max | CPU s/GB median | ratio | notes of the last run |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        ratio = ""
        if base is not None and base in by_case:
            ratio = f"{statistics.median(a / b for a, b in zip(row.mb_s, by_case[base].mb_s, strict=True)):.2f}"
        speed = f"{min(row.mb_s):.0f} / {statistics.median(row.mb_s):.0f} / {max(row.mb_s):.0f}"
        lines.append(f"| {row.case} | {speed} | {statistics.median(row.cpu_s_gb):.2f} | {ratio} | {row.notes[-1]} |")
    return "\n".join(lines)
