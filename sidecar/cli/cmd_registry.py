"""`ollaswarm registry [show|on|off]`."""

from typing import Annotated, Any

import typer

from sidecar.cli.output import Output
from sidecar.cli.session import PLAIN, DataDir, Json, daemon_session

VISIBLE = "Ollama keeps the secret in the names of what it pulled, so whoever may call this Ollama can read it (docs/registry.md)."

app = typer.Typer(help="Let `ollama pull` fetch from your rooms, and `ollama push` share to them.", **PLAIN)


@app.callback(invoke_without_command=True)
def registry(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        show()


@app.command()
def show(
    entries: Annotated[
        bool, typer.Option("--entries", help="Also the line that pulls it, for everything your rooms offer.")
    ] = False,
    json: Json = False,
    data_dir: DataDir = None,
) -> None:
    """Show whether the registry is on, its address and its secret."""
    with daemon_session(json, data_dir) as (client, output):
        info = client.get("/registry", entries=entries)
        if output.json:
            output.done("", info)
            return
        _show(info, output)
        for row in info["entries"]:
            fits = {True: "", False: "  (its base is not here)", None: ""}[row["fits"]]
            output.line(f"  ollama pull --insecure {row['model']}{fits}")


@app.command()
def on(
    new_secret: Annotated[
        bool, typer.Option("--new-secret", help="Make a new secret. Names with the old one cannot be pulled any more.")
    ] = False,
    push: Annotated[
        bool | None, typer.Option("--push/--no-push", help="Whether `ollama push` shares. It does unless you say no.")
    ] = None,
    models: Annotated[
        bool | None,
        typer.Option(
            "--models/--no-models",
            help="Whether whole models can be pulled. What template, system text and parameters they bring along is then "
            "taken without a question, as from any registry. They cannot unless you say so.",
        ),
    ] = None,
    json: Json = False,
    data_dir: DataDir = None,
) -> None:
    """Switch the registry on. It stays on over restarts."""
    with daemon_session(json, data_dir) as (client, output):
        info = client.post("/registry", {"on": True, "new_secret": new_secret, "push": push, "models": models})
        if output.json:
            output.done("", info)
            return
        _show(info, output)
        if info["listening"]:
            output.line("`ollaswarm registry show --entries` has the line for each adapter of your rooms.")
            output.line(VISIBLE)


@app.command()
def off(json: Json = False, data_dir: DataDir = None) -> None:
    """Switch the registry off. What was pulled stays in Ollama."""
    with daemon_session(json, data_dir) as (client, output):
        info = client.post("/registry", {"on": False})
        output.done("The registry is off.", info)


def _show(info: dict[str, Any], output: Output) -> None:
    if not info["on"]:
        output.line("The registry is off. `ollaswarm registry on` lets `ollama pull` fetch from your rooms.")
        return
    if not info["listening"]:
        output.line(f"The registry is switched on, but does not listen. {info['cause']}")
        output.line("Free the port, or choose another with the setting registry_port; it is tried again until then.")
        return
    output.line(f"The registry is on at {info['address']}.\n")
    output.line(f"  secret  {info['secret']}")
    output.line(f"  pull    ollama pull --insecure {info['prefix']}ROOM.NAME")
    if info["push"]:
        output.line(f"  push    ollama cp NAME {info['prefix']}ROOM.NAME")
        output.line(f"          ollama push --insecure {info['prefix']}ROOM.NAME")
    output.line("")
