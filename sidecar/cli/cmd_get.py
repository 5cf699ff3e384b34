"""`ollaswarm get` and `uninstall`: from a room into Ollama, and out of it again."""

from typing import Annotated, Any

import typer

from sidecar.cli.client import ApiClient, RemoteFailure
from sidecar.cli.output import Output, TransferDisplay, human_bytes, human_seconds
from sidecar.cli.session import DataDir, Json, Yes, agreed, can_ask, daemon_session
from sidecar.errors import ConsentNeeded


def get(
    ref: Annotated[
        str, typer.Argument(metavar="REF", help="Name, publisher/name, or unique prefix of an entry digest.")
    ],
    as_name: Annotated[
        str | None, typer.Option("--as", metavar="NAME", help="Name of the new model in Ollama.")
    ] = None,
    no_install: Annotated[bool, typer.Option("--no-install", help="Fetch and verify only.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a model of that name.")] = False,
    base: Annotated[
        str | None, typer.Option("--base", metavar="MODEL", help="Your base model, for a file of an Orch-Mind user.")
    ] = None,
    yes: Yes = False,
    json: Json = False,
    data_dir: DataDir = None,
) -> None:
    """Fetch an adapter or a model, verify it, and make it a model in Ollama."""
    with daemon_session(json, data_dir) as (client, output):
        suggested = None if no_install else _accepted_suggestions(client, ref, yes, output)
        request = {"ref": suggested or ref, "as_name": as_name, "install": not no_install, "force": force, "base": base}
        started = _start(client, request | {"accept_suggestions": suggested is not None}, yes, output)
        final = _follow(client, started, output)
        if final["error"]:
            error = final["error"]
            raise RemoteFailure(error["code"], error["cause"], error["next"])
        for text in final["result"]["warnings"] if not json else ():
            output.note(f"Warning: {text}")
        output.done(_success(final), final["result"])


def _start(client: ApiClient, request: dict[str, Any], yes: bool, output: Output) -> Any:
    """Begin; what nobody signed only after the user agreed. In a pipe the answer is no."""
    try:
        return client.post("/transfers", request)
    except RemoteFailure as failure:
        if failure.code != ConsentNeeded.code or not (yes or can_ask(output)):
            raise
        output.note(failure.cause)
        if not agreed("Fetch it?", yes=yes, output=output):
            raise
        return client.post("/transfers", request | {"accept_unsigned": True})


def _accepted_suggestions(client: ApiClient, ref: str, yes: bool, output: Output) -> str | None:
    """Show what the publisher would add to base and adapter, and ask (T4). In a pipe the answer is no.

    Returns:
        If the user agreed: the entry this was about, so that no newer one takes its place now.
    """
    found = client.post("/suggestions", {"ref": ref})
    for each in found:
        if each["field"] == "license":
            _show("Its licence begins:" if "\n" in each["suggested"] else "Its licence:", [each], output)
    settings = [each for each in found if each["field"] != "license"]
    if not settings:
        return None
    if settings[0]["required"]:
        _show("The model brings settings of its own:", settings, output)
        accepted = agreed("Install it with them?", yes=yes, output=output)
        output.line("Agreed." if accepted else "Not agreed, so it is not installed; --yes agrees.")
        return _entry_of(settings, ref) if accepted else None
    _show("The publisher suggests settings for the model:", settings, output)
    accepted = agreed("Apply them?", yes=yes, output=output)
    output.line("They are applied." if accepted else "They are not applied; --yes would.")
    return _entry_of(settings, ref) if accepted else None


def _entry_of(settings: list[dict[str, Any]], ref: str) -> str:
    return settings[0]["entry"] or ref


def _show(title: str, suggestions: list[dict[str, Any]], output: Output) -> None:
    output.line(title)
    for suggestion in suggestions:
        output.line(f"  {suggestion['field']}")
        for sign, text in (("-", suggestion["current"]), ("+", suggestion["suggested"])):
            for line in text.splitlines():
                output.line(f"    {sign} {line}")


def _follow(client: ApiClient, started: dict[str, Any], output: Output) -> dict[str, Any]:
    display = TransferDisplay(output)
    state = started
    try:
        for state in client.follow_transfer(started["id"]):
            display.show(state)
    except KeyboardInterrupt:
        display.close()
        output.note(
            f"The transfer goes on in the daemon. `ollaswarm transfers` shows it, `--cancel {started['id']}` there stops it."
        )
        raise typer.Exit(1) from None
    finally:
        display.close()
    return state


def _success(final: dict[str, Any]) -> str:
    result = final["result"]
    size = f"{human_bytes(result['size'])} in {human_seconds(result['seconds'])}"
    if result["installed_as"] is None:
        return f"Fetched and verified {final['name']} ({size}): {result['path']}"
    return (
        f"Installed {result['installed_as']} by {result['route']} ({size}, {result['digest'][:19]}…).\n"
        f"Try it: ollama run {result['installed_as']}"
    )


def uninstall(
    name: Annotated[str, typer.Argument(help="Model that `get` installed.")],
    json: Json = False,
    data_dir: DataDir = None,
) -> None:
    """Remove a model that `get` installed, and nothing else."""
    with daemon_session(json, data_dir) as (client, output):
        removed = client.post("/uninstall", {"name": name})
        text = (
            f"Removed {removed['name']}."
            if removed["removed"]
            else f"Ollama had {removed['name']} no longer; forgotten."
        )
        output.done(text, removed)
