"""Verbs about what is offered: `adapters`, `share`, `unshare`, `verify`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from sidecar.cli.client import ApiClient
from sidecar.cli.output import Output, human_bytes
from sidecar.cli.session import DataDir, Json, daemon_session
from sidecar.errors import NotFound, ShareError

# What may follow a path's name but never a model's: these are looked for on disk even without a separator in front.
FILE_ENDINGS = (".gguf", ".safetensors")
EVERYTHING = "*"
Name = Annotated[list[str], typer.Argument(metavar="NAME", help="Name it was shared under, or '*' to end that rule.")]


def adapters(
    room: Annotated[str | None, typer.Option("--room", help="Only this room's.")] = None,
    fits: Annotated[bool, typer.Option("--fits", help="Only those whose base model is here.")] = False,
    local: Annotated[bool, typer.Option("--local", help="Only those this machine shares.")] = False,
    json: Json = False,
    data_dir: DataDir = None,
) -> None:
    """List the adapters and models that the rooms offer."""
    with daemon_session(json, data_dir) as (client, output):
        found = client.get("/adapters", room=room, fits=fits, local=local)
        columns = {
            "REF": [row["ref"] for row in found],
            "VERSION": [str(row["version"]) for row in found],
            "PUBLISHER": [row["publisher_name"] or row["publisher"][:12] for row in found],
            "SIZE": [human_bytes(row["size"]) for row in found],
            "BASE": [row["base"] for row in found],
            "FITS": [{True: "yes", False: "no"}.get(row["fits"], "?") for row in found],
            "KIND": [f"{row['kind']} {row['parameters']}".strip() for row in found],
            "SOURCES": [str(row["sources"]) for row in found],
            "TRUST": [row["trust"] for row in found],
            "ROOMS": [", ".join(row["rooms"]) for row in found],
            "INSTALLED": [row["installed_as"] or "" for row in found],
        }
        output.rows(found, columns, "Nothing is offered here yet.")
        for row in found if not json else ():
            for text in row["warnings"]:
                output.note(f"Warning: {row['ref']}: {text}")


def share(
    what: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME|PATH|'*'",
            help="Adapter model, adapter GGUF file or PEFT folder; or '*', quoted, for every adapter this Ollama has "
            "now or later, except those installed from a peer.",
        ),
    ],
    room: Annotated[
        str | None, typer.Option("--room", help="Room to offer it to; needed when in more than one.")
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="Name in the room. Else that of the model or file.")
    ] = None,
    base: Annotated[str | None, typer.Option("--base", help="Local base model; needed for a file or folder.")] = None,
    description: Annotated[str, typer.Option("--description", help="One sentence.")] = "",
    license_name: Annotated[str, typer.Option("--license", help="For example apache-2.0.")] = "",
    tag: Annotated[list[str] | None, typer.Option("--tag", help="Can be repeated.")] = None,
    card: Annotated[
        Path | None, typer.Option("--card", exists=True, dir_okay=False, help="Markdown file that tells more.")
    ] = None,
    suggest: Annotated[
        bool, typer.Option("--suggest", help="Offer the model's template, system text and parameters too.")
    ] = False,
    model: Annotated[
        bool,
        typer.Option(
            "--model", "--models", help="Offer a whole model, weights and all. Mind its licence: you pass it on."
        ),
    ] = False,
    json: Json = False,
    data_dir: DataDir = None,
) -> None:
    """Offer an adapter to a room, signed with this machine's key; or with --model a whole model."""
    one = _only_one(what)
    with daemon_session(json, data_dir) as (client, output):
        if one == EVERYTHING:
            if name or base or description or license_name or tag or card or suggest:
                raise ShareError("'*' stands for many adapters; the other options describe one.", "Leave them out.")
            _share_everything(client, output, room or only_room(client), models=model)
            return
        request: dict[str, Any] = {
            "what": share_target(one),
            "room": room or only_room(client),
            "name": name,
            "base": base,
            "description": description,
            "license": license_name,
            "tags": tag or [],
            "card": _card_text(card),
            "suggest": suggest,
            "model": model,
        }
        if model:
            output.note("The model is hashed first, about 10 s for each GB.")
        row = client.post("/shares", request)
        text = f"Shared {row['name']} version {row['version']} ({human_bytes(row['size'])}) with {', '.join(row['rooms'])}."
        if model:
            text += f"\nIts licence: {row['license'] or 'none is in the model'}. Whoever gets it is shown that."
        output.done(text, row)


