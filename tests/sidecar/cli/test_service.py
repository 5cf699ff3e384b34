"""What each service manager is told."""

import plistlib
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import pytest

from sidecar.cli.service import (
    Manager,
    ServiceFailed,
    ServicePlan,
    daemon_command,
    install_service,
    plan_service,
    remove_service,
    service_status,
)

COMMAND = ("/opt/my venv/bin/python", "-m", "sidecar.cli.main", "up", "--data-dir", '/home/a/100% "data" & <x> $HOME')


class Recorder:
    """Stands in for the manager's tool."""

    def __init__(self, fails: str = "") -> None:
        self.commands: list[tuple[str, ...]] = []
        self._fails = fails

    def __call__(self, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        self.commands.append(tuple(command))
        code = 1 if self._fails and self._fails in command else 0
        return subprocess.CompletedProcess(command, code, "it runs", "no such unit" if code else "")


def plan(manager: Manager, tmp_path: Path) -> ServicePlan:
    return plan_service(manager, COMMAND, home=tmp_path, data_dir=tmp_path / "data", user_id=501)


def test_the_command_is_this_python(tmp_path: Path) -> None:
    command = daemon_command(tmp_path)
    ended = subprocess.run([*command[:4], "--help"], capture_output=True, text=True, check=True)
    assert "Usage: ollaswarm up" in ended.stdout
    assert command[4:] == ("--data-dir", str(tmp_path))


def test_systemd(tmp_path: Path) -> None:
    made = plan("systemd", tmp_path)
    assert made.file == tmp_path / ".config/systemd/user/ollaswarm.service"
    start = next(line for line in made.text.splitlines() if line.startswith("ExecStart="))
    words = shlex.split(start.removeprefix("ExecStart=").replace("%%", "%").replace("$$", "$"))
    # A shell would also expand the backslashed quote the way systemd does; nothing else differs here.
    assert tuple(words) == COMMAND
    assert "%%" in start
    assert made.install[-1] == ("systemctl", "--user", "enable", "--now", "ollaswarm.service")


def test_launchd(tmp_path: Path) -> None:
    made = plan("launchd", tmp_path)
    agent = plistlib.loads(made.text.encode())
    assert tuple(agent["ProgramArguments"]) == COMMAND
    assert agent["KeepAlive"] == {"SuccessfulExit": False}
    assert made.install == (("launchctl", "bootstrap", "gui/501", str(made.file)),)


def test_windows(tmp_path: Path) -> None:
    made = plan("schtasks", tmp_path)
    task = ElementTree.fromstring(made.text.split("?>", 1)[1])
    space = "{http://schemas.microsoft.com/windows/2004/02/mit/task}"
    assert task.findtext(f".//{space}Command") == COMMAND[0]
    assert task.findtext(f".//{space}Arguments") == subprocess.list2cmdline(COMMAND[1:])


@pytest.mark.parametrize("manager", ["systemd", "launchd", "schtasks"])
def test_install_status_remove(tmp_path: Path, manager: Manager) -> None:
    made, run = plan(manager, tmp_path), Recorder()
    assert service_status(made, run) == (False, "The service is not installed.")
    assert not remove_service(made, run)
    assert run.commands == []
    install_service(made, run)
    written = made.file.read_bytes()
    assert written.startswith(b"\xff\xfe") if manager == "schtasks" else written.decode() == made.text
    assert service_status(made, run) == (True, "it runs")
    assert remove_service(made, run)
    assert not made.file.exists()
    assert run.commands == [*made.install, made.status, *made.remove]


def test_a_refusal_is_told_in_the_managers_words(tmp_path: Path) -> None:
    with pytest.raises(ServiceFailed, match="no such unit"):
        install_service(plan("systemd", tmp_path), Recorder(fails="enable"))


def test_a_missing_tool_is_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ServiceFailed, match="systemctl cannot be run"):
        install_service(plan("systemd", tmp_path))
