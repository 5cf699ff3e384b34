"""`ollaswarm up`: run the daemon in the foreground. Its flags are the settings table."""

import inspect
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from sidecar.cli.output import Output
from sidecar.cli.session import Json, Yes, agreed, told_failures
from sidecar.config import Setting, Settings, load_settings, settings_table
from sidecar.errors import ConfigError

FLAG_TYPES: dict[str, Any] = {"text": str | None, "number": int | None, "yes/no": bool | None, "list": list[str] | None}
ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", help="Settings file. Else OLLASWARM_CONFIG, else config.toml in the data folder."),
]
REMOTE_OLLAMA = (
    "{url} is not on this machine. It would be sent every adapter that is installed, without encryption, "
    "and anyone between could change what it answers."
)


def up(json: Json = False, yes: Yes = False, config: ConfigFile = None, **flags: Any) -> None:
    """Run the daemon until it is stopped with Ctrl-C."""
    with told_failures(json) as output:
        settings = load_settings({name: _flag_value(value) for name, value in flags.items()}, config=config)
        _confirm_remote_ollama(settings, yes, output)

        def announce(api: str) -> None:
            facts = {"api": api, "data_dir": str(settings.data_dir), "pid": os.getpid()}
            output.done(f"ollaswarm runs: {api}, data folder {settings.data_dir}. Ctrl-C stops it.", facts)

        from sidecar.daemon.app import run_daemon

        raise typer.Exit(run_daemon(settings, ready=announce))


def _flag_value(value: Any) -> Any:
    """Lists may be given as repeated flags, as `a,b`, or both; an empty one was not given."""
    return (",".join(value) or None) if isinstance(value, list | tuple) else value


def _confirm_remote_ollama(settings: Settings, yes: bool, output: Output) -> None:
    """T25: a mistaken OLLAMA_HOST must not quietly send adapters to a stranger's server."""
    if settings.ollama_is_local or settings.allow_remote_ollama:
        return
    output.note(REMOTE_OLLAMA.format(url=settings.ollama))
    if not agreed("Use it all the same?", yes=yes, output=output):
        cause = f"{settings.ollama} is not on this machine, and nobody agreed to using it."
        raise ConfigError(cause, "Unset OLLAMA_HOST, or agree with --yes or --allow-remote-ollama.")


def _flag(row: Setting) -> inspect.Parameter:
    metavar = None if row.type == "yes/no" else (row.unit or "word").upper()
    text = row.help if row.type == "yes/no" else f"{row.help} Default: {row.default}."
    option = typer.Option(None, row.flag, help=text, show_default=False, metavar=metavar)
    return inspect.Parameter(row.name, inspect.Parameter.KEYWORD_ONLY, default=option, annotation=FLAG_TYPES[row.type])


def _signature() -> inspect.Signature:
    """`up`'s own parameters, then one flag for each row of the table."""
    own = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for parameter in inspect.signature(up).parameters.values()
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD
    ]
    return inspect.Signature([*own, *(_flag(row) for row in settings_table())])


up.__signature__ = _signature()  # type: ignore[attr-defined] # how typer learns of the flags
