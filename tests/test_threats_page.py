"""docs/threats.md and the tests say the same, and what no journey can show: how dependencies get here (T26)."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "threats.md").read_text(encoding="utf-8")
TESTS = [*ROOT.glob("tests/**/test_*.py"), *ROOT.glob("hyperdht-py/tests/**/test_*.py")]
ROWS = dict(re.findall(r"^\| (T\d+) \|.*\| ([^|]+) \|$", PAGE, re.MULTILINE))


def test_every_threat_has_a_row_with_a_status() -> None:
    assert list(ROWS) == [f"T{number}" for number in range(1, 29)]
    assert {status.split()[0].rstrip(",;:") for status in ROWS.values()} <= {"held", "in", "later"}


@pytest.mark.parametrize("threat", ROWS)
def test_every_threat_that_is_held_has_tests_under_its_number(threat: str) -> None:
    name = re.compile(rf"def test_t{int(threat[1:]):02}_")
    count = sum(len(name.findall(path.read_text(encoding="utf-8"))) for path in TESTS)
    assert count or ROWS[threat].startswith("later")


def test_every_test_file_that_the_page_names_is_there() -> None:
    names = {path.name for path in TESTS}
    assert set(re.findall(r"`(test_\w+\.py)`", PAGE)) <= names


@pytest.mark.parametrize("lock", ["runtime.lock", "dev.lock"])
def test_t26_every_dependency_is_locked_with_its_hash(lock: str) -> None:
    text = (ROOT / "requirements" / lock).read_text(encoding="utf-8").replace("\\\n", " ")
    wanted = [line for line in text.splitlines() if line.strip() and not line.startswith(("#", "-"))]
    assert len(wanted) > 20
    assert [line for line in wanted if "==" not in line or "--hash=sha256:" not in line] == []


def test_t26_set_up_takes_locked_files_only_and_runs_nothing_from_elsewhere() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    installs = [line for line in makefile.splitlines() if "pip install" in line and "install -q uv" not in line]
    assert len(installs) >= 3
    assert all("--require-hashes" in line or "--no-deps" in line for line in installs)
    assert not re.search(r"curl|wget|\| *(ba)?sh\b", makefile)


def test_t26_the_program_does_not_update_itself() -> None:
    sources = [*ROOT.glob("sidecar/**/*.py"), *ROOT.glob("ollama_bridge/**/*.py")]
    words = re.compile(r'"pip"|pip install -U|urllib\.request|pypi\.org')
    assert [path.name for path in sources if words.search(path.read_text(encoding="utf-8"))] == []
