"""`make nat ARGS=five`: the acts of five.py with their figures."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from .five import MACHINES, Act, Play, play
from .kinds import KINDS, SHARED

if TYPE_CHECKING:
    import argparse

    from .lab import Lab

ROUTED = [kind for kind in KINDS if kind not in ("open", "blocked", *SHARED)]
ACTS = {
    "all": Play.all_get,
    "killed": Play.publisher_killed,
    "asleep": Play.one_asleep,
    "unplugged": Play.one_unplugged,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `make nat ARGS="five …"`."""
    parser.add_argument("--kinds", nargs=2, default=["consistent", "double"], choices=ROUTED, help="of the two NATs")
    parser.add_argument("--size", type=int, default=32, help="of an adapter, in MiB")
    parser.add_argument("--acts", nargs="+", default=list(ACTS), choices=ACTS)


def run(lab: Lab, args: argparse.Namespace) -> None:
    """Play the acts and print the figures."""
    models = [f"{act}-lora" for act in args.acts]
    with TemporaryDirectory() as folder, play(lab, Path(folder), args.size << 20, models, args.kinds) as five:
        seconds, pairs = five.meet()
        print(f"{MACHINES[0]} behind {args.kinds[0]}, {MACHINES[1]} behind {args.kinds[1]}: ", end="")
        print(f"{pairs} of 10 pairs connected, the last one {seconds:.1f} s after the room was joined")
        for act, model in zip(args.acts, models, strict=True):
            print(f"\n{table(ACTS[act](five, model), five.publisher.name)}", flush=True)


def table(act: Act, publisher: str) -> str:
    """An act as Markdown."""
    names = sorted({publisher, *(download.machine for download in act.downloads)})
    lines = [f"**{act.name}**"]
    if act.happened_at is not None:
        kept = ", ".join(f"{name} {part:.0%}" for name, part in sorted(act.kept.items()))
        lines[0] += f", {act.happened_at:.1f} s after the start; kept by then: {kept}"
    lines += [
        "",
        f"| to | s | {' | '.join(f'MiB from {name}' for name in names)} | sources |",
        "|---" * (len(names) + 3) + "|",
    ]
    for download in act.downloads:
        cells = [f"{download.sources[name] / (1 << 20):.1f}" if name in download.sources else "" for name in names]
        lines.append(f"| {download.machine} | {download.seconds:.1f} | {' | '.join(cells)} | {len(download.sources)} |")
    return "\n".join(lines)
