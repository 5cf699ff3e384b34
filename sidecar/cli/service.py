"""Start with the user's session: one description per operating system's own service manager.

Text and commands are made here and nowhere else; who runs the commands is handed in.
"""

from __future__ import annotations

import os
import plistlib
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from xml.sax.saxutils import escape

from sidecar.errors import SidecarError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Runner = Callable[[Sequence[str]], subprocess.CompletedProcess[str]]

Manager = Literal["systemd", "launchd", "schtasks"]
LABEL = "io.ollaswarm.daemon"
# Design section 11: everything is stopped within 5 s; the manager waits twice that before it kills.
STOP_TIMEOUT_S = 10


class ServiceFailed(SidecarError):
    """The service manager refused."""

    code = "service"
    default_next = "Run `ollaswarm up` by hand; it needs no service."


@dataclass(frozen=True, slots=True)
class ServicePlan:
    """What makes the daemon a service of this user here."""

    manager: Manager
    file: Path
    text: str
    install: tuple[tuple[str, ...], ...]
    remove: tuple[tuple[str, ...], ...]
    status: tuple[str, ...]


def daemon_command(data_dir: Path) -> tuple[str, ...]:
    """What the service runs: this very Python, so that it works from any virtual environment."""
    return (sys.executable, "-m", "sidecar.cli.main", "up", "--data-dir", str(data_dir))


def plan_service(manager: Manager, command: Sequence[str], *, home: Path, data_dir: Path, user_id: int) -> ServicePlan:
    """The plan for one service manager."""
    makers = {"systemd": _systemd, "launchd": _launchd, "schtasks": _schtasks}
    return makers[manager](command, home, data_dir, user_id)


def _systemd(command: Sequence[str], home: Path, data_dir: Path, user_id: int) -> ServicePlan:
    file = home / ".config" / "systemd" / "user" / "ollaswarm.service"
    text = f"""[Unit]
Description=ollaswarm: shares LoRA adapters between Ollama machines
After=network-online.target

[Service]
ExecStart={" ".join(_systemd_quote(part) for part in command)}
Restart=on-failure
RestartSec=5
TimeoutStopSec={STOP_TIMEOUT_S}
NoNewPrivileges=yes

[Install]
WantedBy=default.target
"""
    control = ("systemctl", "--user")
    return ServicePlan(
        "systemd",
        file,
        text,
        install=((*control, "daemon-reload"), (*control, "enable", "--now", file.name)),
        remove=((*control, "disable", "--now", file.name),),
        status=(*control, "status", "--no-pager", file.name),
    )


def _systemd_quote(part: str) -> str:
    """One word of ExecStart: quotes and backslashes escaped, `%` and `$` doubled so that they stay themselves."""
    escaped = part.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"'


def _launchd(command: Sequence[str], home: Path, data_dir: Path, user_id: int) -> ServicePlan:
    file = home / "Library" / "LaunchAgents" / f"{LABEL}.plist"
    log = str(data_dir / "logs" / "service.log")
    agent = {
        "Label": LABEL,
        "ProgramArguments": list(command),
        "RunAtLoad": True,
        "KeepAlive": {"SuccessfulExit": False},
        "ExitTimeOut": STOP_TIMEOUT_S,
        "StandardOutPath": log,
        "StandardErrorPath": log,
    }
    domain = f"gui/{user_id}"
    return ServicePlan(
        "launchd",
        file,
        plistlib.dumps(agent).decode(),
        install=(("launchctl", "bootstrap", domain, str(file)),),
        remove=(("launchctl", "bootout", f"{domain}/{LABEL}"),),
        status=("launchctl", "print", f"{domain}/{LABEL}"),
    )


def _schtasks(command: Sequence[str], home: Path, data_dir: Path, user_id: int) -> ServicePlan:
    file = data_dir / "service.xml"
    program, *arguments = command
    text = f"""<?xml version="1.0" encoding="UTF-16"?>
<Task version="1.2" xmlns="http://schemas.microsoft.com/windows/2004/02/mit/task">
  <Triggers><LogonTrigger><Enabled>true</Enabled></LogonTrigger></Triggers>
  <Settings>
    <MultipleInstancesPolicy>IgnoreNew</MultipleInstancesPolicy>
    <DisallowStartIfOnBatteries>false</DisallowStartIfOnBatteries>
    <StopIfGoingOnBatteries>false</StopIfGoingOnBatteries>
    <ExecutionTimeLimit>PT0S</ExecutionTimeLimit>
    <RestartOnFailure><Interval>PT1M</Interval><Count>10</Count></RestartOnFailure>
  </Settings>
  <Actions>
    <Exec><Command>{escape(program)}</Command><Arguments>{escape(subprocess.list2cmdline(arguments))}</Arguments></Exec>
  </Actions>
</Task>
"""
    return ServicePlan(
        "schtasks",
        file,
        text,
        install=(
            ("schtasks", "/Create", "/F", "/TN", LABEL, "/XML", str(file)),
            ("schtasks", "/Run", "/TN", LABEL),
        ),
        remove=(("schtasks", "/End", "/TN", LABEL), ("schtasks", "/Delete", "/F", "/TN", LABEL)),
        status=("schtasks", "/Query", "/TN", LABEL),
    )


def plan_for_this_machine(data_dir: Path) -> ServicePlan:
    """The plan for the operating system this runs on."""
    managers: dict[str, Manager] = {"darwin": "launchd", "win32": "schtasks"}
    manager = managers.get(sys.platform, "systemd")
    user_id = 0 if sys.platform == "win32" else os.getuid()
    return plan_service(manager, daemon_command(data_dir), home=Path.home(), data_dir=data_dir, user_id=user_id)


def run_command(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run a service manager's tool."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)  # noqa: S603 - fixed words
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ServiceFailed(f"{command[0]} cannot be run: {error}.") from error


def install_service(plan: ServicePlan, run: Runner = run_command) -> None:
    """Write the description and start the service. Raises ServiceFailed, with the manager's own words."""
    plan.file.parent.mkdir(parents=True, exist_ok=True)
    # Task Scheduler reads UTF-16 only; the others read UTF-8.
    plan.file.write_text(plan.text, encoding="utf-16" if plan.manager == "schtasks" else "utf-8")
    for command in plan.install:
        _check(command, run(command))


def remove_service(plan: ServicePlan, run: Runner = run_command) -> bool:
    """Stop the service and remove its description. False when there was none."""
    if not plan.file.exists():
        return False
    results = [run(command) for command in plan.remove]
    # Ending one that does not run is refused; only the last step must succeed.
    _check(plan.remove[-1], results[-1])
    plan.file.unlink()
    return True


def service_status(plan: ServicePlan, run: Runner = run_command) -> tuple[bool, str]:
    """Whether it is installed and known to the manager, and what the manager says."""
    if not plan.file.exists():
        return False, "The service is not installed."
    result = run(plan.status)
    return result.returncode == 0, (result.stdout or result.stderr).strip()


def _check(command: Sequence[str], result: subprocess.CompletedProcess[str]) -> None:
    if result.returncode != 0:
        said = (result.stderr or result.stdout).strip() or f"exit code {result.returncode}"
        raise ServiceFailed(f"`{' '.join(command)}` failed: {said}")
