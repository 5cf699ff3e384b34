"""What every verb begins and ends with: the options all share, the daemon, and how a failure is told."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sidecar.cli.output import Output
from sidecar.errors import SidecarError, UsageError
from sidecar.paths import DATA_DIR_VARIABLE, DataPaths, default_data_dir

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sidecar.cli.client import ApiClient

# Plain help needs no rich (start-up time); exceptions are never shown with local variables, one may be a room code (T11).
PLAIN: dict[str, Any] = {"add_completion": False, "rich_markup_mode": None, "pretty_exceptions_enable": False}

Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
DataDir = Annotated[
    Path | None, typer.Option("--data-dir", help=f"Data folder of the daemon. Else {DATA_DIR_VARIABLE}.")
]
Yes = Annotated[bool, typer.Option("--yes", help="Agree to what would be asked.")]


@contextmanager
def told_failures(json: bool) -> Iterator[Output]:
    """Turn a `SidecarError` into two sentences and exit code 1."""
    output = Output(json)
    try:
        yield output
    except SidecarError as error:
        output.failure(error)
        raise typer.Exit(1) from None


@contextmanager
def daemon_session(json: bool, data_dir: Path | None) -> Iterator[tuple[ApiClient, Output]]:
    """The daemon's client and the place to print."""
    from sidecar.cli.client import find_daemon

    with told_failures(json) as output:
        paths = DataPaths(data_dir.expanduser().absolute() if data_dir else default_data_dir())
        with find_daemon(paths) as client:
            yield client, output


def agreed(question: str, *, yes: bool, output: Output) -> bool:
    """Ask, unless `--yes` was given. Where nobody can be asked the answer is no."""
    if yes:
        return True
    return can_ask(output) and typer.confirm(question, err=True)


def can_ask(output: Output) -> bool:
    """Whether somebody sits there to answer."""
    return not output.json and sys.stdin.isatty()


def read_secret(argument: str | None, prompt: str) -> str:
    """A room code from the argument, from standard input (`-`), or asked for. It is never printed again (T11)."""
    if argument == "-":
        return sys.stdin.readline().strip()
    if argument is not None:
        return argument
    if not sys.stdin.isatty():
        raise UsageError(
            "No room was given.", "Give a code, `general` or `local`, or `-` to read the code from standard input."
        )
    return str(typer.prompt(prompt, err=True)).strip()
