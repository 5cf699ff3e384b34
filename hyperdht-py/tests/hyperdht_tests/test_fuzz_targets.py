"""The fuzz targets themselves, on a few seconds of random bytes; real fuzzing is by hand, see fuzz/fuzz_machines.py."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperdht.protomux.wire import open_body

HARNESS = Path(__file__).parents[2] / "fuzz" / "fuzz_machines.py"


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fuzz_machines", HARNESS)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


fuzz_machines = load()


@pytest.mark.parametrize("name", fuzz_machines.TARGETS)
@given(data=st.binary(max_size=400))
def test_random_bytes(name: str, data: bytes) -> None:
    fuzz_machines.TARGETS[name](data)


def test_replay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opens = b"".join(bytes([len(body) + 2, 0, 1]) + body for body in (open_body(n, "x", None, b"") for n in (1, 2)))
    (tmp_path / "opens").write_bytes(opens)
    monkeypatch.setattr("sys.argv", ["fuzz", "protomux", "--replay", str(tmp_path / "opens")])
    fuzz_machines.main()


def test_unknown_target(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["fuzz", "nothing"])
    with pytest.raises(SystemExit, match="usage"):
        fuzz_machines.main()
