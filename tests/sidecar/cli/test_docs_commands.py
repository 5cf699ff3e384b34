"""Every `ollaswarm …` that README and docs show is a command that exists, with options that exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sidecar.cli.main import root_application

ROOT = Path(__file__).parents[3]
PAGES = [ROOT / "README.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").rglob("*.md"))]
GENERATED = "reference.md"
IN_TEXT = re.compile(r"`(?:\w+\$ )?ollaswarm ([^`]+)`")
TYPED = re.compile(r"^(?: {4}|)(?:\$ |\w+\$ |)ollaswarm ((?:[a-z]+)\b.*)$", re.MULTILINE)
BLOCK = re.compile(r"^```[a-z]*\n(.*?)^```$|((?:^ {4}.*\n)+)", re.MULTILINE | re.DOTALL)
NO_COMMAND = re.compile(r"\||…| v1$")
"""`sync add|list` is about several commands, and `… v1` is what a signature begins with."""


def commands(page: str) -> set[str]:
    """What a reader could type, without comments and explanations behind it."""
    blocks = "\n".join(fenced or indented for fenced, indented in BLOCK.findall(page))
    found = {*IN_TEXT.findall(page), *TYPED.findall(blocks)}
    cleaned = {re.split(r" {2,}|\s#", each.replace("\n", " "))[0].strip() for each in found}
    return {each for each in cleaned if not NO_COMMAND.search(each)}


def problem(command: str) -> str:
    """Why a command cannot be typed so; empty if it can."""
    words = [word for word in shlex.split(command) if word not in ("--help", "-h")]
    answer = CliRunner().invoke(root_application(), [*words, "--help"], env={"COLUMNS": "200"})
    said = answer.output.strip().splitlines()
    return "" if answer.exit_code == 0 else f"ollaswarm {command}: {said[-1] if said else answer.exit_code}"


def test_commands_are_found_and_faults_too() -> None:
    assert commands("```\nada$ ollaswarm share x --room r   # why\n```\nor `ollaswarm get x`, `sync add|list`\n") == {
        "share x --room r",
        "get x",
    }
    assert commands("text\n\n    ollaswarm up\n\ntext") == {"up"}
    assert problem("share x --room r") == ""
    assert "--rom" in problem("share x --rom r")
    assert "shear" in problem("shear x")


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != GENERATED], ids=lambda page: page.name)
def test_commands_of_a_page_can_be_typed(page: Path) -> None:
    assert [said for each in sorted(commands(page.read_text(encoding="utf-8"))) if (said := problem(each))] == []