def _only_one(named: list[str]) -> str:
    """What the argument names. Several are what a shell makes of a bare `*`."""
    if len(named) > 1:
        raise typer.BadParameter(
            f"{len(named)} things are named, one at a time is taken. If you typed *, your shell put the names of files in "
            "its place: quote it, as in '*'."
        )
    return named[0]


def _share_everything(client: ApiClient, output: Output, room: str, *, models: bool) -> None:
    begun = client.post("/shares/all", {"room": room, "on": True, "models": models})
    output.done(
        f"Every adapter {'and every whole model ' if models else ''}of this Ollama is offered to {begun['label']}, those yet to come too. "
        "`ollaswarm unshare '*'` ends that.",
        begun,
    )


def share_target(what: str) -> str:
    """An absolute path if a file is meant, else the model name as it is.

    Raises:
        NotFound: Clearly a path, and nothing is there.
    """
    path = Path(what).expanduser()
    # "team/sql-lora" is a model name; "./team/sql-lora" is a path. A PEFT folder is known by its file.
    looks_like_path = what.startswith((".", "~")) or path.is_absolute() or what.lower().endswith(FILE_ENDINGS)
    if not looks_like_path and not (path / "adapter_config.json").is_file():
        return what
    if not path.exists():
        raise NotFound(f"There is no file or folder {path}.", "Check the path; an adapter model is given by its name.")
    return str(path.resolve())


def _card_text(card: Path | None) -> str | None:
    try:
        return None if card is None else card.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ShareError(f"The card {card} cannot be read: {error}.", "It is a UTF-8 text file.") from None


def only_room(client: ApiClient) -> str:
    """The room that is meant when none is named. Raises ShareError unless there is exactly one."""
    rooms = client.get("/rooms")
    if len(rooms) == 1:
        return str(rooms[0]["id"])
    labels = ", ".join(room["label"] for room in rooms)
    if not rooms:
        raise ShareError("This machine is in no room.", "`ollaswarm room create` or `ollaswarm room join` first.")
    raise ShareError("Which room is meant is not clear.", f"Name one with --room: {labels}.")


def unshare(
    name: Name,
    room: Annotated[str | None, typer.Option("--room", help="Only from this room.")] = None,
    json: Json = False,
    data_dir: DataDir = None,
) -> None:
    """Withdraw an offer. Peers that fetched it keep it."""
    one = _only_one(name)
    with daemon_session(json, data_dir) as (client, output):
        if one == EVERYTHING:
            _unshare_everything(client, output, room)
            return
        rows = client.post("/shares/withdraw", {"name": one, "room": room})
        rooms = sorted({label for row in rows for label in row["rooms"]})
        output.done(f"Withdrew {one} from {', '.join(rooms)}.", {"withdrawn": rows})


def _unshare_everything(client: ApiClient, output: Output, room: str | None) -> None:
    """End the rule where it stands; what was offered stays offered."""
    ruled = [each["id"] for each in client.get("/rooms") if each["share_all"]] if room is None else [room]
    if not ruled:
        raise NotFound("No room is offered every adapter.", "`ollaswarm room list` shows what each room is offered.")
    ended = [client.post("/shares/all", {"room": each, "on": False}) for each in ruled]
    labels = ", ".join(each["label"] for each in ended)
    output.done(
        f"New adapters are not offered to {labels} any more. Those that are stay; `ollaswarm unshare NAME` withdraws one.",
        {"rooms": ended},
    )


def verify(
    path: Annotated[Path, typer.Argument(help="Adapter file on this machine.")],
    json: Json = False,
    data_dir: DataDir = None,
) -> None:
    """Check an adapter file: whole, well formed, and what known entries say of it. Exit code 1 if it is not."""
    with daemon_session(json, data_dir) as (client, output):
        report = client.post("/verify", {"path": str(path.expanduser().absolute())})
        if json:
            output.data(report)
        else:
            output.facts(_report_facts(report))
        if not report["ok"]:
            raise typer.Exit(1)


def _report_facts(report: dict[str, Any]) -> dict[str, str]:
    unknown = "unknown"
    facts = {
        "file": report["path"],
        "digest": report["digest"],
        "size": human_bytes(report["size"]),
        "format": report["format"] or unknown,
        "architecture": report["architecture"] or unknown,
        "rank": str(report["rank"] or unknown),
        "tensors": str(report["tensors"] or unknown),
        "offered as": ", ".join(report["entries"]) or "no known entry",
        "verdict": "good" if report["ok"] else "not good",
    }
    return facts | ({"problems": "; ".join(report["problems"])} if report["problems"] else {})
