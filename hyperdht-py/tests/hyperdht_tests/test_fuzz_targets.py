"""The fuzz targets themselves, on a few seconds of random bytes. `make soak` gives each a million executions."""

import importlib
import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperdht.protomux.wire import open_body

FUZZ = Path(__file__).parents[2] / "fuzz"
EXECUTIONS = 1_000_000
OF_MACHINES = 100_000
"""Targets that are whole nodes, where one execution takes milliseconds."""


def load(*names: str) -> list[Any]:
    """`fuzz/` is no package: its programs find each other in their own folder."""
    sys.path.append(str(FUZZ))
    try:
        return [importlib.import_module(name) for name in names]
    finally:
        sys.path.remove(str(FUZZ))


fuzz_machines, fuzz_targets, fuzz_runner = load("fuzz_machines", "fuzz_targets", "fuzz_runner")


@pytest.mark.parametrize("name", fuzz_targets.TARGETS)
@given(data=st.binary(max_size=400))
def test_random_bytes(name: str, data: bytes) -> None:
    fuzz_targets.TARGETS[name](data)


@pytest.mark.parametrize("name", fuzz_targets.TARGETS)
def test_mutated_vectors(name: str) -> None:
    outcome = fuzz_targets.mutations(name, 300, with_vectors=False)
    assert outcome.executions == 300


def test_every_decoder_is_a_target() -> None:
    assert {"rpc.messages.request", "udx.packet.packet", "dht.messages.announce", "dht.payloads.noise_payload"} < set(
        fuzz_targets.TARGETS
    )


def test_a_target_that_raises_takes_long_or_decodes_something_else_is_a_finding(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def raises(data: bytes) -> None:
        raise KeyError(data)

    with pytest.raises(KeyError):
        fuzz_runner.run_mutations(raises, 10, seed=1)
    monkeypatch.setattr(fuzz_runner, "SLOWEST_S", 0.0)
    with pytest.raises(AssertionError, match="bytes: "):
        fuzz_runner.run_mutations(lambda data: None, 10, seed=1)


def test_a_target_that_keeps_what_it_gets_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    if not fuzz_runner.resident_bytes():
        pytest.skip("this system tells memory only to packages")
    kept: list[bytearray] = []
    monkeypatch.setattr(fuzz_runner, "WARM_UP", 10)
    monkeypatch.setattr(fuzz_runner, "MAX_GROWTH_BYTES", 8 << 20)
    with pytest.raises(AssertionError, match="memory grew"):
        fuzz_runner.run_mutations(lambda data: kept.append(bytearray(b"x" * 20_000)), 1000, seed=1)


def test_replay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opens = b"".join(bytes([len(body) + 2, 0, 1]) + body for body in (open_body(n, "x", None, b"") for n in (1, 2)))
    (tmp_path / "opens").write_bytes(opens)
    monkeypatch.setattr("sys.argv", ["fuzz", "protomux", "--replay", str(tmp_path / "opens")])
    fuzz_machines.main()


@pytest.mark.parametrize("arguments", [[], ["nothing", "--mutations", "1"]])
def test_unknown_target(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["fuzz", *arguments])
    with pytest.raises(SystemExit, match="usage"):
        fuzz_machines.main()


@pytest.mark.soak
@pytest.mark.parametrize("name", fuzz_targets.TARGETS)
def test_many_executions(name: str) -> None:
    """Following the coverage where atheris is installed, else mutated vectors."""
    has_atheris = importlib.util.find_spec("atheris") is not None
    executions = OF_MACHINES if name in ("rpc-node", "dht-server", "dht-client") else EXECUTIONS
    how = [f"-runs={executions}"] if has_atheris else ["--mutations", str(executions)]
    run = subprocess.run(
        [sys.executable, str(FUZZ / "fuzz_machines.py"), name, *how], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
    figures = [line for line in (run.stdout + run.stderr).splitlines() if line.startswith(("stat::", name))]
    print(f"\n{name}, {'atheris' if has_atheris else 'mutations'}:", *figures, sep="\n    ")
