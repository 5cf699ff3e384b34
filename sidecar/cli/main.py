"""The command `ollaswarm`: which verbs there are, and where each lives.

A verb's module is imported when the verb is used: `ollaswarm status` should not wait for what `up` needs.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from sidecar.cli.session import PLAIN

# Where a verb is: its module, and the function, or the Typer application of a verb with verbs of its own.
VERBS = {
    "up": "sidecar.cli.cmd_run:up",
    "demo": "sidecar.cli.cmd_demo:demo",
    "status": "sidecar.cli.cmd_watch:status",
    "doctor": "sidecar.cli.cmd_watch:doctor",
    "bootstrap": "sidecar.cli.cmd_bootstrap:bootstrap",
    "room": "sidecar.cli.cmd_room:app",
    "adapters": "sidecar.cli.cmd_adapters:adapters",
    "share": "sidecar.cli.cmd_adapters:share",
    "unshare": "sidecar.cli.cmd_adapters:unshare",
    "get": "sidecar.cli.cmd_get:get",
    "uninstall": "sidecar.cli.cmd_get:uninstall",
    "transfers": "sidecar.cli.cmd_watch:transfers",
    "peers": "sidecar.cli.cmd_watch:peers",
    "sync": "sidecar.cli.cmd_sync:app",
    "registry": "sidecar.cli.cmd_registry:app",
    "trust": "sidecar.cli.cmd_trust:trust",
    "block": "sidecar.cli.cmd_trust:block",
    "blocklist": "sidecar.cli.cmd_trust:blocklist",
    "events": "sidecar.cli.cmd_watch:events",
    "verify": "sidecar.cli.cmd_adapters:verify",
    "export": "sidecar.cli.cmd_bundle:export",
    "import": "sidecar.cli.cmd_bundle:import_file",
    "service": "sidecar.cli.cmd_service:app",
}


class Verbs(TyperGroup):
    """The verbs of the table, loaded one by one."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [verb for verb, place in VERBS.items() if importlib.util.find_spec(place.partition(":")[0])]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Typer's command object for one verb, or None."""
        if cmd_name not in self.list_commands(ctx):
            return None
        module, _, attribute = VERBS[cmd_name].partition(":")
        found = getattr(importlib.import_module(module), attribute)
        application = found if isinstance(found, typer.Typer) else _alone(cmd_name, found)
        command = typer.main.get_command(application)
        command.name = cmd_name
        return command


def _alone(name: str, function: Any) -> typer.Typer:
    application = typer.Typer(**PLAIN)
    application.command(name)(function)
    return application


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(importlib.metadata.version("ollaswarm"))
        raise typer.Exit


def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Share LoRA adapters between Ollama machines: verified, signed, peer to peer."""


def root_application() -> typer.Typer:
    """The whole command line."""
    return typer.Typer(cls=Verbs, callback=_root, no_args_is_help=True, **PLAIN)


def main() -> None:
    """Entry point. Exit codes: 0 ok, 1 refused or failed with a cause and a next step, 2 usage."""
    root_application()(prog_name="ollaswarm")


if __name__ == "__main__":
    main()
