"""Fuzzing of everything that reads a stranger's bytes. By hand, or all of it with `make soak`:

    pip install atheris                     # wheels exist for Linux and some Python versions
    python hyperdht-py/fuzz/fuzz_machines.py rpc.messages.request -max_total_time=600
    python hyperdht-py/fuzz/fuzz_machines.py secret-stream corpus/ -max_len=4096
    python hyperdht-py/fuzz/fuzz_machines.py all -runs=1000000
    python hyperdht-py/fuzz/fuzz_machines.py rpc-node --mutations 1000000

The first argument names the target, `all` one after the other, `list` tells their names; the rest goes to libFuzzer, which
follows the coverage. `--mutations N` needs no atheris: it tries N mutated vectors. `--replay FILE...` runs saved inputs.
A target fails when anything but the documented error comes out, when an input takes long, or when memory fed by the peer
passes its cap.
"""

import importlib
import subprocess
import sys
import tempfile
from pathlib import Path

USAGE = "usage: fuzz_machines.py all|list|TARGET [--replay FILE... | --mutations N | libFuzzer options]"


def main() -> None:
    """Fuzz, or replay."""
    if len(sys.argv) < 2:
        raise SystemExit(USAGE)
    name, arguments = sys.argv[1], sys.argv[2:]
    if name not in ("all", "list") and arguments[:1] not in (["--replay"], ["--mutations"]):
        fuzz(name, arguments)
        return
    fuzz_targets = importlib.import_module("fuzz_targets")
    if name == "list":
        sys.stdout.write("\n".join(fuzz_targets.TARGETS) + "\n")
    elif name == "all":
        for each in fuzz_targets.TARGETS:  # libFuzzer ends its process
            subprocess.run([sys.executable, __file__, each, *arguments], check=True)  # noqa: S603 - this program
    elif name not in fuzz_targets.TARGETS:
        raise SystemExit(USAGE)
    elif arguments[0] == "--replay":
        for path in arguments[1:]:
            fuzz_targets.TARGETS[name](Path(path).read_bytes())
    else:
        sys.stdout.write(f"{name}: {fuzz_targets.mutations(name, int(arguments[1]))}\n")


def fuzz(name: str, arguments: list[str]) -> None:
    """Let atheris follow the coverage of our code, which it has to see being imported."""
    try:
        atheris = importlib.import_module("atheris")
    except ModuleNotFoundError:
        raise SystemExit("atheris is not installed; `--mutations N` does without.") from None
    with atheris.instrument_imports(include=["hyperdht"], enable_loader_override=False):
        fuzz_targets = importlib.import_module("fuzz_targets")
    if name not in fuzz_targets.TARGETS:
        raise SystemExit(USAGE)
    fuzz_runner = importlib.import_module("fuzz_runner")
    with tempfile.TemporaryDirectory(prefix="fuzz-") as scratch:
        fuzz_runner.run_atheris(
            atheris, fuzz_targets.TARGETS[name], arguments, Path(scratch), fuzz_targets.framing_of(name)
        )


if __name__ == "__main__":
    main()
