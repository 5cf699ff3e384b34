"""`ollaswarm sync add|list|remove|run|rollback`."""

from typing import Annotated, Any

import typer

from sidecar.cli.cmd_adapters import only_room
from sidecar.cli.output import human_bytes
from sidecar.cli.session import PLAIN, DataDir, Json, daemon_session
from sidecar.config import parse_size

app = typer.Typer(help="Rules that fetch and share by themselves.", no_args_is_help=True, **PLAIN)


def _size(text: str) -> int:
    try:
        return parse_size(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


@app.command()
def add(
    room: Annotated[str | None, typer.Option("--room", help="Room; needed when in more than one.")] = None,
    share: Annotated[
        bool,
        typer.Option("--share", help="Offer what appears in this Ollama, instead of installing what appears there."),
    ] = False,
    publisher: Annotated[
        str | None,
        typer.Option("--publisher", metavar="KEY", help="Follow this one. Else every publisher you trust."),
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", metavar="PATTERN", help="Only adapters called so, such as 'sql-*'.")
    ] = None,
    base: Annotated[str | None, typer.Option("--base", metavar="MODEL", help="Only for this local base model.")] = None,
    max_size: Annotated[
        int | None,
        typer.Option("--max-size", parser=_size, metavar="SIZE", help="Only up to this size, such as 200MB."),
    ] = None,
    tag: Annotated[str | None, typer.Option("--tag", help="Only adapters with this tag.")] = None,
    rate: Annotated[int | None, typer.Option("--rate", min=1, help="At most so many installs an hour.")] = None,
    models: Annotated[
        bool,
        typer.Option(
            "--models", help="Whole models too. You agree to the template, system text and parameters they bring."
        ),
    ] = False,
    json: Json = False,
    data_dir: DataDir = None,
) -> None:
    """Add a rule. It holds at once, and for what is yet to come; an adapter is installed only if its base is here."""
    with daemon_session(json, data_dir) as (client, output):
        request: dict[str, Any] = {
            "direction": "share" if share else "fetch",
            "room": room or only_room(client),
            "publisher": publisher,
            "name": name,
            "base": base,
            "max_bytes": max_size,
            "tag": tag,
            "per_hour": rate,
            "models": models,
        }
        rule = client.post("/sync/rules", request)
        output.done(f"Rule {rule['id']}: {_words(rule)}. `ollaswarm sync run --dry-run` says what it does.", rule)


@app.command("list")
def list_rules(json: Json = False, data_dir: DataDir = None) -> None:
    """List the rules."""
    with daemon_session(json, data_dir) as (client, output):
        rules = client.get("/sync/rules")
        columns = {"RULE": [rule["id"] for rule in rules], "MEANS": [_words(rule) for rule in rules]}
        output.rows(rules, columns, "No rules. `ollaswarm sync add` makes one.")


@app.command()
def remove(
    rule: Annotated[str, typer.Argument(help="Id, as `ollaswarm sync list` shows it.")],
    json: Json = False,
    data_dir: DataDir = None,
) -> None:
    """Remove a rule. What it installed or offered stays."""
    with daemon_session(json, data_dir) as (client, output):
        removed = client.post("/sync/rules/remove", {"rule": rule})
        output.done(f"Removed rule {removed['id']}: {_words(removed)}.", removed)


@app.command()
def run(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done, and what it costs.")] = False,
    json: Json = False,
    data_dir: DataDir = None,
) -> None:
    """Do now what the rules say, whatever the schedule. Exit code 1 if something failed."""
    with daemon_session(json, data_dir) as (client, output):
        report = client.post("/sync/run", {"dry_run": dry_run})
        lines = report["lines"]
        if json:
            output.data(report)
        else:
            for line in lines:
                output.line(_sentence(line))
            output.line(_total(report) if lines else "Nothing to do.")
        if any(line["error"] for line in lines):
            raise typer.Exit(1)


@app.command()
def rollback(
    name: Annotated[str, typer.Argument(help="Adapter, or its model as `ollama list` shows it.")],
    to: Annotated[int | None, typer.Option("--to", min=1, metavar="VERSION", help="Else the version before.")] = None,
    json: Json = False,
    data_dir: DataDir = None,
) -> None:
    """Bring back an older version of a followed adapter. The next new version moves on again."""
    with daemon_session(json, data_dir) as (client, output):
        done = client.post("/sync/rollback", {"name": name, "version": to})
        before = "" if done["was"] is None else f" It was at version {done['was']}."
        output.done(f"{done['model']} is version {done['version']} now.{before}", done)


def _words(rule: dict[str, Any]) -> str:
    """What a rule means, in a line."""
    is_share = rule["direction"] == "share"
    parts = [f"offer to {rule['room']} what this Ollama has" if is_share else f"install what {rule['room']} offers"]
    if not is_share:
        parts.append(f"by {rule['publisher'][:12]}" if rule["publisher"] else "by publishers you trust")
    if rule["models"]:
        parts.append("whole models too")
    if rule["name"]:
        parts.append(f"called {rule['name']}")
    if rule["base"]:
        parts.append(f"for {rule['base']}")
    if rule["tag"]:
        parts.append(f"tagged {rule['tag']}")
    if rule["max_bytes"]:
        parts.append(f"up to {human_bytes(rule['max_bytes'])}")
    if rule["per_hour"]:
        parts.append(f"at most {rule['per_hour']} an hour")
    return ", ".join(parts)


def _sentence(line: dict[str, Any]) -> str:
    size, model = human_bytes(line["bytes"]), line["model"]
    heads = {
        "install": f"install {line['what']} as {model}, fetching {size}",
        "name": f"name    {model} -> {line['what']}",
        "share": f"share   {line['what']} with {line['room']}",
        "evict": f"evict   {line['what']}, freeing {size}",
        "wait": f"wait    {line['what']}",
    }
    failed = f" Failed: {line['error']['cause']} Next: {line['error']['next']}" if line["error"] else ""
    return f"{heads[line['action']]}. {line['reason']}{failed}"


def _total(report: dict[str, Any]) -> str:
    would = "would be" if report["dry_run"] else "were"
    used, quota = human_bytes(report["used_bytes"]), human_bytes(report["quota_bytes"])
    return f"{human_bytes(report['fetch_bytes'])} {would} fetched. In use: {used} of {quota}."
