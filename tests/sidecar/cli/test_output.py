"""Cleaning, units, and what a real terminal gets."""

import os
import signal
import subprocess
import sys
import unicodedata
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.cli.output import clean, eta_seconds, human_bytes, human_seconds
from sidecar.paths import DataPaths
from tests.sidecar.api.fake_control import CODE, CONSENT, FakeControl, adapter_row, lost_event
from tests.sidecar.cli.test_verbs import steps


@given(st.text())
def test_t09_cleaned_text_is_one_line_of_visible_letters(text: str) -> None:
    cleaned = clean(text)
    assert not [letter for letter in cleaned if unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Zl", "Zp")]
    assert clean(cleaned) == cleaned


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("sql-lora", "sql-lora"),
        ("naïve 日本語 ü", "naïve 日本語 ü"),
        ("a\nb\tc\r", "a b c "),
        ("\x1b[31mred\x1b[0m", "[31mred[0m"),
        ("evil\u202egpj.exe", "evilgpj.exe"),
        ("zero\u200bwidth\ufeff", "zerowidth"),
        ("c1\x9b2J", "c12J"),
        ("lone\ud800", "lone"),
    ],
)
def test_t09_corpus(text: str, expected: str) -> None:
    assert clean(text) == expected


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (50 << 30, "50.0 GiB"), (5 << 40, "5.0 TiB")]
)
def test_bytes(size: int, text: str) -> None:
    assert human_bytes(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "0 s"), (59, "59 s"), (75, "1 min 15 s"), (7260, "2 h 1 min"), (90000, "1 d 1 h")]
)
def test_seconds(seconds: float, text: str) -> None:
    assert human_seconds(seconds) == text


def test_eta() -> None:
    assert eta_seconds({"total_bytes": 100, "done_bytes": 50, "bytes_per_s": 10.0}) == 5
    assert eta_seconds({"total_bytes": 100, "done_bytes": 50, "bytes_per_s": 0.0}) is None
    assert eta_seconds({"total_bytes": 100, "done_bytes": 100, "bytes_per_s": 9.0}) is None


def on_a_terminal(words: Sequence[str], paths: DataPaths, typed: str = "") -> str:
    """What the command writes to a pseudo-terminal 120 columns wide, with what is typed there echoed."""
    import pty

    ours, theirs = pty.openpty()
    os.write(ours, typed.encode())
    environment = os.environ | {"OLLASWARM_DATA_DIR": str(paths.root), "COLUMNS": "120", "TERM": "xterm"}
    environment.pop("NO_COLOR", None)
    with subprocess.Popen(
        [sys.executable, "-m", "sidecar.cli.main", *words], stdout=theirs, stderr=theirs, stdin=theirs, env=environment
    ) as process:
        os.close(theirs)
        written = b""
        try:
            while block := os.read(ours, 65536):
                written += block
        except OSError:  # Linux's way to say that the other end closed
            pass
        os.close(ours)
    assert process.returncode == 0, written.decode()
    return written.decode()


terminal = pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals")


@terminal
def test_get_draws_a_bar(daemon: FakeControl, paths: DataPaths) -> None:
    daemon.script = steps(10, FakeControl.finish)
    written = on_a_terminal(["get", "sql-lora"], paths)
    assert "━" in written
    assert "4.8 MiB/s" in written
    assert "Installed sql-lora:latest by pull" in written


@terminal
def test_room_create_draws_a_qr_code(daemon: FakeControl, paths: DataPaths) -> None:
    written = on_a_terminal(["room", "create"], paths)
    assert CODE in written
    assert sum(block in line for line in written.splitlines() for block in "█▀▄") > 10


@terminal
def test_t09_a_table_cell_is_not_markup(daemon: FakeControl, paths: DataPaths) -> None:
    daemon.offered = [adapter_row(ref="[red]sql[/red]", name="x", rooms=("\x1b[2Jteam",))]
    written = on_a_terminal(["adapters"], paths)
    assert "[red]sql[/red]" in written
    assert "\x1b[2J" not in written


@terminal
def test_a_code_is_asked_for_and_consent_too(daemon: FakeControl, paths: DataPaths) -> None:
    assert "Joined" in on_a_terminal(["room", "join"], paths, typed=f"{CODE}\n")
    written = on_a_terminal(["room", "join", "general"], paths, typed="y\n")
    assert CONSENT in written
    assert "Join? [y/N]" in written
    assert [call[1:] for call in daemon.calls] == [
        (CODE, None, False),
        ("general", None, False),
        ("general", None, True),
    ]


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize(("words", "code"), [(["get", "sql-lora"], 1), (["events", "--since", "0"], 0)])
def test_ctrl_c_ends_the_command_and_not_the_transfer(
    daemon: FakeControl, paths: DataPaths, words: list[str], code: int
) -> None:
    daemon.emit(lost_event())
    with subprocess.Popen(
        [sys.executable, "-m", "sidecar.cli.main", *words, "--data-dir", str(paths.root)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=20)
    assert process.returncode == code, told
    assert "Traceback" not in told
    assert ("goes on in the daemon" in told) == (words[0] == "get")
    assert not any(transfer.finished for transfer in daemon.running.values())
